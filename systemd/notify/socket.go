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

var (
	// ErrAddress reports a NOTIFY_SOCKET that is not one of a local manager.
	ErrAddress = errors.New("not the address of a local service manager: an absolute path, or @ and a name")
	// ErrName reports a name that descriptors cannot be kept under.
	ErrName = errors.New("a name of kept descriptors is 1 to 255 printable ASCII characters without a colon")
	// ErrStore reports a manager that keeps no descriptors, or not so many.
	ErrStore = errors.New("the service manager does not keep so many descriptors: raise FileDescriptorStoreMax= of the unit")
	// ErrBarrier reports a manager that has not taken in what it was told.
	ErrBarrier = errors.New("the service manager does not answer")
)

const (
	// batch is how many descriptors one message of a unix socket can carry: SCM_MAX_FD in
	// the kernel's net/scm.h.
	batch = 253
	// sendWithin bounds how long a manager that is busy may hold us up.
	sendWithin = 5 * time.Second
	nameMax    = 255
)

// A Socket is the way to the service manager. It is connected once, so that a process
// that may make no sockets any more can still use it. The nil Socket drops what it is
// told. Several goroutines may use one.
type Socket struct {
	fd  int
	max int // descriptors that the manager keeps; -1: it does not say
}

// Open connects to the manager that the environment names, and returns nil if none is
// named there. The error wraps [ErrAddress] if the name is none.
func Open() (*Socket, error) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil, nil
	}
	if address[0] != '/' && address[0] != '@' || len(address) == 1 {
		return nil, fmt.Errorf("notify: NOTIFY_SOCKET %q: %w", address, ErrAddress)
	}
	s := &Socket{max: -1}
	if n, err := strconv.Atoi(os.Getenv("FDSTORE")); err == nil { // systemd says so from 254 on
		s.max = n
	}
	var err error
	if s.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("notify: %w", os.NewSyscallError("socket", err))
	}
	tv := unix.NsecToTimeval(int64(sendWithin))
	if err = os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)); err == nil {
		// The first byte of an abstract name is 0; x/sys makes it of the @.
		err = os.NewSyscallError("connect", unix.Connect(s.fd, &unix.SockaddrUnix{Name: address}))
	}
	if err != nil {
		return nil, fmt.Errorf("notify: %s: %w", address, errors.Join(err, unix.Close(s.fd)))
	}
	return s, nil
}

// Close closes the socket. The manager keeps what it was told.
func (s *Socket) Close() error {
	if s == nil {
		return nil
	}
	return os.NewSyscallError("close", unix.Close(s.fd))
}

// send sends one message.
func (s *Socket) send(text []byte, fds []int) error {
	if s == nil {
		return nil
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(s.fd, text, rights, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("notify: %w", os.NewSyscallError("sendmsg", err))
		}
	}
}

// line keeps a text of ours within its line of the message.
func line(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
}

// Ready says that the service is up, or up again after Reloading, and in a few words
// what it does. Units of Type=notify count as started from here on.
func (s *Socket) Ready(status string) error {
	return s.send([]byte("READY=1\nSTATUS="+line(status)), nil)
}

// Status says in a few words what the service does.
func (s *Socket) Status(status string) error { return s.send([]byte("STATUS="+line(status)), nil) }

// Stopping says that the service is ending.
func (s *Socket) Stopping(status string) error {
	return s.send([]byte("STOPPING=1\nSTATUS="+line(status)), nil)
}

// Reloading says that a change of the config begins; [Socket.Ready] says that it is
// through. Units of Type=notify-reload must say so when they get their signal.
func (s *Socket) Reloading() error {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return fmt.Errorf("notify: %w", os.NewSyscallError("clock_gettime", err))
	}
	return s.send(fmt.Appendf(nil, "RELOADING=1\nMONOTONIC_USEC=%d", ts.Nano()/int64(time.Microsecond)), nil)
}

var alive = []byte("WATCHDOG=1")

// Watchdog says that the service lives. It does not allocate. A service with many
// threads has a [Pulse] say it.
func (s *Socket) Watchdog() error {
	if s == nil {
		return nil
	}
	// Sendmsg of x/sys allocates; there is no name and nothing else to send here.
	if _, err := unix.Write(s.fd, alive); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("notify: %w", os.NewSyscallError("write", err))
	}
	return nil
}

// Keep gives the manager descriptors to hold, duplicates, under one name: the next
// process of the unit finds them by [Inherited], in any order: where that matters each has
// a name of its own. A descriptor that the manager has already is not taken twice.
//
// The manager is told not to look at them: it would drop the socket of an interface
// that is down for a while. Only [Socket.Barrier] says that they have arrived. The
// error wraps [ErrName] or [ErrStore].
func (s *Socket) Keep(name string, fds ...int) error {
	if err := checkName(name); err != nil {
		return err
	}
	if s != nil && s.max >= 0 && len(fds) > s.max {
		return fmt.Errorf("notify: %d descriptors as %s, it keeps %d: %w", len(fds), name, s.max, ErrStore)
	}
	text := []byte("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name)
	for len(fds) > 0 {
		n := min(len(fds), batch)
		if err := s.send(text, fds[:n]); err != nil {
			return err
		}
		fds = fds[n:]
	}
	return nil
}

// Forget has the manager close all descriptors of a name.
func (s *Socket) Forget(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return s.send([]byte("FDSTOREREMOVE=1\nFDNAME="+name), nil)
}

// Room returns how many descriptors the manager keeps for the unit; -1 if it does not
// say, or if there is none.
func (s *Socket) Room() int {
	if s == nil {
		return -1
	}
	return s.max
}

func checkName(name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
	if bad || name == "" || len(name) > nameMax {
		return fmt.Errorf("notify: name %q: %w", name, ErrName)
	}
	return nil
}

// Barrier waits until the manager has taken in everything that it was told before. The
// error wraps [ErrBarrier] if that takes longer than patience.
func (s *Socket) Barrier(patience time.Duration) error {
	if s == nil {
		return nil
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("notify: %w", os.NewSyscallError("pipe2", err))
	}
	defer unix.Close(ends[0]) //nolint:errcheck // nothing was written
	err := s.send([]byte("BARRIER=1"), ends[1:])
	if err = errors.Join(err, unix.Close(ends[1])); err != nil {
		return err
	}
	// The manager closes the other end when it comes to the message.
	for end := time.Now().Add(patience); ; {
		polls := []unix.PollFd{{Fd: int32(ends[0])}}
		n, err := unix.Poll(polls, int(max(time.Until(end), 0)/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("notify: %w", os.NewSyscallError("poll", err))
		case n == 0:
			return fmt.Errorf("notify: within %v: %w", patience, ErrBarrier)
		default:
			return nil
		}
	}
}
