package rdma

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Bell wakes a goroutine that waits, in the kernel for FD or in the program for C.
// Ring may be called from any goroutine; one goroutine waits and calls Clear.
type Bell struct {
	fd   int
	c    chan struct{}
	rung atomic.Bool
	// mu makes the mark, the descriptor and the channel one. Without it a Clear
	// between two of them would leave FD readable with nothing to clear, and the
	// waiter would spin; and what a Ring is about could be missed.
	mu sync.Mutex
}

// NewBell returns a silent bell.
func NewBell() (*Bell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("rdma: %w", os.NewSyscallError("eventfd", err))
	}
	return &Bell{fd: fd, c: make(chan struct{}, 1)}, nil
}

// Ring wakes the waiter, now or as soon as it waits.
func (b *Bell) Ring() {
	b.mu.Lock()
	if !b.rung.Swap(true) {
		one := [8]byte{1}
		_, _ = unix.Write(b.fd, one[:]) // EAGAIN: it is readable anyway
		select {
		case b.c <- struct{}{}:
		default:
		}
	}
	b.mu.Unlock()
}

// Rung reports, without a system call, that the bell has rung since the last Clear.
func (b *Bell) Rung() bool { return b.rung.Load() }

// Clear silences the bell and reports that it had rung.
func (b *Bell) Clear() bool {
	if !b.rung.Load() {
		return false
	}
	b.mu.Lock()
	var n [8]byte
	_, _ = unix.Read(b.fd, n[:])
	select {
	case <-b.c:
	default:
	}
	b.rung.Store(false)
	b.mu.Unlock()
	return true
}

// FD is readable while the bell rings.
func (b *Bell) FD() int { return b.fd }

// C receives once for each time that the bell begins to ring. A waiter looks at Rung
// first: another may have received.
func (b *Bell) C() <-chan struct{} { return b.c }

// Close releases the descriptor. Nobody may use the bell any more.
func (b *Bell) Close() error { return unix.Close(b.fd) }
