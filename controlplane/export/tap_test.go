package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

// groupTestPlan makes query q global.
func groupTestPlan(workers int, local ...string) *plan.Plan {
	p := testPlan(workers)
	p.Group = &plan.Group{Me: "a", Peers: []string{"a", "b"}}
	p.Queries[0].Global, p.Queries[0].LocalSinks = true, local
	return p
}

// tapped is a record that a fake tap was given.
type tappedRecord struct {
	part  outbox.Partial
	after uint64
}

// fakeTap keeps what it is given. It acknowledges what the test says.
type fakeTap struct {
	mu     sync.Mutex
	got    [][]tappedRecord // [worker]
	acked  []atomic.Uint64
	resume []uint64
	asked  atomic.Uint64 // times that Done was asked
	done   atomic.Bool
	each   func(w int, p *outbox.Partial, after uint64)
}

func newFakeTap(workers int) *fakeTap {
	t := &fakeTap{got: make([][]tappedRecord, workers), acked: make([]atomic.Uint64, workers)}
	t.done.Store(true)
	return t
}

func (f *fakeTap) Record(w int, p *outbox.Partial, after uint64) {
	c := *p
	c.Key, c.State = bytes.Clone(p.Key), slices.Clone(p.State)
	f.mu.Lock()
	f.got[w] = append(f.got[w], tappedRecord{c, after})
	f.mu.Unlock()
	if f.each != nil {
		f.each(w, p, after)
	}
}

func (f *fakeTap) Acked(w int) uint64 { return f.acked[w].Load() }
func (f *fakeTap) Resume() []uint64   { return f.resume }

func (f *fakeTap) Done() bool {
	f.asked.Add(1)
	return f.done.Load()
}

// count returns how many records of the first worker it has.
func (f *fakeTap) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.got[0])
}

// after returns the position behind that part of the first worker's records; 0 if
// there are none.
func (f *fakeTap) after(part, of int) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.got[0]) == 0 {
		return 0
	}
	return f.got[0][len(f.got[0])*part/of-1].after
}

// ackAll acknowledges each record at once.
func (f *fakeTap) ackAll() {
	f.each = func(w int, _ *outbox.Partial, after uint64) { f.acked[w].Store(after) }
}

// fill puts the first n records into the first worker's outbox, which has room for them.
func fill(t rapid.TB, s *segment.Segment, n uint64) {
	t.Helper()
	out := outbox.NewWriter(s.Worker(0).Ring())
	for i := range n {
		part := nth(0, i)
		if !out.Put(&part) {
			t.Fatalf("no room for record %d", i)
		}
	}
	out.Publish()
}

// wait waits for what comes within 10 s.
func wait(t rapid.TB, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); !ok(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(until) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// start runs a pump until the test ends, or end is called.
func start(t *testing.T, pump *Pump) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- pump.Run(ctx) }()
	once := sync.OnceValue(func() error { return <-ran })
	t.Cleanup(func() { cancel(); _ = once() })
	return once
}

func mustPump(t rapid.TB, c Config) *Pump {
	t.Helper()
	c.Values = testValues
	p, err := NewPump(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestATapGetsTheRecordsOfGlobalQueries(t *testing.T) {
	for _, c := range []struct {
		name  string
		local []string
	}{{"no local rows", nil}, {"local rows in one", []string{"one"}}, {"local rows in both", []string{"one", "two"}}} {
		p := groupTestPlan(2, c.local...)
		p.Queries[0].Sinks = []string{"one"}
		s := create(t, p)
		if got, want := s.Layout.Sinks, []string{segment.GroupSink, "one", "two"}; !slices.Equal(got, want) {
			t.Errorf("%s: sinks %v, want %v", c.name, got, want)
		}
		tap, dir := newFakeTap(2), t.TempDir()
		tap.ackAll()
		one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
		pump := mustPump(t, Config{Plan: p, Segment: s, Sinks: []Sink{open(t, s, "one", one), open(t, s, "two", two)}, Tap: tap, BatchBytes: 2048})
		const n = 3000
		go produce(s, 2, n, nil)
		if err := pump.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		local := testPlan(2) // whose rows are the local ones
		local.Group = p.Group
		local.Queries[0].Sinks, local.Queries[1].Sinks = c.local, p.Queries[1].Sinks
		byWorker(t, local, "one", read(t, one), []uint64{n, n})
		byWorker(t, local, "two", read(t, two), []uint64{n, n})
		made := uint64(0)
		for w := range 2 {
			next, at := uint64(0), uint64(0)
			for _, got := range tap.got[w] {
				for next < n && nth(w, next).Query != 0 {
					next++
				}
				want := nth(w, next)
				if got.after <= at || got.part.Kind != want.Kind || got.part.End != want.End || !bytes.Equal(got.part.Key, want.Key) || !slices.Equal(got.part.State, want.State) {
					t.Fatalf("%s: worker %d: record %d before %d is %+v, want %+v", c.name, w, next, got.after, got.part, want)
				}
				if want.Kind == outbox.KindPartial {
					made++
				}
				next, at = next+1, got.after
			}
			for ; next < n; next++ {
				if nth(w, next).Query == 0 {
					t.Fatalf("%s: worker %d: record %d was not given", c.name, w, next)
				}
			}
			if r := s.Worker(w).Ring(); r.Freed.Load() != r.Produced.Load() {
				t.Errorf("%s: worker %d: %d freed of %d", c.name, w, r.Freed.Load(), r.Produced.Load())
			}
		}
		if c.local == nil {
			made = 0
		}
		if pump.Rows(0) != made || pump.Rows(1) == 0 || pump.GlobalRows(0) != 0 {
			t.Errorf("%s: rows %d and %d, want %d of q", c.name, pump.Rows(0), pump.Rows(1), made)
		}
	}
}

func TestARoomIsGivenBackWhenTheTapNeedsItNoMore(t *testing.T) {
	for _, sinks := range []bool{true, false} {
		p := groupTestPlan(1)
		s := create(t, p)
		c := Config{Plan: p, Segment: s, Tap: newFakeTap(1)}
		tap := c.Tap.(*fakeTap)
		if sinks {
			dir := t.TempDir()
			c.Sinks = []Sink{open(t, s, "one", filepath.Join(dir, "one")), open(t, s, "two", filepath.Join(dir, "two"))}
		}
		end := start(t, mustPump(t, c))
		ring := s.Worker(0).Ring()
		fill(t, s, 25) // ends in a mark of the global query
		wait(t, "records", func() bool { return tap.after(1, 1) == ring.Produced.Load() })
		time.Sleep(20 * time.Millisecond)
		if got := ring.Freed.Load(); got != 0 {
			t.Fatalf("%d bytes were given back that the tap needs", got)
		}
		half := tap.after(1, 2)
		tap.acked[0].Store(half)
		wait(t, "room up to what is acknowledged", func() bool { return ring.Freed.Load() == half })
		tap.acked[0].Store(ring.Produced.Load())
		wait(t, "all room", func() bool { return ring.Freed.Load() == ring.Produced.Load() })

		// Behind its last record the tap needs nothing: local records flow though it says
		// no more, ten times what the ring holds.
		out := outbox.NewWriter(ring)
		out.SetPosition(ring.Produced.Load())
		for i := 0; ring.Produced.Load() < 10*uint64(len(ring.Bytes)); i++ {
			part := outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, Query: 1, Key: []byte("k"), State: []uint64{uint64(i)}}
			wait(t, "room for a local record", func() bool { return out.Put(&part) })
			out.Publish()
		}
		s.Worker(0).SetState(segment.Done)
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if ring.Freed.Load() != ring.Produced.Load() {
			t.Errorf("%d freed of %d", ring.Freed.Load(), ring.Produced.Load())
		}
	}
}

func TestASlowSinkHoldsRoomThatTheTapDoesNot(t *testing.T) {
	p := groupTestPlan(1, "one")
	s := create(t, p)
	gate := newGate(open(t, s, "one", filepath.Join(t.TempDir(), "one")))
	tap := newFakeTap(1)
	tap.ackAll()
	end := start(t, mustPump(t, Config{Plan: p, Segment: s, Tap: tap, Sinks: []Sink{gate}}))
	fill(t, s, 25)
	wait(t, "records", func() bool { return tap.count() > 10 })
	time.Sleep(10 * time.Millisecond)
	if got := s.Worker(0).Ring().Freed.Load(); got != 0 {
		t.Errorf("%d bytes were given back that the sink does not have", got)
	}
	gate.open()
	s.Worker(0).SetState(segment.Done)
	if err := end(); err != nil {
		t.Fatal(err)
	}
}

func TestAResumedTapIsGivenWhatItLacksAndNoMore(t *testing.T) {
	p := groupTestPlan(1)
	for _, c := range []struct {
		name      string
		tap, sink uint64 // records that they have
	}{{"the tap is behind", 10, 20}, {"the tap is ahead", 20, 10}, {"both have the same", 15, 15}, {"the tap has all", 25, 0}, {"the sink has all", 0, 25}} {
		s := create(t, p)
		at := []uint64{0}
		w := outbox.NewWriter(s.Worker(0).Ring())
		for i := range uint64(25) {
			part := nth(0, i)
			w.Put(&part)
			at = append(at, w.Position())
		}
		w.Publish()
		s.Worker(0).SetState(segment.Done)
		path := filepath.Join(t.TempDir(), "two")
		j := open(t, s, "two", path)
		if err := j.Write(t.Context(), want(testPlan(1), "two", 0, 0), RowCount{}, []uint64{at[c.sink], 0}); err != nil {
			t.Fatal(err)
		}
		j.Close()
		tap := newFakeTap(1)
		tap.ackAll()
		tap.resume = []uint64{at[c.tap], 0}
		// Injected rows are new, wherever the sink stands.
		pump := mustPump(t, Config{Plan: p, Segment: s, Tap: tap, Sinks: []Sink{open(t, s, "two", path)}})
		var written atomic.Uint64
		if !pump.Inject([]InjectedRow{{Query: 0, Line: []byte(global(1))}, {Query: 1, Line: []byte(global(2))}}, func() { written.Add(1) }) {
			t.Fatalf("%s: the row was not taken", c.name)
		}
		if err := pump.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		var expect []uint64
		for i := c.tap; i < 25; i++ {
			if nth(0, i).Query == 0 {
				expect = append(expect, at[i+1])
			}
		}
		var got []uint64
		for _, r := range tap.got[0] {
			got = append(got, r.after)
		}
		if !slices.Equal(got, expect) {
			t.Errorf("%s: the tap was given %v, want %v", c.name, got, expect)
		}
		local := 0
		for i := c.sink; i < 25; i++ {
			if part := nth(0, i); part.Query == 1 && part.Kind == outbox.KindPartial {
				local++
			}
		}
		file := string(read(t, path))
		if n := strings.Count(file, "\n"); n != local+2 || !strings.Contains(file, global(1)) || !strings.Contains(file, global(2)) || written.Load() != 1 {
			t.Errorf("%s: %d rows, want %d and 2 injected; written %d times:\n%s", c.name, n, local, written.Load(), file)
		}
	}
}

// What was freed behind a tap's last commit held nothing for it.
func TestATapMayHaveCommittedLongAgo(t *testing.T) {
	p := groupTestPlan(1)
	s := create(t, p)
	fill(t, s, 50)
	ring := s.Worker(0).Ring()
	ring.Freed.Store(ring.Produced.Load())
	s.Worker(0).SetState(segment.Done)
	tap := newFakeTap(1)
	tap.resume = make([]uint64, 2)
	if err := mustPump(t, Config{Plan: p, Segment: s, Tap: tap}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tap.count() != 0 || ring.Freed.Load() != ring.Produced.Load() {
		t.Errorf("%d records given, %d freed of %d", tap.count(), ring.Freed.Load(), ring.Produced.Load())
	}
}

func TestAPumpRefusesATapThatIsMissingOrOutOfPlace(t *testing.T) {
	p := groupTestPlan(1)
	s := create(t, p)
	if _, err := NewPump(Config{Plan: p, Segment: s, Values: testValues}); !errors.Is(err, ErrNoTap) {
		t.Errorf("without a tap: %v, want %v", err, ErrNoTap)
	}
	if _, err := NewPump(Config{Plan: p, Segment: s, Values: testValues, Tap: newFakeTap(1), Sort: true}); !errors.Is(err, ErrSortedTap) {
		t.Errorf("with a tap and sorted: %v, want %v", err, ErrSortedTap)
	}
	p = testPlan(1)
	p.Group = groupTestPlan(1).Group // a group, and no global query
	if _, err := NewPump(Config{Plan: p, Segment: create(t, p), Values: testValues}); err != nil {
		t.Errorf("without a global query: %v", err)
	}
}

// gate is a sink that writes only while it is open.
type gate struct {
	Sink
	opened chan struct{}
	once   sync.Once
}

func newGate(s Sink) *gate { return &gate{Sink: s, opened: make(chan struct{})} }

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

func (g *gate) Write(ctx context.Context, lines []byte, n RowCount, positions []uint64) error {
	select {
	case <-g.opened:
		return g.Sink.Write(ctx, lines, n, positions)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func global(i int) string { return fmt.Sprintf(`{"query":"q","scope":"global","n":%d}`+"\n", i) }

// injectPlan has q in one and two, r in two, s in no sink that there is, u in one.
func injectPlan() *plan.Plan {
	p := groupTestPlan(1)
	p.Queries = append(p.Queries, plan.Query{Name: "s", Global: true, Aggregates: p.Queries[0].Aggregates, Sinks: []string{"three"}},
		plan.Query{Name: "u", Global: true, Aggregates: p.Queries[0].Aggregates, Sinks: []string{"one"}})
	return p
}

var injectValues = []rows.Values{number{}, number{}, number{}, number{}}

func TestInjectedRowsAreWrittenInOrderAndThenSaidToBe(t *testing.T) {
	p := injectPlan()
	s := create(t, p)
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	tap := newFakeTap(1)
	tap.done.Store(false)
	pump, err := NewPump(Config{
		Plan: p, Segment: s, Values: injectValues, Tap: tap, BatchBytes: 1024, Clock: func() uint64 { return 1_000_000 },
		Sinks: []Sink{open(t, s, "one", one), open(t, s, "two", two)},
	})
	if err != nil {
		t.Fatal(err)
	}
	end := start(t, pump)
	fill(t, s, 3) // some rows of r among them
	tap.acked[0].Store(s.Worker(0).Ring().Produced.Load())
	var order []int
	var mu sync.Mutex
	const calls = 300
	var wantOne, wantTwo []byte
	for i := range calls {
		var list []InjectedRow
		buf := []byte(global(i))
		for k := range i % 60 { // some are larger than a batch, some empty
			q := (i + k) % 3
			list = append(list, InjectedRow{Query: q, Line: buf, Cause: 999_000})
			if q == 0 {
				wantOne = append(wantOne, buf...)
			}
			if q < 2 {
				wantTwo = append(wantTwo, buf...)
			}
		}
		wait(t, "room for rows", func() bool {
			return pump.Inject(list, func() {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
				for _, path := range []string{one, two} {
					if i%20 == 7 && !bytes.Contains(read(t, path), []byte(global(i))) {
						t.Errorf("call %d was said to be written before %s had it", i, path)
					}
				}
			})
		})
		clear(buf) // the lines are ours again
	}
	wait(t, "all calls", func() bool { mu.Lock(); defer mu.Unlock(); return len(order) == calls })
	s.Worker(0).SetState(segment.Done)
	tap.done.Store(true)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(order)
	for i, c := range order {
		if i != c {
			t.Fatalf("written was called for %v", order)
		}
	}
	onlyGlobal := func(b []byte) (out []byte) {
		for line := range bytes.Lines(b) {
			if bytes.Contains(line, []byte(`"scope":"global"`)) {
				out = append(out, line...)
			}
		}
		return out
	}
	if got := read(t, one); !bytes.Equal(got, wantOne) {
		t.Errorf("one has %d rows, want %d", bytes.Count(got, []byte("\n")), bytes.Count(wantOne, []byte("\n")))
	}
	if got := onlyGlobal(read(t, two)); !bytes.Equal(got, wantTwo) {
		t.Errorf("two has %d rows, want %d", bytes.Count(got, []byte("\n")), bytes.Count(wantTwo, []byte("\n")))
	}
	all := uint64(0)
	for q := range 3 {
		all += pump.GlobalRows(q)
	}
	if want := uint64(5 * 59 * 60 / 2); all != want {
		t.Errorf("%d global rows, want %d", all, want)
	}
	var commit segment.Commit
	if n := pump.GlobalRows(0) + pump.GlobalRows(1); !s.Sink("two").Load(&commit) || commit.Global != n || pump.Sinks()[1].Global != n || commit.Rows <= n {
		t.Errorf("two has %d global rows of %d, want %d", commit.Global, commit.Rows, n)
	}
	if l := pump.Sinks()[0].Latency; l.Rows != pump.GlobalRows(0) || l.Max != 1000 {
		t.Errorf("latency %+v, want %d rows of 1000 ns", l, pump.GlobalRows(0))
	}
}

func TestWrittenWaitsForTheSinksThatWantTheRowsOnly(t *testing.T) {
	p := injectPlan()
	s := create(t, p)
	dir := t.TempDir()
	slowOne := newGate(open(t, s, "one", filepath.Join(dir, "one")))
	tap := newFakeTap(1)
	tap.done.Store(false)
	pump, err := NewPump(Config{Plan: p, Segment: s, Values: injectValues, Tap: tap, Sinks: []Sink{slowOne, open(t, s, "two", filepath.Join(dir, "two"))}})
	if err != nil {
		t.Fatal(err)
	}
	end := start(t, pump)
	var both, one, two, none, empty atomic.Uint64
	pump.Inject([]InjectedRow{{Query: 0, Line: []byte(global(0))}}, func() { both.Add(1) })
	pump.Inject([]InjectedRow{{Query: 1, Line: []byte(global(1))}, {Query: 2, Line: []byte(global(2))}}, func() { two.Add(1) })
	pump.Inject([]InjectedRow{{Query: 2, Line: []byte(global(3))}}, func() { none.Add(1) })
	pump.Inject(nil, func() { empty.Add(1) })
	pump.Inject([]InjectedRow{{Query: 3, Line: []byte(global(4))}}, func() { one.Add(1) })
	wait(t, "the others", func() bool { return two.Load() == 1 && none.Load() == 1 && empty.Load() == 1 })
	time.Sleep(10 * time.Millisecond)
	if both.Load() != 0 || one.Load() != 0 {
		t.Error("rows were said to be written that a slow sink does not have")
	}
	slowOne.open()
	wait(t, "the slow sink", func() bool { return both.Load() == 1 && one.Load() == 1 })
	s.Worker(0).SetState(segment.Done)
	wait(t, "the end of the outboxes", func() bool { return tap.asked.Load() > 2 })
	if !pump.Inject([]InjectedRow{{Query: 0, Line: []byte(global(5))}}, func() { both.Add(1); tap.done.Store(true) }) {
		t.Error("a pump whose tap is not done takes no rows")
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if both.Load() != 2 || two.Load() != 1 || none.Load() != 1 || empty.Load() != 1 {
		t.Errorf("written %d, %d, %d and %d times", both.Load(), two.Load(), none.Load(), empty.Load())
	}
	if pump.Inject(nil, nil) {
		t.Error("a pump that has ended takes rows")
	}
	if got, want := string(read(t, filepath.Join(dir, "one"))), global(0)+global(4)+global(5); got != want {
		t.Errorf("one has %q, want %q", got, want)
	}
}

func TestRowsThatHaveNoRoomAreRefusedAndTakenLater(t *testing.T) {
	p := injectPlan()
	s := create(t, p)
	path := filepath.Join(t.TempDir(), "one")
	slowOne := newGate(open(t, s, "one", path))
	tap := newFakeTap(1)
	tap.done.Store(false)
	pump, err := NewPump(Config{Plan: p, Segment: s, Values: injectValues, Tap: tap, Sinks: []Sink{slowOne}, BatchBytes: 512, InjectBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	end := start(t, pump)
	line := []byte(`{"query":"q","pad":"` + strings.Repeat("x", 600) + `"}` + "\n")
	taken, said := 0, atomic.Uint64{}
	inject := func() bool { return pump.Inject([]InjectedRow{{Line: line}}, func() { said.Add(1) }) }
	for until := time.Now().Add(50 * time.Millisecond); time.Now().Before(until); {
		if inject() {
			taken++
		} else {
			time.Sleep(100 * time.Microsecond)
		}
	}
	if taken < batchCount || taken > batchCount+4 {
		t.Errorf("%d calls were taken while nothing could be written, want about %d batches and a queue", taken, batchCount)
	}
	if inject() || said.Load() != 0 {
		t.Error("a full queue takes rows, or some are written")
	}
	slowOne.open()
	wait(t, "room", inject)
	big := slices.Repeat([]InjectedRow{{Line: line}}, 10) // more than there is ever room for
	wait(t, "room for a call that is too large", func() bool { return pump.Inject(big, func() { said.Add(1) }) })
	wait(t, "all that was taken", func() bool { return said.Load() == uint64(taken)+2 })
	s.Worker(0).SetState(segment.Done)
	tap.done.Store(true)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(read(t, path), []byte("\n")); got != taken+11 {
		t.Errorf("%d rows, want %d", got, taken+11)
	}
}

func TestARowThatIsNoneIsAMistake(t *testing.T) {
	pump := mustPump(t, Config{Plan: groupTestPlan(1), Segment: create(t, groupTestPlan(1)), Tap: newFakeTap(1)})
	for _, r := range []InjectedRow{{Query: 2, Line: []byte("{}\n")}, {Query: -1, Line: []byte("{}\n")}, {Line: []byte("{}")}, {}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v was taken", r)
				}
			}()
			pump.Inject([]InjectedRow{r}, nil)
		}()
	}
}

func TestAPumpThatEndsEarlySaysNothingOfRowsThatAreNotWritten(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		stop func(cancel func(), j *JSONL)
	}{
		{"a stop", func(cancel func(), _ *JSONL) { cancel() }},
		{"a sink that cannot go on", func(_ func(), j *JSONL) {
			j.regular = false
			j.write = func([]byte) (int, error) { return 0, broken }
		}},
	} {
		p := injectPlan()
		s := create(t, p)
		j := open(t, s, "one", filepath.Join(t.TempDir(), "one"))
		g := newGate(j)
		tap := newFakeTap(1)
		tap.done.Store(false)
		pump, err := NewPump(Config{Plan: p, Segment: s, Values: injectValues, Tap: tap, Sinks: []Sink{g}, BatchBytes: 256})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- pump.Run(ctx) }()
		var said atomic.Uint64
		for i := range 50 {
			pump.Inject([]InjectedRow{{Line: []byte(global(i))}}, func() { said.Add(1) })
		}
		time.Sleep(5 * time.Millisecond)
		c.stop(cancel, j)
		g.open()
		if err := <-ran; !errors.Is(err, broken) && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: Run = %v", c.name, err)
		}
		cancel()
		if n := uint64(bytes.Count(read(t, filepath.Join(filepath.Dir(j.c.Path), "one")), []byte("\n"))); said.Load() > n || said.Load() == 50 {
			t.Errorf("%s: %d calls were said to be written, %d rows are", c.name, said.Load(), n)
		}
		if pump.Inject(nil, nil) {
			t.Errorf("%s: a pump that has ended takes rows", c.name)
		}
	}
}

// member is a tap that has a global row for each partial, and acknowledges a record
// when its row is written: what a group of one box would do.
type member struct {
	pump    *Pump
	commits *segment.Commits
	commit  segment.Commit
	mu      sync.Mutex
	acked   atomic.Uint64
	live    bool // a row is given out at its record, not at the end
	open    int  // rows on their way
	late    []outbox.Partial
	ends    []uint64
	resume  []uint64
}

func newMember(s *segment.Segment) *member {
	m := &member{commits: s.Sink(segment.GroupSink)}
	if m.commits.Load(&m.commit) {
		m.resume = slices.Clone(m.commit.Positions)
		m.acked.Store(m.resume[0])
	} else {
		m.commit.Positions = make([]uint64, s.Layout.Workers)
	}
	return m
}

func (m *member) Resume() []uint64 { return m.resume }
func (m *member) Acked(int) uint64 { return m.acked.Load() }

func (m *member) Record(_ int, p *outbox.Partial, after uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.late, m.ends = append(m.late, outbox.Partial{Kind: p.Kind, End: p.End}), append(m.ends, after)
	if m.live {
		m.give()
	}
}

// Done gives out what is late. It is called when the records have ended; so a row
// comes behind all records, which is as late as it can.
func (m *member) Done() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.give()
}

func (m *member) give() bool {
	for len(m.late) > 0 {
		p, after := m.late[0], m.ends[0]
		said := func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.open--
			m.commit.Positions[0] = after
			m.commits.Store(&m.commit)
			m.acked.Store(after)
			if m.live {
				m.give()
			}
		}
		var line []InjectedRow
		if p.Kind == outbox.KindPartial {
			line = []InjectedRow{{Line: []byte(global(int(p.End)))}}
		}
		if len(line) == 0 && m.open > 0 { // its turn comes when all before it are written
			return false
		}
		if len(line) == 0 {
			m.commit.Positions[0] = after
			m.commits.Store(&m.commit)
			m.acked.Store(after)
		} else if !m.pump.Inject(line, said) {
			return false
		} else {
			m.open++
		}
		m.late, m.ends = m.late[1:], m.ends[1:]
	}
	return m.open == 0
}

// memberSession runs a pump with a member until the end or until its nth write, in
// the middle of which the process dies.
func memberSession(t rapid.TB, p *plan.Plan, s *segment.Segment, path string, kill int, part float64) bool {
	j := open(t, s, "one", path)
	defer j.Close()
	m := newMember(s)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	step, dead := 0, false
	put := j.write
	j.write = func(b []byte) (int, error) {
		switch step++; {
		case dead:
		case step == kill:
			_, _ = put(b[:int(float64(len(b))*part)])
			dead = true
		default:
			return put(b)
		}
		cancel(errors.New("killed"))
		panic(killed{})
	}
	pump := mustPump(t, Config{Plan: p, Segment: s, Sinks: []Sink{&mortal{Sink: j}}, BatchBytes: 600, Tap: m})
	m.pump = pump
	pump.Finish()
	return pump.Run(ctx) == nil
}

func TestADeathLosesNoGlobalRowAndDoublesNoLocalOne(t *testing.T) {
	p := groupTestPlan(1, "one")
	p.Queries[0].Sinks = []string{"one"}
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		s, err := segment.Create(p)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		runs++
		path := filepath.Join(dir, fmt.Sprint(runs))
		out := outbox.NewWriter(s.Worker(0).Ring())
		n, deaths := uint64(0), 0
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			for range rapid.IntRange(0, 60).Draw(t, "records") {
				part := nth(0, n)
				if out.Put(&part) {
					n++
				}
			}
			out.Publish()
			if !memberSession(t, p, s, path, rapid.IntRange(1, 8).Draw(t, "kill"), rapid.Float64Range(0, 1).Draw(t, "part")) {
				deaths++
			}
		}
		if !memberSession(t, p, s, path, -1, 0) {
			t.Fatal("the last session did not end well")
		}
		var local []byte
		found := map[string]int{}
		for line := range bytes.Lines(read(t, path)) {
			if bytes.Contains(line, []byte(`"scope":"global"`)) {
				found[string(line)]++
			} else {
				local = append(local, line...)
			}
		}
		mine := testPlan(1)
		mine.Group, mine.Queries[0].Sinks, mine.Queries[1].Sinks = p.Group, []string{"one"}, nil
		if expect := want(mine, "one", 0, n); !bytes.Equal(local, expect) {
			t.Fatalf("after %d deaths: %d local rows, want %d", deaths, bytes.Count(local, []byte("\n")), bytes.Count(expect, []byte("\n")))
		}
		for i := range n {
			part := nth(0, i)
			if part.Kind != outbox.KindPartial || part.Query != 0 {
				continue
			}
			line := global(int(part.End))
			if found[line] == 0 {
				t.Fatalf("after %d deaths: %s is lost", deaths, line)
			}
			if found[line] > deaths+1 {
				t.Fatalf("after %d deaths: %s is there %d times", deaths, line, found[line])
			}
			delete(found, line)
		}
		if len(found) > 0 {
			t.Fatalf("rows of no record: %v", found)
		}
		if r := s.Worker(0).Ring(); r.Freed.Load() != r.Produced.Load() {
			t.Fatalf("%d freed of %d", r.Freed.Load(), r.Produced.Load())
		}
	})
}

// The control process of a box in a group is killed -9 at random moments: local rows
// are there once, global ones at least once.
func TestAKilledControlOfAGroupLosesNothing(t *testing.T) {
	p := groupTestPlan(1, "one")
	dir, counts := killed9(t, p, 15)
	var local []byte
	found := map[string]int{}
	for line := range bytes.Lines(read(t, filepath.Join(dir, "one"))) {
		if bytes.Contains(line, []byte(`"scope":"global"`)) {
			found[string(line)]++
		} else {
			local = append(local, line...)
		}
	}
	mine := testPlan(1)
	mine.Group, mine.Queries[0].Sinks = p.Group, []string{"one"}
	byWorker(t, mine, "one", local, counts)
	twice := 0
	for i := range counts[0] {
		if part := nth(0, i); part.Kind == outbox.KindPartial && part.Query == 0 {
			n := found[global(int(part.End))]
			if n == 0 {
				t.Fatalf("record %d of %d has no global row", i, counts[0])
			}
			twice += n - 1
		}
	}
	t.Logf("%d records, %d global rows came again", counts[0], twice)
}

func TestInjectingDoesNotAllocate(t *testing.T) {
	p := groupTestPlan(1)
	s := create(t, p)
	dir := t.TempDir()
	pump := mustPump(t, Config{Plan: p, Segment: s, Tap: newFakeTap(1), Sinks: []Sink{open(t, s, "one", filepath.Join(dir, "one")), open(t, s, "two", filepath.Join(dir, "two"))}})
	pump.current = <-pump.free
	said := 0
	written := func() { said++ }
	list := []InjectedRow{{Line: []byte(global(1))}, {Query: 1, Line: []byte(global(2))}}
	if n := testing.AllocsPerRun(100, func() {
		if !pump.Inject(list, written) || !pump.injected() {
			t.Fatal("not taken")
		}
		for _, o := range pump.outlets {
			if lines, n := o.choose(pump.current); n.Rows == 0 || len(lines) == 0 {
				t.Fatal("no rows")
			}
			pump.current.committed(o.number)
		}
		pump.current.reset()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if said != 101 {
		t.Errorf("written %d times, want 101", said)
	}
	for _, o := range pump.outlets {
		o.sink.Close()
	}
}

func TestTheTapAndRecordsAreGivenWithoutAllocation(t *testing.T) {
	p := groupTestPlan(1)
	s := create(t, p)
	tap := &quietTap{}
	pump := mustPump(t, Config{Plan: p, Segment: s, Tap: tap})
	pump.current = <-pump.free
	out := outbox.NewWriter(s.Worker(0).Ring())
	part := outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, Start: 1, End: event.Nanos(2), Key: []byte("key"), State: []uint64{1}}
	if n := testing.AllocsPerRun(100, func() {
		if !out.Put(&part) {
			t.Fatal("no room")
		}
		out.Publish()
		if got, err := pump.round(t.Context()); !got || err != nil {
			t.Fatal(got, err)
		}
		if err := pump.send(t.Context()); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if tap.n.Load() != 101 {
		t.Errorf("%d records given, want 101", tap.n.Load())
	}
}

// quietTap acknowledges everything at once.
type quietTap struct{ n, at atomic.Uint64 }

func (q *quietTap) Record(_ int, _ *outbox.Partial, after uint64) { q.n.Add(1); q.at.Store(after) }
func (q *quietTap) Acked(int) uint64                              { return q.at.Load() }
func (q *quietTap) Resume() []uint64                              { return nil }
func (q *quietTap) Done() bool                                    { return true }
