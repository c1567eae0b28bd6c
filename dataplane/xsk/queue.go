package xsk

import (
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/fault"
)

// ErrState reports that what is remembered of a queue does not belong to its sockets,
// so that nobody knows where its frames are: open the sockets anew.
var ErrState = errors.New("the queue's memory is not of these sockets")

// A queueState is what has to be remembered of a queue's frames beside what its rings
// say. With raw owners it lies in a region that lives as long as the sockets.
//
// The process that uses it may be killed between any two instructions, and the next
// one must find every frame, each once. So what moves frames is a store of one word,
// everything else follows from the words that there are (refill.go and tx.go say how),
// and [refill.restore] and [refill.join] bring it after.
type queueState struct {
	head *queueHead
	lots []parking // one for every worker that the sizes allow
	free []uint64  // frames for sending: see Tx
}

// queueHead is the part of a queue's state that is not a worker's.
type queueHead struct {
	Cookie   uint64 // the owner's socket
	_        [56]byte
	Journals [2]journal
}

// A journal says what moves with the fill ring's producer when that becomes To.
type journal struct {
	To    uint32
	Lots  uint64 // bit w: Heads[w] is the head of lot w
	Heads [WorkersMax]uint32
}

// newQueueState takes a queue's state from r, or if r is nil from the Go heap.
func newQueueState(r *arena.Region, s Sizes) (queueState, error) {
	workers := s.Workers()
	head, err1 := take[queueHead](r, "queue", 1)
	lots, err2 := take[lotHead](r, "parking lots", workers)
	slots, err3 := take[uint64](r, "parked frames", workers*s.RxRing)
	free, err4 := take[uint64](r, "frames for sending", s.TxRing)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return queueState{}, err
	}
	q := queueState{head: &head[0], free: free}
	for w := range lots {
		q.lots = append(q.lots, parking{&lots[w], slots[w*s.RxRing : (w+1)*s.RxRing]})
	}
	return q, nil
}

func take[T any](r *arena.Region, label string, n int) ([]T, error) {
	if r == nil {
		return make([]T, n), nil
	}
	return arena.Slice[T](r, label, n)
}

// A parking is a worker's lot: frames that left its RX ring and have not come to the
// fill ring. Its positions are those of the RX ring, and a frame's slot is that of its
// entry there:
//
//	[head, tail)  parked
//	[tail, …)     still in the RX ring
//
// So the frames leave the ring and are parked by the same store, that of the ring's
// consumer, which tail repeats for the other workers: they take from head, under the
// queue's lock. Where head is ahead of the consumer, the frames between them went from
// the ring to the fill ring directly, and the consumer had no time to follow.
type parking struct {
	*lotHead
	slots []uint64
}

type lotHead struct {
	Cookie uint64 // the socket whose ring the positions are of; 0: none
	_      [56]byte
	Head   atomic.Uint32
	_      [60]byte
	Tail   atomic.Uint32
	_      [60]byte
}

// held returns how many frames are parked.
func (p *parking) held() uint32 {
	head := p.Head.Load()
	if n := p.Tail.Load() - head; int32(n) > 0 {
		return n
	}
	return 0
}

// restore brings after what the fill ring's producer says was done. Nobody works yet.
func (q *refill) restore() error {
	for i := range q.head.Journals {
		// The other journal is of another position: it was done, or it is void.
		j := &q.head.Journals[i]
		if j.To != q.fill.next {
			continue
		}
		q.turn = 1 - i
		for m := j.Lots; m != 0; m &= m - 1 {
			w := bits.TrailingZeros64(m)
			if w >= len(q.lots) {
				return fmt.Errorf("a journal of lot %d of %d: %w", w, len(q.lots), ErrState)
			}
			q.lots[w].Head.Store(j.Heads[w])
			fault.Point()
		}
	}
	for w := range q.lots {
		lot := &q.lots[w]
		if n := lot.held(); lot.Cookie == 0 || n == 0 {
			continue
		} else if n > uint32(len(lot.slots)) {
			return fmt.Errorf("lot %d holds %d frames of at most %d: %w", w, n, len(lot.slots), ErrState)
		}
		q.parked.Or(1 << w)
	}
	return nil
}

// join makes worker's lot that of RX ring r, of the socket with this cookie. The worker
// does not work yet; others may.
func (q *refill) join(worker int, r *ring, cookie uint64) error {
	if worker >= len(q.lots) {
		return fmt.Errorf("worker %d: the sizes are for %d workers", worker, len(q.lots))
	}
	lot := &q.lots[worker]
	consumer := atomic.LoadUint32(r.consumer)
	if lot.Cookie != cookie {
		return q.begin(lot, consumer, cookie)
	}
	switch n := int32(lot.Head.Load() - consumer); {
	case n > 0:
		consumer += uint32(n)
		r.consume(consumer)
		fault.Point()
	case -int(n) > len(lot.slots):
		return fmt.Errorf("lot %d holds %d frames of at most %d: %w", worker, -n, len(lot.slots), ErrState)
	}
	lot.Tail.Store(consumer)
	fault.Point()
	if lot.held() != 0 {
		q.parked.Or(1 << worker)
	}
	return nil
}

// begin makes lot one of a new socket.
func (q *refill) begin(lot *parking, consumer uint32, cookie uint64) error {
	if lot.Cookie != 0 {
		// What was parked of the socket before goes back now. That the lock or the fill
		// ring is held longer than this is not possible unless the kernel takes nothing.
		var c Counters
		for range 1000 {
			if lot.held() == 0 {
				break
			}
			q.sweep(&c)
		}
		if n := lot.held(); n != 0 {
			return fmt.Errorf("%d frames of the socket before are still parked: try again", n)
		}
	}
	atomic.StoreUint64(&lot.Cookie, 0) // void, until both positions are the new ones
	fault.Point()
	lot.Head.Store(consumer)
	fault.Point()
	lot.Tail.Store(consumer)
	fault.Point()
	atomic.StoreUint64(&lot.Cookie, cookie)
	return nil
}

// cookieOf returns what tells a socket from every other, before and after it.
func cookieOf(fd int) (uint64, error) {
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
}
