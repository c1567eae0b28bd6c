package steer_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/internal/packet"
	"github.com/headrace/headrace/internal/testdata"
)

func newSteerer(tb testing.TB, feeds ...plan.Feed) *steer.Steerer {
	tb.Helper()
	s, err := steer.New(feeds)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func udp(from, to, payload string, tags ...packet.Tag) []byte {
	u := packet.UDP{Link: packet.Link{Tags: tags}, Source: netip.MustParseAddrPort(from), Destination: netip.MustParseAddrPort(to)}
	return u.Append(nil, []byte(payload))
}

var anyUDP = []plan.Rule{{Protocol: 17}}

// The placement bytes of each kind, as written down in bpf/abi.h.
func TestPlacementBytes(t *testing.T) {
	v4 := steer.Tuple{Source: []byte{10, 0, 0, 2}, Destination: []byte{10, 0, 0, 1}, SourcePort: 0x1234, DestinationPort: 0x0506, Protocol: 17}
	v6 := steer.Tuple{Source: bytes.Repeat([]byte{0xaa}, 16), Destination: bytes.Repeat([]byte{0xbb}, 16), SourcePort: 1, DestinationPort: 2, Protocol: 6}
	equal := steer.Tuple{Source: []byte{1, 1, 1, 1}, Destination: []byte{1, 1, 1, 1}, SourcePort: 9, DestinationPort: 8, Protocol: 17}
	long := strings.Repeat("0123456789", 8)
	for _, c := range []struct {
		name    string
		place   plan.Placement
		payload string
		tuple   *steer.Tuple
		want    string
		whole   bool
	}{
		{"bytes are cut out", plan.Placement{Kind: plan.PlaceBytes, Offset: 2, Length: 4}, "ab  cd  ef", nil, "  cd", true},
		{"trim takes spaces and zeros off the end only", plan.Placement{Kind: plan.PlaceBytes, Length: 8, Trim: true}, " \x00A B\x00 \x00x", nil, " \x00A B", true},
		{"without trim padding stays", plan.Placement{Kind: plan.PlaceBytes, Length: 4}, "A  \x00", nil, "A  \x00", true},
		{"bytes that reach beyond the payload are what is there", plan.Placement{Kind: plan.PlaceBytes, Offset: 3, Length: 4}, "abcdef", nil, "def", false},
		{"bytes beyond the payload are none", plan.Placement{Kind: plan.PlaceBytes, Offset: 9, Length: 4}, "abcdef", nil, "", false},
		{"a channel is bytes", plan.Placement{Kind: plan.PlaceChannel, Length: 3}, "abcdef", nil, "abc", true},
		{"until ends before the delimiter", plan.Placement{Kind: plan.PlaceUntil, Offset: 1, Delimiter: ','}, ",ab,cd", nil, "ab", true},
		{"until may find it at once", plan.Placement{Kind: plan.PlaceUntil, Delimiter: ','}, ",ab", nil, "", true},
		{"until without the delimiter is what is there", plan.Placement{Kind: plan.PlaceUntil, Delimiter: ','}, "abc", nil, "abc", false},
		{"until looks at 64 bytes", plan.Placement{Kind: plan.PlaceUntil, Delimiter: ','}, long + ",", nil, long[:64], true},
		{"a tuple's fields are in order", plan.Placement{Kind: plan.PlaceTuple, Fields: 31}, "", &v4, "\x0a\x00\x00\x02\x0a\x00\x00\x01\x12\x34\x05\x06\x11", true},
		{"symmetric puts the lesser end first", plan.Placement{Kind: plan.PlaceTuple, Fields: 31, Symmetric: true}, "", &v4, "\x0a\x00\x00\x01\x0a\x00\x00\x02\x05\x06\x12\x34\x11", true},
		{"symmetric compares ports between equal addresses", plan.Placement{Kind: plan.PlaceTuple, Fields: plan.FieldSource | plan.FieldSourcePort, Symmetric: true}, "", &equal, "\x01\x01\x01\x01\x00\x08", true},
		{"a tuple of IPv6 has 16-byte addresses", plan.Placement{Kind: plan.PlaceTuple, Fields: 31, Symmetric: true}, "", &v6, string(v6.Source) + string(v6.Destination) + "\x00\x01\x00\x02\x06", true},
		{"fields are chosen", plan.Placement{Kind: plan.PlaceTuple, Fields: plan.FieldDestination | plan.FieldProtocol}, "", &v4, "\x0a\x00\x00\x01\x11", true},
	} {
		var buf [steer.PlaceMax]byte
		got, whole := steer.Place(&c.place, []byte(c.payload), c.tuple, &buf)
		if string(got) != c.want || whole != c.whole {
			t.Errorf("%s: %q, %v, want %q, %v", c.name, got, whole, c.want, c.whole)
		}
	}
}

// The most specific rule wins: a plain search through all rules finds the same.
func TestMostSpecificRuleWins(t *testing.T) {
	prefixes := []string{"", "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/23", "10.1.2.3/32", "::/0", "2001:db8::/32", "2001:db8::/127", "2001:db8::1/128"}
	addresses := []string{"10.0.0.1", "10.1.0.1", "10.1.3.1", "10.1.2.3", "192.0.2.1", "2001:db8::1", "2001:db8::", "fe80::1"}
	rapid.Check(t, func(t *rapid.T) {
		var feeds []plan.Feed
		seen := map[plan.Rule]bool{}
		for i := range rapid.IntRange(1, 20).Draw(t, "rules") {
			r := plan.Rule{Protocol: rapid.SampledFrom([]uint8{6, 17}).Draw(t, "protocol"), Port: rapid.Uint16Range(0, 2).Draw(t, "port"), VLAN: rapid.Uint16Range(0, 2).Draw(t, "vlan")}
			if p := rapid.SampledFrom(prefixes).Draw(t, "prefix"); p != "" {
				r.Destination = netip.MustParsePrefix(p)
			}
			f := plan.Feed{Name: fmt.Sprint(i), Place: plan.Placement{Kind: plan.PlaceTuple, Fields: 1}}
			if !seen[r] {
				f.Rules = []plan.Rule{r}
			}
			seen[r] = true
			feeds = append(feeds, f)
		}
		s, err := steer.New(feeds)
		if err != nil {
			t.Fatal(err)
		}
		to := netip.AddrPortFrom(netip.MustParseAddr(rapid.SampledFrom(addresses).Draw(t, "address")), rapid.Uint16Range(0, 3).Draw(t, "port"))
		from := netip.MustParseAddrPort("10.0.0.1:1")
		if to.Addr().Is6() {
			from = netip.MustParseAddrPort("[fe80::1]:1")
		}
		var link packet.Link
		vlan := rapid.Uint16Range(0, 3).Draw(t, "vlan")
		if vlan != 0 {
			link.Tags = []packet.Tag{{Type: packet.TypeQinQ, ID: 1}, {ID: vlan}}
		}
		frame := (&packet.UDP{Link: link, Source: from, Destination: to}).Append(nil, nil)
		protocol := uint8(17)
		if rapid.Bool().Draw(t, "tcp") {
			protocol = 6
			frame = (&packet.TCP{Link: link, Source: from, Destination: to}).Append(nil, nil)
		}
		want := slowMatch(feeds, protocol, to, vlan)
		var m steer.Meta
		verdict := s.Steer(frame, len(frame), false, 0, &m)
		if int(m.Feed) != want || (verdict == steer.Steered) != (want != steer.NoFeed) {
			t.Fatalf("%v of feed %d, want feed %d", verdict, m.Feed, want)
		}
	})
}

// slowMatch says which feed a packet is, as the config's reader would.
func slowMatch(feeds []plan.Feed, protocol uint8, to netip.AddrPort, vlan uint16) int {
	best, feed := [3]int{-2}, steer.NoFeed
	for i, f := range feeds {
		for _, r := range f.Rules {
			if r.Protocol != protocol || r.Port != 0 && r.Port != to.Port() || r.VLAN != 0 && r.VLAN != vlan || r.Destination.IsValid() && !r.Destination.Contains(to.Addr()) {
				continue
			}
			rank := [3]int{-1}
			if r.Destination.IsValid() {
				rank[0] = r.Destination.Bits()
			}
			if r.Port != 0 {
				rank[1] = 1
			}
			if r.VLAN != 0 {
				rank[2] = 1
			}
			if rank[0] > best[0] || rank[0] == best[0] && (rank[1] > best[1] || rank[1] == best[1] && rank[2] > best[2]) {
				best, feed = rank, i
			}
		}
	}
	return feed
}

// A frame that the capture cut short is steered by what is there, wherever it was
// cut behind its headers; one that was already short on the wire is not.
func TestCutCaptures(t *testing.T) {
	s := newSteerer(t, plan.Feed{Name: "f", Rules: anyUDP, Place: plan.Placement{Kind: plan.PlaceBytes, Offset: 2, Length: 8}})
	whole := udp("10.0.0.1:1", "10.0.0.2:2", "..12345678 and the rest")
	const headers = 42
	for n := range len(whole) + 1 {
		var live, cut, wire steer.Meta
		frame := whole[:n]
		liveVerdict := s.Steer(frame, len(frame), false, 7, &live)
		wireVerdict := s.Steer(frame, len(frame), true, 7, &wire)
		cutVerdict := s.Steer(frame, len(whole), true, 7, &cut)
		if liveVerdict != wireVerdict || live != wire {
			t.Fatalf("%d bytes: %v %+v and %v %+v, want the same of what the wire cut", n, liveVerdict, live, wireVerdict, wire)
		}
		switch {
		case n < 14+20:
			if cutVerdict != steer.Short || liveVerdict != steer.Short {
				t.Errorf("%d bytes: %v and %v, want short", n, cutVerdict, liveVerdict)
			}
		case n < headers:
			if cutVerdict != steer.Truncated || liveVerdict != steer.Truncated {
				t.Errorf("%d bytes: %v and %v, want truncated", n, cutVerdict, liveVerdict)
			}
		case n < len(whole):
			flags := uint8(steer.FlagTruncated)
			if n < headers+10 {
				flags |= steer.FlagNoPlace
			}
			if liveVerdict != steer.Truncated || cutVerdict != steer.Steered || cut.Flags != flags || int(cut.PayloadLength) != n-headers || cut.ReceiveNanos != 7 {
				t.Errorf("%d bytes: %v, %v, %+v, want it steered with %d bytes and flags %d", n, liveVerdict, cutVerdict, cut, n-headers, flags)
			}
			if want := event.HashKey(frame[min(n, headers+2):min(n, headers+10)]); cut.Hash != want {
				t.Errorf("%d bytes: hash %#x, want %#x", n, cut.Hash, want)
			}
		default:
			if liveVerdict != steer.Steered || cut != live || live.Flags != 0 {
				t.Errorf("whole: %v, %+v and %+v", liveVerdict, live, cut)
			}
		}
	}
}

// A packet whose own header says more than was on the wire stays truncated, however
// little of it the capture holds.
func TestCutCaptureDoesNotExcuseALie(t *testing.T) {
	s := newSteerer(t, plan.Feed{Name: "f", Rules: anyUDP, Place: plan.Placement{Kind: plan.PlaceBytes, Length: 8}})
	frame := udp("10.0.0.1:1", "10.0.0.2:2", "0123456789")
	var m steer.Meta
	for _, at := range []int{16, 38} { // the IP and the UDP length
		lie := bytes.Clone(frame)
		binary.BigEndian.PutUint16(lie[at:], 500)
		if v := s.Steer(lie[:48], len(lie), true, 0, &m); v != steer.Truncated || m.Feed != 0 {
			t.Errorf("length at byte %d: %v of feed %d, want truncated of feed 0", at, v, m.Feed)
		}
	}
}

// Every packet of a real capture is steered with the payload that another library
// finds, the one that the capture's end cuts off too.
func TestRealCapture(t *testing.T) {
	file, err := os.Open(testdata.Path(t, "iex", "DEEP10.pcap.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	records, err := pcapgo.NewReader(plain)
	if err != nil {
		t.Fatal(err)
	}
	s := newSteerer(t, plan.Feed{
		Name: "deep", Rules: []plan.Rule{{Protocol: 17, Destination: netip.MustParsePrefix("224.2.3.10/32"), Port: 16648}},
		Place: plan.Placement{Kind: plan.PlaceChannel, Offset: 4, Length: 8},
	})
	steered, hashes := 0, map[uint64]bool{}
	for {
		frame, about, err := records.ReadPacketData()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		var m steer.Meta
		if v := s.Steer(frame, about.Length, true, 0, &m); v != steer.Steered {
			t.Fatalf("packet %d: %v", steered+1, v)
		}
		p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
		if want := p.TransportLayer().LayerPayload(); !bytes.Equal(frame[m.PayloadOffset:][:m.PayloadLength], want) {
			t.Fatalf("packet %d: payload of %d bytes, want %d", steered+1, m.PayloadLength, len(want))
		}
		hashes[m.Hash] = true
		steered++
	}
	// The last of the 121,315 is cut by the end of the file; this reader drops it.
	if steered < 121314 || len(hashes) != 1 {
		t.Errorf("%d packets of %d channels, want at least 121314 of 1", steered, len(hashes))
	}
}

// New refuses what means nothing and says what to do.
func TestNewRefuses(t *testing.T) {
	place := plan.Placement{Kind: plan.PlaceBytes, Length: 8}
	rules := func(r ...plan.Rule) []plan.Feed { return []plan.Feed{{Name: "f", Rules: r, Place: place}} }
	var shapes []plan.Rule
	for n := range 33 {
		for port := range 2 {
			p := netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), n)
			shapes = append(shapes, plan.Rule{Protocol: 17, Destination: p, Port: uint16(port)})
		}
	}
	var many []plan.Rule
	for n := range 2049 {
		many = append(many, plan.Rule{Protocol: 17, Port: uint16(n + 1)})
	}
	for want, feeds := range map[string][]plan.Feed{
		"protocol 1: use udp":          rules(plan.Rule{Protocol: 1}),
		"VLAN 4096":                    rules(plan.Rule{Protocol: 17, VLAN: 4096}),
		"write an IPv4 address":        rules(plan.Rule{Protocol: 17, Destination: netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.1"), 128)}),
		"equal to a rule of feed f":    rules(plan.Rule{Protocol: 17, Port: 1}, plan.Rule{Protocol: 17, Port: 1, Line: 1}),
		"66 different shapes":          rules(shapes...),
		"4098 rules":                   rules(many...),
		"257 feeds":                    make([]plan.Feed, 257),
		"placement kind 0":             {{Name: "f"}},
		"placement of 0 bytes":         {{Name: "f", Place: plan.Placement{Kind: plan.PlaceBytes}}},
		"placement of 65 bytes":        {{Name: "f", Place: plan.Placement{Kind: plan.PlaceChannel, Length: 65}}},
		"placement by fields 0x0":      {{Name: "f", Place: plan.Placement{Kind: plan.PlaceTuple}}},
		"placement by fields 0x20":     {{Name: "f", Place: plan.Placement{Kind: plan.PlaceTuple, Fields: 32}}},
		"equal to a rule of feed g: c": {{Name: "g", Rules: anyUDP, Place: place}, {Name: "f", Rules: anyUDP, Place: place}},
	} {
		if _, err := steer.New(feeds); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "steer: ") {
			t.Errorf("New = %v, want an error that says %q", err, want)
		}
	}
}

// Rules that differ only in host bits of the prefix are equal.
func TestPrefixesAreMasked(t *testing.T) {
	_, err := steer.New([]plan.Feed{{Name: "f", Place: plan.Placement{Kind: plan.PlaceUntil}, Rules: []plan.Rule{
		{Protocol: 17, Destination: netip.MustParsePrefix("10.1.2.3/8")}, {Protocol: 17, Destination: netip.MustParsePrefix("10.0.0.0/8")},
	}}})
	if err == nil {
		t.Error("10.1.2.3/8 and 10.0.0.0/8 were both taken")
	}
}

// Every worker owns a contiguous range of key groups, and the ranges are even.
func TestOwnerTable(t *testing.T) {
	for workers := 1; workers <= event.WorkersMax; workers++ {
		groups := make([]int, workers)
		last := 0
		for g, w := range steer.OwnerTable(workers) {
			if int(w) < last || int(w) > last+1 {
				t.Fatalf("%d workers: group %d is worker %d's after %d's", workers, g, w, last)
			}
			last = int(w)
			groups[w]++
		}
		for w, n := range groups {
			if n < event.GroupCount/workers || n > event.GroupCount/workers+1 {
				t.Errorf("%d workers: worker %d has %d groups", workers, w, n)
			}
		}
	}
}

func TestVerdictNames(t *testing.T) {
	seen := map[string]bool{}
	for v := range steer.Verdict(steer.VerdictCount) {
		if n := v.String(); n == "" || n == "unknown" || seen[n] {
			t.Errorf("verdict %d is called %q", v, n)
		}
		seen[v.String()] = true
	}
	if got := steer.Verdict(steer.VerdictCount).String(); got != "unknown" {
		t.Errorf("a verdict that is none is called %q", got)
	}
}

var benchmarks = []struct {
	name  string
	place plan.Placement
	frame []byte
}{
	{"bytes8", plan.Placement{Kind: plan.PlaceBytes, Length: 8, Trim: true}, udp("10.9.9.9:1", "239.1.1.1:9000", "MSFT    and then the rest of a quote")},
	{"bytes64", plan.Placement{Kind: plan.PlaceBytes, Length: 64}, udp("10.9.9.9:1", "239.1.1.1:9000", strings.Repeat("x", 100))},
	{"tuple", plan.Placement{Kind: plan.PlaceTuple, Fields: 31, Symmetric: true}, udp("10.9.9.9:1", "239.1.1.1:9000", "x")},
	{"until", plan.Placement{Kind: plan.PlaceUntil, Delimiter: ','}, udp("10.9.9.9:1", "239.1.1.1:9000", "cpu,host=a value=1 1465839830100400200, and more than 64 bytes of it")},
	{"channel", plan.Placement{Kind: plan.PlaceChannel, Length: 10}, udp("10.9.9.9:1", "239.1.1.1:9000", "session001 and the rest")},
}

func TestSteerDoesNotAllocate(t *testing.T) {
	for _, c := range benchmarks {
		s := newSteerer(t, plan.Feed{Name: "f", Rules: anyUDP, Place: c.place})
		var m steer.Meta
		if n := testing.AllocsPerRun(100, func() { s.Steer(c.frame, len(c.frame), true, 1, &m) }); n != 0 {
			t.Errorf("%s: Steer allocates %v times", c.name, n)
		}
	}
}

func BenchmarkSteer(b *testing.B) {
	for _, c := range benchmarks {
		b.Run("placement="+c.name, func(b *testing.B) {
			s := newSteerer(b, plan.Feed{Name: "f", Place: c.place, Rules: []plan.Rule{{Protocol: 17, Destination: netip.MustParsePrefix("239.1.1.1/32"), Port: 9000}}})
			var m steer.Meta
			b.ReportAllocs()
			for b.Loop() {
				s.Steer(c.frame, len(c.frame), true, 1, &m)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/frame")
		})
	}
}

// FuzzSteer checks that Steer reads nothing outside the frame, whatever is in it,
// and that what it says of a payload lies inside.
func FuzzSteer(f *testing.F) {
	f.Add(udp("10.0.0.1:1", "10.0.0.2:2", "payload", packet.Tag{ID: 2}), 100)
	f.Add((&packet.TCP{Source: netip.MustParseAddrPort("10.0.0.1:1"), Destination: netip.MustParseAddrPort("10.0.0.2:3"), TCPOptions: []byte{1, 1, 1, 1}}).Append(nil, []byte("x")), 0)
	f.Add((&packet.UDP{
		Source: netip.MustParseAddrPort("[fe80::1]:1"), Destination: netip.MustParseAddrPort("[fe80::2]:4"),
		Extensions: []packet.Extension{{Protocol: packet.HopByHop}, {Protocol: packet.DestinationOptions, Body: make([]byte, 14)}},
	}).Append(nil, []byte("until,this")), 60)
	var feeds []plan.Feed
	for i, p := range []plan.Placement{
		{Kind: plan.PlaceTuple, Fields: 31, Symmetric: true},
		{Kind: plan.PlaceBytes, Offset: 3, Length: 64, Trim: true},
		{Kind: plan.PlaceUntil, Offset: 1, Delimiter: ','},
		{Kind: plan.PlaceChannel, Offset: 4, Length: 8},
	} {
		feeds = append(feeds, plan.Feed{Name: fmt.Sprint(i), Place: p, Rules: []plan.Rule{{Protocol: 17, Port: uint16(i)}, {Protocol: 6, Port: uint16(i)}}})
	}
	s := newSteerer(f, feeds...)
	f.Fuzz(func(t *testing.T, frame []byte, wireLength int) {
		frame = frame[:len(frame):len(frame)]
		for _, allow := range []bool{false, true} {
			var m steer.Meta
			v := s.Steer(frame, wireLength, allow, 5, &m)
			if v >= steer.VerdictCount || v == steer.NoSocket || v == steer.NoMetadata {
				t.Fatalf("verdict %v", v)
			}
			if v != steer.Steered {
				continue
			}
			if int(m.PayloadOffset)+int(m.PayloadLength) > len(frame) {
				t.Fatalf("payload at %d of %d bytes in a frame of %d", m.PayloadOffset, m.PayloadLength, len(frame))
			}
			if int(m.Feed) >= len(feeds) || int(m.Group) != event.Group(m.Hash) || m.Version != steer.MetaVersion || m.ReceiveNanos != 5 {
				t.Fatalf("metadata %+v", m)
			}
			if m.Flags&steer.FlagTruncated != 0 && !allow {
				t.Fatalf("a frame that was cut is steered")
			}
		}
	})
}
