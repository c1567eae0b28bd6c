package recorder

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/xsk"
)

const (
	// BatchMax is how many frames may be put in between two calls of [Ring.Show].
	BatchMax = 64
	// DefaultSnap and DefaultFrames are those of a ring that only records while somebody asks
	// for frames.
	DefaultSnap = 2048
	// DefaultFrames is the other one.
	DefaultFrames = 1024

	wordHead   = 0 // frames that were put in, ever
	wordWanted = 1 // not 0: somebody asks for frames
	wordGaps   = 2 // by feed: the head when its latest gap was found, and when that was

	slotHead = 32 // bytes of a slot before the frame's: what it is
)

// Place says where a ring is in its region's file.
type Place struct {
	// Words and Slots are offsets of its two parts.
	Words, Slots int64
	// Frames is how many slots there are, a power of two; Snap how many bytes each has for a
	// frame.
	Frames, Snap int
	Feeds        int
}

// A Ring is a worker's recorder. One thread uses it.
type Ring struct {
	words  []uint64
	slots  []byte
	place  Place
	next   uint64
	always bool
}

// New takes a ring for so many frames, of which snap bytes each are kept, from r. always
// records whether somebody asks for frames or not.
func New(r *arena.Region, frames, snap, feeds int, always bool) (*Ring, error) {
	frames = 1 << bits.Len(uint(max(frames, 4*BatchMax)-1))
	snap = (snap + 7) &^ 7
	x := &Ring{always: always, place: Place{Frames: frames, Snap: snap, Feeds: feeds}}
	var err error
	if x.words, x.place.Words, err = part[uint64](r, wordGaps+2*feeds); err != nil {
		return nil, err
	}
	if x.slots, x.place.Slots, err = part[byte](r, frames*(slotHead+snap)); err != nil {
		return nil, err
	}
	x.next = x.words[wordHead]
	return x, nil
}

// part takes a slice and says where it is in the region's file.
func part[T any](r *arena.Region, n int) ([]T, int64, error) {
	s, err := arena.Slice[T](r, "recorder", n)
	if err != nil {
		return nil, 0, fmt.Errorf("recorder: %w", err)
	}
	return s, int64(r.Used() - n*sizeOf[T]()), nil
}

func sizeOf[T any]() int {
	var zero T
	return binary.Size(zero)
}

// Place says where the ring is.
func (r *Ring) Place() Place { return r.place }

// Wanted reports whether frames are to be put in.
func (r *Ring) Wanted() bool {
	return r.always || atomic.LoadUint64(&r.words[wordWanted]) != 0
}

// Put puts frames in, at most [BatchMax] of them, and shows them.
func (r *Ring) Put(frames []xsk.Frame) {
	mask, stride := uint64(r.place.Frames-1), uint64(slotHead+r.place.Snap)
	o := binary.LittleEndian
	for i := range frames {
		fr := &frames[i]
		s := r.slots[(r.next&mask)*stride:][:stride]
		ring, _ := fr.Place()
		n := copy(s[slotHead:], fr.Data)
		o.PutUint64(s[0:], r.next)
		o.PutUint64(s[8:], fr.Meta.ReceiveNanos)
		o.PutUint32(s[16:], uint32(len(fr.Data)))
		o.PutUint32(s[20:], uint32(n))
		o.PutUint16(s[24:], fr.Meta.Feed)
		o.PutUint16(s[26:], uint16(ring))
		o.PutUint32(s[28:], uint32(fr.Meta.Flags&steer.FlagNICTime))
		r.next++
	}
	atomic.StoreUint64(&r.words[wordHead], r.next)
}

// Gap notes that a feed lacks something before the frame that was taken up last, which is
// left frames before the last one put in. now is the worker's clock.
func (r *Ring) Gap(feed, left int, now uint64) {
	g := r.words[wordGaps+2*feed:][:2]
	atomic.StoreUint64(&g[0], r.next-min(r.next, uint64(left)))
	atomic.StoreUint64(&g[1], now)
}
