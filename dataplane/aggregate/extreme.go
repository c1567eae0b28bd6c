package aggregate

import (
	"fmt"
	"math"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// A rank is a value as an unsigned number in the same order, or in the opposite
// order (flip is all ones). The rank 0 belongs to no finite float and to the last
// integer that could displace another one, so it can stand for "none yet".

// rankInt ranks an integer.
func rankInt(x int64, flip uint64) uint64 { return uint64(x) ^ 1<<63 ^ flip }

// rankFloat ranks the bits of a float that is not NaN; −0 is 0.
func rankFloat(x int64, flip uint64) uint64 {
	u := uint64(x)
	if u == 1<<63 {
		u = 0
	}
	return u ^ (uint64(int64(u)>>63) | 1<<63) ^ flip
}

// unrank is the inverse of both.
func unrank(r, flip uint64, p *plan.Program) Value {
	r ^= flip
	if p.Type != event.Float64 {
		x := int64(r ^ 1<<63)
		return Value{Type: p.Type, Scale: p.Scale, Lo: uint64(x), Hi: x >> 63}
	}
	if r>>63 != 0 {
		r ^= 1 << 63
	} else {
		r = ^r
	}
	f := math.Float64frombits(r)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return null(ReasonInvalid)
	}
	return float(f)
}

// extreme keeps the greatest rank: one word.
type extreme struct {
	program int
	flip    uint64 // 0: max; all ones: min
	float   bool
}

func (extreme) size() int { return 1 }

func (c extreme) fold(mem []uint64, off uint, v *view) {
	x := v.num(c.program, 0)
	at := v.at[:len(x)]
	if c.float {
		for i, y := range x {
			p := &mem[uint(at[i])+off] // keeps its check: a wild offset must stop the program
			*p = max(*p, rankFloat(y, c.flip))
		}
		return
	}
	for i, y := range x {
		p := &mem[uint(at[i])+off]
		*p = max(*p, rankInt(y, c.flip))
	}
}

func (extreme) merge(dst, src []uint64) { dst[0] = max(dst[0], src[0]) }

func buildMin(b *builder, args []plan.Program) (finish, error) {
	return buildExtreme(b, &args[0], ^uint64(0))
}

func buildMax(b *builder, args []plan.Program) (finish, error) { return buildExtreme(b, &args[0], 0) }

func buildExtreme(b *builder, arg *plan.Program, flip uint64) (finish, error) {
	n, err := b.numeric(arg)
	if err != nil {
		return nil, err
	}
	v := b.view(true, n)
	c := extreme{program: n, flip: flip, float: arg.Type == event.Float64}
	p := b.part(fmt.Sprint("extreme ", n, flip), v, c)
	shape := plan.Program{Type: arg.Type, Scale: arg.Scale}
	return func(state []uint64) Value {
		if r := v.reason(state); r != "" {
			return null(r)
		}
		return unrank(state[p.off], flip, &shape)
	}, nil
}
