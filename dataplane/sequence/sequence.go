package sequence

import "github.com/headrace/headrace/dataplane/event"

// A Span is messages of one packet that may be decoded now: numbers
// [Skip, Skip+Count) of those in its body, which [Sequencer.Body] returns, the first
// having sequence number Seq.
type Span struct {
	At, Size uint32 // where the body lies in the channel's hold, if Held; else it is the packet's
	Skip     int
	Count    int
	Seq      uint64
	Epoch    uint32
	NewEpoch bool // the first span of an epoch (of a channel's first epoch too)
	Receive  event.Nanos
	Held     bool
}

// A Gap is a run of messages that are given up.
type Gap struct {
	Seq   uint64
	Count uint64
	Epoch uint32
}

// An Item is one step of a release: a span, or a gap before the spans after it.
type Item struct {
	Gap  Gap // Gap.Count == 0: Span is the item
	Span Span
}

// A Release is what one packet lets through. It is valid until the next call of
// Push, Rest, Expire or Finish.
type Release struct {
	Outcome
	Items []Item
}

// An Outcome is what a release says besides its items.
//
// Every packet's messages are accounted for once, when it arrives: Messages is
// Fresh + Duplicate + Held + Ancient, or, where Drop is set, all of them are
// dropped. Held messages come out later as spans with Held set. So over any
// number of releases
//
//	messages received = Σ counts of spans + duplicate + ancient + dropped + [Sequencer.HeldMessages]
type Outcome struct {
	Channel int // slot, or -1 where the packet has none (Drop says why)
	Session Session
	Epoch   uint32 // the channel's epoch after this packet; the first is 1
	Line    uint8  // of this packet: the first copies in Fresh + Held are this line's
	New     bool   // the channel was first seen with this packet
	Began   bool   // an epoch begins with this packet, a new channel's first one too
	// More says that this packet has a second part, which Rest returns: this one ends
	// the old session of an IEX-TP channel, that one begins the new session.
	More bool
	// Retired is the slot of a channel that ended with this packet (MoldUDP64 end
	// of session after its last message; a new session on an IEX-TP channel), or -1.
	// It is Channel or -1, and takes effect after the items.
	Retired int
	Drop    event.Drop // the packet as a whole was dropped, for this reason
	// Account of the packet's messages: Messages are whole in it, Cut were promised
	// but cut off by the capture. Fresh are let through at once, Duplicate were seen
	// before, Held went into the hold, Ancient belonged to an earlier epoch or came
	// after their gap had been given up.
	Messages, Cut                   uint64
	Fresh, Duplicate, Held, Ancient uint64
	Missing                         uint64 // Σ counts of the gaps among the items
	Unheld                          int    // packets that left the hold
	Heartbeat                       bool   // a heartbeat or an end of session
}

// Fate says what became of the packet itself: dropped for a reason, all of it seen
// before ([event.DropDuplicate]) or too old ([event.DropAncient]), or of use
// ([event.Kept]): let through, held, a heartbeat, or cut before its first message ended.
func (r *Outcome) Fate() event.Drop {
	switch {
	case r.Drop != event.Kept:
		return r.Drop
	case r.Fresh+r.Held > 0 || r.Messages == 0:
		return event.Kept
	case r.Duplicate > 0:
		return event.DropDuplicate
	}
	return event.DropAncient
}

// A Request names messages to ask for again: the lowest hole of a channel.
type Request struct {
	Session Session
	Epoch   uint32
	Seq     uint64
	Count   uint64
}
