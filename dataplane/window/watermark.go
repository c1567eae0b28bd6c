package window

import (
	"slices"
	"time"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// number turns a mark's source into an index of f.sources.
func (f *feed) number(src uint32) uint32 {
	if f.plan.Sequence == plan.Unsequenced {
		return 0
	}
	return src/plan.SourceStride*uint32(f.channels) + src%plan.SourceStride
}

// Quiet reports whether m can be applied before events that were folded later than
// they stand: whether it neither closes a window nor changes which events are too
// far ahead.
func (s *State) Quiet(feed int, m *event.Mark) bool {
	return m.Kind == event.MarkRelease && m.Time < s.feeds[feed].quiet
}

// Mark applies m, all events before it having been folded, and reports whether
// windows began to close.
func (s *State) Mark(feed int, m *event.Mark) bool {
	f := &s.feeds[feed]
	n := f.number(m.Source)
	switch m.Kind {
	case event.MarkRelease:
		s.released(f, n, m.Time)
		if f.plan.Sequence == plan.Unsequenced && f.counts[0].Gaps > 0 {
			f.closeGaps(n, ^uint32(0), m.Time)
		}
		if m.Time < f.quiet {
			return false
		}
	case event.MarkGapOpen, event.MarkHit:
		from := m.Time
		if f.plan.Sequence == plan.Unsequenced {
			// The worker that decodes a part of the feed does not know the whole.
			from = f.counts[0].Greatest
		}
		f.openGap(gap{
			Source: n, Number: m.Gap, From: from, To: event.MaxNanos, Count: m.Count, Open: 1,
			Hit: b2u(m.Kind == event.MarkHit),
		})
		return false
	case event.MarkGapClose:
		f.closeGaps(n, m.Gap, m.Time)
		return false
	case event.MarkRetire:
		f.closeGaps(n, ^uint32(0), f.counts[0].Greatest)
		f.retire(n)
	case event.MarkIdle:
		arena.Save(f.undo, &f.sources[n])
		f.sources[n].Idle = m.Count
	}
	return s.advance(f)
}

// released notes that source n of f released events up to time t.
func (s *State) released(f *feed, n uint32, t event.Nanos) {
	src, c := &f.sources[n], &f.counts[0]
	if src.Active != 0 && src.Idle == 0 && t <= src.Max && t <= c.Greatest {
		return
	}
	// Mostly it is one source that releases again and again: saved once a batch.
	if now := (released{f.undo.Round(), n}); now != f.released || src.Active == 0 {
		f.released = now
		arena.Put(f.undo, src)
		arena.Put(f.undo, c)
		if src.Active == 0 {
			arena.Put(f.undo, &f.active[c.Active])
		}
		f.undo.Publish()
	}
	if src.Active == 0 {
		src.Active, src.Max = 1, t
		fault.Point()
		f.active[c.Active] = n
		fault.Point()
		c.Active++
		s.joined(f, t)
	}
	src.Max, src.Idle = max(src.Max, t), 0
	fault.Point()
	c.Greatest = max(c.Greatest, t)
	fault.Point()
}

// joined notes that a source of f shows up with an event at t. After a restart what it
// had before is lost.
func (s *State) joined(f *feed, t event.Nanos) {
	for _, n := range f.queries {
		q := &s.queries[n]
		if l := &q.mark[0]; l.Resuming != 0 && l.Hit < q.index(t) {
			q.save()
			l.Hit = q.index(t)
			fault.Point()
		}
	}
}

func b2u(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

func (f *feed) retire(n uint32) {
	active := f.active[:f.counts[0].Active]
	for i, a := range active {
		if a == n {
			arena.Put(f.undo, &active[i])
			arena.Put(f.undo, &f.counts[0])
			arena.Put(f.undo, &f.sources[n])
			f.undo.Publish()
			active[i] = active[len(active)-1] // their order says nothing
			fault.Point()
			f.counts[0].Active--
			fault.Point()
			f.sources[n] = source{}
			fault.Point()
			return
		}
	}
}

// least returns the least of the active sources' greatest times, leaving out
// source number except; MaxNanos if there is none. Sources that have been silent for
// idle hold nothing; idle 0 means never.
func (f *feed) least(except uint32, idle time.Duration) event.Nanos {
	t := event.MaxNanos
	for _, n := range f.active[:f.counts[0].Active] {
		if src := &f.sources[n]; n != except && (idle == 0 || src.Idle < uint64(idle)) {
			t = min(t, src.Max)
		}
	}
	return t
}

const noSource = ^uint32(0)

// advance raises the watermarks of f's queries, begins to close what they pass and
// reports whether it did. All sources idle or retired: the watermarks stay.
func (s *State) advance(f *feed) bool {
	closes := false
	for _, n := range f.queries {
		q := &s.queries[n]
		if least := f.least(noSource, q.plan.Idle); least != event.MaxNanos {
			if t := least.Add(-q.plan.Delay); t > q.mark[0].Time {
				q.save()
				q.mark[0].Time = t
				fault.Point()
				if i := q.index(t); i > q.mark[0].Index {
					s.pass(f, q, i)
					closes = true
				}
			}
		}
	}
	s.findQuiet(f)
	if !closes {
		return false
	}
	f.passed = true
	switch {
	case s.config.Limit == Settled: // the gate does it, when all workers are there
	case s.log.any():
		Settle([]*State{s})
		s.Book()
	default:
		s.forgetGaps(f)
	}
	return true
}

// pass moves q's watermark to window number to: panes before it begin to close,
// with what is missing in them now.
func (s *State) pass(f *feed, q *query, to int64) {
	from := q.mark[0].Index
	q.mark[0].Index = to // saved, as the whole level is
	fault.Point()
	q.lost = slices.DeleteFunc(q.lost, func(i int64) bool { return i < from })
	if uint64(to-from) < uint64(len(q.panes)) && q.displaced == 0 {
		for i := from; i < to; i++ {
			if slot := q.slotOf(i); slot >= 0 && q.panes[slot].State == paneOpen {
				s.beginClose(f, q, slot, outbox.OnTime)
			}
		}
	} else {
		for i := range q.panes {
			if p := &q.panes[i]; p.State == paneOpen && p.Index < to {
				s.beginClose(f, q, i, outbox.OnTime)
			}
		}
	}
	if to > q.mark[0].Hit {
		q.mark[0].Resuming = 0
	}
	q.start, q.end = 1, 0
}

func (s *State) beginClose(f *feed, q *query, slot int, firing outbox.Firing) {
	p := &q.panes[slot]
	missing, flags := s.judge(f, q, p.Index)
	s.enqueue(q, slot, firing, missing, p.Flags|flags)
}

// enqueue puts an open pane behind those that are closing.
func (s *State) enqueue(q *query, slot int, firing outbox.Firing, missing uint64, flags uint32) {
	p, l := &q.panes[slot], &q.mark[0]
	at := &q.queue[(l.First+l.Closing)%uint32(len(q.queue))]
	q.save()
	arena.Put(q.undo, p)
	arena.Put(q.undo, at)
	q.undo.Publish()
	p.State, p.Firing, p.Group, p.Slot = paneClosing, uint32(firing), 0, 0
	fault.Point()
	if firing == outbox.OnTime {
		p.Cause = s.cause // an end of input or a stop is no packet's doing
	}
	p.Missing, p.Flags = missing, flags
	fault.Point()
	*at = uint32(slot)
	fault.Point()
	l.Closing++
	s.closing++
}

// judge says what window i lacks as far as is known now, but for what its pane knows.
func (s *State) judge(f *feed, q *query, i int64) (missing uint64, flags uint32) {
	missing, hit := f.missing(q.windowStart(i), q.windowStart(i+1), q)
	if hit || i <= q.mark[0].Hit || slices.Contains(q.lost, i) ||
		s.config.Shared != nil && s.config.Shared.marked(q.number, i) {
		flags |= outbox.FlagIncomplete
	}
	if f.plan.Sequence != plan.Unsequenced {
		flags |= outbox.FlagSequenced
	}
	return missing, flags
}

// missing sums the gaps that touch [start, end): those whose [From - delay, To]
// overlaps it.
func (f *feed) missing(start, end event.Nanos, q *query) (count uint64, hit bool) {
	for i := range f.gaps[:f.counts[0].Gaps] {
		g := &f.gaps[i]
		if start <= g.To && end > g.From.Add(-q.plan.Delay) {
			count += g.Count
			hit = hit || g.Hit != 0
		}
	}
	return count, hit
}

func (f *feed) openGap(g gap) {
	n := f.counts[0].Gaps
	g.Least = g.From
	f.saveGaps()
	f.gaps[n] = g
	fault.Point()
	if n++; n > gapsMax {
		n = f.joinNearest(n)
	}
	f.counts[0].Gaps = n
	fault.Point()
}

// closeGaps ends the open gaps of source n up to gap number upto at time to.
func (f *feed) closeGaps(n, upto uint32, to event.Nanos) {
	for i := range f.gaps[:f.counts[0].Gaps] {
		if g := &f.gaps[i]; g.Source == n && g.Open != 0 && g.Number <= upto {
			f.saveGaps()
			g.Open, g.To = 0, max(g.Least, to)
			fault.Point()
		}
	}
}

// joinNearest makes one gap of two, those of one source that are nearest in time
// (of any two sources if each has only one), and returns the new number of gaps. n > 1.
// Counts are added and the interval spans both: nothing missing is forgotten, only
// where it was becomes less exact.
func (f *feed) joinNearest(n uint32) uint32 {
	a, b := 0, 1
	best, same := ^uint64(0), false
	for i := range f.gaps[:n] {
		for j := i + 1; j < int(n); j++ {
			g, h := &f.gaps[i], &f.gaps[j]
			var distance uint64
			if late, early := max(g.From, h.From), min(g.To, h.To); late > early {
				distance = uint64(late) - uint64(early)
			}
			if one := g.Source == h.Source; one && !same || one == same && distance < best {
				a, b, best, same = i, j, distance, one
			}
		}
	}
	arena.Put(f.undo, &f.gaps[a])
	arena.PutSlice(f.undo, f.gaps[b:n])
	f.undo.Publish()
	g, h := &f.gaps[a], f.gaps[b]
	for _, x := range []*gap{g, &h} {
		if x.Open == 0 {
			x.Least = x.To
		}
	}
	g.From, g.To, g.Least = min(g.From, h.From), max(g.To, h.To), max(g.Least, h.Least)
	g.Count += h.Count
	g.Hit |= h.Hit
	switch {
	case h.Open == 0:
	case g.Open == 0: // what is open is closed by its own source
		g.Source, g.Number, g.Open = h.Source, h.Number, 1
	case g.Source == h.Source:
		g.Number = max(g.Number, h.Number)
	}
	fault.Point()
	copy(f.gaps[b:], f.gaps[b+1:n])
	fault.Point()
	return n - 1
}

// forgetGaps drops the gaps that can touch no window that is still to close.
func (s *State) forgetGaps(f *feed) {
	n := uint32(0)
	gaps := f.gaps[:f.counts[0].Gaps]
	for i := range gaps {
		g := &gaps[i]
		needed := g.Open != 0
		for _, number := range f.queries {
			q := &s.queries[number]
			needed = needed || q.windowStart(q.mark[0].Index) <= g.To
		}
		if !needed {
			f.saveGaps()
			continue
		}
		if n != uint32(i) {
			gaps[n] = *g
			fault.Point()
		}
		n++
	}
	if f.counts[0].Gaps != n {
		f.counts[0].Gaps = n
		fault.Point()
	}
	f.passed = false
}

// FlushAll begins to close every open pane: the end of input or a stop, not the
// watermark, fires them.
func (s *State) FlushAll() {
	for i := range s.feeds {
		f := &s.feeds[i]
		for _, n := range f.queries {
			q := &s.queries[n]
			for j := range q.panes {
				if q.panes[j].State == paneOpen {
					s.beginClose(f, q, j, outbox.Flush)
				}
			}
			q.start, q.end = 1, 0
		}
	}
}

// DiscardAll forgets every open pane.
func (s *State) DiscardAll() {
	for i := range s.queries {
		q := &s.queries[i]
		for j := range q.panes {
			if q.panes[j].State == paneOpen {
				arena.Save(q.undo, &q.panes[j])
				s.spend(q, j)
			}
		}
	}
}
