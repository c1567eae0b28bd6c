package window

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/fault/killtest"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

var (
	histories = flag.Int("histories", 40, "random histories of the tests that end processes")
	firstSeed = flag.Uint64("seed", 1, "seed of the first history")
)

// historyPlan has every kind of table: keys of one word and of several, states with
// and without a count, feeds with and without sequence, queries that share a stream.
func historyPlan(workers, workersMax int) *plan.Plan {
	columns := []plan.Column{{Name: "id", Type: event.Int64}, {Name: "value", Type: event.Int64}, {Name: "name", Type: event.Text}}
	query := func(name string, stream, feed, width, delay, idle, keys int, set string) plan.Query {
		return plan.Query{
			Name: name, Stream: stream, Feed: feed, Width: time.Duration(width), Delay: time.Duration(delay), Idle: time.Duration(idle),
			Keys: keys, Panes: 3, Aggregates: benchSets[set],
		}
	}
	return &plan.Plan{
		Version: plan.Version, Workers: workers, WorkersMax: workersMax, Batch: event.BatchMax,
		Feeds: []plan.Feed{
			{Name: "a", Columns: columns, Sequence: plan.IEXTP, Channels: 3},
			{Name: "b", Columns: columns},
		},
		Streams: []plan.Stream{
			{Feed: 0, Key: []int{0}, Queries: []int{0, 1}, KeyWidth: 8},
			{Feed: 0, Key: []int{2}, Queries: []int{2}, KeyWidth: 12},
			{Feed: 1, Key: []int{0}, Queries: []int{3}, KeyWidth: 8},
		},
		Queries: []plan.Query{
			query("sums", 0, 0, 10, 0, 0, 12, "sums"),
			query("bars", 0, 0, 25, 5, 50, 1000, "bars"),
			query("names", 1, 0, 10, 10, 0, 1000, "sums"),
			query("plain", 2, 1, 15, 0, 0, 10, "bars"),
		},
	}
}

// An op is one call that a worker makes, as data: it can be made again.
type op struct {
	kind   string
	target int // stream, feed or number of partials
	cause  uint64
	events []opEvent
	marks  []event.Mark
}

type opEvent struct {
	time   event.Nanos
	source uint32
	id     int64
	value  int64
}

// A transaction is what one State does between two commits, and how it sweeps then.
type transaction struct {
	state int
	ops   []op
	sweep []int
}

// scribe makes random histories.
type scribe struct {
	*rand.Rand
	plan *plan.Plan
	now  []event.Nanos // by state
	gaps uint32
	// common: what one State does to its sources all of them do, and keys are of the
	// State that owns their group.
	owner func(group int) int
}

func (s *scribe) source(feed int) uint32 {
	if feed == 1 {
		return 0
	}
	return uint32(s.IntN(2))*plan.SourceStride + uint32(s.IntN(3))
}

func (s *scribe) event(state, feed int) opEvent {
	t := s.now[state] + event.Nanos(s.IntN(30)-12)
	if s.IntN(40) == 0 {
		t += event.Nanos(s.IntN(200))
	}
	for {
		e := opEvent{time: t, source: s.source(feed), id: int64(s.IntN(30)), value: int64(s.IntN(1000) - 500)}
		if s.owner == nil || s.owner(event.Group(historyHash(e.id))) == state {
			return e
		}
	}
}

func (s *scribe) events(state, feed, most int) (out []opEvent) {
	for range s.IntN(most) {
		out = append(out, s.event(state, feed))
	}
	return out
}

func (s *scribe) mark(state, feed int) event.Mark {
	s.now[state] += event.Nanos(s.IntN(6))
	m := event.Mark{Kind: event.MarkRelease, Source: s.source(feed), Time: s.now[state] + event.Nanos(s.IntN(5)-2)}
	if s.IntN(3) > 0 {
		return m
	}
	s.gaps++
	m.Gap = s.gaps
	switch s.IntN(6) {
	case 0, 1:
		m.Kind, m.Count = event.MarkGapOpen, uint64(s.IntN(5))
	case 2:
		m.Kind = event.MarkHit
	case 3:
		m.Kind = event.MarkGapClose
	case 4:
		m.Kind = event.MarkRetire
	case 5:
		m.Kind, m.Count = event.MarkIdle, uint64(s.IntN(100))
	}
	return m
}

// op makes one call, mostly a fold of some kind.
func (s *scribe) op(state int) op {
	o := op{cause: s.Uint64()}
	feed := s.IntN(2)
	switch s.IntN(10) {
	case 0, 1, 2:
		o.kind, o.target = "fold", s.IntN(len(s.plan.Streams))
		o.events = s.events(state, s.plan.Streams[o.target].Feed, 30)
	case 3, 4, 5:
		o.kind, o.target, o.events = "apply", feed, s.events(state, feed, 40)
		for at := range o.events {
			if s.IntN(6) == 0 {
				m := s.mark(state, feed)
				m.At = uint32(at)
				o.marks = append(o.marks, m)
			}
		}
	case 6, 7:
		o.kind, o.target, o.marks = "marks", feed, []event.Mark{s.mark(state, feed)}
		if s.IntN(20) == 0 {
			for range 80 { // more gaps than are kept
				s.gaps++
				o.marks = append(o.marks, event.Mark{Kind: event.MarkGapOpen, Source: s.source(feed), Gap: s.gaps, Time: s.now[state] + event.Nanos(s.IntN(50)), Count: 1})
			}
		}
	default:
		o.kind, o.target = "close", s.IntN(40)
	}
	return o
}

// history is a number of transactions of several States, ending with a flush or without.
func (s *scribe) history(states, n int) (out []transaction) {
	next := func(state int, ops ...op) {
		tx := transaction{state: state, ops: ops}
		for range 1 + s.IntN(3) {
			tx.sweep = append(tx.sweep, 1+s.IntN(12))
		}
		out = append(out, tx)
	}
	for range n {
		state := s.IntN(states)
		var ops []op
		for range 1 + s.IntN(6) {
			ops = append(ops, s.op(state))
		}
		next(state, ops...)
	}
	for state := range states {
		end := "flush"
		if s.IntN(4) == 0 {
			end = "discard"
		}
		next(state, op{kind: end}, op{kind: "close", target: 25})
		for range 4 {
			next(state, op{kind: "close", target: 200})
		}
	}
	return out
}

// historyHash puts keys into few groups and few home slots, so that probes and full
// runs are common.
func historyHash(id int64) uint64 {
	return uint64(id%3*341)<<54 | uint64(id%4)<<51 | uint64(id)
}

// commitWord is where a State's last whole batch ended.
type commitWord struct {
	Batch  uint64
	Outbox [2]uint64 // by the batch's lowest bit
}

// A world is the States of one process: what is in regions and rings outlives it.
type world struct {
	tb      testing.TB
	plan    *plan.Plan
	resume  []event.Nanos
	regions []*arena.Region // one a State, and that of the allowance
	rings   []outbox.Ring
	readers []*outbox.Reader
	records [][]string // by State, what came out

	shared   *Shared
	states   []*State
	undos    []*arena.Undo
	commits  []*commitWord
	counters [][]segment.QueryCounters
	writers  []*outbox.Writer
}

func newWorld(tb testing.TB, p *plan.Plan, states int, resume []event.Nanos) *world {
	tb.Helper()
	w := &world{tb: tb, plan: p, resume: resume}
	var words []int
	for i := range p.Queries {
		set, err := aggregate.NewSet(&p.Queries[i], p.Feeds[p.Queries[i].Feed].Columns)
		if err != nil {
			tb.Fatal(err)
		}
		words = append(words, set.Words())
	}
	for range states {
		ring := outbox.Ring{Bytes: make([]byte, 1<<15), Produced: new(atomic.Uint64), Freed: new(atomic.Uint64)}
		w.rings = append(w.rings, ring)
		w.readers = append(w.readers, outbox.NewReader(ring, outbox.Limits{Words: words}))
	}
	w.records = make([][]string, states)
	for range states + 1 {
		r, err := arena.New("history", 1<<32)
		if err != nil {
			tb.Fatal(err)
		}
		w.regions = append(w.regions, r)
	}
	w.build()
	return w
}

// build makes a process's structures over the regions.
func (w *world) build() {
	w.tb.Helper()
	must := func(err error) {
		if err != nil {
			w.tb.Fatal(err)
		}
	}
	n := len(w.rings)
	w.states, w.undos, w.commits, w.counters, w.writers = nil, nil, nil, nil, nil
	var err error
	w.shared, err = NewShared(w.regions[n], len(w.plan.Queries))
	must(err)
	must(w.regions[n].Complete(1))
	warm := false
	for i, r := range w.regions[:n] {
		undo, err := arena.NewUndo(r, 1<<16)
		must(err)
		commit, err := arena.Slice[commitWord](r, "commit", 1)
		must(err)
		counters, err := arena.Slice[segment.QueryCounters](r, "counters", len(w.plan.Queries))
		must(err)
		w.undos, w.commits, w.counters = append(w.undos, undo), append(w.commits, &commit[0]), append(w.counters, counters)
		if warm = r.Warm(); warm {
			_, err := undo.Rollback(commit[0].Batch)
			must(err)
		}
		c := Config{Plan: w.plan, Counters: counters, Undo: undo, Resume: w.resume}
		if n > 1 {
			c.Limit, c.Shared = SharedLimit, w.shared
		}
		state, err := New(c, r)
		must(err)
		must(r.Complete(1))
		w.states = append(w.states, state)
		box := outbox.NewWriter(w.rings[i])
		box.SetPosition(commit[0].Outbox[commit[0].Batch&1])
		w.writers = append(w.writers, box)
	}
	if warm && n > 1 {
		w.shared.Recount(w.states)
	}
}

// reopen is the next process: it has the descriptors.
func (w *world) reopen() {
	w.tb.Helper()
	for i, old := range w.regions {
		fd, err := unix.Dup(old.FD())
		if err != nil {
			w.tb.Fatal(err)
		}
		r, err := arena.Open(fd)
		if err != nil {
			w.tb.Fatal(err)
		}
		_ = old.Close()
		w.regions[i] = r
	}
	w.build()
}

func (w *world) close() {
	for _, r := range w.regions {
		_ = r.Close()
	}
}

// do makes one call.
func (w *world) do(state int, o *op) {
	s := w.states[state]
	s.SetCause(o.cause)
	switch o.kind {
	case "fold":
		s.Fold(o.target, w.keyed(o.target, o.events))
	case "apply":
		b := w.batch(o.target, o.events)
		b.Marks = append(b.Marks, o.marks...)
		var keyed []*event.Keyed
		for i := range w.plan.Streams {
			if w.plan.Streams[i].Feed == o.target {
				keyed = append(keyed, w.keys(i, b, o.events))
			}
		}
		s.Attach(o.target, keyed)
		if !s.Apply(o.target, b) {
			w.tb.Fatal("a State that does not wait stopped")
		}
	case "marks":
		for i := range o.marks {
			s.Mark(o.target, &o.marks[i])
		}
	case "close":
		s.Close(w.writers[state], o.target)
	case "flush":
		s.FlushAll()
	case "discard":
		s.DiscardAll()
	default:
		w.tb.Fatalf("no op is called %q", o.kind)
	}
}

func (w *world) batch(feed int, events []opEvent) *event.Batch {
	b := plan.NewBatch(w.plan.Feeds[feed].Columns)
	for _, e := range events {
		b.Time[b.N], b.Source[b.N] = e.time, e.source
		b.SetNum(0, e.id)
		b.SetNum(1, e.value)
		b.SetText(2, name(e.id))
		b.N++
	}
	return b
}

func name(id int64) []byte { return fmt.Appendf(nil, "key %d", id) }

func (w *world) keyed(stream int, events []opEvent) *event.Keyed {
	return w.keys(stream, w.batch(w.plan.Streams[stream].Feed, events), events)
}

func (w *world) keys(stream int, b *event.Batch, events []opEvent) *event.Keyed {
	st := &w.plan.Streams[stream]
	k := event.NewKeyed(b, st.KeyWidth, len(st.Queries))
	for i, e := range events {
		if st.KeyWidth == 8 {
			k.PutKey(i, binary.BigEndian.AppendUint64(nil, uint64(e.id)))
		} else {
			k.PutKey(i, name(e.id))
		}
		k.Hash[i] = historyHash(e.id)
		for q := range k.Select {
			if (int(e.id)+q)%5 > 0 { // not all queries want all events
				k.Select[q] = append(k.Select[q], uint16(i))
			}
		}
	}
	return k
}

// run does one transaction: it may be killed everywhere in it. With pause the process
// is left where that returns true, between two calls.
func (w *world) run(tx *transaction, pause func() bool) (left bool) {
	i := tx.state
	c := w.commits[i]
	batch := c.Batch + 1
	w.undos[i].Begin(batch)
	arena.SaveSlice(w.undos[i], w.counters[i])
	steps := 1 // the counters
	for o := range tx.ops {
		steps++
		if pause() {
			return true
		}
		w.do(i, &tx.ops[o])
	}
	if used := w.undos[i].Used(); used > steps*SaveMax(w.plan) {
		w.tb.Fatalf("%d steps took %d words of the undo log, said were at most %d a step", steps, used, SaveMax(w.plan))
	}
	if pause() {
		return true
	}
	c.Outbox[batch&1] = w.writers[i].Position()
	fault.Point()
	atomic.StoreUint64(&c.Batch, batch)
	fault.Point()
	return w.settle(tx, pause)
}

// settle does what follows from a commit, as often as it takes.
func (w *world) settle(tx *transaction, pause func() bool) (left bool) {
	i := tx.state
	w.writers[i].Publish()
	fault.Point()
	for n := 0; ; n++ {
		if pause() {
			return true
		}
		if w.states[i].Sweep(tx.sweep[n%len(tx.sweep)]) == 0 {
			return false
		}
	}
}

// read takes out what State i has published.
func (w *world) read(i int) {
	var p outbox.Partial
	for {
		ok, err := w.readers[i].Next(&p)
		if err != nil {
			w.tb.Fatal(err)
		}
		if !ok {
			w.readers[i].Free(w.readers[i].Position())
			return
		}
		w.records[i] = append(w.records[i], fmt.Sprintf("%+v", p))
	}
}

func never() bool { return false }

// disturbed does a transaction with a process that ends at random places, again and
// again, until it is through. It returns how often it ended.
//
// rolledBack is called when the process has ended before the commit, and its memory is
// again what it was before the transaction.
func (w *world) disturbed(r *rand.Rand, tx *transaction, rolledBack func()) (deaths int) {
	i := tx.state
	target := w.commits[i].Batch + 1
	pause := never
	if r.IntN(6) == 0 {
		pause = func() bool { return r.IntN(6) == 0 }
	}
	threaten := func(often, far int) {
		if fault.On && r.IntN(often) == 0 {
			killtest.Arm(1 + int64(r.IntN(far)))
		}
	}
	for {
		threaten(8, []int{30, 300, 2000}[r.IntN(3)])
		left := false
		dead := killtest.Attempt(func() {
			if w.commits[i].Batch < target {
				left = w.run(tx, pause)
			} else {
				left = w.settle(tx, pause)
			}
		})
		if !dead && !left {
			return deaths
		}
		deaths++
		for {
			threaten(8, 40)
			again := killtest.Attempt(w.reopen)
			if !again {
				break
			}
			deaths++
		}
		if w.commits[i].Batch < target && r.IntN(4) == 0 {
			rolledBack()
		}
		if deaths > 20 {
			pause = never
		}
	}
}

// Whenever a process ends, the next one over its memory goes on as if nothing had
// been: the outbox's records and every byte of memory are those of a process that
// never ended.
func TestAProcessThatEndsAnywhereLeavesNoTrace(t *testing.T) {
	deaths, records := 0, 0
	for n := range uint64(*histories) {
		seed := *firstSeed + n
		r := rand.New(rand.NewPCG(seed, 5))
		states := 1 + r.IntN(2)
		p := historyPlan(states, 2)
		var resume []event.Nanos
		if r.IntN(4) == 0 {
			resume = []event.Nanos{100, event.MinNanos, 80, 90}
		}
		s := &scribe{Rand: r, plan: p, now: []event.Nanos{100, 100}}
		txs := s.history(states, 4+r.IntN(20))
		quiet, loud := newWorld(t, p, states, resume), newWorld(t, p, states, resume)
		for i := range txs {
			deaths += loud.disturbed(r, &txs[i], func() {
				if at, same := sameMemory(t, quiet.regions[txs[i].state], loud.regions[txs[i].state]); !same {
					t.Fatalf("seed %d, transaction %d was rolled back: byte %d differs, in %s", seed, i, at, place(loud.regions[0], at))
				}
			})
			loud.read(txs[i].state)
			quiet.run(&txs[i], never)
			quiet.read(txs[i].state)
			for j := range loud.counters {
				for q := range loud.counters[j] {
					if got, want := loud.counters[j][q], quiet.counters[j][q]; got != want {
						t.Fatalf("seed %d, transaction %d: state %d, query %d counted %+v, want %+v", seed, i, j, q, got, want)
					}
				}
			}
			if diff := difference(loud.records[txs[i].state], quiet.records[txs[i].state]); diff != "" {
				t.Fatalf("seed %d, transaction %d: %s", seed, i, diff)
			}
			if a, b := quiet.allowance(), loud.allowance(); a != b {
				t.Fatalf("seed %d, transaction %d: the allowance is\n%s\nwant\n%s", seed, i, b, a)
			}
		}
		for i := range quiet.records {
			records += len(quiet.records[i])
		}
		for i := range quiet.states {
			if at, same := sameMemory(t, quiet.regions[i], loud.regions[i]); !same {
				t.Fatalf("seed %d: region %d differs at byte %d, in %s", seed, i, at, place(loud.regions[i], at))
			}
		}
		quiet.close()
		loud.close()
	}
	t.Logf("%d histories, %d deaths, %d records", *histories, deaths, records)
	if *histories >= 40 && (deaths < 2**histories || records < 10**histories) {
		t.Errorf("%d deaths and %d records in %d histories: they are not what they should be", deaths, records, *histories)
	}
}

// difference describes the first place where two lists differ.
func difference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i == len(got):
			return fmt.Sprintf("%d records, the next should be %s", i, want[i])
		case i == len(want):
			return fmt.Sprintf("record %d is %s, there should be none", i, got[i])
		case got[i] != want[i]:
			return fmt.Sprintf("record %d is %s, want %s", i, got[i], want[i])
		}
	}
	return ""
}

// allowance is what is drawn for the windows that are open.
func (w *world) allowance() string {
	var out strings.Builder
	for _, s := range w.states {
		for n := range s.queries {
			for i := range s.queries[n].panes {
				if p := &s.queries[n].panes[i]; p.State == paneOpen {
					c, _ := w.shared.cell(n, p.Index)
					fmt.Fprintf(&out, "query %d window %d: %x\n", n, p.Index, *c)
				}
			}
		}
	}
	return out.String()
}

// place says what lies at a byte of a region.
func place(r *arena.Region, at int) string {
	end := 64
	for _, l := range r.Lines() {
		if end += l.Bytes; at < end {
			return fmt.Sprintf("%q, %d bytes before its end", l.Label, end-at)
		}
	}
	return "nothing"
}

// sameMemory compares what two regions hold, but for the undo log and the commit word.
func sameMemory(tb testing.TB, a, b *arena.Region) (at int, same bool) {
	tb.Helper()
	for _, r := range []*arena.Region{a, b} {
		for at := int64(0); ; {
			from, err := unix.Seek(r.FD(), at, unix.SEEK_DATA)
			if err != nil || from >= int64(r.Used()) {
				break
			}
			if at, err = unix.Seek(r.FD(), from, unix.SEEK_HOLE); err != nil {
				tb.Fatal(err)
			}
			x, y := content(tb, a, from, at), content(tb, b, from, at)
			if !bytes.Equal(x, y) {
				for i := range x {
					if x[i] != y[i] {
						return int(from) + i, false
					}
				}
			}
		}
	}
	return 0, true
}

func content(tb testing.TB, r *arena.Region, from, to int64) []byte {
	tb.Helper()
	out := make([]byte, to-from)
	if _, err := unix.Pread(r.FD(), out, from); err != nil {
		tb.Fatal(err)
	}
	end := int64(64)
	for _, l := range r.Lines() {
		begin := end
		end += int64(l.Bytes)
		if (l.Label == "undo log" || l.Label == "commit") && begin < to && end > from {
			clear(out[max(begin, from)-from : min(end, to)-from])
		}
	}
	return out
}
