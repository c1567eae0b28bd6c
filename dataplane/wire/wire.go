package wire

import (
	"github.com/headrace/headrace/dataplane/event"
)

// A Packet is a payload, or the part of one that may be decoded now, and the
// account of it. The worker reuses one Packet.
type Packet struct {
	// Payload is the UDP or TCP payload; for sequenced formats the message blocks
	// behind the packet header, from message number 0 of the packet on.
	Payload []byte
	// Frame is the whole frame from the Ethernet header (the flow format reads it);
	// PayloadOffset is where Payload lies in it. Nil for held packets.
	Frame         []byte
	PayloadOffset int
	// Receive is the time of receipt, UTC.
	Receive event.Nanos
	// Cut says that the capture holds only the beginning of Payload: a record that the
	// end cuts in two is counted by LoseCut. Not for sequenced formats.
	Cut bool

	// For sequenced formats: the messages to apply are [Skip, Skip+Count) of the
	// packet; message number Skip has sequence number Seq.
	Skip, Count int
	Seq         uint64
	// Channel is the slot of the channel on this worker, 0 <= Channel < Feed.Channels.
	// Fresh says that the slot belongs to a new channel or a new epoch: state that
	// refers to earlier messages (orders) is void.
	Channel int
	// Chan and Order are copied to the batch's columns of the same name.
	Chan, Order uint64

	Progress
}

// A Progress is how far a packet is decoded, and its account so far. It is all that
// changes in a Packet while it is decoded, and plain data: with it, another decoder of
// the same feed, over the same memory, goes on in the middle of the packet.
type Progress struct {
	// Next is where to go on: the decoder's own measure, 0 at first. Decode returns
	// More if the batch was full before the packet's end; the worker empties the
	// batch and calls Decode again with the same Packet.
	Next, Done int

	// Account, added to by Decode: Messages = Events + Filtered + Σ Drops.
	Max      event.Nanos // greatest event time of all events, filtered or not
	Messages uint64      // messages (records, lines) seen
	Events   uint64      // events appended to the batch
	Filtered uint64      // events of kinds that no query wants: not appended
	Drops    event.Drops // messages and events dropped, by reason
	// Hit says that something was dropped that belongs to the feed (a decode drop).
	Hit bool
}

// Reset prepares p for a new payload: position and account are cleared.
func (p *Packet) Reset() {
	// Field by field, and the drops only if there are any: it is done for every packet.
	if p.Dropped() > 0 {
		p.Drops = event.Drops{}
	}
	p.Payload, p.Frame, p.PayloadOffset, p.Receive, p.Cut = nil, nil, 0, 0, false
	p.Skip, p.Count, p.Seq, p.Channel, p.Chan, p.Order = 0, 0, 0, 0, 0, 0
	p.Next, p.Done, p.Max = 0, 0, event.MinNanos
	p.Messages, p.Events, p.Filtered, p.Hit = 0, 0, 0, false
}

// Dropped returns how many messages were dropped: the sum of Drops.
func (p *Packet) Dropped() uint64 { return p.Messages - p.Events - p.Filtered }

// A Decoder decodes one feed's payloads on one worker. It is used by the
// worker's thread only.
type Decoder interface {
	// Decode appends p's events to b, from p.Next on, until the packet ends (false)
	// or b is full (true: more). Every message is counted once in p's account.
	Decode(p *Packet, b *event.Batch) (more bool)
	// Forget voids the state of channel slot c: a new channel or epoch begins in it.
	Forget(c int)
}

// A Saver is a decoder with state that outlives a batch.
type Saver interface {
	// SaveMax returns how many words of the undo log one call of Decode, of a packet of
	// so many bytes, needs at most; ForgetMax how many one of Forget.
	SaveMax(payload int) int
	ForgetMax() int
}

// A Field is a built-in column of a format.
type Field struct {
	Name  string
	Type  event.Type
	Scale uint8
	Width int // text: greatest length without padding
	Doc   string
}

// A Kind is a kind of message that `message == "..."` can name.
type Kind struct {
	Name string
	Bit  int // in plan.Feed.Kinds
	Doc  string
}
