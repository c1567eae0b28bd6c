package window

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault/killtest"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// A fleet is a world whose States have folded the same marks, each the events of its
// own key groups.
type fleet struct {
	*world
	owner [event.GroupCount]int
	rows  []string
}

func newFleet(tb testing.TB, p *plan.Plan, states int, r *rand.Rand) *fleet {
	tb.Helper()
	f := &fleet{world: newWorld(tb, p, states, nil)}
	for g := range f.owner {
		f.owner[g] = r.IntN(states)
	}
	return f
}

// A step is one release: events of one source, and what is known of it then.
type step struct {
	feed   int
	events []opEvent
	marks  []event.Mark
}

// release makes a step in which nothing is dropped: what becomes of a dropped event may
// depend on which windows its worker has.
func (s *scribe) release(sources []uint32) step {
	s.now[0] += event.Nanos(s.IntN(4))
	st := step{feed: s.IntN(2)}
	source := uint32(0)
	if st.feed == 0 {
		source = sources[s.IntN(len(sources))]
	}
	latest := event.MinNanos
	for range 1 + s.IntN(12) {
		e := opEvent{time: s.now[0] - event.Nanos(s.IntN(6)), source: source, id: int64(s.IntN(30)), value: int64(s.IntN(1000))}
		latest = max(latest, e.time)
		st.events = append(st.events, e)
	}
	add := func(m event.Mark) {
		m.Source = source
		st.marks = append(st.marks, m)
	}
	add(event.Mark{Kind: event.MarkRelease, Time: latest})
	switch s.IntN(12) {
	case 0:
		s.gaps++
		add(event.Mark{Kind: event.MarkGapOpen, Gap: s.gaps, Time: latest, Count: 3})
	case 1:
		add(event.Mark{Kind: event.MarkGapClose, Gap: s.gaps, Time: latest})
	case 2:
		s.gaps++
		add(event.Mark{Kind: event.MarkHit, Gap: s.gaps, Time: latest})
	case 3:
		add(event.Mark{Kind: event.MarkRetire, Time: latest})
	}
	return st
}

// take does a step on every State, with sources as they are numbered by now.
func (f *fleet) take(st *step, numbers map[uint32]uint32) {
	renumbered := func(source uint32) uint32 {
		if to, ok := numbers[source]; ok {
			return to
		}
		return source
	}
	marks := slices.Clone(st.marks)
	for i := range marks {
		marks[i].Source = renumbered(marks[i].Source)
	}
	for i := range f.states {
		var own []opEvent
		for _, e := range st.events {
			if f.owner[event.Group(historyHash(e.id))] == i {
				e.source = renumbered(e.source)
				own = append(own, e)
			}
		}
		tx := &transaction{state: i, sweep: []int{100}}
		for stream := range f.plan.Streams {
			if f.plan.Streams[stream].Feed == st.feed {
				tx.ops = append(tx.ops, op{kind: "fold", target: stream, events: own})
			}
		}
		tx.ops = append(tx.ops, op{kind: "marks", target: st.feed, marks: marks})
		f.run(tx, never)
		f.settleDown(i)
	}
}

// settleDown puts out what closes.
func (f *fleet) settleDown(i int) {
	for f.states[i].Closing() {
		f.run(&transaction{state: i, ops: []op{{kind: "close", target: 100}}, sweep: []int{100}}, never)
		f.collect(i)
	}
}

// collect reads rows, and says of which query they are in a way that no plan changes.
func (f *fleet) collect(i int) {
	var p outbox.Partial
	for {
		ok, err := f.readers[i].Next(&p)
		if err != nil {
			f.tb.Fatal(err)
		}
		if !ok {
			f.readers[i].Free(f.readers[i].Position())
			return
		}
		if name := f.plan.Queries[p.Query].Name; p.Kind == outbox.KindPartial && name != "more" {
			p.Query = 0
			f.rows = append(f.rows, fmt.Sprintf("%s %+v", name, p))
		}
	}
}

func (f *fleet) finish() []string {
	for i := range f.states {
		f.run(&transaction{state: i, ops: []op{{kind: "flush"}}, sweep: []int{100}}, never)
		f.settleDown(i)
	}
	slices.Sort(f.rows)
	return f.rows
}

func pairs(n int) (out []Pair) {
	for i := range n {
		out = append(out, Pair{i, i})
	}
	return out
}

// moveGroup copies a group and lets the one that had it forget it.
func moveGroup(dst, src *State, queries []Pair, group int) error {
	if err := CopyGroup(dst, src, queries, group); err != nil {
		return err
	}
	src.ClearGroup(group)
	return nil
}

// move moves a group, perhaps with a process that ends in it: then it is taken back, or
// brought to its end.
func (f *fleet) move(r *rand.Rand, group, to int) (deaths int) {
	from, queries := f.owner[group], pairs(len(f.plan.Queries))
	if from == to {
		return 0
	}
	copied := false
	threaten := func() {
		if r.IntN(3) == 0 {
			killtest.Arm(1 + int64(r.IntN(80)))
		}
	}
	step := func(do func()) {
		for {
			threaten()
			dead := killtest.Attempt(do)
			if !dead && r.IntN(8) > 0 {
				return
			}
			deaths++
			f.reopen()
			if !copied && dead {
				f.states[to].ClearGroup(group)
				f.inspect(group, from)
			} else if !dead {
				return // it ended when this was done
			}
		}
	}
	step(func() {
		if err := CopyGroup(f.states[to], f.states[from], queries, group); err != nil {
			f.tb.Fatal(err)
		}
		copied = true
	})
	if r.IntN(10) == 0 { // not after all
		f.states[to].ClearGroup(group)
		f.inspect(group, from)
		return deaths
	}
	step(func() { f.states[from].ClearGroup(group) })
	f.owner[group] = to
	f.inspect(group, to)
	return deaths
}

// inspect checks that nobody but its owner has anything of a group, not even in memory
// that counts as empty.
func (f *fleet) inspect(group, owner int) {
	f.tb.Helper()
	for i, s := range f.states {
		for n := range s.queries {
			q := &s.queries[n]
			for slot := range q.panes {
				used, entries := q.usedOf(slot, group), uint32(0)
				for at := range q.geometry.Slots {
					begin := slot*q.geometry.PaneWords + group*q.geometry.RunWords + at*q.geometry.Stride
					entry := q.mem[begin : begin+q.geometry.Stride]
					if used[at/64]>>(at%64)&1 != 0 {
						entries++
					} else if slices.ContainsFunc(entry, func(w uint64) bool { return w != 0 }) {
						f.tb.Fatalf("State %d, query %d, pane %d: an empty slot of group %d holds %x", i, n, slot, group, entry)
					}
				}
				if count := q.groups[slot*event.GroupCount+group]; count != entries || count > 0 && i != owner {
					f.tb.Fatalf("State %d, query %d, pane %d: %d entries of group %d, counted are %d, its owner is %d", i, n, slot, entries, group, count, owner)
				}
			}
		}
	}
}

// another is the plan with its queries and streams in another order, and one more.
func another(workers int) *plan.Plan {
	p := historyPlan(workers, 5)
	widen(p)
	p.Queries = append(p.Queries[2:4:4], p.Queries[0], p.Queries[1], p.Queries[0])
	p.Queries[4].Name, p.Queries[4].Width = "more", 70
	p.Streams = []plan.Stream{p.Streams[2], p.Streams[1], p.Streams[0]}
	for i, s := range []int{1, 0, 2, 2, 2} {
		p.Queries[i].Stream = s
	}
	p.Streams[0].Queries, p.Streams[1].Queries, p.Streams[2].Queries = []int{1}, []int{0}, []int{2, 3, 4}
	return p
}

// widen makes room, so that nothing is dropped.
func widen(p *plan.Plan) {
	for i := range p.Queries {
		p.Queries[i].Keys, p.Queries[i].Panes = 1000, 12
		p.Queries[i].Idle = 0
	}
	p.Feeds[0].Channels = 5
}

// replan goes on with another plan and another number of States.
func (f *fleet) replan(r *rand.Rand, p *plan.Plan, states int) *fleet {
	next := newFleet(f.tb, p, states, r)
	next.rows = f.rows
	var queries []Pair
	for i := range f.plan.Queries {
		for j := range p.Queries {
			if p.Queries[j].Name == f.plan.Queries[i].Name {
				queries = append(queries, Pair{Dst: j, Src: i})
			}
		}
	}
	for _, s := range next.states {
		for {
			if r.IntN(2) == 0 {
				killtest.Arm(1 + int64(r.IntN(30)))
			}
			var err error
			dead := killtest.Attempt(func() { err = CopyLevels(s, f.states[r.IntN(len(f.states))], pairs(len(p.Feeds)), queries, nil) })
			if err != nil {
				f.tb.Fatal(err)
			}
			if !dead {
				break
			}
		}
	}
	for group := range next.owner {
		if err := moveGroup(next.states[next.owner[group]], f.states[f.owner[group]], queries, group); err != nil {
			f.tb.Fatal(err)
		}
	}
	if states > 1 {
		next.shared.Recount(next.states)
	}
	for _, s := range f.states {
		for q := range s.queries {
			for i := range s.queries[q].panes {
				if p := &s.queries[q].panes[i]; p.Count > 0 && f.plan.Queries[q].Name != "more" {
					f.tb.Fatalf("query %d: %d keys were left behind", q, p.Count)
				}
			}
		}
	}
	f.close()
	return next
}

// Key groups move between States, channels between workers' places, and all of it to
// the States of another plan, in a process that ends in the middle of it: the rows are
// those of States that kept what they had.
func TestWhatMovesBetweenStatesMakesTheSameRows(t *testing.T) {
	moves, deaths, rows, plans := 0, 0, 0, 0
	count := (*histories + 3) / 4 // they are longer than the others
	for n := range uint64(count) {
		seed := *firstSeed + n
		r := rand.New(rand.NewPCG(seed, 6))
		states := 2 + r.IntN(3)
		p := historyPlan(states, 4)
		widen(p)
		s := &scribe{Rand: r, plan: p, now: []event.Nanos{100}}
		sources := []uint32{0, 1, plan.SourceStride, plan.SourceStride + 2}
		still, moving := newFleet(t, p, states, r), newFleet(t, p, states, r)
		renumbered := map[uint32]uint32{}
		for range 20 + r.IntN(60) {
			st := s.release(sources)
			still.take(&st, nil)
			moving.take(&st, renumbered)
			if r.IntN(3) == 0 {
				for range 1 + r.IntN(3) {
					// Keys are in three groups; others are empty.
					group := []int{0, 341, 682, r.IntN(event.GroupCount)}[r.IntN(4)]
					deaths += moving.move(r, group, r.IntN(len(moving.states)))
					moves++
				}
			}
			if r.IntN(8) == 0 {
				moving.renumber(r, sources, renumbered)
			}
			if r.IntN(30) == 0 {
				next := another(1 + r.IntN(4))
				if r.IntN(2) == 0 {
					next = historyPlan(1+r.IntN(4), 4)
					widen(next)
				}
				moving = moving.replan(r, next, next.Workers)
				plans++
			}
		}
		want, got := still.finish(), moving.finish()
		if diff := difference(got, want); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		rows += len(want)
		still.close()
		moving.close()
	}
	t.Logf("%d histories, %d moves, %d plans, %d deaths, %d rows", count, moves, plans, deaths, rows)
	if count >= 10 && (moves < 5*count || deaths < count/2 || plans < count/4 || rows < 50*count) {
		t.Error("the histories are not what they should be")
	}
}

// renumber moves a channel to a free place of some worker, on every State.
func (f *fleet) renumber(r *rand.Rand, sources []uint32, numbers map[uint32]uint32) {
	f.tb.Helper()
	source := sources[r.IntN(len(sources))]
	now, ok := numbers[source]
	if !ok {
		now = source
	}
	to := uint32(r.IntN(3))*plan.SourceStride + uint32(r.IntN(5))
	for _, s := range sources {
		if at, ok := numbers[s]; ok && at == to || !ok && s == to {
			return
		}
	}
	for _, s := range f.states {
		for {
			if r.IntN(3) == 0 {
				killtest.Arm(1 + int64(r.IntN(6)))
			}
			var err error
			dead := killtest.Attempt(func() { err = s.RenumberSource(0, now, to) })
			if err != nil {
				f.tb.Fatal(err)
			}
			if !dead {
				break
			}
		}
	}
	numbers[source] = to
}

// What was dropped beside a window is known wherever the window goes.
func TestWhatAWindowHasLostMovesWithIt(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 8))
	p := historyPlan(2, 2)
	widen(p)
	p.Queries[0].Keys = 2
	old := newFleet(t, p, 2, r)
	for g := range old.owner {
		old.owner[g] = 0
	}
	var events []opEvent
	for id := range int64(9) {
		events = append(events, opEvent{time: 100, id: id})
	}
	st := step{feed: 0, events: events, marks: []event.Mark{{Kind: event.MarkRelease, Time: 100}}}
	old.take(&st, nil)
	if old.counters[0][0].Drops[event.DropKeyLimit] == 0 {
		t.Fatal("no key was one too many")
	}
	old.states[0].queries[1].mark[0].Hit = 77 // windows that nobody has a pane of yet
	if err := moveGroup(old.states[1], old.states[0], pairs(4), 5); err != nil {
		t.Fatal(err)
	}
	if hit := old.states[1].queries[1].mark[0].Hit; hit != 77 {
		t.Errorf("windows up to %d are incomplete where a group went, want 77", hit)
	}
	old.states[0].queries[1].mark[0].Hit = beforeAll
	for _, states := range []int{1, 2} {
		next := newFleet(t, p, states, r)
		if err := CopyLevels(next.states[0], old.states[0], pairs(2), pairs(4), nil); err != nil {
			t.Fatal(err)
		}
		for group := range event.GroupCount {
			if err := CopyGroup(next.states[0], old.states[0], pairs(4), group); err != nil {
				t.Fatal(err)
			}
		}
		next.shared.CopyMarks(old.shared, pairs(4))
		if states == 2 && !next.shared.marked(0, 10) {
			t.Error("the mark was left behind")
		}
		for _, row := range next.finish() {
			if strings.HasPrefix(row, "sums") != strings.Contains(row, "Flags:3") {
				t.Errorf("%d States: %s", states, row)
			}
		}
		next.close()
	}
	old.close()
}

func TestAMoveThatCannotBeIsRefusedBeforeAnythingChanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 7))
	p := historyPlan(2, 2)
	widen(p)
	s := &scribe{Rand: r, plan: p, now: []event.Nanos{100}}
	f := newFleet(t, p, 2, r)
	for g := range f.owner {
		f.owner[g] = 0
	}
	for range 10 {
		st := s.release([]uint32{0})
		f.take(&st, nil)
	}
	from, to := f.states[0], f.states[1]
	refused := func(err error, words ...string) {
		t.Helper()
		if err == nil {
			t.Fatal("it was not refused")
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q does not say %q", err, w)
			}
		}
		for q := range to.queries {
			for i := range to.queries[q].panes {
				if to.queries[q].panes[i].Count > 0 {
					t.Fatal("something was moved")
				}
			}
		}
	}
	// No pane is free.
	names := &to.queries[2]
	kept := slices.Clone(names.panes)
	for i := range names.panes {
		names.panes[i] = pane{State: paneOpen, Index: int64(1000 + i)}
	}
	refused(moveGroup(to, from, pairs(4), 0), "key group 0", "query names", "0 panes are free", "panes`")
	copy(names.panes, kept)
	// Another query.
	refused(moveGroup(to, from, []Pair{{Dst: 0, Src: 1}}, 0), "query bars", "windows of")
	// Windows are closing.
	from.FlushAll()
	refused(moveGroup(to, from, pairs(4), 0), "while windows close")
	refused(CopyLevels(to, from, pairs(2), pairs(4), nil), "while windows close")
	refused(moveGroup(to, from, pairs(4), event.GroupCount), "key group 1024")
	// A place that is taken, and one that there is not.
	st := step{feed: 0, marks: []event.Mark{{Kind: event.MarkRelease, Source: 1, Time: 100}}}
	f.take(&st, nil)
	if err := to.RenumberSource(0, 0, 1); err == nil || !strings.Contains(err.Error(), "must be free") {
		t.Errorf("got %v", err)
	}
	if err := to.RenumberSource(0, 0, 7*plan.SourceStride); err == nil || !strings.Contains(err.Error(), "no channel 0 of worker 7") {
		t.Errorf("got %v", err)
	}
}

// Two sources change places, and one worker is behind another: what was open there closes
// where it goes.
func TestLevelsGoOnUnderOtherNumbers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	p := historyPlan(2, 2)
	widen(p)
	old := newFleet(t, p, 2, r)
	for g := range old.owner {
		old.owner[g] = 1
	}
	there := uint32(plan.SourceStride)
	for _, source := range []uint32{0, there} { // in this order: the gaps are looked at by place
		at := map[uint32]event.Nanos{0: 100, there: 90}[source]
		st := step{feed: 0, marks: []event.Mark{
			{Kind: event.MarkRelease, Source: source, Time: at},
			{Kind: event.MarkGapOpen, Source: source, Gap: 1, Time: at, Count: uint64(at)},
		}}
		st.events = []opEvent{{time: at, source: source, id: 7}}
		old.take(&st, nil)
	}
	as := func(feed int, n uint32) (uint32, bool) { return there - n, feed == 0 }
	next := newFleet(t, p, 2, r)
	for i := range next.states {
		if err := CopyLevels(next.states[i], old.states[1], pairs(2), pairs(4), as); err != nil {
			t.Fatal(err)
		}
		if err := CopyGroup(next.states[i], old.states[1], pairs(4), event.Group(historyHash(7))); err != nil {
			t.Fatal(err)
		}
	}
	s := next.states[0]
	f := &s.feeds[0]
	if a, b := f.sources[f.number(0)].Max, f.sources[f.number(there)].Max; a != 90 || b != 100 || f.counts[0].Active != 2 {
		t.Errorf("sources are at %d and %d, want 90 and 100", a, b)
	}
	for _, g := range f.gaps[:s.Gaps(0)] {
		if want := map[uint32]uint64{f.number(0): 90, f.number(there): 100}[g.Source]; g.Count != want || g.Open == 0 {
			t.Errorf("gap %+v, want one of %d", g, want)
		}
	}
	gone := func(_ int, n uint32) (uint32, bool) {
		if n == 0 {
			return Gone, true
		}
		return n, true
	}
	third := newFleet(t, p, 1, r)
	if err := CopyLevels(third.states[0], old.states[1], pairs(2), nil, gone); err != nil {
		t.Fatal(err)
	}
	if g := &third.states[0].feeds[0]; g.counts[0].Active != 1 || g.sources[0] != (source{}) || g.gaps[0].Open != 0 || g.gaps[0].To != 100 || g.gaps[1].Open != 1 {
		t.Errorf("%+v, %+v, %+v: want one source and one open gap", g.sources, g.gaps[:2], g.counts)
	}
	never := func(int, uint32) (uint32, bool) { return 0, false }
	other := newFleet(t, p, 1, r)
	if err := CopyLevels(other.states[0], old.states[1], pairs(2), nil, never); err == nil {
		t.Error("a source that has no number any more is forgotten")
	}
	q, open := &s.queries[0], 0
	for i := range q.panes {
		if q.panes[i].State == paneOpen {
			open++
		}
	}
	if open == 0 {
		t.Fatal("no window is open")
	}
	s.Continue(0, q.mark[0].Time)
	if s.Closing() || q.mark[0].Told == q.mark[0].Index {
		t.Errorf("%+v: windows close, or the outbox is not told again", q.mark[0])
	}
	s.Continue(0, 100+event.Nanos(10*q.plan.Width))
	if int(q.mark[0].Closing) != open || s.Watermark(0) != 100+event.Nanos(10*q.plan.Width) {
		t.Errorf("%+v: %d windows were open behind the watermark", q.mark[0], open)
	}
	s.BeginLate(1)
	if l := s.queries[1].mark[0]; l.Hit != s.queries[1].index(100) {
		t.Errorf("windows up to %d are incomplete, want those up to %d", l.Hit, s.queries[1].index(100))
	}
	for _, f := range []*fleet{old, next, other, third} {
		f.close()
	}
}
