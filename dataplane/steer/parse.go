package steer

import "encoding/binary"

// Numbers on the wire that the parser knows.
const (
	typeIPv4 = 0x0800
	typeVLAN = 0x8100
	typeIPv6 = 0x86dd
	typeQinQ = 0x88a8

	protocolTCP = 6
	protocolUDP = 17

	hopByHop           = 0
	routing            = 43
	fragment           = 44
	destinationOptions = 60

	tagsMax       = 2 // HR_TAGS of bpf/abi.h
	extensionsMax = 4 // HR_EXTENSIONS of bpf/abi.h
)

// Tuple is where a packet came from and where it goes. Source and Destination
// are 4 bytes of IPv4 or 16 bytes of IPv6, as on the wire; ports are numbers.
type Tuple struct {
	Source, Destination         []byte
	SourcePort, DestinationPort uint16
	Protocol                    uint8
}

// packet is what the parser finds: struct hr_packet of bpf/parse.h.
type packet struct {
	destination     [2]uint64 // see words
	at, left        int       // transport header's place, and what the IP header says is left from there
	payload         int       // place and length in the frame
	payloadLength   int
	addresses       int // place of the source address; the destination's follows it
	wire            int // the frame's length on the wire
	sourcePort      uint16
	destinationPort uint16
	vlan            uint16
	protocol        uint8
	class           uint8
	flags           uint8
	ports           bool
	allowTruncated  bool // what the capture cut off is not missed
}

// tuple returns where the packet in frame came from and where it goes.
func (p *packet) tuple(frame []byte) Tuple {
	n := 4
	if p.class&classV6 != 0 {
		n = 16
	}
	source, destination := p.addresses, p.addresses+n
	return Tuple{frame[source:destination], frame[destination : destination+n], p.sourcePort, p.destinationPort, p.protocol}
}

// first keeps the first verdict that is not Steered.
func first(v, otherwise Verdict) Verdict {
	if v != Steered {
		return v
	}
	return otherwise
}

// beyond judges a packet that ends at byte end of the frame, by its IP header.
func (p *packet) beyond(frame []byte, end int) Verdict {
	switch {
	case end <= len(frame):
		return Steered
	case p.allowTruncated && end <= p.wire:
		p.flags |= FlagTruncated
		return Steered
	}
	return Truncated
}

// network reads Ethernet, tags and IP; parse_network of bpf/parse.h. p.protocol
// says whether there is a transport header to read.
func (p *packet) network(frame []byte) Verdict {
	if len(frame) < 14 {
		return Short
	}
	kind := binary.BigEndian.Uint16(frame[12:])
	at := 14
	for range tagsMax {
		if kind != typeVLAN && kind != typeQinQ {
			break
		}
		if len(frame) < at+4 {
			return Short
		}
		p.vlan = binary.BigEndian.Uint16(frame[at:]) & 0xfff
		kind = binary.BigEndian.Uint16(frame[at+2:])
		at += 4
	}
	switch kind {
	case typeIPv4:
		return p.ipv4(frame, at)
	case typeIPv6:
		return p.ipv6(frame, at)
	case typeVLAN, typeQinQ:
		return TooDeep
	}
	return NotIP
}

func (p *packet) ipv4(frame []byte, at int) Verdict {
	if len(frame) < at+20 {
		return Short
	}
	ip := frame[at : at+20]
	header := int(ip[0]&15) * 4
	if ip[0]>>4 != 4 || header < 20 {
		return Malformed
	}
	if len(frame) < at+header {
		return Short
	}
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if total < header {
		return Malformed
	}
	p.addresses = at + 12
	p.destination[0] = uint64(binary.LittleEndian.Uint32(ip[16:]))
	protocol := ip[9]
	if protocol == protocolTCP {
		p.class = classTCP
	} else if protocol != protocolUDP {
		return OtherProtocol
	}
	verdict := p.beyond(frame, at+total)
	if part := binary.BigEndian.Uint16(ip[6:]); part&0x3fff != 0 { // more fragments, or an offset
		verdict = first(verdict, Fragment)
		if part&0x1fff != 0 {
			return verdict
		}
	}
	p.protocol = protocol
	p.at = at + header
	p.left = total - header
	return verdict
}

func (p *packet) ipv6(frame []byte, at int) Verdict {
	if len(frame) < at+40 {
		return Short
	}
	ip := frame[at : at+40]
	if ip[0]>>4 != 6 {
		return Malformed
	}
	p.addresses = at + 8
	p.destination = [2]uint64{binary.LittleEndian.Uint64(ip[24:]), binary.LittleEndian.Uint64(ip[32:])}
	left := int(binary.BigEndian.Uint16(ip[4:]))
	next := ip[6]
	at += 40
	verdict := p.beyond(frame, at+left)
	for i := 0; ; i++ {
		switch next {
		case protocolUDP, protocolTCP:
			p.protocol = next
			p.class = classV6
			if next == protocolTCP {
				p.class |= classTCP
			}
			p.at, p.left = at, left
			return verdict
		case hopByHop, routing, fragment, destinationOptions:
		default:
			return OtherProtocol
		}
		if i == extensionsMax {
			return first(verdict, TooDeep)
		}
		if left < 8 {
			return first(verdict, Malformed)
		}
		if len(frame) < at+8 {
			return first(verdict, Truncated)
		}
		length := 8
		if next == fragment {
			verdict = first(verdict, Fragment)
			if binary.BigEndian.Uint16(frame[at+2:])&0xfff8 != 0 {
				return verdict
			}
		} else {
			length += int(frame[at+1]) * 8
		}
		if length > left {
			return first(verdict, Malformed)
		}
		next = frame[at]
		at += length
		left -= length
	}
}

// transport reads UDP or TCP; parse_transport of bpf/parse.h.
func (p *packet) transport(frame []byte, verdict Verdict) Verdict {
	header := 20
	if p.protocol == protocolUDP {
		header = 8
	}
	if p.left < header {
		return first(verdict, Malformed)
	}
	if len(frame) < p.at+header {
		return first(verdict, Truncated)
	}
	h := frame[p.at : p.at+header]
	p.sourcePort = binary.BigEndian.Uint16(h)
	p.destinationPort = binary.BigEndian.Uint16(h[2:])
	p.ports = true
	if p.protocol == protocolUDP {
		length := int(binary.BigEndian.Uint16(h[4:]))
		if length < header {
			return first(verdict, Malformed)
		}
		if length > p.left {
			return first(verdict, Truncated)
		}
		p.left = length // what follows within the frame is Ethernet's padding
	} else {
		header = int(h[12]>>4) * 4
		if header < 20 || header > p.left {
			return first(verdict, Malformed)
		}
		if len(frame) < p.at+header {
			return first(verdict, Truncated)
		}
	}
	p.payload = p.at + header
	p.payloadLength = min(p.left-header, len(frame)-p.payload) // less only if the capture cut it
	return verdict
}
