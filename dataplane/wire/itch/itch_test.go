package itch

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
	"time"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/wiretest"
	"github.com/headrace/headrace/internal/testdata"
)

// sizes of the 23 types, from the specification.
var sizes = map[byte]int{
	'S': 12, 'R': 39, 'H': 25, 'Y': 20, 'L': 26, 'V': 35, 'W': 12, 'K': 28, 'J': 35, 'h': 21, 'A': 36, 'F': 40, 'E': 31,
	'C': 36, 'X': 23, 'D': 19, 'U': 35, 'P': 44, 'Q': 40, 'B': 19, 'I': 50, 'N': 20, 'O': 48,
}

// spec writes each message behind its time stamp as the specification lists its
// parts, in order: name and width. i, l are integers of 4, 8 bytes, c, d, r, s texts
// of 1, 2, 4, 8, b is a side.
var spec = map[byte]string{
	'S': "status/c",
	'R': "symbol/s market/c financial_status/c round_lot/i round_lots_only/c classification/c subtype/d authenticity/c short_sale_threshold/c ipo/c luld_tier/c etp/c etp_leverage/i inverse/c",
	'H': "symbol/s status/c -/c reason/r",
	'Y': "symbol/s status/c",
	'L': "mpid/r symbol/s primary/c mode/c status/c",
	'V': "level_1/l level_2/l level_3/l",
	'W': "status/c",
	'K': "symbol/s release_time/i status/c price/i",
	'J': "symbol/s reference_price/i upper_price/i lower_price/i extension/i",
	'h': "symbol/s market/c status/c",
	'A': "order/l side/b size/i symbol/s price/i",
	'F': "order/l side/b size/i symbol/s price/i mpid/r",
	'E': "order/l size/i match/l",
	'C': "order/l size/i match/l printable/y price/i",
	'X': "order/l size/i",
	'D': "order/l",
	'U': "order/l new_order/l size/i price/i",
	'P': "order/l side/b size/i symbol/s price/i match/l",
	'Q': "size/l symbol/s price/i match/l status/c",
	'B': "match/l",
	'I': "paired_shares/l imbalance_shares/l imbalance_side/c symbol/s far_price/i near_price/i reference_price/i status/c variation/c",
	'N': "symbol/s status/c",
	'O': "symbol/s status/c min_price/i max_price/i near_execution_price/i near_execution_time/l lower_price/i upper_price/i",
}

var names = map[byte]string{
	'S': "system_event", 'R': "directory", 'H': "trading_action", 'Y': "short_sale", 'L': "participant", 'V': "mwcb_levels", 'W': "mwcb_status",
	'K': "ipo_quotation", 'J': "auction_collar", 'h': "op_halt", 'A': "add_order", 'F': "add_order", 'E': "trade", 'C': "trade", 'X': "order_cancel",
	'D': "order_delete", 'U': "order_replace", 'P': "trade", 'Q': "cross", 'B': "broken_trade", 'I': "imbalance", 'N': "retail_interest", 'O': "direct_listing",
}

const types = "SRHYLVWKJhAFECXDUPQBINO"

// message draws a message: its bytes and its values by column. Few references and
// locates, so that they meet again.
func message(t *rapid.T, code byte) ([]byte, map[string]any) {
	locate := uint16(rapid.IntRange(0, 4).Draw(t, "locate"))
	tracking := rapid.Uint16().Draw(t, "tracking")
	clock := rapid.Uint64Range(0, uint64(24*time.Hour)-1).Draw(t, "clock")
	m := []byte{code}
	m = binary.BigEndian.AppendUint16(m, locate)
	m = binary.BigEndian.AppendUint16(m, tracking)
	m = append(m, binary.BigEndian.AppendUint64(nil, clock)[2:]...)
	values := map[string]any{"message": names[code], "stock_locate": int64(locate), "tracking": int64(tracking), "time": int64(clock)}
	for part := range strings.FieldsSeq(spec[code]) {
		name, width, _ := strings.Cut(part, "/")
		switch {
		case name == "order" || name == "new_order":
			v := rapid.Int64Range(0, 12).Draw(t, name)
			m, values[name] = binary.BigEndian.AppendUint64(m, uint64(v)), v
		case width == "i":
			v := rapid.Uint32Range(0, 50).Draw(t, name)
			m, values[name] = binary.BigEndian.AppendUint32(m, v), int64(v)
		case width == "l":
			v := rapid.Int64Range(0, 1<<62).Draw(t, name)
			m, values[name] = binary.BigEndian.AppendUint64(m, uint64(v)), v
		case width == "b":
			v := rapid.SampledFrom([]string{"B", "S"}).Draw(t, name)
			m, values[name] = append(m, v...), map[string]string{"B": "buy", "S": "sell"}[v]
		case width == "y":
			v := rapid.SampledFrom([]string{"Y", "N"}).Draw(t, name)
			m, values[name] = append(m, v...), v
		default:
			n := map[string]int{"c": 1, "d": 2, "r": 4, "s": 8}[width]
			v := rapid.StringMatching(`[A-Z]{1,8}`).Draw(t, name)
			v = v[:min(n, len(v))]
			m, values[name] = append(append(m, v...), strings.Repeat(" ", n-len(v))...), v
		}
	}
	if code == 'C' && values["printable"] == "N" {
		values["message"] = "execution"
	}
	return m, values
}

func block(dst, m []byte) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(m))), m...)
}

// A twin keeps orders and symbols in maps.
type twin struct {
	limit   int
	orders  map[bookKey]bookOrder
	symbols map[[2]int]string
}

// apply completes values with what the channel knows, and says how the message is
// dropped if its kind is wanted or not.
func (w *twin) apply(channel int, code byte, values map[string]any) (wanted, unwanted event.Drop) {
	locate := [2]int{channel, int(values["stock_locate"].(int64))}
	if s, ok := values["symbol"].(string); ok {
		if strings.IndexByte("RAFP", code) >= 0 && locate[1] != 0 {
			w.symbols[locate] = s
		}
	} else if s, ok := w.symbols[locate]; ok {
		values["symbol"] = s
	}
	if strings.IndexByte("AFECXDU", code) < 0 {
		return event.Kept, event.Kept
	}
	sideNames := []any{nil, "buy", "sell"}
	key := bookKey{channel, uint64(values["order"].(int64))}
	add := func(key bookKey, side uint32) (event.Drop, event.Drop) {
		if _, ok := w.orders[key]; !ok && len(w.orders) >= w.limit {
			return event.DropOrderLimit, event.DropOrderLimit
		}
		w.orders[key] = bookOrder{side, uint32(values["price"].(int64)), uint32(values["size"].(int64))}
		return event.Kept, event.Kept
	}
	if code == 'A' || code == 'F' {
		return add(key, map[any]uint32{"buy": buySide, "sell": sellSide}[values["side"]])
	}
	o, known := w.orders[key]
	if known {
		values["side"] = sideNames[o.side]
		if code != 'C' && code != 'U' {
			values["price"] = int64(o.price)
		}
		if code == 'D' {
			values["size"] = int64(o.shares)
		}
	}
	switch code {
	case 'D':
		delete(w.orders, key)
	case 'U':
		delete(w.orders, key)
		return add(bookKey{channel, uint64(values["new_order"].(int64))}, o.side)
	default:
		if o.shares -= min(o.shares, uint32(values["size"].(int64))); o.shares == 0 {
			delete(w.orders, key)
		} else {
			w.orders[key] = o
		}
	}
	if !known && code != 'C' {
		return event.DropUnknownOrder, event.Kept
	}
	return event.Kept, event.Kept
}

func TestDecodeEqualsTheTwin(t *testing.T) {
	format := Format()
	var all []string
	for _, f := range format.Fields {
		all = append(all, f.Name)
	}
	rapid.Check(t, func(r *rapid.T) {
		feed := &plan.Feed{Name: "f", Channels: 2, Orders: rapid.IntRange(1, 12).Draw(r, "orders"), Identity: true, Day: "2010-12-24"}
		columns := append(rapid.SliceOfNDistinct(rapid.SampledFrom(all[1:]), 0, 12, rapid.ID).Draw(r, "columns"), "message")
		if !strings.Contains(strings.Join(columns, " "), "symbol") {
			columns = append(columns, "symbol")
		}
		feed.Columns = wiretest.Columns(t, &format, columns...)
		feed.Kinds = refersToOrders | rapid.Uint64().Draw(r, "kinds")
		if rapid.Bool().Draw(r, "few kinds") {
			feed.Kinds = 1<<kindExecution | 1<<rapid.IntRange(0, 20).Draw(r, "kind")
		}
		region := wiretest.Region(t, 4<<20)
		d, err := format.New(feed, region, nil)
		if err != nil {
			r.Fatal(err)
		}
		w := &twin{feed.Orders, map[bookKey]bookOrder{}, map[[2]int]string{}}
		b := wiretest.Batch(feed)
		midnight := event.Nanos(time.Date(2010, 12, 24, 5, 0, 0, 0, time.UTC).UnixNano())
		for range rapid.IntRange(1, 4).Draw(r, "packets") {
			p := &wire.Packet{Progress: wire.Progress{Max: event.MinNanos}, Chan: 7, Order: 8, Seq: 1000, Channel: rapid.IntRange(0, 1).Draw(r, "channel")}
			if rapid.IntRange(0, 9).Draw(r, "forget") == 0 {
				d.Forget(p.Channel)
				maps.DeleteFunc(w.orders, func(k bookKey, _ bookOrder) bool { return k.channel == p.Channel })
				maps.DeleteFunc(w.symbols, func(k [2]int, _ string) bool { return k[0] == p.Channel })
			}
			count := rapid.IntRange(0, 30).Draw(r, "messages")
			p.Skip = rapid.IntRange(0, count/4).Draw(r, "skip")
			p.Count = count - p.Skip
			var want []wiretest.Row
			var drops event.Drops
			latest := event.MinNanos
			for i := range count {
				code := rapid.SampledFrom([]byte(types+"AAAAAEEECXDUP")).Draw(r, "type")
				m, values := message(r, code)
				if len(m) != sizes[code] {
					r.Fatalf("BUG: type %c of %d bytes", code, len(m))
				}
				p.Payload = block(p.Payload, m)
				if i < p.Skip {
					continue
				}
				at := midnight + event.Nanos(values["time"].(int64))
				latest = max(latest, at)
				drop, other := w.apply(p.Channel, code, values)
				isWanted := feed.Kinds&wiretest.Kinds(t, &format, values["message"].(string)) != 0
				if !isWanted {
					drop = other
				}
				if drop != event.Kept {
					drops[drop]++
					continue
				}
				if !isWanted {
					continue
				}
				row := wiretest.Row{Time: at, Chan: 7, Order: 8, Seq: 1000 + uint64(i-p.Skip)}
				for _, column := range feed.Columns {
					row.Values = append(row.Values, values[column.Name])
				}
				want = append(want, row)
			}
			got, err := wiretest.Decode(d, feed, p, b, rapid.IntRange(1, 20).Draw(r, "limit"))
			if err != nil {
				r.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				r.Fatalf("got\n%v, want\n%v", got, want)
			}
			if p.Drops != drops || p.Max != latest || p.Messages != uint64(p.Count) {
				r.Fatalf("account %+v, want drops %v, max %d", p, drops, latest)
			}
		}
	})
}

func TestMessagesAreRefusedByReason(t *testing.T) {
	format := Format()
	feed := &plan.Feed{Channels: 1, Orders: 8, Kinds: ^uint64(0), Day: "2010-12-24", Columns: wiretest.Columns(t, &format)}
	d, err := format.New(feed, wiretest.Region(t, 4<<20), nil)
	if err != nil {
		t.Fatal(err)
	}
	late := make([]byte, 12)
	late[0], late[5] = 'S', 0xff
	cross := make([]byte, 40)
	cross[0], cross[11] = 'Q', 0x80
	hidden := make([]byte, 36)
	hidden[0], hidden[31] = 'C', 'N'
	for _, c := range []struct {
		name    string
		message []byte
		drop    event.Drop
		hit     bool
	}{
		{"a type of no specification", []byte("z12345678901"), event.DropSkippedType, false},
		{"a type of no specification and one byte", []byte("z"), event.DropSkippedType, false},
		{"an order one byte short", append([]byte{'A'}, make([]byte, 34)...), event.DropBadMessage, true},
		{"a block of no bytes", nil, event.DropBadMessage, true},
		{"a time stamp of three days", late, event.DropNoTime, true},
		{"a cross of 2^63 shares", cross, event.DropBadValue, true},
		{"an execution of an unknown order", append([]byte{'E'}, make([]byte, 30)...), event.DropUnknownOrder, true},
		{"a delete of an unknown order", append([]byte{'D'}, make([]byte, 18)...), event.DropUnknownOrder, true},
		{"an execution with its price of an unknown order", hidden, event.Kept, false},
		{"a message longer than its type", append([]byte{'S'}, make([]byte, 20)...), event.Kept, false},
	} {
		p := &wire.Packet{Payload: block(nil, c.message), Count: 9, Progress: wire.Progress{Max: event.MinNanos}}
		if _, err := wiretest.Decode(d, feed, p, wiretest.Batch(feed), 8); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		kept := c.drop == event.Kept
		if p.Messages != 1 || p.Hit != c.hit || kept != (p.Events == 1) || !kept && p.Drops[c.drop] != 1 {
			t.Errorf("%s: account %+v, want %v, hit %v", c.name, p, c.drop, c.hit)
		}
	}
}

func TestTheDayIsThatOfTheFirstReceiveStamp(t *testing.T) {
	format := Format()
	event0 := make([]byte, 12) // a system event at midnight
	event0[0] = 'S'
	for _, c := range []struct{ zone, receive, want string }{
		{"", "2019-01-31T01:00:00Z", "2019-01-30T05:00:00Z"},
		{"", "2019-01-31T12:00:00Z", "2019-01-31T05:00:00Z"},
		{"", "2019-03-10T20:00:00Z", "2019-03-10T05:00:00Z"}, // daylight saving begins
		{"", "2019-11-03T23:00:00Z", "2019-11-03T04:00:00Z"}, // and ends
		{"UTC", "2019-07-01T00:30:00Z", "2019-07-01T00:00:00Z"},
		{"Asia/Kolkata", "2019-07-01T20:00:00Z", "2019-07-01T18:30:00Z"},
	} {
		feed := &plan.Feed{Channels: 2, Zone: c.zone, Kinds: 1 << kindSystemEvent}
		d, err := format.New(feed, wiretest.Region(t, 1<<20), nil)
		if err != nil {
			t.Fatal(err)
		}
		receive, err := time.Parse(time.RFC3339, c.receive)
		if err != nil {
			t.Fatal(err)
		}
		for _, days := range []int{0, 1} { // the first stamp counts, until Forget
			p := &wire.Packet{Payload: block(nil, event0), Count: 1, Progress: wire.Progress{Max: event.MinNanos}, Channel: 1}
			p.Receive = event.Nanos(receive.AddDate(0, 0, days).UnixNano())
			if _, err := wiretest.Decode(d, feed, p, wiretest.Batch(feed), 8); err != nil {
				t.Fatal(err)
			}
			if got := time.Unix(0, int64(p.Max)).UTC().Format(time.RFC3339); got != c.want {
				t.Errorf("zone %q, received %s and %d days later: %s, want %s", c.zone, c.receive, days, got, c.want)
			}
		}
		d.Forget(1)
		p := &wire.Packet{Payload: block(nil, event0), Count: 1, Progress: wire.Progress{Max: event.MinNanos}, Channel: 1}
		p.Receive = event.Nanos(receive.AddDate(1, 0, 0).UnixNano())
		if _, err := wiretest.Decode(d, feed, p, wiretest.Batch(feed), 8); err != nil || p.Max.Add(-300*24*time.Hour) < event.Nanos(receive.UnixNano()) {
			t.Errorf("a new session did not take the day of its own first stamp (%v, %d)", err, p.Max)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	format := Format()
	good := plan.Feed{Name: "f", Channels: 1, Orders: 10, Kinds: ^uint64(0), Columns: wiretest.Columns(t, &format, "symbol", "price")}
	for name, c := range map[string]struct {
		change func(*plan.Feed)
		want   string
	}{
		"no channels":         {func(f *plan.Feed) { f.Channels = 0 }, "channels"},
		"no orders":           {func(f *plan.Feed) { f.Orders = 0 }, "orders"},
		"an unknown zone":     {func(f *plan.Feed) { f.Zone = "Europe/Nowhere" }, "zone"},
		"a day that is none":  {func(f *plan.Feed) { f.Day = "2010-02-30" }, "day"},
		"a day too long ago":  {func(f *plan.Feed) { f.Day = "1066-10-14" }, "day"},
		"a field of no type":  {func(f *plan.Feed) { f.Columns[0].Field = 99 }, "field"},
		"another scale":       {func(f *plan.Feed) { f.Columns[1].Scale = 2 }, "price"},
		"more than the arena": {func(f *plan.Feed) { f.Orders = 1 << 20 }, "full"},
	} {
		feed := good
		feed.Columns = append([]plan.Column(nil), good.Columns...)
		c.change(&feed)
		if _, err := format.New(&feed, wiretest.Region(t, 1<<20), nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one about %q", name, err, c.want)
		}
	}
}

// file reads the sample file: messages behind length prefixes of 0.
func file(tb testing.TB) [][]byte {
	tb.Helper()
	packed, err := os.ReadFile(testdata.Path(tb, "itch", "ex20101224.TEST_ITCH_50.gz"))
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
	var messages [][]byte
	for len(all) > 2 {
		n := sizes[all[2]]
		if n == 0 || len(all) < 2+n {
			tb.Fatalf("type %q with %d bytes left", all[2], len(all))
		}
		messages = append(messages, all[2:2+n])
		all = all[2+n:]
	}
	return messages
}

func TestTheSampleFileDecodesToTheKnownCounts(t *testing.T) {
	format := Format()
	feed := &plan.Feed{Channels: 1, Orders: 10000, Kinds: ^uint64(0), Day: "2010-12-24", Columns: wiretest.Columns(t, &format, "message", "symbol", "price", "size", "match")}
	d, err := format.New(feed, wiretest.Region(t, 4<<20), nil)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	var drops event.Drops
	messages := file(t)
	// What an execution must say, from the add that a plain scan finds.
	prices, wantNotional, notional := map[uint64]int64{}, int64(0), int64(0)
	for _, m := range messages {
		switch m[0] {
		case 'A', 'F':
			prices[binary.BigEndian.Uint64(m[11:])] = int64(binary.BigEndian.Uint32(m[32:]))
		case 'U':
			prices[binary.BigEndian.Uint64(m[19:])] = int64(binary.BigEndian.Uint32(m[31:]))
		case 'E':
			wantNotional += prices[binary.BigEndian.Uint64(m[11:])] * int64(binary.BigEndian.Uint32(m[19:]))
		case 'P':
			wantNotional += int64(binary.BigEndian.Uint32(m[32:])) * int64(binary.BigEndian.Uint32(m[20:]))
		}
		p := &wire.Packet{Payload: block(nil, m), Count: 1, Progress: wire.Progress{Max: event.MinNanos}}
		rows, err := wiretest.Decode(d, feed, p, wiretest.Batch(feed), 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			counts[row.Values[0].(string)]++
			if row.Values[0] == "trade" {
				notional += row.Values[2].(int64) * row.Values[3].(int64)
			}
			if row.Values[0] != "system_event" && row.Values[1] == nil {
				t.Fatalf("no symbol: %v", row)
			}
		}
		for i, n := range p.Drops {
			drops[i] += n
		}
	}
	want := map[string]int{
		"trade": 5000 + 198 - 18, "add_order": 4997 + 3, "order_delete": 1745 - 94, "order_cancel": 45 - 3,
		"order_replace": 12, "system_event": 6, "directory": 3, "trading_action": 3,
	}
	if len(messages) != 12012 || !maps.Equal(counts, want) {
		t.Errorf("%d messages, %v, want 12012, %v", len(messages), counts, want)
	}
	if lost := (event.Drops{event.DropUnknownOrder: 18 + 94 + 3}); drops != lost {
		t.Errorf("drops %v, want %v", drops, lost)
	}
	if notional != wantNotional {
		t.Errorf("notional %d, want %d", notional, wantNotional)
	}
}

func TestVenueCapturesDecode(t *testing.T) {
	format := Format()
	feed := &plan.Feed{Channels: 1, Orders: 1000, Kinds: ^uint64(0), Columns: wiretest.Columns(t, &format)}
	for _, folder := range []string{"Nasdaq.Equities.TotalView.Itch.v5.0", "Nasdaq.Equities.TotalView.Itch.v5.0.20230822"} {
		files, err := filepath.Glob(filepath.Join(testdata.Path(t, "venues", "Nasdaq", folder), "*.pcap"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no captures (%v)", folder, err)
		}
		for _, file := range files {
			d, err := format.New(feed, wiretest.Region(t, 4<<20), nil)
			if err != nil {
				t.Fatal(err)
			}
			messages, events := uint64(0), uint64(0)
			for _, c := range wiretest.Capture(t, file) {
				payload := wiretest.UDP(c.Frame)
				p := &wire.Packet{Payload: payload[20:], Count: int(binary.BigEndian.Uint16(payload[18:])), Progress: wire.Progress{Max: event.MinNanos}, Receive: c.Stamp}
				if _, err := wiretest.Decode(d, feed, p, wiretest.Batch(feed), 3); err != nil {
					t.Errorf("%s: %v", file, err)
				}
				if int(p.Messages) != p.Count || p.Messages != p.Events+p.Drops[event.DropUnknownOrder] {
					t.Errorf("%s: %d of %d messages, account %+v", file, p.Messages, p.Count, p)
				}
				if skew := p.Max - c.Stamp; skew > 60e9 || skew < -60e9 {
					t.Errorf("%s: event time %d is not near the capture's stamp %d", file, p.Max, c.Stamp)
				}
				messages += p.Messages
				events += p.Events
			}
			unknown := strings.Contains(file, "Cancel") || strings.Contains(file, "Delete") || strings.HasSuffix(file, "OrderExecuted.pcap") || strings.HasSuffix(file, "OrderExecutedMessage.pcap")
			if messages == 0 || unknown != (events == 0) {
				t.Errorf("%s: %d messages, %d events", filepath.Base(file), messages, events)
			}
		}
	}
}

// sample is a packet with one message of every type.
func sample() (blocks []byte, count int) {
	for _, code := range []byte(types) {
		m := make([]byte, sizes[code])
		copy(m, []byte{code, 0, 3, 0, 0, 0, 1, 2, 3, 4, 5})
		if code == 'C' {
			m[31] = 'Y'
		}
		blocks = block(blocks, m)
		count++
	}
	return blocks, count
}

func TestEveryTruncationBalances(t *testing.T) {
	blocks, count := sample()
	format := Format()
	feed := &plan.Feed{Channels: 1, Orders: 4, Day: "2019-01-30", Kinds: ^uint64(0), Columns: wiretest.Columns(t, &format), Identity: true}
	d, err := format.New(feed, wiretest.Region(t, 4<<20), nil)
	if err != nil {
		t.Fatal(err)
	}
	whole := uint64(0)
	for n := range len(blocks) + 1 {
		p := &wire.Packet{Payload: blocks[:n:n], Count: count, Progress: wire.Progress{Max: event.MinNanos}}
		if _, err := wiretest.Decode(d, feed, p, wiretest.Batch(feed), 2); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if p.Messages < whole || p.Messages > whole+1 {
			t.Fatalf("%d bytes: %d messages after %d", n, p.Messages, whole)
		}
		whole = p.Messages
	}
	if whole != 23 {
		t.Errorf("%d messages, want 23", whole)
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	blocks, count := sample()
	format := Format()
	feed := &plan.Feed{Channels: 1, Orders: 4, Kinds: ^uint64(0), Columns: wiretest.Columns(t, &format), Identity: true}
	d, err := format.New(feed, wiretest.Region(t, 4<<20), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, events := wiretest.Batch(feed), 0
	var p wire.Packet
	if n := testing.AllocsPerRun(100, func() {
		d.Forget(0)
		p.Reset()
		p.Payload, p.Count, p.Receive = blocks, count, 1548853200e9
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
	f.Add(blocks, uint8(0), uint8(23), ^uint64(0), uint8(4))
	f.Add(blocks[300:], uint8(1), uint8(200), uint64(1), uint8(0))
	f.Add([]byte{0, 0, 0, 1, 'A', 255, 255}, uint8(0), uint8(3), uint64(0), uint8(1))
	format := Format()
	columns := wiretest.Columns(f, &format)
	b := wiretest.Batch(&plan.Feed{Columns: columns})
	f.Fuzz(func(t *testing.T, payload []byte, skip, count uint8, mask uint64, orders uint8) {
		feed := &plan.Feed{Channels: 2, Orders: int(orders) + 1, Kinds: mask, Columns: columns, Identity: true, Zone: "UTC"}
		d, err := format.New(feed, wiretest.Region(t, 4<<20), nil)
		if err != nil {
			t.Fatal(err)
		}
		for channel := range 2 {
			p := &wire.Packet{Payload: payload, Skip: int(skip), Count: int(count), Progress: wire.Progress{Max: event.MinNanos}, Channel: channel}
			if _, err := wiretest.Decode(d, feed, p, b, 3); err != nil {
				t.Fatal(err)
			}
			if p.Messages > uint64(count) {
				t.Fatalf("%d messages of %d", p.Messages, count)
			}
			d.Forget(channel)
		}
	})
}

// BenchmarkDecode decodes the sample file, 30 messages a packet.
func BenchmarkDecode(b *testing.B) {
	var packets []wire.Packet
	for i, m := range file(b) {
		if i%30 == 0 {
			packets = append(packets, wire.Packet{Receive: 1293195600e9})
		}
		p := &packets[len(packets)-1]
		p.Payload = block(p.Payload, m)
		p.Count++
	}
	format := Format()
	for _, c := range []struct {
		name  string
		kinds uint64
	}{
		{"kinds=cross", 1 << kindCross},
		{"kinds=trade", 1 << kindTrade},
		{"kinds=all", ^uint64(0)},
	} {
		for _, saves := range []string{"off", "on"} {
			b.Run("format=itch50/"+c.name+"/undo="+saves, func(b *testing.B) { benchmarkDecode(b, &format, packets, c.kinds, saves == "on") })
		}
	}
}

func benchmarkDecode(b *testing.B, format *wire.Format, packets []wire.Packet, kinds uint64, saves bool) {
	b.Helper()
	feed := &plan.Feed{Channels: 1, Orders: 10000, Kinds: kinds, Columns: wiretest.Columns(b, format, "symbol", "price", "size"), Identity: true}
	region := wiretest.Region(b, 16<<20)
	var undo *arena.Undo
	if saves {
		var err error
		if undo, err = arena.NewUndo(region, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
	d, err := format.New(feed, region, undo)
	if err != nil {
		b.Fatal(err)
	}
	batch := wiretest.Batch(feed)
	var p wire.Packet
	messages, events := uint64(0), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		d.Forget(0)
		for i := range packets {
			if i%64 == 0 {
				undo.Begin(uint64(i))
			}
			p.Reset()
			p.Payload, p.Count, p.Receive = packets[i].Payload, packets[i].Count, packets[i].Receive
			for d.Decode(&p, batch) {
				batch.Reset()
			}
			messages += p.Messages
			events += p.Events
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(messages), "ns/message")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(max(1, events)), "ns/event")
}
