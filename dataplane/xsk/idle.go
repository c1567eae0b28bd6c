package xsk

import (
	"time"

	"golang.org/x/sys/unix"
)

// A Waiter can sleep until there may be work; a [Port] is one.
type Waiter interface {
	Wait(timeout time.Duration) error
}

// An Idle says what a worker does between two cycles, by how much work the last one
// did. The zero value spins: for isolated cores, where nobody else wants the time.
//
// An adaptive one first spins, since the next frame is often near, then yields the
// core to whoever waits for it, then sleeps until a frame is there. It is used by one
// thread.
type Idle struct {
	// Adaptive gives the core up when there is nothing to do.
	Adaptive bool
	// Spins and Yields are the cycles without work before the first yield, and from
	// there to the first sleep. Zero means 100 and 20.
	Spins, Yields int
	// Timeout is the longest sleep. What does not come through the waiter's sockets,
	// as an event from another worker, waits that long. Zero means one millisecond.
	Timeout time.Duration

	empty int // cycles without work, in a row
}

// Rest is called after a cycle that did so much work. Its error is the waiter's; it
// neither blocks nor can fail while there is work, or if it only spins.
func (i *Idle) Rest(work int, w Waiter) error {
	if work > 0 || !i.Adaptive {
		i.empty = 0
		return nil
	}
	spins, yields := orDefault(i.Spins, 100), orDefault(i.Yields, 20)
	if i.empty < spins+yields {
		if i.empty++; i.empty > spins {
			// Not runtime.Gosched: on a locked thread that is two switches of threads.
			_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
		return nil
	}
	timeout := i.Timeout
	if timeout == 0 {
		timeout = time.Millisecond
	}
	return w.Wait(timeout)
}

func orDefault(n, value int) int {
	if n == 0 {
		return value
	}
	return n
}
