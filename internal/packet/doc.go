// Package packet builds whole Ethernet frames for the generator and for tests:
// VLAN tags, IPv4 with options, IPv6 with extension headers, UDP and TCP, with
// right lengths and checksums.
//
// [UDP.Append] and [TCP.Append] append one frame to a slice and allocate only if
// the slice has to grow. What they write is correct; a test that wants a broken
// frame breaks it afterwards.
package packet
