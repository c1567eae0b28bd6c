package xsk

import (
	"math/bits"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A refill gives a queue's frames back to the kernel. All workers of the queue feed
// its one fill ring, which admits one producer at a time: a try-lock.
//
// Nobody waits for the lock. Who does not get it parks the addresses in a ring of its
// own and says so in a bit; the holder drains what is parked, and looks once more
// after it has let go, so that no address is left behind between the two. It is never
// "the owner's worker refills": a stalled worker would then starve all others.
//
// What has room neither in the fill ring nor in the parking stays in the RX ring. It
// is tried again by the next Release and whenever the worker finds no frames.
type refill struct {
	fill  producerRing // under lock
	chunk uint64       // frame size, a power of two
	fd    int          // the owner's descriptor: the one to wake the driver by
	lots  []parking    // by worker

	_      [64]byte
	lock   atomic.Uint32
	_      [60]byte
	parked atomic.Uint64 // bit w: lots[w] may hold something
	_      [56]byte
}

func newRefill(fill producerRing, chunk, fd, workers int, parkingSize uint32) *refill {
	q := &refill{fill: fill, chunk: uint64(chunk), fd: fd, lots: make([]parking, workers)}
	for w := range q.lots {
		q.lots[w].slots = make([]uint64, parkingSize)
	}
	return q
}

// give moves the released entries of worker's ring r to the fill ring, or parks them,
// and publishes both rings. It leaves in r what has no room.
func (q *refill) give(worker int, r *rxRing, c *Counters) {
	if !q.lock.CompareAndSwap(0, 1) {
		if n := q.lots[worker].park(r, q.chunk); n != 0 {
			c.Parked += uint64(n)
			r.publish() // the addresses are copied: the entries may be overwritten
			q.parked.Or(1 << worker)
		}
		q.sweep(c) // the lock may have been let go before the bit was set
		return
	}
	if n := q.putReleased(r); n != 0 {
		// The RX ring first: a frame must not be in the kernel's hands while the RX
		// ring still lists it.
		r.publish()
	}
	q.drain()
	q.unlock(c)
	q.sweep(c)
}

// sweep drains the parking lots if there is something in them and nobody else is at
// it. It may be called by any worker at any time.
func (q *refill) sweep(c *Counters) {
	for q.parked.Load() != 0 && q.lock.CompareAndSwap(0, 1) {
		full := q.drain()
		q.unlock(c)
		if full {
			return // until the kernel has taken something
		}
	}
}

// unlock publishes the fill ring, lets go of the lock and wakes the driver if it
// asks for that.
func (q *refill) unlock(c *Counters) {
	q.fill.publish()
	wake := q.fill.needsWakeup()
	q.lock.Store(0)
	if wake {
		c.Kicks++
		kickRX(q.fd)
	}
}

// putReleased copies r's released addresses into the fill ring, without publishing
// either, and returns how many. The lock is held.
func (q *refill) putReleased(r *rxRing) uint32 {
	n := r.pending()
	n = min(n, q.fill.room(n))
	for k := range n {
		*q.fill.address(q.fill.next + k) = r.desc(r.published+k).Addr &^ (q.chunk - 1)
	}
	q.fill.next += n
	r.published += n
	return n
}

// drain moves everything parked into the fill ring and reports whether it became
// full before the end. The lock is held.
func (q *refill) drain() (full bool) {
	if q.parked.Load() == 0 {
		return false
	}
	waiting := q.parked.Swap(0)
	for left := waiting; left != 0; left &= left - 1 {
		w := bits.TrailingZeros64(left)
		if !q.lots[w].unpark(&q.fill) {
			q.parked.Or(left) // this lot and those not looked at
			return true
		}
	}
	return false
}

// A parking is a single-producer single-consumer ring of addresses: its worker puts,
// the holder of the refill lock takes.
type parking struct {
	slots []uint64 // a power of two
	_     [40]byte
	head  atomic.Uint32 // next to take
	_     [60]byte
	tail  atomic.Uint32 // next to put
	_     [60]byte
}

// park copies as many of r's released addresses as there is room for, and returns how
// many. It does not publish r.
func (p *parking) park(r *rxRing, chunk uint64) uint32 {
	tail := p.tail.Load()
	n := min(r.pending(), uint32(len(p.slots))-(tail-p.head.Load()))
	mask := uint32(len(p.slots)) - 1
	for k := range n {
		p.slots[(tail+k)&mask] = r.desc(r.published+k).Addr &^ (chunk - 1)
	}
	r.published += n
	p.tail.Store(tail + n)
	return n
}

// unpark moves what is parked to f and reports whether all of it had room.
func (p *parking) unpark(f *producerRing) bool {
	head := p.head.Load()
	held := p.tail.Load() - head
	n := min(held, f.room(held))
	mask := uint32(len(p.slots)) - 1
	for k := range n {
		*f.address(f.next + k) = p.slots[(head+k)&mask]
	}
	f.next += n
	p.head.Store(head + n)
	return n == held
}

// kickRX tells the driver of a zero-copy socket that there are frames to fill. Its
// result does not matter: a driver that is gone shows elsewhere ([Check]).
func kickRX(fd int) {
	_, _, _ = unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
}
