package outbox

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
)

// A Ring is the memory of one outbox: bytes that the worker writes, and the two
// positions, counted in bytes since the outbox began. The length of Bytes is a
// power of two, at least 64.
type Ring struct {
	Bytes    []byte
	Produced *atomic.Uint64 // stored by the worker
	Freed    *atomic.Uint64 // stored by the control plane
}

func (r *Ring) check() {
	if n := len(r.Bytes); n < 64 || n&(n-1) != 0 {
		panic(fmt.Sprintf("outbox: a ring of %d bytes; it must be a power of two of at least 64", n))
	}
}

// A Writer puts records into a ring. What is put is seen by nobody before
// [Writer.Publish]. It belongs to the worker's thread and does not allocate.
type Writer struct {
	ring Ring
	pos  uint64
	free uint64 // Freed when it was last read; it only grows
}

// NewWriter returns a writer that goes on where the ring's producer stopped.
func NewWriter(r Ring) *Writer {
	r.check()
	return &Writer{ring: r, pos: r.Produced.Load(), free: r.Freed.Load()}
}

// Position returns the private position: where the next record goes.
func (w *Writer) Position() uint64 { return w.pos }

// SetPosition moves the private position, to take back what was put since the
// last commit or to take up where another process stopped. It must not be before
// what was published.
func (w *Writer) SetPosition(pos uint64) { w.pos = pos }

// Room reports that a record of n bytes ([RecordBytes]) can be put now.
func (w *Writer) Room(n int) bool { return w.room(w.need(n)) }

// Free returns the bytes of the ring that are not in use. A record at the ring's
// end may need more than its own length.
func (w *Writer) Free() int {
	w.free = w.ring.Freed.Load()
	used := w.pos - w.free
	if used > uint64(len(w.ring.Bytes)) {
		return 0
	}
	return len(w.ring.Bytes) - int(used)
}

// need returns n and the pad before it, if the record does not fit before the end.
func (w *Writer) need(n int) uint64 {
	size := uint64(len(w.ring.Bytes))
	if tail := size - w.pos&(size-1); tail < uint64(n) {
		return tail + uint64(n)
	}
	return uint64(n)
}

func (w *Writer) room(n uint64) bool {
	size := uint64(len(w.ring.Bytes))
	if w.pos-w.free+n <= size && w.pos >= w.free {
		return true
	}
	w.free = w.ring.Freed.Load()
	// A freed position beyond ours is nonsense; it gives no room.
	return w.pos >= w.free && w.pos-w.free+n <= size
}

// Put writes p's record, or returns false and writes nothing if there is no room.
// p.Key has at most event.KeyMax bytes.
func (w *Writer) Put(p *Partial) bool {
	n := RecordBytes(len(p.Key), len(p.State))
	need := w.need(n)
	if !w.room(need) {
		return false
	}
	mask := uint64(len(w.ring.Bytes) - 1)
	if pad := need - uint64(n); pad > 0 {
		word := pad | Version<<32 | uint64(kindPad)<<40
		binary.LittleEndian.PutUint64(w.ring.Bytes[w.pos&mask:], word)
		w.pos += pad
	}
	at := w.pos & mask
	encode(w.ring.Bytes[at:at+uint64(n)], p)
	w.pos += uint64(n)
	return true
}

// Publish makes everything put so far visible: one atomic store.
func (w *Writer) Publish() { w.ring.Produced.Store(w.pos) }

// A Reader takes records out of a ring that it does not trust. The first bad
// record quarantines the outbox: it is reported once, and nothing more is read.
// One goroutine calls Next; Free may be called by another.
type Reader struct {
	ring  Ring
	lim   Limits
	pos   uint64
	limit uint64 // produced, when it was last read
	buf   []byte
	fault *RecordError
	told  bool
}

// NewReader returns a reader that begins at the ring's freed position. lim's
// slices stay the caller's and must not change.
func NewReader(r Ring, lim Limits) *Reader {
	r.check()
	most := 0
	for _, w := range lim.Words {
		most = max(most, w)
	}
	pos := r.Freed.Load()
	return &Reader{ring: r, lim: lim, pos: pos, limit: pos, buf: make([]byte, RecordBytes(64, most))}
}

// Position returns the position after the last record that Next returned.
func (r *Reader) Position() uint64 { return r.pos }

// Seek moves to a position that Position has returned, perhaps in a process
// before. It is an error if the ring cannot hold it any more, or not yet.
func (r *Reader) Seek(pos uint64) error {
	freed, produced := r.ring.Freed.Load(), r.ring.Produced.Load()
	if pos < freed || pos > produced || pos%8 != 0 {
		return fmt.Errorf("outbox: position %d is not between the freed %d and the produced %d", pos, freed, produced)
	}
	r.pos, r.limit = pos, pos
	return nil
}

// Free gives the room before pos back to the writer. pos must not shrink.
func (r *Reader) Free(pos uint64) { r.ring.Freed.Store(pos) }

// Pending returns how many published bytes are unread; 0 once quarantined.
func (r *Reader) Pending() uint64 {
	if r.fault != nil {
		return 0
	}
	return r.ring.Produced.Load() - r.pos
}

// Err returns the fault that quarantined the outbox, or nil.
func (r *Reader) Err() error {
	if r.fault == nil {
		return nil
	}
	return r.fault
}

// Quarantine stops the outbox because its records, though well formed, hold what
// cannot be. It does nothing if there is a fault already.
func (r *Reader) Quarantine(f Fault) {
	if r.fault == nil {
		r.fault, r.told = &RecordError{Fault: f, Position: r.pos}, true
	}
}

// Next copies the next record out of the ring, checks the copy and gives it as p.
// p.Key and p.State are valid until the next call. It returns false if there is
// none. The error, a [*RecordError], comes once; afterwards there is never a record.
func (r *Reader) Next(p *Partial) (bool, error) {
	for r.fault == nil {
		if r.pos == r.limit && !r.refresh() {
			break
		}
		size := uint64(len(r.ring.Bytes))
		at := r.pos & (size - 1)
		room := min(r.limit-r.pos, size-at)
		// The first word is read once: the ring may change while we look at it.
		first := binary.LittleEndian.Uint64(r.ring.Bytes[at:])
		n, f := recordLength(first, room)
		if f != 0 {
			r.fail(f)
			break
		}
		if Kind(first>>40&0xff) == kindPad {
			// Only the end of the ring is padded, or a reader could be sent round for ever.
			if uint64(n) != size-at || first>>32&0xff != Version {
				r.fail(FaultLength)
				break
			}
			r.pos += uint64(n)
			continue
		}
		if n < headerBytes || n > len(r.buf) {
			r.fail(FaultLength)
			break
		}
		copy(r.buf[8:n], r.ring.Bytes[at+8:])
		binary.LittleEndian.PutUint64(r.buf, first)
		if _, f := decode(p, r.buf[:n], &r.lim); f != 0 {
			r.fail(f)
			break
		}
		r.pos += uint64(n)
		return true, nil
	}
	if r.fault != nil && !r.told {
		r.told = true
		return false, r.fault
	}
	return false, nil
}

// refresh reads the producer's position and reports that there is something new.
func (r *Reader) refresh() bool {
	produced := r.ring.Produced.Load()
	if produced == r.pos {
		return false
	}
	if produced-r.pos > uint64(len(r.ring.Bytes)) || produced%8 != 0 {
		r.fail(FaultPosition)
		return false
	}
	r.limit = produced
	return true
}

func (r *Reader) fail(f Fault) { r.fault = &RecordError{Fault: f, Position: r.pos} }
