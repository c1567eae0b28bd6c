package cluster

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

// A member is one peer's part in the rounds: what it says and what it makes of what
// all have said. It is a function of the epochs and of the committed rounds, with no
// clock and no I/O.
type member struct {
	s        *shape
	registry *registry
	holder   *holder
	faults   *faults
	at       position // of registry
	epoch    rdma.Epoch
	phase    phase
	whole    collective.Set // members that know what has happened; of the roll call
	leaves   []*leaf        // rows to give out, oldest first
	body     [][]byte
	head     []byte
	heads    []*header
	hold     int      // bytes of states
	moveMax  int      // bytes of states that a round moves to one member
	unmade   []uint64 // [query] shares whose rows we could not make, because we do not have their state
	shed     []uint64 // [query] rows dropped because the sinks did not write them and hold was full
	latest   uint64   // the first firing of the last round
}

// A leaf is the rows of one firing and one home on their way to the sinks. They are
// made a few at a time, so that rounds go on meanwhile.
type leaf struct {
	window  windowID
	home    int
	firing  firing
	share   *share
	rows    int
	next    int           // rows before it are made
	made    lines         // and these have not been taken
	taken   uint32        // lots of rows that the sinks have, or will have
	written atomic.Uint32 // those of which they say so, on a goroutine of theirs
}

// left returns how many rows the sinks may not have: one lot that is not written makes
// all of them doubtful.
func (l *leaf) left() int {
	if l.written.Load() == l.taken {
		return l.rows - l.next + len(l.made.ends)
	}
	return l.rows
}

// done reports that all rows are in the sinks.
func (l *leaf) done() bool {
	return l.next == l.rows && len(l.made.ends) == 0 && l.written.Load() == l.taken
}

// lot makes the next rows, n at most, unless those before them have not been taken.
func (m *member) lot(l *leaf, n int) *lines {
	if to := min(l.next+n, l.rows); len(l.made.ends) == 0 && to > l.next {
		l.made = m.holder.formSome(l.share, l.window, &l.firing, l.home, l.next, to)
		l.next = to
	}
	return &l.made
}

// A saying is what a member brings into a round beside what it knows itself.
type saying struct {
	final, stopping bool
	past            position // what is remembered of an earlier life
	marks           []mark   // [query]
	offers          []offer
	forced          []windowID
}

// An offer is one window to contribute.
type offer struct {
	closing
	bytes [][]byte // [home]
}

func newMember(s *shape, former *rows.Former, f *faults, hold int) *member {
	m := &member{s: s, faults: f, hold: hold, moveMax: moveMax, unmade: make([]uint64, len(s.queries)), shed: make([]uint64, len(s.queries)), holder: newHolder(s, former, f), registry: newRegistry(s, 0)}
	m.body, m.heads = make([][]byte, s.peers()), make([]*header, s.peers())
	return m
}

// begin takes note of a new epoch.
func (m *member) begin(e rdma.Epoch) { m.epoch, m.phase = e, rollCall }

// contribute returns what to say in the next round. It is valid until the next call.
func (m *member) contribute(say *saying) (head []byte, parts [][]byte) {
	h := &header{phase: m.phase, position: m.at, marks: say.marks, durable: make([]uint64, m.s.peers()), final: say.final, stopping: say.stopping}
	for i := range m.body {
		m.body[i] = m.body[i][:0]
	}
	switch m.phase {
	case rollCall:
		if m.at == (position{}) && say.past != (position{}) {
			h.position, h.forgot = say.past, true
		}
	case carrying:
		h.final = false
		if m.whole.Has(m.s.me) {
			m.carry(h)
		}
	case plain:
		m.offer(h, say)
	}
	m.head = h.append(m.head[:0])
	return m.head, m.body
}

// carry tells the others what has happened, and the next holders what they hold.
func (m *member) carry(h *header) {
	members := m.epoch.Members
	if m.whole.Lowest() == m.s.me && m.whole != members {
		h.snapshot = m.registry.snapshot()
	}
	for home := range m.s.peers() {
		source, to := m.route(home)
		if source != m.s.me || to == 0 {
			continue
		}
		for _, queue := range m.registry.queues {
			for _, e := range queue {
				if sh := m.holder.shares[shareID{e.id, home}]; sh != nil {
					h.moves = append(h.moves, m.move(e, home, sh, to))
				}
			}
		}
	}
}

// moveMax bounds what one round moves to one member, unless the group takes less.
const moveMax = 512 << 20

// tooLarge makes the next carrying round smaller: what does not fit is damaged, and is
// sent again by its contributors.
func (m *member) tooLarge() { m.moveMax /= 2 }

func (m *member) move(e *entry, home int, sh *share, to collective.Set) move {
	v := move{window: e.id, home: uint8(home), damaged: sh.damaged}
	for p := range to.All {
		v.damaged = v.damaged || len(m.body[p])+sh.bytes > m.moveMax
	}
	if v.damaged {
		return v
	}
	b := m.holder.encode(shareID{e.id, home}, sh)
	v.section = section{uint32(len(b)), sumOf(b)}
	for p := range to.All {
		m.body[p] = append(m.body[p], b...)
	}
	return v
}

// route says who has the state of a home, -1 if nobody is left who has, and who gets
// it.
func (m *member) route(home int) (source int, to collective.Set) {
	old, now := m.registry.members, m.epoch.Members
	had := holders(home, old) & m.whole
	switch {
	case had == 0:
		return -1, 0
	case had.Has(owner(home, old)):
		source = owner(home, old)
	default:
		source = second(home, old)
	}
	return source, holders(home, now) &^ had
}

// offer says which windows we contribute, and which rows are safe.
func (m *member) offer(h *header, say *saying) {
	h.forced = say.forced
	for i := range say.offers {
		o := &say.offers[i]
		for home := range o.homes.All {
			b := o.bytes[home]
			o.parts = append(o.parts, section{uint32(len(b)), sumOf(b)})
			for p := range holders(home, m.epoch.Members).All {
				m.body[p] = append(m.body[p], b...)
			}
		}
		h.closes = append(h.closes, o.closing)
	}
	for home := range h.durable {
		if owner(home, m.epoch.Members) == m.s.me {
			h.durable[home] = m.durable(home)
		}
	}
}

// durable returns the last firing up to which the rows of home are in our sinks.
func (m *member) durable(home int) uint64 {
	for _, l := range m.leaves {
		if l.home == home && !l.done() {
			return l.firing.sequence - 1
		}
	}
	return m.registry.sequence
}

// take follows a committed round.
func (m *member) take(g *rdma.Gathered) {
	if g.Epoch.Number != m.epoch.Number {
		return // a round of an epoch whose beginning we have not seen: we are behind
	}
	for i := range m.heads {
		m.heads[i] = nil
	}
	bodies := make([][]byte, m.s.peers())
	for _, part := range g.From {
		h, fault := decodeHeader(m.s, part.Header, m.phase)
		if fault != FaultNone {
			m.faults.note(part.Peer, fault)
			continue
		}
		m.heads[part.Peer], bodies[part.Peer] = h, part.Body
	}
	m.registry.begin()
	switch m.phase {
	case rollCall:
		m.call()
		m.phase = carrying
		return
	case carrying:
		m.settle(bodies)
		m.phase, m.moveMax = plain, moveMax
	case plain:
		m.round(bodies)
	}
	m.at = position{m.epoch.Number, g.Round}
}

// call works out who knows most. If somebody has followed more than that, and has only
// forgotten what it was, nobody knows enough.
func (m *member) call() {
	var last position
	for _, h := range m.heads {
		if h != nil && last.before(h.position) {
			last = h.position
		}
	}
	m.whole = 0
	for p, h := range m.heads {
		if h != nil && h.position == last && !h.forgot && last != (position{}) {
			m.whole = m.whole.With(p)
		}
	}
}

// settle makes all members know the same, and hold what is theirs to hold.
func (m *member) settle(bodies [][]byte) {
	me, members := m.s.me, m.epoch.Members
	known, counted := m.registry, m.registry.counts
	if m.whole != 0 && m.whole != members {
		// Everybody reads it, so that everybody finds out if it is bad.
		head := m.heads[m.whole.Lowest()]
		if head == nil {
			m.whole = 0
		} else if known = decodeSnapshot(m.s, head.snapshot); known == nil {
			m.faults.note(m.whole.Lowest(), FaultSnapshot)
			m.whole = 0
		}
	}
	switch {
	case m.whole == 0:
		m.registry = newRegistry(m.s, m.epoch.Number)
		m.registry.forgo(m.heads)
		m.holder.clear()
		m.leaves = nil
	case !m.whole.Has(me):
		m.registry = known
		m.holder.clear()
		m.leaves = nil
	}
	m.registry.counts = counted
	if m.whole != 0 {
		m.receive(bodies)
	}
	old := m.registry.members
	m.registry.follow(members, m.whole)
	for p, h := range m.heads {
		switch {
		case h == nil:
		case m.whole.Has(p):
			m.registry.hear(p, h)
		default:
			m.registry.rejoin(p, h)
		}
	}
	var held collective.Set
	for home := range m.s.peers() {
		if holders(home, members).Has(me) {
			held = held.With(home)
		}
		switch mine := owner(home, members) == me; {
		case !mine:
			m.withdraw(home)
		case m.whole.Has(me) && owner(home, old) == me:
		default:
			m.inherit(home)
		}
	}
	m.holder.retain(held)
}

// receive takes the states that are ours to hold from now on.
func (m *member) receive(bodies [][]byte) {
	var lost collective.Set
	for home := range m.s.peers() {
		if source, to := m.route(home); source < 0 || to != 0 && m.heads[source] == nil {
			m.registry.lose(home)
			lost = lost.With(home)
		}
	}
	m.holder.retain(m.s.all() &^ lost)
	moved := map[shareID]bool{}
	for from, h := range m.heads {
		if h == nil {
			continue
		}
		for _, v := range h.moves {
			id := shareID{v.window, int(v.home)}
			if source, to := m.route(id.home); source != from || to == 0 || moved[id] || m.registry.windows[id.window] == nil {
				m.faults.note(from, FaultContent)
				continue
			}
			moved[id] = true
			m.receiveOne(from, v, &bodies[from])
		}
	}
}

func (m *member) receiveOne(from int, v move, body *[]byte) {
	id := shareID{v.window, int(v.home)}
	if v.damaged {
		m.registry.damage(m.registry.windows[v.window], id.home)
		m.holder.drop(id)
		return
	}
	if _, to := m.route(id.home); !to.Has(m.s.me) {
		return
	}
	b, ok := cut(body, v.section)
	if !ok {
		m.faults.note(from, FaultBody)
		m.holder.drop(id)
		m.holder.share(id).damaged = true
		return
	}
	m.holder.adopt(id, from, b)
}

// cut takes a section off the front of a body, if it is the one meant.
func cut(body *[]byte, s section) ([]byte, bool) {
	n := int(s.bytes)
	if n > len(*body) {
		*body = nil
		return nil, false
	}
	b := (*body)[:n:n]
	*body = (*body)[n:]
	return b, sumOf(b) == s.sum
}

// round is a round of windows.
func (m *member) round(bodies [][]byte) {
	r, members := m.registry, m.epoch.Members
	for p, h := range m.heads {
		if h != nil {
			r.hear(p, h)
		}
	}
	for p, h := range m.heads {
		if h == nil {
			continue
		}
		for i := range h.closes {
			c := &h.closes[i]
			e, homes := r.accept(p, c)
			m.merge(p, c, e, homes, &bodies[p])
		}
		if len(bodies[p]) > 0 {
			m.faults.note(p, FaultBody)
		}
	}
	var forced []windowID
	var marks []mark
	if h := m.heads[members.Lowest()]; h != nil {
		forced, marks = h.forced, h.marks
	}
	m.latest = r.sequence + 1
	r.fire(m.epoch.Number, forced)
	for _, e := range r.fired {
		for home := range m.s.peers() {
			if owner(home, members) == m.s.me {
				m.give(e, &e.unsaved[len(e.unsaved)-1], home)
			}
		}
	}
	if r.save(m.heads) {
		m.thaw()
		r.settle()
	}
	r.expire(marks)
	for _, e := range r.removed {
		for home := range m.s.peers() {
			m.holder.drop(shareID{e.id, home})
		}
	}
	m.evict()
}

// evict lets go of the oldest states whose rows are safe, if there are too many: their
// windows can then not be corrected here.
func (m *member) evict() {
	if m.holder.bytes <= m.hold {
		return
	}
	m.shedSome()
	type state struct {
		end event.Nanos
		id  shareID
	}
	var old []state
	for id, sh := range m.holder.shares {
		if e := m.registry.windows[id.window]; !sh.damaged && e != nil && e.firings > 0 && e.safe(id.home, m.registry.durable[id.home]) {
			old = append(old, state{id.window.end, id})
		}
	}
	slices.SortFunc(old, func(a, b state) int {
		return cmp.Or(cmp.Compare(a.end, b.end), a.id.window.compare(b.id.window), cmp.Compare(a.id.home, b.id.home))
	})
	for _, o := range old {
		m.holder.drop(o.id)
		m.holder.share(o.id).damaged = true
		if m.holder.bytes <= m.hold/8*7 {
			return
		}
	}
}

// shedSome drops our oldest rows that are not written, if their states alone are too
// many: the sinks have stalled, and what waits for them would grow at both holders.
// That they count as safe then is what lets the other one and the contributors go on.
// The rows of the last round stay, since no sink has had time for them.
func (m *member) shedSome() {
	waits, seen := 0, map[*share]int{}
	for _, l := range m.leaves {
		if l.done() {
			continue
		}
		if seen[l.share]++; seen[l.share] == 1 {
			waits += l.share.bytes
		}
	}
	if waits <= m.hold {
		return
	}
	m.leaves = slices.DeleteFunc(m.leaves, func(l *leaf) bool {
		if l.done() || waits <= m.hold/8*7 || l.firing.sequence >= m.latest {
			return false
		}
		if seen[l.share]--; seen[l.share] == 0 {
			waits -= l.share.bytes
		}
		m.shed[l.window.query] += uint64(l.left())
		return true
	})
}

// merge adds p's records of a window to the shares that we hold.
func (m *member) merge(p int, c *closing, e *entry, homes collective.Set, body *[]byte) {
	k := 0
	for home := range c.homes.All {
		part := c.parts[k]
		k++
		if !holders(home, m.epoch.Members).Has(m.s.me) {
			continue
		}
		b, ok := cut(body, part)
		if e == nil || !homes.Has(home) {
			continue
		}
		id := shareID{e.id, home}
		m.holder.freeze(e, home, m.registry.durable[home])
		if !ok {
			m.faults.note(p, FaultBody)
			m.holder.share(id).damaged = true
			continue
		}
		m.holder.merge(id, p, b)
	}
}

// thaw drops the lines that nobody will ask for again.
func (m *member) thaw() {
	r := m.registry
	for _, e := range r.unsaved {
		for home, d := range r.durable {
			m.holder.thaw(e, home, d)
		}
	}
}

// give notes the rows of a firing that is ours to give out.
func (m *member) give(e *entry, f *firing, home int) {
	sh := m.holder.shares[shareID{e.id, home}]
	if sh == nil || f.merged[home] == 0 {
		return
	}
	if sh.damaged && sh.frozenAt(f.sequence) == nil {
		m.unmade[e.id.query]++
	}
	if n := sh.rows(f); n > 0 {
		l := &leaf{window: e.id, home: home, firing: *f, share: sh, rows: n}
		l.firing.merged = slices.Clone(f.merged) // what the registry forgets is no matter of rows that are out
		m.leaves = append(m.leaves, l)
	}
}

// inherit gives out what the owner before us may not have written.
func (m *member) inherit(home int) {
	r := m.registry
	type due struct {
		e *entry
		f *firing
	}
	var all []due
	for _, e := range r.unsaved {
		for i := range e.unsaved {
			if f := &e.unsaved[i]; f.sequence > r.durable[home] {
				all = append(all, due{e, f})
			}
		}
	}
	slices.SortFunc(all, func(a, b due) int { return cmp.Compare(a.f.sequence, b.f.sequence) })
	for _, d := range all {
		m.give(d.e, d.f, home)
	}
}

// withdraw forgets rows that are another's to give out.
func (m *member) withdraw(home int) {
	m.leaves = slices.DeleteFunc(m.leaves, func(l *leaf) bool { return l.home == home })
}

// waiting returns the number of rows that may not be written.
func (m *member) waiting() (n int) {
	for _, l := range m.leaves {
		if !l.done() {
			n += l.rows
		}
	}
	return n
}

// sweep forgets leaves that are written.
func (m *member) sweep() {
	m.leaves = slices.DeleteFunc(m.leaves, func(l *leaf) bool { return l.done() })
}
