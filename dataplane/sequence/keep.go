package sequence

import "github.com/headrace/headrace/dataplane/arena"

// What is kept for the case that a batch is taken back: each thing is saved before it
// is changed, and mostly only once a batch, since a channel gets many packets in one.
// What was saved already is remembered outside the arena, by [arena.Undo.Round], so
// that a batch that is run again saves again.
//
// Memory beyond what was in use when the batch began holds nothing, and is not saved:
// a body that is added to the hold costs nothing but its packet's entry.

// saved is what this batch has saved.
type saved struct {
	state    uint64 // round in which the state was
	channels []savedChannel
	packets  []uint64 // by packet: round in which its entry was
}

// savedChannel is what this batch has saved of a channel, and what was in use of its
// hold when the channel was saved as a whole.
type savedChannel struct {
	flow, all uint64 // rounds
	// Pieces [head, end) were in use, those of [lo, hi) are saved.
	head, end, lo, hi int32
	// bodies [0, used) were in use, those of [0, copied) are saved.
	used, copied uint32
	fresh        int32 // packets from here on had never been used
}

// keepState saves what belongs to all channels.
func (s *Sequencer) keepState() {
	if round := s.undo.Round(); s.saved.state != round {
		s.saved.state = round
		arena.Save(s.undo, s.st)
	}
}

// keepFlow saves what a packet in order changes.
func (s *Sequencer) keepFlow(i int32, c *channel) {
	if round := s.undo.Round(); round != 0 && s.saved.channels[i].flow != round {
		s.saveFlow(i, c, round)
	}
}

func (s *Sequencer) saveFlow(i int32, c *channel, round uint64) {
	s.saved.channels[i].flow = round
	arena.Save(s.undo, &c.flow)
}

// keep saves channel i. It comes before anything of its hold is changed.
func (s *Sequencer) keep(i int32, c *channel) {
	if s.undo != nil && s.saved.channels[i].all != s.undo.Round() {
		s.keepAll(i, c)
	}
}

func (s *Sequencer) keepAll(i int32, c *channel) {
	round := s.undo.Round()
	s.saved.channels[i] = savedChannel{
		flow: round, all: round,
		head: c.head, end: c.head + c.count, used: c.bodiesUsed, fresh: c.fresh,
	}
	arena.Save(s.undo, c)
}

// keepPieces saves what was in use of list[from:to], the pieces of channel i.
func (s *Sequencer) keepPieces(i int32, list []piece, from, to int32) {
	if s.undo == nil {
		return
	}
	k := &s.saved.channels[i]
	from, to = max(from, k.head), min(to, k.end)
	switch {
	case from >= to:
	case k.lo == k.hi:
		arena.SaveSlice(s.undo, list[from:to])
		k.lo, k.hi = from, to
	default: // one run, with what may lie between
		if from < k.lo {
			arena.SaveSlice(s.undo, list[from:k.lo])
			k.lo = from
		}
		if to > k.hi {
			arena.SaveSlice(s.undo, list[k.hi:to])
			k.hi = to
		}
	}
}

// keepBodies saves what was in use of bodies[:to], those of channel i. Bodies are
// written from the front on, or behind what was in use.
func (s *Sequencer) keepBodies(i int32, bodies []byte, to uint32) {
	if s.undo == nil {
		return
	}
	k := &s.saved.channels[i]
	if to = min(to, k.used); to > k.copied {
		arena.SaveSlice(s.undo, bodies[k.copied:to])
		k.copied = to
	}
}

// change returns packet q of channel i, saved.
func (s *Sequencer) change(i, q int32) *packet {
	at := int(i)*(int(s.holdPackets)+1) + int(q)
	p := &s.packets[at]
	if s.undo != nil && q < s.saved.channels[i].fresh && s.saved.packets[at] != s.undo.Round() {
		s.saved.packets[at] = s.undo.Round()
		arena.Save(s.undo, p)
	}
	return p
}

// SaveMax returns how many words of the undo log one call of Push, Rest, Expire, Finish
// or FinishChannel needs at most, or one of Carry.
func (s *Sequencer) SaveMax() int {
	packets := int(s.holdPackets) + 1
	call := 2*arena.SaveMax[channel](1) + // and the one that retired before it
		arena.SaveMax[state](1) +
		arena.SaveMax[piece](2*packets) + 2*2*(2*packets+3) + // an insertion may begin two records
		packets*arena.SaveMax[packet](1) +
		arena.SaveMax[run](lowerMax+1) +
		(2*packets+4)*arena.SaveMax[run](1) + // a gap before each piece
		arena.SaveMax[byte](int(s.bodyBytes)) + 2*packets + // in parts
		len(s.table)*arena.SaveMax[int32](1)
	carry := arena.SaveMax[hand](1) + arena.SaveMax[state](1) + arena.SaveMax[Item](cap(s.items))
	return max(call, carry)
}
