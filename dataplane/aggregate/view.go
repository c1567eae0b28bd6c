package aggregate

import (
	"fmt"
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
)

// flagsPerWord is the number of views whose two bits share a flag word.
const flagsPerWord = 32

// A view selects the events in which all of its programs have a value: not null,
// not an overflow, finite if a float, within 64 bits if the view is narrow. Parts
// read their values through it, densely.
type view struct {
	set      *Set
	number   int
	programs []int
	floats   []int // those of programs that are floats
	narrow   []int // those that must fit 64 bits and have 128
	flags    int   // index of the flag word
	seen     uint64
	over     uint64

	// Of the batch in hand.
	batch    *event.Batch
	n        int        // events
	at       []uint32   // their states
	sel      []uint16   // their indices in the batch
	keep     []uint16   // their entries in the vectors; nil: entry i is event i
	overs    event.Bits // entries with an overflow
	complete bool       // every entry is a value

	atMem   [event.BatchMax]uint32
	selMem  [event.BatchMax]uint16
	keepMem [event.BatchMax]uint16
	numMem  [2][event.BatchMax]int64
	hiMem   [event.BatchMax]int64
}

// events makes view 0: every event, with no flags.
func (b *builder) events() {
	b.set.views = append(b.set.views, &view{set: b.set})
}

// view returns the view over the given programs.
func (b *builder) view(narrow bool, programs ...int) *view {
	v := &view{set: b.set, programs: programs}
	for _, p := range programs {
		k := b.set.kernels[p]
		if k.Type() == event.Float64 {
			v.floats = append(v.floats, p)
		}
		if narrow && k.Wide() {
			v.narrow = append(v.narrow, p)
		}
	}
	name := fmt.Sprint(v.programs, v.narrow)
	if old, ok := b.views[name]; ok {
		return old
	}
	v.number = len(b.set.views)
	v.flags = (v.number - 1) / flagsPerWord
	v.seen = 1 << (2 * ((v.number - 1) % flagsPerWord))
	v.over = v.seen << 1
	b.views[name] = v
	b.set.views = append(b.set.views, v)
	return v
}

// reason says why an aggregate over v has no value, or "" if it has one.
func (v *view) reason(state []uint64) string {
	switch f := state[v.flags]; {
	case f&v.over != 0:
		return ReasonOverflow
	case f&v.seen == 0:
		return ReasonEmpty
	}
	return ""
}

// prepare selects the events of a batch whose vectors have been computed.
func (v *view) prepare(b *event.Batch, at []uint32, sel []uint16) {
	n := len(sel)
	v.batch, v.n, v.at, v.sel, v.keep = b, n, at, sel, nil
	v.complete = true
	if len(v.programs) == 0 {
		return
	}
	// An event in which one argument is null has no value, whatever the others are.
	var all, valid event.Bits
	all.Fill(n)
	valid, v.overs = all, all
	for _, p := range v.programs {
		x := v.set.vectors[p]
		for w := range valid {
			valid[w] &= x.Valid[w]
			v.overs[w] &= x.Valid[w] | x.Over[w]
		}
	}
	for w := range valid {
		v.overs[w] &^= valid[w]
	}
	for _, p := range v.narrow {
		v.outside(p, &valid)
	}
	v.dropNotFinite(&valid)
	if valid == all {
		return
	}
	v.complete = false
	v.compact(&valid)
}

// outside moves the values of p that 64 bits do not hold from valid to overs.
func (v *view) outside(p int, valid *event.Bits) {
	x := v.set.vectors[p]
	num, hi := x.Num[:v.n], x.Hi[:v.n]
	for i := range num {
		if hi[i] != num[i]>>63 && valid.Has(i) {
			valid.Clear(i)
			v.overs.Set(i)
		}
	}
}

// dropNotFinite counts and clears the NaN and infinite values.
func (v *view) dropNotFinite(valid *event.Bits) {
	var bad event.Bits
	for _, p := range v.floats {
		num := v.set.vectors[p].Num[:v.n]
		// The exponent of NaN and infinities is 0x7ff: one more carries into bit 11.
		some := uint64(0)
		for _, x := range num {
			some |= uint64(x)>>52&0x7ff + 1
		}
		if some>>11 == 0 {
			continue
		}
		for i, x := range num {
			if uint64(x)>>52&0x7ff == 0x7ff {
				bad.Set(i)
			}
		}
	}
	for w := range bad {
		v.set.notFinite += uint64(bits.OnesCount64(bad[w] & valid[w]))
		valid[w] &^= bad[w]
	}
}

// compact makes at, sel and keep those of the valid entries.
func (v *view) compact(valid *event.Bits) {
	n := 0
	for w, word := range valid {
		for ; word != 0; word &= word - 1 {
			j := w*64 + bits.TrailingZeros64(word)
			v.keepMem[n], v.atMem[n], v.selMem[n] = uint16(j), v.at[j], v.sel[j]
			n++
		}
	}
	v.n = n
	v.keep, v.at, v.sel = v.keepMem[:n], v.atMem[:n], v.selMem[:n]
}

// mark sets the flags of v's events; at is the whole selection's.
func (v *view) mark(mem []uint64, at []uint32) {
	foldMarks(mem, uint(v.flags), v.at, v.seen)
	for w, word := range v.overs {
		for ; word != 0; word &= word - 1 {
			mem[int(at[w*64+bits.TrailingZeros64(word)])+v.flags] |= v.over
		}
	}
}

// num returns program p's values of v's events: integers (the low words of wide
// ones) or float bits. Of two programs one is read at a time, unless they take
// different places, 0 and 1.
func (v *view) num(p, place int) []int64 { return v.pick(v.set.vectors[p].Num, &v.numMem[place]) }

// hi returns the high words of program p's values, which must be wide.
func (v *view) hi(p int) []int64 { return v.pick(v.set.vectors[p].Hi, &v.hiMem) }

func (v *view) pick(from []int64, to *[event.BatchMax]int64) []int64 {
	if v.keep == nil {
		return from[:v.n]
	}
	for i, j := range v.keep {
		to[uint8(i)] = from[j]
	}
	return to[:v.n]
}
