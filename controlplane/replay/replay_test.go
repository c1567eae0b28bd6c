package replay_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire/iex"
	"github.com/headrace/headrace/internal/testdata"
)

func deepPlan(workers int) *plan.Plan {
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

// The rows of a real capture are the same bytes for any number of workers and any
// size of batch, and its counts are those that were counted independently.
func TestDEEP10(t *testing.T) {
	mem, err := capture.Preload([]string{testdata.Path(t, "iex", "DEEP10.pcap.gz")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for _, c := range []struct{ workers, batch int }{{1, 256}, {1, 1}, {2, 256}, {2, 7}, {3, 256}, {8, 256}, {8, 1}} {
		mem.Rewind()
		p := deepPlan(c.workers)
		p.Batch = c.batch
		m := &memory{}
		s, err := replay.Run(t.Context(), replay.Config{Plan: p, Records: mem, OpenSinks: func() ([]export.Sink, error) {
			return []export.Sink{m}, nil
		}})
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if first == nil {
			first = m.rows
		}
		if !bytes.Equal(m.rows, first) {
			t.Errorf("%+v: other rows than with one worker", c)
		}
		got := [...]uint64{s.Packets, s.Messages, s.Epochs, s.Applied, s.Rows, s.Truncated, s.Duplicates, s.Missing}
		if want := [...]uint64{121315, 392010, 12, 83343, 278, 1, 0, 0}; got != want || uint64(bytes.Count(m.rows, []byte("\n"))) != s.Rows {
			t.Errorf("%+v: packets, messages, epochs, trades, rows, truncated, duplicates, missing = %v, want %v", c, got, want)
		}
		checkLedgers(t, p, &s)
		t.Logf("%+v: %.3f s", c, s.Seconds)
	}
}
