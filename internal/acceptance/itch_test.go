package acceptance

import (
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/generate"
	"github.com/headrace/headrace/internal/testdata"
)

const (
	feedConfig = "../../examples/bars.yaml"
	feedDelay  = int64(100e6)
)

// generated runs `headrace generate itch` and, in the same way, the generator for its
// own account of the stream.
func generated(t *testing.T, c generate.Config, args ...string) (path string, truth *generate.Truth) {
	t.Helper()
	truth = &generate.Truth{Width: time.Second}
	c.Kind, c.Truth = generate.ITCH, truth
	s, err := generate.New(c)
	if err != nil {
		t.Fatal(err)
	}
	var frames []record
	for {
		frame, at, ok := s.Next()
		if !ok {
			break
		}
		frames = append(frames, record{stamp: int64(at), data: append([]byte(nil), frame...)})
	}
	path = filepath.Join(t.TempDir(), "feed.pcap")
	if r := run(t, nil, append([]string{"generate", "itch", "--out", path}, args...)...); r.code != 0 {
		t.Fatal(r.stderr)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != string(pcapBytes(frames)) {
		t.Fatal("the command and the generator do not make the same bytes")
	}
	return path, truth
}

// lines are the rows of the truth's bars, without vwap's help: that is notional/volume.
func truthLines(truth *generate.Truth) []line {
	var out []line
	for _, b := range truth.Bars() {
		price := func(v int64) string { return fixed(big.NewInt(v), 4) }
		vwap := halfEven(new(big.Int).Mul(big.NewInt(b.Notional), big.NewInt(10_000)), big.NewInt(b.Volume))
		out = append(out, line{
			query: "bars", key: fmt.Sprintf(`"symbol":%q`, b.Symbol), canonical: b.Symbol, start: int64(b.Start), end: int64(b.Start) + second,
			complete: "true",
			values: fmt.Sprintf(`"open":%s,"high":%s,"low":%s,"close":%s,"volume":%d,"trades":%d,"notional":%s,"vwap":%s`,
				price(b.Open), price(b.High), price(b.Low), price(b.Close), b.Volume, b.Trades, price(b.Notional), fixed(vwap, 8)),
		})
	}
	return out
}

// barsOnly cuts the rows' firing away: how a window was closed is another matter.
func barsOnly(rows []byte) []byte {
	return []byte(strings.ReplaceAll(string(rows), `"firing":"flush"`, `"firing":"on_time"`))
}

func TestGeneratedBarsAreWhatWasGenerated(t *testing.T) {
	for _, c := range []struct {
		name string
		c    generate.Config
		args string
	}{
		{"nothing lost", generate.Config{Seed: 1, Count: 60_000, Keys: 500, Lines: 2}, "--seed 1 --count 60000 --keys 500 --lines 2"},
		{
			"copies, out of order, three channels",
			generate.Config{Seed: 2, Count: 40_000, Keys: 300, Lines: 2, Channels: 3, Reorder: 3, Duplicate: 0.05, Session: "S"},
			"--seed 2 --count 40000 --keys 300 --lines 2 --channels 3 --reorder 3 --duplicate 0.05 --session S",
		},
	} {
		path, truth := generated(t, c.c, strings.Fields(c.args)...)
		want := text(truthLines(truth))
		for _, n := range workers(t) {
			r := replay(t, feedConfig, append(flag("workers", n), path)...)
			what := fmt.Sprintf("%s, %d workers", c.name, n)
			same(t, what, barsOnly(r.rows), want)
			r.balance(t, what)
			r.counts(t, map[string]uint64{"missing": 0, "epochs": uint64(max(1, c.c.Channels)), "events": c.c.Count, "messages": *r.summary.Duplicates + c.c.Count})
			if len(r.summary.Drops) > 0 {
				t.Errorf("%s: drops %v", what, r.summary.Drops)
			}
		}
	}
}

// What both lines lost is missing in the windows about it, and in no others; windows
// that nothing touches are what they were.
func TestWhatBothLinesLostIsToldInTheRows(t *testing.T) {
	c := generate.Config{Seed: 7, Count: 60_000, Keys: 50, Lines: 2, Loss: 0.03, Rate: 5000}
	path, truth := generated(t, c, strings.Fields("--seed 7 --count 60000 --keys 50 --lines 2 --loss 0.03 --rate 5000")...)
	lost := uint64(0)
	touched := map[int64]uint64{}
	for _, l := range truth.Lost {
		lost += uint64(l.Count)
		// The messages beside the lost ones are 1/rate away, so the windows touched are
		// those of the gap's own time and, by the delay, of 100 ms before.
		from := int64(l.At) - int64(l.Count)*second/c.Rate - feedDelay
		for w := from - mod(from, second); w <= int64(l.At); w += second {
			touched[w] += uint64(l.Count)
		}
	}
	if len(truth.Lost) < 3 || len(truth.Lost) > 40 || len(touched) > 11 {
		t.Fatalf("%d gaps in %d windows: choose another seed", len(truth.Lost), len(touched))
	}
	want := map[string]string{}
	for _, l := range truthLines(truth) {
		want[fmt.Sprint(l.start, l.canonical)] = l.String()
	}
	var first []byte
	for _, n := range workers(t) {
		r := replay(t, feedConfig, append(flag("workers", n), path)...)
		if first == nil {
			first = r.rows
		}
		same(t, fmt.Sprintf("%d workers", n), r.rows, first)
		r.balance(t, "loss")
		r.counts(t, map[string]uint64{"missing": lost, "events": c.Count - lost - r.summary.Drops["unknown_order"]})
	}
	marked := 0
	for _, l := range strings.SplitAfter(strings.TrimSuffix(string(barsOnly(first)), "\n"), "\n") {
		var row struct {
			Key          struct{ Symbol string }
			Start        time.Time `json:"window_start"`
			Completeness struct {
				Complete bool
				Missing  uint64
			}
		}
		if err := json.Unmarshal([]byte(l), &row); err != nil {
			t.Fatal(err)
		}
		start := row.Start.UnixNano()
		if row.Completeness.Missing != touched[start] {
			t.Errorf("window %s says that %d messages are missing, want %d", at(start), row.Completeness.Missing, touched[start])
		}
		if row.Completeness.Missing > 0 {
			marked++
			if row.Completeness.Complete {
				t.Errorf("complete, with messages missing: %s", l)
			}
			continue
		}
		// A lost order may make an execution long after it unreadable; then the row is
		// incomplete though no message is missing in it.
		if w := want[fmt.Sprint(start, row.Key.Symbol)]; row.Completeness.Complete && strings.TrimSpace(l) != strings.TrimSpace(w) {
			t.Errorf("a complete row is\n%s\nwant\n%s", l, w)
		}
	}
	if marked == 0 {
		t.Error("no row is marked")
	}
}

// moldPackets puts messages into MoldUDP64 packets of a session.
func moldPackets(messages [][]byte, session string, at int64) []record {
	be := binary.BigEndian
	var out []record
	for i := 0; i < len(messages); {
		n := min(1+i%17, len(messages)-i)
		p := append([]byte(fmt.Sprintf("%-10s", session)), make([]byte, 10)...)
		be.PutUint64(p[10:], uint64(i+1))
		be.PutUint16(p[18:], uint16(n))
		for _, m := range messages[i : i+n] {
			p = append(be.AppendUint16(p, uint16(len(m))), m...)
		}
		out = append(out, record{stamp: at + int64(i)*1000, data: udp("10.10.1.1:26400", "239.10.1.1:26400", p)})
		i += n
	}
	return out
}

var itchSizes = map[byte]int{
	'S': 12, 'R': 39, 'H': 25, 'Y': 20, 'L': 26, 'V': 35, 'W': 12, 'K': 28, 'J': 35, 'h': 21, 'A': 36, 'F': 40, 'E': 31, 'C': 36,
	'X': 23, 'D': 19, 'U': 35, 'P': 44, 'Q': 40, 'B': 19, 'I': 50, 'N': 20,
}

// The sample file of simulated messages: its length fields are zero, so a message's
// length comes from its type.
func TestTheITCHSampleFile(t *testing.T) {
	f, err := os.Open(testdata.Path(t, "itch", "ex20101224.TEST_ITCH_50.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var messages [][]byte
	for len(b) > 2 {
		n, ok := itchSizes[b[2]]
		if !ok || len(b) < 2+n {
			t.Fatalf("message %d of type %q", len(messages), b[2])
		}
		messages = append(messages, b[2:2+n])
		b = b[2+n:]
	}
	if len(messages) != 12_012 {
		t.Fatalf("%d messages", len(messages))
	}
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	midnight := time.Date(2010, 12, 24, 0, 0, 0, 0, newYork).UnixNano()
	type order struct {
		symbol string
		price  int64
	}
	be := binary.BigEndian
	orders := map[uint64]order{}
	names := map[uint16]string{}
	var trades []trade
	kinds := map[string]int{}
	unknown := 0
	newest := int64(-1 << 63)
	var hits []gap // packets with an execution whose price is not known
	open, next := gap{before: 1<<63 - 1}, 0
	for i, m := range messages {
		if i == next { // a packet begins, see moldPackets
			next += 1 + i%17
			if open.count > 0 {
				open.after = newest
				hits = append(hits, open)
			}
			open = gap{before: newest}
		}
		when := midnight + int64(be.Uint16(m[5:]))<<32 + int64(be.Uint32(m[7:]))
		newest = max(newest, when)
		add := func(symbol string, price, size int64) {
			trades = append(trades, trade{at: when, channel: 1, epoch: 1, seq: uint64(i + 1), symbol: symbol, price: price, size: size})
		}
		symbol := func(at int) string { return strings.TrimRight(string(m[at:at+8]), " ") }
		kind := itchNames[m[0]]
		switch m[0] {
		case 'R':
			names[be.Uint16(m[1:])] = symbol(11)
		case 'A', 'F':
			orders[be.Uint64(m[11:])] = order{symbol(24), int64(be.Uint32(m[32:]))}
		case 'U':
			old, ok := orders[be.Uint64(m[11:])]
			if !ok {
				old.symbol = names[be.Uint16(m[1:])]
			}
			orders[be.Uint64(m[19:])] = order{old.symbol, int64(be.Uint32(m[31:]))}
		case 'E':
			if o, ok := orders[be.Uint64(m[11:])]; ok {
				add(o.symbol, o.price, int64(be.Uint32(m[19:])))
			} else {
				unknown++
				open.count++
				kind = ""
			}
		case 'C':
			if m[31] == 'N' {
				kind = "execution"
			} else if o, ok := orders[be.Uint64(m[11:])]; ok {
				add(o.symbol, int64(be.Uint32(m[32:])), int64(be.Uint32(m[19:])))
			} else {
				add(names[be.Uint16(m[1:])], int64(be.Uint32(m[32:])), int64(be.Uint32(m[19:])))
			}
		case 'P':
			add(symbol(24), int64(be.Uint32(m[32:])), int64(be.Uint32(m[20:])))
		case 'X', 'D':
			if _, ok := orders[be.Uint64(m[11:])]; !ok {
				unknown++
				kind = ""
			}
		}
		if kind != "" {
			kinds[kind]++
		}
	}
	if open.after = newest; open.count > 0 {
		hits = append(hits, open)
	}
	path := writePcap(t, "sample.pcap", moldPackets(messages, "SAMPLE", midnight))
	feed, err := os.ReadFile(feedConfig)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("day: 2026-03-02", "day: 2010-12-24", "delay: 100ms", "delay: 10m", "tumbling: 1s", "tumbling: 1m").Replace(string(feed))
	for _, n := range workers(t) {
		r := replay(t, config, append(flag("workers", n), path)...)
		r.balance(t, "sample")
		lines := flushed(bars(trades, minute, nil), newest-10*minute)
		incomplete := 0
		for i := range lines {
			for _, h := range hits {
				if h.touches(lines[i].start, lines[i].end, 10*minute) {
					lines[i].complete = "false"
				}
			}
			if lines[i].complete == "false" {
				incomplete++
			}
		}
		if incomplete == 0 || incomplete == len(lines) {
			t.Fatalf("%d of %d rows are incomplete: not much of a test", incomplete, len(lines))
		}
		same(t, "sample", r.rows, text(lines))
		r.counts(t, map[string]uint64{"messages": 12_012, "applied": uint64(len(trades)), "epochs": 1, "missing": 0})
		all := replay(t, kindsOf("itch50\n    day: 2010-12-24", "message"), append(flag("workers", n), path)...)
		got := kindRows(t, all.rows)
		for kind, want := range kinds {
			if got[kind] != want {
				t.Errorf("%d messages of kind %s, want %d", got[kind], kind, want)
			}
		}
		all.counts(t, map[string]uint64{"unknown_order": uint64(unknown), "messages": 12_012})
	}
}
