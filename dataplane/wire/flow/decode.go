package flow

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
)

// The fields, by number.
const (
	fieldSource = iota
	fieldDestination
	fieldSourcePort
	fieldDestinationPort
	fieldProtocol
	fieldProtocolNumber
	fieldBytes
	fieldPayloadBytes
	fieldTCPFlags
	fieldVLAN
	fieldTTL
	fieldTOS
)

var fields = []wire.Field{
	fieldSource:          {Name: "source", Type: event.Text, Width: 39, Doc: "source address, 192.0.2.1 or 2001:db8::1"},
	fieldDestination:     {Name: "destination", Type: event.Text, Width: 39, Doc: "destination address"},
	fieldSourcePort:      {Name: "source_port", Type: event.Int64, Doc: "source port of UDP or TCP"},
	fieldDestinationPort: {Name: "destination_port", Type: event.Int64, Doc: "destination port of UDP or TCP"},
	fieldProtocol:        {Name: "protocol", Type: event.Text, Width: 4, Doc: "udp, tcp, or the protocol's number"},
	fieldProtocolNumber:  {Name: "protocol_number", Type: event.Int64, Doc: "IP protocol number: 6 is TCP, 17 is UDP"},
	fieldBytes:           {Name: "bytes", Type: event.Int64, Doc: "length of the frame on the wire, without its check sequence (and without padding that a capture cut off)"},
	fieldPayloadBytes:    {Name: "payload_bytes", Type: event.Int64, Doc: "length of the UDP or TCP payload"},
	fieldTCPFlags:        {Name: "tcp_flags", Type: event.Int64, Doc: "TCP flags: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128"},
	fieldVLAN:            {Name: "vlan", Type: event.Int64, Doc: "VLAN id of the innermost tag"},
	fieldTTL:             {Name: "ttl", Type: event.Int64, Doc: "time to live, or hop limit"},
	fieldTOS:             {Name: "tos", Type: event.Int64, Doc: "type of service, or traffic class"},
}

// Format returns the format flow.
func Format() wire.Format {
	return wire.Format{
		Name: "flow", Doc: "the packet itself: addresses, ports, sizes, flags",
		Fields:  fields,
		OwnTime: true,
		Place: plan.Placement{
			Kind:   plan.PlaceTuple,
			Fields: plan.FieldSource | plan.FieldDestination | plan.FieldSourcePort | plan.FieldDestinationPort | plan.FieldProtocol,
		},
		New: newDecoder,
	}
}

// decoder decodes one feed. It has no state of channels.
type decoder struct {
	columns  []int // field numbers
	identity bool
	buf      [64]byte
}

func newDecoder(f *plan.Feed, _ *arena.Region, _ *arena.Undo) (wire.Decoder, error) {
	d := &decoder{identity: f.Identity}
	for _, c := range f.Columns {
		if c.Field < 0 || c.Field >= len(fields) {
			return nil, fmt.Errorf("flow: feed %s: column %s: the format has no field number %d", f.Name, c.Name, c.Field)
		}
		if x := &fields[c.Field]; c.Type != x.Type || c.Scale != x.Scale {
			return nil, fmt.Errorf("flow: feed %s: column %s is %v(%d), want %v", f.Name, c.Name, c.Type, c.Scale, x.Type)
		}
		d.columns = append(d.columns, c.Field)
	}
	return d, nil
}

// Forget does nothing: no event refers to another.
func (d *decoder) Forget(int) {}

// Decode makes p's frame an event.
func (d *decoder) Decode(p *wire.Packet, b *event.Batch) (more bool) {
	if p.Done > 0 {
		return false
	}
	if b.Full() {
		return true
	}
	p.Done = 1
	var h headers
	if !h.parse(p.Frame) {
		p.Lose(event.DropBadMessage)
		return false
	}
	p.Max = max(p.Max, p.Receive)
	for c, f := range d.columns {
		d.set(b, c, f, &h)
	}
	p.Keep(b, p.Receive, d.identity, 0)
	return false
}

// set writes column c of the event being added from field number f.
func (d *decoder) set(b *event.Batch, c, f int, h *headers) {
	switch f {
	case fieldSource:
		b.SetText(c, h.source.AppendTo(d.buf[:0]))
	case fieldDestination:
		b.SetText(c, h.destination.AppendTo(d.buf[:0]))
	case fieldProtocol:
		switch h.protocol {
		case protocolTCP:
			b.SetText(c, append(d.buf[:0], "tcp"...))
		case protocolUDP:
			b.SetText(c, append(d.buf[:0], "udp"...))
		default:
			b.SetText(c, strconv.AppendUint(d.buf[:0], uint64(h.protocol), 10))
		}
	case fieldSourcePort:
		setNum(b, c, h.ports, int64(h.sourcePort))
	case fieldDestinationPort:
		setNum(b, c, h.ports, int64(h.destinationPort))
	case fieldProtocolNumber:
		b.SetNum(c, int64(h.protocol))
	case fieldBytes:
		b.SetNum(c, int64(h.bytes))
	case fieldPayloadBytes:
		setNum(b, c, h.ports, int64(h.payload))
	case fieldTCPFlags:
		setNum(b, c, h.ports && h.protocol == protocolTCP, int64(h.flags))
	case fieldVLAN:
		setNum(b, c, h.tagged, int64(h.vlan))
	case fieldTTL:
		b.SetNum(c, int64(h.ttl))
	case fieldTOS:
		b.SetNum(c, int64(h.tos))
	}
}

func setNum(b *event.Batch, c int, valid bool, v int64) {
	if !valid {
		b.SetNull(c)
		return
	}
	b.SetNum(c, v)
}

const (
	protocolTCP = 6
	protocolUDP = 17
)

// headers is what a frame's headers say.
type headers struct {
	source, destination         netip.Addr
	protocol, flags, ttl, tos   uint8
	sourcePort, destinationPort uint16
	vlan                        uint16
	tagged                      bool
	ports                       bool // UDP or TCP, not a later fragment
	bytes, payload              int
}

// Ethernet types.
const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
)

// tagsMax is how many VLAN tags are looked through, extensionsMax how many IPv6
// extension headers.
const (
	tagsMax       = 4
	extensionsMax = 8
)

// parse reads the headers of a frame from Ethernet on. It returns false if they are cut
// off, contradict themselves or are not of IP.
func (h *headers) parse(frame []byte) bool {
	if len(frame) < 14 {
		return false
	}
	kind := binary.BigEndian.Uint16(frame[12:])
	at := 14
	for range tagsMax {
		if kind != typeVLAN && kind != typeQinQ {
			break
		}
		if len(frame) < at+4 {
			return false
		}
		h.tagged, h.vlan = true, binary.BigEndian.Uint16(frame[at:])&0xfff
		kind = binary.BigEndian.Uint16(frame[at+2:])
		at += 4
	}
	var ip []byte
	var transport, length int // offset of the payload of IP, and length by the header
	var later, ok bool        // a fragment that is not the first
	switch kind {
	case typeIPv4:
		ip = frame[at:]
		transport, length, later, ok = h.ipv4(ip)
	case typeIPv6:
		ip = frame[at:]
		transport, length, later, ok = h.ipv6(ip)
	}
	if !ok {
		return false
	}
	h.bytes = max(len(frame), at+length) // a capture may hold less; Ethernet may pad
	return later || h.transport(ip[transport:], length-transport)
}

// ipv4 reads an IPv4 header.
func (h *headers) ipv4(b []byte) (transport, length int, later, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return 0, 0, false, false
	}
	transport, length = int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if transport < 20 || length < transport || len(b) < transport {
		return 0, 0, false, false
	}
	h.tos, h.ttl, h.protocol = b[1], b[8], b[9]
	h.source, h.destination = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	return transport, length, binary.BigEndian.Uint16(b[6:])&0x1fff != 0, true
}

// ipv6 reads an IPv6 header and its extension headers.
func (h *headers) ipv6(b []byte) (transport, length int, later, ok bool) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return 0, 0, false, false
	}
	h.tos, h.ttl, h.protocol = b[0]<<4|b[1]>>4, b[7], b[6]
	h.source, h.destination = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	transport, length = 40, 40+int(binary.BigEndian.Uint16(b[4:]))
	for range extensionsMax {
		size := 8
		switch h.protocol {
		case 0, 43, 60, 51, 44: // hop-by-hop, routing, destination, authentication, fragment
		default:
			return transport, length, later, true
		}
		if len(b) < transport+8 || length < transport+8 {
			return 0, 0, false, false
		}
		x := b[transport:]
		switch h.protocol {
		case 44:
			later = later || binary.BigEndian.Uint16(x[2:])&^7 != 0
		case 51:
			size = (int(x[1]) + 2) * 4
		default:
			size = (int(x[1]) + 1) * 8
		}
		h.protocol = x[0]
		transport += size
		if transport > length || transport > len(b) {
			return 0, 0, false, false
		}
		if later {
			return transport, length, true, true
		}
	}
	return 0, 0, false, false
}

// transport reads a UDP or TCP header; room is what IP leaves for it and its payload.
func (h *headers) transport(b []byte, room int) bool {
	head := 8
	switch h.protocol {
	case protocolUDP:
		if len(b) < 8 || room < 8 {
			return false
		}
		if n := int(binary.BigEndian.Uint16(b[4:])); n >= 8 && n <= room {
			room = n
		}
	case protocolTCP:
		if len(b) < 20 || room < 20 {
			return false
		}
		head = int(b[12]>>4) * 4
		if head < 20 || head > room {
			return false
		}
		h.flags = b[13]
	default:
		return true
	}
	h.ports = true
	h.sourcePort, h.destinationPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	h.payload = room - head
	return true
}
