package window

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// setAside holds, for each query, the events whose key has no entry yet, in order of
// position, in batches. It grows as it must: it exists in replay only.
type setAside struct {
	plan    *plan.Plan
	queries [][]*event.Keyed
	spare   [][]*event.Keyed
}

func (l *setAside) init(p *plan.Plan) {
	l.plan = p
	l.queries = make([][]*event.Keyed, len(p.Queries))
	l.spare = make([][]*event.Keyed, len(p.Queries))
}

// add sets event i of k aside for q, in order of arrival.
func (l *setAside) add(q *query, k *event.Keyed, i int) {
	batches := l.queries[q.number]
	if n := len(batches); n == 0 || batches[n-1].Batch.N == event.BatchMax {
		batches = append(batches, l.batch(q))
		l.queries[q.number] = batches
	}
	to := batches[len(batches)-1]
	to.CopyEvent(k, i)
	to.Select[0] = append(to.Select[0], uint16(to.Batch.N-1))
}

func (l *setAside) batch(q *query) *event.Keyed {
	if spare := l.spare[q.number]; len(spare) > 0 {
		k := spare[len(spare)-1]
		l.spare[q.number] = spare[:len(spare)-1]
		k.Reset()
		k.Batch.Reset()
		return k
	}
	columns := make([]event.Column, len(l.plan.Feeds[q.plan.Feed].Columns))
	for i, c := range l.plan.Feeds[q.plan.Feed].Columns {
		columns[i] = event.Column{Type: c.Type, Scale: c.Scale}
	}
	k := event.NewKeyed(event.NewBatch(columns), q.keyWidth, 1)
	k.Position = make([]uint64, event.BatchMax)
	return k
}

func (l *setAside) clear(q int) {
	l.spare[q] = append(l.spare[q], l.queries[q]...)
	l.queries[q] = l.queries[q][:0]
}

// Settle admits the new keys that all workers have set aside, in capture order, up
// to each query's limit, and tells every worker what the others dropped. Every state
// must have folded the same prefix of the capture, and none may be in use.
func Settle(states []*State) {
	for n := range states[0].queries {
		hit := int64(beforeAll)
		for _, s := range states {
			hit = max(hit, s.queries[n].hit)
		}
		for _, s := range states {
			q := &s.queries[n]
			q.hit = hit
			for i := range q.panes {
				if q.panes[i].State != paneFree && q.panes[i].Index <= hit {
					q.panes[i].Flags |= flagIncomplete
				}
			}
		}
		if fits(states, n) {
			for _, s := range states {
				s.admitAll(n)
			}
			continue
		}
		admitInOrder(states, n)
	}
}

// fits reports whether the limit cannot be reached even if every event set aside
// brings a key of its own.
func fits(states []*State, n int) bool {
	limit := uint64(states[0].queries[n].plan.Keys)
	var waiting uint64
	for _, s := range states {
		for _, k := range s.log.queries[n] {
			waiting += uint64(k.Batch.N)
		}
	}
	return waiting == 0 || fullest(states, n)+waiting <= limit
}

// fullest returns the greatest number of keys that any window of query n has.
func fullest(states []*State, n int) uint64 {
	most := uint64(0)
	for _, s := range states {
		for i := range s.queries[n].panes {
			if p := &s.queries[n].panes[i]; p.State != paneFree {
				most = max(most, keysOf(states, n, p.Index))
			}
		}
	}
	return most
}

// keysOf returns how many keys window i of query n has on all workers.
func keysOf(states []*State, n int, i int64) uint64 {
	var keys uint64
	for _, s := range states {
		if slot := s.queries[n].slotOf(i); slot >= 0 {
			keys += s.queries[n].panes[slot].Count
		}
	}
	return keys
}

// slotOf returns the pane of window i, or -1.
func (q *query) slotOf(i int64) int {
	for j := range q.panes {
		if q.panes[j].State != paneFree && q.panes[j].Index == i {
			return j
		}
	}
	return -1
}

func (s *State) admitAll(n int) {
	q := &s.queries[n]
	for _, k := range s.log.queries[n] {
		for i := range k.Batch.N {
			s.admit(q, k, i, true)
		}
	}
	s.log.clear(n)
}

// admit folds one event that was set aside, making its entry if room is left, and
// reports whether it made one.
func (s *State) admit(q *query, k *event.Keyed, i int, room bool) (made bool) {
	slot := q.slotOf(q.index(k.Batch.Time[i]))
	base := uint32(slot * q.geometry.PaneWords)
	at, found, full := q.find(base, k, i)
	if !found {
		if full || !room {
			q.counters.Drops[event.DropKeyLimit]++
			q.panes[slot].Flags |= flagIncomplete
			return false
		}
		q.insert(slot, at, k, i)
	}
	q.at[0], q.which[0] = at+q.stateAt, uint16(i)
	q.set.Fold(q.mem, q.at[:1], k.Batch, q.which[:1])
	q.counters.Applied++
	return !found
}

// admitInOrder goes through the events set aside by all workers in order of
// position, so that the first keys of a window are the ones admitted.
func admitInOrder(states []*State, n int) {
	type reader struct{ batch, event int }
	readers := make([]reader, len(states))
	keys := map[int64]uint64{}
	lost := map[int64]bool{}
	for {
		least, at := ^uint64(0), -1
		for w, s := range states {
			r := &readers[w]
			if batches := s.log.queries[n]; r.batch < len(batches) {
				if p := batches[r.batch].Position[r.event]; at < 0 || p < least {
					least, at = p, w
				}
			}
		}
		if at < 0 {
			break
		}
		s, r := states[at], &readers[at]
		q := &s.queries[n]
		k := s.log.queries[n][r.batch]
		window := q.index(k.Batch.Time[r.event])
		if _, ok := keys[window]; !ok {
			keys[window] = keysOf(states, n, window)
		}
		dropped := q.counters.Drops[event.DropKeyLimit]
		if s.admit(q, k, r.event, keys[window] < uint64(q.plan.Keys)) {
			keys[window]++
		}
		if q.counters.Drops[event.DropKeyLimit] != dropped {
			lost[window] = true
		}
		if r.event++; r.event == k.Batch.N {
			r.batch, r.event = r.batch+1, 0
		}
	}
	for _, s := range states {
		s.log.clear(n)
		for i := range lost {
			if slot := s.queries[n].slotOf(i); slot >= 0 {
				s.queries[n].panes[slot].Flags |= flagIncomplete
			}
		}
	}
}
