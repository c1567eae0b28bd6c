package aggregate

import (
	"fmt"
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// sumNarrow adds up 64-bit integers. Its two words, a 128-bit two's complement
// number, low word first, hold the sum of any 2^64 of them.
type sumNarrow struct{ program int }

func (sumNarrow) size() int { return 2 }

func (c sumNarrow) fold(mem []uint64, off uint, v *view) {
	x := v.num(c.program, 0)
	at := v.at[:len(x)]
	for i, y := range x {
		a := at[i] //gcassert:bce
		o := uint(a) + off
		p0, p1 := &mem[o], &mem[o+1]
		lo, carry := bits.Add64(*p0, uint64(y), 0)
		*p0 = lo
		*p1 += uint64(y>>63) + carry
	}
}

func (sumNarrow) merge(dst, src []uint64) { add(dst, src) }

// sumWide adds up 128-bit integers in three words: 192 bits, so that an
// intermediate sum cannot overflow and a final one does so in any order.
type sumWide struct{ program int }

func (sumWide) size() int { return 3 }

func (c sumWide) fold(mem []uint64, off uint, v *view) {
	x, hi := v.num(c.program, 0), v.hi(c.program)
	at, hi := v.at[:len(x)], hi[:len(x)]
	for i, y := range x {
		h := hi[i] //gcassert:bce
		a := at[i] //gcassert:bce
		o := uint(a) + off
		p0, p1, p2 := &mem[o], &mem[o+1], &mem[o+2]
		lo, carry := bits.Add64(*p0, uint64(y), 0)
		mid, carry := bits.Add64(*p1, uint64(h), carry)
		*p0, *p1 = lo, mid
		*p2 += uint64(h>>63) + carry
	}
}

func (sumWide) merge(dst, src []uint64) { add(dst, src) }

// add adds two numbers of equally many words, low word first.
func add(dst, src []uint64) {
	carry := uint64(0)
	for i := range dst {
		dst[i], carry = bits.Add64(dst[i], src[i], carry)
	}
}

// sum returns the part with the sum of program n, an integer, over v.
func (b *builder) sum(v *view, n int) *part {
	if b.wide(n) {
		return b.part(fmt.Sprint("wide sum ", n), v, sumWide{n})
	}
	return b.part(fmt.Sprint("sum ", n), v, sumNarrow{n})
}

func buildSum(b *builder, args []plan.Program) (finish, error) {
	n, err := b.numeric(&args[0])
	if err != nil {
		return nil, err
	}
	v := b.view(false, n)
	if args[0].Type == event.Float64 {
		p := b.bins(v, n)
		return func(state []uint64) Value {
			if r := v.reason(state); r != "" {
				return null(r)
			}
			return binsAt(p, state).float()
		}, nil
	}
	p, t, scale := b.sum(v, n), args[0].Type, args[0].Scale
	return func(state []uint64) Value {
		if r := v.reason(state); r != "" {
			return null(r)
		}
		s := exactAt(p, state)
		if s.big != nil {
			return null(ReasonOverflow)
		}
		return Value{Type: t, Scale: scale, Lo: s.lo, Hi: s.hi}
	}, nil
}
