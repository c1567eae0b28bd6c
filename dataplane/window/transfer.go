package window

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/plan"
)

// State goes from one [State] to another while neither is in use: a key group to the
// worker that owns it from now on, everything to the workers of another plan. It is no
// part of a batch, and not saved: what was begun before a kill is finished or taken
// back by who ordered it, as each function says. Undo logs must be empty.

// A Pair names a query, or a feed, in two States, which may be of two plans.
type Pair struct{ Dst, Src int }

// Quiescent reports that no pane is closing or waits to be cleared: then state can go
// to another State.
func (s *State) Quiescent() bool { return s.closing == 0 && s.spent == 0 && s.waiting == 0 }

// CopyGroup copies a key group's entries in every open pane of the queries from src to
// dst. Windows that dst has no pane of are opened. It returns an error before anything
// is changed if that cannot be: the two are not [State.Quiescent], the queries differ,
// dst has entries of the group, is ahead of src, or has too few free panes.
//
// What it began before a kill [State.ClearGroup] of dst takes back.
func CopyGroup(dst, src *State, queries []Pair, group int) error {
	if group < 0 || group >= event.GroupCount {
		return fmt.Errorf("window: key group %d, there are %d", group, event.GroupCount)
	}
	if !dst.Quiescent() || !src.Quiescent() {
		return fmt.Errorf("window: key group %d cannot move while windows close: put them out and clear them first", group)
	}
	for _, p := range queries {
		if err := canTake(dst, src, p, group); err != nil {
			return fmt.Errorf("window: key group %d cannot move: query %s: %w", group, src.queries[p.Src].plan.Name, err)
		}
	}
	for _, p := range queries {
		from, to := &src.queries[p.Src], &dst.queries[p.Dst]
		to.mark[0].Hit = max(to.mark[0].Hit, from.mark[0].Hit)
		for slot := range from.panes {
			if flags, some := luggage(dst, src, from, slot, group); some {
				to.takeGroup(from, slot, group, flags)
			}
		}
	}
	return nil
}

// luggage returns the flags that a group takes along from pane number slot of q, one of
// src's queries, and whether it takes anything. Where the States share no allowance,
// what is marked there goes with the pane.
func luggage(dst, src *State, q *query, slot, group int) (flags uint32, some bool) {
	p := &q.panes[slot]
	if p.State != paneOpen {
		return 0, false
	}
	flags = p.Flags
	if shared := src.config.Shared; shared != nil && shared != dst.config.Shared && shared.marked(q.number, p.Index) {
		flags |= flagIncomplete
	}
	return flags, flags != 0 || q.groups[slot*event.GroupCount+group] > 0
}

func canTake(dst, src *State, p Pair, group int) error {
	from, to := &src.queries[p.Src], &dst.queries[p.Dst]
	if err := alike(dst.config.Plan, src.config.Plan, to, from); err != nil {
		return err
	}
	free, needed := 0, 0
	for slot := range to.panes {
		if to.panes[slot].State == paneFree {
			free++
		} else if n := to.groups[slot*event.GroupCount+group]; n > 0 {
			return fmt.Errorf("window %d has %d keys of it already", to.panes[slot].Index, n)
		}
	}
	for slot := range from.panes {
		if _, some := luggage(dst, src, from, slot, group); !some {
			continue
		}
		i := from.panes[slot].Index
		if i < to.mark[0].Index {
			return fmt.Errorf("window %d is open, and behind the watermark where it is to go: marks are under way", i)
		}
		if to.slotOf(i) < 0 {
			needed++
		}
	}
	if needed > free {
		return fmt.Errorf("%d panes are free and %d needed: more `panes`, or try again when windows have closed", free, needed)
	}
	return nil
}

// alike reports how two queries differ in what their panes hold.
func alike(toPlan, fromPlan *plan.Plan, to, from *query) error {
	a, b := to.plan, from.plan
	switch {
	case a.Width != b.Width || a.Offset != b.Offset:
		return fmt.Errorf("windows of %v offset by %v are not windows of %v offset by %v", b.Width, b.Offset, a.Width, a.Offset)
	case to.geometry != from.geometry || to.keyWidth != from.keyWidth:
		return fmt.Errorf("tables of %+v are not tables of %+v: keys or aggregates differ", from.geometry, to.geometry)
	case len(a.Aggregates) != len(b.Aggregates):
		return fmt.Errorf("%d aggregates are not %d", len(b.Aggregates), len(a.Aggregates))
	}
	toColumns, fromColumns := toPlan.Feeds[a.Feed].Columns, fromPlan.Feeds[b.Feed].Columns
	if !sameColumns(toPlan.Streams[a.Stream].Key, fromPlan.Streams[b.Stream].Key, toColumns, fromColumns) {
		return fmt.Errorf("keys are other columns")
	}
	for i := range a.Aggregates {
		x, y := &a.Aggregates[i], &b.Aggregates[i]
		if x.Kind != y.Kind || len(x.Args) != len(y.Args) {
			return fmt.Errorf("aggregate %d is %v and was %v", i+1, x.Kind, y.Kind)
		}
		for j := range x.Args {
			if !sameProgram(&x.Args[j], &y.Args[j], toColumns, fromColumns) {
				return fmt.Errorf("argument %d of aggregate %d differs", j+1, i+1)
			}
		}
	}
	return nil
}

func sameColumns(a, b []int, of, was []plan.Column) bool {
	return slices.EqualFunc(a, b, func(x, y int) bool { return sameColumn(&of[x], &was[y]) })
}

func sameColumn(a, b *plan.Column) bool {
	return a.Name == b.Name && a.Type == b.Type && a.Scale == b.Scale
}

// sameProgram compares what two programs compute: a column's number may differ between
// plans, since a feed has the columns that its queries need.
func sameProgram(a, b *plan.Program, of, was []plan.Column) bool {
	return a.Type == b.Type && slices.EqualFunc(a.Ops, b.Ops, func(x, y plan.Op) bool {
		if x.Code == plan.OpColumn && y.Code == plan.OpColumn {
			if !sameColumn(&of[x.Column], &was[y.Column]) {
				return false
			}
			x.Column = y.Column
		}
		return x == y
	})
}

// takeGroup copies a group's entries from pane number slot of another query, and sets
// the flags that the pane has earned there.
func (q *query) takeGroup(from *query, slot, group int, flags uint32) {
	p := &from.panes[slot]
	at := q.slotOf(p.Index)
	if at < 0 {
		at = q.openPane(nil, p.Index)
	}
	q.panes[at].Flags |= flags
	fault.Point()
	used, theirs := q.usedOf(at, group), from.usedOf(slot, group)
	// The map first: after a kill it says what may not be clear.
	copy(used, theirs)
	fault.Point()
	g := &q.geometry
	to, run := at*g.PaneWords+group*g.RunWords, slot*g.PaneWords+group*g.RunWords
	for i, ok := nextUsed(theirs, 0); ok; i, ok = nextUsed(theirs, i+1) {
		copy(q.mem[to+i*g.Stride:][:g.Stride], from.mem[run+i*g.Stride:][:g.Stride])
		fault.Point()
	}
	n := from.groups[slot*event.GroupCount+group]
	q.groups[at*event.GroupCount+group] = n
	fault.Point()
	q.panes[at].Count += uint64(n)
	fault.Point()
}

// ClearGroup forgets a key group in every open pane. It is called again after a kill.
func (s *State) ClearGroup(group int) {
	for n := range s.queries {
		q := &s.queries[n]
		for slot := range q.panes {
			if q.panes[slot].State == paneOpen {
				q.clearGroup(slot, group)
			}
		}
	}
}

func (q *query) clearGroup(slot, group int) {
	at := slot*event.GroupCount + group
	q.clearEntries(slot, group)
	q.panes[slot].Count -= uint64(q.groups[at])
	fault.Point()
	q.groups[at] = 0
	fault.Point()
	clear(q.usedOf(slot, group)) // last: after a kill the numbers are derived from it
	fault.Point()
}

// A Renumber returns the number that source old of a feed of src has in dst, both as in
// [event.Mark.Source], and whether it has one.
//
// The new number of a source that does not go on is [Gone]: it is as if it had retired.
type Renumber func(feed int, old uint32) (now uint32, ok bool)

// Gone is the number of no source.
const Gone = noSource

// CopyLevels gives dst what src knows of feeds and of the windows of queries as a
// whole: sources, gaps and watermarks, all that every State that has folded the same
// marks knows. dst has no pane of the queries yet. After a kill it is called again.
//
// With as, sources have new numbers: their channels have gone to other places, which may
// be those of others before them. nil: they stay.
func CopyLevels(dst, src *State, feeds, queries []Pair, as Renumber) error {
	if !dst.Quiescent() || !src.Quiescent() {
		return fmt.Errorf("window: watermarks cannot be copied while windows close: put them out and clear them first")
	}
	for _, p := range feeds {
		if err := canKnow(&dst.feeds[p.Dst], &src.feeds[p.Src], dst.feeds[p.Dst].placing(&src.feeds[p.Src], p.Src, as)); err != nil {
			return fmt.Errorf("window: feed %s: %w", src.feeds[p.Src].plan.Name, err)
		}
	}
	for _, p := range queries {
		q := &dst.queries[p.Dst]
		if slices.ContainsFunc(q.panes, func(p pane) bool { return p.State != paneFree }) {
			return fmt.Errorf("window: query %s has windows already: watermarks are copied first", q.plan.Name)
		}
		if err := alike(dst.config.Plan, src.config.Plan, q, &src.queries[p.Src]); err != nil {
			return fmt.Errorf("window: query %s: %w", q.plan.Name, err)
		}
	}
	for _, p := range feeds {
		f, other := &dst.feeds[p.Dst], &src.feeds[p.Src]
		f.copyFrom(other, f.placing(other, p.Src, as))
	}
	for _, p := range queries {
		l := src.queries[p.Src].mark[0]
		l.First, l.Closing = 0, 0
		dst.queries[p.Dst].mark[0] = l
		fault.Point()
	}
	for i := range dst.feeds {
		dst.findQuiet(&dst.feeds[i])
	}
	return nil
}

// canKnow reports why f cannot have the sources of another State's feed.
func canKnow(f, other *feed, place func(uint32) (uint32, bool)) error {
	if (f.plan.Sequence == plan.Unsequenced) != (other.plan.Sequence == plan.Unsequenced) {
		return fmt.Errorf("one is sequenced and the other is not")
	}
	for n := range other.sources {
		if _, ok := place(uint32(n)); !ok && other.needs(uint32(n)) {
			return fmt.Errorf("channel %d of worker %d has no place among %d channels of %d workers: move it first",
				n%other.channels, n/other.channels, f.channels, len(f.sources)/f.channels)
		}
	}
	return nil
}

// needs reports whether source n has a state, or a gap that is not over.
func (f *feed) needs(n uint32) bool {
	return f.sources[n] != source{} ||
		slices.ContainsFunc(f.gaps[:f.counts[0].Gaps], func(g gap) bool { return g.Source == n && g.Open != 0 })
}

// place returns the number here of source n of other, and whether there is one.
func (f *feed) place(other *feed, n uint32) (uint32, bool) {
	worker, channel := int(n)/other.channels, int(n)%other.channels
	at := worker*f.channels + channel
	return uint32(at), channel < f.channels && at < len(f.sources)
}

// placing returns the function from the numbers of other's sources, feed number of its
// State, to those here.
func (f *feed) placing(other *feed, number int, as Renumber) func(uint32) (uint32, bool) {
	if as == nil || f.plan.Sequence == plan.Unsequenced {
		return func(n uint32) (uint32, bool) { return f.place(other, n) }
	}
	return func(n uint32) (uint32, bool) {
		channels := uint32(other.channels)
		now, ok := as(number, n/channels*plan.SourceStride+n%channels)
		if ok && now == Gone {
			return noSource, true
		}
		if !ok || int(now%plan.SourceStride) >= f.channels || int(now/plan.SourceStride) >= len(f.sources)/f.channels {
			return 0, false
		}
		return f.number(now), true
	}
}

func (f *feed) copyFrom(other *feed, place func(uint32) (uint32, bool)) {
	clear(f.sources)
	fault.Point()
	for n, src := range other.sources {
		if at, ok := place(uint32(n)); ok && at != noSource {
			f.sources[at] = src
			fault.Point()
		}
	}
	f.counts[0] = other.counts[0]
	f.counts[0].Active = 0
	for _, n := range other.active[:other.counts[0].Active] {
		if at, _ := place(n); at != noSource {
			f.active[f.counts[0].Active] = at
			f.counts[0].Active++
			fault.Point()
		}
	}
	for i, g := range other.gaps[:other.counts[0].Gaps] {
		if g.Source = placeOf(g.Source, place); g.Source == noSource && g.Open != 0 {
			g.Open, g.To = 0, max(g.Least, other.counts[0].Greatest)
		}
		f.gaps[i] = g
		fault.Point()
	}
}

// placeOf returns the new number of a gap's source, which may be nobody's.
func placeOf(n uint32, place func(uint32) (uint32, bool)) uint32 {
	if n != noSource {
		if at, ok := place(n); ok {
			return at
		}
	}
	return noSource
}

// RenumberSource makes source old of a feed source new, in the numbering of
// [event.Mark.Source]: its channel has moved to another worker's place, which was free.
// It is done on every State, and again after a kill.
func (s *State) RenumberSource(feed int, old, now uint32) error {
	f := &s.feeds[feed]
	if f.plan.Sequence == plan.Unsequenced || old == now {
		return nil // one source, whoever decodes it
	}
	for _, id := range []uint32{old, now} {
		if int(id%plan.SourceStride) >= f.channels || int(id/plan.SourceStride) >= len(f.sources)/f.channels {
			return fmt.Errorf("window: feed %s: there is no channel %d of worker %d", f.plan.Name, id%plan.SourceStride, id/plan.SourceStride)
		}
	}
	from, to := f.number(old), f.number(now)
	active := f.active[:f.counts[0].Active]
	at := slices.Index(active, from)
	if at >= 0 && slices.Contains(active, to) {
		return fmt.Errorf("window: feed %s: channel %d of worker %d is another one's: the place must be free", f.plan.Name, now%plan.SourceStride, now/plan.SourceStride)
	}
	if at >= 0 {
		f.sources[to] = f.sources[from]
		fault.Point()
		atomic.StoreUint32(&active[at], to) // from here on it is the new one
		fault.Point()
	}
	for i := range f.gaps[:f.counts[0].Gaps] {
		if g := &f.gaps[i]; g.Source == from && g.Open != 0 {
			g.Source = to
			fault.Point()
		}
	}
	f.sources[from] = source{}
	fault.Point()
	return nil
}

// Gaps returns how many gaps of a feed are remembered.
func (s *State) Gaps(feed int) int { return int(s.feeds[feed].counts[0].Gaps) }

// Continue ends the taking over of a query. Its watermark is at, which another State may
// have reached before the one whose windows came here: those behind it begin to close. The
// outbox is told of it once more, since it may be another one.
func (s *State) Continue(number int, at event.Nanos) {
	q := &s.queries[number]
	l := &q.mark[0]
	if at > l.Time {
		q.save()
		l.Time = at
		if i := q.index(at); i > l.Index {
			s.pass(&s.feeds[q.plan.Feed], q, i)
		}
	}
	if l.Index != beforeAll {
		q.save()
		l.Told = l.Index - 1
	}
	s.findQuiet(&s.feeds[q.plan.Feed])
}

// BeginLate says that a query begins while its feed goes on: windows that events have been
// seen of are incomplete.
func (s *State) BeginLate(number int) {
	q := &s.queries[number]
	if latest := s.feeds[q.plan.Feed].counts[0].Greatest; latest != event.MinNanos {
		q.save()
		q.mark[0].Hit = q.index(latest)
	}
}
