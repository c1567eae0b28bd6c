package steer

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/headrace/headrace/dataplane/plan"
)

// PlaceMax is the greatest number of bytes that a placement hashes.
const PlaceMax = 64

// checkPlacement says what is wrong with p.
func checkPlacement(p *plan.Placement) error {
	switch p.Kind {
	case plan.PlaceBytes, plan.PlaceChannel:
		if p.Length < 1 || p.Length > PlaceMax {
			return fmt.Errorf("placement of %d bytes: give 1 to %d", p.Length, PlaceMax)
		}
	case plan.PlaceTuple:
		if p.Fields == 0 || p.Fields >= plan.FieldProtocol<<1 {
			return fmt.Errorf("placement by fields %#x: choose at least one of source, destination, ports and protocol", p.Fields)
		}
	case plan.PlaceUntil:
	default:
		return fmt.Errorf("placement kind %d is not known", p.Kind)
	}
	return nil
}

// Place returns the bytes of a packet from which its worker is chosen, at most
// PlaceMax, and whether all that p asks for were there. They are a part of payload
// or of buf. p must be a placement that [New] accepts.
//
// The bytes of a tuple are the chosen fields in the order source, destination
// (4 or 16 bytes each), source port, destination port (big-endian), protocol (one
// byte), without padding. A symmetric one first lets the lesser (address, port),
// compared as bytes, be the source.
func Place(p *plan.Placement, payload []byte, t *Tuple, buf *[PlaceMax]byte) (placed []byte, whole bool) {
	if p.Kind == plan.PlaceTuple {
		return placeTuple(p, t, buf[:0]), true
	}
	return placePayload(p, payload)
}

func placePayload(p *plan.Placement, payload []byte) (placed []byte, whole bool) {
	rest := payload[min(int(p.Offset), len(payload)):]
	if p.Kind == plan.PlaceUntil {
		whole = len(rest) >= PlaceMax
		rest = rest[:min(PlaceMax, len(rest))]
		if i := bytes.IndexByte(rest, p.Delimiter); i >= 0 {
			return rest[:i], true
		}
		return rest, whole
	}
	whole = len(rest) >= int(p.Length)
	rest = rest[:min(int(p.Length), len(rest))]
	if p.Trim {
		for len(rest) > 0 && rest[len(rest)-1]&^0x20 == 0 { // 0x20 and 0x00 only
			rest = rest[:len(rest)-1]
		}
	}
	return rest, whole
}

func placeTuple(p *plan.Placement, t *Tuple, dst []byte) []byte {
	source, destination := t.Source, t.Destination
	sourcePort, destinationPort := t.SourcePort, t.DestinationPort
	if p.Symmetric {
		c := bytes.Compare(destination, source)
		if c < 0 || c == 0 && destinationPort < sourcePort {
			source, destination = destination, source
			sourcePort, destinationPort = destinationPort, sourcePort
		}
	}
	// The usual pairs are one store each: the hash reads words, and a word that was
	// written in parts has to wait for them to reach the cache.
	const addresses, ports = plan.FieldSource | plan.FieldDestination, plan.FieldSourcePort | plan.FieldDestinationPort
	switch {
	case p.Fields&addresses == addresses && len(source) == 4:
		dst = binary.BigEndian.AppendUint64(dst, uint64(binary.BigEndian.Uint32(source))<<32|uint64(binary.BigEndian.Uint32(destination)))
	case p.Fields&addresses == addresses:
		dst = append(append(dst, source...), destination...)
	case p.Fields&plan.FieldSource != 0:
		dst = append(dst, source...)
	case p.Fields&plan.FieldDestination != 0:
		dst = append(dst, destination...)
	}
	switch p.Fields & ports {
	case ports:
		dst = binary.BigEndian.AppendUint32(dst, uint32(sourcePort)<<16|uint32(destinationPort))
	case plan.FieldSourcePort:
		dst = binary.BigEndian.AppendUint16(dst, sourcePort)
	case plan.FieldDestinationPort:
		dst = binary.BigEndian.AppendUint16(dst, destinationPort)
	}
	if p.Fields&plan.FieldProtocol != 0 {
		dst = append(dst, t.Protocol)
	}
	return dst
}
