package acceptance

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/testdata"
)

func sortLines(lines []line) {
	slices.SortStableFunc(lines, func(a, b line) int {
		return cmp.Or(cmp.Compare(a.end, b.end), strings.Compare(a.query, b.query), strings.Compare(a.canonical, b.canonical))
	})
}

// A trade is an IEX message T.
type trade struct {
	at      int64
	channel uint64 // and session
	epoch   int
	seq     uint64
	symbol  string
	price   int64 // 1/10000
	size    int64
}

// before is the order of events for first and last.
func (a *trade) before(b *trade) bool {
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.channel, b.channel), cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.seq, b.seq)) < 0
}

// A segment is an IEX-TP packet taken apart.
type segment struct {
	index    int // of its record in the capture
	stamp    int64
	channel  uint64 // and session
	epoch    int    // of its channel, from 1, by the order of the whole capture
	seq      uint64
	sent     int64
	promised int // messages by the header
	messages int // whole ones
	bytes    int // of the whole ones, length fields included
	newest   int64
	trades   []trade
}

// segmentOf reads one IEX-TP packet.
func segmentOf(tb testing.TB, p []byte) segment {
	tb.Helper()
	le := binary.LittleEndian
	if p[0] != 1 || le.Uint16(p[2:]) != 0x8004 {
		tb.Fatalf("not DEEP 1.0 over IEX-TP 1: % x", p[:4])
	}
	s := segment{
		channel: uint64(le.Uint32(p[4:]))<<32 | uint64(le.Uint32(p[8:])), seq: le.Uint64(p[24:]), sent: int64(le.Uint64(p[32:])), promised: int(le.Uint16(p[14:])),
		newest: -1 << 63,
	}
	body := p[40:]
	for s.messages < s.promised && len(body) >= 2 && len(body)-2 >= int(le.Uint16(body)) {
		m := body[2 : 2+le.Uint16(body)]
		when := int64(le.Uint64(m[2:]))
		if m[0] == 'T' {
			s.trades = append(s.trades, trade{
				at: when, channel: s.channel, seq: s.seq + uint64(s.messages), symbol: strings.TrimRight(string(m[10:18]), " "),
				size: int64(le.Uint32(m[18:])), price: int64(le.Uint64(m[22:])),
			})
		}
		s.newest = max(s.newest, when)
		s.messages++
		s.bytes += 2 + len(m)
		body = body[2+len(m):]
	}
	return s
}

// deep reads DEEP10 and its packets. Nothing is lost, doubled or out of order in it, so
// a number below the last one's begins an epoch.
// Tests share what is read: they copy what they change.
func deep(tb testing.TB) ([]record, []segment) {
	tb.Helper()
	if deepOnce.records != nil {
		return slices.Clone(deepOnce.records), slices.Clone(deepOnce.segments)
	}
	records := readPcap(tb, testdata.Path(tb, "iex", "DEEP10.pcap.gz"))
	var out []segment
	epoch, next := 1, uint64(0)
	for i := range records {
		s := segmentOf(tb, payload(records[i].data))
		s.index, s.stamp = i, records[i].stamp
		if next > 0 && s.seq < next {
			epoch++
		} else if next > 0 && s.seq != next {
			tb.Fatalf("record %d: sequence %d after %d", i, s.seq, next)
		}
		next = s.seq + uint64(s.promised)
		s.epoch = epoch
		for k := range s.trades {
			s.trades[k].epoch = epoch
		}
		out = append(out, s)
	}
	deepOnce.records, deepOnce.segments = records, out
	return slices.Clone(records), slices.Clone(out)
}

// deepOnce keeps DEEP10 for the tests, which run one after the other.
var deepOnce struct {
	records  []record
	segments []segment
}

const (
	second = int64(1e9)
	minute = 60 * second
)

// bars computes the rows of examples/iex-bars.yaml from trades in any order.
// missing says how many messages are missing in the window that begins there.
func bars(trades []trade, width int64, missing func(start int64) uint64) []line {
	type key struct {
		start  int64
		symbol string
	}
	type bar struct {
		first, last      *trade
		high, low        int64
		volume, notional *big.Int
		trades           int
		newest           int64
	}
	all := map[key]*bar{}
	for i := range trades {
		x := &trades[i]
		k := key{x.at - mod(x.at, width), x.symbol}
		b := all[k]
		if b == nil {
			b = &bar{first: x, last: x, high: x.price, low: x.price, volume: new(big.Int), notional: new(big.Int)}
			all[k] = b
		}
		if x.before(b.first) {
			b.first = x
		}
		if b.last.before(x) {
			b.last = x
		}
		b.high, b.low = max(b.high, x.price), min(b.low, x.price)
		b.trades++
		b.volume.Add(b.volume, big.NewInt(x.size))
		b.notional.Add(b.notional, new(big.Int).Mul(big.NewInt(x.price), big.NewInt(x.size)))
	}
	var out []line
	for k, b := range all {
		price := func(v int64) string { return fixed(big.NewInt(v), 4) }
		vwap := "null"
		if b.volume.Sign() > 0 {
			// notional has 4 decimals, vwap 8.
			vwap = fixed(halfEven(new(big.Int).Mul(b.notional, big.NewInt(10_000)), b.volume), 8)
		}
		l := line{
			query: "bars", key: fmt.Sprintf(`"symbol":%q`, k.symbol), canonical: k.symbol, start: k.start, end: k.start + width, complete: "true",
			values: fmt.Sprintf(`"open":%s,"high":%s,"low":%s,"close":%s,"volume":%s,"trades":%d,"notional":%s,"vwap":%s`,
				price(b.first.price), price(b.high), price(b.low), price(b.last.price), b.volume, b.trades, fixed(b.notional, 4), vwap),
		}
		if missing != nil {
			if l.missing = missing(k.start); l.missing > 0 {
				l.complete = "false"
			}
		}
		out = append(out, l)
	}
	return out
}

// mod is the remainder of the division that rounds down.
func mod(a, b int64) int64 { return (a%b + b) % b }

// flushed marks the lines that no watermark closes: those that end after mark.
func flushed(lines []line, mark int64) []line {
	for i := range lines {
		if lines[i].end > mark {
			lines[i].firing = "flush"
		}
	}
	return lines
}
