package replay_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/sequence"
	"github.com/headrace/headrace/dataplane/wire/formats"
	"github.com/headrace/headrace/internal/naive"
	"github.com/headrace/headrace/internal/packet"
)

// The rows of the workers are those of a twin that knows no workers, for any number
// of them and any size of batch: the same bytes. The captures are small and nasty:
// several feeds and channels with skewed clocks, loss, reordering, two lines,
// restarts, ends of sessions, bad records, null keys, few keys, short delays.
func TestRowsAreThoseOfTheTwin(t *testing.T) {
	for range *scenes {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			checkScene(t, newScene(seed), func(int) (int, int) {
				return []int{2, 3, 8}[r.IntN(3)], []int{1, 7, 256}[r.IntN(3)]
			})
		})
	}
}

var scenes = flag.Int("scenes", 24, "how many random scenes to check")

// Scenes that were computed wrongly once.
func TestScenesThatWereWrongOnce(t *testing.T) {
	for _, seed := range []uint64{
		202,                 // packets of several feeds in one worker's lanes, out of order
		206,                 // a record cut by the end of the file
		218,                 // sessions of an IEX-TP channel, placed on different workers
		407,                 // windows beyond the panes, while others close
		632,                 // keys of windows without a pane, admitted out of order
		8713257703809717820, // events added to a batch that was on its way
		5125287185791546549, // a worker that rested between firing the last windows and its end
	} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			checkScene(t, newScene(seed), func(i int) (int, int) { return []int{2, 3, 8}[i], []int{256, 7, 1}[i] })
		})
	}
}

type fataler interface {
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

func checkScene(t fataler, c *scene, more func(i int) (workers, batch int)) {
	p := c.plan(t, 1, 256)
	wantRows, wantCounts := naive.Run(c.twin(t, p))
	want := c.lines(p, wantRows)
	first, s := c.run(t, p)
	if got := describe(t, first); !slices.Equal(got, want) {
		t.Fatalf("rows of one worker differ from the twin's:\n%s\n%s\n%s", difference(got, want), c.config, c.packets())
	}
	c.checkCounts(t, p, &s, wantCounts)
	checkLedgers(t, p, &s)
	for i := range 3 {
		workers, batch := more(i)
		p := c.plan(t, workers, batch)
		rows, s := c.run(t, p)
		if !bytes.Equal(rows, first) {
			t.Fatalf("%d workers, batches of %d: other rows than one worker's:\n%s\n%s", workers, batch, difference(describe(t, rows), describe(t, first)), c.config)
		}
		c.checkCounts(t, p, &s, wantCounts)
		checkLedgers(t, p, &s)
	}
}

// checkCounts compares each query's events by fate with the twin's.
func (c *scene) checkCounts(t fataler, p *plan.Plan, s *replay.Summary, want []naive.Counts) {
	for q := range p.Queries {
		got := naive.Counts{}
		for _, w := range s.Counters {
			k := &w.Queries[q]
			got["received"] += k.Received
			got["applied"] += k.Applied
			for d, n := range k.Drops {
				got[event.Drop(d).String()] += n
			}
		}
		for _, name := range []string{"received", "applied", "filtered", "late", "too_far_ahead", "key_limit", "null_key", "key_length", "pane_memory"} {
			if got[name] != want[q][name] {
				t.Fatalf("%d workers: query %s: %s = %d, want %d\ngot  %v\nwant %v\n%s", p.Workers, p.Queries[q].Name, name, got[name], want[q][name], got, want[q], c.config)
			}
		}
	}
}

// checkLedgers checks the sums of segment.FeedCounters and segment.QueryCounters.
func checkLedgers(t fataler, p *plan.Plan, s *replay.Summary) {
	var frames, taken uint64
	for i := range p.Feeds {
		for w, c := range s.Counters {
			f := &c.Feeds[i]
			taken += f.Frames
			if sum := f.FramesApplied + f.FramesDuplicate + f.FramesHeartbeat + f.FramesHeld + total(&f.FrameDrops); sum != f.Frames {
				t.Fatalf("worker %d of %d, feed %s: %d frames, the sum of their fates is %d: %+v", w, p.Workers, p.Feeds[i].Name, f.Frames, sum, *f)
			}
			if sum := f.Applied + f.Duplicate + f.MessagesHeld + total(&f.MessageDrops); sum != f.Messages {
				t.Fatalf("worker %d of %d, feed %s: %d messages, the sum of their fates is %d: %+v", w, p.Workers, p.Feeds[i].Name, f.Messages, sum, *f)
			}
			if f.FramesHeld != 0 || f.MessagesHeld != 0 {
				t.Fatalf("worker %d of %d, feed %s: %d frames and %d messages are still held at the end", w, p.Workers, p.Feeds[i].Name, f.FramesHeld, f.MessagesHeld)
			}
		}
	}
	for _, c := range s.Counters {
		frames += c.Worker.Frames
		taken += c.Worker.UnknownFeed
	}
	if frames != taken {
		t.Fatalf("%d workers: %d frames received, %d belong to feeds", p.Workers, frames, taken)
	}
	for q := range p.Queries {
		var k segment.QueryCounters
		var drops uint64
		for _, c := range s.Counters {
			x := &c.Queries[q]
			k.Received, k.Applied, k.Sent, k.Arrived = k.Received+x.Received, k.Applied+x.Applied, k.Sent+x.Sent, k.Arrived+x.Arrived
			drops += total(&x.Drops)
		}
		if k.Received != k.Applied+k.Sent-k.Arrived+drops || k.Sent != k.Arrived {
			t.Fatalf("%d workers: query %s: received %d, applied %d, sent %d, arrived %d, dropped %d", p.Workers, p.Queries[q].Name, k.Received, k.Applied, k.Sent, k.Arrived, drops)
		}
	}
}

func total(d *event.Drops) (n uint64) {
	for _, v := range d {
		n += v
	}
	return n
}

// A scene is a config and a capture.
type scene struct {
	rand    *rand.Rand
	config  string
	feeds   []*sceneFeed
	records []capture.Record
	end     int // bytes that the end of the file leaves of the last record; -1: all
	frames  []frame
	lane    int
	outbox  int
}

type sceneFeed struct {
	name, format string
	port         uint16
	sizes        []uint32
	queries      []string
}

type frame struct {
	feed    *sceneFeed
	line    uint8
	sender  byte
	payload []byte
	stamp   int64
}

// crowd are numbers that are keys of one group, more than have room there.
var crowd = func() (out []uint32) {
	for v := uint32(1); len(out) < 40; v++ {
		if event.HashKey(binary.BigEndian.AppendUint64(nil, uint64(v)^1<<63))>>54 == 7 {
			out = append(out, v)
		}
	}
	return out
}()

const start = int64(1577959200000000000) // 2020-01-02T10:00:00Z, a multiple of all widths

func newScene(seed uint64) *scene {
	c := &scene{rand: rand.New(rand.NewPCG(seed, 1)), end: -1}
	var feeds, queries strings.Builder
	for i := range 1 + c.rand.IntN(3) {
		f := &sceneFeed{name: fmt.Sprintf("f%d", i), format: pick(c, "iex-deep", "iex-deep", "itch50", "csv", "raw"), port: uint16(9000 + 10*i)}
		f.sizes = []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
		if c.rand.IntN(5) == 0 {
			f.sizes = crowd
		}
		c.feeds = append(c.feeds, f)
		feeds.WriteString(c.feedConfig(f))
		for k := range 1 + c.rand.IntN(3) {
			name := fmt.Sprintf("q%d%c", i, 'a'+k)
			f.queries = append(f.queries, name)
			queries.WriteString(c.queryConfig(f, name))
		}
		c.traffic(f)
	}
	c.config = "feeds:\n" + feeds.String() + "queries:\n" + queries.String() + "sinks:\n  rows: {jsonl: {path: \"-\"}}\n"
	slices.SortStableFunc(c.frames, func(a, b frame) int { return cmp.Compare(a.stamp, b.stamp) })
	for i := range c.frames {
		f := &c.frames[i]
		u := packet.UDP{
			Source:      netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, f.sender}), 1000),
			Destination: netip.AddrPortFrom(netip.MustParseAddr("239.1.1.1"), f.feed.port+uint16(f.line)),
		}
		data := u.Append(nil, f.payload)
		c.records = append(c.records, capture.Record{Data: data, WireLength: len(data), Stamp: event.Nanos(f.stamp)})
	}
	if c.rand.IntN(3) == 0 {
		last := &c.records[len(c.records)-1]
		last.Data, last.Cut = last.Data[:42+c.rand.IntN(len(last.Data)-41)], true
		f := &c.frames[len(c.frames)-1]
		f.payload = f.payload[:len(last.Data)-42]
		c.end = len(f.payload)
	}
	c.lane, c.outbox = 1<<(10+c.rand.IntN(4)), 1<<(14+c.rand.IntN(3))
	return c
}

func pick[T any](c *scene, of ...T) T { return of[c.rand.IntN(len(of))] }

func (c *scene) feedConfig(f *sceneFeed) string {
	match := fmt.Sprintf("{protocol: udp, destination: 239.1.1.1, port: %d}", f.port)
	hold := fmt.Sprintf("    hold: {packets: %d, bytes: %d, for: %dms}\n", pick(c, 1, 4, 64), pick(c, 2000, 131072), pick(c, 1, 10, 50))
	switch f.format {
	case "csv":
		return "  " + f.name + ":\n    match: " + match + "\n    format: csv\n    columns: {symbol: text, at: int64, size: int64, price: decimal(4)}\n    time: {column: at, unit: us}\n"
	case "raw":
		return "  " + f.name + ":\n    match: " + match + "\n    format: {raw: {order: little, stride: 32}}\n    columns:\n" +
			"      symbol: {type: text, offset: 0, width: 8}\n      at: {type: int64, offset: 8, width: 8}\n      size: {type: int64, offset: 16, width: 8}\n      price: {type: decimal(4), offset: 24, width: 8}\n    time: {column: at, unit: ns}\n"
	}
	out := "  " + f.name + ":\n    match: [{protocol: udp, destination: 239.1.1.1, port: " + fmt.Sprint(f.port) + ", line: A}, {protocol: udp, destination: 239.1.1.1, port: " + fmt.Sprint(f.port+1) + ", line: B}]\n" +
		"    format: " + f.format + "\n    channels: 32\n" + hold
	if f.format == "itch50" {
		out += "    day: \"2020-01-02\"\n    zone: UTC\n"
	}
	return out
}

func (c *scene) queryConfig(f *sceneFeed, name string) string {
	where := pick(c, "", "", "    where: size > 5\n")
	if f.format == "iex-deep" || f.format == "itch50" {
		where = pick(c, "", "    where: size > 5\n", "    where: message == \"trade\"\n")
	}
	width := pick(c, 5, 20, 100, 1000)
	delay := pick(c, 0, 1, 10, 60, 200)
	panes := ""
	if need := (delay+width-1)/width + 1; c.rand.IntN(2) == 0 {
		panes = fmt.Sprintf("    panes: %d\n", need+c.rand.IntN(3))
	}
	return "  " + name + ":\n    from: " + f.name + "\n" + where +
		"    key: [" + pick(c, "symbol", "symbol", "size", "symbol, size") + "]\n" +
		fmt.Sprintf("    window: {tumbling: %dms, offset: %dms}\n    watermark: {delay: %dms}\n    keys: %d\n", width, c.rand.IntN(2)*(width/5), delay, pick(c, 1, 2, 5, 100, 65536)) + panes +
		"    select: {n: count(), volume: sum(size), open: first(price), close: last(price), low: min(price)}\n    sinks: [rows]\n"
}

// traffic makes a feed's packets.
func (c *scene) traffic(f *sceneFeed) {
	switch f.format {
	case "csv", "raw":
		for sender := range 1 + c.rand.IntN(4) {
			c.plain(f, byte(sender+1))
		}
		return
	}
	for ch := range 1 + c.rand.IntN(3) {
		c.channel(f, ch)
	}
}

// A clock makes event times: mostly a little behind the time of sending, skewed, at
// times far off.
type clock struct {
	c    *scene
	skew int64
}

func (c *scene) newClock() clock {
	return clock{c, pick(c, int64(0), 0, 7, -30, 300) * int64(time.Millisecond)}
}

func (k *clock) at(now int64) int64 {
	t := now + k.skew - k.c.rand.Int64N(20*int64(time.Millisecond))
	switch k.c.rand.IntN(60) {
	case 0:
		t -= int64(time.Second)
	case 1:
		t += k.c.rand.Int64N(500 * int64(time.Millisecond))
	}
	if k.c.rand.IntN(300) == 0 {
		k.skew += 5 * int64(time.Second)
	}
	return t / 1000 * 1000
}

var symbols = []string{"A", "B", "C", "IBM", "MSFT", "XXXXXXXX", "Q", "R"}

func (c *scene) plain(f *sceneFeed, sender byte) {
	k := c.newClock()
	now := start
	for range 5 + c.rand.IntN(40) {
		now += c.rand.Int64N(8 * int64(time.Millisecond))
		var payload []byte
		for range 1 + c.rand.IntN(10) {
			at, size, price := k.at(now), int64(pick(c, f.sizes...)), int64(c.rand.IntN(1000000))
			if f.format == "raw" {
				if c.rand.IntN(500) == 0 {
					at = pick(c, int64(math.MinInt64+1), math.MaxInt64-1, 0)
				}
				var r [32]byte
				copy(r[:8], fmt.Sprintf("%-8s", pick(c, symbols...)))
				binary.LittleEndian.PutUint64(r[8:], uint64(at))
				binary.LittleEndian.PutUint64(r[16:], uint64(size))
				binary.LittleEndian.PutUint64(r[24:], uint64(price))
				payload = append(payload, r[:]...)
				continue
			}
			symbol, number := pick(c, symbols...), fmt.Sprint(size)
			switch c.rand.IntN(30) {
			case 0:
				symbol = ""
			case 1:
				symbol = strings.Repeat("L", 60)
			case 2:
				number = ""
			case 3:
				number = "1x"
			case 4:
				symbol = `"`
			}
			payload = fmt.Appendf(payload, "%s,%d,%s,%d.%04d\n", symbol, at/1000, number, price/10000, price%10000)
		}
		if f.format == "raw" && c.rand.IntN(10) == 0 {
			payload = payload[:len(payload)-1-c.rand.IntN(31)]
		}
		c.frames = append(c.frames, frame{feed: f, sender: sender, payload: payload, stamp: now})
	}
}

// channel makes a sequenced channel: messages, packets, restarts, an end, on two
// lines that lose, delay and repeat.
func (c *scene) channel(f *sceneFeed, number int) {
	k := c.newClock()
	now, seq := start, uint64(1)
	loss, delay := pick(c, 0, 5, 25), pick(c, 1, 4, 30, 80)
	session := 1
	iex := f.format == "iex-deep"
	if c.rand.IntN(3) == 0 {
		seq = 100
	}
	head := func(count int) []byte {
		if !iex {
			h := fmt.Appendf(nil, "S%02d%02d     ", number, session)
			h = binary.BigEndian.AppendUint64(h, seq)
			return binary.BigEndian.AppendUint16(h, uint16(count))
		}
		h := make([]byte, 40)
		h[0] = 1
		binary.LittleEndian.PutUint16(h[2:], 0x8004)
		binary.LittleEndian.PutUint32(h[4:], uint32(number+1))
		binary.LittleEndian.PutUint32(h[8:], uint32(session))
		binary.LittleEndian.PutUint16(h[14:], uint16(count))
		binary.LittleEndian.PutUint64(h[24:], seq)
		binary.LittleEndian.PutUint64(h[32:], uint64(now))
		return h
	}
	send := func(payload []byte) {
		if iex {
			binary.LittleEndian.PutUint16(payload[12:], uint16(len(payload)-40))
		}
		for line := range uint8(2) {
			for range pick(c, 1, 1, 1, 1, 1, 1, 2) {
				if c.rand.IntN(100) < loss {
					continue
				}
				p := payload
				if c.rand.IntN(80) == 0 {
					p = p[:c.rand.IntN(len(p))]
				}
				at := now + c.rand.Int64N(int64(delay)*int64(time.Millisecond))
				c.frames = append(c.frames, frame{feed: f, line: line, sender: 1, payload: p, stamp: at})
			}
		}
	}
	for range 10 + c.rand.IntN(40) {
		now += 1 + c.rand.Int64N(8*int64(time.Millisecond))
		switch c.rand.IntN(40) {
		case 0:
			if iex {
				seq = 1 // a restart
			}
		case 1, 2:
			send(head(0))
			continue
		case 3:
			if iex {
				session++
				seq = 1
			} else {
				send(head(0xffff))
				session, seq = session+1, 1
			}
			continue
		}
		count := 1 + c.rand.IntN(6)
		payload := head(count)
		for range count {
			payload = append(payload, c.message(f, k.at(now))...)
		}
		send(payload)
		seq += uint64(count)
	}
	if !iex && c.rand.IntN(2) == 0 {
		now += int64(time.Millisecond)
		send(head(0xffff))
	}
}

// message is a length and a message.
func (c *scene) message(f *sceneFeed, at int64) []byte {
	iex := f.format == "iex-deep"
	symbol, size, price := fmt.Sprintf("%-8s", pick(c, symbols...)), pick(c, f.sizes...), uint32(c.rand.IntN(1000000))
	var m []byte
	if iex {
		m = append(m, pick(c, []byte("TTTTTT8S")...), 0)
		m = binary.LittleEndian.AppendUint64(m, uint64(at))
		if m[0] != 'S' {
			m = append(m, symbol...)
			m = binary.LittleEndian.AppendUint32(m, size)
			m = binary.LittleEndian.AppendUint64(m, uint64(price))
		}
		if m[0] == 'T' {
			m = append(m, make([]byte, 8)...)
		}
	} else {
		m = append(m, pick(c, []byte("PPPPPS")...), 0, 0, 0, 0)
		var t [8]byte
		binary.BigEndian.PutUint64(t[:], uint64(at-start+10*int64(time.Hour)))
		m = append(m, t[2:]...)
		if m[0] == 'S' {
			m = append(m, 'O')
		} else {
			m = append(m, make([]byte, 8)...)
			m = append(m, 'B')
			m = binary.BigEndian.AppendUint32(m, size)
			m = append(m, symbol...)
			m = binary.BigEndian.AppendUint32(m, price)
			m = append(m, make([]byte, 8)...)
		}
	}
	switch c.rand.IntN(60) {
	case 0:
		m[0] = 'z'
	case 1:
		m = m[:11-1]
	}
	if iex {
		return append(binary.LittleEndian.AppendUint16(nil, uint16(len(m))), m...)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)
}

func (c *scene) plan(t fataler, workers, batch int) *plan.Plan {
	p, err := compile.Compile(config.Read("scene.yaml", []byte(c.config)), compile.Options{
		Formats: formats.Lookup, Workers: workers, Batch: batch, Replay: true, LaneBytes: c.lane, OutboxBytes: c.outbox,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, c.config)
	}
	return p
}

// records is a capture in memory, whose bytes change as soon as the next is read.
type records struct {
	all  []capture.Record
	next int
	buf  []byte
}

func (r *records) Next(to *capture.Record) error {
	if r.next == len(r.all) {
		return io.EOF
	}
	for i := range r.buf {
		r.buf[i] = 0xee
	}
	*to = r.all[r.next]
	r.buf = append(r.buf[:0], to.Data...)
	to.Data = r.buf
	r.next++
	return nil
}

// memory is a sink.
type memory struct {
	mu    sync.Mutex
	rows  []byte
	count uint64
}

func (m *memory) Resume() []uint64    { return nil }
func (m *memory) Close() error        { return nil }
func (m *memory) Stats() export.Stats { return export.Stats{Name: "rows", Rows: m.count} }
func (m *memory) Write(_ context.Context, lines []byte, n export.RowCount, _ []uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows = append(m.rows, lines...)
	m.count += uint64(n.Rows)
	return nil
}

func (c *scene) run(t fataler, p *plan.Plan) ([]byte, replay.Summary) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	m := &memory{}
	s, err := replay.Run(ctx, replay.Config{
		Plan: p, Records: &records{all: c.records},
		OpenSinks: func() ([]export.Sink, error) { return []export.Sink{m}, nil },
	})
	if err != nil {
		t.Fatalf("%d workers, batches of %d: %v\n%s", p.Workers, p.Batch, err, c.config)
	}
	return m.rows, s
}

// A line of rows.
type row struct {
	Query        string                 `json:"query"`
	Key          map[string]any         `json:"key"`
	Start        time.Time              `json:"window_start"`
	End          time.Time              `json:"window_end"`
	Firing       string                 `json:"firing"`
	Values       map[string]json.Number `json:"values"`
	Completeness struct {
		Complete *bool  `json:"complete"`
		Missing  uint64 `json:"missing"`
	} `json:"completeness"`
}

func describe(t fataler, lines []byte) []string {
	var out []string
	for line := range bytes.Lines(lines) {
		var r row
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&r); err != nil {
			t.Fatalf("row %s: %v", line, err)
		}
		complete := "null"
		if r.Completeness.Complete != nil {
			complete = fmt.Sprint(*r.Completeness.Complete)
		}
		out = append(out, fmt.Sprintf("%s %v [%d,%d) %s %s %d n=%s volume=%s open=%s close=%s low=%s", r.Query, r.Key, r.Start.UnixNano()-start, r.End.UnixNano()-start, r.Firing,
			complete, r.Completeness.Missing, r.Values["n"], r.Values["volume"], r.Values["open"], r.Values["close"], r.Values["low"]))
	}
	return out
}

// lines describes the twin's rows in the same words.
func (c *scene) lines(p *plan.Plan, rows []naive.Row) []string {
	var out []string
	for i := range rows {
		r := &rows[i]
		q := slices.IndexFunc(p.Queries, func(q plan.Query) bool { return q.Name == r.Query })
		stream := &p.Streams[p.Queries[q].Stream]
		feed := &p.Feeds[stream.Feed]
		key := map[string]any{}
		for _, k := range stream.Key {
			if col := &feed.Columns[k]; col.Type == event.Text {
				key[col.Name] = r.Records[0].Texts[col.Name]
			} else {
				key[col.Name] = r.Records[0].Numbers[col.Name]
			}
		}
		firing := "on_time"
		if r.Flush {
			firing = "flush"
		}
		complete := "null"
		switch {
		case r.Incomplete:
			complete = "false"
		case feed.Sequence != plan.Unsequenced:
			complete = "true"
		}
		var volume, low *int64
		var first, last *naive.Record
		for _, e := range r.Records {
			if v, ok := e.Numbers["size"]; ok {
				if volume == nil {
					volume = new(int64)
				}
				*volume += v
			}
			v, ok := e.Numbers["price"]
			if !ok {
				continue
			}
			if low == nil || v < *low {
				low = &v
			}
			if first == nil || first.Time == e.Time && first.Who == e.Who && v < first.Numbers["price"] {
				first = e
			}
			if last == nil || last.Time != e.Time || last.Who != e.Who || v > last.Numbers["price"] {
				last = e
			}
		}
		price := func(v *int64) string {
			if v == nil {
				return ""
			}
			return fmt.Sprintf("%d.%04d", *v/10000, *v%10000)
		}
		of := func(e *naive.Record) *int64 {
			if e == nil {
				return nil
			}
			v := e.Numbers["price"]
			return &v
		}
		sum := ""
		if volume != nil {
			sum = strconv.FormatInt(*volume, 10)
		}
		out = append(out, fmt.Sprintf("%s %v [%d,%d) %s %s %d n=%d volume=%s open=%s close=%s low=%s", r.Query, key, r.Start-start, r.End-start, firing,
			complete, r.Missing, len(r.Records), sum, price(of(first)), price(of(last)), price(low)))
	}
	return out
}

func difference(got, want []string) string {
	var out strings.Builder
	in := map[string]int{}
	for _, l := range want {
		in[l]++
	}
	shown, missed := 0, 0
	for _, l := range got {
		if in[l]--; in[l] < 0 {
			if shown++; shown <= 5 {
				fmt.Fprintf(&out, "  got  %s\n", l)
			}
		}
	}
	for _, l := range want {
		if in[l] > 0 {
			in[l]--
			if missed++; missed <= 5 {
				fmt.Fprintf(&out, "  want %s\n", l)
			}
		}
	}
	if out.Len() == 0 {
		return "the same rows in another order"
	}
	return out.String()
}

func (c *scene) packets() string { return fmt.Sprintf("%d packets", len(c.records)) }

// twin turns the scene into what the twin takes. Which messages go on is for
// package sequence to say, which has a twin of its own.
func (c *scene) twin(t fataler, p *plan.Plan) ([]naive.Feed, []naive.Query, []naive.Release) {
	region, err := arena.New("twin", 1<<34)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer region.Close()
	var feeds []naive.Feed
	var sequencers []*sequence.Sequencer
	for i := range p.Feeds {
		var s *sequence.Sequencer
		if p.Feeds[i].Sequence != plan.Unsequenced {
			if s, err = sequence.New(&p.Feeds[i], region, nil); err != nil {
				t.Fatalf("%v", err)
			}
		}
		sequencers = append(sequencers, s)
		feeds = append(feeds, naive.Feed{Sequenced: s != nil})
	}
	type begin struct{ feed, channel, packet int }
	var begins []begin
	var out []naive.Release
	take := func(feed, packet int, r *sequence.Release) {
		if r.Channel < 0 {
			return
		}
		if r.New {
			begins = slices.DeleteFunc(begins, func(b begin) bool { return b.feed == feed && b.channel == r.Channel })
			begins = append(begins, begin{feed, r.Channel, packet})
		}
		n := naive.Release{Feed: feed, Source: string(r.Session[:]), Retire: r.Retired >= 0}
		for _, it := range r.Items {
			if it.Gap.Count > 0 {
				n.Steps = append(n.Steps, naive.Step{Missing: it.Gap.Count})
				continue
			}
			n.Steps = append(n.Steps, messages(c.feeds[feed].format, &r.Session, &it.Span, sequencers[feed].Body(&it.Span)))
		}
		out = append(out, n)
	}
	for i := range c.frames {
		f := &c.frames[i]
		feed := slices.Index(c.feeds, f.feed)
		if s := sequencers[feed]; s != nil {
			take(feed, i, s.Push(f.payload, f.line, event.Nanos(f.stamp), c.end >= 0 && i == len(c.frames)-1))
			for r := s.Rest(); r != nil; r = s.Rest() {
				take(feed, i, r)
			}
			continue
		}
		out = append(out, naive.Release{Feed: feed, Steps: []naive.Step{c.lineRecords(f, c.end >= 0 && i == len(c.frames)-1)}})
	}
	for _, b := range begins {
		if r := sequencers[b.feed].FinishChannel(b.channel); r != nil {
			take(b.feed, 0, r)
		}
	}
	var queries []naive.Query
	for i := range p.Queries {
		queries = append(queries, c.twinQuery(p, i))
	}
	return feeds, queries, out
}

func (c *scene) twinQuery(p *plan.Plan, i int) naive.Query {
	q := &p.Queries[i]
	stream := &p.Streams[q.Stream]
	lambda := float64(q.Keys) / 1024
	where := func(*naive.Record) bool { return true }
	text := c.config[strings.Index(c.config, "  "+q.Name+":\n"):]
	text = text[:strings.Index(text, "key:")]
	switch {
	case strings.Contains(text, "size > 5"):
		where = func(r *naive.Record) bool { v, ok := r.Numbers["size"]; return ok && v > 5 }
	case strings.Contains(text, "trade"):
		where = func(r *naive.Record) bool { return r.Texts["message"] == "trade" }
	}
	return naive.Query{
		Name: q.Name, Feed: q.Feed, Width: int64(q.Width), Offset: int64(q.Offset), Delay: int64(q.Delay), Panes: q.Panes, Keys: q.Keys,
		Run:   int(math.Ceil((lambda + 6*math.Sqrt(lambda) + 8) / 0.8)),
		Group: func(key string) int { return int(event.HashKey([]byte(key)) >> 54) },
		Where: where,
		Key: func(r *naive.Record) (string, string) {
			var key []byte
			for _, k := range stream.Key {
				var value []byte
				name := p.Feeds[q.Feed].Columns[k].Name
				if name == "symbol" {
					v, ok := r.Texts[name]
					if !ok {
						return "", "null_key"
					}
					value = []byte(v)
				} else {
					v, ok := r.Numbers[name]
					if !ok {
						return "", "null_key"
					}
					value = binary.BigEndian.AppendUint64(nil, uint64(v)^1<<63)
				}
				if len(stream.Key) > 1 {
					key = binary.BigEndian.AppendUint16(key, uint16(len(value)))
				}
				key = append(key, value...)
			}
			if len(key) > 64 {
				return "", "key_length"
			}
			return string(key), ""
		},
	}
}

// messages decodes a span in a plain way.
func messages(format string, session *sequence.Session, s *sequence.Span, body []byte) naive.Step {
	var out naive.Step
	for i := 0; i < s.Skip+s.Count; i++ {
		n := int(binary.LittleEndian.Uint16(body))
		if format == "itch50" {
			n = int(binary.BigEndian.Uint16(body))
		}
		m := body[2 : 2+n]
		body = body[2+n:]
		if i < s.Skip {
			continue
		}
		r := &naive.Record{Numbers: map[string]int64{}, Texts: map[string]string{}}
		r.Who = [4]uint64{binary.BigEndian.Uint64(session[:]), uint64(binary.BigEndian.Uint16(session[8:]))<<48 | uint64(s.Epoch), s.Seq + uint64(i-s.Skip), 0}
		if m[0] == 'z' {
			continue
		}
		least := map[byte]int{'T': 38, '8': 30, 'S': 10, 'P': 44}[m[0]]
		if format == "itch50" && m[0] == 'S' {
			least = 12
		}
		if len(m) < least {
			out.Lost = true
			continue
		}
		if format == "itch50" {
			var t [8]byte
			copy(t[2:], m[5:11])
			r.Time = start - 10*int64(time.Hour) + int64(binary.BigEndian.Uint64(t[:]))
			r.Texts["message"] = map[byte]string{'S': "system_event", 'P': "trade"}[m[0]]
			if m[0] == 'P' {
				r.Texts["symbol"] = strings.TrimRight(string(m[24:32]), " ")
				r.Numbers["size"], r.Numbers["price"] = int64(binary.BigEndian.Uint32(m[20:])), int64(binary.BigEndian.Uint32(m[32:]))
			}
		} else {
			r.Time = int64(binary.LittleEndian.Uint64(m[2:]))
			r.Texts["message"] = map[byte]string{'S': "system_event", 'T': "trade", '8': "price_level"}[m[0]]
			if m[0] != 'S' {
				r.Texts["symbol"] = strings.TrimRight(string(m[10:18]), " ")
				r.Numbers["size"], r.Numbers["price"] = int64(binary.LittleEndian.Uint32(m[18:])), int64(binary.LittleEndian.Uint64(m[22:]))
			}
		}
		out.Records = append(out.Records, r)
	}
	return out
}

// lineRecords decodes a packet of an unsequenced feed in a plain way. What the end of
// the file cuts in two is nothing.
func (c *scene) lineRecords(f *frame, cut bool) naive.Step {
	var out naive.Step
	if f.feed.format == "raw" {
		for i := 0; len(f.payload) > i*32; i++ {
			b := f.payload[i*32:]
			if len(b) < 32 {
				out.Lost = out.Lost || !cut
				break
			}
			out.Records = append(out.Records, &naive.Record{
				Time:    int64(binary.LittleEndian.Uint64(b[8:])),
				Texts:   map[string]string{"symbol": strings.TrimRight(string(b[:8]), " ")},
				Numbers: map[string]int64{"size": int64(binary.LittleEndian.Uint64(b[16:])), "price": int64(binary.LittleEndian.Uint64(b[24:]))},
				Who:     [4]uint64{3: uint64(i)},
			})
		}
		return out
	}
	i := 0
	for line := range strings.Lines(string(f.payload)) {
		if cut && !strings.HasSuffix(line, "\n") {
			break
		}
		fields := strings.Split(strings.TrimRight(line, "\n"), ",")
		index := uint64(i)
		i++
		if fields[0] == `"` || fields[2] == "1x" {
			out.Lost = true
			continue
		}
		r := &naive.Record{Texts: map[string]string{}, Numbers: map[string]int64{}, Who: [4]uint64{3: index}}
		at, _ := strconv.ParseInt(fields[1], 10, 64)
		r.Time = at * 1000
		if fields[0] != "" {
			r.Texts["symbol"] = fields[0]
		}
		if v, err := strconv.ParseInt(fields[2], 10, 64); err == nil {
			r.Numbers["size"] = v
		}
		price, _ := strconv.ParseInt(strings.ReplaceAll(fields[3], ".", ""), 10, 64)
		r.Numbers["price"] = price
		out.Records = append(out.Records, r)
	}
	return out
}
