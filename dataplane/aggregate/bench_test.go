package aggregate_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// BenchmarkFold measures the fold alone: the states' offsets are given, as they
// are when the table has found the keys.
func BenchmarkFold(b *testing.B) {
	one := func(k plan.AggregateKind, args ...plan.Program) *plan.Query {
		return &plan.Query{Aggregates: []plan.Aggregate{{Kind: k, Args: args}}}
	}
	many := func(qs ...*plan.Query) *plan.Query {
		q := &plan.Query{}
		for _, x := range qs {
			q.Aggregates = append(q.Aggregates, x.Aggregates...)
		}
		return q
	}
	count, sum := one(plan.Count), one(plan.Sum, size)
	for _, c := range []struct {
		name string
		q    *plan.Query
	}{
		{"count", count},
		{"sum-int", sum},
		{"count+sum-int", many(count, sum)},
		{"sum-product", one(plan.Sum, notional)},
		{"sum-float", one(plan.Sum, x)},
		{"max-int", one(plan.Max, size)},
		{"max-float", one(plan.Max, x)},
		{"last", one(plan.Last, price)},
		{"mean", one(plan.Mean, price)},
		{"variance-int", one(plan.Variance, size)},
		{"variance-float", one(plan.Variance, x)},
		{"vwap", one(plan.VWAP, price, size)},
		{"bars", many(one(plan.First, price), one(plan.Max, price), one(plan.Min, price), one(plan.Last, price), sum, count, one(plan.Sum, notional), one(plan.VWAP, price, size))},
	} {
		for _, keys := range []int{1000, 100_000} {
			b.Run(fmt.Sprintf("aggregate=%s/keys=%d", c.name, keys), func(b *testing.B) { benchmarkFold(b, c.q, keys) })
		}
	}
}

func benchmarkFold(b *testing.B, q *plan.Query, keys int) {
	b.Helper()
	s := newSet(b, q)
	r := rand.New(rand.NewPCG(1, 1))
	batch := newBatch()
	in := tuples(r, event.BatchMax, mix{floats: func(r *rand.Rand) float64 { return math.Abs(r.NormFloat64()) * 100 }})
	for i := range in {
		in[i].time = event.Nanos(i)
	}
	load(batch, in)
	sel := make([]uint16, event.BatchMax)
	for i := range sel {
		sel[i] = uint16(i)
	}
	mem := make([]uint64, keys*s.Words())
	order := make([]uint32, 1<<18)
	for i := range order {
		order[i] = uint32(r.IntN(keys) * s.Words())
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		at := order[n&(len(order)-1):][:event.BatchMax]
		s.Fold(mem, at, batch, sel)
		n += event.BatchMax
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
	b.ReportMetric(float64(8*s.Words()), "bytes/state")
}

func BenchmarkAppendJSON(b *testing.B) {
	q := everyAggregate()
	s := newSet(b, q)
	r := rand.New(rand.NewPCG(1, 1))
	in := tuples(r, 100, mix{floats: normal})
	state := foldAll(r, s, in, make([]int, len(in)), 1)
	for i := range q.Aggregates {
		a := &q.Aggregates[i]
		b.Run("aggregate="+a.Name, func(b *testing.B) { benchmarkAppendJSON(b, s, i, state) })
	}
}

func benchmarkAppendJSON(b *testing.B, s *aggregate.Set, i int, state []uint64) {
	b.Helper()
	var dst []byte
	for b.Loop() {
		dst, _ = s.AppendJSON(dst[:0], i, state)
	}
}

// BenchmarkPlainAdd is what the sums of BenchmarkFold are to be compared with.
func BenchmarkPlainAdd(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	const keys = 1000
	mem := make([]float64, keys*8)
	order := make([]uint32, 1<<18)
	for i := range order {
		order[i] = uint32(r.IntN(keys) * 8)
	}
	values := make([]float64, event.BatchMax)
	for i := range values {
		values[i] = math.Abs(r.NormFloat64()) * 100
	}
	n := 0
	for b.Loop() {
		at := order[n&(len(order)-1):][:event.BatchMax]
		for i, a := range at {
			mem[a] += values[i]
		}
		n += event.BatchMax
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
}
