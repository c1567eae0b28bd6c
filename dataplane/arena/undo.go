package arena

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/headrace/headrace/dataplane/fault"
)

// An Undo is a log of what words of a region held before they were changed, so that
// a start after a crash can take back the batch that was under way. One thread uses
// it: the worker whose region it is.
//
// Whoever changes memory of the region that outlives a batch saves it first. Saving
// twice in a batch is allowed, and costs twice. A nil Undo saves nothing: replay, and
// a data plane that starts cold after a crash.
//
// The process may be killed between any two instructions. What is relied on is that
// memory of a dead process holds the effect of every instruction before the kill and
// of none after it, and that an atomic store is not moved by the compiler.
type Undo struct {
	base  unsafe.Pointer
	size  uintptr
	head  *undoHead
	log   []uint64
	n     int    // words of log in use
	batch uint64 // the batch under way
}

// undoHead is the part of the log that the next process reads first.
type undoHead struct {
	Used  uint64 // words of the log that are whole records
	Batch uint64 // the batch that they belong to
}

// A record is the words that were saved, then one word: where they lie, in words from
// the region's begin, and how many they are.
const (
	undoCountBits = 24
	undoCountMax  = 1<<undoCountBits - 1
)

// NewUndo takes a log of so many words from r. In a warm region it holds what the
// process before this one left: [Undo.Rollback] comes next.
func NewUndo(r *Region, words int) (*Undo, error) {
	head, err := Slice[undoHead](r, "undo log", 1)
	if err != nil {
		return nil, err
	}
	log, err := Slice[uint64](r, "undo log", words)
	if err != nil {
		return nil, err
	}
	return &Undo{base: unsafe.Pointer(unsafe.SliceData(r.mem)), size: uintptr(len(r.mem)), head: &head[0], log: log}, nil
}

// Begin starts the log of batch number batch, which is one more than the last that was
// committed: what the log holds before that is void. Nothing is written until
// something is saved, so that a batch that changes nothing costs nothing.
func (u *Undo) Begin(batch uint64) {
	if u != nil {
		u.n, u.batch = 0, batch
	}
}

// first makes the log the present batch's, before its first record.
func (u *Undo) first() {
	// In this order: with no records the number does not matter.
	atomic.StoreUint64(&u.head.Used, 0)
	fault.Point()
	atomic.StoreUint64(&u.head.Batch, u.batch)
}

// Rollback puts back what the log holds if it belongs to a batch after committed, the
// last batch that was, newest first, and reports whether it did. It is called once, in
// a warm region, before anything else is read there; to be killed in it is harmless.
func (u *Undo) Rollback(committed uint64) (bool, error) {
	used := atomic.LoadUint64(&u.head.Used)
	if used == 0 || u.head.Batch <= committed {
		return false, nil
	}
	if used > uint64(len(u.log)) {
		return false, fmt.Errorf("arena: undo log of %d words says that it holds %d", len(u.log), used)
	}
	for at := int(used); at > 0; {
		at--
		word := u.log[at]
		n, where := int(word&undoCountMax), uintptr(word>>undoCountBits)*8
		if n > at || where+uintptr(n)*8 > u.size {
			return false, fmt.Errorf("arena: undo log: record at word %d is of %d words at byte %d", at, n, where)
		}
		at -= n
		copy(unsafe.Slice((*uint64)(unsafe.Add(u.base, where)), n), u.log[at:at+n])
		fault.Point()
	}
	// Once more from the start if we are killed before this: old values again.
	atomic.StoreUint64(&u.head.Used, 0)
	u.n = 0
	return true, nil
}

// Used returns how many words of the log are in use. What a batch changes has to fit
// in what [Undo.Cap] says: who can put work off asks before.
func (u *Undo) Used() int {
	if u == nil {
		return 0
	}
	return u.n
}

// Cap returns how many words the log has; 0 if nothing is saved.
func (u *Undo) Cap() int {
	if u == nil {
		return 0
	}
	return len(u.log)
}

// Words saves s, which lies in the region.
func (u *Undo) Words(s []uint64) {
	if u != nil && len(s) > 0 {
		u.save(unsafe.Pointer(unsafe.SliceData(s)), uintptr(len(s))*8)
	}
}

// Save saves *p, which lies in u's region.
func Save[T any](u *Undo, p *T) {
	if u != nil {
		u.save(unsafe.Pointer(p), unsafe.Sizeof(*p))
	}
}

// SaveSlice saves the elements of s, which lies in u's region.
func SaveSlice[T any](u *Undo, s []T) {
	if u != nil && len(s) > 0 {
		u.save(unsafe.Pointer(unsafe.SliceData(s)), uintptr(len(s))*unsafe.Sizeof(s[0]))
	}
}

// save saves the words that hold [p, p+bytes).
func (u *Undo) save(p unsafe.Pointer, bytes uintptr) {
	at := uintptr(p) - uintptr(u.base) // wraps to beyond size if p lies before the region
	end := (at + bytes + 7) &^ 7
	at &^= 7
	n := int(end-at) / 8
	if end > u.size || n > undoCountMax {
		panic("arena: what is to be saved is not of this region")
	}
	if u.n == 0 {
		u.first()
	}
	log := u.log[u.n:]
	if len(log) <= n {
		panic("arena: the undo log is full")
	}
	fault.Point()
	old := unsafe.Slice((*uint64)(unsafe.Add(u.base, at)), n)
	copy(log, old)
	log[n] = uint64(at/8)<<undoCountBits | uint64(n)
	u.n += n + 1
	atomic.StoreUint64(&u.head.Used, uint64(u.n))
	fault.Point()
}
