package window

import (
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
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
			if to == k.Batch.N {
				q.next = len(sel)
			}
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
// panes and home slots of all, then, block by block, a prefetch of every slot, so that
// the cache misses run side by side, and the search, then the aggregates by column.
func (s *State) fold(f *feed, q *query, k *event.Keyed, sel []uint16) {
	n := s.panesOf(f, q, k, sel)
	var lost int
	if q.geometry.KeyWords == 1 && !q.geometry.Variable {
		lost = s.wordEntries(q, k, n)
	} else {
		lost = s.entries(q, k, n)
	}
	if lost > 0 {
		n = q.compact(n)
	}
	if s.undo != nil {
		s.undo.PutEntries(q.mem, q.at[:n], q.geometry.State)
		s.undo.Publish()
	}
	q.set.Fold(q.mem, q.at[:n], k.Batch, q.which[:n])
	fault.Point()
	q.counters.Applied += uint64(n)
}

// blockMax is the number of slots that are asked for ahead of the search: few enough
// to be in the first-level cache when their turn comes, enough to hide what misses
// it. A pane of at most prefetchLeast keys is in the caches anyway.
const (
	blockMax      = 64
	prefetchLeast = 512
)

// prefetch asks for the home slots of block from, and of the first ones also for those
// of the block before the search of which nothing was asked.
func (q *query) prefetch(from, n int) {
	if q.panes[q.slot].Count <= prefetchLeast {
		return
	}
	ahead := from + blockMax
	if from == 0 {
		ahead = 0
	}
	arena.Prefetch(q.mem, q.at[min(n, ahead):min(n, from+2*blockMax)], q.geometry.Stride-1)
}

// panesOf finds each event's pane and home slot and drops what has none.
func (s *State) panesOf(f *feed, q *query, k *event.Keyed, sel []uint16) int {
	if q.start < q.end && q.homes(k, sel) {
		copy(q.which[:], sel)
		return len(sel)
	}
	n := 0
	b := k.Batch
	for _, e := range sel {
		i := uint8(e)
		t := b.Time[i]
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
		base := uint32(q.slot * q.geometry.PaneWords)
		q.which[n], q.base[n], q.at[n] = e, base, base+q.geometry.home(k.Hash[i])
		n++
	}
	return n
}

// homes finds the home slots of the events sel in the current pane, and reports
// whether all of them belong there.
func (q *query) homes(k *event.Keyed, sel []uint16) bool {
	base := uint32(q.slot * q.geometry.PaneWords)
	slots, stride, run := uint64(q.geometry.Slots), uint32(q.geometry.Stride), uint32(q.geometry.RunWords)
	start, last := uint64(q.start), uint64(q.end)-uint64(q.start)-1
	outside, times := uint64(0), &k.Batch.Time
	for j, e := range sel {
		i := uint8(e)
		// In [start, end) neither difference has the top bit.
		t := uint64(times[i]) - start
		outside |= t | (last - t)
		q.base[uint8(j)], q.at[uint8(j)] = base, base+home(k.Hash[i], slots, stride, run)
	}
	return outside>>63 == 0
}

// gone stands for the state of an event that has none.
const gone = ^uint32(0)

// entries turns the home slots of n events into their states, adding entries for new
// keys, and returns how many events have none.
func (s *State) entries(q *query, k *event.Keyed, n int) (lost int) {
	g := &q.geometry
	for j := range n {
		if j%blockMax == 0 {
			q.prefetch(j, n)
		}
		i := int(q.which[j])
		at := q.at[j]
		if q.mem[at] != tag(k.Hash[i]) || !q.sameKey(at, k.Key[i*g.KeyWords:(i+1)*g.KeyWords], k.KeyLen[i]) {
			if at = s.search(q, k, i, q.base[j]); at == gone {
				q.at[j] = gone
				lost++
				continue
			}
		}
		q.at[j] = at + q.stateAt
	}
	return lost
}

// setAsideNow is not a drop: the event waits in the log, for its key to be admitted
// or for a pane.
const setAsideNow = event.DropCount

// wordEntries is entries for keys of one word. Whether a key is in its home slot is
// found without a branch, since no predictor knows it; the others are searched for
// when the slots behind their homes have been asked for too.
func (s *State) wordEntries(q *query, k *event.Keyed, n int) (lost int) {
	away := &q.away
	away.n = 0
	for from := 0; from < n; from += blockMax {
		q.prefetch(from, n)
		away.add(q.mem, q.at[from:min(n, from+blockMax)], q.which[from:], k, q.stateAt, from)
	}
	stride := uint32(q.geometry.Stride)
	if q.panes[q.slot].Count > prefetchLeast {
		arena.Prefetch(q.mem, away.at[:away.n], 2*int(stride)-1)
	}
	for j, w := range away.which[:away.n] {
		i := int(uint8(q.which[w]))
		at := s.walk(q, k, i, q.base[w], away.at[j])
		if at == gone {
			q.at[w] = gone
			lost++
			continue
		}
		q.at[w] = at + q.stateAt
	}
	return lost
}

// away are the events of a fold whose key is not in its home slot: their places in
// the fold, and their home slots.
type away struct {
	n     uint
	which [event.BatchMax]uint8
	at    [event.BatchMax]uint32
}

// add turns the home slots ats into the entries' states, and takes in those events
// whose key is not there. The first of them has place from.
func (a *away) add(mem []uint64, ats []uint32, which []uint16, k *event.Keyed, stateAt uint32, from int) {
	keys := (*[event.BatchMax]uint64)(k.Key)
	which = which[:len(ats)]
	n := a.n
	for j, at := range ats {
		i := uint8(which[j])
		miss := mem[at] ^ tag(k.Hash[i]) | mem[uint(at)+1] ^ keys[i]
		ats[j] = at + stateAt
		a.which[uint8(n)], a.at[uint8(n)] = uint8(from+j), at
		if miss != 0 {
			n++
		}
	}
	a.n = n
}

// walk searches for the key of event i, one word long, from its home slot at on, and
// adds it if it is not there.
func (s *State) walk(q *query, k *event.Keyed, i int, base, at uint32) uint32 {
	mem, stride := q.mem, uint32(q.geometry.Stride)
	h, key := tag(k.Hash[i]), k.Key[i]
	end := base + (uint32(k.Hash[i]>>54)+1)*uint32(q.geometry.RunWords)
	for at < end {
		switch e := (*[2]uint64)(mem[at:]); { // keeps its check: a wild offset must stop the program
		case e[0] == h && e[1] == key:
			return at
		case e[0] == 0:
			return s.add(q, k, i, base, at, false)
		}
		at += stride
	}
	return s.search(q, k, i, base) // it goes on at the run's beginning
}

// compact takes the events out that have no state, and returns how many are left of n.
func (q *query) compact(n int) int {
	left := 0
	for j := range n {
		if q.at[j] != gone {
			q.which[left], q.at[left] = q.which[j], q.at[j]
			left++
		}
	}
	return left
}

// search finds or makes the entry of event i in the pane at base, or returns gone: the
// event waits in the log or is dropped.
func (s *State) search(q *query, k *event.Keyed, i int, base uint32) uint32 {
	at, found, full := q.find(base, k, i)
	if found {
		return at
	}
	return s.add(q, k, i, base, at, full)
}

// add makes the empty slot at the entry of event i, if the limit allows that, or
// returns gone; full says that there is no slot.
func (s *State) add(q *query, k *event.Keyed, i int, base, at uint32, full bool) uint32 {
	slot := q.slot
	if base != uint32(slot*q.geometry.PaneWords) {
		slot = int(base) / q.geometry.PaneWords
	}
	switch s.config.Limit {
	case Settled:
		s.log.strange[q.number] = s.log.append(s.log.strange[q.number], q, k, i)
		return gone
	case SharedLimit:
		if full || !s.config.Shared.draw(q.number, q.panes[slot].Index, uint64(q.plan.Keys)) {
			s.config.Shared.mark(q.number, q.panes[slot].Index)
			q.counters.Drops[event.DropKeyLimit]++
			return gone
		}
	default:
		if full || q.panes[slot].Count >= uint64(q.plan.Keys) {
			q.panes[slot].flag(q.undo)
			q.counters.Drops[event.DropKeyLimit]++
			return gone
		}
	}
	q.insert(slot, at, k, i)
	return at
}

// turn makes the pane of the window that holds t the current one, opening it if it
// is new, or says why t has no pane.
func (s *State) turn(f *feed, q *query, t event.Nanos, src uint32) event.Drop {
	i := q.index(t)
	if i < q.mark[0].Index {
		return event.DropLate
	}
	slot := q.slotOf(i)
	if slot < 0 {
		// What has a pane is not judged again, as in the current pane nothing is: which
		// one that is does not survive a restart.
		if i > q.mark[0].Index+int64(q.plan.Panes) && s.tooFar(f, q, t, i, src) {
			s.markOpen(q, q.mark[0].Index)
			return event.DropTooFarAhead
		}
		slot = q.openPane(q.undo, i)
	}
	if slot < 0 {
		if s.config.Wait {
			return setAsideNow
		}
		s.markOpen(q, i)
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

// markOpen says in every window of q that may be open, and in window also, that
// something was dropped.
func (s *State) markOpen(q *query, also int64) {
	last := q.mark[0].Index + int64(q.plan.Panes)
	if l := &q.mark[0]; l.Hit < max(last, also) {
		q.save()
		l.Hit = max(last, also)
	}
	if s.config.Limit == SharedLimit {
		for i := q.mark[0].Index; i <= last; i++ {
			s.config.Shared.mark(q.number, i)
		}
		s.config.Shared.mark(q.number, also)
	}
}
