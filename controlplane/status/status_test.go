package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; -update accepts it:\n%s", path, got)
	}
}

// fakeRows is a pump that has written what it was told.
type fakeRows struct{ one, two, global uint64 }

func (f *fakeRows) Sinks() []export.Stats {
	return []export.Stats{{Name: "out", Target: "rows.jsonl", Rows: f.one + f.two, Bytes: 900, Global: f.global, Writes: 3}}
}

func (f *fakeRows) Rows(q int) uint64 { return []uint64{f.one, f.two}[q] }

func (f *fakeRows) Faults(x outbox.Fault) uint64 {
	if x == outbox.FaultKey {
		return 1
	}
	return 0
}

// balanced returns a source whose two workers have drained and whose sums match.
func balanced(t *testing.T) (*Source, []*segment.Counters) {
	t.Helper()
	p := &plan.Plan{
		Version: plan.Version, Name: "test", Workers: 2, WorkersMax: 2, OutboxBytes: 1 << 12,
		Feeds: []plan.Feed{{Name: "deep"}, {Name: "cars"}}, Streams: []plan.Stream{{}},
		Queries:    []plan.Query{{Name: "bars", Sinks: []string{"out"}}, {Name: "hourly", Feed: 1, Sinks: []string{"out"}}},
		Interfaces: []plan.Interface{{Name: "eth0"}},
	}
	s, err := segment.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var all []*segment.Counters
	for w := range uint64(2) {
		c := segment.NewCounters(p)
		c.Worker = segment.WorkerCounters{Cycles: 100, BusyCycles: 40, Frames: 61, Batches: 9, UnknownFeed: 1}
		f := &c.Feeds[0]
		*f = segment.FeedCounters{Frames: 60, Bytes: 6000, FramesApplied: 40, FramesDuplicate: 10, FramesHeartbeat: 5, FramesHeld: 2, Messages: 500, Applied: 400, Duplicate: 90, MessagesHeld: 4, Events: 300}
		f.FrameDrops[event.DropShort] = 3
		f.MessageDrops[event.DropSkippedType] = 6
		f.LineFrames, f.LineFirst = [4]uint64{30, 30}, [4]uint64{200, 200}
		// Worker 0 sends 50 events to worker 1.
		c.Queries[0] = segment.QueryCounters{Received: 300, Sent: 50 * (1 - w), Arrived: 50 * w, Applied: 230 + 100*w, Partials: 10, WindowsClosed: 2}
		c.Queries[0].Drops[event.DropFiltered] = 20
		c.TouchFeed(0)
		c.TouchQuery(0)
		all = append(all, c)
		publish(s, int(w), c)
		s.Worker(int(w)).SetWatermark(0, event.Nanos(1e9*(5+w)))
		s.Worker(int(w)).SetState(segment.Done)
	}
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	return &Source{
		Plan: p, Segment: s, Rows: &fakeRows{one: 20}, Clock: func() time.Time { return at },
		XDP: func() XDPSnapshot {
			return XDPSnapshot{Steered: []uint64{130, 2}, Interfaces: []InterfaceXDP{{
				Name: "eth0", Mode: "generic", Verdicts: []Count{{"steered", 132}, {"passed", 7}},
				Sockets: Sockets{RxDropped: 3, RxRingFull: 5, FillRingEmpty: 8, InRing: 2},
			}}}
		},
	}, all
}

func publish(s *segment.Segment, w int, c *segment.Counters) {
	for i := range c.Feeds {
		c.TouchFeed(i)
	}
	for i := range c.Queries {
		c.TouchQuery(i)
	}
	s.Worker(w).Publish(1, c)
}

// A group's rows are in the sinks' counts and not in the ledger of this box's partials.
func TestRowsOfAGroupAreNoRowsOfThisBox(t *testing.T) {
	for _, c := range []struct {
		name         string
		local        []string
		rows, global uint64
		good         bool
	}{
		{"none of this box", nil, 7, 7, true},
		{"none of this box, and one too many", nil, 8, 7, false},
		{"both kinds", []string{"out"}, 27, 7, true},
		{"both kinds, and one is missing", []string{"out"}, 26, 7, false},
	} {
		source, _ := balanced(t)
		q := &source.Plan.Queries[0]
		q.Global, q.LocalSinks = true, c.local
		source.Rows = &fakeRows{one: c.rows, global: c.global}
		if bad := Check(source.Snapshot()); (len(bad) == 0) != c.good {
			t.Errorf("%s: imbalances %+v", c.name, bad)
		}
	}
}

func TestSumsThatMatchAreBalanced(t *testing.T) {
	source, _ := balanced(t)
	s := source.Snapshot()
	if bad := Check(s); len(bad) > 0 || !s.Drained {
		t.Errorf("drained %v, imbalances %+v", s.Drained, bad)
	}
}

func TestEachSumThatDoesNotMatchIsFound(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  func(c *segment.Counters, s *Source)
		layer  string
		differ int64
		always bool // also while the run goes on
	}{
		{"a frame that went nowhere", func(c *segment.Counters, _ *Source) { c.Feeds[0].FramesApplied-- }, "frames", 1, true},
		{"a message counted twice", func(c *segment.Counters, _ *Source) { c.Feeds[0].Duplicate++ }, "messages", -1, true},
		{"a frame that no feed has", func(c *segment.Counters, _ *Source) { c.Worker.UnknownFeed-- }, "worker", 1, true},
		{"an event that went nowhere", func(c *segment.Counters, _ *Source) { c.Queries[0].Applied-- }, "events", 1, false},
		{"an event that came out of nothing", func(c *segment.Counters, _ *Source) { c.Queries[0].Received-- }, "events", -1, false},
		{"a partial that became no row", func(c *segment.Counters, _ *Source) { c.Queries[0].Partials++ }, "rows", 1, false},
		{"a row written twice", func(_ *segment.Counters, s *Source) { s.Rows = &fakeRows{one: 21} }, "rows", -1, false},
	} {
		source, counters := balanced(t)
		c.spoil(counters[1], source)
		publish(source.Segment, 1, counters[1])
		bad := Check(source.Snapshot())
		if len(bad) != 1 || bad[0].Layer != c.layer || bad[0].Difference != c.differ {
			t.Errorf("%s: %+v, want %s %d", c.name, bad, c.layer, c.differ)
		}
		source.Segment.Worker(0).SetState(segment.Running)
		if bad := Check(source.Snapshot()); (len(bad) == 1) != c.always {
			t.Errorf("%s, while the run goes on: %+v", c.name, bad)
		}
	}
	source, _ := balanced(t)
	xdp := source.XDP()
	xdp.Interfaces[0].RxRingFull--
	source.XDP = func() XDPSnapshot { return xdp }
	if bad := Check(source.Snapshot()); len(bad) != 1 || bad[0].Layer != "xdp" || bad[0].Difference != 1 {
		t.Errorf("a frame lost between program and socket: %+v", bad)
	}
}

func TestEventsOnTheirWayAreInFlight(t *testing.T) {
	source, counters := balanced(t)
	counters[1].Queries[0].Arrived, counters[1].Queries[0].Applied = 30, 310
	publish(source.Segment, 1, counters[1])
	for _, line := range NewLedger(source.Snapshot()) {
		if line.Layer == "events" && line.Of == "bars" && (line.InFlight != 20 || line.Difference != 0) {
			t.Errorf("%+v, want 20 in flight", line)
		}
	}
}

func TestTheTableIsTheGolden(t *testing.T) {
	source, counters := balanced(t)
	before := source.Snapshot()
	counters[0].Feeds[0].Frames += 100
	counters[0].Feeds[0].FramesApplied += 98
	counters[0].Worker.Frames += 100
	publish(source.Segment, 0, counters[0])
	source.Segment.Worker(1).Fail("pane memory: \x1b[31m")
	source.Clock = func() time.Time { return before.At.Add(2 * time.Second) }
	var b bytes.Buffer
	if err := NewReport(before, source.Snapshot()).Write(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "status.golden", b.String())
}

func TestAReportSurvivesJSON(t *testing.T) {
	source, _ := balanced(t)
	r := NewReport(nil, source.Snapshot())
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	if err := errors.Join(r.Write(&a), back.Write(&b)); err != nil || a.String() != b.String() {
		t.Errorf("%v\n%s\n%s", err, a.String(), b.String())
	}
}

// wound leaves worker w as a kill inside Publish would: its sequence odd.
func wound(t *testing.T, s *segment.Segment, w int, c *segment.Counters) {
	t.Helper()
	fd, _ := s.FDs()
	before, after := make([]byte, s.Layout.DataBytes), make([]byte, s.Layout.DataBytes)
	pread := func(b []byte) {
		if _, err := unix.Pread(fd, b, 0); err != nil {
			t.Fatal(err)
		}
	}
	pread(before)
	publish(s, w, c) // the same counts: nothing changes but the sequence
	pread(after)
	for i := range before {
		if before[i] != after[i] {
			if _, err := unix.Pwrite(fd, []byte{after[i] | 1}, int64(i)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("the sequence was not found")
}

func TestAWorkerThatDiedWhilePublishingLeavesItsLastConsistentCounts(t *testing.T) {
	source, counters := balanced(t)
	source.Segment.Worker(0).SetState(segment.Running)
	source.Snapshot()
	wound(t, source.Segment, 0, counters[0])
	s := source.Snapshot()
	if !s.Workers[0].Stale || s.Workers[1].Stale || s.Workers[0].Cycles != 100 || s.Feeds[0].Frames != 120 {
		t.Errorf("workers %+v, frames %d", s.Workers, s.Feeds[0].Frames)
	}
	source.Segment.Worker(0).Fail("killed")
	if s := source.Snapshot(); !s.Workers[0].Stale || s.Workers[0].Frames != 61 || s.Drained != true {
		t.Errorf("last words %+v", s.Workers[0])
	}
}

// place makes every socket of the test in a folder of its own.
func place(t *testing.T) {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("TMPDIR", t.TempDir())
}

func TestStatusAnswersUnderItsNameAndNoOther(t *testing.T) {
	place(t)
	name := fmt.Sprintf("test-%d", os.Getpid())
	source, _ := balanced(t)
	l, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(name); !errors.Is(err, ErrRunning) {
		t.Errorf("a second run of the name: %v, want %v", err, ErrRunning)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	answers := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // the API's, to this question
		if r.Method != http.MethodGet || r.URL.Path != "/status" {
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(NewReporter(source).Report()); err != nil {
			t.Error(err)
		}
	})
	wait.Go(func() {
		if err := serve(ctx, l, answers); err != nil {
			t.Error(err)
		}
	})
	run := func(args ...string) (string, error) {
		c := Command()
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(io.Discard)
		c.SetArgs(args)
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	if out, err := run("--name", name); err != nil || !strings.Contains(out, "messages") || !strings.Contains(out, "deep") {
		t.Errorf("%v: %s", err, out)
	}
	out, err := run("--json", "--name", name)
	var r Report
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || len(r.Snapshot.Feeds) != 2 {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := run("--name", "nobody"); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), name) {
		t.Errorf("nobody: %v, want %v and the name %s", err, ErrNotRunning, name)
	}
	if _, err := run("--name", "../../etc/passwd"); !errors.Is(err, ErrBadName) {
		t.Errorf("a path: %v, want %v", err, ErrBadName)
	}
	cancel()
	wait.Wait()
	if _, err := run("--name", name); !errors.Is(err, ErrNotRunning) {
		t.Errorf("afterwards: %v, want %v", err, ErrNotRunning)
	}
}

func TestASocketThatADeadRunLeftIsReplaced(t *testing.T) {
	place(t)
	name := fmt.Sprintf("dead-%d", os.Getpid())
	l, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if slices.Contains(Names(), name) {
		t.Error("a dead run is listed")
	}
	l, err = Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestRatesAreDifferencesPerSecond(t *testing.T) {
	source, counters := balanced(t)
	a := source.Snapshot()
	counters[0].Feeds[0].Messages += 500
	publish(source.Segment, 0, counters[0])
	source.Clock = func() time.Time { return a.At.Add(2 * time.Second) }
	b := source.Snapshot()
	for _, r := range Rates(a, b) {
		if want := map[bool]float64{true: 250}[r.Kind == "feed" && r.Of == "deep"]; r.Values["messages"] != want {
			t.Errorf("%s %s: %v messages a second, want %v", r.Kind, r.Of, r.Values["messages"], want)
		}
	}
	if r := Rates(b, a); len(r) != 0 {
		t.Errorf("rates backwards in time: %+v", r)
	}
	if r := Rates(b, b); len(r) != 0 {
		t.Errorf("rates over no time: %+v", r)
	}
}

func TestMetricsAreTheGoldenAndLintClean(t *testing.T) {
	source, _ := balanced(t)
	source.Group = wholeGroup
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewMetrics(source))
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v: %+v", err, problems)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	for _, f := range families {
		labels := []string{}
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		fmt.Fprintf(&list, "%s{%s} %s %s\n", f.GetName(), strings.Join(labels, ","), strings.ToLower(f.GetType().String()), f.GetHelp())
	}
	golden(t, "metrics.golden", list.String())
}

func TestMetricsAreServedToThisMachine(t *testing.T) {
	source, _ := balanced(t)
	l, err := ListenMetrics("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := NewMetrics(source).Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	for _, want := range []string{
		`headrace_feed_frames_dropped_total{feed="deep",reason="short"} 6`,
		`headrace_query_watermark_timestamp_seconds{query="bars"} 5`,
		`headrace_xdp_socket_dropped_total{interface="eth0",reason="rx_ring_full"} 5`,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("%v: no %s in\n%s", err, want, body)
		}
	}
	cancel()
	wait.Wait()
	if host, _, err := net.SplitHostPort(MetricsAddress); err != nil || !net.ParseIP(host).IsLoopback() {
		t.Errorf("the default address is %s, want loopback", MetricsAddress)
	}
}

func TestSocketsAreSummedAndTheFillRingIsNotAddedUp(t *testing.T) {
	source, _ := balanced(t)
	for w := range 2 {
		c := source.Segment.Socket(0, 3, w)
		c.Bound.Store(1)
		c.RxDropped.Store(10)
		c.RxFillRingEmpty.Store(4)
		c.InRing.Store(1)
	}
	source.Segment.Socket(0, 4, 0).RxDropped.Store(99) // not bound
	if got, want := SumSockets(source.Segment, 0), (Sockets{RxDropped: 20, FillRingEmpty: 4, InRing: 2}); got != want {
		t.Errorf("SumSockets = %+v, want %+v", got, want)
	}
}

// A data plane that died leaves a ledger that balances: what it did not account for is
// lost, and said to be.
func TestTheLedgerBalancesOverARestart(t *testing.T) {
	p := &plan.Plan{
		Name: "restarts", Workers: 2, WorkersMax: 2, OutboxBytes: 1 << 16,
		Feeds: []plan.Feed{{Name: "f"}}, Streams: []plan.Stream{{Queries: []int{0}}}, Queries: []plan.Query{{Name: "q", Sinks: []string{"out"}}},
		Interfaces: []plan.Interface{{Name: "eth1"}},
	}
	generation := func() *segment.Segment {
		seg, err := segment.Create(p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { seg.Close() })
		return seg
	}
	steered := uint64(0)
	xdp := func(seg *segment.Segment) func() XDPSnapshot {
		return func() XDPSnapshot {
			return XDPSnapshot{Steered: []uint64{steered}, Interfaces: []InterfaceXDP{{Name: "eth1", Sockets: SumSockets(seg, 0)}}}
		}
	}
	// Of 100 frames, 10 were lost at the ring and 20 were never received. Of the 70 two
	// are held, and of the events three are in a lane.
	first := generation()
	steered = 100
	c := segment.NewCounters(p)
	c.Worker.Frames = 70
	c.Feeds[0] = segment.FeedCounters{Frames: 70, FramesApplied: 68, FramesHeld: 2, Messages: 70, Applied: 68, MessagesHeld: 2}
	c.Queries[0] = segment.QueryCounters{Received: 68, Applied: 60, Sent: 8, Partials: 9}
	c.TouchFeed(0)
	c.TouchQuery(0)
	first.Worker(0).Publish(1, c)
	d := segment.NewCounters(p)
	d.Queries[0] = segment.QueryCounters{Arrived: 5, Applied: 5, Partials: 1}
	d.TouchQuery(0)
	first.Worker(1).Publish(1, d)
	sock := first.Socket(0, 0, 0)
	sock.Bound.Store(1)
	sock.RxRingFull.Store(10)
	sock.InRing.Store(15)
	s := &Source{Plan: p}
	s.Replace(s.Plan, first, &fakeRows{one: 8}, xdp(first), Former{})
	former := s.Snapshot().Former()

	second := generation()
	s.Replace(s.Plan, second, &fakeRows{two: 4}, xdp(second), former)
	steered = 130
	e := segment.NewCounters(p)
	e.Worker.Frames = 30
	e.Feeds[0] = segment.FeedCounters{Frames: 30, FramesApplied: 30, Messages: 30, Applied: 30}
	e.Queries[0] = segment.QueryCounters{Received: 30, Applied: 30, Partials: 4}
	e.TouchFeed(0)
	e.TouchQuery(0)
	second.Worker(0).Publish(1, e)
	for w := range 2 {
		second.Worker(w).SetState(segment.Done)
	}
	snap := s.Snapshot()
	if !snap.Drained || snap.Restarts != 1 {
		t.Errorf("drained %v, %d restarts", snap.Drained, snap.Restarts)
	}
	if bad := Check(snap); len(bad) > 0 {
		t.Errorf("not balanced: %+v", bad)
	}
	lost := map[string]uint64{}
	applied := map[string]uint64{}
	for _, line := range NewLedger(snap) {
		applied[line.Layer] += line.Applied
		for _, c := range line.Dropped {
			if c.Name == restartReason {
				lost[line.Layer] += c.Count
			}
		}
	}
	if lost["xdp"] != 20 || lost["frames"] != 2 || lost["messages"] != 2 || lost["events"] != 3 || lost["rows"] != 0 {
		t.Errorf("lost with the data plane: %v", lost)
	}
	if applied["xdp"] != 100 || applied["frames"] != 98 || applied["events"] != 95 || applied["rows"] != 12 || applied["restarts"] != 1 {
		t.Errorf("applied by both data planes: %v", applied)
	}
	// And once more: the account is carried on, also through another process.
	text, err := json.Marshal(snap.Former())
	if err != nil {
		t.Fatal(err)
	}
	var again Former
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	third := generation()
	for w := range 2 {
		third.Worker(w).SetState(segment.Done)
	}
	s.Replace(s.Plan, third, &fakeRows{}, xdp(third), again)
	if bad := Check(s.Snapshot()); len(bad) > 0 || again.Restarts != 2 {
		t.Errorf("after %d restarts not balanced: %+v", again.Restarts, bad)
	}
}
