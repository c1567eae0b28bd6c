package window

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// setAside holds, for each query, events in order of position: those whose key has
// no entry yet, where several workers share the limit, and those whose window has no
// pane yet. It grows as it must: it exists in replay only.
type setAside struct {
	plan     *plan.Plan
	strange  [][]*event.Keyed // to be admitted: the key is new
	homeless [][]*event.Keyed // to be admitted: the window has no pane
	waiting  [][]*event.Keyed // admitted, of the homeless
	windows  []map[int64]*awaited
	spare    [][]*event.Keyed
}

// awaited is a window for which a worker has admitted events but no pane.
type awaited struct {
	keys    map[string]bool
	groups  map[int]int // keys, by group
	passed  bool        // behind the watermark: it closes as soon as it is complete
	missing uint64
	flags   uint32
	events  int
}

func (l *setAside) init(p *plan.Plan) {
	n := len(p.Queries)
	l.plan = p
	for _, lists := range []*[][]*event.Keyed{&l.strange, &l.homeless, &l.waiting, &l.spare} {
		*lists = make([][]*event.Keyed, n)
	}
	l.windows = make([]map[int64]*awaited, n)
}

// any reports whether an event of some query is to be admitted.
func (l *setAside) any() bool {
	for n := range l.strange {
		if l.of(n) {
			return true
		}
	}
	return false
}

func (l *setAside) of(n int) bool { return len(l.strange[n])+len(l.homeless[n]) > 0 }

// append adds event i of k to a list of q's events.
func (l *setAside) append(to []*event.Keyed, q *query, k *event.Keyed, i int) []*event.Keyed {
	if n := len(to); n == 0 || to[n-1].Batch.N == event.BatchMax {
		to = append(to, l.batch(q))
	}
	last := to[len(to)-1]
	last.CopyEvent(k, i)
	return to
}

func (l *setAside) batch(q *query) *event.Keyed {
	if spare := l.spare[q.number]; len(spare) > 0 {
		k := spare[len(spare)-1]
		l.spare[q.number] = spare[:len(spare)-1]
		k.Batch.Reset()
		return k
	}
	k := event.NewKeyed(plan.NewBatch(l.plan.Feeds[q.plan.Feed].Columns), q.keyWidth, 1)
	k.Position = make([]uint64, event.BatchMax)
	return k
}

// Settle admits the events that all workers have set aside, in capture order, up to
// each query's limit of keys, and tells every worker what the others dropped. Events
// without a pane are judged too; they enter when some are free ([State.Close]). Every
// state must have folded the same prefix of the capture, and none may be in use. It
// reports whether there was anything to admit.
func Settle(states []*State) (some bool) {
	for n := range states[0].queries {
		shareHits(states, n)
		for _, s := range states {
			if s.log.of(n) {
				some = true
				admit(states, n)
				break
			}
		}
	}
	for _, s := range states {
		for i := range s.feeds {
			// Only after a closing: what is forgotten must not depend on when workers meet.
			if f := &s.feeds[i]; f.passed {
				s.forgetGaps(f)
			}
		}
	}
	return some
}

// shareHits makes what one worker lost beside query n's open windows known to all.
func shareHits(states []*State, n int) {
	hit := int64(beforeAll)
	for _, s := range states {
		hit = max(hit, s.queries[n].mark[0].Hit)
	}
	for _, s := range states {
		if q := &s.queries[n]; q.mark[0].Hit < hit {
			q.mark[0].Hit = hit
			for i := range q.panes {
				if q.panes[i].State != paneFree && q.panes[i].Index <= hit {
					q.panes[i].Flags |= outbox.FlagIncomplete
				}
			}
		}
	}
}

// A census counts the keys of query n's windows on all workers.
type census struct {
	states []*State
	n      int
	keys   map[int64]uint64
	lost   map[int64]bool
}

func (c *census) of(window int64) uint64 {
	if keys, ok := c.keys[window]; ok {
		return keys
	}
	var keys uint64
	for _, s := range c.states {
		if slot := s.queries[c.n].slotOf(window); slot >= 0 {
			keys += s.queries[c.n].panes[slot].Count
		}
	}
	c.keys[window] = keys
	return keys
}

// A reader goes through a list of events.
type reader struct {
	state   *State
	batches []*event.Keyed
	event   int
}

func (r *reader) position() uint64 { return r.batches[0].Position[r.event] }

// admit goes through the events set aside by all workers in order of position, so
// that the first keys of a window are the ones admitted.
func admit(states []*State, n int) {
	c := &census{states: states, n: n, keys: map[int64]uint64{}, lost: map[int64]bool{}}
	var readers []reader
	for _, s := range states {
		readers = append(readers, reader{s, s.log.strange[n], 0}, reader{s, s.log.homeless[n], 0})
	}
	for {
		var first *reader
		for i := range readers {
			if r := &readers[i]; len(r.batches) > 0 && (first == nil || r.position() < first.position()) {
				first = r
			}
		}
		if first == nil {
			break
		}
		k := first.batches[0]
		first.state.admit(c, k, first.event)
		if first.event++; first.event == k.Batch.N {
			first.batches, first.event = first.batches[1:], 0
		}
	}
	for _, s := range states {
		s.log.spare[n] = append(append(s.log.spare[n], s.log.strange[n]...), s.log.homeless[n]...)
		s.log.strange[n], s.log.homeless[n] = s.log.strange[n][:0], s.log.homeless[n][:0]
		q := &s.queries[n]
		for i := range c.lost {
			q.lost = append(q.lost, i)
			if slot := q.slotOf(i); slot >= 0 {
				q.panes[slot].Flags |= outbox.FlagIncomplete
			}
		}
		s.judgeAwaited(q)
	}
}

// admit folds one event that was set aside, unless its key is one too many. Where
// there is no pane it is only judged.
func (s *State) admit(c *census, k *event.Keyed, i int) {
	q := &s.queries[c.n]
	window := q.index(k.Batch.Time[i])
	room := c.of(window) < uint64(q.plan.Keys)
	slot := q.slotOf(window)
	var made, kept bool
	if slot < 0 {
		made, kept = s.await(q, window, k, i, room)
	} else {
		made, kept = s.enterPane(q, slot, k, i, room)
	}
	if made {
		c.keys[window]++
	}
	if !kept {
		q.refused++
		c.lost[window] = true
	}
}

// enterPane folds event i of k into a pane and reports whether it made an entry, and
// whether it was folded.
func (s *State) enterPane(q *query, slot int, k *event.Keyed, i int, room bool) (made, kept bool) {
	base := uint32(slot * q.geometry.PaneWords)
	at, found, full := q.find(base, k, i)
	if !found {
		if full || !room {
			return false, false
		}
		q.insert(slot, at, k, i)
	}
	q.at[0], q.which[0] = at+q.stateAt, uint16(i)
	q.set.Fold(q.mem, q.at[:1], k.Batch, q.which[:1])
	q.admitted++
	return !found, true
}

// await keeps event i of k for a window without a pane, if its key has room, and
// reports whether the key is a new one, and whether it is kept.
func (s *State) await(q *query, window int64, k *event.Keyed, i int, room bool) (made, kept bool) {
	if s.log.windows[q.number] == nil {
		s.log.windows[q.number] = map[int64]*awaited{}
	}
	a := s.log.windows[q.number][window]
	if a == nil {
		a = &awaited{keys: map[string]bool{}, groups: map[int]int{}}
		s.log.windows[q.number][window] = a
	}
	key := string(event.AppendKey(q.key[:0], k.Key[i*q.geometry.KeyWords:(i+1)*q.geometry.KeyWords], int(k.KeyLen[i])))
	group := event.Group(k.Hash[i])
	if !a.keys[key] {
		if !room || a.groups[group] == q.geometry.Slots {
			return false, false
		}
		a.keys[key], made = true, true
		a.groups[group]++
	}
	a.events++
	s.waiting++
	s.log.waiting[q.number] = s.log.append(s.log.waiting[q.number], q, k, i)
	return made, true
}

// judgeAwaited judges the windows of q that are passed before they have a pane, as
// [State.beginClose] does those that have one.
func (s *State) judgeAwaited(q *query) {
	for i, a := range s.log.windows[q.number] {
		if a.passed = i < q.mark[0].Index; a.passed {
			a.missing, a.flags = s.judge(&s.feeds[q.plan.Feed], q, i)
		}
	}
}

// enterWaiting gives the panes that have become free to windows of q that wait.
// Those that the watermark has passed begin to close at once.
func (s *State) enterWaiting(q *query) {
	n := q.number
	batches := s.log.waiting[n]
	s.log.waiting[n] = nil
	for _, k := range batches {
		for i := range k.Batch.N {
			window := q.index(k.Batch.Time[i])
			slot := q.slotOf(window)
			if slot < 0 {
				slot = q.openPane(nil, window)
			}
			if slot < 0 {
				s.log.waiting[n] = s.log.append(s.log.waiting[n], q, k, i)
				continue
			}
			s.enterPane(q, slot, k, i, true)
			s.waiting--
			a := s.log.windows[n][window]
			if a.events--; a.events > 0 {
				continue
			}
			delete(s.log.windows[n], window)
			if a.passed {
				s.enqueue(q, slot, outbox.OnTime, a.missing, q.panes[slot].Flags|a.flags)
			}
		}
		s.log.spare[n] = append(s.log.spare[n], k)
	}
	s.Book()
}

// Book counts what became of events that were set aside. It is called by the state's
// own thread after [Settle], which runs on whichever came last.
func (s *State) Book() {
	for i := range s.queries {
		if q := &s.queries[i]; q.admitted|q.refused > 0 {
			q.counters.Applied += q.admitted
			q.counters.Drops[event.DropKeyLimit] += q.refused
			q.admitted, q.refused = 0, 0
		}
	}
}
