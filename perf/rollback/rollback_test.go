package rollback

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/headrace/headrace/internal/testdata"
)

func load(tb testing.TB) *Load {
	tb.Helper()
	l, err := NewLoad(filepath.Join("..", "..", "examples", "iex-bars.yaml"), testdata.Path(tb, "iex", "DEEP10.pcap.gz"))
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func run(tb testing.TB, l *Load, rollback bool) Reading {
	tb.Helper()
	r, err := l.Run(rollback)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestTheUndoLogChangesNothingThatComesOut(t *testing.T) {
	l := load(t)
	cold, warm := run(t, l, false), run(t, l, true)
	if cold.Messages != 392_010 || cold.Messages != warm.Messages || cold.Events != warm.Events || cold.Partials == 0 || cold.Partials != warm.Partials {
		t.Errorf("%+v without a log, %+v with one", cold, warm)
	}
}

// Both take turns, so that what else the machine does meets both.
func BenchmarkRollback(b *testing.B) {
	const rounds = 41
	l := load(b)
	var cost [2][]float64
	for range rounds {
		for side := range cost {
			r := run(b, l, side == 1)
			cost[side] = append(cost[side], float64(r.CPU)/float64(r.Messages))
		}
	}
	for side, name := range []string{"off", "on"} {
		slices.Sort(cost[side])
		b.Run("capture=DEEP10/rollback="+name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // an op would be a whole measurement
			b.ReportMetric(cost[side][rounds/2], "ns/message")
			b.ReportMetric(cost[side][0], "least-ns/message")
			b.ReportMetric(cost[side][rounds/2]/cost[0][rounds/2], "times-off")
		})
	}
}
