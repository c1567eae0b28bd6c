package cluster

import (
	"iter"
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
	queues   [][]*kept // [query] the windows, in order
	sealedTo []int     // [query] all before it in the queue are sealed
	emptyTo  []int     // [query] all before it in the queue have no records
	pins     [][]pin   // [worker] what holds its outbox, oldest first
	bytes    int       // of records, and what windows cost
	inBytes  int       // of records that the registry has
	husks    int       // windows whose records are gone
	ended    bool      // no data plane comes any more
	progress bool      // there is something to say
	advanced []bool    // [query] since the last look
	// reached says for each query up to where windows may have rows that are out: if
	// nobody is left who knows which, none of them is made again.
	reached []event.Nanos
	// lost says for each query up to where windows may have been given up without a word:
	// that we are past them does not say that we had nothing.
	lost   []event.Nanos
	alone  []event.Nanos // [query] windows up to there are kept in this process and nowhere else
	past   position      // the last round that has been followed, perhaps in an earlier life
	counts []keeps       // [query]
	due    []uint64      // scratch
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
	dropped  bool   // its records are gone
	pinned   []bool // [worker] it has, or had, a pin
	lineage  uint64 // of the registry when it was first sent; 0: never
	in       bool   // the registry has it
	released bool   // it does not hold the outbox any more
	orphan   bool   // some of it was of a data plane that is gone, and is nowhere else
}

// A pin holds an outbox: a window's first record of that worker is at from.
type pin struct {
	k    *kept
	from uint64
}

// windowCost is what a window costs beside its records, more or less.
const windowCost = 300

func newContributor(s *shape, keep int) *contributor {
	c := &contributor{s: s, keep: keep, windows: map[windowID]*kept{}, advanced: make([]bool, len(s.queries)), counts: make([]keeps, len(s.queries))}
	n := len(s.queries)
	c.queues, c.sealedTo, c.emptyTo = make([][]*kept, n), make([]int, n), make([]int, n)
	c.reached = slices.Repeat([]event.Nanos{event.MinNanos}, n)
	c.lost, c.alone = slices.Clone(c.reached), slices.Clone(c.reached)
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
		c.lost[q] = max(c.lost[q], event.Nanos(levels[len(levels)/2-1+q]^levelBits))
	}
	if at := (position{levels[len(levels)-2], levels[len(levels)-1]}); c.past.before(at) {
		c.past = at
	}
}

// levelsOf returns how many words a commit's levels are: for each query up to where rows
// may be out, for each up to where records may be gone that nobody else had, and the last
// two are a position.
func levelsOf(queries int) int { return 2*queries + 2 }

// store writes what has been reached to out and reports whether that is news.
func (c *contributor) store(out []uint64) (more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	put := func(at int, t event.Nanos) {
		if v := uint64(t) ^ levelBits; v != out[at] {
			out[at], more = v, true
		}
	}
	half := len(out)/2 - 1
	for q := range min(half, len(c.reached)) {
		put(q, c.reached[q])
		put(half+q, max(c.lost[q], c.alone[q]))
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
	c.tap, c.pins = t, make([][]pin, t.workers)
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
	c.tap, c.pins = nil, nil
	for _, k := range c.windows {
		k.pinned = nil
		if !whole && !k.in && !k.orphan {
			k.orphan = true
			c.counts[k.id.query].lonely++
			c.leftAlone(k)
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
	c.fit()
	return false
}

func (c *contributor) window(id windowID) *kept {
	k := c.windows[id]
	if k == nil {
		k = &kept{id: id, parts: make([][]byte, c.s.peers()), flags: outbox.FlagSequenced, firing: outbox.OnTime}
		if id.end <= c.lost[id.query] {
			k.flags |= outbox.FlagIncomplete // what came of it before may be gone
		}
		c.windows[id] = k
		q := id.query
		at, _ := slices.BinarySearchFunc(c.queues[q], id, func(k *kept, id windowID) int { return k.id.compare(id) })
		c.queues[q] = slices.Insert(c.queues[q], at, k)
		c.sealedTo[q], c.emptyTo[q] = min(c.sealedTo[q], at), min(c.emptyTo[q], at)
		c.bytes += windowCost
	}
	return k
}

// forget takes k out of the accounts; who calls it takes k out of its queue.
func (c *contributor) forget(k *kept) {
	c.charge(k, -k.bytes)
	c.bytes -= windowCost
	if k.dropped {
		c.husks--
	}
	k.released = true
	delete(c.windows, k.id)
}

// charge counts n more bytes of k's records.
func (c *contributor) charge(k *kept, n int) {
	k.bytes, c.bytes = k.bytes+n, c.bytes+n
	if k.in {
		c.inBytes += n
	}
}

// mark notes whether the registry has k.
func (c *contributor) mark(k *kept, in bool) {
	if in != k.in {
		if k.in = in; in {
			c.inBytes += k.bytes
		} else {
			c.inBytes -= k.bytes
		}
	}
}

// leftAlone notes that k is in this process and nowhere else.
func (c *contributor) leftAlone(k *kept) {
	c.alone[k.id.query] = max(c.alone[k.id.query], k.id.end)
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
	if len(k.pinned) <= worker {
		k.pinned = append(k.pinned, make([]bool, worker+1-len(k.pinned))...)
	}
	if !k.pinned[worker] {
		k.pinned[worker] = true
		c.pins[worker] = append(c.pins[worker], pin{k, before})
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
	c.charge(k, len(k.parts[home])-n)
}

// fit makes what is kept fit into the budget. Windows without records count too: there
// is no end of them while there is no group.
func (c *contributor) fit() {
	for c.bytes > c.keep && len(c.windows) > 0 {
		if c.husks*windowCost > c.keep/8 && c.giveUp(true) {
			continue
		}
		if k := c.oldest(c.inBytes > 0); k != nil {
			c.counts[k.id.query].overflow++
			c.empty(k)
			continue
		}
		c.giveUp(false)
	}
}

// oldest returns the oldest window that has records, of those that the group has or of
// all.
func (c *contributor) oldest(in bool) (oldest *kept) {
	for q, queue := range c.queues {
		for c.emptyTo[q] < len(queue) && queue[c.emptyTo[q]].bytes == 0 {
			c.emptyTo[q]++
		}
		for _, k := range queue[c.emptyTo[q]:] {
			if k.bytes > 0 && (k.in || !in) {
				if oldest == nil || k.id.end < oldest.id.end {
					oldest = k
				}
				break
			}
		}
	}
	return oldest
}

// giveUp forgets the oldest window, if need be of those first in line without records,
// and reports whether there is one. Unless the group has it, the group is told that we
// do not know any more what we had up to there.
func (c *contributor) giveUp(empty bool) bool {
	var oldest *kept
	for _, queue := range c.queues {
		if len(queue) > 0 && (oldest == nil || queue[0].id.end < oldest.id.end) && (!empty || queue[0].bytes == 0) {
			oldest = queue[0]
		}
	}
	if oldest == nil {
		return false
	}
	q := oldest.id.query
	if !oldest.in {
		c.lost[q] = max(c.lost[q], oldest.id.end)
		if !oldest.dropped {
			c.counts[q].overflow++
		}
	}
	c.forget(oldest)
	c.queues[q][0] = nil
	c.queues[q] = c.queues[q][1:]
	c.sealedTo[q], c.emptyTo[q] = max(c.sealedTo[q]-1, 0), max(c.emptyTo[q]-1, 0)
	return true
}

// empty drops a window's records; that there were some is not forgotten.
func (c *contributor) empty(k *kept) {
	c.charge(k, -k.bytes)
	if !k.dropped {
		k.dropped = true
		c.husks++
	}
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
	for queue := c.queues[q]; c.sealedTo[q] < len(queue) && queue[c.sealedTo[q]].id.end <= now; c.sealedTo[q]++ {
		queue[c.sealedTo[q]].sealed = true
	}
	return true
}

func (c *contributor) sealAll() {
	for _, k := range c.windows {
		k.sealed = true
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
		s.marks[q].watermark, s.marks[q].since = c.level(q), c.lost[q]
	}
	all, used, open := true, 0, 0
	for k := range c.inOrder() {
		if !k.sealed {
			open++
			continue
		}
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
	s.final = all && c.ended && c.tap == nil && open == 0
}

// inOrder yields all windows, a query after the other.
func (c *contributor) inOrder() iter.Seq[*kept] {
	return func(yield func(*kept) bool) {
		for _, queue := range c.queues {
			for _, k := range queue {
				if !yield(k) {
					return
				}
			}
		}
	}
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
	for q, queue := range c.queues {
		c.queues[q] = slices.DeleteFunc(queue, func(k *kept) bool {
			if !k.sealed || !c.done(k, r) {
				return false
			}
			c.forget(k)
			return true
		})
		if len(c.queues[q]) < len(queue) {
			c.sealedTo[q], c.emptyTo[q] = 0, 0
		}
		if c.alone[q] > event.MinNanos {
			c.alone[q] = event.MinNanos
			for _, k := range slices.Backward(c.queues[q]) {
				if !k.in && (k.released || k.orphan) {
					c.leftAlone(k)
					break
				}
			}
		}
	}
}

func (c *contributor) done(k *kept, r *registry) bool {
	n := &c.counts[k.id.query]
	e := r.windows[k.id]
	had := e != nil && e.contributors.Has(c.s.me)
	switch {
	case had && k.lineage != r.lineage:
		return true // the group has it of a life before this one, which knew all of it
	case had:
		c.mark(k, true)
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
	c.mark(k, false)
	return false
}

// shrink makes the greatest window that has not been taken fit into a round: it is
// contributed without its records.
func (c *contributor) shrink() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var great *kept
	for k := range c.inOrder() {
		if k.sealed && !k.in && (great == nil || k.bytes > great.bytes) {
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
	return slices.ContainsFunc(c.queues[q], func(k *kept) bool { return k.sealed && !k.in })
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
	// What one worker's room lets go holds no other worker's either.
	for w := range t.given {
		for at := c.held(t, w); t.given[w]-at > room; at = c.held(t, w) {
			k := c.pins[w][0].k
			k.released = true
			c.counts[k.id.query].lonely++
			c.leftAlone(k)
		}
	}
	c.due = c.due[:0]
	for w := range t.given {
		c.due = append(c.due, c.held(t, w))
	}
	return c.due
}

// held returns the position from which records of worker w are still needed.
func (c *contributor) held(t *Tap, w int) uint64 {
	list := c.pins[w]
	for len(list) > 0 && (list[0].k.in || list[0].k.released) {
		list[0].k.released = true // its room is given back, whatever becomes of it
		list[0].k = nil
		list = list[1:]
	}
	if c.pins[w] = list; len(list) > 0 {
		return list[0].from
	}
	return t.given[w]
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
