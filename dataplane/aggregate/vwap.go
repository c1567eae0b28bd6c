package aggregate

import (
	"fmt"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// buildVWAP is Σ(price·size)/Σsize over the events that have both. Products of
// exact arguments are exact, and their sum is the part that sum(price * size)
// has; products of floats go into bins with all their bits.
func buildVWAP(b *builder, args []plan.Program) (finish, error) {
	price, size := args[0], args[1]
	if price.Type == event.Float64 || size.Type == event.Float64 {
		return buildFloatVWAP(b, toFloat(price), toFloat(size))
	}
	if price.Scale+size.Scale > event.ScaleMax {
		return nil, fmt.Errorf("price·size has scale %d, at most %d: %w", price.Scale+size.Scale, event.ScaleMax, ErrAggregate)
	}
	s, err := b.numeric(&size)
	if err != nil {
		return nil, err
	}
	product := plan.Program{Type: event.Int64, Scale: price.Scale + size.Scale}
	if price.Type == event.Decimal || size.Type == event.Decimal {
		product.Type = event.Decimal
	}
	product.Ops = append(append(append(product.Ops, price.Ops...), size.Ops...),
		plan.Op{Code: plan.OpMul, Type: product.Type, Scale: product.Scale})
	n, err := b.numeric(&product)
	if err != nil {
		return nil, err
	}
	// Where the product has a value both arguments do.
	v := b.view(false, n)
	products, sizes := b.sum(v, n), b.sum(v, s)
	return func(state []uint64) Value {
		if r := v.reason(state); r != "" {
			return null(r)
		}
		return ratio(exactAt(products, state), exactAt(sizes, state), int(price.Scale), ReasonZeroVolume)
	}, nil
}

func buildFloatVWAP(b *builder, price, size plan.Program) (finish, error) {
	n, err := b.numeric(&price)
	if err != nil {
		return nil, err
	}
	s, err := b.numeric(&size)
	if err != nil {
		return nil, err
	}
	v := b.view(false, n, s)
	products, sizes := b.productBins(v, n, s), b.bins(v, s)
	return func(state []uint64) Value {
		if r := v.reason(state); r != "" {
			return null(r)
		}
		return divide(binsAt(products, state), binsAt(sizes, state), ReasonZeroVolume)
	}, nil
}

// toFloat returns p as a program whose values are floats.
func toFloat(p plan.Program) plan.Program {
	if p.Type == event.Float64 || p.Type == event.Text || p.Type == event.Bool {
		return p
	}
	ops := append([]plan.Op(nil), p.Ops...)
	ops = append(ops, plan.Op{Code: plan.OpToFloat, Type: event.Float64, Scale: p.Scale})
	return plan.Program{Ops: ops, Type: event.Float64}
}
