package xsk

import (
	"math/bits"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/fault"
)

// A refill gives a queue's frames back to the kernel. All workers of the queue feed
// its one fill ring, which admits one producer at a time: a try-lock.
//
// Nobody waits for the lock. Who does not get it parks the addresses in a lot of its
// own and says so in a bit; the holder drains what is parked, and looks once more
// after it has let go, so that no address is left behind between the two. It is never
// "the owner's worker refills": a stalled worker would then starve all others.
//
// What has room neither in the fill ring nor in the parking stays in the RX ring. It
// is tried again by the next Release and whenever the worker finds no frames.
//
// The holder may be killed with some of it done. It writes the addresses behind the
// fill ring's producer, where the kernel does not look, then a journal of where the
// lots' heads will be. The store of the producer hands the frames over, and makes the
// journal hold: its To is the producer. There are two journals, used in turn, so that
// the one that holds is whole while the next is written. Heads and RX consumers follow,
// and can follow in the next process.
type refill struct {
	queueState
	fill  producerRing // under lock
	turn  int          // the journal to write next; under lock
	chunk uint64       // frame size, a power of two
	fd    int          // the owner's descriptor: the one to wake the driver by

	// The workers of one process agree by these, so that they need not outlive it.
	_      [64]byte
	lock   atomic.Uint32
	_      [60]byte
	parked atomic.Uint64 // bit w: lots[w] may hold something
	_      [56]byte
}

func newRefill(state queueState, fill producerRing, chunk, fd int) *refill {
	return &refill{queueState: state, fill: fill, chunk: uint64(chunk), fd: fd}
}

// give moves the released entries of worker's ring r to the fill ring, or parks them.
// It leaves in r what has no room.
func (q *refill) give(worker int, r *rxRing, c *Counters) {
	if !q.lock.CompareAndSwap(0, 1) {
		if n := q.park(&q.lots[worker], r); n != 0 {
			c.Parked += uint64(n)
			q.parked.Or(1 << worker)
		}
		q.sweep(c) // the lock may have been let go before the bit was set
		return
	}
	q.move(worker, r)
	q.unlock(c)
	q.sweep(c)
}

// sweep drains the parking lots if there is something in them and nobody else is at
// it. It may be called by any worker at any time.
func (q *refill) sweep(c *Counters) {
	for q.parked.Load() != 0 && q.lock.CompareAndSwap(0, 1) {
		full := q.move(-1, nil)
		q.unlock(c)
		if full {
			return // until the kernel has taken something
		}
	}
}

// unlock lets go of the lock and wakes the driver if it asks for that.
func (q *refill) unlock(c *Counters) {
	wake := q.fill.needsWakeup()
	q.lock.Store(0)
	if wake {
		c.Kicks++
		kickRX(q.fd)
	}
}

// move hands the kernel the released entries of worker's ring r, if there is one, and
// what is parked. It reports whether the fill ring became full before the end of what
// is parked. The lock is held.
func (q *refill) move(worker int, r *rxRing) (full bool) {
	j := &q.head.Journals[q.turn]
	var waiting, moved, left uint64
	if q.parked.Load() != 0 {
		waiting = q.parked.Swap(0)
	}
	if r != nil {
		// First what the worker parked before: a lot's frames are those before tail.
		lot := &q.lots[worker]
		head := lot.Head.Load()
		to := q.unpark(lot, head)
		if to == r.published {
			to = q.direct(r)
		}
		if to != head {
			j.Heads[worker] = to
			moved |= 1 << worker
		}
		left = stays(lot, to) << worker
		waiting &^= 1 << worker
	}
	for ; waiting != 0; waiting &= waiting - 1 {
		w := bits.TrailingZeros64(waiting)
		lot := &q.lots[w]
		head := lot.Head.Load()
		to := q.unpark(lot, head)
		if to != head {
			j.Heads[w] = to
			moved |= 1 << w
		}
		left |= stays(lot, to) << w
	}
	if left != 0 {
		q.parked.Or(left)
	}
	if moved != 0 {
		q.commit(j, moved)
	}
	if r != nil {
		q.follow(&q.lots[worker], r)
	}
	return left != 0
}

// stays returns 1 if something is parked after head has moved to where it will be.
func stays(lot *parking, head uint32) uint64 {
	if int32(lot.Tail.Load()-head) > 0 {
		return 1
	}
	return 0
}

// commit hands what was put to the kernel and moves the heads of the lots in moved.
func (q *refill) commit(j *journal, moved uint64) {
	fault.Point()
	j.Lots = moved
	fault.Point()
	j.To = q.fill.next
	fault.Point()
	q.fill.publish() // from here on it was done
	q.turn ^= 1
	for ; moved != 0; moved &= moved - 1 {
		fault.Point()
		w := bits.TrailingZeros64(moved)
		q.lots[w].Head.Store(j.Heads[w])
	}
	fault.Point()
}

// follow lets the RX ring's consumer and the lot's tail follow a head that went past
// them.
func (q *refill) follow(lot *parking, r *rxRing) {
	head := lot.Head.Load()
	if int32(head-r.published) <= 0 {
		return
	}
	r.published = head
	r.publish()
	fault.Point()
	lot.Tail.Store(head)
	fault.Point()
}

// direct puts r's released addresses behind the fill ring's producer and returns the
// position up to which there was room for them. The lock is held.
func (q *refill) direct(r *rxRing) uint32 {
	n := r.pending()
	n = min(n, q.fill.room(n))
	for k := range n {
		*q.fill.address(q.fill.next + k) = r.desc(r.published+k).Addr &^ (q.chunk - 1)
	}
	q.fill.next += n
	return r.published + n
}

// unpark puts what lies in a lot from head behind the fill ring's producer, and returns
// the position up to which there was room for it. The lock is held.
func (q *refill) unpark(lot *parking, head uint32) uint32 {
	held := lot.held()
	if held == 0 {
		return head
	}
	n := min(held, q.fill.room(held))
	mask := uint32(len(lot.slots)) - 1
	for k := range n {
		*q.fill.address(q.fill.next + k) = lot.slots[(head+k)&mask]
	}
	q.fill.next += n
	return head + n
}

// park copies as many of r's released addresses as there is room for into its worker's
// lot, takes them out of the ring and returns how many.
func (q *refill) park(lot *parking, r *rxRing) uint32 {
	n := min(r.pending(), uint32(len(lot.slots))-(r.published-lot.Head.Load()))
	if n == 0 {
		return 0
	}
	mask := uint32(len(lot.slots)) - 1
	for k := range n {
		lot.slots[(r.published+k)&mask] = r.desc(r.published+k).Addr &^ (q.chunk - 1)
	}
	fault.Point()
	r.published += n
	r.publish() // from here on they are parked
	fault.Point()
	lot.Tail.Store(r.published)
	fault.Point()
	return n
}

// kickRX tells the driver of a zero-copy socket that there are frames to fill. Its
// result does not matter: a driver that is gone shows elsewhere ([Check]).
func kickRX(fd int) {
	_, _, _ = unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
}
