package raw

import (
	"bytes"
	"encoding/binary"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/wiretest"
)

func feed(unit plan.TimeUnit, offset, width int, columns ...plan.Column) *plan.Feed {
	return &plan.Feed{Name: "f", Columns: columns, Identity: true, Time: plan.EventTime{Unit: unit, Column: plan.Column{Offset: offset, Width: width}}}
}

func column(t event.Type, offset, width int) plan.Column {
	return plan.Column{Name: "c", Type: t, Offset: offset, Width: width}
}

func decode(t interface{ Fatal(...any) }, f *plan.Feed, payload []byte, limit int) ([]wiretest.Row, *wire.Packet) {
	d, err := Format().New(f, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &wire.Packet{Payload: payload, Progress: wire.Progress{Max: event.MinNanos}, Receive: 77, Chan: 1, Order: 2, Seq: 3}
	rows, err := wiretest.Decode(d, f, p, wiretest.Batch(f), limit)
	if err != nil {
		t.Fatal(err)
	}
	return rows, p
}

func TestDecodeReadsWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var order interface {
			binary.ByteOrder
			binary.AppendByteOrder
		} = binary.BigEndian
		f := feed(plan.UnitMS, 0, 8)
		f.LittleEndian = rapid.Bool().Draw(t, "little")
		if f.LittleEndian {
			order = binary.LittleEndian
		}
		records := rapid.IntRange(1, 4).Draw(t, "records")
		var kinds []string
		for range rapid.IntRange(0, 6).Draw(t, "columns") {
			kinds = append(kinds, rapid.SampledFrom([]string{"i1", "i2", "i4", "i8", "d4", "f4", "f8", "t"}).Draw(t, "kind"))
		}
		pad := rapid.IntRange(0, 5).Draw(t, "pad")
		var payload []byte
		var want []wiretest.Row
		size := 0
		for r := range records {
			start := len(payload)
			ms := rapid.Int64Range(-1e12, 1e12).Draw(t, "time")
			payload = order.AppendUint64(payload, uint64(ms))
			row := wiretest.Row{Time: event.Nanos(ms * 1e6), Chan: 1, Order: 2, Seq: 3, Index: uint32(r)}
			for _, kind := range kinds {
				offset, kindType := len(payload)-start, event.Int64
				var v any
				switch kind {
				case "i1":
					n := rapid.Int8().Draw(t, "v")
					payload, v = append(payload, byte(n)), int64(n)
				case "i2":
					n := rapid.Int16().Draw(t, "v")
					payload, v = order.AppendUint16(payload, uint16(n)), int64(n)
				case "i4", "d4":
					n := rapid.Int32().Draw(t, "v")
					payload, v = order.AppendUint32(payload, uint32(n)), int64(n)
					if kind == "d4" {
						kindType = event.Decimal
					}
				case "i8":
					n := rapid.Int64().Draw(t, "v")
					payload, v = order.AppendUint64(payload, uint64(n)), n
				case "f4":
					n := rapid.Float32().Draw(t, "v")
					payload, v, kindType = order.AppendUint32(payload, math.Float32bits(n)), int64(math.Float64bits(float64(n)+0)), event.Float64
				case "f8":
					n := rapid.Float64().Draw(t, "v")
					payload, v, kindType = order.AppendUint64(payload, math.Float64bits(n)), int64(math.Float64bits(n+0)), event.Float64
				case "t":
					s := rapid.StringMatching(`[a-z]{0,6}`).Draw(t, "v")
					payload, v, kindType = append(append(payload, s...), "\x00   \x00  "[:7-len(s)]...), s, event.Text
				}
				if r == 0 {
					f.Columns = append(f.Columns, column(kindType, offset, len(payload)-start-offset))
				}
				row.Values = append(row.Values, v)
			}
			size = len(payload) - start
			payload = append(payload, make([]byte, pad)...)
			want = append(want, row)
		}
		if records > 1 || rapid.Bool().Draw(t, "stride") {
			f.Stride = size + pad
		}
		rows, p := decode(t, f, payload, rapid.IntRange(1, 5).Draw(t, "limit"))
		if !reflect.DeepEqual(rows, want) {
			t.Fatalf("got %v, want %v, account %+v", rows, want, p)
		}
		cut := rapid.IntRange(1, size+pad).Draw(t, "cut")
		rows, p = decode(t, f, payload[:len(payload)-cut], 2)
		whole, hit := records-1, cut < size+pad // a rest of a record remains
		if f.Stride == 0 {
			hit = cut > pad
			if !hit {
				whole++
			}
		}
		if len(rows) != whole || p.Hit != hit {
			t.Fatalf("%d bytes cut of %d: %d rows, account %+v", cut, size+pad, len(rows), p)
		}
	})
}

func TestTimes(t *testing.T) {
	text := append([]byte("2023-09-18T14:23:10Z"), make([]byte, 12)...)
	for _, c := range []struct {
		name    string
		feed    *plan.Feed
		payload []byte
		want    event.Nanos // 0: no time
	}{
		{"seconds in four bytes", feed(plan.UnitS, 0, 4), binary.BigEndian.AppendUint32(nil, 1695046990), 1695046990e9},
		{"nanoseconds", feed(plan.UnitNS, 0, 8), binary.BigEndian.AppendUint64(nil, 1695046990123456789), 1695046990123456789},
		{"seconds beyond what nanoseconds hold", feed(plan.UnitS, 0, 8), binary.BigEndian.AppendUint64(nil, 1<<40), 0},
		{"the end of time", feed(plan.UnitNS, 0, 8), binary.BigEndian.AppendUint64(nil, math.MaxInt64), 0},
		{"padded text", feed(plan.UnitRFC3339, 0, 32), text, 1695046990e9},
		{"text that is no time", feed(plan.UnitRFC3339, 0, 32), bytes.Repeat([]byte("x"), 32), 0},
		{"receipt", feed(plan.UnitReceive, 0, 0), []byte{1}, 77},
	} {
		rows, p := decode(t, c.feed, c.payload, 1)
		switch {
		case c.want == 0 && (p.Drops[event.DropNoTime] != 1 || !p.Hit):
			t.Errorf("%s: %v, drops %v, want no_time", c.name, rows, p.Drops)
		case c.want != 0 && (len(rows) != 1 || rows[0].Time != c.want || p.Max != c.want):
			t.Errorf("%s: %v, drops %v, want %d", c.name, rows, p.Drops, c.want)
		}
	}
}

func TestFloatsMustBeFinite(t *testing.T) {
	f := feed(plan.UnitReceive, 0, 0, column(event.Text, 0, 4), column(event.Float64, 0, 4), column(event.Float64, 0, 8))
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, payload := range [][]byte{
			binary.BigEndian.AppendUint64(nil, math.Float64bits(v)),
			append(binary.BigEndian.AppendUint32(nil, math.Float32bits(float32(v))), 0, 0, 0, 0),
		} {
			if rows, p := decode(t, f, payload, 1); len(rows) != 0 || p.Drops[event.DropNotFinite] != 1 || !p.Hit {
				t.Errorf("%v: %v, drops %v, want not_finite", v, rows, p.Drops)
			}
		}
	}
	rows, _ := decode(t, f, binary.BigEndian.AppendUint64(nil, 1<<63), 1)
	if len(rows) != 1 || rows[0].Values[2] != int64(0) {
		t.Errorf("minus zero: %v, want 0", rows)
	}
}

func TestNewRefuses(t *testing.T) {
	stride := feed(plan.UnitNS, 0, 8)
	stride.Stride = 7
	for name, f := range map[string]*plan.Feed{
		"a stride shorter than the record": stride,
		"no unit":                          feed("", 0, 8),
		"an integer of 3 bytes":            feed(plan.UnitNS, 0, 3),
		"a float of 2 bytes":               feed(plan.UnitReceive, 0, 0, column(event.Float64, 0, 2)),
		"a text of 65 bytes":               feed(plan.UnitReceive, 0, 0, column(event.Text, 0, 65)),
		"a text of no bytes":               feed(plan.UnitReceive, 0, 0, column(event.Text, 0, 0)),
		"an offset below 0":                feed(plan.UnitReceive, 0, 0, column(event.Int64, -1, 8)),
		"an offset beyond a packet":        feed(plan.UnitReceive, 0, 0, column(event.Int64, 1<<17, 8)),
	} {
		if _, err := Format().New(f, nil, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// bars is a record of 32 bytes: time, key, price, size.
func bars() (*plan.Feed, []byte) {
	f := feed(plan.UnitNS, 0, 8, column(event.Text, 8, 8), column(event.Decimal, 16, 8), column(event.Int64, 24, 4), column(event.Float64, 16, 8))
	f.Columns[1].Scale = 4
	f.LittleEndian = true
	f.Stride = 32
	record := binary.LittleEndian.AppendUint64(nil, 1695046990123456789)
	record = append(record, "MSFT\x00\x00\x00\x00"...)
	record = binary.LittleEndian.AppendUint64(record, 367000)
	record = append(record, make([]byte, 8)...)
	return f, bytes.Repeat(record, 40)
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	f, payload := bars()
	payload = append(payload, 1, 2, 3)
	d, err := Format().New(f, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, events := wiretest.Batch(f), 0
	var p wire.Packet
	if n := testing.AllocsPerRun(100, func() {
		p.Reset()
		p.Payload = payload
		for more := true; more; {
			b.Reset()
			b.Limit = 7
			more = d.Decode(&p, b)
			events += b.N
		}
	}); n != 0 || events == 0 || p.Drops[event.DropBadMessage] != 1 {
		t.Errorf("%v allocations for %d events, want 0", n, events)
	}
}

// FuzzDecode checks that the account of any payload balances, with any layout that New
// takes.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(strings.Repeat("12345678", 9)), uint16(0), uint8(8), uint16(8), uint8(8), uint8(16), true)
	f.Add([]byte("1234"), uint16(0), uint8(4), uint16(2), uint8(2), uint8(0), false)
	f.Fuzz(func(t *testing.T, payload []byte, timeAt uint16, timeWidth uint8, offset uint16, width, stride uint8, little bool) {
		for _, kind := range []event.Type{event.Int64, event.Decimal, event.Float64, event.Text} {
			fd := feed(plan.UnitUS, int(timeAt), int(timeWidth), column(kind, int(offset), int(width)))
			fd.Stride, fd.LittleEndian = int(stride), little
			if _, err := Format().New(fd, nil, nil); err != nil {
				continue
			}
			decode(t, fd, payload, 2)
		}
	})
}

// BenchmarkDecode decodes 40 records of 32 bytes.
func BenchmarkDecode(b *testing.B) {
	f, payload := bars()
	b.Run("format=raw", func(b *testing.B) {
		d, err := Format().New(f, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		batch := wiretest.Batch(f)
		var p wire.Packet
		events := uint64(0)
		b.ReportAllocs()
		for b.Loop() {
			p.Reset()
			p.Payload = payload
			batch.Reset()
			for d.Decode(&p, batch) {
				batch.Reset()
			}
			events += p.Events
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
	})
}
