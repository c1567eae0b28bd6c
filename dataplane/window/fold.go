package window

import (
	"github.com/headrace/headrace/dataplane/event"
)

// Attach names the keyed events of the feed's streams, in the plan's order, that
// Apply folds.
func (s *State) Attach(feed int, ks []*event.Keyed) { s.feeds[feed].keyed = ks }

// QueriesOf returns the numbers of a feed's queries. It stays the state's.
func (s *State) QueriesOf(feed int) []int { return s.feeds[feed].queries }

// Apply folds the events of a decoded batch, keyed as [State.Attach] said, and
// applies its marks, in order. With Config.Wait it stops where windows begin to close
// and reports false: call it again with the same arguments until it has got through,
// which it does not before [State.Closing] reports false.
func (s *State) Apply(feed int, b *event.Batch) bool {
	if s.config.Wait && s.Closing() {
		return false
	}
	f := &s.feeds[feed]
	for f.mark < len(b.Marks) {
		m := &b.Marks[f.mark]
		if s.Quiet(feed, m) {
			s.Mark(feed, m)
			f.mark++
			continue
		}
		s.foldUntil(f, int(m.At))
		closes := s.Mark(feed, m)
		f.mark++
		if closes && s.config.Wait {
			return false
		}
	}
	s.foldUntil(f, b.N)
	f.mark, f.from = 0, 0
	for _, n := range f.queries {
		s.queries[n].next = 0
	}
	return true
}

// foldUntil folds the events [f.from, to) of every stream.
func (s *State) foldUntil(f *feed, to int) {
	if f.from >= to {
		return
	}
	f.from = to
	for i, st := range f.streams {
		k := f.keyed[i]
		for j, n := range s.streams[st].queries {
			q := &s.queries[n]
			sel := k.Select[j]
			from := q.next
			for q.next < len(sel) && int(sel[q.next]) < to {
				q.next++
			}
			if q.next > from {
				s.fold(f, q, k, sel[from:q.next])
			}
		}
	}
}

// Fold folds everything that k selects of one stream. Marks that stand before the
// events have been applied, or were [State.Quiet].
func (s *State) Fold(stream int, k *event.Keyed) {
	f := &s.feeds[s.streams[stream].feed]
	for j, n := range s.streams[stream].queries {
		if sel := k.Select[j]; len(sel) > 0 {
			s.fold(f, &s.queries[n], k, sel)
		}
	}
}

// fold brings the events sel of k, at most event.BatchMax, into q's panes: first the
// panes and home slots of all, then one touch of every slot so that the cache misses
// run side by side, then the search, then the aggregates by column.
func (s *State) fold(f *feed, q *query, k *event.Keyed, sel []uint16) {
	n := s.panesOf(f, q, k, sel)
	var touched uint64
	mem := q.mem
	for _, at := range q.at[:n] {
		touched |= mem[at]
	}
	_ = touched
	n = s.entriesOf(q, k, n)
	q.set.Fold(q.mem, q.at[:n], k.Batch, q.which[:n])
	q.counters.Applied += uint64(n)
}

// panesOf finds each event's pane and home slot and drops what has none.
func (s *State) panesOf(f *feed, q *query, k *event.Keyed, sel []uint16) int {
	n := 0
	b := k.Batch
	for _, i := range sel {
		t := b.Time[i&(event.BatchMax-1)]
		if t < q.start || t >= q.end {
			switch d := s.turn(f, q, t, b.Source[i]); d {
			case event.Kept:
			case setAsideNow:
				s.log.homeless[q.number] = s.log.append(s.log.homeless[q.number], q, k, int(i))
				continue
			default:
				q.counters.Drops[d]++
				continue
			}
		}
		q.which[n] = i
		q.base[n] = uint32(q.slot * q.geometry.PaneWords)
		q.at[n] = q.base[n] + q.geometry.home(k.Hash[i&(event.BatchMax-1)])
		n++
	}
	return n
}

// entriesOf turns home slots into the entries' states, adding entries for new keys.
func (s *State) entriesOf(q *query, k *event.Keyed, found int) int {
	n := 0
	g := &q.geometry
	for j := range found {
		i := int(q.which[j])
		at := q.at[j]
		if q.mem[at] != tag(k.Hash[i]) || !q.sameKey(at, k.Key[i*g.KeyWords:(i+1)*g.KeyWords], k.KeyLen[i]) {
			var d event.Drop
			if at, d = s.search(q, k, i, q.base[j]); d != event.Kept {
				if d != setAsideNow {
					q.counters.Drops[d]++
				}
				continue
			}
		}
		q.which[n] = uint16(i)
		q.at[n] = at + q.stateAt
		n++
	}
	return n
}

// setAsideNow is not a drop: the event waits in the log, for its key to be admitted
// or for a pane.
const setAsideNow = event.DropCount

// search finds or makes the entry of event i in the pane at base.
func (s *State) search(q *query, k *event.Keyed, i int, base uint32) (uint32, event.Drop) {
	at, found, full := q.find(base, k, i)
	if found {
		return at, event.Kept
	}
	slot := int(base) / q.geometry.PaneWords
	switch s.config.Limit {
	case Settled:
		s.log.strange[q.number] = s.log.append(s.log.strange[q.number], q, k, i)
		return 0, setAsideNow
	case SharedLimit:
		if full || !s.config.Shared.draw(q.number, q.panes[slot].Index, uint64(q.plan.Keys)) {
			s.config.Shared.mark(q.number, q.panes[slot].Index)
			return 0, event.DropKeyLimit
		}
	default:
		if full || q.panes[slot].Count >= uint64(q.plan.Keys) {
			q.panes[slot].Flags |= flagIncomplete
			return 0, event.DropKeyLimit
		}
	}
	q.insert(slot, at, k, i)
	return at, event.Kept
}

// turn makes the pane of the window that holds t the current one, opening it if it
// is new, or says why t has no pane.
func (s *State) turn(f *feed, q *query, t event.Nanos, src uint32) event.Drop {
	i := q.index(t)
	if i < q.mark[0].Index {
		return event.DropLate
	}
	if i > q.mark[0].Index+int64(q.plan.Panes) && s.tooFar(f, q, t, i, src) {
		s.markOpen(q)
		return event.DropTooFarAhead
	}
	slot := q.slotOf(i)
	if slot < 0 {
		slot = q.openPane(i)
	}
	if slot < 0 {
		if s.config.Wait {
			return setAsideNow
		}
		s.markOpen(q)
		return event.DropPaneMemory
	}
	s.enter(q, slot)
	return event.Kept
}

func (s *State) enter(q *query, slot int) {
	q.slot = slot
	q.start = q.windowStart(q.panes[slot].Index)
	q.end = q.windowStart(q.panes[slot].Index + 1)
}

// tooFar reports whether window i lies beyond the panes even when the watermark is
// counted as the event's own release will leave it. What the release's later events
// add cannot change the answer: where they raise the watermark past t's reach, t
// itself does too.
func (s *State) tooFar(f *feed, q *query, t event.Nanos, i int64, src uint32) bool {
	n := f.number(src)
	own := t
	if f.sources[n].Active != 0 {
		own = max(own, f.sources[n].Max)
	}
	reach := min(f.least(n, q.plan.Idle), own).Add(-q.plan.Delay)
	return i > q.index(max(reach, q.mark[0].Time))+int64(q.plan.Panes)
}

// markOpen says in every window of q that may be open that something was dropped.
func (s *State) markOpen(q *query) {
	q.hit = max(q.hit, q.mark[0].Index+int64(q.plan.Panes))
	if s.config.Limit == SharedLimit {
		for i := q.mark[0].Index; i <= q.hit; i++ {
			s.config.Shared.mark(q.number, i)
		}
	}
}
