package cluster

import (
	"slices"
	"time"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma/collective"
)

// A registry is what has happened so far, as all members know it: a function of the
// headers of the committed rounds and of nothing else.
type registry struct {
	s        *shape
	lineage  uint64 // the epoch in which it began empty
	members  collective.Set
	sequence uint64   // of the last firing; firings are counted through all epochs
	durable  []uint64 // [home] firings up to there are in its owner's sinks
	final    collective.Set
	// stopping are members that want to end once their rows are out. Heard each round;
	// no part of what has happened.
	stopping collective.Set
	marks    [][]event.Nanos // [peer][query]
	idle     [][]idle        // [peer][query]
	floors   []event.Nanos   // [query]
	// since [peer][query] is up to where a peer does not know what it has contributed: it
	// may have done so in an earlier life, to those that have forgotten it.
	since [][]event.Nanos

	windows map[windowID]*entry
	queues  [][]*entry // [query] by end
	open    []*entry   // those that have not fired, in order
	unsaved []*entry   // those with firings that are not durable

	// What the last round did.
	fired   []*entry
	removed []*entry
	touched []*entry // may fire again
	counts  []counts // [query]
}

// counts are what a member has seen happen to a query's windows.
type counts struct {
	fired, corrected, forced, unknown, short, late, repeated uint64
}

// An entry is what is known of one window.
type entry struct {
	id           windowID
	contributors collective.Set
	merged       collective.Set // contributors, and those that had nothing to contribute
	firings      uint32         // so far: the next revision
	missing      uint64
	flags        uint8
	firing       outbox.Firing
	lack         []collective.Set // [home] contributors whose part its holders do not have
	out          []collective.Set // [home] who is in the last rows that went out
	unsure       collective.Set   // homes whose last rows may have gone out or not
	unsaved      []firing         // not durable yet, oldest first
	forced       bool
	touched      bool // in the registry's list of that name

	// The timekeeper's own: when it was first seen, and when it had fired and was over.
	seenAt, firedAt time.Duration
	early           bool // in its list of that name
}

// A firing is one time that a window's rows are made.
type firing struct {
	sequence uint64
	revision uint32
	epoch    uint64
	missing  uint64
	flags    uint8
	firing   outbox.Firing
	merged   []collective.Set // [home] who is in its rows; none: it makes no rows there
}

// safe reports that no rows of e at home are still to be written.
func (e *entry) safe(home int, durable uint64) bool {
	for i := range e.unsaved {
		if f := &e.unsaved[i]; f.sequence > durable && f.merged[home] != 0 {
			return false
		}
	}
	return true
}

func newRegistry(s *shape, lineage uint64) *registry {
	r := &registry{s: s, lineage: lineage, durable: make([]uint64, s.peers()), windows: map[windowID]*entry{}, counts: make([]counts, len(s.queries))}
	r.marks, r.idle, r.since = make([][]event.Nanos, s.peers()), make([][]idle, s.peers()), make([][]event.Nanos, s.peers())
	for p := range r.marks {
		r.since[p] = slices.Repeat([]event.Nanos{event.MinNanos}, len(s.queries))
		r.marks[p], r.idle[p] = make([]event.Nanos, len(s.queries)), make([]idle, len(s.queries))
		r.forget(p)
	}
	r.floors = slices.Repeat([]event.Nanos{event.MinNanos}, len(s.queries))
	r.queues = make([][]*entry, len(s.queries))
	return r
}

// forget drops what peer p said of itself: it begins anew.
func (r *registry) forget(p int) {
	for q := range r.marks[p] {
		r.marks[p][q], r.idle[p][q] = event.MinNanos, waited
	}
	r.final = r.final.Without(p)
}

// forgo gives up windows that may have rows which are out and of which nobody knows any
// more: rows of the same windows would contradict them.
func (r *registry) forgo(heads []*header) {
	for _, h := range heads {
		if h == nil {
			continue
		}
		for q := range r.floors {
			r.floors[q] = max(r.floors[q], h.marks[q].floor)
		}
	}
}

func (r *registry) begin() {
	r.fired, r.removed, r.touched = r.fired[:0], r.removed[:0], r.touched[:0]
}

// hear notes how far p is.
func (r *registry) hear(p int, h *header) {
	for q, m := range h.marks {
		r.marks[p][q], r.idle[p][q] = max(r.marks[p][q], m.watermark), m.idle
		r.since[p][q] = max(r.since[p][q], m.since)
	}
	if r.final = r.final.Without(p); h.final {
		r.final = r.final.With(p)
	}
	if r.stopping = r.stopping.Without(p); h.stopping {
		r.stopping = r.stopping.With(p)
	}
}

// rejoin notes what p, which begins anew, may have contributed in an earlier life.
func (r *registry) rejoin(p int, h *header) {
	for q, m := range h.marks {
		r.since[p][q] = max(r.since[p][q], m.floor, m.since)
	}
}

// needed reports that some member other than me wants to end and cannot yet: what it
// has contributed, or will, is not out.
func (r *registry) needed(me int) bool {
	others := r.stopping & r.members
	others = others.Without(me)
	if others&^r.final != 0 {
		return true
	}
	theirs := func(e *entry) bool { return e.contributors&others != 0 }
	return slices.ContainsFunc(r.open, theirs) || slices.ContainsFunc(r.unsaved, theirs)
}

func compareID(e *entry, id windowID) int { return e.id.compare(id) }

func insert(list []*entry, e *entry) []*entry {
	at, _ := slices.BinarySearchFunc(list, e.id, compareID)
	return slices.Insert(list, at, e)
}

// windowsMax bounds the windows of a query that a registry keeps.
const windowsMax = 1 << 20

// accept takes p's closing of a window and returns the homes whose records count: all,
// or those that lacked p's; none if what it brings is known or comes too late.
func (r *registry) accept(p int, c *closing) (*entry, collective.Set) {
	e, n := r.windows[c.window], &r.counts[c.window.query]
	switch {
	case c.again:
		return r.acceptAgain(p, e)
	case e != nil && e.contributors.Has(p):
		n.repeated++
		return nil, 0
	case c.window.end <= r.floors[c.window.query] || e == nil && len(r.queues[c.window.query]) >= windowsMax:
		n.late++
		return nil, 0
	case e == nil:
		peers := r.s.peers()
		e = &entry{id: c.window, lack: make([]collective.Set, peers), out: make([]collective.Set, peers), firing: outbox.OnTime, flags: outbox.FlagSequenced}
		r.windows[c.window] = e
		r.queues[c.window.query] = insert(r.queues[c.window.query], e)
		r.open = insert(r.open, e)
	}
	e.contributors = e.contributors.With(p)
	e.missing += c.missing
	e.flags |= c.flags & outbox.FlagIncomplete
	e.flags &= c.flags | ^uint8(outbox.FlagSequenced)
	e.firing = max(e.firing, c.firing)
	if e.firings > 0 {
		r.touch(e)
	}
	return e, r.s.all()
}

// acceptAgain takes what p sends once more, for the homes that lack it.
func (r *registry) acceptAgain(p int, e *entry) (*entry, collective.Set) {
	var homes collective.Set
	if e == nil {
		return nil, 0
	}
	for h := range e.lack {
		if e.lack[h].Has(p) {
			homes, e.lack[h] = homes.With(h), e.lack[h].Without(p)
		}
	}
	for h := range homes.All {
		merged := e.merged &^ e.lack[h]
		if e.firings > 0 && e.out[h]&^merged == 0 && (merged != e.out[h] || e.unsure.Has(h)) {
			r.touch(e)
		}
	}
	return e, homes
}

func (r *registry) touch(e *entry) {
	if !e.touched {
		e.touched = true
		r.touched = append(r.touched, e)
	}
}

// passed reports that p has contributed to e, or had nothing to contribute, and whether
// e is waiting for it.
func (r *registry) passed(p int, e *entry) (had, held bool) {
	q := e.id.query
	past := r.final.Has(p) || r.marks[p][q] >= e.id.end || r.idle[p][q] == without && r.members.Has(p)
	had = e.contributors.Has(p) || past && e.id.end > r.since[p][q]
	return had, !had && !past && r.members.Has(p) && r.idle[p][q] == waited
}

// straggler returns the member that q waits for, and how far it is behind the one that
// is furthest; -1 if nobody is behind. The lag of one that has said nothing yet is 0.
func (r *registry) straggler(q int) (peer int, lag time.Duration) {
	peer = -1
	least, most := event.MaxNanos, event.MinNanos
	for p := range r.members.All {
		if r.idle[p][q] != waited || r.final.Has(p) {
			continue
		}
		t := r.marks[p][q]
		most = max(most, t)
		if t < least {
			least, peer = t, p
		}
	}
	switch {
	case peer < 0 || most <= least:
		return -1, 0
	case least == event.MinNanos:
		return peer, 0
	}
	return peer, time.Duration(most - least)
}

// fire fires what is complete, forced or corrected, in order.
func (r *registry) fire(epoch uint64, forced []windowID) {
	for _, id := range forced {
		if e := r.windows[id]; e != nil && e.firings == 0 {
			e.forced = true
		}
	}
	keep := r.open[:0]
	for _, e := range r.open {
		held := false
		for p := range r.members.All {
			_, h := r.passed(p, e)
			held = held || h
		}
		if held && !e.forced {
			keep = append(keep, e)
			continue
		}
		if held {
			r.counts[e.id.query].forced++
		}
		r.fireOne(epoch, e)
	}
	clear(r.open[len(keep):])
	r.open = keep
	slices.SortFunc(r.touched, func(a, b *entry) int { return a.id.compare(b.id) })
	for _, e := range r.touched {
		e.touched = false
		r.fireOne(epoch, e)
	}
}

func (r *registry) fireOne(epoch uint64, e *entry) {
	e.merged |= e.contributors
	for p := range r.s.peers() {
		if had, _ := r.passed(p, e); had {
			e.merged = e.merged.With(p)
		}
	}
	r.sequence++
	f := firing{
		sequence: r.sequence, revision: e.firings, epoch: epoch, missing: e.missing, flags: e.flags, firing: e.firing,
		merged: make([]collective.Set, len(e.out)),
	}
	n := &r.counts[e.id.query]
	for h := range f.merged {
		// What lost a part is worth less than the rows that have it.
		merged := e.merged &^ e.lack[h]
		if e.firings > 0 && e.out[h]&^merged != 0 {
			n.unknown++
			continue
		}
		if e.lack[h] != 0 {
			n.short++
		}
		f.merged[h], e.out[h], e.unsure = merged, merged, e.unsure.Without(h)
	}
	if n.fired++; e.firings > 0 {
		n.corrected++
	}
	e.firings++
	if e.unsaved = append(e.unsaved, f); len(e.unsaved) == 1 {
		r.unsaved = append(r.unsaved, e)
	}
	r.fired = append(r.fired, e)
}

// save notes what owners have in their sinks and reports whether that is more.
func (r *registry) save(heads []*header) bool {
	more := false
	for h := range r.durable {
		if head := heads[owner(h, r.members)]; head != nil && head.durable[h] > r.durable[h] && r.durable[h] < r.sequence {
			r.durable[h], more = min(head.durable[h], r.sequence), true
		}
	}
	return more
}

// settle forgets firings that are in the sinks, all rows of them.
func (r *registry) settle() {
	all := slices.Min(r.durable)
	r.unsaved = slices.DeleteFunc(r.unsaved, func(e *entry) bool {
		e.unsaved = slices.DeleteFunc(e.unsaved, func(f firing) bool { return f.sequence <= all })
		return len(e.unsaved) == 0
	})
}

// most returns up to where more than half of the members that q waits for are. One
// clock that is ahead, or one event of a time that is none, does not end a query for all.
// Without anybody to wait for, or without room for more windows, it is no bound.
func (r *registry) most(q int) event.Nanos {
	var marks [collective.PeersMax]event.Nanos
	n := 0
	for p := range r.members.All {
		if !r.final.Has(p) && r.idle[p][q] == waited {
			marks[n] = r.marks[p][q]
			n++
		}
	}
	if n == 0 || len(r.queues[q]) >= windowsMax/2 {
		return event.MaxNanos
	}
	slices.Sort(marks[:n])
	return marks[(n-1)/2]
}

// expire raises the floors, never past a window that has not fired, nor past where most
// members are, and drops the windows below that nobody needs any more.
func (r *registry) expire(marks []mark) {
	for q := range r.floors {
		queue := r.queues[q]
		floor := r.floors[q]
		if marks != nil && marks[q].floor > floor {
			floor = min(marks[q].floor, r.most(q))
		}
		if floor > r.floors[q] {
			r.floors[q] = floor
			for _, e := range queue {
				if e.firings == 0 {
					r.floors[q] = min(r.floors[q], e.id.end-1)
					break
				}
			}
		}
		n := len(r.removed)
		for _, e := range queue {
			if e.id.end > r.floors[q] {
				break
			}
			if e.firings > 0 && len(e.unsaved) == 0 {
				r.removed = append(r.removed, e)
				delete(r.windows, e.id)
			}
		}
		if len(r.removed) > n {
			r.queues[q] = slices.DeleteFunc(queue, func(e *entry) bool { return r.windows[e.id] != e })
		}
	}
}

// lose notes that nobody is left who holds what is at home at h.
func (r *registry) lose(h int) {
	for _, queue := range r.queues {
		for _, e := range queue {
			r.damage(e, h)
		}
	}
	r.durable[h] = r.sequence
}

// damage notes that e's state of home h is gone.
func (r *registry) damage(e *entry, h int) {
	e.lack[h] = e.contributors
	for i := range e.unsaved {
		if f := &e.unsaved[i]; f.sequence > r.durable[h] && f.merged[h] != 0 {
			if !e.unsure.Has(h) {
				r.counts[e.id.query].unknown++
			}
			e.unsure, f.merged[h] = e.unsure.With(h), 0
		}
	}
}

// follow makes members those of the present epoch; whole are those among them that
// know what has happened.
func (r *registry) follow(members, whole collective.Set) {
	for p := range r.s.peers() {
		switch {
		case members.Has(p) && !whole.Has(p):
			r.forget(p)
		case !members.Has(p):
			for q := range r.idle[p] {
				r.idle[p][q] = waited
			}
		}
	}
	r.members, r.stopping = members, r.stopping&members
	r.settle()
}
