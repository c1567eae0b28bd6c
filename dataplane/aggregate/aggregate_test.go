package aggregate_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

func jsonNumber(f float64) string {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// foldAll folds tuples into states of zeros, tuple i into the state entry[i], in
// batches of random sizes of which random parts are selected first.
func foldAll(r *rand.Rand, s *aggregate.Set, in []tuple, entry []int, entries int) []uint64 {
	mem := make([]uint64, entries*s.Words())
	b := newBatch()
	for i := 0; i < len(in); {
		n := min(1+r.IntN(event.BatchMax), len(in)-i)
		load(b, in[i:i+n])
		var first, second []uint16
		whole := r.IntN(2) == 0
		for e := range n {
			if whole || r.IntN(3) != 0 {
				first = append(first, uint16(e))
			} else {
				second = append(second, uint16(e))
			}
		}
		r.Shuffle(len(second), func(i, j int) { second[i], second[j] = second[j], second[i] })
		for _, sel := range [][]uint16{first, second} {
			at := make([]uint32, len(sel))
			for k, e := range sel {
				at[k] = uint32(entry[i+int(e)] * s.Words())
			}
			s.Fold(mem, at, b, sel)
		}
		i += n
	}
	return mem
}

// Every aggregate, through batches, selections and repeated keys, gives what a
// slow computation in rationals over the same events gives.
func TestValuesAgreeWithASlowTwin(t *testing.T) {
	q := everyAggregate()
	s := newSet(t, q)
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		m := mix{nulls: rapid.SampledFrom([]int{0, 2, 10}).Draw(t, "nulls"), wild: rapid.Bool().Draw(t, "wild")}
		m.floats = []func(*rand.Rand) float64{normal, spread, anyFloat}[rapid.IntRange(0, 2).Draw(t, "floats")]
		in := tuples(r, rapid.IntRange(0, 80).Draw(t, "events"), m)
		const entries = 5
		entry := make([]int, len(in))
		byEntry := make([][]tuple, entries)
		for i := range in {
			entry[i] = r.IntN(entries - 1) // the last one stays empty
			byEntry[entry[i]] = append(byEntry[entry[i]], in[i])
		}
		mem := foldAll(r, s, in, entry, entries)
		for k := range entries {
			state := mem[k*s.Words() : (k+1)*s.Words()]
			for i := range q.Aggregates {
				a := &q.Aggregates[i]
				got, reason := s.AppendJSON(nil, i, state)
				want, wantReason := expect(a, byEntry[k])
				if string(got) != want || reason != wantReason {
					t.Fatalf("%s of %d events = %s %q, want %s %q", a.Name, len(byEntry[k]), got, reason, want, wantReason)
				}
			}
		}
	})
}

// Folding many events at once gives the words that folding them one at a time gives.
func TestRepeatedKeysInABatchFoldAsOneByOne(t *testing.T) {
	s := newSet(t, everyAggregate())
	b := newBatch()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		in := tuples(r, event.BatchMax, mix{nulls: r.IntN(5), wild: true, floats: anyFloat})
		load(b, in)
		const entries = 3
		once, slow := make([]uint64, entries*s.Words()), make([]uint64, entries*s.Words())
		var at []uint32
		var sel []uint16
		for e := range in {
			at = append(at, uint32(r.IntN(entries)*s.Words()))
			sel = append(sel, uint16(e))
			s.Fold(slow, at[e:e+1], b, sel[e:e+1])
		}
		s.Fold(once, at, b, sel)
		if !slices.Equal(once, slow) {
			t.Fatal("the words differ")
		}
	})
}

// Merge is a commutative monoid, and merging states is folding all their events.
// Peers rely on it: they reduce in the order in which answers come.
func TestAnyPartitionAndMergeTreeGivesTheSameWords(t *testing.T) {
	s := newSet(t, everyAggregate())
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
		m := mix{nulls: r.IntN(4), wild: true, floats: []func(*rand.Rand) float64{spread, anyFloat}[r.IntN(2)]}
		in := tuples(r, rapid.IntRange(1, 200).Draw(t, "events"), m)
		want := foldAll(r, s, in, make([]int, len(in)), 1)
		parts := rapid.IntRange(1, 9).Draw(t, "parts")
		if got := partitioned(r, s, in, parts); !slices.Equal(got, want) {
			t.Fatalf("%d parts: the words differ", parts)
		}
	})
}

// partitioned folds shuffled events into parts, of which some may stay empty,
// and merges them in a random tree.
func partitioned(r *rand.Rand, s *aggregate.Set, in []tuple, parts int) []uint64 {
	in = slices.Clone(in)
	r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
	entry := make([]int, len(in))
	for i := range entry {
		entry[i] = r.IntN(parts)
	}
	mem := foldAll(r, s, in, entry, parts)
	var states [][]uint64
	for p := range parts {
		states = append(states, mem[p*s.Words():(p+1)*s.Words()])
	}
	for len(states) > 1 {
		r.Shuffle(len(states), func(i, j int) { states[i], states[j] = states[j], states[i] })
		s.Merge(states[0], states[1])
		states = append(states[:1], states[2:]...)
	}
	return states[0]
}

// floatQuery has what is kept in bins.
func floatQuery() *plan.Query {
	return &plan.Query{Aggregates: []plan.Aggregate{
		{Name: "sum", Kind: plan.Sum, Args: []plan.Program{x}},
		{Name: "variance", Kind: plan.Variance, Args: []plan.Program{x}},
		{Name: "vwap", Kind: plan.VWAP, Args: []plan.Program{x, y}},
	}}
}

// A border of bins that is off by one passes simple tests; it shows in about one
// of twenty partitions of values over magnitudes of 2^±60.
func TestFloatSumsDoNotDependOnOrderInThreeThousandPartitions(t *testing.T) {
	s := newSet(t, floatQuery())
	r := rand.New(rand.NewPCG(3000, 60))
	for i := range 3000 {
		floats := spread
		if i%3 == 0 {
			floats = func(r *rand.Rand) float64 { return math.Ldexp(r.NormFloat64(), r.IntN(2001)-1000) }
		}
		in := tuples(r, 2+r.IntN(40), mix{floats: floats})
		want := partitioned(r, s, in, 1)
		if got := partitioned(r, s, in, 2+r.IntN(6)); !slices.Equal(got, want) {
			t.Fatalf("partition %d: the words differ", i)
		}
	}
}

// What bins cut off is less than 2^-79 of the greatest magnitude a value.
func TestFloatSumsAreAsGoodAsTheDocumentSays(t *testing.T) {
	s := newSet(t, floatQuery())
	r := rand.New(rand.NewPCG(79, 1))
	for range 300 {
		in := tuples(r, 1+r.IntN(100), mix{floats: spread})
		exact, greatest := new(big.Rat), 0.0
		for i := range in {
			exact.Add(exact, new(big.Rat).SetFloat64(in[i].xV))
			greatest = max(greatest, math.Abs(in[i].xV))
		}
		got := s.Value(0, partitioned(r, s, in, 1)).Float
		// Half a unit in the last place of the result, and what is cut off.
		bound := new(big.Rat).SetFloat64(math.Abs(got) * 0x1p-52)
		bound.Add(bound, new(big.Rat).Mul(new(big.Rat).SetFloat64(greatest), power(-70)))
		d := new(big.Rat).SetFloat64(got)
		if d.Sub(d, exact).Abs(d).Cmp(bound) > 0 {
			t.Fatalf("sum = %v, off by %v", got, d.FloatString(30))
		}
	}
}

// The two-pass result is computed in 200 bits, so that the error is ours alone.
func TestVarianceIsWithinABillionthOfTheTwoPassResult(t *testing.T) {
	s := newSet(t, floatQuery())
	r := rand.New(rand.NewPCG(6, 6))
	for _, ratio := range []float64{0, 1, 1e3, 1e6} {
		for _, sigma := range []float64{1, 1e-3, 1e100, 1e-100} {
			in := tuples(r, 5000, mix{floats: func(r *rand.Rand) float64 { return (ratio + r.NormFloat64()) * sigma }})
			got := s.Value(1, partitioned(r, s, in, 4)).Float
			want := twoPass(in)
			if e := math.Abs(got-want) / want; e > 1e-12 {
				t.Errorf("mean/σ = %g, σ = %g: variance %g, want %g, error %g", ratio, sigma, got, want, e)
			}
		}
	}
}

func twoPass(in []tuple) float64 {
	const prec = 300
	n := new(big.Float).SetPrec(prec).SetInt64(int64(len(in)))
	mean, sum := new(big.Float).SetPrec(prec), new(big.Float).SetPrec(prec)
	for i := range in {
		mean.Add(mean, big.NewFloat(in[i].xV))
	}
	mean.Quo(mean, n)
	for i := range in {
		d := new(big.Float).SetPrec(prec).Sub(big.NewFloat(in[i].xV), mean)
		sum.Add(sum, d.Mul(d, d))
	}
	f, _ := sum.Quo(sum, n).Float64()
	return f
}

// foldOne returns the texts of q's aggregates over in.
func foldOne(t *testing.T, q *plan.Query, in []tuple) (texts, reasons []string) {
	t.Helper()
	s := newSet(t, q)
	state := foldAll(rand.New(rand.NewPCG(1, 1)), s, in, make([]int, len(in)), 1)
	for i := range q.Aggregates {
		text, reason := s.AppendJSON(nil, i, state)
		texts, reasons = append(texts, string(text)), append(reasons, reason)
	}
	return texts, reasons
}

func ints(sizes ...int64) (in []tuple) {
	for i, v := range sizes {
		in = append(in, tuple{time: event.Nanos(i), sizeV: v, hasSize: true, priceV: v, hasPrice: true})
	}
	return in
}

func floats(xs ...float64) (in []tuple) {
	for i, v := range xs {
		in = append(in, tuple{time: event.Nanos(i), xV: v, hasX: true, yV: v, hasY: true})
	}
	return in
}

func TestValues(t *testing.T) {
	nines := slices.Repeat([]int64{math.MaxInt64}, 3)
	for _, c := range []struct {
		name   string
		kind   plan.AggregateKind
		args   []plan.Program
		in     []tuple
		want   string
		reason string
	}{
		{"no event is counted as nothing", plan.Count, nil, nil, "0", ""},
		{"no value is counted as nothing", plan.CountValues, []plan.Program{x}, ints(1, 2), "0", ""},
		{"a sum of nothing is null", plan.Sum, []plan.Program{size}, nil, "null", "empty"},
		{"a sum of nulls is null", plan.Sum, []plan.Program{size}, floats(1), "null", "empty"},
		{"a sum of 64-bit integers may have 128 bits", plan.Sum, []plan.Program{size}, ints(nines...), "27670116110564327421", ""},
		{"a sum of decimals keeps its scale", plan.Sum, []plan.Program{price}, ints(300000, 67000), "36.7000", ""},
		{"a small negative decimal has its zeros", plan.Sum, []plan.Program{price}, ints(-7), "-0.0007", ""},
		{"a sum that passes 128 bits and comes back is fine", plan.Sum, []plan.Program{cube}, ints(5e12, 5e12, -5e12), "125000000000000000000000000000000000000", ""},
		{"a sum that ends beyond 128 bits is an overflow", plan.Sum, []plan.Program{cube}, ints(5e12, 5e12), "null", "overflow"},
		{"a value beyond 128 bits is an overflow", plan.Sum, []plan.Program{cube}, ints(1, 6e12), "null", "overflow"},
		{"a count of a value beyond 128 bits is an overflow", plan.CountValues, []plan.Program{cube}, ints(1, 6e12), "null", "overflow"},
		{"a maximum beyond 64 bits is an overflow", plan.Max, []plan.Program{double}, ints(1, math.MaxInt64), "null", "overflow"},
		{"a maximum of computed values", plan.Max, []plan.Program{double}, ints(-3, -2), "-4", ""},
		{"the greatest integer", plan.Max, []plan.Program{size}, ints(math.MinInt64), "-9223372036854775808", ""},
		{"the least integer", plan.Min, []plan.Program{size}, ints(math.MaxInt64), "9223372036854775807", ""},
		{"minus zero is zero", plan.Min, []plan.Program{x}, floats(math.Copysign(0, -1)), "0", ""},
		{"a sum of minus zeros is zero", plan.Sum, []plan.Program{x}, floats(math.Copysign(0, -1)), "0", ""},
		{"NaN and infinities are skipped", plan.Sum, []plan.Program{x}, floats(math.NaN(), 1.5, math.Inf(1), math.Inf(-1)), "1.5", ""},
		{"only NaN is nothing", plan.Max, []plan.Program{x}, floats(math.NaN()), "null", "empty"},
		{"a float sum beyond the greatest float is an overflow", plan.Sum, []plan.Program{x}, floats(math.MaxFloat64, math.MaxFloat64), "null", "overflow"},
		{"a float sum may pass the greatest float", plan.Sum, []plan.Program{x}, floats(math.MaxFloat64, math.MaxFloat64, -math.MaxFloat64), "1.7976931348623157e+308", ""},
		{"the smallest floats add up", plan.Sum, []plan.Program{x}, floats(5e-324, 5e-324), "1e-323", ""},
		{"a float sum rounds once", plan.Sum, []plan.Program{x}, floats(1e16, 1, 1, -1e16), "2", ""},
		{"a mean is rounded half to even", plan.Mean, []plan.Program{operation(plan.OpMul, event.Decimal, 8, price, price)}, ints(1, 0), "0.00000000", ""},
		{"a mean above the half is rounded up", plan.Mean, []plan.Program{size}, ints(1, 0, 1), "0.66666667", ""},
		{"a negative mean", plan.Mean, []plan.Program{size}, ints(-1, 0, -1), "-0.66666667", ""},
		{"a mean of floats", plan.Mean, []plan.Program{x}, floats(0.1, 0.2, 0.3), "0.2", ""},
		{"a variance of integers", plan.Variance, []plan.Program{size}, ints(1, 2, 3, 4), "1.25", ""},
		{"a variance of great integers", plan.Variance, []plan.Program{size}, ints(math.MinInt64, math.MaxInt64), "8.507059173023462e+37", ""},
		{"a variance of equal floats is zero", plan.Variance, []plan.Program{x}, floats(0.1, 0.1, 0.1), "0", ""},
		{"a volume-weighted mean", plan.VWAP, []plan.Program{price, size}, ints(10000, 30000), "2.50000000", ""},
		{"no volume", plan.VWAP, []plan.Program{price, size}, ints(10000, -10000), "null", "zero_volume"},
		{"no volume of floats", plan.VWAP, []plan.Program{x, y}, floats(0, 0), "null", "zero_volume"},
		{"a volume-weighted mean of floats", plan.VWAP, []plan.Program{x, y}, floats(1, 3), "2.5", ""},
		{"the first by time", plan.First, []plan.Program{size}, ints(7, 8, 9), "7", ""},
		{"the last by time", plan.Last, []plan.Program{x}, floats(7, math.NaN(), -9), "-9", ""},
	} {
		q := &plan.Query{Aggregates: []plan.Aggregate{{Name: "v", Kind: c.kind, Args: c.args}}}
		got, reason := foldOne(t, q, c.in)
		if got[0] != c.want || reason[0] != c.reason {
			t.Errorf("%s: %v = %s %q, want %s %q", c.name, c.kind, got[0], reason[0], c.want, c.reason)
		}
	}
}

func TestEqualPartsAreKeptOnce(t *testing.T) {
	bars := &plan.Query{Aggregates: []plan.Aggregate{
		{Kind: plan.Sum, Args: []plan.Program{notional}},
		{Kind: plan.VWAP, Args: []plan.Program{price, size}},
	}}
	// flags, Σ(price·size) in three words, Σsize in two.
	if got := newSet(t, bars).Words(); got != 6 {
		t.Errorf("sum(price * size) and vwap(price, size) take %d words, want 6", got)
	}
	simple := &plan.Query{Aggregates: []plan.Aggregate{{Kind: plan.Count}, {Kind: plan.Sum, Args: []plan.Program{size}}}}
	if got := newSet(t, simple).Words(); got != 4 {
		t.Errorf("count() and sum(size) take %d words, want 4", got)
	}
}

func TestValuesThatAreNotFiniteAreCounted(t *testing.T) {
	q := &plan.Query{Aggregates: []plan.Aggregate{{Kind: plan.Sum, Args: []plan.Program{x}}, {Kind: plan.Mean, Args: []plan.Program{x}}}}
	s := newSet(t, q)
	in := floats(math.NaN(), 1, math.Inf(-1))
	foldAll(rand.New(rand.NewPCG(1, 1)), s, in, make([]int, len(in)), 1)
	if s.NotFinite() != 2 {
		t.Errorf("NotFinite = %d, want 2", s.NotFinite())
	}
}

func TestAggregatesThatCannotBeComputedAreRefused(t *testing.T) {
	text := column(colName)
	for name, a := range map[string]plan.Aggregate{
		"kind zero":              {Kind: 0},
		"an unknown kind":        {Kind: 200},
		"count with two":         {Kind: plan.Count, Args: []plan.Program{x, y}},
		"sum of nothing":         {Kind: plan.Sum},
		"sum of a text":          {Kind: plan.Sum, Args: []plan.Program{text}},
		"first of a text":        {Kind: plan.First, Args: []plan.Program{text}},
		"vwap with a text":       {Kind: plan.VWAP, Args: []plan.Program{x, text}},
		"an empty argument":      {Kind: plan.Max, Args: []plan.Program{{Type: event.Int64}}},
		"a product beyond 10^18": {Kind: plan.VWAP, Args: []plan.Program{operation(plan.OpMul, event.Decimal, 16, operation(plan.OpMul, event.Decimal, 8, price, price), operation(plan.OpMul, event.Decimal, 8, price, price)), price}},
	} {
		if _, err := aggregate.NewSet(&plan.Query{Aggregates: []plan.Aggregate{a}}, columns); !errors.Is(err, aggregate.ErrAggregate) {
			t.Errorf("%s: NewSet = %v, want ErrAggregate", name, err)
		}
	}
}

func TestManyViewsUseSeveralFlagWords(t *testing.T) {
	q := &plan.Query{}
	for i := range 70 {
		p := plan.Program{Type: event.Int64, Ops: []plan.Op{{Code: plan.OpColumn, Column: colSize, Type: event.Int64}, {Code: plan.OpInt, Int: int64(i), Type: event.Int64}, {Code: plan.OpAdd, Type: event.Int64}}}
		q.Aggregates = append(q.Aggregates, plan.Aggregate{Name: fmt.Sprint(i), Kind: plan.Max, Args: []plan.Program{p}})
	}
	got, _ := foldOne(t, q, ints(1000))
	for i := range got {
		if got[i] != fmt.Sprint(1000+i) {
			t.Errorf("max(size + %d) = %s, want %d", i, got[i], 1000+i)
		}
	}
}

func TestFoldAndMergeDoNotAllocate(t *testing.T) {
	s := newSet(t, everyAggregate())
	r := rand.New(rand.NewPCG(5, 5))
	b := newBatch()
	load(b, tuples(r, event.BatchMax, mix{nulls: 5, wild: true, floats: anyFloat}))
	mem := make([]uint64, 4*s.Words())
	at, sel := make([]uint32, event.BatchMax), make([]uint16, event.BatchMax)
	for i := range at {
		at[i], sel[i] = uint32(r.IntN(4)*s.Words()), uint16(i)
	}
	if n := testing.AllocsPerRun(10, func() {
		s.Fold(mem, at, b, sel)
		s.Fold(mem, at[:100], b, sel[100:200])
		s.Merge(mem[:s.Words()], mem[s.Words():])
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
