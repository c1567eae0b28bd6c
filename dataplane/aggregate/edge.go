package aggregate

import (
	"fmt"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// edge keeps the last value by (time, channel, order, sequence, index, value), or
// with all ones in flip the first: the greatest tuple of ranks. The index is one
// more than the event's, so that no event's tuple is all zeros.
type edge struct {
	program int
	flip    uint64
	float   bool
}

const (
	edgeTime = iota
	edgeChan
	edgeOrder
	edgeSeq
	edgeIndex
	edgeValue
	edgeWords
)

func (edge) size() int { return edgeWords }

func (c edge) fold(mem []uint64, off uint, v *view) {
	x := v.num(c.program, 0)
	at, sel, b := v.at[:len(x)], v.sel[:len(x)], v.batch
	for i, y := range x {
		e := uint8(sel[i])
		t := rankInt(int64(b.Time[e]), c.flip)
		p := (*[edgeWords]uint64)(mem[uint(at[i])+off:])
		if t < p[edgeTime] {
			continue
		}
		q := [edgeWords]uint64{t, b.Chan[e] ^ c.flip, b.Order[e] ^ c.flip, b.Seq[e] ^ c.flip, (uint64(b.Index[e]) + 1) ^ c.flip}
		if c.float {
			q[edgeValue] = rankFloat(y, c.flip)
		} else {
			q[edgeValue] = rankInt(y, c.flip)
		}
		if t > p[edgeTime] || after(&q, p) {
			*p = q
		}
	}
}

// after says whether tuple q is greater than p.
func after(q, p *[edgeWords]uint64) bool {
	for i := range q {
		if q[i] != p[i] {
			return q[i] > p[i]
		}
	}
	return false
}

func (edge) merge(dst, src []uint64) {
	d, s := (*[edgeWords]uint64)(dst), (*[edgeWords]uint64)(src)
	if after(s, d) {
		*d = *s
	}
}

func buildFirst(b *builder, args []plan.Program) (finish, error) {
	return buildEdge(b, &args[0], ^uint64(0))
}

func buildLast(b *builder, args []plan.Program) (finish, error) { return buildEdge(b, &args[0], 0) }

func buildEdge(b *builder, arg *plan.Program, flip uint64) (finish, error) {
	n, err := b.numeric(arg)
	if err != nil {
		return nil, err
	}
	v := b.view(true, n)
	c := edge{program: n, flip: flip, float: arg.Type == event.Float64}
	p := b.part(fmt.Sprint("edge ", n, flip), v, c)
	shape := plan.Program{Type: arg.Type, Scale: arg.Scale}
	return func(state []uint64) Value {
		if r := v.reason(state); r != "" {
			return null(r)
		}
		if state[p.off+edgeIndex] == 0 {
			return null(ReasonInvalid)
		}
		return unrank(state[p.off+edgeValue], flip, &shape)
	}, nil
}
