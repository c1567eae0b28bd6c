package acceptance

import (
	"net/netip"
	"testing"

	"github.com/headrace/headrace/internal/packet"
)

// Every packet is an event of its own; what is neither UDP nor TCP is not the feed's.
func TestFlowWrittenByHand(t *testing.T) {
	ap := netip.MustParseAddrPort
	u := func(from, to string, n int, l packet.Link) []byte {
		x := packet.UDP{Link: l, Source: ap(from), Destination: ap(to), HopLimit: 7}
		return x.Append(nil, make([]byte, n))
	}
	tcp := func(from, to string, n int, flags uint8, l packet.Link) []byte {
		x := packet.TCP{Link: l, Source: ap(from), Destination: ap(to), Flags: flags, TCPOptions: make([]byte, 12)}
		return x.Append(nil, make([]byte, n))
	}
	six := packet.UDP{
		Source: ap("[2001:db8::1]:5000"), Destination: ap("[ff05::1:2]:443"),
		Extensions: []packet.Extension{{Protocol: packet.HopByHop, Body: make([]byte, 6)}},
	}
	tagged := packet.Link{Tags: []packet.Tag{{Type: packet.TypeQinQ, ID: 100}, {ID: 42}}}
	const at = 1_600_000_000 * second // a multiple of ten seconds
	frames := []record{
		{stamp: at, data: u("10.0.0.1:1000", "10.0.0.2:443", 100, packet.Link{})},                    // 142 bytes
		{stamp: at + 9_999_999_999, data: u("10.0.0.1:2000", "10.0.0.2:443", 3, packet.Link{})},      // 45
		{stamp: at + 1, data: tcp("10.0.0.1:1000", "10.0.0.2:443", 0, 2, tagged)},                    // 74
		{stamp: at + 2, data: tcp("10.0.0.2:80", "10.0.0.1:443", 1000, 0x18, packet.Link{})},         // 1066
		{stamp: at + 3, data: six.Append(nil, make([]byte, 10))},                                     // 14 + 40 + 8 + 18
		{stamp: at + 10*second, data: u("10.0.0.1:1000", "10.0.0.2:443", 0, packet.Link{Pad: true})}, // padded to 60
		{stamp: at + 11*second, data: packet.Ethernet(nil, &packet.Link{}, packet.TypeARP, make([]byte, 46))},
		{stamp: at + 12*second, data: u("10.0.0.1:1000", "10.0.0.2:444", 0, packet.Link{})}, // another port
	}
	config := `
feeds:
  f:
    match:
      - {protocol: tcp, port: 443}
      - {protocol: udp, port: 443}
    format: flow
queries:
  q:
    from: f
    key: [source, destination]
    window: {tumbling: 10s}
    watermark: {delay: 0s}
    select: {packets: count(), bytes: sum(bytes), largest: max(bytes), payload: sum(payload_bytes), flags: sum(tcp_flags), vlan: max(vlan), ttl: min(ttl), port: last(source_port)}
    sinks: [rows]
sinks:
  rows: {jsonl: {path: rows.jsonl}}
`
	key := func(a, b string) (string, string) {
		return `"source":"` + a + `","destination":"` + b + `"`, composite(a, b)
	}
	row := func(start int64, a, b, firing, values, errs string) line {
		k, c := key(a, b)
		return line{query: "q", key: k, canonical: c, start: start, end: start + 10*second, firing: firing, values: values, errors: errs}
	}
	want := text([]line{
		row(at, "10.0.0.1", "10.0.0.2", "on_time", `"packets":3,"bytes":261,"largest":142,"payload":103,"flags":2,"vlan":42,"ttl":7,"port":2000`, ""),
		row(at, "10.0.0.2", "10.0.0.1", "on_time", `"packets":1,"bytes":1066,"largest":1066,"payload":1000,"flags":24,"vlan":null,"ttl":64,"port":80`, `"vlan":"empty"`),
		row(at, "2001:db8::1", "ff05::1:2", "on_time", `"packets":1,"bytes":80,"largest":80,"payload":10,"flags":null,"vlan":null,"ttl":64,"port":5000`, `"flags":"empty","vlan":"empty"`),
		row(at+10*second, "10.0.0.1", "10.0.0.2", "flush", `"packets":1,"bytes":60,"largest":60,"payload":0,"flags":null,"vlan":null,"ttl":7,"port":1000`, `"flags":"empty","vlan":"empty"`),
	})
	// In the order of a capture, which is not that of the list above.
	frames[1], frames[2], frames[3], frames[4] = frames[2], frames[3], frames[4], frames[1]
	path := writePcap(t, "flow.pcap", frames)
	for _, n := range workers(t) {
		r := replay(t, config, append(flag("workers", n), path)...)
		same(t, "flow", r.rows, want)
		r.balance(t, "flow")
		r.counts(t, map[string]uint64{"packets": 8, "messages": 6, "events": 6, "applied": 6})
		passed := uint64(0)
		for _, n := range r.summary.Passed {
			passed += n
		}
		if passed != 2 {
			t.Errorf("passed %v, want 2 packets", r.summary.Passed)
		}
	}
}
