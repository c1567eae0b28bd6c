package packet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Ethernet types and IP protocols that the builder writes.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeVLAN = 0x8100 // IEEE 802.1Q
	TypeIPv6 = 0x86dd
	TypeQinQ = 0x88a8 // IEEE 802.1ad

	ProtocolTCP = 6
	ProtocolUDP = 17

	HopByHop           = 0  // IPv6 extension headers, RFC 8200
	Routing            = 43 //
	Fragment           = 44 //
	DestinationOptions = 60 //
)

// MinFrame is the least length of an Ethernet frame without its checksum; shorter
// ones are padded by the sender's NIC.
const MinFrame = 60

// A Tag is one VLAN tag. The zero Type means 802.1Q.
type Tag struct {
	Type     uint16 // TypeVLAN or TypeQinQ
	ID       uint16 // 0 to 4095
	Priority uint8  // 0 to 7
}

// An Extension is one IPv6 extension header.
type Extension struct {
	Protocol uint8
	// Body is what follows the two bytes of next header and length. It is padded
	// with zeros to the next multiple of 8 bytes, the two included.
	Body []byte
}

// Link is the part of a frame below IP.
type Link struct {
	SourceMAC [6]byte // zero: 02:00:00:00:00:01
	// DestinationMAC, where zero, follows the destination address: the group's
	// address for multicast (RFC 1112, RFC 2464), ff:ff:ff:ff:ff:ff for broadcast,
	// else 02:00:00:00:00:02.
	DestinationMAC [6]byte
	Tags           []Tag // outermost first
	Pad            bool  // fill up with zeros to MinFrame
}

// UDP is everything of a UDP packet but its payload. Source and Destination must
// be of one family.
type UDP struct {
	Link        Link
	Source      netip.AddrPort
	Destination netip.AddrPort
	HopLimit    uint8       // 0: 64
	ID          uint16      // IPv4 identification
	Options     []byte      // IPv4; padded with zeros to a multiple of 4, at most 40
	Extensions  []Extension // IPv6
}

// TCP is everything of a TCP segment but its payload. Source and Destination must
// be of one family.
type TCP struct {
	Link        Link
	Source      netip.AddrPort
	Destination netip.AddrPort
	HopLimit    uint8       // 0: 64
	ID          uint16      // IPv4 identification
	Options     []byte      // IPv4; padded with zeros to a multiple of 4, at most 40
	Extensions  []Extension // IPv6

	Sequence, Acknowledged uint32
	Flags                  uint8 // FIN 1, SYN 2, RST 4, PSH 8, ACK 16
	Window                 uint16
	TCPOptions             []byte // padded with zeros to a multiple of 4, at most 40
}

// Append appends the frame of u around payload to dst. It panics if the addresses
// are of different families or the packet is longer than 65,535 bytes.
func (u *UDP) Append(dst, payload []byte) []byte {
	n := 8 + len(payload)
	h := header{&u.Link, u.Source.Addr(), u.Destination.Addr(), u.HopLimit, u.ID, u.Options, u.Extensions, ProtocolUDP}
	start := len(dst)
	dst = h.append(dst, n)
	at := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, u.Source.Port())
	dst = binary.BigEndian.AppendUint16(dst, u.Destination.Port())
	dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	dst = append(dst, 0, 0)
	dst = append(dst, payload...)
	sum := h.checksum(dst[at:])
	if sum == 0 {
		sum = 0xffff // zero would mean "none" (RFC 768)
	}
	binary.BigEndian.PutUint16(dst[at+6:], sum)
	return h.pad(dst, start)
}

// Append appends the frame of t around payload to dst. It panics if the addresses
// are of different families or the packet is longer than 65,535 bytes.
func (t *TCP) Append(dst, payload []byte) []byte {
	options := (len(t.TCPOptions) + 3) &^ 3
	n := 20 + options + len(payload)
	h := header{&t.Link, t.Source.Addr(), t.Destination.Addr(), t.HopLimit, t.ID, t.Options, t.Extensions, ProtocolTCP}
	start := len(dst)
	dst = h.append(dst, n)
	at := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, t.Source.Port())
	dst = binary.BigEndian.AppendUint16(dst, t.Destination.Port())
	dst = binary.BigEndian.AppendUint32(dst, t.Sequence)
	dst = binary.BigEndian.AppendUint32(dst, t.Acknowledged)
	dst = append(dst, uint8(5+options/4)<<4, t.Flags)
	dst = binary.BigEndian.AppendUint16(dst, t.Window)
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, t.TCPOptions...)
	dst = appendZeros(dst, options-len(t.TCPOptions))
	dst = append(dst, payload...)
	binary.BigEndian.PutUint16(dst[at+16:], h.checksum(dst[at:]))
	return h.pad(dst, start)
}

// Ethernet appends a frame of the given type that holds body as it is, for what is
// neither UDP nor TCP.
func Ethernet(dst []byte, l *Link, etherType uint16, body []byte) []byte {
	start := len(dst)
	dst = l.append(dst, netip.Addr{}, etherType)
	dst = append(dst, body...)
	h := header{link: l}
	return h.pad(dst, start)
}

// MulticastMAC returns the group address of a multicast address.
func MulticastMAC(a netip.Addr) [6]byte {
	if a.Is4() {
		b := a.As4()
		return [6]byte{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	b := a.As16()
	return [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// Checksum returns the Internet checksum of b (RFC 1071), beginning from the
// unfolded sum of what comes before it; before must be of even length.
func Checksum(before uint64, b []byte) uint16 {
	sum := before
	var carry uint64
	for len(b) >= 8 {
		// Ones' complement addition does not mind the width of the words.
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), 0)
		sum += carry
		b = b[8:]
	}
	var last uint64
	for i, c := range b {
		last |= uint64(c) << (56 - 8*i)
	}
	sum, carry = bits.Add64(sum, last, 0)
	sum += carry
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// header is what UDP and TCP have below them.
type header struct {
	link        *Link
	source      netip.Addr
	destination netip.Addr
	hopLimit    uint8
	id          uint16
	options     []byte
	extensions  []Extension
	protocol    uint8
}

func (h *header) append(dst []byte, n int) []byte {
	if h.source.Is4() != h.destination.Is4() {
		panic("packet: source and destination are of different families")
	}
	if h.hopLimit == 0 {
		h.hopLimit = 64
	}
	if h.source.Is4() {
		return h.append4(h.link.append(dst, h.destination, TypeIPv4), n)
	}
	return h.append6(h.link.append(dst, h.destination, TypeIPv6), n)
}

func (h *header) append4(dst []byte, n int) []byte {
	options := (len(h.options) + 3) &^ 3
	if total := 20 + options + n; total > 0xffff || options > 40 {
		panic("packet: IPv4 packet or its options too long")
	}
	at := len(dst)
	dst = append(dst, 0x40|uint8(5+options/4), 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(20+options+n))
	dst = binary.BigEndian.AppendUint16(dst, h.id)
	dst = append(dst, 0, 0, h.hopLimit, h.protocol, 0, 0)
	s, d := h.source.As4(), h.destination.As4()
	dst = append(dst, s[:]...)
	dst = append(dst, d[:]...)
	dst = append(dst, h.options...)
	dst = appendZeros(dst, options-len(h.options))
	binary.BigEndian.PutUint16(dst[at+10:], Checksum(0, dst[at:]))
	return dst
}

func (h *header) append6(dst []byte, n int) []byte {
	for i := range h.extensions {
		n += (2 + len(h.extensions[i].Body) + 7) &^ 7
	}
	if n > 0xffff {
		panic("packet: IPv6 payload too long")
	}
	next := h.protocol
	if len(h.extensions) > 0 {
		next = h.extensions[0].Protocol
	}
	dst = append(dst, 0x60, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	dst = append(dst, next, h.hopLimit)
	s, d := h.source.As16(), h.destination.As16()
	dst = append(dst, s[:]...)
	dst = append(dst, d[:]...)
	for i := range h.extensions {
		next := h.protocol
		if i+1 < len(h.extensions) {
			next = h.extensions[i+1].Protocol
		}
		body := h.extensions[i].Body
		length := (2 + len(body) + 7) &^ 7
		units := uint8(length/8 - 1)
		if h.extensions[i].Protocol == Fragment {
			units = 0 // reserved in this header, whose length is fixed
		}
		dst = append(dst, next, units)
		dst = append(dst, body...)
		dst = appendZeros(dst, length-2-len(body))
	}
	return dst
}

// checksum returns the checksum of a transport header and its payload, whose own
// checksum field is zero, with the pseudo header of RFC 768 or RFC 8200.
func (h *header) checksum(transport []byte) uint16 {
	sum := uint64(h.protocol) + uint64(len(transport))
	if h.source.Is4() {
		s, d := h.source.As4(), h.destination.As4()
		sum += uint64(binary.BigEndian.Uint32(s[:])) + uint64(binary.BigEndian.Uint32(d[:]))
	} else {
		for _, a := range [2][16]byte{h.source.As16(), h.destination.As16()} {
			for i := 0; i < 16; i += 4 {
				sum += uint64(binary.BigEndian.Uint32(a[i:]))
			}
		}
	}
	return Checksum(sum, transport)
}

func (h *header) pad(dst []byte, start int) []byte {
	if n := len(dst) - start; h.link.Pad && n < MinFrame {
		dst = appendZeros(dst, MinFrame-n)
	}
	return dst
}

func (l *Link) append(dst []byte, to netip.Addr, etherType uint16) []byte {
	destination, source := l.DestinationMAC, l.SourceMAC
	if destination == ([6]byte{}) {
		switch {
		case to.IsMulticast():
			destination = MulticastMAC(to)
		case to == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			destination = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		default:
			destination = [6]byte{0x02, 5: 0x02}
		}
	}
	if source == ([6]byte{}) {
		source = [6]byte{0x02, 5: 0x01}
	}
	dst = append(dst, destination[:]...)
	dst = append(dst, source[:]...)
	for i := range l.Tags {
		t := &l.Tags[i]
		kind := t.Type
		if kind == 0 {
			kind = TypeVLAN
		}
		dst = binary.BigEndian.AppendUint16(dst, kind)
		dst = binary.BigEndian.AppendUint16(dst, uint16(t.Priority)<<13|t.ID&0xfff)
	}
	return binary.BigEndian.AppendUint16(dst, etherType)
}

func appendZeros(dst []byte, n int) []byte {
	for range n {
		dst = append(dst, 0)
	}
	return dst
}
