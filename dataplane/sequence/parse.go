package sequence

import (
	"encoding/binary"
	"math"

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
	Kind     HeaderKind
	Protocol uint16 // IEX-TP: message protocol id; else 0
	Session  Session
	Seq      uint64      // of the first message; of the next expected one in a heartbeat or end of session
	Count    int         // messages that the header promises
	Whole    int         // messages that are there; less than Count only if the packet was cut
	Sent     event.Nanos // send time, 0 where the protocol has none
	Body     []byte      // the Whole message blocks, without anything behind them
}

// Session identifies a sequence-number space, in the protocol's own bytes,
// left-aligned and zero-padded: IEX-TP channel id and session id (8 bytes, as on
// the wire but big-endian), MoldUDP64 session (10 bytes).
type Session [16]byte

// Lengths and constants of the two packet headers.
const (
	iexHeader  = 40
	moldHeader = 20
	iexVersion = 1
	moldEnd    = 0xFFFF // MoldUDP64 message count that means end of session
	// payloadMax is the greatest length of a UDP payload; hold memory relies on it.
	payloadMax = 1<<16 - 1
)

// IEX-TP message protocol ids.
const (
	protocolTOPS15 = 0x8002
	protocolTOPS16 = 0x8003
	protocolDEEP10 = 0x8004
)

// Parse reads the packet header of protocol p and counts the message blocks behind
// it. It never reads outside payload. Lengths that contradict each other are
// [event.DropLength]: fewer blocks than the count promises, a length field that
// points behind the payload, numbers that would wrap. Bytes behind the last
// message are tolerated and left out of Body: no sequence number belongs to them.
//
// Sources: IEX Transport Protocol 1.25, MoldUDP64 1.00.
func Parse(p plan.Sequence, payload []byte) (Header, event.Drop) {
	var h Header
	drop := h.parse(p, payload, false)
	return h, drop
}

// ParseTruncated is [Parse] for a payload of which a capture holds only the
// beginning. Whole is then the number of messages that are complete.
func ParseTruncated(p plan.Sequence, payload []byte) (Header, event.Drop) {
	var h Header
	drop := h.parse(p, payload, true)
	return h, drop
}

func (h *Header) parse(p plan.Sequence, payload []byte, truncated bool) event.Drop {
	if len(payload) > payloadMax {
		return event.DropLength
	}
	switch p {
	case plan.IEXTP:
		return h.parseIEX(payload, truncated)
	case plan.MoldUDP64:
		return h.parseMold(payload, truncated)
	}
	return event.DropVersion
}

func (h *Header) parseIEX(payload []byte, truncated bool) event.Drop {
	if len(payload) < iexHeader {
		return short(truncated)
	}
	b := payload[:iexHeader]
	h.Protocol = binary.LittleEndian.Uint16(b[2:])
	if b[0] != iexVersion || h.Protocol < protocolTOPS15 || h.Protocol > protocolDEEP10 {
		return event.DropVersion
	}
	channel, session := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
	binary.BigEndian.PutUint64(h.Session[:8], uint64(channel)<<32|uint64(session))
	length := int(binary.LittleEndian.Uint16(b[12:]))
	h.Count = int(binary.LittleEndian.Uint16(b[14:]))
	h.Seq = binary.LittleEndian.Uint64(b[24:])
	h.Sent = event.Nanos(binary.LittleEndian.Uint64(b[32:]))
	h.Kind = Data
	if h.Count == 0 {
		h.Kind = Heartbeat
	}
	cut := false
	if there := len(payload) - iexHeader; length > there {
		length, cut = there, truncated
		if !truncated {
			return event.DropLength
		}
	}
	// Numbers are signed on the wire and begin at 1.
	if h.Seq > math.MaxInt64 || h.Seq == 0 && h.Count > 0 {
		return event.DropLength
	}
	h.Whole, h.Body = walkLittle(payload[iexHeader:iexHeader+length], h.Count)
	if h.Whole < h.Count && !cut {
		return event.DropLength
	}
	return event.Kept
}

func (h *Header) parseMold(payload []byte, truncated bool) event.Drop {
	if len(payload) < moldHeader {
		return short(truncated)
	}
	b := payload[:moldHeader]
	// As two words: what is compared in words is written in words.
	binary.BigEndian.PutUint64(h.Session[:8], binary.BigEndian.Uint64(b))
	binary.BigEndian.PutUint64(h.Session[8:], uint64(binary.BigEndian.Uint16(b[8:]))<<48)
	h.Seq = binary.BigEndian.Uint64(b[10:])
	h.Count = int(binary.BigEndian.Uint16(b[18:]))
	h.Kind = Data
	switch h.Count {
	case 0:
		h.Kind = Heartbeat
	case moldEnd:
		h.Kind, h.Count = EndOfSession, 0
	}
	if h.Seq > math.MaxUint64-uint64(h.Count) {
		return event.DropLength
	}
	h.Whole, h.Body = walkBig(payload[moldHeader:], h.Count)
	if h.Whole < h.Count && !truncated {
		return event.DropLength
	}
	return event.Kept
}

// walkLittle counts the whole blocks of body, at most count, and returns them. Each
// length is needed to find the next, so the time is that of a chain of loads; bytes
// are read by index because a slice of the rest would lengthen the chain.
func walkLittle(body []byte, count int) (int, []byte) {
	n, end, size := 0, uint(0), uint(len(body))
	for ; n < count && end+1 < size; n++ {
		to := end + 2 + (uint(body[end]) | uint(body[end+1])<<8)
		if to > size {
			break
		}
		end = to
	}
	return n, body[:end]
}

// walkBig is walkLittle for lengths in network order.
func walkBig(body []byte, count int) (int, []byte) {
	n, end, size := 0, uint(0), uint(len(body))
	for ; n < count && end+1 < size; n++ {
		to := end + 2 + (uint(body[end])<<8 | uint(body[end+1]))
		if to > size {
			break
		}
		end = to
	}
	return n, body[:end]
}

func short(truncated bool) event.Drop {
	if truncated {
		return event.DropTruncated
	}
	return event.DropShort
}
