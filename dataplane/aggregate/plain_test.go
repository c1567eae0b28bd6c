package aggregate_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/headrace/headrace/dataplane/event"
)

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
