package confine

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrUnsupported reports a kernel without what is needed: filters, all threads at once,
// and telling another process (Linux 5.19).
var ErrUnsupported = errors.New("this kernel cannot confine a process")

// Options say how.
type Options struct {
	// Silent has no [Listener]: the kernel refuses by itself, and only its audit log
	// tells. For who has nobody to give the descriptor to.
	Silent bool
}

// Apply confines this process: all its threads and those to come, with no way back. It
// is called when everything that is to be opened is open and every capability has been
// dropped; it sets no_new_privs. GOMAXPROCS must have been set: otherwise Go's runtime
// looks at the CPUs and their limits again every few seconds, which is denied and told.
//
// It returns the descriptor of the [Listener], which is the caller's and belongs into
// another process; -1 if o is silent. The error wraps [ErrUnsupported] if the kernel is
// too old.
func Apply(o Options) (listener int, err error) {
	// The filter starts at the calling thread, which must not be able to gain by exec.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("confine: %w", os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err))
	}
	denial := unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_LOG)
	if !o.Silent {
		denial = unix.SECCOMP_RET_USER_NOTIF
		// Waits are not to be cut short and begun again by the runtime's signals.
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	}
	filter := assemble(rules(unix.Getpid()), denial)
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// reflect gives the address as the number that the call takes.
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, reflect.ValueOf(program).Pointer())
	runtime.KeepAlive(program)
	switch {
	case errno == unix.ENOSYS || errno == unix.EINVAL:
		return -1, fmt.Errorf("confine: %w: %w", ErrUnsupported, os.NewSyscallError("seccomp", errno))
	case errno == unix.ESRCH:
		return -1, fmt.Errorf("confine: a thread of this process has another filter: %w", os.NewSyscallError("seccomp", errno))
	case errno != 0:
		return -1, fmt.Errorf("confine: %w", os.NewSyscallError("seccomp", errno))
	case o.Silent:
		return -1, nil
	}
	return int(fd), nil
}
