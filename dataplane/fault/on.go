//go:build faults

package fault

import (
	"bytes"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// On says that this binary has points.
const On = true

// Variable is the environment variable that says after how many points the process
// kills itself.
const Variable = "HEADRACE_KILL_AFTER"

var (
	left   atomic.Int64 // points to pass, 0: none is counted
	strike atomic.Pointer[func()]
)

// Arm lets the n-th Point from now on call f, once; n 0 disarms.
func Arm(n int64, f func()) {
	strike.Store(&f)
	left.Store(n)
}

// PoisonVariable is the environment variable whose text makes a frame that holds it one
// of which the process dies; empty: there is none.
const PoisonVariable = "HEADRACE_POISON"

var poison = []byte(os.Getenv(PoisonVariable))

// Frame panics if the frame holds what [PoisonVariable] says: a decoder's fault, as it
// would show.
func Frame(data []byte) {
	if len(poison) > 0 && bytes.Contains(data, poison) {
		panic("fault: a frame that holds " + strconv.Quote(string(poison)))
	}
}

// ArmFromEnvironment lets this process kill itself after as many points as [Variable]
// says, if it says so.
func ArmFromEnvironment() {
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
