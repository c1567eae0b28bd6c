package aggregate

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// buildMean is the sum of the values by their count, divided once: half-even at
// the eighth decimal if they are exact, else to the nearest float64.
func buildMean(b *builder, args []plan.Program) (finish, error) {
	n, err := b.numeric(&args[0])
	if err != nil {
		return nil, err
	}
	v := b.view(false, n)
	count := b.part("count", v, counter{})
	if args[0].Type == event.Float64 {
		sum := b.bins(v, n)
		return func(state []uint64) Value {
			if r := v.reason(state); r != "" {
				return null(r)
			}
			return divide(binsAt(sum, state), whole64(state[count.off]), ReasonInvalid)
		}, nil
	}
	sum, scale := b.sum(v, n), int(args[0].Scale)
	return func(state []uint64) Value {
		if r := v.reason(state); r != "" {
			return null(r)
		}
		return ratio(exactAt(sum, state), exact{lo: state[count.off]}, scale, ReasonInvalid)
	}, nil
}
