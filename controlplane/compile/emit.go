package compile

import (
	"math"
	"strconv"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// toFloat returns t as float64. A literal is read anew from its digits, so that it
// is rounded once.
func (t *tree) toFloat() *tree {
	if t.typ == event.Float64 {
		return t
	}
	if t.op == plan.OpInt {
		if f, err := strconv.ParseFloat(t.text, 64); err == nil {
			return &tree{op: plan.OpFloat, typ: event.Float64, float: f, text: t.text, at: t.at}
		}
	}
	return &tree{op: plan.OpToFloat, kids: []*tree{t}, typ: event.Float64, scale: t.scale, at: t.at}
}

// toScale returns the exact number t with scale s, which is not less than its own.
func (t *tree) toScale(s uint8) *tree {
	if s == t.scale {
		return t
	}
	up := int64(s - t.scale)
	if t.op == plan.OpInt {
		if v, ok := shifted(t.num, up); ok {
			x := *t
			x.num, x.scale, x.typ = v, s, event.Decimal
			return &x
		}
	}
	return &tree{op: plan.OpScale, kids: []*tree{t}, typ: event.Decimal, scale: s, num: up, at: t.at}
}

// shifted returns v·10^up if it is an int64.
func shifted(v, up int64) (int64, bool) {
	for ; up > 0; up-- {
		if v > math.MaxInt64/10 || v < math.MinInt64/10 {
			return 0, false
		}
		v *= 10
	}
	return v, true
}

// columns marks the columns that t reads.
func (t *tree) columns(used []bool) {
	if t.op == plan.OpColumn {
		used[t.column] = true
	}
	for _, k := range t.kids {
		k.columns(used)
	}
}

// program returns t in postfix order; to gives each column its number in the plan.
func (t *tree) program(to []int) plan.Program {
	p := plan.Program{Type: t.typ, Scale: t.scale}
	t.emit(to, &p.Ops)
	return p
}

func (t *tree) emit(to []int, ops *[]plan.Op) {
	for _, k := range t.kids {
		k.emit(to, ops)
	}
	op := plan.Op{Code: t.op, Type: t.typ, Scale: t.scale}
	switch t.op {
	case plan.OpColumn:
		op.Column = to[t.column]
	case plan.OpInt, plan.OpBool, plan.OpScale:
		op.Int = t.num
	case plan.OpFloat:
		op.Float = t.float
	case plan.OpText:
		op.Text = t.text
	}
	*ops = append(*ops, op)
}

// size returns the operations of t.
func (t *tree) size() int {
	n := 1
	for _, k := range t.kids {
		n += k.size()
	}
	return n
}
