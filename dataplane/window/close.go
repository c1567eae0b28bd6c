package window

import (
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/outbox"
)

const flagIncomplete = outbox.FlagIncomplete

// Close puts at most n partials of closing panes into out and returns how many it
// put. It goes on where it stopped: at the next call, or when out has room again.
func (s *State) Close(out *outbox.Writer, n int) int {
	put := 0
	for i := range s.queries {
		q := &s.queries[i]
		for q.mark[0].Closing > 0 {
			done, ok := s.closePane(out, q, int(q.queue[q.mark[0].First]), n-put)
			put += done
			if !ok {
				return put
			}
			if q.mark[0].Closing == 0 && s.waiting > 0 {
				s.enterWaiting(q) // they may begin to close at once
			}
		}
		if l := &q.mark[0]; l.Told != l.Index {
			if !out.Put(&outbox.Partial{Kind: outbox.KindWatermark, Query: uint16(q.number), End: q.windowStart(l.Index)}) {
				return put
			}
			q.save()
			l.Told = l.Index
			put++
			fault.Point()
		}
	}
	return put
}

// closePane goes on with pane number slot and reports whether it is done.
func (s *State) closePane(out *outbox.Writer, q *query, slot, n int) (put int, done bool) {
	p := &q.panes[slot]
	arena.Save(q.undo, p)
	partial := outbox.Partial{
		Kind: outbox.KindPartial, Firing: outbox.Firing(p.Firing), Flags: uint8(p.Flags), Query: uint16(q.number),
		Revision: p.Revision, Start: q.windowStart(p.Index), End: q.windowStart(p.Index + 1), Missing: p.Missing, Cause: p.Cause,
	}
	for ; p.Group < event.GroupCount; p.Group, p.Slot = p.Group+1, 0 {
		if q.groups[slot*event.GroupCount+int(p.Group)] == 0 {
			continue
		}
		used := q.usedOf(slot, int(p.Group))
		for {
			next, ok := nextUsed(used, int(p.Slot))
			if !ok {
				break
			}
			if put == n || !q.putEntry(out, &partial, slot, int(p.Group), next) {
				p.Slot = uint32(next)
				return put, false
			}
			put++
			p.Slot = uint32(next + 1)
			fault.Point()
		}
	}
	partial.Kind, partial.Key, partial.State = outbox.KindDone, nil, nil
	if !out.Put(&partial) {
		return put, false
	}
	q.counters.WindowsClosed++
	l := &q.mark[0]
	q.save()
	l.First = (l.First + 1) % uint32(len(q.queue))
	fault.Point()
	l.Closing--
	s.closing--
	s.spend(q, slot)
	return put, true
}

// Puts reports whether [State.Close] may put partials of query number q out next: it
// counts them with the query's counters.
func (s *State) Puts(q int) bool { return s.queries[q].mark[0].Closing > 0 }

// spend gives up pane number slot, which has been saved. With an undo log it is
// cleared when that has been committed, and not before it is free.
func (s *State) spend(q *query, slot int) {
	p := &q.panes[slot]
	q.putOut(p.Index, p.Count)
	p.State = paneSpent
	fault.Point()
	p.Group, p.Slot = 0, 0
	q.spent++
	s.spent++
	q.start, q.end = 1, 0
	if s.undo == nil {
		s.sweepPane(q, slot, math.MaxInt)
	}
}

// Sweep clears what panes held that have been put out, entry after entry until about
// n, and returns how many there were; 0: nothing is left to clear. It is called
// between a batch's commit and the next one's begin: what it does is not saved, and
// goes on after a kill.
func (s *State) Sweep(n int) int {
	did := 0
	for i := 0; s.spent > 0 && i < len(s.queries); i++ {
		q := &s.queries[i]
		for slot := 0; q.spent > 0 && slot < len(q.panes); slot++ {
			if q.panes[slot].State != paneSpent {
				continue
			}
			if did >= n {
				return did
			}
			did += s.sweepPane(q, slot, n-did)
		}
	}
	return did
}

// sweepPane goes on with clearing pane number slot; only what was used is touched.
func (s *State) sweepPane(q *query, slot, n int) int {
	p, did := &q.panes[slot], 0
	for ; p.Group < event.GroupCount; p.Group++ {
		at := slot*event.GroupCount + int(p.Group)
		if q.groups[at] == 0 {
			continue
		}
		if did >= n {
			return did
		}
		did += int(q.groups[at])
		q.clearEntries(slot, int(p.Group))
		clear(q.usedOf(slot, int(p.Group))) // after the entries: after a kill it says what may not be clear
		fault.Point()
		q.groups[at] = 0
		fault.Point()
	}
	if slot != q.home(p.Index) {
		q.displaced--
	}
	*p = pane{State: paneSpent}
	fault.Point()
	atomic.StoreUint32(&p.State, paneFree)
	q.spent--
	s.spent--
	return did + 1
}

// clearEntries clears a group's entries in pane number slot. Which they are its map still
// says.
func (q *query) clearEntries(slot, group int) {
	g, used := &q.geometry, q.usedOf(slot, group)
	for i, ok := nextUsed(used, 0); ok; i, ok = nextUsed(used, i+1) {
		entry := slot*g.PaneWords + group*g.RunWords + i*g.Stride
		clear(q.mem[entry : entry+g.Stride])
		fault.Point()
	}
}

// nextUsed returns the first occupied slot from number from on.
func nextUsed(used []uint64, from int) (int, bool) {
	for w := from / 64; w < len(used); w++ {
		word := used[w]
		if w == from/64 {
			word &= ^uint64(0) << (uint(from) % 64)
		}
		if word != 0 {
			return w*64 + bits.TrailingZeros64(word), true
		}
	}
	return 0, false
}

func (q *query) putEntry(out *outbox.Writer, partial *outbox.Partial, slot, group, index int) bool {
	g := &q.geometry
	at := slot*g.PaneWords + group*g.RunWords + index*g.Stride
	entry := q.mem[at : at+g.Stride]
	length := q.keyWidth
	if g.Variable {
		length = int(entry[1+g.KeyWords])
	}
	partial.Key = event.AppendKey(q.key[:0], entry[1:1+g.KeyWords], length)
	partial.State = entry[q.stateAt:]
	if !out.Put(partial) {
		return false
	}
	q.counters.Partials++
	return true
}
