package exchange

import (
	"fmt"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/arena"
)

// Words of a lane's control block, one cache line for each writer.
const (
	tailWord     = 0  // written by the producer: words ever published
	frontierWord = 1  // written by the producer: no record of an earlier position will follow
	holdWord     = 2  // written by the producer: the hold that it has put nothing more in since
	headWord     = 8  // written by the consumer: words ever taken
	controlWords = 16 // two lines
)

// A Lane is a single-producer single-consumer ring of 64-bit words. The producer
// side and the consumer side may be different threads; each side is one thread.
type Lane struct {
	control []uint64
	ring    []uint64
	mask    uint64

	_ [64]byte // what is only read, the producer's and the consumer's share no line

	// Producer's private positions.
	tail     uint64 // written, not yet published
	headSeen uint64

	_ [64]byte

	// Consumer's private positions.
	head     uint64 // taken, not yet given back
	tailSeen uint64

	_ [64]byte
}

// NewLane takes a lane of at least words words, rounded up to a power of two, from r. In a
// warm region it holds what was published; who uses an end of it says first where that
// end stands ([Out.Resume], [Inbox.Resume]).
func NewLane(r *arena.Region, words int) (*Lane, error) {
	n := 1
	for n < words {
		n *= 2
	}
	control, err := arena.Slice[uint64](r, "lane positions", controlWords)
	if err != nil {
		return nil, fmt.Errorf("exchange: %w", err)
	}
	ring, err := arena.Slice[uint64](r, "lanes", n)
	if err != nil {
		return nil, fmt.Errorf("exchange: %w", err)
	}
	return &Lane{control: control, ring: ring, mask: uint64(n - 1)}, nil
}

// Room reports whether n words can be put. Producer only.
func (l *Lane) Room(n int) bool {
	if l.tail+uint64(n)-l.headSeen <= uint64(len(l.ring)) {
		return true
	}
	l.headSeen = atomic.LoadUint64(&l.control[headWord])
	return l.tail+uint64(n)-l.headSeen <= uint64(len(l.ring))
}

// Put writes one word behind the last. The caller has asked for room. Producer only.
func (l *Lane) Put(v uint64) {
	l.ring[l.tail&l.mask] = v
	l.tail++
}

// Publish makes everything put so far visible, and says that nothing of a position
// before frontier will follow. Producer only.
func (l *Lane) Publish(frontier uint64) {
	if atomic.LoadUint64(&l.control[tailWord]) != l.tail {
		atomic.StoreUint64(&l.control[tailWord], l.tail)
	}
	if atomic.LoadUint64(&l.control[frontierWord]) != frontier {
		atomic.StoreUint64(&l.control[frontierWord], frontier) // after the tail: who sees it sees the records
	}
}

// Written returns the producer's position, in words: what commit records.
func (l *Lane) Written() uint64 { return l.tail }

// Taken returns the consumer's position, in words: what commit records.
func (l *Lane) Taken() uint64 { return l.head }

// hold says that nothing was put since number, a hold, and nothing will be until the
// next. Producer only, after Publish.
func (l *Lane) hold(number uint64) {
	if atomic.LoadUint64(&l.control[holdWord]) != number {
		atomic.StoreUint64(&l.control[holdWord], number)
	}
}

// held reports that the producer has said so, and that the lane is empty. Consumer only.
func (l *Lane) held(number uint64) bool {
	if atomic.LoadUint64(&l.control[holdWord]) != number { // before the tail
		return false
	}
	ok, _ := l.available()
	return !ok
}

// available reports whether a record can be read, and the frontier that held
// before it looked. Consumer only.
func (l *Lane) available() (bool, uint64) {
	if l.head < l.tailSeen {
		return true, 0
	}
	frontier := atomic.LoadUint64(&l.control[frontierWord]) // before the tail
	l.tailSeen = atomic.LoadUint64(&l.control[tailWord])
	return l.head < l.tailSeen, frontier
}

func (l *Lane) word(i uint64) uint64 { return l.ring[(l.head+i)&l.mask] }

// release gives the words taken so far back to the producer. Consumer only.
func (l *Lane) release() {
	if atomic.LoadUint64(&l.control[headWord]) != l.head {
		atomic.StoreUint64(&l.control[headWord], l.head)
	}
}
