package replay

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire/iex"
)

func deepPlan(t testing.TB, workers int) *plan.Plan {
	cols := []plan.Column{}
	for i, f := range iex.Deep().Fields {
		switch f.Name {
		case "message", "symbol", "price", "size":
			cols = append(cols, plan.Column{Name: f.Name, Type: f.Type, Scale: f.Scale, Field: i})
		}
	}
	ix := map[string]int{}
	for i, c := range cols {
		ix[c.Name] = i
	}
	col := func(n string) plan.Program {
		c := cols[ix[n]]
		return plan.Program{Ops: []plan.Op{{Code: plan.OpColumn, Column: ix[n], Type: c.Type, Scale: c.Scale}}, Type: c.Type, Scale: c.Scale}
	}
	notional := plan.Program{Ops: []plan.Op{
		{Code: plan.OpColumn, Column: ix["price"], Type: event.Decimal, Scale: 4},
		{Code: plan.OpColumn, Column: ix["size"], Type: event.Int64},
		{Code: plan.OpMul, Type: event.Decimal, Scale: 4},
	}, Type: event.Decimal, Scale: 4}
	where := plan.Program{Ops: []plan.Op{
		{Code: plan.OpColumn, Column: ix["message"], Type: event.Text},
		{Code: plan.OpText, Text: "trade", Type: event.Text},
		{Code: plan.OpEq, Type: event.Bool},
	}, Type: event.Bool}
	kinds := uint64(0)
	for _, k := range iex.Deep().Kinds {
		if k.Name == "trade" {
			kinds = 1 << uint(k.Bit)
		}
	}
	return &plan.Plan{
		Version: plan.Version, Name: "t", Workers: workers, WorkersMax: workers, Batch: 256, Replay: true, OutboxBytes: 1 << 20, LaneBytes: 1 << 18, Flush: true,
		Feeds: []plan.Feed{{
			Name: "deep", Format: "iex-deep", Rules: []plan.Rule{{Protocol: 17, Destination: netip.MustParsePrefix("224.2.3.10/32"), Port: 16648}},
			Place: iex.Deep().Place, Columns: cols, Time: plan.EventTime{Unit: plan.UnitOwn}, Sequence: plan.IEXTP, Kinds: kinds, Identity: true,
			Channels: 16, HoldPackets: 64, HoldBytes: 128 << 10, HoldFor: 50 * time.Millisecond,
		}},
		Streams: []plan.Stream{{Feed: 0, Key: []int{ix["symbol"]}, Columns: []int{ix["price"], ix["size"]}, Queries: []int{0}, KeyWidth: 8}},
		Queries: []plan.Query{{
			Name: "bars", Where: where, Width: time.Minute, Delay: 121 * time.Second, Keys: 65536, Panes: 12, Sinks: []string{"rows"},
			Aggregates: []plan.Aggregate{
				{Name: "open", Kind: plan.First, Args: []plan.Program{col("price")}},
				{Name: "high", Kind: plan.Max, Args: []plan.Program{col("price")}},
				{Name: "low", Kind: plan.Min, Args: []plan.Program{col("price")}},
				{Name: "close", Kind: plan.Last, Args: []plan.Program{col("price")}},
				{Name: "volume", Kind: plan.Sum, Args: []plan.Program{col("size")}},
				{Name: "trades", Kind: plan.Count},
				{Name: "notional", Kind: plan.Sum, Args: []plan.Program{notional}},
				{Name: "vwap", Kind: plan.VWAP, Args: []plan.Program{col("price"), col("size")}},
			},
		}},
	}
}

func TestDeep(t *testing.T) {
	mem, err := capture.Preload([]string{"../../../shared/data/iex/DEEP10.pcap.gz"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for _, n := range []int{1, 2, 3, 8} {
		for _, batch := range []int{256, 7, 1} {
			mem.Rewind()
			p := deepPlan(t, n)
			p.Batch = batch
			out := t.TempDir() + "/rows.jsonl"
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			s, err := Run(ctx, Config{Plan: p, Records: mem, OpenSinks: func() ([]export.Sink, error) {
				k, err := export.OpenJSONL(export.JSONLConfig{Name: "rows", Path: out, Truncate: true})
				return []export.Sink{k}, err
			}})
			cancel()
			if err != nil {
				t.Fatal(n, batch, err, s)
			}
			b, _ := os.ReadFile(out)
			if first == nil {
				first = b
				t.Log(string(b[:600]))
			}
			t.Logf("n=%d batch=%d %+v equal=%v", n, batch, s, bytes.Equal(b, first))
		}
	}
}
