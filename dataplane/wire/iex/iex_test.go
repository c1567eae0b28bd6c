package iex

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/wiretest"
	"github.com/headrace/headrace/internal/testdata"
)

// spec writes each message as the specifications list its parts, in order: name and
// width. b, i, l are integers of 1, 4, 8 bytes; c, r, s texts of 1, 4, 8. time is
// the event's; a part called - has no column.
var spec = map[byte]string{
	'S': "status/c time/l",
	'D': "flags/b time/l symbol/s round_lot/i adjusted_close/l luld_tier/b",
	'H': "status/c time/l symbol/s reason/r",
	'I': "status/c time/l symbol/s",
	'O': "status/c time/l symbol/s",
	'P': "status/c time/l symbol/s detail/c",
	'E': "status/c time/l symbol/s",
	'8': "flags/b time/l symbol/s size/i price/l",
	'5': "flags/b time/l symbol/s size/i price/l",
	'T': "flags/b time/l symbol/s size/i price/l trade_id/l",
	'X': "status/c time/l symbol/s price/l",
	'B': "flags/b time/l symbol/s size/i price/l trade_id/l",
	'A': "status/c time/l symbol/s paired_shares/i reference_price/l indicative_price/l imbalance_shares/i imbalance_side/c extension/b scheduled/i book_price/l collar_price/l lower_collar/l upper_collar/l",
	'Q': "flags/b time/l symbol/s bid_size/i bid_price/l ask_price/l ask_size/i",
}

var names = map[byte]string{
	'S': "system_event", 'D': "security_directory", 'H': "trading_status", 'I': "retail_liquidity", 'O': "op_halt", 'P': "short_sale",
	'E': "security_event", '8': "price_level", '5': "price_level", 'T': "trade", 'X': "official_price", 'B': "trade_break", 'A': "auction", 'Q': "quote",
}

// message draws a message of the given type: its bytes and its values by column.
func message(t *rapid.T, code byte) ([]byte, map[string]any) {
	m := []byte{code}
	values := map[string]any{"message": names[code]}
	switch code {
	case '8':
		values["side"] = "buy"
	case '5':
		values["side"] = "sell"
	}
	for part := range strings.FieldsSeq(spec[code]) {
		name, width, _ := strings.Cut(part, "/")
		switch width {
		case "b":
			v := rapid.Byte().Draw(t, name)
			m, values[name] = append(m, v), int64(v)
		case "i":
			v := rapid.Uint32().Draw(t, name)
			m, values[name] = binary.LittleEndian.AppendUint32(m, v), int64(v)
		case "l":
			v := rapid.Int64Range(-1<<62, 1<<62).Draw(t, name)
			m, values[name] = binary.LittleEndian.AppendUint64(m, uint64(v)), v
		default:
			n := map[string]int{"c": 1, "r": 4, "s": 8}[width]
			v := rapid.StringMatching(`[!-~]{0,8}`).Draw(t, name)
			v = v[:min(n, len(v))]
			m, values[name] = append(append(m, v...), strings.Repeat(" ", n-len(v))...), v
		}
	}
	return m, values
}

func block(dst, m []byte) []byte {
	return append(binary.LittleEndian.AppendUint16(dst, uint16(len(m))), m...)
}

func newDecoder(tb testing.TB, f wire.Format, feed *plan.Feed) wire.Decoder {
	tb.Helper()
	d, err := f.New(feed, nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func TestEveryMessageDecodesToWhatWasEncoded(t *testing.T) {
	for _, c := range []struct {
		format wire.Format
		types  string
	}{{Deep(), "SDHIOPE85TXBA"}, {Tops(), "SDHIOPQTXBA"}} {
		var all []string
		for _, f := range c.format.Fields {
			all = append(all, f.Name)
		}
		rapid.Check(t, func(r *rapid.T) {
			columns := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 16, rapid.ID).Draw(r, "columns")
			feed := &plan.Feed{Name: "f", Identity: rapid.Bool().Draw(r, "identity"), Columns: wiretest.Columns(t, &c.format, append(columns, all[0])[:max(1, len(columns))]...)}
			feed.Kinds = rapid.Uint64().Draw(r, "kinds")
			p := &wire.Packet{Progress: wire.Progress{Max: event.MinNanos}, Chan: 7, Order: 8, Seq: 1000}
			count := rapid.IntRange(0, 12).Draw(r, "messages")
			p.Skip = rapid.IntRange(0, count).Draw(r, "skip")
			p.Count = rapid.IntRange(0, count-p.Skip).Draw(r, "count")
			var want []wiretest.Row
			filtered, latest := uint64(0), event.MinNanos
			for i := range count {
				code := c.types[rapid.IntRange(0, len(c.types)-1).Draw(r, "type")]
				m, values := message(r, code)
				m = append(m, make([]byte, rapid.IntRange(0, 3).Draw(r, "added"))...)
				p.Payload = block(p.Payload, m)
				if i < p.Skip || i >= p.Skip+p.Count {
					continue
				}
				at := event.Nanos(values["time"].(int64))
				latest = max(latest, at)
				if bit := wiretest.Kinds(t, &c.format, names[code]); bit&feed.Kinds == 0 {
					filtered++
					continue
				}
				row := wiretest.Row{Time: at}
				if feed.Identity {
					row.Chan, row.Order, row.Seq = 7, 8, 1000+uint64(i-p.Skip)
				}
				for _, column := range feed.Columns {
					row.Values = append(row.Values, values[column.Name])
				}
				want = append(want, row)
			}
			got, err := wiretest.Decode(newDecoder(t, c.format, feed), feed, p, wiretest.Batch(feed), rapid.IntRange(1, 20).Draw(r, "limit"))
			if err != nil {
				r.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				r.Fatalf("got %v, want %v", got, want)
			}
			if p.Filtered != filtered || p.Max != latest || p.Messages != uint64(p.Count) {
				r.Fatalf("account %+v, want %d filtered, max %d", p, filtered, latest)
			}
		})
	}
}

func TestMessagesAreRefusedByReason(t *testing.T) {
	feed := &plan.Feed{Kinds: ^uint64(0)}
	format := Deep()
	d := newDecoder(t, format, feed)
	trade := append([]byte("T\x00\x01\x00\x00\x00\x00\x00\x00\x00SYM     "), make([]byte, 20)...)
	never := append([]byte("T\x00\xff\xff\xff\xff\xff\xff\xff\x7fSYM     "), make([]byte, 20)...)
	for _, c := range []struct {
		name    string
		payload []byte
		drop    event.Drop
		hit     bool
	}{
		{"a type of no specification", block(nil, []byte("z123456789")), event.DropSkippedType, false},
		{"a type of no specification and one byte", block(nil, []byte("z")), event.DropSkippedType, false},
		{"a quote, which DEEP has not", block(nil, append([]byte("Q"), make([]byte, 41)...)), event.DropSkippedType, false},
		{"a trade one byte short", block(nil, trade[:37]), event.DropBadMessage, true},
		{"a trade without time", block(nil, trade[:9]), event.DropBadMessage, true},
		{"a block of no bytes", block(nil, nil), event.DropBadMessage, true},
		{"a time stamp that means never", block(nil, never), event.DropNoTime, true},
		{"a whole trade", block(nil, trade), event.Kept, false},
		{"a block longer than the payload", block(nil, trade)[:39], event.Kept, false},
		{"half a length", []byte{1}, event.Kept, false},
	} {
		p := &wire.Packet{Payload: c.payload, Count: 9, Progress: wire.Progress{Max: event.MinNanos}}
		rows, err := wiretest.Decode(d, feed, p, wiretest.Batch(feed), 8)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.drop == event.Kept {
			if want := c.name == "a whole trade"; len(rows) == 1 != want || p.Messages != p.Events {
				t.Errorf("%s: %d rows, account %+v", c.name, len(rows), p)
			}
			continue
		}
		if p.Drops[c.drop] != 1 || p.Messages != 1 || p.Hit != c.hit {
			t.Errorf("%s: drops %v, hit %v, want one %v, hit %v", c.name, p.Drops, p.Hit, c.drop, c.hit)
		}
	}
}

func TestNewRefusesColumnsThatTheFormatHasNot(t *testing.T) {
	format := Tops()
	good := wiretest.Columns(t, &format, "price")[0]
	for name, change := range map[string]func(*plan.Column){
		"a field number beyond the last": func(c *plan.Column) { c.Field = len(format.Fields) },
		"a field number below 0":         func(c *plan.Column) { c.Field = -1 },
		"another type":                   func(c *plan.Column) { c.Type = event.Int64 },
		"another scale":                  func(c *plan.Column) { c.Scale = 2 },
	} {
		c := good
		change(&c)
		if _, err := format.New(&plan.Feed{Columns: []plan.Column{c}}, nil, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// body is a packet's message blocks and the number of messages that its header
// promises.
type body struct {
	blocks []byte
	count  int
}

// deep10 walks the capture with nothing but the formats' published layouts: pcap
// record (16 bytes), Ethernet 14, IPv4 20, UDP 8, IEX-TP 40 with the count at 14.
func deep10(tb testing.TB) []body {
	tb.Helper()
	packed, err := os.ReadFile(testdata.Path(tb, "iex", "DEEP10.pcap.gz"))
	if err != nil {
		tb.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		tb.Fatal(err)
	}
	all, err := io.ReadAll(z)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		tb.Fatal(err)
	}
	var bodies []body
	for all = all[24:]; len(all) > 16; {
		n := min(int(binary.LittleEndian.Uint32(all[8:])), len(all)-16)
		frame := all[16 : 16+n]
		all = all[16+n:]
		if n < 82 {
			continue
		}
		bodies = append(bodies, body{frame[82:], int(binary.LittleEndian.Uint16(frame[42+14:]))})
	}
	return bodies
}

func TestDeep10DecodesToTheKnownCounts(t *testing.T) {
	format := Deep()
	feed := &plan.Feed{Kinds: ^uint64(0), Columns: wiretest.Columns(t, &format, "message", "symbol", "side", "size", "price")}
	d, b := newDecoder(t, format, feed), wiretest.Batch(feed)
	counts, volume, symbols := map[string]int{}, int64(0), map[any]bool{}
	packets := deep10(t)
	for _, x := range packets {
		p := &wire.Packet{Payload: x.blocks, Count: x.count, Progress: wire.Progress{Max: event.MinNanos}}
		rows, err := wiretest.Decode(d, feed, p, b, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			name := row.Values[0].(string)
			if side, ok := row.Values[2].(string); ok {
				name += " " + side
			}
			counts[name]++
			if name == "trade" {
				symbols[row.Values[1]] = true
				volume += row.Values[3].(int64)
			}
		}
	}
	want := map[string]int{
		"trading_status": 93638, "op_halt": 93638, "short_sale": 93636, "trade": 83343, "price_level sell": 14630,
		"price_level buy": 12949, // one more is cut off by the end of the file
		"trade_break":     73, "security_event": 59, "system_event": 44,
	}
	sum := 0
	for _, n := range counts {
		sum += n
	}
	if !maps.Equal(counts, want) || sum != 392_010 {
		t.Errorf("%d messages, %v, want 392010, %v", sum, counts, want)
	}
	if volume != 19_782_510 || len(symbols) != 19 || len(packets) != 121_315 {
		t.Errorf("%d packets, volume %d of %d symbols, want 121315, 19782510 of 19", len(packets), volume, len(symbols))
	}
}

func TestVenueCapturesDecode(t *testing.T) {
	want := map[string]string{ // file → its kinds, in order
		"AuctionInformationMessage":       "auction",
		"OfficialPriceMessage":            "official_price",
		"OperationalHaltStatusMessage":    "op_halt trading_status quote security_event?",
		"QuoteUpdateMessage":              "quote",
		"ShortSalePriceTestStatusMessage": "short_sale",
		"SystemEventMessage":              "system_event",
		"TradeReportMessage":              "trade",
		"TradingStatusMessage":            "trading_status",
		"PriceLevelBuyUpdateMessage":      "price_level",
		"PriceLevelSellUpdateMessage":     "price_level",
		"Heartbeat":                       "",
	}
	for folder, format := range map[string]wire.Format{"Tops.IexTp.v1.5": Tops(), "Deep.IexTp.v1.0": Deep()} {
		files, err := filepath.Glob(filepath.Join(testdata.Path(t, "venues", "Iex", folder), "*.pcap"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no captures (%v)", folder, err)
		}
		for _, file := range files {
			feed := &plan.Feed{Kinds: ^uint64(0), Columns: wiretest.Columns(t, &format)}
			d, b := newDecoder(t, format, feed), wiretest.Batch(feed)
			var got []string
			for _, c := range wiretest.Capture(t, file) {
				payload := wiretest.UDP(c.Frame)
				p := &wire.Packet{Payload: payload[40:], Count: int(binary.LittleEndian.Uint16(payload[14:])), Progress: wire.Progress{Max: event.MinNanos}}
				rows, err := wiretest.Decode(d, feed, p, b, 3)
				if err != nil {
					t.Errorf("%s: %v", file, err)
				}
				if int(p.Messages) != p.Count || p.Hit {
					t.Errorf("%s: %d of %d messages, drops %v", file, p.Messages, p.Count, p.Drops)
				}
				for _, row := range rows {
					got = append(got, row.Values[0].(string))
				}
				if skew := p.Max - c.Stamp; p.Count > 0 && (skew > 60e9 || skew < -60e9) {
					t.Errorf("%s: event time %d is not near the capture's stamp %d", file, p.Max, c.Stamp)
				}
			}
			name := strings.TrimSuffix(filepath.Base(file), ".pcap")
			if w, ok := want[name]; ok && !strings.HasSuffix(w, "?") && strings.Join(got, " ") != w {
				t.Errorf("%s: %q, want %q", name, got, w)
			}
			if len(got) == 0 && name != "Heartbeat" {
				t.Errorf("%s: nothing decoded", name)
			}
		}
	}
}

// sample is a packet with one message of every type.
func sample() (blocks []byte, count int) {
	for code := range spec {
		m := append([]byte{code, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "SYMBOL  "...)
		m = append(m, make([]byte, 62)...)
		blocks = block(blocks, m)
		count++
	}
	return blocks, count
}

func TestEveryTruncationBalances(t *testing.T) {
	blocks, count := sample()
	for _, format := range []wire.Format{Deep(), Tops()} {
		feed := &plan.Feed{Kinds: ^uint64(0), Columns: wiretest.Columns(t, &format), Identity: true}
		d, b := newDecoder(t, format, feed), wiretest.Batch(feed)
		for n := range len(blocks) + 1 {
			for skip := range 3 {
				p := &wire.Packet{Payload: blocks[:n:n], Skip: skip, Count: count - skip, Progress: wire.Progress{Max: event.MinNanos}}
				if _, err := wiretest.Decode(d, feed, p, b, 2); err != nil {
					t.Fatalf("%d bytes: %v", n, err)
				}
				if want := max(0, n/82-skip); int(p.Messages) != want {
					t.Fatalf("%d bytes, skip %d: %d messages, want %d", n, skip, p.Messages, want)
				}
			}
		}
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	blocks, count := sample()
	format := Deep()
	feed := &plan.Feed{Kinds: ^uint64(0), Columns: wiretest.Columns(t, &format), Identity: true}
	d, b := newDecoder(t, format, feed), wiretest.Batch(feed)
	var p wire.Packet
	events := 0
	if n := testing.AllocsPerRun(100, func() {
		p.Reset()
		p.Payload, p.Count = blocks, count
		for more := true; more; {
			b.Reset()
			b.Limit = 5
			more = d.Decode(&p, b)
			events += b.N
		}
	}); n != 0 || events == 0 {
		t.Errorf("%v allocations for %d events, want 0", n, events)
	}
}

// FuzzDecode checks that no payload makes Decode panic or lose a message.
func FuzzDecode(f *testing.F) {
	blocks, _ := sample()
	f.Add(blocks, uint8(0), uint8(14), uint64(1<<63-1), false)
	f.Add(blocks[:100], uint8(1), uint8(200), uint64(0), true)
	f.Add([]byte{0, 0, 1, 0, 'T', 255, 255}, uint8(0), uint8(3), uint64(1), true)
	deep, tops := Deep(), Tops()
	columns := map[bool][]plan.Column{false: wiretest.Columns(f, &deep), true: wiretest.Columns(f, &tops)}
	batches := map[bool]*event.Batch{}
	for isTops, c := range columns {
		batches[isTops] = wiretest.Batch(&plan.Feed{Columns: c})
	}
	f.Fuzz(func(t *testing.T, payload []byte, skip, count uint8, mask uint64, isTops bool) {
		format := deep
		if isTops {
			format = tops
		}
		feed := &plan.Feed{Kinds: mask, Columns: columns[isTops], Identity: true}
		p := &wire.Packet{Payload: payload, Skip: int(skip), Count: int(count), Progress: wire.Progress{Max: event.MinNanos}}
		if _, err := wiretest.Decode(newDecoder(t, format, feed), feed, p, batches[isTops], 3); err != nil {
			t.Fatal(err)
		}
		if p.Messages > uint64(count) {
			t.Fatalf("%d messages of %d", p.Messages, count)
		}
	})
}

// BenchmarkDecode decodes DEEP10 from memory, with the columns of a bar query.
func BenchmarkDecode(b *testing.B) {
	packets := deep10(b)
	format := Deep()
	for _, c := range []struct {
		name    string
		kinds   uint64
		columns []string
	}{
		{"iex-deep/kinds=none", 0, []string{"symbol", "price", "size"}},
		{"iex-deep/kinds=trade", 1 << kindTrade, []string{"symbol", "price", "size"}},
		{"iex-deep/kinds=all", ^uint64(0), []string{"symbol", "price", "size"}},
		{"iex-deep/kinds=trade/columns=4", 1 << kindTrade, []string{"message", "symbol", "price", "size"}},
	} {
		b.Run("format="+c.name, func(b *testing.B) {
			feed := &plan.Feed{Kinds: c.kinds, Columns: wiretest.Columns(b, &format, c.columns...), Identity: true}
			d, batch := newDecoder(b, format, feed), wiretest.Batch(feed)
			var p wire.Packet
			messages, events := uint64(0), uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				for i := range packets {
					p.Reset()
					p.Payload, p.Count = packets[i].blocks, packets[i].count
					for d.Decode(&p, batch) {
						batch.Reset()
					}
					messages += p.Messages
					events += p.Events
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(messages), "ns/message")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(max(1, events)), "ns/event")
		})
	}
}
