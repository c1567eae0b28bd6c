package notify

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrEnvironment reports variables that no manager would set.
var ErrEnvironment = errors.New("the environment of the service makes no sense")

// first is the number of the first descriptor that a manager passes.
const first = 3

// A Descriptor came from the manager: one that was kept, under the name of
// [Socket.Keep], or a socket, under the name of its unit or its FileDescriptorName=.
type Descriptor struct {
	Name string
	FD   int
}

// Inherited returns the descriptors that the manager passed to this process, in its
// order; they are the caller's. It takes the variables out of the environment: a second
// call returns none, and children do not take them for their own. The error wraps
// [ErrEnvironment].
func Inherited() ([]Descriptor, error) {
	const pidName, countName, namesName, pidfdName = "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"
	pid, count, names := os.Getenv(pidName), os.Getenv(countName), os.Getenv(namesName)
	for _, name := range []string{pidName, countName, namesName, pidfdName} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("notify: %w", err)
		}
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil // none, or a parent's
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1<<20 {
		return nil, fmt.Errorf("notify: %s=%q: %w", countName, count, ErrEnvironment)
	}
	list := make([]Descriptor, 0, n)
	all := strings.Split(names, ":")
	for i := range n {
		d := Descriptor{Name: "unknown", FD: first + i} // what sd_listen_fds_with_names says
		if names != "" {
			if len(all) != n {
				return nil, fmt.Errorf("notify: %d descriptors and %s=%q: %w", n, namesName, names, ErrEnvironment)
			}
			d.Name = all[i]
		}
		if _, err := unix.FcntlInt(uintptr(d.FD), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("notify: descriptor %d of %d: %w: %w", d.FD, n, ErrEnvironment, os.NewSyscallError("fcntl", err))
		}
		list = append(list, d)
	}
	return list, nil
}

// WatchdogEvery returns how often the manager wants to hear that this process lives,
// and 0 if it does not. Whoever is late is killed: speak twice or more in that time.
func WatchdogEvery() (time.Duration, error) {
	text := os.Getenv("WATCHDOG_USEC")
	if pid := os.Getenv("WATCHDOG_PID"); text == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil
	}
	usec, err := strconv.ParseInt(text, 10, 64)
	if err != nil || usec <= 0 || usec > int64(1<<62/time.Microsecond) {
		return 0, fmt.Errorf("notify: WATCHDOG_USEC=%q: %w", text, ErrEnvironment)
	}
	return time.Duration(usec) * time.Microsecond, nil
}
