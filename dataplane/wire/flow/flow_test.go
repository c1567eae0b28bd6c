package flow

import (
	"net"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/wiretest"
	"github.com/headrace/headrace/internal/testdata"
)

func decode(t interface{ Fatal(...any) }, frame []byte) (map[string]any, *wire.Packet) {
	f := &plan.Feed{Name: "f", Identity: true}
	for i, x := range fields {
		f.Columns = append(f.Columns, plan.Column{Name: x.Name, Type: x.Type, Field: i})
	}
	d, err := Format().New(f, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &wire.Packet{Frame: frame, Progress: wire.Progress{Max: event.MinNanos}, Receive: 77, Chan: 1, Order: 2, Seq: 3}
	rows, err := wiretest.Decode(d, f, p, wiretest.Batch(f), 1)
	if err != nil {
		t.Fatal(err)
	}
	if p.Messages != 1 {
		t.Fatal("a frame that is not one message")
	}
	if len(rows) == 0 {
		return nil, p
	}
	values := map[string]any{}
	for i, x := range fields {
		if rows[0].Values[i] != nil {
			values[x.Name] = rows[0].Values[i]
		}
	}
	return values, p
}

// frame draws a packet and what it must decode to.
func frame(t *rapid.T) ([]byte, map[string]any) {
	want := map[string]any{}
	number := func(name string, limit int64) int64 {
		v := rapid.Int64Range(0, limit).Draw(t, name)
		want[name] = v
		return v
	}
	address := func(name string, n int) net.IP {
		ip := net.IP(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, name))
		if n == 16 {
			ip[0] = 0x20 // not an IPv4 address in IPv6, which net.IP writes as IPv4
		}
		want[name] = ip.String()
		return ip
	}
	ether := &layers.Ethernet{SrcMAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}, DstMAC: net.HardwareAddr{1, 2, 3, 4, 5, 7}}
	stack := []gopacket.SerializableLayer{ether}
	next := &ether.EthernetType
	for i := range rapid.IntRange(0, 2).Draw(t, "tags") {
		*next = layers.EthernetTypeDot1Q
		if i == 0 && rapid.Bool().Draw(t, "qinq") {
			*next = layers.EthernetTypeQinQ
		}
		tag := &layers.Dot1Q{VLANIdentifier: uint16(number("vlan", 4095)), Priority: 5}
		next = &tag.Type
		stack = append(stack, tag)
	}
	protocol := rapid.SampledFrom([]layers.IPProtocol{6, 17, 1, 47, 132}).Draw(t, "proto")
	want["protocol_number"] = int64(protocol)
	want["protocol"] = map[layers.IPProtocol]string{6: "tcp", 17: "udp", 1: "1", 47: "47", 132: "132"}[protocol]
	var network gopacket.NetworkLayer
	tos, ttl := uint8(number("tos", 255)), uint8(number("ttl", 255))
	if rapid.Bool().Draw(t, "v6") {
		*next = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, TrafficClass: tos, HopLimit: ttl, NextHeader: protocol, SrcIP: address("source", 16), DstIP: address("destination", 16)}
		stack, network = append(stack, ip), ip
		if rapid.Bool().Draw(t, "extension") {
			ip.NextHeader = layers.IPProtocolIPv6Destination
			x := &layers.IPv6Destination{Options: []*layers.IPv6DestinationOption{{OptionType: 0x1e, OptionData: make([]byte, 4+8*rapid.IntRange(0, 2).Draw(t, "option"))}}}
			x.NextHeader = protocol
			stack = append(stack, x)
		}
	} else {
		*next = layers.EthernetTypeIPv4
		ip := &layers.IPv4{Version: 4, TOS: tos, TTL: ttl, Protocol: protocol, SrcIP: address("source", 4), DstIP: address("destination", 4)}
		if rapid.Bool().Draw(t, "options") {
			ip.Options = []layers.IPv4Option{{OptionType: 0x82, OptionLength: 11, OptionData: make([]byte, 9)}}
		}
		stack, network = append(stack, ip), ip
	}
	payload := rapid.IntRange(0, 100).Draw(t, "payload")
	switch protocol {
	case 6:
		x := &layers.TCP{SrcPort: layers.TCPPort(number("source_port", 65535)), DstPort: layers.TCPPort(number("destination_port", 65535))}
		flags := number("tcp_flags", 255)
		x.FIN, x.SYN, x.RST, x.PSH = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&8 != 0
		x.ACK, x.URG, x.ECE, x.CWR = flags&16 != 0, flags&32 != 0, flags&64 != 0, flags&128 != 0
		if rapid.Bool().Draw(t, "tcp options") {
			x.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}
		}
		_ = x.SetNetworkLayerForChecksum(network)
		stack = append(stack, x)
		want["payload_bytes"] = int64(payload)
	case 17:
		x := &layers.UDP{SrcPort: layers.UDPPort(number("source_port", 65535)), DstPort: layers.UDPPort(number("destination_port", 65535))}
		_ = x.SetNetworkLayerForChecksum(network)
		stack = append(stack, x)
		want["payload_bytes"] = int64(payload)
	}
	stack = append(stack, gopacket.Payload(make([]byte, payload)))
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		t.Fatal(err)
	}
	want["bytes"] = int64(len(buf.Bytes()))
	return buf.Bytes(), want
}

func TestDecodeReadsWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole, want := frame(t)
		got, p := decode(t, whole)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, want %v, account %+v", got, want, p)
		}
		if p.Max != 77 {
			t.Fatalf("time %d, want that of receipt, 77", p.Max)
		}
		// A capture that cuts the frame off behind its headers changes nothing; one
		// that cuts headers off leaves a bad message.
		// Padding that was cut off is not known of.
		cut := whole[:rapid.IntRange(0, len(whole)).Draw(t, "cut")]
		got, p = decode(t, cut)
		if got != nil && len(whole) == 60 && got["bytes"].(int64) >= int64(len(cut)) {
			want["bytes"] = min(60, got["bytes"].(int64))
		}
		if got != nil && !reflect.DeepEqual(got, want) || got == nil && p.Drops[event.DropBadMessage] != 1 {
			t.Fatalf("cut at %d of %d: %v, want %v or a bad message, account %+v", len(cut), len(whole), got, want, p)
		}
	})
}

func TestFramesThatAreNoPacketAreBadMessages(t *testing.T) {
	ipv4 := func(change func(b []byte)) []byte {
		b := make([]byte, 14+20+8)
		b[12], b[14], b[17], b[23], b[39] = 8, 0x45, 28, 17, 8
		change(b)
		return b
	}
	if got, _ := decode(t, ipv4(func([]byte) {})); got == nil {
		t.Fatal("the frame that the others are made of is refused")
	}
	for name, b := range map[string][]byte{
		"nothing":                       nil,
		"ARP":                           ipv4(func(b []byte) { b[12], b[13] = 8, 6 }),
		"IPv4 of version 5":             ipv4(func(b []byte) { b[14] = 0x55 }),
		"a header of 16 bytes":          ipv4(func(b []byte) { b[14] = 0x44 }),
		"a length shorter than headers": ipv4(func(b []byte) { b[17] = 19 }),
		"no room for UDP":               ipv4(func(b []byte) { b[17] = 27 }),
		"five VLAN tags":                append(append(make([]byte, 12), 0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0), make([]byte, 40)...),
	} {
		if got, p := decode(t, b); got != nil || p.Drops[event.DropBadMessage] != 1 || !p.Hit {
			t.Errorf("%s: %v, drops %v, want bad_message", name, got, p.Drops)
		}
	}
	later := ipv4(func(b []byte) { b[21] = 1 })
	if got, _ := decode(t, later); got == nil || got["source_port"] != nil {
		t.Errorf("a later fragment: %v, want no ports", got)
	}
}

// Every captured frame against another reader.
func TestVenueCapturesDecode(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(testdata.Path(t, "venues"), "*", "*", "*.pcap"))
	if err != nil || len(files) < 30 {
		t.Fatalf("%d captures (%v)", len(files), err)
	}
	for _, file := range files {
		for _, c := range wiretest.Capture(t, file) {
			other := gopacket.NewPacket(c.Frame, layers.LayerTypeEthernet, gopacket.NoCopy)
			udp, ok := other.Layer(layers.LayerTypeUDP).(*layers.UDP)
			ip := other.NetworkLayer()
			got, p := decode(t, c.Frame)
			if !ok || ip == nil {
				t.Fatalf("%s: no UDP", file)
			}
			if got["source"] != ip.NetworkFlow().Src().String() || got["destination"] != ip.NetworkFlow().Dst().String() ||
				got["source_port"] != int64(udp.SrcPort) || got["destination_port"] != int64(udp.DstPort) || got["payload_bytes"] != int64(len(udp.Payload)) ||
				got["bytes"] != int64(len(c.Frame)) || got["protocol"] != "udp" {
				t.Errorf("%s: %v, drops %v, want %v", file, got, p.Drops, other)
			}
		}
	}
}

func TestNewRefusesColumnsThatTheFormatHasNot(t *testing.T) {
	for name, c := range map[string]plan.Column{
		"a field number beyond the last": {Field: len(fields), Type: event.Int64},
		"a field number below 0":         {Field: -1, Type: event.Int64},
		"another type":                   {Field: fieldSource, Type: event.Int64},
	} {
		if _, err := Format().New(&plan.Feed{Columns: []plan.Column{c}}, nil, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func sample(tb testing.TB) []byte {
	tb.Helper()
	return wiretest.Capture(tb, testdata.Path(tb, "venues", "Nasdaq", "Nasdaq.Equities.TotalView.Itch.v5.0", "OrderDeleteMessage.pcap"))[0].Frame
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	f := &plan.Feed{Name: "f", Identity: true}
	for i, x := range fields {
		f.Columns = append(f.Columns, plan.Column{Name: x.Name, Type: x.Type, Field: i})
	}
	d, err := Format().New(f, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := wiretest.Batch(f)
	frames := [][]byte{sample(t), make([]byte, 60), append(append(make([]byte, 12), 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 50, 3), make([]byte, 70)...)}
	var p wire.Packet
	events := 0
	if n := testing.AllocsPerRun(100, func() {
		b.Reset()
		for _, frame := range frames {
			p.Reset()
			p.Frame = frame
			d.Decode(&p, b)
		}
		events += b.N
	}); n != 0 || events < 200 {
		t.Errorf("%v allocations for %d events, want 0", n, events)
	}
}

// FuzzDecode checks that any frame is one event or one drop.
func FuzzDecode(f *testing.F) {
	f.Add(sample(f))
	f.Add(append(append(make([]byte, 12), 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 0, 3), make([]byte, 70)...))
	f.Add(append(append(make([]byte, 12), 8, 0, 0x46, 0, 0, 60, 0, 0, 0, 0, 9, 6), make([]byte, 60)...))
	f.Fuzz(func(t *testing.T, frame []byte) {
		got, p := decode(t, frame)
		if got == nil != (p.Drops[event.DropBadMessage] == 1) {
			t.Fatalf("%v, drops %v", got, p.Drops)
		}
		if n, ok := got["payload_bytes"].(int64); ok && (n < 0 || n > got["bytes"].(int64)) {
			t.Fatalf("payload of %d bytes in a frame of %v", n, got["bytes"])
		}
	})
}

// BenchmarkDecode decodes one UDP frame.
func BenchmarkDecode(b *testing.B) {
	frame := sample(b)
	b.Run("format=flow", func(b *testing.B) {
		f := &plan.Feed{Name: "f"}
		for _, i := range []int{fieldSource, fieldDestination, fieldBytes} {
			f.Columns = append(f.Columns, plan.Column{Name: fields[i].Name, Type: fields[i].Type, Field: i})
		}
		d, err := Format().New(f, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		batch := wiretest.Batch(f)
		var p wire.Packet
		b.ReportAllocs()
		for b.Loop() {
			p.Reset()
			p.Frame = frame
			if d.Decode(&p, batch) {
				batch.Reset()
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/event")
	})
}
