package window

import (
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

// A bench folds a stream of events in chunks, a transaction each, and puts windows out
// as they close.
type bench struct {
	state *State
	undo  *arena.Undo
	keys  uint64
	made  uint64
	batch uint64
	keyed [benchChunk / event.BatchMax]*event.Keyed
	one   [benchChunk / event.BatchMax][]*event.Keyed // each alone, as State.Attach takes them
	box   *outbox.Writer
	ring  outbox.Ring

	counters []segment.QueryCounters
}

const (
	benchChunk = 4 * event.BatchMax // about what a cycle under load folds
	benchStep  = 1000               // nanoseconds from an event to the next
)

// value is the second column.
var value = plan.Program{Ops: []plan.Op{{Code: plan.OpColumn, Column: 1, Type: event.Int64}}, Type: event.Int64}

// benchSets are what queries compute.
var benchSets = map[string][]plan.Aggregate{
	"sums": {{Name: "count", Kind: plan.Count}, {Name: "sum", Kind: plan.Sum, Args: []plan.Program{value}}},
	"bars": {
		{Name: "open", Kind: plan.First, Args: []plan.Program{value}},
		{Name: "high", Kind: plan.Max, Args: []plan.Program{value}},
		{Name: "low", Kind: plan.Min, Args: []plan.Program{value}},
		{Name: "close", Kind: plan.Last, Args: []plan.Program{value}},
		{Name: "count", Kind: plan.Count},
		{Name: "volume", Kind: plan.Sum, Args: []plan.Program{value}},
	},
}

func newBench(tb testing.TB, set string, keys uint64, undo bool) *bench {
	tb.Helper()
	perWindow := max(4*keys, 1<<18)
	p := &plan.Plan{
		Version: plan.Version, Workers: 1, WorkersMax: 1, Batch: event.BatchMax,
		Feeds:   []plan.Feed{{Name: "events", Columns: []plan.Column{{Name: "key", Type: event.Int64}, {Name: "value", Type: event.Int64}}}},
		Streams: []plan.Stream{{Key: []int{0}, Columns: []int{1}, Queries: []int{0}, KeyWidth: 8}},
		Queries: []plan.Query{{
			Name: "q", Width: time.Duration(perWindow * benchStep), Delay: 4096 * benchStep, Keys: int(keys), Panes: 2,
			Aggregates: benchSets[set],
		}},
	}
	region, err := arena.New("bench", 1<<40)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = region.Close() })
	x := &bench{keys: keys, counters: make([]segment.QueryCounters, 1)}
	if undo {
		if x.undo, err = arena.NewUndo(region, 1<<22); err != nil {
			tb.Fatal(err)
		}
	}
	if x.state, err = New(Config{Plan: p, Undo: x.undo, Counters: x.counters}, region); err != nil {
		tb.Fatal(err)
	}
	for i := range x.keyed {
		x.keyed[i] = event.NewKeyed(event.NewBatch([]event.Column{{Type: event.Int64}, {Type: event.Int64}}), 8, 1)
		for e := range event.BatchMax {
			x.keyed[i].Select[0] = append(x.keyed[i].Select[0], uint16(e))
		}
		x.one[i] = x.keyed[i : i+1]
	}
	x.ring = outbox.Ring{Bytes: make([]byte, 1<<20), Produced: new(atomic.Uint64), Freed: new(atomic.Uint64)}
	x.box = outbox.NewWriter(x.ring)
	return x
}

// scatter is the output function of SplitMix64.
func scatter(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// generate makes the events of a chunk, keyed.
func (x *bench) generate() {
	for _, k := range x.keyed {
		b := k.Batch
		b.Reset()
		for i := range event.BatchMax {
			r := scatter(x.made)
			id, _ := bits.Mul64(r, x.keys)
			b.SetNum(0, int64(id))
			b.SetNum(1, int64(r&0xffff)-30000)
			b.Time[i] = event.Nanos((4096 + x.made - r>>16&4095) * benchStep)
			b.N++
			k.Key[i], k.KeyLen[i], k.Hash[i] = id, 8, event.HashWord(id)
			x.made++
		}
		b.Marks = append(b.Marks, event.Mark{Kind: event.MarkRelease, At: event.BatchMax, Time: event.Nanos((4096 + x.made) * benchStep)})
	}
}

// fold is one transaction.
func (x *bench) fold() {
	x.batch++
	x.undo.Begin(x.batch)
	for i, k := range x.keyed {
		x.state.Attach(0, x.one[i])
		x.state.Apply(0, k.Batch)
	}
}

func (x *bench) close() {
	for x.state.Closing() {
		x.batch++
		x.undo.Begin(x.batch)
		x.state.Close(x.box, 1024)
		x.box.Publish()
		x.ring.Freed.Store(x.ring.Produced.Load())
		x.state.Sweep(1024)
	}
	for x.state.Sweep(1024) > 0 {
	}
}

// cpuTime is the processor time of the calling thread.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// BenchmarkFold is the fold without an undo log and with one, in turns: what a neighbor
// of this machine does is done to both. Medians of chunks; generation and closing are
// left out.
func BenchmarkFold(b *testing.B) {
	for _, set := range []string{"sums", "bars"} {
		for _, keys := range []uint64{1, 1000, 10_000, 1_000_000} {
			b.Run(fmt.Sprintf("set=%s/keys=%d", set, keys), func(b *testing.B) {
				runtime.LockOSThread() // the clock is the thread's
				defer runtime.UnlockOSThread()
				sides := []*bench{newBench(b, set, keys, false), newBench(b, set, keys, true)}
				var chunks [2][]float64
				turn := func(i int) float64 {
					x := sides[i]
					x.generate()
					from := cpuTime(b)
					x.fold()
					took := cpuTime(b) - from
					x.close()
					return float64(took.Nanoseconds()) / benchChunk
				}
				// Two windows, so that tables are neither new nor empty.
				for sides[1].made < 2*max(4*keys, 1<<18) {
					turn(0)
					turn(1)
				}
				for b.Loop() {
					for i := range sides {
						chunks[i] = append(chunks[i], turn(i))
					}
				}
				for i := range chunks {
					slices.Sort(chunks[i])
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(chunks[0][len(chunks[0])/2], "off-ns/event")
				b.ReportMetric(chunks[1][len(chunks[1])/2], "on-ns/event")
			})
		}
	}
}

// A transaction allocates nothing: folding, closing, and clearing after it.
func TestATransactionAllocatesNothing(t *testing.T) {
	for _, undo := range []bool{false, true} {
		x := newBench(t, "bars", 1000, undo)
		cycle := func() {
			x.generate()
			x.fold()
			x.close()
		}
		for range 300 {
			cycle()
		}
		closed := x.counters[0].WindowsClosed
		if n := testing.AllocsPerRun(300, cycle); n != 0 {
			t.Errorf("undo %v: %v allocations, want 0", undo, n)
		}
		if x.counters[0].WindowsClosed == closed {
			t.Error("no window closed in what was measured")
		}
	}
}
