package aggregate

import (
	"github.com/headrace/headrace/dataplane/plan"
)

// counter counts the events of its view: one word.
type counter struct{}

func (counter) size() int { return 1 }

func (counter) fold(mem []uint64, off uint, v *view) {
	for _, a := range v.at {
		mem[uint(a)+off]++
	}
}

func (counter) merge(dst, src []uint64) { dst[0] += src[0] }

func buildCount(b *builder, _ []plan.Program) (finish, error) {
	p := b.part("count", b.set.views[0], counter{})
	return func(state []uint64) Value { return integer(state[p.off], 0) }, nil
}

// buildCountValues counts the values of any type; it is 0, not null, if there
// was none.
func buildCountValues(b *builder, args []plan.Program) (finish, error) {
	n, err := b.program(&args[0])
	if err != nil {
		return nil, err
	}
	v := b.view(false, n)
	p := b.part("count", v, counter{})
	return func(state []uint64) Value {
		if state[v.flags]&v.over != 0 {
			return null(ReasonOverflow)
		}
		return integer(state[p.off], 0)
	}, nil
}
