package aggregate_test

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// The columns of the tests.
const (
	colSize  = iota // int64
	colPrice        // decimal(4)
	colX            // float64
	colY            // float64
	colName         // text
)

var columns = []plan.Column{
	colSize:  {Name: "size", Type: event.Int64},
	colPrice: {Name: "price", Type: event.Decimal, Scale: 4},
	colX:     {Name: "x", Type: event.Float64},
	colY:     {Name: "y", Type: event.Float64},
	colName:  {Name: "name", Type: event.Text},
}

func column(c int) plan.Program {
	return plan.Program{
		Ops:  []plan.Op{{Code: plan.OpColumn, Column: c, Type: columns[c].Type, Scale: columns[c].Scale}},
		Type: columns[c].Type, Scale: columns[c].Scale,
	}
}

// operation returns a·b, a+b, … as the config would compile them.
func operation(code plan.OpCode, t event.Type, scale uint8, a, b plan.Program) plan.Program {
	ops := append(slices.Clone(a.Ops), b.Ops...)
	return plan.Program{Ops: append(ops, plan.Op{Code: code, Type: t, Scale: scale}), Type: t, Scale: scale}
}

var (
	size, price = column(colSize), column(colPrice)
	x, y        = column(colX), column(colY)
	notional    = operation(plan.OpMul, event.Decimal, 4, price, size)
	cube        = operation(plan.OpMul, event.Int64, 0, operation(plan.OpMul, event.Int64, 0, size, size), size)
	double      = operation(plan.OpAdd, event.Int64, 0, size, size)
	quotient    = operation(plan.OpDiv, event.Float64, 0, x, y)
)

// everyAggregate is one of each kind over each kind of argument.
func everyAggregate() *plan.Query {
	q := &plan.Query{Name: "all"}
	add := func(k plan.AggregateKind, args ...plan.Program) {
		q.Aggregates = append(q.Aggregates, plan.Aggregate{Name: fmt.Sprintf("%v%d", k, len(q.Aggregates)), Kind: k, Args: args})
	}
	add(plan.Count)
	add(plan.CountValues, column(colName))
	for _, arg := range []plan.Program{size, price, x, notional, cube, double, quotient} {
		for _, k := range []plan.AggregateKind{plan.CountValues, plan.Sum, plan.Min, plan.Max, plan.First, plan.Last, plan.Mean, plan.Variance} {
			add(k, arg)
		}
	}
	add(plan.VWAP, price, size)
	add(plan.VWAP, x, y)
	add(plan.VWAP, price, x)
	add(plan.VWAP, y, size)
	return q
}

func newSet(tb testing.TB, q *plan.Query) *aggregate.Set {
	tb.Helper()
	s, err := aggregate.NewSet(q, columns)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func newBatch() *event.Batch {
	cols := make([]event.Column, len(columns))
	for i, c := range columns {
		cols[i] = event.Column{Type: c.Type, Scale: c.Scale}
	}
	return event.NewBatch(cols)
}

// A tuple is one event of the slow twin.
type tuple struct {
	time                event.Nanos
	channel, order, seq uint64
	index               uint32

	sizeV, priceV                       int64
	xV, yV                              float64
	hasSize, hasPrice, hasX, hasY, name bool
}

// A mix says how wild the values are.
type mix struct {
	nulls  int // one in so many; 0: none
	wild   bool
	floats func(*rand.Rand) float64
}

func tuples(r *rand.Rand, n int, m mix) []tuple {
	out := make([]tuple, n)
	for i := range out {
		e := &out[i]
		e.time = event.Nanos(r.IntN(8) - 4)
		e.channel, e.order, e.seq, e.index = uint64(r.IntN(2))*math.MaxUint64, uint64(r.IntN(2)), uint64(r.IntN(3)), uint32(r.IntN(2))
		e.sizeV, e.priceV = int64(r.IntN(10000)), int64(r.IntN(1000000))
		if m.wild && r.IntN(2) == 0 {
			e.sizeV = int64(r.Uint64()) >> r.IntN(63)
			e.priceV = []int64{math.MinInt64, math.MaxInt64, 0, -1}[r.IntN(4)]
		}
		e.xV, e.yV = m.floats(r), m.floats(r)
		some := func() bool { return m.nulls == 0 || r.IntN(m.nulls) != 0 }
		e.hasSize, e.hasPrice, e.hasX, e.hasY, e.name = some(), some(), some(), some(), some()
	}
	return out
}

// load puts tuples into a batch.
func load(b *event.Batch, in []tuple) {
	b.Reset()
	for i := range in {
		e, n := &in[i], b.N
		b.Time[n], b.Chan[n], b.Order[n], b.Seq[n], b.Index[n] = e.time, e.channel, e.order, e.seq, e.index
		num := func(c int, has bool, v int64) {
			if has {
				b.SetNum(c, v)
			} else {
				b.SetNull(c)
			}
		}
		num(colSize, e.hasSize, e.sizeV)
		num(colPrice, e.hasPrice, e.priceV)
		num(colX, e.hasX, int64(math.Float64bits(e.xV)))
		num(colY, e.hasY, int64(math.Float64bits(e.yV)))
		if e.name {
			b.SetText(colName, []byte("n"))
		} else {
			b.SetNull(colName)
		}
		b.N++
	}
}

// Floats over the magnitudes that the bins are for.
func normal(r *rand.Rand) float64 { return r.NormFloat64() }

func spread(r *rand.Rand) float64 { return math.Ldexp(r.NormFloat64(), r.IntN(121)-60) }

func anyFloat(r *rand.Rand) float64 {
	switch r.IntN(12) {
	case 0:
		return []float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.NaN(), 5e-324, math.MaxFloat64}[r.IntN(7)]
	case 1:
		return math.Float64frombits(r.Uint64() & (1<<52 - 1)) // subnormal
	}
	return math.Float64frombits(r.Uint64())
}

// A datum is an argument's value in the twin: exact, or a float, or neither.
type datum struct {
	null, over bool
	n          *big.Int
	f          float64
	isFloat    bool
}

func exactOf(has bool, v int64) datum { return datum{null: !has, n: big.NewInt(v)} }

func floatOf(has bool, v float64) datum { return datum{null: !has, f: v, isFloat: true} }

var (
	least128 = new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), 127))
	most128  = new(big.Int).Not(least128)
)

func (d datum) checked() datum {
	if !d.null && !d.isFloat && (d.n.Cmp(least128) < 0 || d.n.Cmp(most128) > 0) {
		d.over = true
	}
	return d
}

// argument evaluates one of the test's programs.
func argument(p *plan.Program, e *tuple) datum {
	s, pr := exactOf(e.hasSize, e.sizeV), exactOf(e.hasPrice, e.priceV)
	mul := func(a, b datum) datum {
		return datum{null: a.null || b.null, n: new(big.Int).Mul(a.n, b.n)}.checked()
	}
	switch fmt.Sprint(p.Ops) {
	case fmt.Sprint(size.Ops):
		return s
	case fmt.Sprint(price.Ops):
		return pr
	case fmt.Sprint(x.Ops):
		return floatOf(e.hasX, e.xV)
	case fmt.Sprint(y.Ops):
		return floatOf(e.hasY, e.yV)
	case fmt.Sprint(notional.Ops):
		return mul(pr, s)
	case fmt.Sprint(cube.Ops):
		return mul(mul(s, s), s)
	case fmt.Sprint(double.Ops):
		return datum{null: s.null, n: new(big.Int).Add(s.n, s.n)}
	case fmt.Sprint(quotient.Ops):
		d := e.yV
		if d == 0 {
			d = math.Abs(d)
		}
		return floatOf(e.hasX && e.hasY, e.xV/d)
	case fmt.Sprint(column(colName).Ops):
		return datum{null: !e.name, n: big.NewInt(0)}
	}
	panic("no such program")
}

// truncated is a sum as the package defines it, computed in another way: places
// are cut off at the border two bins below the one that holds the greatest exponent.
func truncated(values []*big.Rat, exponents []int) *big.Rat {
	top := math.MinInt
	for _, e := range exponents {
		top = max(top, e)
	}
	sum := new(big.Rat)
	if top == math.MinInt {
		return sum
	}
	floor := func(a, b int) int { return int(math.Floor(float64(a) / float64(b))) }
	border := 40 * (floor(top, 40) - 2)
	unit := power(border)
	for _, v := range values {
		q := new(big.Rat).Quo(v, unit)
		n := new(big.Int).Quo(q.Num(), q.Denom()) // toward zero
		sum.Add(sum, new(big.Rat).SetInt(n))
	}
	return sum.Mul(sum, unit)
}

func power(e int) *big.Rat {
	one := big.NewInt(1)
	if e >= 0 {
		return new(big.Rat).SetInt(one.Lsh(one, uint(e)))
	}
	return new(big.Rat).SetFrac(big.NewInt(1), one.Lsh(one, uint(-e)))
}

// place is the binary place of a float's first bit above 2^-1074; subnormals
// have that of the smallest normal number.
func place(f float64) int {
	if math.Abs(f) < 0x1p-1022 {
		return 52
	}
	_, e := math.Frexp(f)
	return e - 1 + 1074
}

func sumOf(fs []float64) *big.Rat {
	var values []*big.Rat
	var exponents []int
	for _, f := range fs {
		// In units of 2^-1074.
		values = append(values, new(big.Rat).Mul(new(big.Rat).SetFloat64(f), power(1074)))
		exponents = append(exponents, place(f))
	}
	return new(big.Rat).Mul(truncated(values, exponents), power(-1074))
}

func productsOf(as, bs []float64) *big.Rat {
	var values []*big.Rat
	var exponents []int
	const unit = 2*1074 + 2*52
	for i := range as {
		if as[i] == 0 || bs[i] == 0 {
			continue
		}
		v := new(big.Rat).Mul(new(big.Rat).SetFloat64(as[i]), new(big.Rat).SetFloat64(bs[i]))
		values = append(values, v.Mul(v, power(unit)))
		_, ea := math.Frexp(as[i])
		_, eb := math.Frexp(bs[i])
		exponents = append(exponents, ea-1+eb-1+1+unit)
	}
	return new(big.Rat).Mul(truncated(values, exponents), power(-unit))
}

// expect is the JSON text and reason of one aggregate of some events.
func expect(a *plan.Aggregate, in []tuple) (text, reason string) {
	if a.Kind == plan.Count {
		return fmt.Sprint(len(in)), ""
	}
	if a.Kind == plan.VWAP {
		return expectVWAP(a, in)
	}
	var ds []datum
	var events []*tuple
	over := false
	for i := range in {
		d := argument(&a.Args[0], &in[i])
		bounded := a.Kind == plan.Min || a.Kind == plan.Max || a.Kind == plan.First || a.Kind == plan.Last
		switch {
		case d.null, d.isFloat && (math.IsNaN(d.f) || math.IsInf(d.f, 0)):
			continue
		case d.over, !d.isFloat && bounded && !d.n.IsInt64():
			over = true
			continue
		}
		ds = append(ds, d)
		events = append(events, &in[i])
	}
	switch {
	case over:
		return "null", aggregate.ReasonOverflow
	case a.Kind == plan.CountValues:
		return fmt.Sprint(len(ds)), ""
	case len(ds) == 0:
		return "null", aggregate.ReasonEmpty
	case ds[0].isFloat:
		return floatText(expectFloat(a.Kind, ds, events))
	}
	return expectExact(a, ds, events)
}

func order(a, b *tuple, x, y datum) int {
	for _, c := range [][2]uint64{{uint64(a.time) ^ 1<<63, uint64(b.time) ^ 1<<63}, {a.channel, b.channel}, {a.order, b.order}, {a.seq, b.seq}, {uint64(a.index), uint64(b.index)}} {
		if c[0] != c[1] {
			if c[0] < c[1] {
				return -1
			}
			return 1
		}
	}
	return compare(x, y)
}

func compare(x, y datum) int {
	if !x.isFloat {
		return x.n.Cmp(y.n)
	}
	switch {
	case x.f < y.f:
		return -1
	case x.f > y.f:
		return 1
	}
	return 0
}

// pick returns the datum that min, max, first or last chooses.
func pick(k plan.AggregateKind, ds []datum, events []*tuple) datum {
	best := 0
	for i := range ds {
		c := compare(ds[i], ds[best])
		if k == plan.First || k == plan.Last {
			c = order(events[i], events[best], ds[i], ds[best])
		}
		if k == plan.Min || k == plan.First {
			c = -c
		}
		if c > 0 {
			best = i
		}
	}
	return ds[best]
}

func expectExact(a *plan.Aggregate, ds []datum, events []*tuple) (text, reason string) {
	scale := int(a.Args[0].Scale)
	n := big.NewInt(int64(len(ds)))
	sum, squares := new(big.Int), new(big.Int)
	for _, d := range ds {
		sum.Add(sum, d.n)
		squares.Add(squares, new(big.Int).Mul(d.n, d.n))
	}
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)
	switch a.Kind {
	case plan.Sum:
		if (datum{n: sum}).checked().over {
			return "null", aggregate.ReasonOverflow
		}
		return decimalText(new(big.Rat).SetFrac(sum, unit), scale), ""
	case plan.Mean:
		return decimalText(new(big.Rat).SetFrac(sum, new(big.Int).Mul(n, unit)), 8), ""
	case plan.Variance:
		// E(x²) − E(x)²
		mean := new(big.Rat).SetFrac(sum, n)
		v := new(big.Rat).SetFrac(squares, n)
		v.Sub(v, mean.Mul(mean, mean))
		return floatText(v.Quo(v, new(big.Rat).SetInt(new(big.Int).Mul(unit, unit))))
	}
	return decimalText(new(big.Rat).SetFrac(pick(a.Kind, ds, events).n, unit), scale), ""
}

func expectFloat(k plan.AggregateKind, ds []datum, events []*tuple) *big.Rat {
	fs := make([]float64, len(ds))
	for i := range ds {
		fs[i] = ds[i].f
	}
	n := new(big.Rat).SetInt64(int64(len(fs)))
	switch k {
	case plan.Sum:
		return sumOf(fs)
	case plan.Mean:
		return new(big.Rat).Quo(sumOf(fs), n)
	case plan.Variance:
		mean := new(big.Rat).Quo(sumOf(fs), n)
		v := new(big.Rat).Quo(productsOf(fs, fs), n)
		if v.Sub(v, mean.Mul(mean, mean)); v.Sign() < 0 {
			v.SetInt64(0)
		}
		return v
	}
	return new(big.Rat).SetFloat64(pick(k, ds, events).f)
}

func expectVWAP(a *plan.Aggregate, in []tuple) (text, reason string) {
	var ps, ss []float64
	products, sizes := new(big.Int), new(big.Int)
	float := false
	toFloat := func(d datum, scale uint8) float64 {
		if d.isFloat {
			return d.f
		}
		f, _ := new(big.Rat).SetFrac(d.n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)).Float64()
		return f
	}
	some := false
	for i := range in {
		p, s := argument(&a.Args[0], &in[i]), argument(&a.Args[1], &in[i])
		float = p.isFloat || s.isFloat
		if p.null || s.null {
			continue
		}
		if !float {
			some = true
			products.Add(products, new(big.Int).Mul(p.n, s.n))
			sizes.Add(sizes, s.n)
			continue
		}
		pf, sf := toFloat(p, a.Args[0].Scale), toFloat(s, a.Args[1].Scale)
		if math.IsNaN(pf) || math.IsNaN(sf) || math.IsInf(pf, 0) || math.IsInf(sf, 0) {
			continue
		}
		some = true
		ps, ss = append(ps, pf), append(ss, sf)
	}
	if !some {
		return "null", aggregate.ReasonEmpty
	}
	if !float {
		if sizes.Sign() == 0 {
			return "null", aggregate.ReasonZeroVolume
		}
		sizes.Mul(sizes, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(a.Args[0].Scale)), nil))
		return decimalText(new(big.Rat).SetFrac(products, sizes), 8), ""
	}
	s := sumOf(ss)
	if s.Sign() == 0 {
		return "null", aggregate.ReasonZeroVolume
	}
	return floatText(new(big.Rat).Quo(productsOf(ps, ss), s))
}

func floatText(r *big.Rat) (text, reason string) {
	f, _ := r.Float64()
	if math.IsInf(f, 0) {
		return "null", aggregate.ReasonOverflow
	}
	if f == 0 {
		return "0", ""
	}
	return jsonNumber(f), ""
}

// decimalText rounds half to even with big.Int alone.
func decimalText(r *big.Rat, scale int) string {
	n := new(big.Int).Mul(r.Num(), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil))
	q, m := new(big.Int).DivMod(n, r.Denom(), new(big.Int))
	if c := m.Lsh(m, 1).Cmp(r.Denom()); c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	sign := ""
	if q.Sign() < 0 {
		sign = "-"
		q.Neg(q)
	}
	s := fmt.Sprintf("%0*s", scale+1, q.String())
	if scale == 0 {
		return sign + s
	}
	return sign + s[:len(s)-scale] + "." + s[len(s)-scale:]
}
