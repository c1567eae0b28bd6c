package xsk

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/steer"
)

// Meta is copied out of UMEM as it lies there.
var _ [steer.MetaSize]byte = [unsafe.Sizeof(steer.Meta{})]byte{}

// An rxRing is one worker's RX ring of one queue. Its positions follow each other,
// published ≤ released ≤ whole ≤ next ≤ seen, all running freely:
//
//	[published, released)  given back by the worker, not yet taken by the fill ring
//	[released, whole)      in the worker's hands
//	[whole, next)          the begin of a packet of several entries
//	[next, seen)           known to be there
//
// An entry stays in the ring, where its address can be read again, until it is
// published. So nothing of a batch is seen by the kernel before its Release, and a
// frame that the fill ring has no room for waits here.
type rxRing struct {
	ring
	queue *refill
	umem  unsafe.Pointer
	limit uint64 // UMEM's length in bytes
	place uint64 // of a frame at position 0, as in Frame.Packet

	published, released, whole, next, seen uint32

	// versions is the or of all that fetch has read: it keeps the reads from being
	// optimized away.
	versions uint16
	// contd says that the entry before next announced another of the same packet.
	contd bool
}

func newRXRing(r ring, index int, umem []byte, q *refill) rxRing {
	consumer := atomic.LoadUint32(r.consumer)
	return rxRing{
		ring: r, queue: q, umem: unsafe.Pointer(unsafe.SliceData(umem)), limit: uint64(len(umem)), place: uint64(index) << 32,
		published: consumer, released: consumer, whole: consumer, next: consumer, seen: atomic.LoadUint32(r.producer),
	}
}

// resume goes on at a position up to which everything was done. What of that lies in
// the ring is released.
func (r *rxRing) resume(position uint32) error {
	if there := r.seen - r.published; position-r.published > there {
		return fmt.Errorf("go on at position %d of a ring that holds %d to %d: %w", position, r.published, r.seen, ErrState)
	}
	r.released, r.whole, r.next = position, position, position
	return nil
}

// take moves next past at most len(frames) entries and puts the good frames among
// them into frames. It returns how many entries and how many frames. The others are
// counted in c.
func (r *rxRing) take(frames []Frame, c *Counters) (entries, kept int) {
	if want := uint32(len(frames)); r.seen-r.next < want {
		r.seen = atomic.LoadUint32(r.producer)
	}
	count := min(r.seen-r.next, uint32(len(frames)))
	if count == 0 {
		return 0, 0
	}
	r.versions |= fetch(r.entries, r.umem, r.next, count, r.mask, r.limit)
	entriesAt, mask, umem, limit, place := r.entries, r.mask, r.umem, r.limit, r.place
	for i := r.next; i != r.next+count; i++ {
		d := descAt(entriesAt, i&mask)
		if d.Options&unix.XDP_PKT_CONTD != 0 || r.contd {
			if !r.contd {
				r.whole = i
			}
			r.fragment(d.Options, c)
			continue
		}
		address, length := d.Addr, uint64(d.Len)
		if address < steer.MetaSize || address > limit || length > limit-address {
			c.BadDescriptor++
			continue
		}
		f := &frames[kept]
		f.Meta = *(*steer.Meta)(unsafe.Add(umem, address-steer.MetaSize))
		if !sound(&f.Meta, length) {
			c.BadMeta++
			continue
		}
		f.Data = unsafe.Slice((*byte)(unsafe.Add(umem, address)), int(length))
		f.Packet = place | uint64(i)
		kept++
	}
	r.next += count
	if !r.contd || r.next-r.whole > r.mask { // a packet as large as the ring has no end
		r.whole = r.next
	}
	c.Received += uint64(kept)
	return int(count), kept
}

// recount takes what take counted from a position on, where a packet begins, off c.
func (r *rxRing) recount(from uint32, c *Counters) {
	again := *r // a copy, that takes once more
	again.next, again.whole, again.seen, again.contd = from, from, r.next, false
	var frame [1]Frame
	var counted Counters
	for again.next != r.next {
		again.take(frame[:], &counted)
	}
	c.Received -= counted.Received
	c.BadDescriptor -= counted.BadDescriptor
	c.BadMeta -= counted.BadMeta
	c.MultiBuffer -= counted.MultiBuffer
}

// fetch reads a little of the metadata of n entries from the i-th, and returns the or
// of it so that the reads are not left out. Each misses the cache, since the kernel
// wrote there on another core. Here so little stands between them that a processor has
// some twenty under way at once; in take's loop it sees only a few frames ahead.
//
//go:noinline // on its own it needs no stack: inlined, its variables are spilled
func fetch(entries, umem unsafe.Pointer, i, n, mask uint32, limit uint64) (seen uint16) {
	limit -= steer.MetaSize
	for ; n != 0; n-- {
		if at := descAt(entries, i&mask).Addr - steer.MetaSize; at <= limit {
			seen |= *(*uint16)(unsafe.Add(umem, at+metaVersionOffset))
		}
		i++
	}
	return seen
}

const metaVersionOffset = uint64(unsafe.Offsetof(steer.Meta{}.Version))

// fragment counts a packet of several entries once, at its last.
func (r *rxRing) fragment(options uint32, c *Counters) {
	r.contd = options&unix.XDP_PKT_CONTD != 0
	if !r.contd {
		c.MultiBuffer++
	}
}

// sound reports whether m can have been written for a frame of this length. The
// group is checked since the worker indexes with it.
func sound(m *steer.Meta, length uint64) bool {
	return m.Version == steer.MetaVersion &&
		uint64(m.PayloadOffset)+uint64(m.PayloadLength) <= length &&
		int(m.Group) == event.Group(m.Hash)
}

// pending returns how many entries were released and not yet published.
func (r *rxRing) pending() uint32 { return r.released - r.published }

// publish tells the kernel that the entries before published are free.
func (r *rxRing) publish() { r.consume(r.published) }
