package window

import (
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
)

const flagIncomplete = outbox.FlagIncomplete

// Close puts at most n partials of closing panes into out and returns how many it
// put. It goes on where it stopped: at the next call, or when out has room again.
func (s *State) Close(out *outbox.Writer, n int) int {
	put := 0
	for i := range s.queries {
		q := &s.queries[i]
		for q.closing > 0 {
			done, ok := s.closePane(out, q, int(q.queue[q.first]), n-put)
			put += done
			if !ok {
				return put
			}
			if q.closing == 0 && s.waiting > 0 {
				s.enterWaiting(q) // they may begin to close at once
			}
		}
		if q.told != q.mark[0].Index {
			if !out.Put(&outbox.Partial{Kind: outbox.KindWatermark, Query: uint16(q.number), End: q.windowStart(q.mark[0].Index)}) {
				return put
			}
			q.told = q.mark[0].Index
			put++
		}
	}
	return put
}

// closePane goes on with pane number slot and reports whether it is done.
func (s *State) closePane(out *outbox.Writer, q *query, slot, n int) (put int, done bool) {
	p := &q.panes[slot]
	partial := outbox.Partial{
		Kind: outbox.KindPartial, Firing: outbox.Firing(p.Firing), Flags: uint8(p.Flags), Query: uint16(q.number),
		Revision: p.Revision, Start: q.windowStart(p.Index), End: q.windowStart(p.Index + 1), Missing: p.Missing, Cause: p.Cause,
	}
	for ; p.Group < event.GroupCount; p.Group, p.Slot = p.Group+1, 0 {
		if q.groups[slot*event.GroupCount+int(p.Group)] == 0 {
			continue
		}
		used := q.used[(slot*event.GroupCount+int(p.Group))*q.usedWords:][:q.usedWords]
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
		}
	}
	partial.Kind, partial.Key, partial.State = outbox.KindDone, nil, nil
	if !out.Put(&partial) {
		return put, false
	}
	q.counters.WindowsClosed++
	q.clear(slot)
	q.first = (q.first + 1) % len(q.queue)
	q.closing--
	s.closing--
	return put, true
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

// clear empties pane number slot: only what was used is touched.
func (q *query) clear(slot int) {
	g := &q.geometry
	for group := range event.GroupCount {
		at := slot*event.GroupCount + group
		if q.groups[at] == 0 {
			continue
		}
		q.groups[at] = 0
		used := q.used[at*q.usedWords:][:q.usedWords]
		for i, ok := nextUsed(used, 0); ok; i, ok = nextUsed(used, i+1) {
			entry := slot*g.PaneWords + group*g.RunWords + i*g.Stride
			clear(q.mem[entry : entry+g.Stride])
		}
		clear(used)
	}
	if slot != q.home(q.panes[slot].Index) {
		q.displaced--
	}
	q.panes[slot] = pane{}
	q.start, q.end = 1, 0
}
