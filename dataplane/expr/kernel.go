package expr

import (
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
)

// A Kernel is a compiled program and the memory that it needs. It allocates
// nothing after [Compile]. One goroutine uses it at a time.
type Kernel struct {
	steps []step
	out   *Vector // nil: the empty program
	in    frame
}

// A step is one loop over a batch.
type step struct {
	run      func(*step, *frame)
	to, a, b *Vector

	column, other int    // of the batch
	constant      int64  // the factor of a scaling; the value of a bool
	text          string // the constant of a text comparison
	word, mask    uint64 // text as the first 8 bytes in memory, if it is that short
	negate        bool   // of a comparison
}

// frame is what the steps of one evaluation share.
type frame struct {
	batch *event.Batch
	n     int        // entries
	all   event.Bits // bits [0, n)
	whole bool       // entry j is event j, so that columns are used in place
	sel   []uint16   // the events, len n, whole or not
}

// everything is the selection of all events of a batch.
var everything = func() (s [event.BatchMax]uint16) {
	for i := range s {
		s[i] = uint16(i)
	}
	return s
}()

// Eval computes the program for the events sel of b; nil stands for all of them.
// sel holds at most BatchMax indices, each below b.N. The vector has len(sel)
// (or b.N) entries. Eval must not be called on the kernel of an empty program.
func (k *Kernel) Eval(b *event.Batch, sel []uint16) *Vector {
	in := &k.in
	in.batch, in.whole = b, sel == nil
	if in.whole {
		sel = everything[:b.N]
	}
	in.sel, in.n = sel, len(sel)
	in.all.Fill(in.n)
	for i := range k.steps {
		s := &k.steps[i]
		s.run(s, in)
	}
	return k.out
}

// Filter appends to dst the indices, ascending, of those events of b for which
// the program is true: not false, not null, not unknown because of an overflow.
// The empty program is true. dst must have room for b.N more elements, or
// Filter allocates.
func (k *Kernel) Filter(b *event.Batch, dst []uint16) []uint16 {
	if k.out == nil {
		return append(dst, everything[:b.N]...)
	}
	truth := &k.Eval(b, nil).True
	for w, word := range truth {
		for ; word != 0; word &= word - 1 {
			dst = append(dst, uint16(w*64+bits.TrailingZeros64(word)))
		}
	}
	return dst
}

// loadNumber makes a column of numbers the vector: in place if all events are
// wanted, else by gathering them.
func loadNumber(s *step, in *frame) {
	col, to := &in.batch.Cols[s.column], s.to
	if in.whole {
		to.Num = col.Num[:in.n]
	} else {
		to.Num = to.num[:in.n]
		gather(to.Num, col.Num, in.sel)
	}
	loadValid(to, col, in)
}

func gather(to, from []int64, sel []uint16) {
	from = from[:event.BatchMax]
	sel = sel[:len(to)]
	for j := range to {
		to[j] = from[uint8(sel[j])] //gcassert:bce
	}
}

// loadValid gathers the validity bits of a column.
func loadValid(to *Vector, col *event.Column, in *frame) {
	if in.whole {
		for w := range to.Valid {
			to.Valid[w] = col.Valid[w] & in.all[w]
		}
		return
	}
	var events event.Bits
	events.Fill(in.batch.N)
	nulls := uint64(0)
	for w := range events {
		nulls |= events[w] &^ col.Valid[w]
	}
	if nulls == 0 {
		to.Valid = in.all
		return
	}
	to.Valid = event.Bits{}
	for j, e := range in.sel {
		to.Valid[uint8(j)/64] |= flag(col.Valid.Has(int(uint8(e))), j)
	}
}

// loadText only finds out which values there are: the bytes stay in the batch.
func loadText(s *step, in *frame) { loadValid(s.to, &in.batch.Cols[s.column], in) }

// loadConstant gives a vector that was filled by Compile its length.
func loadConstant(s *step, in *frame) {
	to := s.to
	to.Valid = in.all
	if to.Type == event.Bool {
		to.True = event.Bits{}
		if s.constant != 0 {
			to.True = in.all
		}
		return
	}
	if to.num != nil {
		to.Num = to.num[:in.n]
	}
	if to.Wide {
		to.Hi = to.hi[:in.n]
	}
}

// Type returns the type of the program's values; zero for the empty program.
func (k *Kernel) Type() event.Type {
	if k.out == nil {
		return 0
	}
	return k.out.Type
}

// Wide reports that the program's values are 128-bit integers: see [Vector.Wide].
func (k *Kernel) Wide() bool { return k.out != nil && k.out.Wide }
