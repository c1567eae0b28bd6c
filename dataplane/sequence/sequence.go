package sequence

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// HeaderKind says what a packet of a sequenced feed is.
type HeaderKind uint8

// The kinds of packet.
const (
	Data HeaderKind = iota + 1
	Heartbeat
	EndOfSession
)

// A Header is what the packet header of any sequenced format says.
type Header struct {
	Kind    HeaderKind
	Session Session
	Seq     uint64      // of the first message; of the next expected one in a heartbeat or end of session
	Count   int         // messages that the header promises
	Sent    event.Nanos // send time, 0 where the protocol has none
	Body    []byte      // the message blocks
}

// Session identifies a sequence-number space, in the protocol's own bytes,
// left-aligned and zero-padded: IEX-TP channel id and session id (8 bytes, as on
// the wire but big-endian), MoldUDP64 session (10 bytes).
type Session [16]byte

// Parse reads the packet header of protocol p. It never reads outside payload.
func Parse(p plan.Sequence, payload []byte) (Header, event.Drop) { panic("sequence: Parse") }

// A Span is messages of one packet that may be decoded now: numbers
// [Skip, Skip+Count) of those in Body, the first having sequence number Seq.
type Span struct {
	Body     []byte // in the frame or in the hold; valid until the next Push
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
}

// An Item is one step of a release: a span, or a gap before the spans after it.
type Item struct {
	Gap  Gap // Gap.Count == 0: Span is the item
	Span Span
}

// A Release is what one packet lets through. It is valid until the next Push.
type Release struct {
	Channel int // slot
	Session Session
	New     bool // the channel was first seen with this packet
	Items   []Item
	// Retired is the slot of a channel that ended with this packet (MoldUDP64 end
	// of session after its last message; a new session on an IEX-TP channel), or -1.
	Retired int
	Drop    event.Drop // the packet as a whole was dropped, for this reason
	// Account of messages: Duplicate were seen before, Held went into the hold,
	// Ancient belonged to an earlier epoch.
	Duplicate, Held, Ancient uint64
	Heartbeat                bool
}
