package packet_test

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/internal/packet"
)

// Another library reads every frame without an error and finds the checksums right.
func TestFramesAreReadByAnotherLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		link := packet.Link{Pad: rapid.Bool().Draw(t, "pad")}
		for range rapid.IntRange(0, 2).Draw(t, "tags") {
			link.Tags = append(link.Tags, packet.Tag{ID: uint16(rapid.IntRange(1, 4094).Draw(t, "vlan"))})
		}
		source, destination := address(t, v6), address(t, v6)
		options := rapid.SliceOfN(rapid.Just(byte(1)), 0, 40).Draw(t, "options")
		var extensions []packet.Extension
		if rapid.Bool().Draw(t, "extensions") {
			extensions = []packet.Extension{{packet.HopByHop, []byte{1, 4, 0, 0, 0, 0}}, {packet.DestinationOptions, []byte{1, 12, 13: 0}}}
		}
		payload := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "payload")

		udp := packet.UDP{Link: link, Source: source, Destination: destination, Options: options, Extensions: extensions}
		checked(t, udp.Append([]byte("before"), payload)[6:], payload, layers.LayerTypeUDP)
		tcp := packet.TCP{Link: link, Source: source, Destination: destination, Options: options, Extensions: extensions, Flags: 0x10, TCPOptions: []byte{1, 1, 1}}
		checked(t, tcp.Append(nil, payload), payload, layers.LayerTypeTCP)
	})
}

func TestMulticastGoesToTheGroupsAddress(t *testing.T) {
	for to, want := range map[string][6]byte{
		"224.2.3.10":   {0x01, 0x00, 0x5e, 0x02, 0x03, 0x0a},
		"239.255.1.1":  {0x01, 0x00, 0x5e, 0x7f, 0x01, 0x01},
		"ff02::1:2:3":  {0x33, 0x33, 0x00, 0x02, 0x00, 0x03},
		"192.0.2.1":    {0x02, 5: 0x02},
		"2001:db8::99": {0x02, 5: 0x02},
	} {
		a := netip.MustParseAddr(to)
		from := netip.MustParseAddr("10.0.0.1")
		if a.Is6() {
			from = netip.MustParseAddr("fe80::1")
		}
		u := packet.UDP{Source: netip.AddrPortFrom(from, 1), Destination: netip.AddrPortFrom(a, 2)}
		if got := [6]byte(u.Append(nil, nil)); got != want {
			t.Errorf("frame to %s goes to %x, want %x", to, got, want)
		}
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	u := packet.UDP{Source: netip.MustParseAddrPort("10.0.0.1:1"), Destination: netip.MustParseAddrPort("239.1.1.1:2")}
	buf, payload := make([]byte, 0, 2048), make([]byte, 1400)
	if n := testing.AllocsPerRun(100, func() { buf = u.Append(buf[:0], payload) }); n != 0 {
		t.Errorf("Append allocates %v times", n)
	}
}

func checked(t *rapid.T, frame, payload []byte, transport gopacket.LayerType) {
	// Lazily, up to the transport: what a random port makes of a random payload is not
	// asked.
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Lazy)
	if p.Layer(transport) == nil {
		if e := p.ErrorLayer(); e != nil {
			t.Fatalf("frame %x: %v", frame, e.Error())
		}
		t.Fatalf("frame %x holds no %v", frame, transport)
	}
	if got := string(p.TransportLayer().LayerPayload()); got != string(payload) {
		t.Fatalf("payload %x, want %x", got, payload)
	}
	p.TransportLayer().(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}).SetNetworkLayerForChecksum(p.NetworkLayer())
	err, wrong := p.VerifyChecksums()
	if err != nil || len(wrong) > 0 {
		t.Fatalf("frame %x: checksums %v, %v", frame, wrong, err)
	}
}

func address(t *rapid.T, v6 bool) netip.AddrPort {
	n := 4
	if v6 {
		n = 16
	}
	b := rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "address")
	if v6 {
		b[0] = 0x20 // never a mapped IPv4 address
	}
	a, _ := netip.AddrFromSlice(b)
	// Ports that the other library takes for no protocol.
	return netip.AddrPortFrom(a, rapid.Uint16Range(60000, 65000).Draw(t, "port"))
}
