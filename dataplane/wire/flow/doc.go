// Package flow makes each packet itself an event: addresses, ports, protocol, sizes
// and TCP flags. Its time is that of receipt.
//
// It reads Ethernet with VLAN tags, IPv4 and IPv6 with its extension headers, UDP and
// TCP, from the whole frame ([wire.Packet.Frame]). What a packet does not have is null:
// ports of a protocol without ports, flags without TCP, a VLAN id without tag. A frame
// whose headers are cut off or contradict themselves is a bad message.
//
// Source: IEEE 802.1Q, RFC 791, RFC 8200, RFC 768, RFC 9293.
package flow
