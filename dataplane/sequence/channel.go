package sequence

import (
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
)

// The states of a slot.
const (
	unused uint8 = iota
	live
	ending  // its end is announced, messages before the end are outstanding
	retired // ended; kept so that late copies are recognised, until the slot is needed
)

// lowerMax bounds the runs below a first epoch's joining point that are apart from
// each other; the lowest goes when there is one more, and nothing below it is
// accepted any more. lapsedMax bounds the gaps given up that are remembered.
const (
	lowerMax  = 16
	lapsedMax = 16
)

// A run is the half-open range of sequence numbers [lo, hi).
type run struct{ lo, hi uint64 }

// flow is what every packet in order changes. It is apart because it is saved more
// often than the rest.
type flow struct {
	next     uint64      // all of [edge, next) is released or given up
	high     uint64      // one more than the highest number known to have been sent
	highSent event.Nanos // send time of the packet that made high known
	clock    event.Nanos // greatest receive stamp
	silent   bool        // no span of the epoch was released yet
}

// A channel is a slot. See the package comment for edge, next and high.
type channel struct {
	session Session
	flow
	// bornSeq and bornSent are of the packet that proved the epoch; oldSent is the
	// highSent of the epoch before. beatSent is the greatest send time of a heartbeat.
	bornSent, oldSent, beatSent event.Nanos
	bornSeq                     uint64

	edge, floor uint64

	// Announced by heartbeats and not yet come: [next, due) since dueSince, and up to
	// told since toldSince.
	due, told           uint64
	dueSince, toldSince event.Nanos

	epoch uint32
	state uint8

	// The hold: pieces [head, head+count) of the channel's room are in use, sorted;
	// packets are a list in order of arrival, which is the order of their bodies.
	head, count           int32
	oldest, newest        int32 // packet+1
	free, fresh           int32 // packet+1 of the first free one; packets never used begin at fresh
	held                  int32
	heldBytes, bodiesUsed uint32

	lowers, lapses int32 // in use; lapses counts on, the entry is modulo lapsedMax
	nextEnded      int32 // slot+1 of the channel that retired after this one, or is free too
}

// admit finds the packet's channel and goes on with it.
func (s *Sequencer) admit(h *Header) {
	r := &s.rel
	i := s.st.last
	if c := &s.channels[i]; c.session != h.Session || c.state == unused {
		i = s.find(&h.Session)
	}
	if i < 0 {
		if h.Kind == EndOfSession {
			r.Drop = event.DropNoChannel
			return
		}
		if i = s.take(); i < 0 {
			r.Drop = event.DropChannelLimit
			return
		}
		s.join(i, h)
		s.insert(i)
		s.accept(i, h)
		return
	}
	c := &s.channels[i]
	if c.session != h.Session {
		s.replace(i, c, h)
		return
	}
	if c.continues(h) {
		s.keepState()
		s.st.last = i
		s.inOrder(c, h)
		return
	}
	if c.state == retired && h.Whole > 0 && !s.settled(i, c, run{h.Seq, h.Seq + uint64(h.Whole)}) {
		r.Drop = event.DropNoChannel
		return
	}
	s.accept(i, h)
}

// settled reports whether all of w was let through or given up. Runs that were are
// apart from each other, so that one of them holds all of it.
func (s *Sequencer) settled(i int32, c *channel, w run) bool {
	for _, v := range s.lower[int(i)*(lowerMax+1):][:c.lowers] {
		if v.lo <= w.lo && w.hi <= v.hi {
			return true
		}
	}
	return c.edge <= w.lo && w.hi <= c.next
}

// replace retires the session of an IEX-TP channel in favor of the packet's, if
// that is the later one.
func (s *Sequencer) replace(i int32, c *channel, h *Header) {
	r := &s.rel
	if h.Sent <= max(c.highSent, c.beatSent) {
		r.Drop = event.DropNoChannel
		return
	}
	s.keepState()
	s.keep(i, c)
	r.Channel, r.Session, r.Epoch = int(i), c.session, c.epoch
	r.Retired, r.More = int(i), true
	r.Messages, r.Cut, r.Heartbeat = 0, 0, false // the second part's
	s.flush(i, c)
}

// join makes slot i the packet's channel, at the packet's number.
func (s *Sequencer) join(i int32, h *Header) {
	c := &s.channels[i]
	s.keep(i, c)
	*c = channel{session: h.Session, state: live, edge: h.Seq, oldSent: event.MinNanos, beatSent: event.MinNanos}
	fault.Point()
	c.clock = event.MinNanos
	s.begin(c, h, h.Seq)
	s.rel.New = true
}

// begin starts an epoch of c, proved by the packet, whose first number is seq.
func (s *Sequencer) begin(c *channel, h *Header, seq uint64) {
	c.epoch++
	c.silent = true
	c.edge, c.next, c.high = seq, seq, seq
	c.floor, c.lowers, c.lapses = 0, 0, 0
	c.due, c.told = 0, 0
	c.bornSeq, c.bornSent, c.highSent = h.Seq, event.MinNanos, h.Sent
	if s.restarts {
		c.bornSent = h.Sent
	}
	s.rel.Began = true
}

// accept takes a packet of channel i in: deadlines first, then its epoch, then its
// messages, then the hold's limits.
func (s *Sequencer) accept(i int32, h *Header) {
	c, r := &s.channels[i], &s.rel
	s.keepState()
	s.keep(i, c)
	s.st.last = i
	fault.Point()
	c.clock = max(c.clock, s.receive)
	s.slide(i, c)
	s.judge(i, c, c.clock)
	switch s.place(c, h) {
	case earlier:
		r.Ancient = uint64(h.Whole)
	case restart:
		s.flush(i, c)
		c.oldSent = c.highSent
		s.begin(c, h, 1)
		fallthrough
	case current:
		if h.Kind == Data {
			s.data(i, c, h)
		} else if c.state != retired {
			s.announce(c, h)
		}
	}
	s.judge(i, c, c.clock) // a deadline of zero is over at once
	r.Channel, r.Session, r.Epoch = int(i), c.session, c.epoch
	s.settle(i, c)
}

// settle ends what was done to channel i, which is kept as the state is: it notes its deadline, and retires it if
// its end has come.
func (s *Sequencer) settle(i int32, c *channel) {
	if c.count > 0 || c.next < c.high {
		at, _ := s.deadline(i, c)
		s.st.soonest = min(s.st.soonest, at)
		return
	}
	if c.state != ending {
		return
	}
	c.state = retired
	fault.Point()
	s.rel.Retired = int(i)
	s.end(i)
}

// Where a packet's epoch lies.
const (
	current uint8 = iota
	earlier
	restart
)

// place says which epoch of c a packet belongs to.
func (s *Sequencer) place(c *channel, h *Header) uint8 {
	if !s.restarts {
		return current
	}
	if h.Sent < c.bornSent {
		// Within an epoch, sent earlier means numbered lower.
		lower := h.Seq < c.bornSeq || h.Kind == Heartbeat && h.Seq == c.bornSeq
		if lower && h.Sent > c.oldSent {
			return current
		}
		return earlier
	}
	if h.Seq < c.high && h.Sent > c.highSent {
		return restart
	}
	return current
}

// announce takes the number of a heartbeat or an end of session in.
func (s *Sequencer) announce(c *channel, h *Header) {
	if h.Kind == EndOfSession {
		c.state = ending
	}
	if s.restarts {
		c.beatSent = max(c.beatSent, h.Sent)
	}
	if h.Seq > c.high {
		c.high, c.highSent = h.Seq, max(c.highSent, h.Sent)
	}
	if h.Seq <= c.told || h.Seq <= c.next {
		return
	}
	c.told, c.toldSince = h.Seq, c.clock
	c.promote()
}

// promote makes the latest announcement the one that is waited for, if the one
// before has been settled.
func (c *channel) promote() {
	if c.due <= c.next && c.told > c.next {
		c.due, c.dueSince = c.told, c.toldSince
	}
}

// data takes the messages of a packet of the current epoch in.
func (s *Sequencer) data(i int32, c *channel, h *Header) {
	a, b := h.Seq, h.Seq+uint64(h.Whole)
	edge := c.edge // older moves it
	if a < edge {
		s.older(i, c, run{a, min(b, edge)})
	}
	if lo, hi := max(a, edge), min(b, c.next); lo < hi {
		late := s.lapsedIn(i, c, run{lo, hi})
		s.rel.Ancient += late
		s.rel.Duplicate += hi - lo - late
	}
	if b > c.high {
		c.high, c.highSent = b, max(c.highSent, h.Sent)
	}
	if lo := max(a, c.next); lo < b {
		s.newer(i, c, run{lo, b})
	}
}

// older lets through what is new in w, which lies below the joining point.
func (s *Sequencer) older(i int32, c *channel, w run) {
	r, h := &s.rel, &s.h
	if w.lo < c.floor {
		to := min(w.hi, c.floor)
		r.Ancient += to - w.lo
		w.lo = to
	}
	if w.lo >= w.hi {
		return
	}
	list := s.lower[int(i)*(lowerMax+1):][:lowerMax+1]
	arena.SaveSlice(s.undo, list)
	n, at := int(c.lowers), w.lo
	merged, first, last := w, n, n // list[first:last] touch w
	for k, v := range list[:n] {
		if v.hi < w.lo {
			continue
		}
		if first == n {
			first = k
		}
		if v.lo > w.hi {
			last = k
			break
		}
		merged = run{min(merged.lo, v.lo), max(merged.hi, v.hi)}
		if lo, hi := max(v.lo, w.lo), min(v.hi, w.hi); lo < hi {
			s.early(c, h, run{at, lo})
			r.Duplicate += hi - lo
			at = hi
		}
	}
	s.early(c, h, run{at, w.hi})
	n -= last - first
	copy(list[first+1:n+1], list[last:]) // list[last:] has the n-first that stay behind
	fault.Point()
	list[first] = merged
	fault.Point()
	n++
	if merged.hi == c.edge {
		c.edge = merged.lo
		n--
	}
	if n > lowerMax {
		c.floor = list[0].hi
		n--
		copy(list[:n], list[1:])
	}
	c.lowers = int32(n)
}

// early lets the packet's messages w through.
func (s *Sequencer) early(c *channel, h *Header, w run) {
	if w.lo >= w.hi {
		return
	}
	s.rel.Fresh += w.hi - w.lo
	s.emit(c, Span{Skip: int(w.lo - h.Seq), Count: int(w.hi - w.lo), Seq: w.lo, Receive: s.receive})
}

// lapse remembers that w was given up.
func (s *Sequencer) lapse(i int32, c *channel, w run) {
	list := s.lapsed[int(i)*lapsedMax:][:lapsedMax]
	if c.lapses > 0 {
		if v := &list[(c.lapses-1)%lapsedMax]; v.hi == w.lo {
			arena.Save(s.undo, v)
			v.hi = w.hi
			return
		}
	}
	v := &list[c.lapses%lapsedMax]
	arena.Save(s.undo, v)
	*v = w
	fault.Point()
	if c.lapses++; c.lapses == 2*lapsedMax {
		c.lapses = lapsedMax
	}
}

// lapsedIn returns how many messages of w were given up, as far as that is remembered.
func (s *Sequencer) lapsedIn(i int32, c *channel, w run) uint64 {
	var n uint64
	for _, v := range s.lapsed[int(i)*lapsedMax:][:min(c.lapses, lapsedMax)] {
		if lo, hi := max(v.lo, w.lo), min(v.hi, w.hi); lo < hi {
			n += hi - lo
		}
	}
	return n
}

// key is the part of a session that a slot is found by: on IEX-TP the channel id.
func (s *Sequencer) key(session *Session) Session {
	k := *session
	if s.restarts {
		clear(k[4:])
	}
	return k
}

// find returns the slot of a session's key, or -1.
func (s *Sequencer) find(session *Session) int32 {
	k := s.key(session)
	mask := uint64(len(s.table) - 1)
	// The table is never more than half full: the walk ends.
	for at := event.HashKey(k[:]) & mask; ; at = (at + 1) & mask {
		i := s.table[at] - 1
		if i < 0 || s.key(&s.channels[i].session) == k {
			return i
		}
	}
}

// insert enters slot i into the table.
func (s *Sequencer) insert(i int32) {
	k := s.key(&s.channels[i].session)
	mask := uint64(len(s.table) - 1)
	at := event.HashKey(k[:]) & mask
	for s.table[at] != 0 {
		at = (at + 1) & mask
	}
	arena.Save(s.undo, &s.table[at])
	s.table[at] = i + 1
}

// remove takes slot i out of the table and closes the walk behind it.
func (s *Sequencer) remove(i int32) {
	k := s.key(&s.channels[i].session)
	mask := uint64(len(s.table) - 1)
	at := event.HashKey(k[:]) & mask
	for s.table[at] != i+1 {
		at = (at + 1) & mask
	}
	for to := (at + 1) & mask; s.table[to] != 0; to = (to + 1) & mask {
		k := s.key(&s.channels[s.table[to]-1].session)
		// An entry may move to the hole if its own walk begins at or before it.
		if home := event.HashKey(k[:]) & mask; (to-home)&mask >= (to-at)&mask {
			arena.Save(s.undo, &s.table[at])
			s.table[at] = s.table[to]
			fault.Point()
			at = to
		}
	}
	arena.Save(s.undo, &s.table[at])
	s.table[at] = 0
}

// take returns a slot for a new channel: a forgotten or an unused one, else that of the
// channel that retired first; -1 if all are in use.
func (s *Sequencer) take() int32 {
	s.keepState()
	if i := s.st.firstFree - 1; i >= 0 {
		s.st.firstFree = s.channels[i].nextEnded
		return i
	}
	if int(s.st.used) < len(s.channels) {
		s.st.used++
		return s.st.used - 1
	}
	i := s.st.firstEnded - 1
	if i < 0 {
		return -1
	}
	if s.st.firstEnded = s.channels[i].nextEnded; s.st.firstEnded == 0 {
		fault.Point()
		s.st.lastEnded = 0
	}
	fault.Point()
	s.remove(i)
	return i
}
