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
// [Save] and its like save at once. Who changes several things together puts them
// first ([Put], [Undo.PutEntries]) and then publishes: one ordered store for all.
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
	told  int    // those of them that are published
	batch uint64 // the batch under way
	round uint64 // see Round
	// Entries of many words that were put in this batch, by a hash of their place: hot
	// keys are saved once, not with each event.
	recent [recentMax]recent
}

type recent struct{ record, round uint64 }

const recentMax = 1024

// undoHead is the part of the log that the next process reads first.
type undoHead struct {
	Used  uint64 // words of the log that are whole records
	Batch uint64 // the batch that they belong to
}

// A record is the words that were saved, then one word: where they lie, in words from
// the region's begin, and how many they are. If they were all zero they are left out.
const (
	undoCountBits = 24
	undoZero      = 1 << (undoCountBits - 1)
	undoCountMax  = undoZero - 1
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
	return &Undo{base: unsafe.Pointer(unsafe.SliceData(r.mem)), size: uintptr(len(r.mem)), head: &head[0], log: log, round: 1}, nil
}

// Begin starts the log of batch number batch, which is one more than the last that was
// committed: what the log holds before that is void. Nothing is written until
// something is saved, so that a batch that changes nothing costs nothing.
func (u *Undo) Begin(batch uint64) {
	if u != nil {
		u.n, u.told, u.batch = 0, 0, batch
		u.round++
	}
}

// Round is a number that is another one after each [Undo.Begin], and never 0: who keeps
// it beside a record, outside the region, knows that the record has been saved in this
// batch. 0 if nothing is saved.
func (u *Undo) Round() uint64 {
	if u == nil {
		return 0
	}
	return u.round
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
		zero := word&undoZero != 0
		if !zero && n > at || where+uintptr(n)*8 > u.size {
			return false, fmt.Errorf("arena: undo log: record at word %d is of %d words at byte %d", at, n, where)
		}
		words := unsafe.Slice((*uint64)(unsafe.Add(u.base, where)), n)
		if zero {
			clear(words)
		} else {
			at -= n
			copy(words, u.log[at:at+n])
		}
		fault.Point()
	}
	// Once more from the start if we are killed before this: old values again.
	atomic.StoreUint64(&u.head.Used, 0)
	u.n, u.told = 0, 0
	u.round++
	return true, nil
}

// Room reports whether so many more words fit into the log; they do if nothing is saved.
// What a batch changes has to fit: who can put work off asks before.
func (u *Undo) Room(words int) bool { return u == nil || len(u.log)-u.n >= words }

// Used returns how many words of the log are in use.
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

// Save saves *p, which lies in u's region.
func Save[T any](u *Undo, p *T) {
	if u != nil {
		u.put(unsafe.Pointer(p), unsafe.Sizeof(*p))
		u.Publish()
	}
}

// SaveSlice saves the elements of s, which lies in u's region.
func SaveSlice[T any](u *Undo, s []T) {
	if u != nil && len(s) > 0 {
		u.put(unsafe.Pointer(unsafe.SliceData(s)), uintptr(len(s))*unsafe.Sizeof(s[0]))
		u.Publish()
	}
}

// SaveMax returns how many words of a log it takes at most to save n values of T, that
// lie together, at once.
func SaveMax[T any](n int) int {
	var zero T
	return (n*int(unsafe.Sizeof(zero))+7+7)/8 + 1 // they need not begin with a word
}

// Put is [Save] without [Undo.Publish], before which *p must not change.
func Put[T any](u *Undo, p *T) {
	if u != nil {
		u.put(unsafe.Pointer(p), unsafe.Sizeof(*p))
	}
}

// PutSlice is [SaveSlice] without [Undo.Publish], before which s must not change.
func PutSlice[T any](u *Undo, s []T) {
	if u != nil && len(s) > 0 {
		u.put(unsafe.Pointer(unsafe.SliceData(s)), uintptr(len(s))*unsafe.Sizeof(s[0]))
	}
}

// Publish makes everything that was put part of the log.
func (u *Undo) Publish() {
	if u != nil && u.n != u.told {
		fault.Point()
		u.told = u.n
		atomic.StoreUint64(&u.head.Used, uint64(u.n))
		fault.Point()
	}
}

// PutZeros is [PutSlice] of words that are all zero: it only notes where.
func (u *Undo) PutZeros(s []uint64) {
	if u == nil || len(s) == 0 {
		return
	}
	at, n := u.place(unsafe.Pointer(unsafe.SliceData(s)), uintptr(len(s))*8)
	if u.n == 0 {
		u.first()
	}
	if u.n == len(u.log) {
		panic("arena: the undo log is full")
	}
	u.log[u.n] = uint64(at/8)<<undoCountBits | undoZero | uint64(n)
	u.n++
}

// PutEntries puts mem[at[i]:at[i]+words] for every i. All calls in a batch that name
// one offset of one mem have the same words. An offset beyond mem panics.
func (u *Undo) PutEntries(mem []uint64, at []uint32, words int) {
	if u == nil || len(at) == 0 || words == 0 {
		return
	}
	start, _ := u.place(unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem))*8)
	first := uint64(start/8)<<undoCountBits | uint64(words)
	if words > undoCountMax {
		panic("arena: what is to be saved is not of this region")
	}
	if u.n == 0 {
		u.first()
	}
	log := u.log[u.n:]
	if len(log) < len(at)*(words+1) {
		panic("arena: the undo log is full")
	}
	switch {
	case words == 4:
		u.n += putFour(log, mem, at, first)
	case words <= smallMax:
		u.n += putSmall(log, mem, at, words, first)
	default:
		u.n += u.putLarge(log, mem, at, words, first)
	}
}

// smallMax is the greatest number of words that are copied sooner than it is found out
// whether they have been saved in this batch. Where few keys are hot and many are not
// nobody can predict that.
const smallMax = 8

// putFour is putSmall of four words, a count and a sum: without a loop in the loop.
func putFour(log, mem []uint64, at []uint32, first uint64) (n int) {
	last := ^uint64(0)
	for _, a := range at {
		record := first + uint64(a)<<undoCountBits
		src := (*[4]uint64)(mem[a:]) // keeps its check: a wild offset must stop the program
		dst := (*[5]uint64)(log[n:])
		dst[0], dst[1], dst[2], dst[3] = src[0], src[1], src[2], src[3]
		dst[4] = record
		if record != last { // no branch: it is written, and perhaps overwritten
			n += 5
		}
		last = record
	}
	return n
}

func putSmall(log, mem []uint64, at []uint32, words int, first uint64) (n int) {
	last := ^uint64(0)
	for _, a := range at {
		record := first + uint64(a)<<undoCountBits
		src := mem[a:][:words] // keeps its check
		dst := log[n:][:len(src)+1]
		for i, w := range src { //nolint:staticcheck // S1001: for so few words a call is dearer than a loop
			dst[i] = w
		}
		dst[len(src)] = record
		if record != last {
			n += words + 1
		}
		last = record
	}
	return n
}

func (u *Undo) putLarge(log, mem []uint64, at []uint32, words int, first uint64) (n int) {
	for _, a := range at {
		record := first + uint64(a)<<undoCountBits
		r := &u.recent[record>>undoCountBits*0x9e3779b97f4a7c15>>54]
		if r.record == record && r.round == u.round {
			continue
		}
		*r = recent{record, u.round}
		src := mem[a:][:words] // keeps its check
		dst := log[n:][:words+1]
		copy(dst, src)
		dst[words] = record
		n += words + 1
	}
	return n
}

// place returns which words of the region hold [p, p+bytes): the first one's offset in
// bytes, and how many they are.
func (u *Undo) place(p unsafe.Pointer, bytes uintptr) (at uintptr, n int) {
	at = uintptr(p) - uintptr(u.base) // wraps to beyond size if p lies before the region
	end := (at + bytes + 7) &^ 7
	at &^= 7
	if end > u.size || end < at {
		panic("arena: what is to be saved is not of this region")
	}
	return at, int(end-at) / 8
}

// put adds a record of the words that hold [p, p+bytes).
func (u *Undo) put(p unsafe.Pointer, bytes uintptr) {
	at, n := u.place(p, bytes)
	if n > undoCountMax {
		panic("arena: what is to be saved is not of this region")
	}
	if u.n == 0 {
		u.first()
	}
	log := u.log[u.n:]
	if len(log) <= n {
		panic("arena: the undo log is full")
	}
	old := unsafe.Slice((*uint64)(unsafe.Add(u.base, at)), n)
	if n <= fewWords { // a call is dearer
		for i := range old { //nolint:staticcheck // S1001: a call is what this avoids
			log[i] = old[i]
		}
	} else {
		copy(log, old)
	}
	log[n] = uint64(at/8)<<undoCountBits | uint64(n)
	u.n += n + 1
}

const fewWords = 4
