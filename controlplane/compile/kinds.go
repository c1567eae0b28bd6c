package compile

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

const allKinds = ^uint64(0)

// kinds returns the kinds of message for which t can be true. exact says that t is
// true for all of those: it asks for nothing but the kind.
func (r *reader) kinds(t *tree) (mask uint64, exact bool) {
	switch t.op {
	case plan.OpAnd:
		a, x := r.kinds(t.kids[0])
		b, y := r.kinds(t.kids[1])
		return a & b, x && y
	case plan.OpOr:
		a, x := r.kinds(t.kids[0])
		b, y := r.kinds(t.kids[1])
		return a | b, x && y
	case plan.OpEq:
		a, b := t.kids[0], t.kids[1]
		if r.isMessage(b) {
			a, b = b, a
		}
		if r.isMessage(a) && b.op == plan.OpText {
			for _, k := range r.feed.format.Kinds {
				if k.Name == b.text {
					mask |= 1 << k.Bit
				}
			}
			return mask, true
		}
	}
	return allKinds, false
}

// without returns t less the conjuncts that hold for every kind in mask: where the
// decoder lets only those through, nobody need ask again. nil: nothing is left.
func (r *reader) without(t *tree, mask uint64) *tree {
	if want, exact := r.kinds(t); exact && mask&^want == 0 {
		return nil
	}
	if t.op != plan.OpAnd {
		return t
	}
	a, b := r.without(t.kids[0], mask), r.without(t.kids[1], mask)
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return &tree{op: plan.OpAnd, kids: []*tree{a, b}, typ: event.Bool, at: t.at}
}
