//go:build faults

package fault

import (
	"bytes"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// On says that this binary has points.
const On = true

// Variable is the environment variable that says after how many points the process
// kills itself.
const Variable = "HEADRACE_KILL_AFTER"

// PoisonVariable is the environment variable that says what a packet carries which is
// not borne: "panic:" or "wild:", for an access to memory that is not there, and some
// bytes in hexadecimal.
const PoisonVariable = "HEADRACE_POISON"

var (
	// nowhere is memory that nobody may touch; nil: it is not wanted.
	nowhere []byte
	venom   []byte       // in hexadecimal in the environment; nil: none
	left    atomic.Int64 // points to pass, 0: none is counted
	strike  atomic.Pointer[func()]
)

// Arm lets the n-th Point from now on call f, once; n 0 disarms.
func Arm(n int64, f func()) {
	strike.Store(&f)
	left.Store(n)
}

// ArmFromEnvironment lets this process kill itself after as many points as [Variable]
// says, if it says so.
func ArmFromEnvironment() {
	what, text, _ := strings.Cut(os.Getenv(PoisonVariable), ":")
	if b, err := hex.DecodeString(text); err == nil && len(b) > 0 {
		if venom = b; what == "wild" {
			nowhere, _ = unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE) // without it there is the panic
		}
	}
	if n, err := strconv.ParseInt(os.Getenv(Variable), 10, 64); err == nil && n > 0 {
		Arm(n, func() {
			_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGKILL) // what a confined process may
			select {}
		})
	}
}

// Left returns how many points are to be passed before the armed one; 0 if none is armed.
func Left() int64 { return left.Load() }

// Point is a place where a test may end the process.
func Point() {
	if left.Load() > 0 && left.Add(-1) == 0 {
		(*strike.Load())()
	}
}

// Poison is where a test may end the process because of what a packet carries.
func Poison(payload []byte) {
	if len(venom) == 0 || !bytes.Contains(payload, venom) {
		return
	}
	if nowhere != nil {
		nowhere[0] = 1
	}
	panic("a packet that a test has poisoned")
}
