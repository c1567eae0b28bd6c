package proc

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// dropPrivileges takes every capability from every thread, for good, and makes sure
// that it is so. Threads that come later inherit it. In a binary with cgo, whose C
// threads Go's runtime does not know, psx reaches all threads by a signal.
func dropPrivileges() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		// The bounding set needs CAP_SETPCAP. Without that, no_new_privs and an empty
		// permitted set already leave no way back.
		_, _, _ = psx.Syscall3(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
	}
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", errno)
	}
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); errno != 0 {
		return os.NewSyscallError("prctl PR_CAP_AMBIENT", errno)
	}
	// Empty sets. reflect gives the addresses as the numbers that the call takes.
	header, sets := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &[2]unix.CapUserData{}
	_, _, errno := psx.Syscall3(unix.SYS_CAPSET, reflect.ValueOf(header).Pointer(), reflect.ValueOf(sets).Pointer(), 0)
	runtime.KeepAlive(header)
	runtime.KeepAlive(sets)
	if errno != 0 {
		return os.NewSyscallError("capset", errno)
	}
	return checkPrivileges("/proc/self/task")
}

// noPrivileges are the lines of /proc/PID/task/TID/status of a thread without any.
var noPrivileges = []string{
	"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1",
}

// checkPrivileges returns an error that names the first thread under dir with a
// privilege left.
func checkPrivileges(dir string) error {
	threads, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, t := range threads {
		status, err := os.ReadFile(dir + "/" + t.Name() + "/status")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return err
		}
		for _, want := range noPrivileges {
			if !strings.Contains(string(status), "\n"+want+"\n") {
				field, _, _ := strings.Cut(want, ":")
				return fmt.Errorf("thread %s kept privileges: %s is not as it should be", t.Name(), field)
			}
		}
	}
	return nil
}
