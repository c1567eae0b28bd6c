package window

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

// The stories in testdata say what windows do, in seconds. A query counts events by
// key. The commands:
//
//	query [sequenced] width=S delay=S [offset=S] [panes=N] [keys=N] [idle=S] [live] [workers=N]
//	release SOURCE: KEY@T …     one packet's events, and the advance of its source
//	gap SOURCE N missing=C after=T   C messages are missing, T was the last time before
//	hit SOURCE N after=T             something was dropped
//	close SOURCE N at=T              gaps up to number N end at T
//	retire SOURCE | idle SOURCE S | flush
//
// Each prints what was dropped, and the windows that fired: key=count.
// Rewrite them with -rewrite.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		t.Helper()
		var s *story
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			if d.Cmd == "query" {
				s = newStory(t, d)
				return ""
			}
			return s.do(d)
		})
	})
}

type story struct {
	t        *testing.T
	plan     *plan.Plan
	states   []*State
	counters [][]segment.QueryCounters
	writers  []*outbox.Writer
	readers  []*outbox.Reader
	position uint64
}

func seconds(tb testing.TB, text string) event.Nanos {
	tb.Helper()
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return event.Nanos(v * 1e9)
}

func newStory(t *testing.T, d *datadriven.TestData) *story {
	t.Helper()
	arg := func(name, otherwise string) string {
		for _, a := range d.CmdArgs {
			if a.Key == name {
				return a.Vals[0]
			}
		}
		return otherwise
	}
	number := func(name, otherwise string) int {
		n, err := strconv.Atoi(arg(name, otherwise))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	workers := number("workers", "1")
	s := &story{t: t, plan: &plan.Plan{
		Workers: workers, Replay: !d.HasArg("live"), Batch: event.BatchMax, Flush: true, OutboxBytes: 1 << 16,
		Feeds:   []plan.Feed{{Name: "f", Columns: []plan.Column{{Name: "k", Type: event.Text}}, Channels: 8}},
		Streams: []plan.Stream{{Key: []int{0}, Queries: []int{0}, KeyWidth: 8}},
		Queries: []plan.Query{{
			Name: "q", Width: time.Duration(seconds(t, arg("width", "10"))), Offset: time.Duration(seconds(t, arg("offset", "0"))),
			Delay: time.Duration(seconds(t, arg("delay", "0"))), Idle: time.Duration(seconds(t, arg("idle", "0"))),
			Keys: number("keys", "100"), Panes: number("panes", "8"), Aggregates: []plan.Aggregate{{Name: "n", Kind: plan.Count}},
		}},
	}}
	if d.HasArg("sequenced") {
		s.plan.Feeds[0].Sequence = plan.IEXTP
	}
	limit := Alone
	if workers > 1 {
		limit = Settled
	}
	set, err := aggregate.NewSet(&s.plan.Queries[0], s.plan.Feeds[0].Columns)
	if err != nil {
		t.Fatal(err)
	}
	seg, err := segment.Create(s.plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = seg.Close() })
	for w := range workers {
		region, err := arena.New("story", 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = region.Close() })
		counters := make([]segment.QueryCounters, 1)
		state, err := New(Config{Plan: s.plan, Limit: limit, Wait: s.plan.Replay, Counters: counters}, region)
		if err != nil {
			t.Fatal(err)
		}
		s.states, s.counters = append(s.states, state), append(s.counters, counters)
		s.writers = append(s.writers, outbox.NewWriter(seg.Worker(w).Ring()))
		s.readers = append(s.readers, outbox.NewReader(seg.Worker(w).Ring(), segment.Limits(s.plan, []int{set.Words()})))
	}
	return s
}

func (s *story) do(d *datadriven.TestData) string {
	before := s.drops()
	s.position++
	m := event.Mark{Position: s.position}
	source := uint32(0)
	if len(d.CmdArgs) > 0 && len(d.CmdArgs[0].Key) == 1 {
		source = uint32(d.CmdArgs[0].Key[0] - 'A')
	}
	m.Source = source
	value := func(name string) string {
		for _, a := range d.CmdArgs {
			if a.Key == name {
				return a.Vals[0]
			}
		}
		s.t.Fatalf("%s: %s needs %s=", d.Pos, d.Cmd, name)
		return ""
	}
	integer := func(text string) int {
		n, err := strconv.Atoi(text)
		if err != nil {
			s.t.Fatalf("%s: %v", d.Pos, err)
		}
		return n
	}
	var fired []string
	switch d.Cmd {
	case "release":
		fired = s.release(source, strings.Fields(d.Input))
	case "gap":
		m.Kind, m.Gap, m.Count, m.Time = event.MarkGapOpen, uint32(integer(d.CmdArgs[1].Key)), uint64(integer(value("missing"))), seconds(s.t, value("after"))
		fired = s.mark(&m)
	case "hit":
		m.Kind, m.Gap, m.Time = event.MarkHit, uint32(integer(d.CmdArgs[1].Key)), seconds(s.t, value("after"))
		fired = s.mark(&m)
	case "close":
		m.Kind, m.Gap, m.Time = event.MarkGapClose, uint32(integer(d.CmdArgs[1].Key)), seconds(s.t, value("at"))
		fired = s.mark(&m)
	case "retire":
		m.Kind = event.MarkRetire
		fired = s.mark(&m)
	case "idle":
		m.Kind, m.Count = event.MarkIdle, uint64(seconds(s.t, d.CmdArgs[1].Key))
		fired = s.mark(&m)
	case "flush":
		if s.plan.Workers > 1 {
			s.settle()
		}
		for _, state := range s.states {
			state.FlushAll()
		}
		fired = s.close()
	default:
		s.t.Fatalf("%s: no such command", d.Pos)
	}
	var out strings.Builder
	after := s.drops()
	for reason := range event.DropCount {
		if n := after[reason] - before[reason]; n > 0 {
			fmt.Fprintf(&out, "dropped: %d %v\n", n, reason)
		}
	}
	for _, line := range fired {
		fmt.Fprintln(&out, line)
	}
	return out.String()
}

func (s *story) drops() (d event.Drops) {
	for _, c := range s.counters {
		for i, n := range c[0].Drops {
			d[i] += n
		}
	}
	return d
}

// release folds events, each at its key's owner, and applies their source's advance.
func (s *story) release(source uint32, events []string) []string {
	latest := event.MinNanos
	keyed := make([]*event.Keyed, len(s.states))
	for w := range keyed {
		keyed[w] = event.NewKeyed(event.NewBatch([]event.Column{{Type: event.Text}}), 8, 1)
		keyed[w].Position = make([]uint64, event.BatchMax)
	}
	for rank, text := range events {
		key, at, _ := strings.Cut(text, "@")
		t := seconds(s.t, at)
		latest = max(latest, t)
		hash := event.HashKey([]byte(key))
		k := keyed[event.Group(hash)*len(s.states)/event.GroupCount]
		i := k.Batch.N
		k.Batch.Time[i], k.Batch.Source[i], k.Hash[i], k.Position[i] = t, source, hash, s.position<<event.RankBits|uint64(rank)
		k.PutKey(i, []byte(key))
		k.Select[0] = append(k.Select[0], uint16(i))
		k.Batch.N++
	}
	for w, state := range s.states {
		state.Fold(0, keyed[w])
	}
	return s.mark(&event.Mark{Kind: event.MarkRelease, Source: source, Time: latest, Position: s.position})
}

func (s *story) mark(m *event.Mark) []string {
	closes := false
	for _, state := range s.states {
		closes = state.Mark(0, m) || closes
	}
	if closes && s.plan.Workers > 1 {
		s.settle()
	}
	return s.close()
}

func (s *story) settle() {
	Settle(s.states)
	for _, state := range s.states {
		state.Book()
	}
}

// close puts out everything that is closing and says what it was, a line a window.
func (s *story) close() (lines []string) {
	rows := map[string][]string{}
	for w, state := range s.states {
		for {
			state.Close(s.writers[w], 1)
			if !state.Closing() {
				break
			}
		}
		state.Close(s.writers[w], 1)
		s.writers[w].Publish()
		var p outbox.Partial
		for {
			ok, err := s.readers[w].Next(&p)
			if err != nil {
				s.t.Fatal(err)
			}
			if !ok {
				break
			}
			s.readers[w].Free(s.readers[w].Position())
			if p.Kind == outbox.KindPartial {
				rows[window(&p)] = append(rows[window(&p)], fmt.Sprintf("%s=%d", p.Key, p.State[0]))
			}
		}
	}
	for w, keys := range rows {
		slices.Sort(keys)
		lines = append(lines, w+" "+strings.Join(keys, " "))
	}
	slices.SortFunc(lines, func(a, b string) int { return int(start(a) - start(b)) })
	return lines
}

func start(line string) int64 {
	var v float64
	if _, err := fmt.Sscanf(line, "[%g", &v); err != nil {
		panic(err)
	}
	return int64(v * 1000)
}

func window(p *outbox.Partial) string {
	firing := map[outbox.Firing]string{outbox.OnTime: "on time", outbox.Flush: "flush"}[p.Firing]
	complete := ""
	switch {
	case p.Missing > 0:
		complete = fmt.Sprintf(", %d missing", p.Missing)
	case p.Flags&outbox.FlagIncomplete != 0:
		complete = ", incomplete"
	case p.Flags&outbox.FlagSequenced != 0:
		complete = ", complete"
	}
	return fmt.Sprintf("[%g,%g) %s%s:", float64(p.Start)/1e9, float64(p.End)/1e9, firing, complete)
}
