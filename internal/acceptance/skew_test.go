package acceptance

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// iexTrade is a message T.
func iexTrade(x *trade) []byte {
	le := binary.LittleEndian
	b := le.AppendUint64([]byte{'T', 0}, uint64(x.at))
	b = append(b, fmt.Sprintf("%-8s", x.symbol)...)
	b = le.AppendUint32(b, uint32(x.size))
	b = le.AppendUint64(b, uint64(x.price))
	return le.AppendUint64(b, x.seq)
}

// iexQuiet is a message that is no trade but has a time: an operational halt.
func iexQuiet(at int64) []byte {
	return append(binary.LittleEndian.AppendUint64([]byte{'O', 'N'}, uint64(at)), "ZVZZT   "...)
}

// iexPacket is the payload of an IEX-TP packet.
func iexPacket(channel, session uint32, seq uint64, sent int64, messages ...[]byte) []byte {
	le := binary.LittleEndian
	var body []byte
	for _, m := range messages {
		body = append(le.AppendUint16(body, uint16(len(m))), m...)
	}
	b := le.AppendUint16([]byte{1, 0}, 0x8004)
	b = le.AppendUint32(b, channel)
	b = le.AppendUint32(b, session)
	b = le.AppendUint16(b, uint16(len(body)))
	b = le.AppendUint16(b, uint16(len(messages)))
	b = le.AppendUint64(b, 0)
	b = le.AppendUint64(b, seq)
	b = le.AppendUint64(b, uint64(sent))
	return append(b, body...)
}

const skewConfig = `
feeds:
  deep:
    match: {protocol: udp, destination: 224.2.3.10, port: 16648}
    format: iex-deep
queries:
  bars:
    from: deep
    where: message == "trade"
    key: [symbol]
    window: {tumbling: 1s, offset: 0s}
    watermark: {delay: %s}
    panes: %d
    select:
      open: first(price)
      high: max(price)
      low: min(price)
      close: last(price)
      volume: sum(size)
      trades: count()
      notional: sum(price * size)
      vwap: vwap(price, size)
    sinks: [rows]
sinks:
  rows: {jsonl: {path: rows.jsonl}}
`

// A burst is one packet as the sequential computation sees it.
type burst struct {
	source int
	begins bool    // the source's new session: the old one has retired
	times  []int64 // of all its messages
	trades []trade
}

// judged is what a sequential reader makes of bursts: one watermark, the least of the
// sources' greatest times less the delay, which a packet moves after its last message.
type judged struct {
	kept      []trade
	late, far uint64
	mark      int64          // the watermark at the end
	marked    map[int64]bool // windows, by start, that were open when something was too far ahead
}

func judge(bursts []burst, delay, panes int64) judged {
	const width = second
	j := judged{mark: -1 << 63, marked: map[int64]bool{}}
	greatest := map[int]int64{}
	least := func() int64 {
		m := int64(1<<63 - 1)
		for _, v := range greatest {
			m = min(m, v)
		}
		return m
	}
	floor := func(v int64) int64 { return v - mod(v, width) }
	for _, b := range bursts {
		if b.begins && len(greatest) > 1 {
			delete(greatest, b.source)
			j.mark = max(j.mark, least()-delay)
		}
		before, seen := j.mark, len(greatest) > 0
		if old, ok := greatest[b.source]; ok {
			greatest[b.source] = old
		} else {
			greatest[b.source] = -1 << 63
		}
		for _, at := range b.times {
			greatest[b.source] = max(greatest[b.source], at)
		}
		after := max(before, least()-delay)
		for _, x := range b.trades {
			switch start := floor(x.at); {
			case seen && before > -1<<63 && start+width <= before:
				j.late++
			case start > floor(after)+panes*width:
				j.far++
				low := floor(after)
				if before > -1<<63 {
					low = floor(before)
				}
				for w := low; w <= low+panes*width; w += width {
					j.marked[w] = true
				}
			default:
				j.kept = append(j.kept, x)
			}
		}
		j.mark = after
	}
	return j
}

// skewed makes a capture of two channels: their clocks are skewed, times go back and
// forth within each, and packets come now from one, now from the other.
// With sessions, channel 2 begins a new one from time to time.
func skewed(seed uint64, skew int64, count int, sessions bool) ([]record, []burst) {
	dice := rand.New(rand.NewPCG(seed, 20))
	var records []record
	var bursts []burst
	const start = int64(1493132700) * second
	var seq [2]uint64
	session := [2]uint32{100, 101}
	clock := start
	for len(bursts) < count {
		clock += dice.Int64N(2 * second / 100)
		k := 0
		if dice.IntN(3) == 0 {
			k = 1
		}
		if seq[k] == 0 {
			seq[k] = 1
		}
		b := burst{source: k}
		if k == 1 && sessions && seq[1] > 1 && dice.IntN(300) == 0 {
			b.begins = true
			session[1]++
			seq[1] = 1
		}
		var messages [][]byte
		from := seq[k]
		for range 1 + dice.IntN(5) {
			at := clock - int64(k)*skew + dice.Int64N(3*second/2) - second
			b.times = append(b.times, at)
			if dice.IntN(4) == 0 {
				messages = append(messages, iexQuiet(at))
			} else {
				x := trade{
					at: at, channel: uint64(k+1)<<32 | uint64(session[k]), epoch: 1, seq: seq[k], symbol: fmt.Sprintf("S%d", dice.IntN(40)),
					price: 100_000 + dice.Int64N(50_000), size: 1 + dice.Int64N(900),
				}
				if dice.IntN(5) == 0 { // ties in time, within a channel and between them
					x.at -= mod(x.at, second/4)
					b.times[len(b.times)-1] = x.at
				}
				b.trades = append(b.trades, x)
				messages = append(messages, iexTrade(&x))
			}
			seq[k]++
		}
		frame := udp(fmt.Sprintf("10.0.0.%d:16648", k+1), "224.2.3.10:16648", iexPacket(uint32(k+1), session[k], from, clock, messages...))
		records = append(records, record{stamp: clock, data: frame})
		bursts = append(bursts, b)
	}
	return records, bursts
}

func TestLateEventsAreTheSameForAnyWorkersAndBatches(t *testing.T) {
	for k, c := range []struct {
		name  string
		skew  int64
		delay int64
		panes int64
		ends  bool
	}{
		{"late", second / 2, 100e6, 12, false},
		{"late, channels far apart", 7 * second, 0, 12, false},
		{"late and too far ahead", 3 * second, 50e6, 2, false},
		{"late, sessions end", 5 * second, 100e6, 12, true},
	} {
		records, bursts := skewed(uint64(c.panes), c.skew, 10_000, c.ends)
		want := judge(bursts, c.delay, c.panes)
		if want.late < 500 || (c.panes < 12) != (want.far > 50) {
			t.Fatalf("%s: %d late, %d too far ahead: the capture does not show what it is for", c.name, want.late, want.far)
		}
		lines := bars(want.kept, second, nil)
		for i := range lines {
			if want.marked[lines[i].start] {
				lines[i].complete = "false"
			}
		}
		epochs := uint64(2)
		for _, b := range bursts {
			if b.begins {
				epochs++
			}
		}
		rows := text(flushed(lines, want.mark))
		config := fmt.Sprintf(skewConfig, fmt.Sprintf("%dms", c.delay/1e6), c.panes)
		path := writePcap(t, "skewed.pcap", records)
		for _, n := range workers(t) {
			for _, batch := range []int{1, 7, 256} {
				if k > 0 && (n == 2 || batch == 1) {
					continue
				}
				args := append(flag("workers", n), flag("batch", batch)...)
				r := replay(t, config, append(args, path)...)
				if !same(t, fmt.Sprint(c.name, " ", args), r.rows, rows) {
					return
				}
				r.counts(t, map[string]uint64{
					"late": want.late, "too_far_ahead": want.far, "epochs": epochs, "missing": 0, "applied": uint64(len(want.kept)),
				})
			}
		}
	}
}

// What waits behind a hole when the input ends comes out then, the hole is told, and it
// is the same however many workers there are and whichever of them ends first.
func TestWhatIsHeldAtTheEndIsNotLost(t *testing.T) {
	const delay = 3 * second
	for seed := range uint64(3) {
		records, bursts := skewed(30+seed, second/4, 400, false)
		var rest []record
		var left []burst
		gaps := []gap{}
		lost := uint64(0)
		last := len(records) - 5
		newest := [2]int64{-1 << 63, -1 << 63}
		after := -1
		for i, b := range bursts {
			if i == last {
				lost = uint64(len(b.times))
				gaps = append(gaps, gap{count: lost, before: newest[b.source], after: 1<<63 - 1})
				after = b.source
				continue
			}
			for _, at := range b.times {
				newest[b.source] = max(newest[b.source], at)
				if b.source == after {
					gaps[0].after = newest[after]
				}
			}
			rest, left = append(rest, records[i]), append(left, b)
		}
		if gaps[0].after == 1<<63-1 {
			gaps = nil // the last of its channel: nobody knows that it was sent
			lost = 0
		}
		if rest[len(rest)-1].stamp-rest[last].stamp >= holdFor {
			t.Fatalf("seed %d: the hole is given up before the end", seed)
		}
		j := judge(left, delay, 20)
		lines := bars(j.kept, second, func(start int64) (n uint64) {
			for _, g := range gaps {
				if g.touches(start, start+second, delay) {
					n += g.count
				}
			}
			return n
		})
		want := text(flushed(lines, j.mark))
		path := writePcap(t, "held.pcap", rest)
		config := fmt.Sprintf(skewConfig, "3s", 20)
		for range 3 {
			for _, n := range workers(t) {
				r := replay(t, config, append(flag("workers", n), path)...)
				same(t, fmt.Sprintf("seed %d, %d workers", seed, n), r.rows, want)
				r.counts(t, map[string]uint64{"missing": lost, "applied": uint64(len(j.kept))})
				r.balance(t, "held at the end")
			}
		}
	}
}
