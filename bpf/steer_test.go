package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/internal/packet"
)

// feeds of the table tests, one a placement.
func sampleFeeds() []plan.Feed {
	return []plan.Feed{
		{Name: "quotes", Place: plan.Placement{Kind: plan.PlaceBytes, Offset: 2, Length: 8, Trim: true}, Rules: []plan.Rule{
			rule(17, "239.1.1.1/32", 9000, 0, 0), rule(17, "239.1.1.2/32", 9000, 0, 1),
		}},
		{Name: "flows", Place: plan.Placement{Kind: plan.PlaceTuple, Fields: 31, Symmetric: true}, Rules: []plan.Rule{
			rule(17, "10.0.0.0/8", 0, 0, 0), rule(17, "2001:db8::/32", 0, 0, 0), rule(6, "", 8080, 0, 0),
		}},
		{Name: "lines", Place: plan.Placement{Kind: plan.PlaceUntil, Delimiter: ','}, Rules: []plan.Rule{
			rule(17, "10.1.0.0/16", 0, 0, 0), rule(17, "", 514, 0, 0), rule(17, "", 514, 7, 1), rule(17, "", 0, 9, 2),
		}},
		{Name: "channel", Place: plan.Placement{Kind: plan.PlaceChannel, Length: 10}, Rules: []plan.Rule{
			rule(17, "10.1.2.3/32", 26400, 0, 0), rule(17, "2001:db8::1/128", 26400, 0, 0),
		}},
	}
}

func edited(frame []byte, edit func(f []byte)) []byte {
	f := append([]byte(nil), frame...)
	edit(f)
	return f
}

// tableRow is a sentence about the world.
type tableRow struct {
	name    string
	frame   []byte
	verdict steer.Verdict
	feed    int // event.FeedsMax: none
	line    uint8
	payload string
	flags   uint8
}

const none = event.FeedsMax

func steeredRows() []tableRow {
	const ok = steer.Steered
	qinq := []packet.Tag{{Type: packet.TypeQinQ, ID: 9}, {ID: 7, Priority: 5}}
	padded := packet.UDP{Link: packet.Link{Pad: true}, Source: netip.MustParseAddrPort("10.9.9.9:1"), Destination: netip.MustParseAddrPort("239.1.1.1:9000")}
	options := packet.UDP{Options: []byte{1, 1, 1, 1, 148, 4, 0, 0}, Source: netip.MustParseAddrPort("10.9.9.9:1"), Destination: netip.MustParseAddrPort("239.1.1.1:9000")}
	extended := packet.UDP{Source: netip.MustParseAddrPort("[fe80::1]:1"), Destination: netip.MustParseAddrPort("[2001:db8::1]:26400"), Extensions: []packet.Extension{
		{Protocol: packet.HopByHop}, {Protocol: packet.DestinationOptions, Body: make([]byte, 20)}, {Protocol: packet.Routing}, {Protocol: packet.DestinationOptions},
	}}
	return []tableRow{
		{"a multicast packet goes to its feed", udp("10.9.9.9:1", "239.1.1.1:9000", "..MSFT    123"), ok, 0, 0, "..MSFT    123", 0},
		{"the second line is told from the first", udp("10.9.9.9:1", "239.1.1.2:9000", "..MSFT    123"), ok, 0, 1, "..MSFT    123", 0},
		{"Ethernet padding is no payload", padded.Append(nil, []byte("..A")), ok, 0, 0, "..A", steer.FlagNoPlace},
		{"IPv4 options are stepped over", options.Append(nil, []byte("..MSFT    123")), ok, 0, 0, "..MSFT    123", 0},
		{"an empty payload has an empty placement", udp("10.9.9.9:1", "239.1.1.1:9000", ""), ok, 0, 0, "", steer.FlagNoPlace},
		{"a payload that ends before the placement is steered by what is there", udp("10.9.9.9:1", "239.1.1.1:9000", "..MSF"), ok, 0, 0, "..MSF", steer.FlagNoPlace},
		{"a key of spaces and zeros is trimmed to nothing", udp("10.9.9.9:1", "239.1.1.1:9000", "..    \x00\x00\x00\x00x"), ok, 0, 0, "..    \x00\x00\x00\x00x", 0},
		{"a tuple is taken from IPv4", udp("10.0.0.1:5", "10.0.0.2:6", "x"), ok, 1, 0, "x", 0},
		{"a tuple is taken from IPv6", udp("[2001:db8::2]:5", "[2001:db8::3]:6", "x"), ok, 1, 0, "x", 0},
		{"TCP options are no payload", tcp("10.0.0.1:5", "10.0.0.2:8080", "GET"), ok, 1, 0, "GET", 0},
		{"TCP over IPv6 goes to a rule without destination", tcp("[fe80::1]:5", "[fe80::2]:8080", "GET"), ok, 1, 0, "GET", 0},
		{"a delimiter ends the placement", udp("10.0.0.1:5", "10.1.9.9:6", "cpu,host=a v=1"), ok, 2, 0, "cpu,host=a v=1", 0},
		{"a packet without the delimiter is marked", udp("10.0.0.1:5", "10.1.9.9:6", "cpu"), ok, 2, 0, "cpu", steer.FlagNoPlace},
		{"a delimiter beyond 64 bytes is not looked for", udp("10.0.0.1:5", "10.1.9.9:6", strings.Repeat("x", 64)+","), ok, 2, 0, strings.Repeat("x", 64) + ",", 0},
		{"a longer prefix wins over a shorter one", udp("10.0.0.1:5", "10.1.2.3:6", "a,"), ok, 2, 0, "a,", 0},
		{"a longer prefix with a port wins over both", udp("10.0.0.1:5", "10.1.2.3:26400", "session001"), ok, 3, 0, "session001", 0},
		{"a prefix wins over a port", udp("10.0.0.1:5", "10.2.0.1:514", "a,"), ok, 1, 0, "a,", 0},
		{"a port alone matches any destination", udp("10.0.0.1:5", "192.0.2.1:514", "a,"), ok, 2, 0, "a,", 0},
		{"a port alone matches any family", udp("[fe80::1]:5", "[fe80::2]:514", "a,"), ok, 2, 0, "a,", 0},
		{"a port and a VLAN win over a port", udp("10.0.0.1:5", "192.0.2.1:514", "a,", packet.Tag{ID: 7}), ok, 2, 1, "a,", 0},
		{"a port wins over a VLAN", udp("10.0.0.1:5", "192.0.2.1:514", "a,", packet.Tag{ID: 9}), ok, 2, 0, "a,", 0},
		{"a VLAN alone matches any port", udp("10.0.0.1:5", "192.0.2.1:99", "a,", packet.Tag{ID: 9}), ok, 2, 2, "a,", 0},
		{"the innermost tag of two counts", udp("10.0.0.1:5", "192.0.2.1:514", "a,", qinq...), ok, 2, 1, "a,", 0},
		{"four extension headers are stepped over", extended.Append(nil, []byte("session001")), ok, 3, 0, "session001", 0},
	}
}

func passedRows() []tableRow {
	quote := udp("10.9.9.9:1", "239.1.1.1:9000", "..MSFT    123")
	flow := tcp("10.0.0.1:5", "10.0.0.2:8080", "GET")
	v6 := udp("[fe80::1]:5", "[2001:db8::1]:26400", "session001")
	extended := packet.UDP{Source: netip.MustParseAddrPort("[fe80::1]:1"), Destination: netip.MustParseAddrPort("[2001:db8::1]:26400")}
	deep := extended
	deep.Extensions = make([]packet.Extension, 5)
	whole, part := extended, extended
	whole.Extensions = []packet.Extension{{Protocol: packet.Fragment, Body: make([]byte, 6)}}
	part.Extensions = []packet.Extension{{Protocol: packet.Fragment, Body: []byte{0, 8, 0, 0, 0, 1}}}
	overlong := extended
	overlong.Extensions = []packet.Extension{{Protocol: packet.HopByHop}}
	be := binary.BigEndian
	return []tableRow{
		{"ARP passes", packet.Ethernet(nil, &packet.Link{}, packet.TypeARP, make([]byte, 28)), steer.NotIP, none, 0, "", 0},
		{"LLDP passes", packet.Ethernet(nil, &packet.Link{}, 0x88cc, make([]byte, 40)), steer.NotIP, none, 0, "", 0},
		{"ssh passes", tcp("192.0.2.1:40000", "192.0.2.2:22", "SSH-2.0-"), steer.NoMatch, none, 0, "", 0},
		{"BGP passes", tcp("192.0.2.1:40000", "192.0.2.2:179", "x"), steer.NoMatch, none, 0, "", 0},
		{"DNS passes", udp("192.0.2.1:53", "192.0.2.2:40000", "x"), steer.NoMatch, none, 0, "", 0},
		{"ICMP passes", edited(quote, func(f []byte) { f[23] = 1 }), steer.OtherProtocol, none, 0, "", 0},
		{"neighbor discovery passes", edited(v6, func(f []byte) { f[20] = 58 }), steer.OtherProtocol, none, 0, "", 0},
		{"IPsec passes", edited(v6, func(f []byte) { f[20] = 50 }), steer.OtherProtocol, none, 0, "", 0},
		{"three tags are too deep", udp("10.9.9.9:1", "239.1.1.1:9000", "..MSFT    123", packet.Tag{ID: 1}, packet.Tag{ID: 1}, packet.Tag{ID: 1}), steer.TooDeep, none, 0, "", 0},
		{"five extension headers are too deep", deep.Append(nil, []byte("session001")), steer.TooDeep, none, 0, "", 0},
		{"IP version 5 is malformed", edited(quote, func(f []byte) { f[14] = 0x55 }), steer.Malformed, none, 0, "", 0},
		{"an IPv4 header of 16 bytes is malformed", edited(quote, func(f []byte) { f[14] = 0x44 }), steer.Malformed, none, 0, "", 0},
		{"a total length below the header's is malformed", edited(quote, func(f []byte) { be.PutUint16(f[16:], 19) }), steer.Malformed, none, 0, "", 0},
		{"a total length beyond the frame is truncated, and the feed's", edited(quote, func(f []byte) { be.PutUint16(f[16:], uint16(len(f)-14+1)) }), steer.Truncated, 0, 0, "", 0},
		{"an IPv6 payload beyond the frame is truncated, and the feed's", edited(v6, func(f []byte) { be.PutUint16(f[18:], uint16(len(f)-54+1)) }), steer.Truncated, 3, 0, "", 0},
		{"a UDP length beyond the packet is truncated, and the feed's", edited(quote, func(f []byte) { be.PutUint16(f[38:], uint16(len(f)-34+1)) }), steer.Truncated, 0, 0, "", 0},
		{"a UDP length below its header is malformed, and the feed's", edited(quote, func(f []byte) { be.PutUint16(f[38:], 7) }), steer.Malformed, 0, 0, "", 0},
		{"a packet too short for UDP is malformed", edited(quote, func(f []byte) { be.PutUint16(f[16:], 27) }), steer.Malformed, none, 0, "", 0},
		{"a TCP header of 16 bytes is malformed, and the feed's", edited(flow, func(f []byte) { f[46] = 0x40 }), steer.Malformed, 1, 0, "", 0},
		{"a TCP header beyond the packet is malformed, and the feed's", edited(flow, func(f []byte) { f[46] = 0xf0 }), steer.Malformed, 1, 0, "", 0},
		{"a first fragment is the feed's", edited(quote, func(f []byte) { f[20] |= 0x20 }), steer.Fragment, 0, 0, "", 0},
		{"a later fragment has no ports", edited(quote, func(f []byte) { f[21] = 1 }), steer.Fragment, none, 0, "", 0},
		{"the last fragment is one", edited(quote, func(f []byte) { f[20], f[21] = 0, 185 }), steer.Fragment, none, 0, "", 0},
		{"an IPv6 first fragment is the feed's", whole.Append(nil, []byte("session001")), steer.Fragment, 3, 0, "", 0},
		{"an IPv6 later fragment has no ports", part.Append(nil, []byte("session001")), steer.Fragment, none, 0, "", 0},
		{"an extension header beyond the packet is malformed", edited(overlong.Append(nil, nil), func(f []byte) { f[55] = 9 }), steer.Malformed, none, 0, "", 0},
	}
}

// Each frame has the verdict, feed and payload of the table, is counted once, and
// the twin agrees on every byte of the metadata.
func TestFrames(t *testing.T) {
	b := newBench(t, 4, false)
	b.setFeeds(sampleFeeds())
	for _, row := range append(steeredRows(), passedRows()...) {
		for queue := range 3 {
			verdict, m := b.steer(row.frame, queue)
			if verdict != row.verdict || int(m.Feed) != row.feed {
				t.Fatalf("%s: %v of feed %d, want %v of feed %d", row.name, verdict, m.Feed, row.verdict, row.feed)
			}
			if verdict != steer.Steered {
				continue
			}
			if got := string(row.frame[m.PayloadOffset:][:m.PayloadLength]); got != row.payload || m.Flags != row.flags || m.Line != row.line {
				t.Fatalf("%s: payload %q, flags %d, line %d, want %q, %d, %d", row.name, got, m.Flags, m.Line, row.payload, row.flags, row.line)
			}
		}
	}
	b.balance()
}

// A frame cut short at any length is passed, counted once, and never misread.
func TestEveryTruncationOfEveryFrame(t *testing.T) {
	b := newBench(t, 4, false)
	b.setFeeds(sampleFeeds())
	for _, row := range append(steeredRows(), passedRows()...) {
		for n := 14; n < len(row.frame); n++ { // the kernel tests no frame without an Ethernet header
			verdict, m := b.steer(row.frame[:n], 1)
			if verdict == steer.Steered && !strings.Contains(row.name, "padding") {
				t.Fatalf("%s: steered with %d of %d bytes, metadata %+v", row.name, n, len(row.frame), m)
			}
		}
	}
	b.balance()
}

// Kernel and twin agree on everything, for random rules and placements and for
// frames of which many are corrupt.
func TestKernelAndTwinAgree(t *testing.T) {
	b := newBench(t, 7, false)
	rapid.Check(t, func(t *rapid.T) {
		b.setFeeds(randomFeeds(t))
		for range 40 {
			b.steer(randomFrame(t), rapid.IntRange(0, 7).Draw(t, "queue"))
		}
	})
	b.balance()
}

var (
	somePrefixes  = []string{"", "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "10.1.2.2/31", "::/0", "2001:db8::/32", "2001:db8::1/128", "2001:db8::8000:0:0:0/65"}
	someAddresses = []string{"10.0.0.1", "10.1.0.1", "10.1.2.3", "10.1.2.2", "192.0.2.1", "239.1.1.1"}
	moreAddresses = []string{"2001:db8::1", "2001:db8::2", "2001:db8::8000:0:0:1", "fe80::1"}
)

func randomFeeds(t *rapid.T) []plan.Feed {
	feeds := make([]plan.Feed, rapid.IntRange(1, 6).Draw(t, "feeds"))
	seen := map[plan.Rule]bool{}
	for i := range feeds {
		feeds[i] = plan.Feed{Name: strconv.Itoa(i), Place: randomPlacement(t)}
		for range rapid.IntRange(0, 4).Draw(t, "rules") {
			r := rule(rapid.SampledFrom([]uint8{17, 6}).Draw(t, "protocol"), rapid.SampledFrom(somePrefixes).Draw(t, "prefix"),
				rapid.Uint16Range(0, 2).Draw(t, "port"), rapid.Uint16Range(0, 2).Draw(t, "vlan"), 0)
			if !seen[r] {
				seen[r] = true
				r.Line = uint8(rapid.IntRange(0, 3).Draw(t, "line"))
				feeds[i].Rules = append(feeds[i].Rules, r)
			}
		}
	}
	return feeds
}

func randomPlacement(t *rapid.T) plan.Placement {
	p := plan.Placement{Kind: plan.PlaceKind(rapid.IntRange(1, 4).Draw(t, "place")), Offset: rapid.Uint16Range(0, 80).Draw(t, "offset")}
	switch p.Kind {
	case plan.PlaceTuple:
		p.Fields = uint8(rapid.IntRange(1, 31).Draw(t, "fields"))
		p.Symmetric = rapid.Bool().Draw(t, "symmetric")
	case plan.PlaceUntil:
		p.Delimiter = rapid.SampledFrom([]byte{',', 0, 0xff}).Draw(t, "delimiter")
	case plan.PlaceBytes, plan.PlaceChannel:
		p.Length = uint8(rapid.IntRange(1, 64).Draw(t, "length"))
		p.Trim = rapid.Bool().Draw(t, "trim")
	}
	return p
}

func randomFrame(t *rapid.T) []byte {
	link := packet.Link{Pad: rapid.Bool().Draw(t, "pad")}
	for range rapid.IntRange(0, 3).Draw(t, "tags") {
		link.Tags = append(link.Tags, packet.Tag{Type: rapid.SampledFrom([]uint16{packet.TypeVLAN, packet.TypeQinQ}).Draw(t, "type"), ID: rapid.Uint16Range(0, 3).Draw(t, "vlan")})
	}
	addresses := someAddresses
	if rapid.Bool().Draw(t, "v6") {
		addresses = moreAddresses
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		ends[i] = netip.AddrPortFrom(netip.MustParseAddr(rapid.SampledFrom(addresses).Draw(t, "address")), rapid.Uint16Range(0, 3).Draw(t, "port"))
	}
	var extensions []packet.Extension
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 2, 4, 5}).Draw(t, "extensions") {
		e := packet.Extension{Protocol: rapid.SampledFrom([]uint8{packet.HopByHop, packet.Routing, packet.Fragment, packet.DestinationOptions}).Draw(t, "extension")}
		if e.Protocol == packet.Fragment {
			e.Body = []byte{0, 5: 0}
		} else {
			e.Body = make([]byte, rapid.IntRange(0, 30).Draw(t, "body"))
		}
		extensions = append(extensions, e)
	}
	options := make([]byte, rapid.SampledFrom([]int{0, 0, 0, 4, 40}).Draw(t, "options"))
	payload := rapid.SliceOfN(rapid.SampledFrom([]byte(" \x00,aZ\xff\x20\x2c\xdf")), 0, 150).Draw(t, "payload")
	var frame []byte
	if rapid.Bool().Draw(t, "tcp") {
		s := packet.TCP{Link: link, Source: ends[0], Destination: ends[1], Options: options, Extensions: extensions, TCPOptions: make([]byte, rapid.SampledFrom([]int{0, 12, 40}).Draw(t, "tcp options"))}
		frame = s.Append(nil, payload)
	} else {
		u := packet.UDP{Link: link, Source: ends[0], Destination: ends[1], Options: options, Extensions: extensions}
		frame = u.Append(nil, payload)
	}
	return corrupted(t, frame)
}

// corrupted changes some bytes of the headers, or the length, of about half the frames.
func corrupted(t *rapid.T, frame []byte) []byte {
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 2, 5}).Draw(t, "changes") {
		at := rapid.IntRange(12, min(len(frame), 110)-1).Draw(t, "at")
		frame[at] = rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte{0, 1, 8, 20, 44, 60, 0x45, 0x60, 0xff})).Draw(t, "byte")
	}
	switch rapid.IntRange(0, 5).Draw(t, "resize") {
	case 0:
		frame = frame[:rapid.IntRange(14, len(frame)).Draw(t, "cut")]
	case 1:
		frame = append(frame, make([]byte, rapid.IntRange(1, 50).Draw(t, "trailer"))...)
	}
	return frame
}

// published are values of XXH64 with seed 0 that others computed: of the xxHash
// specification's users, in lengths that take every way through the algorithm.
var published = map[string]uint64{
	"":     0xef46db3751d8e999,
	"a":    0xd24ec4f1a98c6e5b,
	"as":   0x1c330fb2d66be179,
	"asd":  0x631c37ce72a97393,
	"asdf": 0x415872f599cea71e,
	"abc":  0x44bc2cf5ad770999,
	"Call me Ishmael. Some years ago--never mind how long precisely-": 0x02a2e85470d6fd96,
	"Nobody inspects the spammish repetition":                         0xfbcea83c8a378bf1,
}

// The program's hash is XXH64: of the published vectors, and of every length from 0
// to 64 by another implementation.
func TestHashIsXXH64(t *testing.T) {
	b := newBench(t, 1, false)
	feed := sampleFeeds()[:1]
	hashOf := func(s string) uint64 {
		feed[0].Place = plan.Placement{Kind: plan.PlaceUntil, Delimiter: '\n'}
		if b.twin == nil {
			b.setFeeds(feed)
		}
		verdict, m := b.steer(udp("10.9.9.9:1", "239.1.1.1:9000", s+"\n"), 0)
		if verdict != steer.Steered {
			t.Fatalf("%q: %v", s, verdict)
		}
		return m.Hash
	}
	for s, want := range published {
		if got := hashOf(s); got != want {
			t.Errorf("hash of %q = %#x, want %#x", s, got, want)
		}
	}
	text := strings.Repeat("headrace brings packets to the wheel; ", 2)
	for n := range 65 {
		if got, want := hashOf(text[:n]), event.HashKey([]byte(text[:n])); got != want {
			t.Errorf("hash of %d bytes = %#x, want %#x", n, got, want)
		}
	}
}

// Both directions of a conversation have one hash, and only a symmetric placement
// gives them one.
func TestSymmetricPlacementIgnoresDirection(t *testing.T) {
	b := newBench(t, 4, false)
	for _, symmetric := range []bool{true, false} {
		for _, fields := range []uint8{31, plan.FieldSource | plan.FieldDestination, plan.FieldSource | plan.FieldSourcePort} {
			feeds := []plan.Feed{{Name: "f", Rules: []plan.Rule{rule(17, "", 0, 0, 0)}, Place: plan.Placement{Kind: plan.PlaceTuple, Fields: fields, Symmetric: symmetric}}}
			b.setFeeds(feeds)
			for _, ends := range [][2]string{{"10.0.0.1:5", "10.0.0.2:4"}, {"[fe80::1]:1", "[fe80::1:0:0:0]:1"}} {
				_, there := b.steer(udp(ends[0], ends[1], "x"), 0)
				_, back := b.steer(udp(ends[1], ends[0], "x"), 0)
				if (there.Hash == back.Hash) != symmetric {
					t.Errorf("fields %d of %v: hashes %#x and %#x, symmetric %v", fields, ends, there.Hash, back.Hash, symmetric)
				}
			}
		}
	}
}

// A feed's frame for which there is no socket is passed as it came and counted so.
func TestWithoutASocketFramesArePassed(t *testing.T) {
	b := newBench(t, 2, false)
	b.setFeeds(sampleFeeds())
	frame := udp("10.9.9.9:1", "239.1.1.1:9000", "..MSFT    123")
	action, meta, out := b.run(frame, 2)
	if action != xdpPass || len(meta) != 0 || string(out) != string(frame) {
		t.Errorf("action %d, metadata %x, frame %x, want it passed untouched", action, meta, out)
	}
	if got := b.counts(0).Frames; got[steer.NoSocket] != 1 || got[steer.Steered] != 0 {
		t.Errorf("counters %v, want one frame without socket", got)
	}
	b.balance()
}

// The owner of a key group can be changed at any time; the socket of exactly that
// worker gets the next frame.
func TestOwnerDecidesTheSocket(t *testing.T) {
	b := newBench(t, 1, false)
	b.setFeeds(sampleFeeds())
	frame := udp("10.9.9.9:1", "239.1.1.1:9000", "..MSFT    123")
	var m steer.Meta
	b.twin.Steer(frame, len(frame), false, 0, &m)
	for _, worker := range []int{0, 63, 5} {
		if err := b.tables.SetOwner(int(m.Group), worker); err != nil {
			t.Fatal(err)
		}
		for queue := range 8 {
			if err := b.instance.SetSocket(queue, worker, b.socket); err != nil {
				t.Fatal(err)
			}
			if action, _, _ := b.run(frame, queue); action != xdpRedirect {
				t.Errorf("worker %d, queue %d: action %d, want a redirect", worker, queue, action)
			}
			if err := b.instance.ClearSockets(); err != nil {
				t.Fatal(err)
			}
			if action, _, _ := b.run(frame, queue); action != xdpPass {
				t.Errorf("worker %d, queue %d without sockets: action %d, want it passed", worker, queue, action)
			}
		}
	}
	owners, err := b.tables.Owners()
	if err != nil || owners[m.Group] != 5 {
		t.Errorf("owner of group %d is %d, %v, want 5", m.Group, owners[m.Group], err)
	}
}

// In aligned mode the queue's worker gets every frame, whatever its key group.
func TestAlignedModeGoesByQueue(t *testing.T) {
	b := newBench(t, 64, true)
	b.setFeeds(sampleFeeds())
	for queue := range 8 {
		if err := b.instance.SetSocket(queue, 40+queue, b.socket); err != nil {
			t.Fatal(err)
		}
		for n := range 20 {
			if action, _, _ := b.run(udp("10.9.9.9:1", "239.1.1.1:9000", fmt.Sprintf("..%8d", n)), queue); action != xdpRedirect {
				t.Errorf("queue %d, key %d: action %d, want a redirect", queue, n, action)
			}
		}
	}
}

// A driver's own metadata makes way: ours lies directly before the frame.
func TestMetadataOfADriverMakesWay(t *testing.T) {
	b := newBench(t, 1, false)
	b.setFeeds(sampleFeeds())
	frame := udp("10.9.9.9:1", "239.1.1.1:9000", "..MSFT    123")
	if err := b.instance.SetSocket(0, 0, b.socket); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{4, 32, 64} {
		in := append(make([]byte, n), frame...)
		var after context
		o := ebpf.RunOptions{Data: in, DataOut: make([]byte, 512), Repeat: 1, ContextOut: &after, Context: &context{Data: uint32(n), DataEnd: uint32(len(in))}}
		action, err := b.instance.program.Run(&o)
		if err != nil || action != xdpRedirect || after.Data != steer.MetaSize {
			t.Fatalf("after %d bytes of metadata: action %d, %d bytes, %v", n, action, after.Data, err)
		}
		var m steer.Meta
		_, _ = binary.Decode(o.DataOut, binary.LittleEndian, &m)
		if m.Version != steer.MetaVersion || m.Hash != event.HashKey([]byte("MSFT")) {
			t.Errorf("after %d bytes of metadata: %+v", n, m)
		}
	}
}

// A driver that leaves no room for metadata keeps its frames: they are passed and
// counted so. Such a driver is played by a program whose call for room fails.
func TestWithoutRoomForMetadataFramesArePassed(t *testing.T) {
	b := newBench(t, 1, false)
	b.setFeeds(sampleFeeds())
	if err := b.instance.SetSocket(0, 0, b.socket); err != nil {
		t.Fatal(err)
	}
	changed := 0
	b.tables.spec = b.tables.spec.Copy()
	instructions := b.tables.spec.Programs[steerProgSteer].Instructions
	for i := range instructions {
		if instructions[i].IsBuiltinCall() && instructions[i].Constant == int64(asm.FnXdpAdjustMeta) {
			instructions[i] = asm.Mov.Imm(asm.R0, -int32(unix.EOPNOTSUPP)).WithMetadata(instructions[i].Metadata)
			changed++
		}
	}
	if changed == 0 {
		t.Fatal("the program makes no room for metadata")
	}
	if err := b.instance.Update(); err != nil {
		t.Fatal(err)
	}
	frame := udp("10.9.9.9:1", "239.1.1.1:9000", "..MSFT    123")
	if action, meta, out := b.run(frame, 0); action != xdpPass || len(meta) != 0 || string(out) != string(frame) {
		t.Errorf("action %d, metadata %x, frame %x, want it passed untouched", action, meta, out)
	}
	if got := b.counts(0).Frames; got[steer.NoMetadata] != 1 {
		t.Errorf("counters %v, want one frame without metadata", got)
	}
	b.balance()
}

// What C and Go both say is the same.
func TestABI(t *testing.T) {
	if n := int(steerHrVerdictHR_VERDICTS); n != steer.VerdictCount {
		t.Errorf("C has %d verdicts, Go %d", n, steer.VerdictCount)
	}
	for c, v := range map[steerHrVerdict]steer.Verdict{
		steerHrVerdictHR_STEERED: steer.Steered, steerHrVerdictHR_NO_SOCKET: steer.NoSocket, steerHrVerdictHR_NO_METADATA: steer.NoMetadata,
		steerHrVerdictHR_NO_MATCH: steer.NoMatch, steerHrVerdictHR_NOT_IP: steer.NotIP, steerHrVerdictHR_OTHER_PROTOCOL: steer.OtherProtocol,
		steerHrVerdictHR_SHORT: steer.Short, steerHrVerdictHR_MALFORMED: steer.Malformed, steerHrVerdictHR_TRUNCATED: steer.Truncated,
		steerHrVerdictHR_FRAGMENT: steer.Fragment, steerHrVerdictHR_TOO_DEEP: steer.TooDeep,
	} {
		if int(c) != int(v) {
			t.Errorf("verdict %v is %d in C and %d in Go", v, c, v)
		}
	}
	for c, k := range map[steerHrPlace]plan.PlaceKind{
		steerHrPlaceHR_PLACE_BYTES: plan.PlaceBytes, steerHrPlaceHR_PLACE_TUPLE: plan.PlaceTuple,
		steerHrPlaceHR_PLACE_UNTIL: plan.PlaceUntil, steerHrPlaceHR_PLACE_CHANNEL: plan.PlaceChannel,
	} {
		if int(c) != int(k) {
			t.Errorf("placement %d in C is %d in Go", c, k)
		}
	}
	c, g := reflect.TypeFor[steerHrMeta](), reflect.TypeFor[steer.Meta]()
	if c.Size() != steer.MetaSize || g.Size() != steer.MetaSize {
		t.Errorf("metadata has %d bytes in C, %d in Go, want %d", c.Size(), g.Size(), steer.MetaSize)
	}
	for i := range g.NumField() {
		cf, gf := c.Field(i+1), g.Field(i) // the first of C's is the layout mark
		if cf.Name != gf.Name || cf.Offset != gf.Offset || cf.Type != gf.Type {
			t.Errorf("metadata field %d is %s %v at %d in C, %s %v at %d in Go", i, cf.Name, cf.Type, cf.Offset, gf.Name, gf.Type, gf.Offset)
		}
	}
}

// The numbers of abi.h that have no C type are those of Go.
func TestConstantsOfTheHeader(t *testing.T) {
	header, err := os.ReadFile("abi.h")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"HR_META_VERSION": steer.MetaVersion, "HR_TABLES_VERSION": tablesVersion, "HR_GROUPS": event.GroupCount,
		"HR_WORKERS": event.WorkersMax, "HR_QUEUES": QueuesMax, "HR_FEEDS": event.FeedsMax, "HR_RULES": steer.RulesMax,
		"HR_SHAPES": steer.ShapesMax, "HR_CLASSES": steer.ClassCount, "HR_PLACE_MAX": steer.PlaceMax,
		"HR_FLAG_NIC_TIME": steer.FlagNICTime, "HR_FLAG_TRUNCATED": steer.FlagTruncated, "HR_FLAG_NO_PLACE": steer.FlagNoPlace,
		"HR_FIELD_SOURCE": plan.FieldSource, "HR_FIELD_DESTINATION": plan.FieldDestination, "HR_FIELD_SOURCE_PORT": plan.FieldSourcePort,
		"HR_FIELD_DESTINATION_PORT": plan.FieldDestinationPort, "HR_FIELD_PROTOCOL": plan.FieldProtocol,
		"HR_SHAPE_PORT": steer.GivenPort, "HR_SHAPE_VLAN": steer.GivenVLAN, "HR_ANY_DESTINATION": steer.AnyDestination,
	} {
		m := regexp.MustCompile(`(?m)^#define ` + name + `\s+(\d+)`).FindSubmatch(header)
		if m == nil || string(m[1]) != strconv.Itoa(want) {
			t.Errorf("abi.h: %s is %s, want %d", name, m, want)
		}
	}
}

// The committed object and Go file are what clang 14 makes of the sources.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	version, err := exec.Command("clang", "--version").Output()
	if err != nil || !strings.Contains(string(version), "version 14.") {
		t.Skip("missing clang 14")
	}
	dir := t.TempDir()
	line := regexp.MustCompile(`(?m)^//go:generate go (.*)$`)
	source, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	arguments := strings.Fields(strings.Replace(string(line.FindSubmatch(source)[1]), " -tags", " -output-dir "+dir+" -tags", 1))
	command := exec.Command("go", arguments...)
	command.Env = append(os.Environ(), "GOPACKAGE=bpf")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", arguments, err, out)
	}
	for _, name := range []string{"steer_bpfel.go", "steer_bpfel.o"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != string(want) {
			t.Errorf("%s is not what the sources make, run `go generate ./bpf` (%v)", name, err)
		}
	}
}

// The verifier's work stays within ten percent of what was accepted on this kernel,
// or within twice the most on any other.
func TestVerifierBudget(t *testing.T) {
	needCapabilities(t)
	spec, err := loadSteer()
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.Close()
	m := regexp.MustCompile(`processed (\d+) insns`).FindStringSubmatch(loaded.Programs[steerProgSteer].VerifierLog)
	if m == nil {
		t.Fatalf("no count in %q", loaded.Programs[steerProgSteer].VerifierLog)
	}
	got, _ := strconv.Atoi(m[1])
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	kernel := regexp.MustCompile(`^\d+\.\d+`).FindString(unix.ByteSliceToString(name.Release[:]))

	const golden = "testdata/verifier_insns.txt"
	text, err := os.ReadFile(golden)
	if err != nil && !*update {
		t.Fatal(err)
	}
	limit, most := 0, 0
	var keep []string
	for line := range strings.Lines(string(text)) {
		var version string
		var n int
		if _, err := fmt.Sscan(line, &version, &n); err != nil {
			t.Fatalf("%s: %q: %v", golden, line, err)
		}
		most = max(most, n)
		if version == kernel {
			limit = n + n/10
		} else {
			keep = append(keep, line)
		}
	}
	if *update {
		keep = append(keep, fmt.Sprintf("%s %d\n", kernel, got))
		if err := os.WriteFile(golden, []byte(strings.Join(keep, "")), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if limit == 0 {
		limit = 2 * most
	}
	if got > limit {
		t.Errorf("the verifier looks at %d instructions on kernel %s, the limit is %d: make it less, or accept it with -update", got, kernel, limit)
	}
}

// BenchmarkSteer measures the program as the kernel does: with the metadata written
// and a socket found, without delivery.
func BenchmarkSteer(b *testing.B) {
	for _, p := range []struct {
		name  string
		place plan.Placement
		frame []byte
	}{
		{"bytes8", plan.Placement{Kind: plan.PlaceBytes, Length: 8, Trim: true}, udp("10.9.9.9:1", "239.1.1.1:9000", "MSFT    and then the rest of a quote")},
		{"bytes64", plan.Placement{Kind: plan.PlaceBytes, Length: 64}, udp("10.9.9.9:1", "239.1.1.1:9000", strings.Repeat("x", 100))},
		{"tuple", plan.Placement{Kind: plan.PlaceTuple, Fields: 31, Symmetric: true}, udp("10.9.9.9:1", "239.1.1.1:9000", "x")},
		{"until", plan.Placement{Kind: plan.PlaceUntil, Delimiter: ','}, udp("10.9.9.9:1", "239.1.1.1:9000", "cpu,host=a value=1 1465839830100400200, and more than 64 bytes of it")},
		{"channel", plan.Placement{Kind: plan.PlaceChannel, Length: 10}, udp("10.9.9.9:1", "239.1.1.1:9000", "session001 and the rest")},
		{"none", plan.Placement{Kind: plan.PlaceChannel, Length: 10}, tcp("10.0.0.1:1", "10.0.0.2:22", "ssh passes")},
	} {
		b.Run("placement="+p.name, func(b *testing.B) {
			k := newBench(b, 4, false)
			k.setFeeds([]plan.Feed{{Name: "f", Place: p.place, Rules: []plan.Rule{rule(17, "239.1.1.1/32", 9000, 0, 0)}}})
			for worker := range 4 {
				if err := k.instance.SetSocket(0, worker, k.socket); err != nil {
					b.Fatal(err)
				}
			}
			_, each, err := k.instance.program.Benchmark(p.frame, max(b.N, 1000), b.ResetTimer)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(0, "ns/op") // what Go sees is mostly the call
			b.ReportMetric(float64(each.Nanoseconds()), "ns/frame")
		})
	}
}
