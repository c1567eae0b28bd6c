package fold

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"testing"
)

func compiled(tb testing.TB) string {
	tb.Helper()
	if _, err := exec.LookPath("g++"); err != nil {
		tb.Skip("needs g++ for the C++ side: g++ is missing")
	}
	path, err := Build(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

func TestAllSidesMakeTheSameRows(t *testing.T) {
	r, err := Measure(compiled(t), 3000, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range Names {
		if len(r.Fold[i]) != 1 || r.Fold[i][0] <= 0 {
			t.Errorf("%s: rounds took %v, want one", Names[i], r.Fold[i])
		}
	}
}

// The number of rounds does not depend on the time given. For all sizes and the
// comparison as a table: go run ./perf/table.
func BenchmarkFold(b *testing.B) {
	path := compiled(b)
	for _, keys := range []uint64{1000, 10_000, 100_000, 1_000_000, 10_000_000} {
		if testing.Short() && keys > 1_000_000 {
			continue
		}
		r, err := Measure(path, keys, 5)
		if err != nil {
			b.Fatal(err)
		}
		for i, name := range Names {
			b.Run(fmt.Sprintf("keys=%d/by=%s", keys, name), func(b *testing.B) {
				b.ReportMetric(0, "ns/op") // an op would be a whole measurement
				b.ReportMetric(median(r.Fold[i]), "ns/event")
				b.ReportMetric(median(r.Close[i]), "close-ns/row")
				b.ReportMetric(median(r.Fold[2])/median(r.Fold[i]), "speed/C++")
			})
		}
	}
}

func median(x []float64) float64 {
	x = slices.Clone(x)
	slices.Sort(x)
	return x[len(x)/2]
}

// BenchmarkSide is one side alone, for a profile of it.
func BenchmarkSide(b *testing.B) {
	for _, keys := range []uint64{1000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d/by=headrace", keys), func(b *testing.B) {
			runtime.LockOSThread() // the clock is the thread's
			defer runtime.UnlockOSThread()
			perWindow := max(4*keys, windowLeast) / chunk * chunk
			h, err := newHeadrace(keys, perWindow)
			if err != nil {
				b.Fatal(err)
			}
			defer h.close()
			var r []float64
			for b.Loop() {
				did, err := h.run(perWindow)
				if err != nil {
					b.Fatal(err)
				}
				r = append(r, float64(did.Fold)/float64(perWindow))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(r), "ns/event")
			b.ReportMetric(slices.Min(r), "least-ns/event")
		})
	}
}
