package replay

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/testdata"
)

func settings(tb testing.TB, rounds int, reading time.Duration) Config {
	tb.Helper()
	if _, err := exec.LookPath("g++"); err != nil {
		tb.Skip("needs g++ for the C++ side: g++ is missing")
	}
	return Config{
		Config:  filepath.Join("..", "..", "examples", "iex-bars.yaml"),
		Capture: testdata.Path(tb, "iex", "DEEP10.pcap.gz"),
		Dir:     tb.TempDir(), Rounds: rounds, Reading: reading,
	}
}

func TestBothSidesMakeTheSameRows(t *testing.T) {
	r, err := Measure(settings(t, 1, 200*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if r.Messages != 392_010 || r.Rows != 278 {
		t.Errorf("%d messages and %d rows, want 392010 and 278", r.Messages, r.Rows)
	}
}

func TestProfileIsSplitByTheInnermostStage(t *testing.T) {
	traces := strings.ReplaceAll(`File: x
Type: cpu
-----------+-------------------------------------------------------
      30ms   runtime.memmove
             MODULE/dataplane/wire/iex.(*decoder).Decode
             MODULE/dataplane.(*feed).decodeSpan
             MODULE/dataplane.(*Worker).cycle
-----------+-------------------------------------------------------
      10ms   MODULE/dataplane.(*feed).step
             MODULE/dataplane.(*Worker).cycle
-----------+-------------------------------------------------------
      40ms   MODULE/dataplane/event.HashKey (inline)
             MODULE/dataplane/exchange.(*Keyer).Keys
             MODULE/dataplane.(*feed).prepare
-----------+-------------------------------------------------------
      20ms   runtime.gcBgMarkWorker
`, "MODULE/", module)
	got, err := split([]byte(traces))
	if err != nil {
		t.Fatal(err)
	}
	for stage, want := range map[string]float64{"decode": 0.3, "worker": 0.1, "filter, key": 0.4, "other": 0.2} {
		if d := got[stage] - want; d > 1e-9 || d < -1e-9 {
			t.Errorf("share of %s = %v, want %v", stage, got[stage], want)
		}
	}
}

// The number of rounds does not depend on the time given.
func BenchmarkReplay(b *testing.B) {
	r, err := Measure(settings(b, 5, 3*time.Second))
	if err != nil {
		b.Fatal(err)
	}
	for i, name := range Names {
		b.Run("capture=DEEP10/by="+name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // an op would be a whole measurement
			b.ReportMetric(median(r.Wall[i]), "messages/s")
			b.ReportMetric(median(r.CPU[i]), "messages/cpu-s")
			b.ReportMetric(median(r.CPU[i])/median(r.CPU[1]), "speed/C++")
		})
	}
	for _, s := range r.Stages {
		b.Run(fmt.Sprintf("capture=DEEP10/stage=%s", strings.ReplaceAll(s.Name, ", ", "+")), func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(s.Nanos, "ns/message")
		})
	}
}

func median(x []float64) float64 {
	x = slices.Clone(x)
	slices.Sort(x)
	return x[len(x)/2]
}
