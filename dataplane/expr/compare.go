package expr

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
)

// Every comparison is = or <, with its operands in either order and its result
// negated or not. The loops set truth[w]; known gives the result its validity.

// known makes truth the result of a comparison that is unknown in the entries
// that are not values.
func (s *step) known(truth *event.Bits) {
	to := s.to
	for w := range truth {
		t := truth[w]
		if s.negate {
			t = ^t
		}
		to.True[w] = t & to.Valid[w]
	}
}

// part returns the entries of s that word w of a bitmap is about.
func part[T any](s []T, w int) []T {
	lo := min(w*64, len(s))
	return s[lo:min(lo+64, len(s))]
}

func eqNarrow(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	a := s.a.Num[:in.n]
	b := s.b.Num[:len(a)]
	var truth event.Bits
	for w := range truth {
		a, b, t := part(a, w), part(b, w), uint64(0)
		b = b[:len(a)]
		for i, x := range a {
			t |= flag(x == b[i], i) //gcassert:bce
		}
		truth[w] = t
	}
	s.known(&truth)
}

func ltNarrow(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	a := s.a.Num[:in.n]
	b := s.b.Num[:len(a)]
	var truth event.Bits
	for w := range truth {
		a, b, t := part(a, w), part(b, w), uint64(0)
		b = b[:len(a)]
		for i, x := range a {
			t |= flag(x < b[i], i) //gcassert:bce
		}
		truth[w] = t
	}
	s.known(&truth)
}

func eqWide(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	a := s.a.Num[:in.n]
	b, ah, bh := s.b.Num[:len(a)], s.a.Hi[:len(a)], s.b.Hi[:len(a)]
	var truth event.Bits
	for i := range a {
		truth[uint8(i)/64] |= flag((a[i]^b[i])|(ah[i]^bh[i]) == 0, i) //gcassert:bce
	}
	s.known(&truth)
}

func ltWide(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	a := s.a.Num[:in.n]
	b, ah, bh := s.b.Num[:len(a)], s.a.Hi[:len(a)], s.b.Hi[:len(a)]
	var truth event.Bits
	for i := range a {
		// Flipping the sign bit makes the signed order the unsigned one.
		_, c := bits.Sub64(uint64(a[i]), uint64(b[i]), 0)
		_, c = bits.Sub64(uint64(ah[i])^1<<63, uint64(bh[i])^1<<63, c)
		truth[uint8(i)/64] |= c << (uint(i) % 64) //gcassert:bce
	}
	s.known(&truth)
}

// finite clears the validity of the entries in which an operand is NaN or infinite.
func (s *step) finite(a, b []int64) {
	const exponent = 0x7ff << 52
	for i := range a {
		if a[i]&exponent == exponent || b[i]&exponent == exponent {
			s.to.Valid.Clear(i)
		}
	}
}

func eqFloat(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	a := s.a.Num[:in.n]
	b := s.b.Num[:len(a)]
	s.finite(a, b)
	var truth event.Bits
	for w := range truth {
		a, b, t := part(a, w), part(b, w), uint64(0)
		b = b[:len(a)]
		for i, x := range a {
			t |= flag(float(x) == float(b[i]), i) //gcassert:bce
		}
		truth[w] = t
	}
	s.known(&truth)
}

func ltFloat(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	a := s.a.Num[:in.n]
	b := s.b.Num[:len(a)]
	s.finite(a, b)
	var truth event.Bits
	for w := range truth {
		a, b, t := part(a, w), part(b, w), uint64(0)
		b = b[:len(a)]
		for i, x := range a {
			t |= flag(float(x) < float(b[i]), i) //gcassert:bce
		}
		truth[w] = t
	}
	s.known(&truth)
}

// eqBool compares two truth values.
func eqBool(s *step, _ *frame) {
	strict(s.to, s.a, s.b)
	var truth event.Bits
	for w := range truth {
		truth[w] = ^(s.a.True[w] ^ s.b.True[w])
	}
	s.known(&truth)
}

// eqTextShort compares a text column with a constant of at most 8 bytes: one
// load and one compare, and no branch on the values but for the last bytes of the heap.
func eqTextShort(s *step, in *frame) {
	s.to.Valid, s.to.Over = s.a.Valid, event.Bits{}
	col := &in.batch.Cols[s.column]
	offs, lens := col.Off[:event.BatchMax], col.Len[:event.BatchMax]
	heap := in.batch.Heap[:cap(in.batch.Heap)]
	n := uint8(len(s.text))
	var truth event.Bits
	for w := range truth {
		t := uint64(0)
		for j, e := range part(in.sel, w) {
			off, length := uint(offs[uint8(e)]), lens[uint8(e)] //gcassert:bce
			var x uint64
			if off+8 <= uint(len(heap)) {
				x = binary.LittleEndian.Uint64(heap[off:]) & s.mask
			} else {
				x = tail(heap, off) & s.mask
			}
			t |= flag(x^s.word|uint64(length^n) == 0, j)
		}
		truth[w] = t
	}
	s.known(&truth)
}

// tail is the little-endian load of the fewer than 8 bytes from off on.
func tail(heap []byte, off uint) (x uint64) {
	for i := uint(len(heap)); i > off; i-- {
		x = x<<8 | uint64(heap[i-1])
	}
	return x
}

// eqText compares a text column with a constant of any length.
func eqText(s *step, in *frame) {
	s.to.Valid, s.to.Over = s.a.Valid, event.Bits{}
	col := &in.batch.Cols[s.column]
	offs, lens := col.Off[:event.BatchMax], col.Len[:event.BatchMax]
	heap := in.batch.Heap
	var truth event.Bits
	for j, e := range in.sel {
		n := uint32(lens[uint8(e)])
		if n != uint32(len(s.text)) {
			continue
		}
		off := offs[uint8(e)]
		truth[uint8(j)/64] |= flag(string(heap[off:off+n]) == s.text, j)
	}
	s.known(&truth)
}

// ltText is column < constant; gtText is constant < column.
func ltText(s *step, in *frame) {
	s.to.Valid, s.to.Over = s.a.Valid, event.Bits{}
	var truth event.Bits
	for j, e := range in.sel {
		truth[uint8(j)/64] |= flag(string(in.batch.TextAt(s.column, int(uint8(e)))) < s.text, j)
	}
	s.known(&truth)
}

func gtText(s *step, in *frame) {
	s.to.Valid, s.to.Over = s.a.Valid, event.Bits{}
	var truth event.Bits
	for j, e := range in.sel {
		truth[uint8(j)/64] |= flag(s.text < string(in.batch.TextAt(s.column, int(uint8(e)))), j)
	}
	s.known(&truth)
}

// eqColumns and ltColumns compare two text columns.
func eqColumns(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	var truth event.Bits
	for j, e := range in.sel {
		x, y := in.batch.TextAt(s.column, int(uint8(e))), in.batch.TextAt(s.other, int(uint8(e)))
		truth[uint8(j)/64] |= flag(bytes.Equal(x, y), j)
	}
	s.known(&truth)
}

func ltColumns(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	var truth event.Bits
	for j, e := range in.sel {
		x, y := in.batch.TextAt(s.column, int(uint8(e))), in.batch.TextAt(s.other, int(uint8(e)))
		truth[uint8(j)/64] |= flag(bytes.Compare(x, y) < 0, j)
	}
	s.known(&truth)
}

// Three-valued logic. What is not known is an overflow if it would be known
// without one; True is never set outside Valid.

func and(s *step, _ *frame) {
	to, a, b := s.to, s.a, s.b
	for w := range to.Valid {
		av, bv, at, bt := a.Valid[w], b.Valid[w], a.True[w], b.True[w]
		over := a.Over[w] | b.Over[w]
		to.True[w] = at & bt
		to.Valid[w] = av&bv | av&^at | bv&^bt
		to.Over[w] = over &^ to.Valid[w]
	}
}

func or(s *step, _ *frame) {
	to, a, b := s.to, s.a, s.b
	for w := range to.Valid {
		av, bv, at, bt := a.Valid[w], b.Valid[w], a.True[w], b.True[w]
		over := a.Over[w] | b.Over[w]
		to.True[w] = at | bt
		to.Valid[w] = av&bv | at | bt
		to.Over[w] = over &^ to.Valid[w]
	}
}

func not(s *step, _ *frame) {
	to, a := s.to, s.a
	for w := range to.Valid {
		to.True[w] = a.Valid[w] &^ a.True[w]
		to.Valid[w], to.Over[w] = a.Valid[w], a.Over[w]
	}
}
