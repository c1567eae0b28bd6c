package sequence

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
)

// A piece is a run of messages that wait, of one packet.
type piece struct {
	lo, hi uint64
	packet int32
}

// A packet of the hold. The one in hand is one too until its release is made: then
// its body is still in the frame.
type packet struct {
	seq            uint64 // of the first message of its body
	receive, since event.Nanos
	at, size       uint32 // its body, in the channel's bodies
	refs           int32  // pieces
	before, after  int32  // packet+1, in order of arrival
	frame          bool   // the body is in the frame
}

// pieceRoom is the room for a channel's pieces: twice what can be in use, so that
// moving them to the front, when the end is reached, is paid by as many insertions.
func (s *Sequencer) pieceRoom() int { return 4 * (int(s.holdPackets) + 1) }

// newer takes w, which lies at or beyond next, in: releases what it makes
// contiguous, and holds what is left.
func (s *Sequencer) newer(i int32, c *channel, w run) {
	if list := s.piecesOf(i); int(c.head) > len(list)/2 {
		s.keepPieces(i, list, 0, c.count)
		copy(list, list[c.head:c.head+c.count])
		fault.Point()
		c.head = 0
	}
	q := s.addPacket(i, c)
	fresh := s.addPieces(i, c, w, q)
	s.rel.Duplicate += w.hi - w.lo - fresh
	p := s.change(i, q)
	if p.refs == 0 {
		s.dropPacket(i, c, q)
		return
	}
	s.st.messages += fresh
	s.advance(i, c)
	for c.held > s.holdPackets || c.heldBytes > s.holdBytes {
		s.giveUp(i, c)
	}
	// Before the body is copied: a hold of no time never copies.
	s.judge(i, c, c.clock)
	if p.refs == 0 { // w was covered without a break: it went as a whole
		s.rel.Fresh += fresh
		return
	}
	s.rel.Held += fresh
	p.frame = false
	p.at = c.bodiesUsed
	bodies := s.bodiesOf(i)
	s.keepBodies(i, bodies, p.at+p.size)
	copy(bodies[p.at:], s.h.Body)
	fault.Point()
	c.bodiesUsed += p.size
	fault.Point()
	s.st.packets++
}

// judge gives up what is overdue at now.
func (s *Sequencer) judge(i int32, c *channel, now event.Nanos) {
	for {
		at, waiting := s.deadline(i, c)
		if !waiting || at > now {
			return
		}
		if c.count > 0 && s.packetOf(i, c.oldest-1).since.Add(s.holdFor) <= now {
			s.giveUp(i, c)
			continue
		}
		s.miss(i, c, min(s.hole(i, c), c.due))
		s.advance(i, c)
	}
}

// deadline returns when something of c is overdue; false if nothing is outstanding.
func (s *Sequencer) deadline(i int32, c *channel) (event.Nanos, bool) {
	at, waiting := event.MaxNanos, false
	if c.count > 0 {
		at, waiting = s.packetOf(i, c.oldest-1).since.Add(s.holdFor), true
	}
	if c.due > c.next {
		at, waiting = min(at, c.dueSince.Add(s.holdFor)), true
	}
	return at, waiting
}

// flush gives up everything that c waits for.
func (s *Sequencer) flush(i int32, c *channel) {
	for c.count > 0 || c.next < c.high {
		s.giveUp(i, c)
	}
}

// giveUp declares the lowest hole and releases what is behind it.
func (s *Sequencer) giveUp(i int32, c *channel) {
	s.miss(i, c, s.hole(i, c))
	s.advance(i, c)
}

// hole returns the end of the lowest hole, which begins at c.next.
func (s *Sequencer) hole(i int32, c *channel) uint64 {
	if c.count > 0 {
		return s.piecesOf(i)[c.head].lo
	}
	return c.high
}

// advance releases the pieces that begin at c.next.
func (s *Sequencer) advance(i int32, c *channel) {
	list := s.piecesOf(i)
	for c.count > 0 && list[c.head].lo == c.next {
		v := list[c.head]
		c.head++
		c.count--
		fault.Point()
		c.next = v.hi
		s.st.messages -= v.hi - v.lo
		fault.Point()
		p := s.change(i, v.packet)
		s.emit(c, Span{
			At: p.at, Size: p.size, Held: !p.frame,
			Skip: int(v.lo - p.seq), Count: int(v.hi - v.lo), Seq: v.lo, Receive: p.receive,
		})
		if p.refs--; p.refs == 0 {
			s.dropPacket(i, c, v.packet)
		}
	}
	if c.count == 0 {
		c.head = 0
	}
	c.promote()
}

// addPieces enters what is new of w as pieces of packet q and returns how many
// messages that is.
func (s *Sequencer) addPieces(i int32, c *channel, w run, q int32) uint64 {
	p := s.change(i, q)
	list := s.piecesOf(i)
	// The first piece that ends beyond w.lo: mostly there is none.
	k, end := c.head, c.head+c.count
	if c.count > 0 && list[end-1].hi <= w.lo {
		k = end
	}
	for lo, hi := k, end; lo < hi; {
		mid := int32(uint32(lo+hi) / 2)
		if list[mid].hi > w.lo {
			hi = mid
		} else {
			lo = mid + 1
		}
		k = lo
	}
	var fresh uint64
	for at := w.lo; at < w.hi; k++ {
		to := w.hi
		if k < end {
			v := list[k]
			if v.lo <= at {
				at = v.hi
				continue
			}
			to = min(to, v.lo)
		}
		s.keepPieces(i, list, k, end+1)
		copy(list[k+1:end+1], list[k:end])
		fault.Point()
		list[k] = piece{at, to, q}
		end++
		p.refs++
		fresh += to - at
		at = to
	}
	c.count = end - c.head
	return fresh
}

// slide moves the bodies that are still held to the front if the packet in hand
// might not fit behind them. It comes before anything is released: afterwards items
// point into the bodies. What is held is at most holdBytes, so that there is room then.
func (s *Sequencer) slide(i int32, c *channel) {
	if c.held == 0 {
		c.bodiesUsed = 0
		return
	}
	if int(c.bodiesUsed)+len(s.h.Body) <= int(s.bodyBytes) {
		return
	}
	bodies := s.bodiesOf(i)
	var used uint32
	for q := c.oldest; q != 0; {
		p := s.change(i, q-1)
		s.keepBodies(i, bodies, used+p.size)
		copy(bodies[used:], bodies[p.at:p.at+p.size])
		fault.Point()
		p.at = used
		used += p.size
		q = p.after
	}
	fault.Point()
	c.bodiesUsed = used
}

// addPacket makes the packet in hand the newest of the hold.
func (s *Sequencer) addPacket(i int32, c *channel) int32 {
	q := c.free - 1
	if q >= 0 {
		c.free = s.packetOf(i, q).after
	} else {
		q = c.fresh
		c.fresh++
	}
	fault.Point()
	p := s.change(i, q)
	*p = packet{
		seq: s.h.Seq, receive: s.receive, since: c.clock, size: uint32(len(s.h.Body)),
		before: c.newest, frame: true,
	}
	fault.Point()
	if c.newest != 0 {
		s.change(i, c.newest-1).after = q + 1
	} else {
		c.oldest = q + 1
	}
	c.newest = q + 1
	c.held++
	c.heldBytes += p.size
	return q
}

// dropPacket takes packet q, of which nothing waits any more, out of the hold.
func (s *Sequencer) dropPacket(i int32, c *channel, q int32) {
	p := s.change(i, q)
	if p.before != 0 {
		s.change(i, p.before-1).after = p.after
	} else {
		c.oldest = p.after
	}
	fault.Point()
	if p.after != 0 {
		s.change(i, p.after-1).before = p.before
	} else {
		c.newest = p.before
	}
	c.held--
	c.heldBytes -= p.size
	if !p.frame {
		s.st.packets--
		s.rel.Unheld++
	}
	fault.Point()
	p.after = c.free
	c.free = q + 1
}

func (s *Sequencer) piecesOf(i int32) []piece {
	n := s.pieceRoom()
	return s.pieces[int(i)*n:][:n]
}

func (s *Sequencer) packetOf(i, q int32) *packet {
	return &s.packets[int(i)*(int(s.holdPackets)+1)+int(q)]
}

func (s *Sequencer) bodiesOf(i int32) []byte {
	n := int(s.bodyBytes)
	return s.bodies[int(i)*n:][:n]
}
