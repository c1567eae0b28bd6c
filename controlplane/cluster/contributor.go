package cluster

import (
	"slices"
	"sync"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma/collective"
)

// A contributor collects this box's partials, a window at a time, until every worker
// has put out all of it, and keeps them until the rows are safe everywhere.
//
// The pump's goroutine calls record; all else is the rounds'. The lock is held for a
// copy of one record at most by the one, for a look at the windows by the other.
type contributor struct {
	s    *shape
	keep int // bytes

	mu       sync.Mutex
	tap      *Tap            // the source of records; nil between two
	levels   [][]event.Nanos // [worker][query] done up to there
	windows  map[windowID]*kept
	sealed   []*kept // in order; those not sealed are only in windows
	bytes    int
	ended    bool   // no data plane comes any more
	progress bool   // there is something to say
	advanced []bool // [query] since the last look
	// reached says for each query up to where windows may have rows that are out: if
	// nobody is left who knows which, none of them is made again.
	reached []event.Nanos
	past    position // the last round that has been followed, perhaps in an earlier life
	counts  []keeps  // [query]
	due     []uint64 // scratch
}

// keeps are what the contributor counts of a query.
type keeps struct {
	overflow uint64 // windows whose records were dropped for want of room, or were too many for a round
	late     uint64 // windows that came when they could be corrected no more
	stray    uint64 // records of windows that had been contributed, or are none
	unknown  uint64 // windows that the group may have forgotten: their rows may be out, so they are not made again
	again    uint64 // windows contributed once more
	lonely   uint64 // windows whose records were freed in the outbox before the group had them: a death of this process loses them
}

// A kept window is what this box has of it.
type kept struct {
	id       windowID
	parts    [][]byte // [home] records
	bytes    int
	missing  uint64
	flags    uint8 // of a row
	firing   outbox.Firing
	cause    uint64
	sealed   bool
	dropped  bool     // its records are gone
	from     []uint64 // [worker] where its records begin in the outbox
	has      []bool   // [worker] it has some
	lineage  uint64   // of the registry when it was first sent; 0: never
	in       bool     // the registry has it
	released bool     // it does not hold the outbox any more
	orphan   bool     // some of it was of a data plane that is gone, and is nowhere else
}

func newContributor(s *shape, keep int) *contributor {
	c := &contributor{s: s, keep: keep, windows: map[windowID]*kept{}, advanced: make([]bool, len(s.queries)), counts: make([]keeps, len(s.queries))}
	for range s.queries {
		c.reached = append(c.reached, event.MinNanos)
	}
	return c
}

// levelBits is how a level is stored: none is 0.
const levelBits = 1 << 63

// resume takes what a control process before this one had reached.
func (c *contributor) resume(levels []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(levels) < levelsOf(len(c.reached)) {
		return
	}
	for q := range c.reached {
		c.reached[q] = max(c.reached[q], event.Nanos(levels[q]^levelBits))
	}
	if at := (position{levels[len(levels)-2], levels[len(levels)-1]}); c.past.before(at) {
		c.past = at
	}
}

// levelsOf returns how many words a commit's levels are: one a query, and the last two
// are a position.
func levelsOf(queries int) int { return queries + 2 }

// store writes what has been reached to out and reports whether that is news.
func (c *contributor) store(out []uint64) (more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for q := range min(len(out), len(c.reached)) {
		if v := uint64(c.reached[q]) ^ levelBits; v != out[q] {
			out[q], more = v, true
		}
	}
	return more
}

// reach notes that windows of q up to t may be out.
func (c *contributor) reach(q int, t event.Nanos) { c.reached[q] = max(c.reached[q], t) }

// look notes what r, as of round at, tells of windows that may be out. Said are our own marks in the
// round before; all says that r is news as a whole.
func (c *contributor) look(r *registry, at position, said []mark, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.past.before(at) {
		c.past = at
	}
	if !all {
		for q := range said {
			c.reach(q, said[q].watermark)
		}
		for _, e := range r.fired {
			c.reach(int(e.id.query), e.id.end)
		}
		return
	}
	for q := range r.floors {
		c.reach(q, r.floors[q])
		for _, e := range r.queues[q] {
			if e.firings > 0 || e.contributors.Has(c.s.me) {
				c.reach(q, e.id.end)
			}
		}
	}
}

// remembered returns the last round that this box has followed in any life of which
// there is word.
func (c *contributor) remembered() position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.past
}

// reachedOf returns up to where windows of q may be out.
func (c *contributor) reachedOf(q int) event.Nanos {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reached[q]
}

// attach makes t the source of records. What workers had done stays done.
func (c *contributor) attach(t *Tap) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tap != nil {
		c.leave(false)
	}
	c.tap = t
	if len(c.levels) != t.workers {
		floor := make([]event.Nanos, len(c.s.queries))
		for q := range floor {
			floor[q] = c.level(q)
		}
		c.levels = nil
		for range t.workers {
			c.levels = append(c.levels, slices.Clone(floor))
		}
	}
}

// detach notes that t gives no more. whole says that its workers ended in good order;
// otherwise what is open may lack something.
func (c *contributor) detach(t *Tap, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tap == t {
		c.leave(whole)
	}
}

func (c *contributor) leave(whole bool) {
	c.tap = nil
	for _, k := range c.windows {
		k.from, k.has = nil, nil
		if !whole && !k.in && !k.orphan {
			k.orphan = true
			c.counts[k.id.query].lonely++
		}
		if !k.sealed && !whole {
			k.flags |= outbox.FlagIncomplete
		}
	}
	if whole || c.ended {
		c.sealAll()
	}
	c.progress = true
}

// end says that no data plane comes any more.
func (c *contributor) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended, c.progress = true, true
	if c.tap == nil {
		c.sealAll()
	}
}

// level returns how far all workers are with q.
func (c *contributor) level(q int) event.Nanos {
	if len(c.levels) == 0 {
		return event.MinNanos
	}
	t := event.MaxNanos
	for _, l := range c.levels {
		t = min(t, l[q])
	}
	return t
}

// record takes a record of t and reports whether there is something to say now.
func (c *contributor) record(t *Tap, worker int, p *outbox.Partial, after uint64) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := t.given[worker]
	t.given[worker] = after
	if c.tap != t {
		return false
	}
	if p.Kind != outbox.KindWatermark && !c.s.valid(windowID{p.Query, p.Start, p.End}) {
		// No worker makes it, and no peer would take it.
		if int(p.Query) < len(c.counts) {
			c.counts[p.Query].stray++
		}
		return false
	}
	switch p.Kind {
	case outbox.KindWatermark:
		return c.raise(worker, p)
	case outbox.KindDone:
		id := windowID{p.Query, p.Start, p.End}
		if c.windows[id] != nil || p.Missing > 0 || p.Flags&outbox.FlagIncomplete != 0 {
			c.note(c.window(id), worker, p, before)
		}
	case outbox.KindPartial:
		c.add(worker, p, before)
	}
	return false
}

func (c *contributor) window(id windowID) *kept {
	k := c.windows[id]
	if k == nil {
		k = &kept{id: id, parts: make([][]byte, c.s.peers()), flags: outbox.FlagSequenced, firing: outbox.OnTime}
		c.windows[id] = k
	}
	return k
}

// note takes what a record says of its whole window.
func (c *contributor) note(k *kept, worker int, p *outbox.Partial, before uint64) {
	if k.sealed {
		return
	}
	k.missing = max(k.missing, p.Missing) // every worker knows the same gaps, some sooner
	k.flags |= p.Flags & outbox.FlagIncomplete
	k.flags &= p.Flags | ^uint8(outbox.FlagSequenced)
	k.firing = max(k.firing, p.Firing)
	k.cause = max(k.cause, p.Cause)
	if len(k.has) <= worker {
		k.has = append(k.has, make([]bool, worker+1-len(k.has))...)
		k.from = append(k.from, make([]uint64, worker+1-len(k.from))...)
	}
	if !k.has[worker] {
		k.has[worker], k.from[worker] = true, before
	}
}

func (c *contributor) add(worker int, p *outbox.Partial, before uint64) {
	id := windowID{p.Query, p.Start, p.End}
	k := c.window(id)
	if k.sealed {
		// Its watermark had passed: no worker may say more.
		c.counts[p.Query].stray++
		return
	}
	c.note(k, worker, p, before)
	if k.dropped {
		return
	}
	home := c.s.home(p.Key)
	n := len(k.parts[home])
	k.parts[home] = appendState(k.parts[home], id, p.Key, p.State)
	n = len(k.parts[home]) - n
	k.bytes, c.bytes = k.bytes+n, c.bytes+n
	for c.bytes > c.keep {
		c.overflow()
	}
}

// overflow drops the records of the oldest window: one that the group has, if there is
// one.
func (c *contributor) overflow() {
	var oldest *kept
	for _, k := range c.windows {
		if k.bytes == 0 {
			continue
		}
		if oldest == nil || k.in && !oldest.in || k.in == oldest.in && (k.id.end < oldest.id.end || k.id.end == oldest.id.end && k.id.compare(oldest.id) < 0) {
			oldest = k
		}
	}
	c.counts[oldest.id.query].overflow++
	c.empty(oldest)
}

// empty drops a window's records; that there were some is not forgotten.
func (c *contributor) empty(k *kept) {
	c.bytes -= k.bytes
	k.bytes, k.dropped = 0, true
	clear(k.parts)
	k.flags |= outbox.FlagIncomplete
}

// raise notes that a worker is done with windows up to p.End, and seals those with
// which all are.
func (c *contributor) raise(worker int, p *outbox.Partial) bool {
	if worker >= len(c.levels) || int(p.Query) >= len(c.s.queries) {
		return false
	}
	q := int(p.Query)
	was := c.level(q)
	c.levels[worker][q] = max(c.levels[worker][q], p.End)
	now := c.level(q)
	if now == was {
		return false
	}
	c.advanced[q], c.progress = true, true
	for id, k := range c.windows {
		if id.query == p.Query && id.end <= now {
			c.seal(k)
		}
	}
	return true
}

func (c *contributor) seal(k *kept) {
	if k.sealed {
		return
	}
	k.sealed = true
	at, _ := slices.BinarySearchFunc(c.sealed, k.id, func(k *kept, id windowID) int { return k.id.compare(id) })
	c.sealed = slices.Insert(c.sealed, at, k)
}

func (c *contributor) sealAll() {
	for _, k := range c.windows {
		c.seal(k)
	}
}

// say appends to s the windows that the registry lacks, as many as fit into limit
// bytes, and how far that makes this box. Without a registry to compare with (nil) it
// offers nothing.
func (c *contributor) say(s *saying, r *registry, limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.stopping = c.ended
	c.progress = r == nil
	for q := range s.marks {
		s.marks[q].watermark = c.level(q)
	}
	all, used := true, 0
	for _, k := range c.sealed {
		if k.in && (r == nil || !lacks(r, k, c.s.me)) {
			continue
		}
		if r == nil || used > 0 && used+k.bytes > limit {
			if !k.in {
				m := &s.marks[k.id.query]
				m.watermark, all = min(m.watermark, k.id.end-1), false
				c.progress = true
			}
			continue
		}
		used += k.bytes
		s.offers = append(s.offers, c.offer(k, r))
	}
	s.final = all && c.ended && c.tap == nil && len(c.sealed) == len(c.windows)
}

// lacks reports that holders have lost what we contributed to k and that we have it.
func lacks(r *registry, k *kept, me int) bool {
	e := r.windows[k.id]
	if e == nil || k.dropped {
		return false
	}
	return slices.ContainsFunc(e.lack, func(s collective.Set) bool { return s.Has(me) })
}

func (c *contributor) offer(k *kept, r *registry) offer {
	o := offer{closing: closing{window: k.id, again: k.in, firing: k.firing, flags: k.flags, missing: k.missing}, bytes: k.parts}
	for home, b := range k.parts {
		if len(b) > 0 && (!k.in || r.windows[k.id].lack[home].Has(c.s.me)) {
			o.homes = o.homes.With(home)
		}
	}
	if k.lineage != 0 {
		c.counts[k.id.query].again++
	} else {
		k.lineage = r.lineage
	}
	return o
}

// follow drops what need not be kept any more, now that r is what has happened.
func (c *contributor) follow(r *registry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealed = slices.DeleteFunc(c.sealed, func(k *kept) bool {
		if !c.done(k, r) {
			return false
		}
		c.bytes -= k.bytes
		delete(c.windows, k.id)
		return true
	})
}

func (c *contributor) done(k *kept, r *registry) bool {
	n := &c.counts[k.id.query]
	e := r.windows[k.id]
	had := e != nil && e.contributors.Has(c.s.me)
	switch {
	case had && k.lineage != r.lineage:
		return true // the group has it of a life before this one, which knew all of it
	case had:
		k.in = true
		return e.firings > 0 && len(e.unsaved) == 0 && !lacks(r, k, c.s.me)
	case k.in && k.lineage == r.lineage:
		return true // it was there and has gone: it can be corrected no more
	case k.lineage != 0 && k.lineage != r.lineage:
		n.unknown++
		return true
	case k.id.end <= r.floors[k.id.query]:
		n.late++
		return true
	}
	k.in = false
	return false
}

// shrink makes the greatest window that has not been taken fit into a round: it is
// contributed without its records.
func (c *contributor) shrink() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var great *kept
	for _, k := range c.sealed {
		if !k.in && (great == nil || k.bytes > great.bytes) {
			great = k
		}
	}
	if great != nil && great.bytes > 0 {
		c.counts[great.id.query].overflow++
		c.empty(great)
	}
}

// moved reports whether q's watermark has moved since it was last asked.
func (c *contributor) moved(q int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.advanced[q]
	c.advanced[q] = false
	return was
}

// waiting reports that windows of q wait to be contributed: that is not silence.
func (c *contributor) waiting(q int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.sealed, func(k *kept) bool { return int(k.id.query) == q && !k.in })
}

// needs returns, for each worker of t, the outbox position from which records are
// still needed: those of windows that the group does not have. It is valid until the
// next call. Beyond room bytes the oldest are let go, so that an outbox does not fill
// up while there is no group: they are then kept here alone.
func (c *contributor) needs(t *Tap, room uint64) []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tap != t {
		return nil
	}
	for {
		c.due = append(c.due[:0], t.given...)
		for _, k := range c.windows {
			if k.in || k.released {
				continue
			}
			for w, has := range k.has {
				if has {
					c.due[w] = min(c.due[w], k.from[w])
				}
			}
		}
		w := -1
		for i, at := range c.due {
			if t.given[i]-at > room {
				w = i
			}
		}
		if w < 0 {
			return c.due
		}
		for _, k := range c.windows {
			if !k.in && !k.released && w < len(k.has) && k.has[w] && k.from[w] == c.due[w] {
				k.released = true
				c.counts[k.id.query].lonely++
			}
		}
	}
}

// nudge notes that what was said has not been heard.
func (c *contributor) nudge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress = true
}

// cause returns what the latency of id's rows is measured from, 0 if it is not ours.
func (c *contributor) cause(id windowID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.windows[id]; k != nil {
		return k.cause
	}
	return 0
}

// eager reports that there is something new to say.
func (c *contributor) eager() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.progress
}

// nothing reports that nothing is kept.
func (c *contributor) nothing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.windows) == 0
}
