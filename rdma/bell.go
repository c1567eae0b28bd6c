package rdma

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Bell wakes a goroutine that waits in the kernel: an eventfd. Ring may be called
// from any goroutine; one goroutine waits for FD to become readable and calls Clear.
type Bell struct {
	fd   int
	rung atomic.Bool
}

// NewBell returns a silent bell.
func NewBell() (*Bell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("rdma: %w", os.NewSyscallError("eventfd", err))
	}
	return &Bell{fd: fd}, nil
}

// Ring wakes the waiter, now or as soon as it waits.
func (b *Bell) Ring() {
	if !b.rung.Swap(true) {
		one := [8]byte{1}
		_, _ = unix.Write(b.fd, one[:]) // EAGAIN: it is readable anyway
	}
}

// Rung reports, without a system call, that the bell has rung since the last Clear.
func (b *Bell) Rung() bool { return b.rung.Load() }

// Clear silences the bell and reports that it had rung.
func (b *Bell) Clear() bool {
	if !b.rung.Load() {
		return false
	}
	var n [8]byte
	_, _ = unix.Read(b.fd, n[:])
	b.rung.Store(false)
	return true
}

// FD is readable while the bell rings.
func (b *Bell) FD() int { return b.fd }

// Close releases the descriptor. Nobody may use the bell any more.
func (b *Bell) Close() error { return unix.Close(b.fd) }
