package decode

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/testdata"
)

func data(tb testing.TB) string {
	tb.Helper()
	return filepath.Dir(filepath.Dir(testdata.Path(tb, "iex", "DEEP10.pcap.gz")))
}

func TestEveryFormatIsMeasured(t *testing.T) {
	results, err := Measure(data(t), 1, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if len(r.Rounds) != 1 || r.Rounds[0] <= 0 || r.Events <= 0 || r.Events > 1 {
			t.Errorf("%s: rounds %v, share of events %v", r.Name, r.Rounds, r.Events)
		}
	}
}

// The number of rounds does not depend on the time given.
func BenchmarkDecode(b *testing.B) {
	results, err := Measure(data(b), 5, 50*time.Millisecond)
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range results {
		b.Run("format="+r.Name, func(b *testing.B) {
			slices.Sort(r.Rounds)
			b.ReportMetric(0, "ns/op") // an op would be a whole measurement
			b.ReportMetric(r.Rounds[len(r.Rounds)/2], "ns/message")
		})
	}
}
