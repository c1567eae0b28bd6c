package sequence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/plan"
)

// ErrFit reports a channel that another sequencer cannot take over.
var ErrFit = errors.New("channel does not fit")

// A Channel is a slot in use.
type Channel struct {
	Slot    int
	Session Session
	Retired bool // its session has ended; it is kept for late copies
}

// Channels returns the channels in use. It allocates: it is for moves, not for packets.
func (s *Sequencer) Channels() []Channel {
	var all []Channel
	for i := range s.channels[:s.st.used] {
		if c := &s.channels[i]; c.state != unused {
			all = append(all, Channel{Slot: i, Session: c.session, Retired: c.state == retired})
		}
	}
	return all
}

// Header returns the first bytes of the session's packets, as far as the session
// itself, with zeros for what is before it. A placement by channel chooses from these:
// the hash of what steer.Place takes of them is that of the session's packets.
func (s *Session) Header(p plan.Sequence) []byte {
	if p == plan.MoldUDP64 {
		return slices.Clone(s[:10])
	}
	b := make([]byte, 4, 12)
	b = binary.LittleEndian.AppendUint32(b, binary.BigEndian.Uint32(s[:]))
	return binary.LittleEndian.AppendUint32(b, binary.BigEndian.Uint32(s[4:]))
}

// Has reports whether s has a channel of the session, or another that stands in its place.
func (s *Sequencer) Has(session *Session) bool { return s.find(session) >= 0 }

// Fits says why s cannot take over channel slot of from, in an error that wraps
// [ErrFit] and names the limit; nil if it can.
func (s *Sequencer) Fits(from *Sequencer, slot int) error {
	c := &from.channels[slot]
	refuse := func(format string, a ...any) error {
		return fmt.Errorf("sequence: feed %s: channel %x: %s: %w", s.name, c.session[:10], fmt.Sprintf(format, a...), ErrFit)
	}
	switch {
	case c.state == unused:
		return refuse("slot %d is not in use", slot)
	case s.protocol != from.protocol:
		return refuse("its framing is %q, not %q", from.protocol, s.protocol)
	case s.find(&c.session) >= 0:
		return refuse("it is there already")
	case s.st.firstFree == 0 && int(s.st.used) == len(s.channels) && s.st.firstEnded == 0:
		return refuse("all of %d channels are in use: raise channels", len(s.channels))
	case c.held > s.holdPackets:
		return refuse("%d packets are held, of at most %d: raise hold.packets", c.held, s.holdPackets)
	case c.heldBytes > s.holdBytes:
		return refuse("%d bytes are held, of at most %d: raise hold.bytes", c.heldBytes, s.holdBytes)
	}
	return nil
}

// MoveChannel copies channel slot of from to s, with what it holds, and returns its
// slot here. Then both have it: one of them has to be told to forget it
// ([Sequencer.ForgetChannel]) before either gets another packet. Both must be between
// two packets, without a release in hand. If it does not fit, nothing has changed.
//
// What it changes is saved as in Push. From is only read.
func (s *Sequencer) MoveChannel(from *Sequencer, slot int) (int, error) {
	if err := s.Fits(from, slot); err != nil {
		return 0, err
	}
	i, old := s.take(), &from.channels[slot]
	c := &s.channels[i]
	s.keep(i, c)
	*c = *old
	c.head, c.nextEnded = 0, 0
	c.oldest, c.newest, c.free, c.fresh, c.held, c.heldBytes, c.bodiesUsed = 0, 0, 0, 0, 0, 0, 0
	fault.Point()
	s.copyRuns(i, from, int32(slot), old)
	s.copyHold(i, from, int32(slot), old)
	s.insert(i)
	fault.Point()
	if c.state == retired {
		s.end(i)
	}
	if at, waiting := s.deadline(i, c); waiting {
		s.st.soonest = min(s.st.soonest, at)
	}
	return int(i), nil
}

// copyRuns copies the early runs and the gaps given up.
func (s *Sequencer) copyRuns(i int32, from *Sequencer, slot int32, old *channel) {
	lower := s.lower[int(i)*(lowerMax+1):][:old.lowers]
	arena.SaveSlice(s.undo, lower)
	copy(lower, from.lower[int(slot)*(lowerMax+1):])
	fault.Point()
	lapsed := s.lapsed[int(i)*lapsedMax:][:min(old.lapses, lapsedMax)]
	arena.SaveSlice(s.undo, lapsed)
	copy(lapsed, from.lapsed[int(slot)*lapsedMax:])
	fault.Point()
}

// copyHold copies the packets that are held, in order of arrival, and their pieces.
func (s *Sequencer) copyHold(i int32, from *Sequencer, slot int32, old *channel) {
	c := &s.channels[i]
	bodies, theirs := s.bodiesOf(i), from.bodiesOf(slot)
	number := make(map[int32]int32, old.held)
	for q := old.oldest; q != 0; {
		p := from.packetOf(slot, q-1)
		n := c.fresh
		number[q-1] = n
		c.fresh++
		s.keepBodies(i, bodies, c.bodiesUsed+p.size)
		copy(bodies[c.bodiesUsed:], theirs[p.at:p.at+p.size])
		fault.Point()
		moved := s.change(i, n)
		*moved = *p
		moved.at, moved.before, moved.after = c.bodiesUsed, c.newest, 0
		if n > 0 {
			s.packetOf(i, n-1).after = n + 1 // saved with the copy before
		} else {
			c.oldest = n + 1
		}
		c.newest = n + 1
		fault.Point()
		c.bodiesUsed += p.size
		c.held++
		c.heldBytes += p.size
		s.st.packets++
		q = p.after
	}
	list := s.piecesOf(i)
	s.keepPieces(i, list, 0, old.count)
	for k, v := range from.piecesOf(slot)[old.head:][:old.count] {
		v.packet = number[v.packet]
		list[k] = v
		fault.Point()
		s.st.messages += v.hi - v.lo
	}
}

// ForgetChannel takes channel slot and all that it holds out: another sequencer has it.
// Nothing comes of what it waits for.
func (s *Sequencer) ForgetChannel(slot int) {
	i := int32(slot)
	c := &s.channels[i]
	if c.state == unused {
		return
	}
	s.keepState()
	s.keep(i, c)
	s.remove(i)
	fault.Point()
	if c.state == retired {
		s.unend(i, c)
	}
	for _, v := range s.piecesOf(i)[c.head:][:c.count] {
		s.st.messages -= v.hi - v.lo
	}
	fault.Point()
	s.st.packets -= int64(c.held)
	*c = channel{nextEnded: s.st.firstFree}
	fault.Point()
	s.st.firstFree = i + 1
}

// end makes channel i, kept as the state is, the one that retired last.
func (s *Sequencer) end(i int32) {
	if before := s.st.lastEnded - 1; before < 0 {
		s.st.firstEnded = i + 1
	} else {
		s.keep(before, &s.channels[before])
		s.channels[before].nextEnded = i + 1
	}
	fault.Point()
	s.st.lastEnded = i + 1
}

// unend takes channel i out of those that retired.
func (s *Sequencer) unend(i int32, c *channel) {
	before := int32(-1)
	for at := s.st.firstEnded - 1; at != i; at = s.channels[at].nextEnded - 1 {
		before = at
	}
	if before < 0 {
		s.st.firstEnded = c.nextEnded
	} else {
		s.keep(before, &s.channels[before])
		s.channels[before].nextEnded = c.nextEnded
	}
	fault.Point()
	if c.nextEnded == 0 {
		s.st.lastEnded = before + 1
	}
}
