//go:build faults

package fault

import (
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

// ArmFromEnvironment lets this process kill itself after as many points as [Variable]
// says, if it says so.
func ArmFromEnvironment() {
	if n, err := strconv.ParseInt(os.Getenv(Variable), 10, 64); err == nil && n > 0 {
		Arm(n, func() { _ = unix.Kill(unix.Getpid(), unix.SIGKILL); select {} })
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
