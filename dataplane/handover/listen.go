package handover

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The files of a run's folder, which only its user may enter.
const (
	ControlLock = "control.lock" // held by the control process that lives
	DataLock    = "data.lock"    // shared by the data planes that live: in a handover two
	socketName  = "adopt.sock"   // there while a data plane has no control
)

// ErrStranger reports a connection from another user.
var ErrStranger = errors.New("the other process belongs to another user")

// Bind makes the socket by which a data plane can be found in dir, at which it does not
// listen yet: [Listen] needs no more than its descriptor.
func Bind(dir string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("handover: %w", os.NewSyscallError("socket", err))
	}
	path := filepath.Join(dir, socketName)
	_ = os.Remove(path) // of the data plane before this one
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return -1, errors.Join(fmt.Errorf("handover: %s: %w", path, os.NewSyscallError("bind", err)), unix.Close(fd))
	}
	return fd, nil
}

// Listen begins to listen at what [Bind] made.
func Listen(fd int) error {
	if err := unix.Listen(fd, 4); err != nil {
		return fmt.Errorf("handover: %w", os.NewSyscallError("listen", err))
	}
	return nil
}

// Accept takes a connection of the same user from a listening descriptor. The error
// wraps EAGAIN if there is none, [ErrStranger] if it was somebody else's.
func Accept(listener int) (*Conn, error) {
	c, err := Admit(listener)
	if err != nil {
		return nil, err
	}
	if _, err := c.peer(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Admit takes a connection from a descriptor at which a service manager listens. Whose it
// may be says the socket's mode: the two processes have users of their own, and the data
// plane's may see no others. The error wraps EAGAIN if there is none.
func Admit(listener int) (*Conn, error) {
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("handover: %w", os.NewSyscallError("accept4", err))
	}
	return New(fd), nil
}

// Dial connects to the data plane that waits in dir. The error wraps ENOENT or
// ECONNREFUSED if none does.
func Dial(dir string) (*Conn, error) {
	c, err := Reach(filepath.Join(dir, socketName))
	if err != nil {
		return nil, err
	}
	if _, err := c.peer(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Reach connects to a socket at which a service manager listens for the data plane, which
// may be another user's. What is said to one that has not been started yet waits.
func Reach(path string) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("handover: %w", os.NewSyscallError("socket", err))
	}
	c := New(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, errors.Join(fmt.Errorf("handover: %s: %w", path, os.NewSyscallError("connect", err)), c.Close())
	}
	return c, nil
}

// peer returns the process number of the other end, which must be the same user's.
func (c *Conn) peer() (pid int, err error) {
	cred, err := unix.GetsockoptUcred(c.fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, fmt.Errorf("handover: %w", os.NewSyscallError("getsockopt", err))
	}
	if int(cred.Uid) != os.Geteuid() {
		return 0, fmt.Errorf("handover: user %d: %w", cred.Uid, ErrStranger)
	}
	return int(cred.Pid), nil
}

// PeerPID returns the process number of the other end.
func (c *Conn) PeerPID() (int, error) { return c.peer() }
