package replay

import (
	"context"
	"testing"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/internal/testdata"
)

func BenchmarkDeep(b *testing.B) {
	mem, err := capture.Preload([]string{testdata.Path(b, "iex", "DEEP10.pcap.gz")}, nil)
	if err != nil {
		b.Fatal(err)
	}
	out := b.TempDir() + "/rows.jsonl"
	var seconds float64
	for b.Loop() {
		mem.Rewind()
		s, err := Run(context.Background(), Config{Plan: deepPlan(b, 1), Records: mem, OpenSinks: func() ([]export.Sink, error) {
			k, err := export.OpenJSONL(export.JSONLConfig{Name: "rows", Path: out, Truncate: true})
			return []export.Sink{k}, err
		}})
		if err != nil {
			b.Fatal(err)
		}
		seconds += s.Seconds
	}
	b.ReportMetric(392010*float64(b.N)/seconds/1e6, "Mmessages/s")
}
