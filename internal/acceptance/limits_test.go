package acceptance

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// The first keys of a window are admitted, in the order of the capture, and the events
// of all others are dropped: whichever worker owns them.
func TestTheKeyLimitAdmitsTheFirstKeysOfEachWindow(t *testing.T) {
	const limit = 7
	dice := rand.New(rand.NewPCG(1, 50))
	config := feedOf("format: json\ncolumns: {k: int64, v: int64}\ntime: {column: t, unit: ms}",
		fmt.Sprintf("key: [k]\nwindow: {tumbling: 1s}\nwatermark: {delay: 200ms}\nkeys: %d\nselect: {n: count(), sum: sum(v)}", limit))
	type cell struct{ n, sum int64 }
	type window map[int64]*cell
	windows := map[int64]window{}
	dropped := map[int64]uint64{}
	var payloads [][]byte
	total, newest := uint64(0), int64(0)
	for i := range 4000 {
		var lines []string
		for range 1 + dice.IntN(4) {
			// A little out of order, never late.
			at := 1_500_000_000_000 + int64(i)*3 - dice.Int64N(150)
			k, v := dice.Int64N(3)*dice.Int64N(12)-4, dice.Int64N(1000)-300
			lines = append(lines, fmt.Sprintf(`{"t":%d,"k":%d,"v":%d}`, at, k, v))
			start := at / 1000
			w := windows[start]
			if w == nil {
				w = window{}
				windows[start] = w
			}
			newest = max(newest, at)
			total++
			c := w[k]
			if c == nil {
				if len(w) == limit {
					dropped[start]++
					continue
				}
				c = &cell{}
				w[k] = c
			}
			c.n++
			c.sum += v
		}
		payloads = append(payloads, []byte(strings.Join(lines, "\n")))
	}
	var want []line
	lost := uint64(0)
	for start, w := range windows {
		lost += dropped[start]
		for k, c := range w {
			l := line{
				query: "q", key: fmt.Sprintf(`"k":%d`, k), canonical: canonicalInt(k), start: start * second, end: (start + 1) * second,
				values: fmt.Sprintf(`"n":%d,"sum":%d`, c.n, c.sum),
			}
			if dropped[start] > 0 {
				l.complete = "false"
			}
			want = append(want, l)
		}
	}
	rows := text(flushed(want, newest*1e6-200e6))
	if lost < 500 {
		t.Fatalf("%d dropped: not much of a test", lost)
	}
	path := writePcap(t, "keys.pcap", packets(payloads))
	r := invariant(t, "key limit", config, path)
	same(t, "key limit", r.rows, rows)
	r.counts(t, map[string]uint64{"key_limit": lost, "applied": total - lost, "messages": total})
}

// A stop may discard what no watermark closed.
func TestOnStopDiscardLeavesOpenWindowsOut(t *testing.T) {
	records, bursts := skewed(8, second/4, 2000, false)
	path := writePcap(t, "stop.pcap", records)
	j := judge(bursts, 3*second, 20)
	var want []line
	for _, l := range bars(j.kept, second, nil) {
		if l.end <= j.mark {
			want = append(want, l)
		}
	}
	config := fmt.Sprintf(skewConfig, "3s", 20)
	rows := text(want)
	if len(want) == 0 || strings.Contains(string(rows), "flush") {
		t.Fatalf("%d rows: not much of a test", len(want))
	}
	r := invariant(t, "discard", "on_stop: discard\n"+config, path)
	same(t, "discard", r.rows, rows)
}

// Keys of several columns may grow beyond what a key may have.
func TestKeysThatAreTooLongAreDropped(t *testing.T) {
	long := strings.Repeat("k", 30)
	c := byHand{
		name: "long keys", width: 24 * time.Hour,
		feed:     "format: json\ncolumns: {a: text, b: text}\ntime: {column: t, unit: s}",
		query:    "key: [a, b]\nwindow: {tumbling: 1d}\nwatermark: {delay: 1h}\nselect: {n: count()}",
		payloads: seconds(`"a":"`+long+`","b":"`+long+`"`, `"a":"`+long+`","b":"`+long+`x"`, `"a":"`+long+`x","b":"`+long+`"`, `"a":"","b":""`),
		rows: []want{
			{someDay, `"a":"","b":""`, composite("", ""), `"n":1`, ""},
			{someDay, `"a":"` + long + `","b":"` + long + `"`, composite(long, long), `"n":1`, ""},
		},
		counts: map[string]uint64{"messages": 4, "applied": 2, "key_length": 2},
	}
	c.check(t)
}

// A capture with a snap length holds the beginning of each packet: whole messages are
// taken, nothing is taken for what it is not.
func TestASnapLengthIsSurvived(t *testing.T) {
	records, segments := deep(t)
	records, segments = records[:20_000], segments[:20_000]
	cut := uint64(0)
	for i := range records {
		records[i].length = len(records[i].data)
		if len(records[i].data) > 200 {
			records[i].data = records[i].data[:200]
			cut++
		}
	}
	path := writePcap(t, "snap.pcap", records)
	r := invariant(t, "snap length", barsConfig, path)
	r.balance(t, "snap length")
	whole := uint64(0)
	for i := range segments {
		whole += uint64(segmentOf(t, payload(records[i].data)).messages)
	}
	r.counts(t, map[string]uint64{"truncated": cut, "messages": whole, "duplicates": 0})
	if cut == 0 || whole == 0 {
		t.Fatalf("%d packets cut, %d messages whole: not much of a test", cut, whole)
	}
}

// Feeds do not know of each other: what is late in one has nothing to do with the
// other's time, and the rows of all queries are one sorted file.
func TestTwoFeedsAndThreeQueriesInOneConfig(t *testing.T) {
	records, bursts := skewed(9, second/2, 3000, false)
	j := judge(bursts, 100e6, 12)
	lines := flushed(bars(j.kept, second, nil), j.mark)
	const begin = int64(1493132700) // as in skewed
	sums := map[[3]int64]int64{}    // query, window, key
	var objects []record
	dice := rand.New(rand.NewPCG(2, 51))
	newest := int64(0)
	for i := range 2000 {
		at, k := begin*1000+int64(i)*9, dice.Int64N(5)
		newest = at
		sums[[3]int64{0, at / 1000, k}]++
		sums[[3]int64{1, at / 10_000, k}] += at
		objects = append(objects, record{
			stamp: at * 1e6, data: udp("10.0.0.9:9", "239.1.1.1:9000", fmt.Appendf(nil, `{"t":%d,"k":%d}`, at, k)),
		})
	}
	for id, v := range sums {
		l := line{query: "few", key: fmt.Sprintf(`"k":%d`, id[2]), canonical: canonicalInt(id[2]), start: id[1] * second, end: (id[1] + 1) * second, values: fmt.Sprintf(`"n":%d`, v)}
		if id[0] == 1 {
			l.query, l.start, l.end, l.values = "abundant", id[1]*10*second, (id[1]+1)*10*second, fmt.Sprintf(`"sum":%d`, v)
		}
		if l.end > newest*1e6-id[0]*5*second {
			l.firing = "flush"
		}
		lines = append(lines, l)
	}
	config := fmt.Sprintf(skewConfig, "100ms", 12)
	config = strings.Replace(config, "feeds:\n", `feeds:
  f:
    match: {protocol: udp, destination: 239.1.1.0/24}
    format: json
    columns: {k: int64, t: int64}
    time: {column: t, unit: ms}
`, 1)
	config = strings.Replace(config, "queries:\n", `queries:
  few: {from: f, key: [k], window: {tumbling: 1s}, select: {n: count()}, sinks: [rows]}
  abundant: {from: f, key: [k], window: {tumbling: 10s}, watermark: {delay: 5s}, select: {sum: sum(t)}, sinks: [rows]}
`, 1)
	want := text(lines)
	a, b := writePcap(t, "iex.pcap", records), writePcap(t, "json.pcap", objects)
	for _, n := range workers(t) {
		r := replay(t, config, append(flag("workers", n), b, a)...)
		same(t, fmt.Sprint(n, " workers"), r.rows, want)
		r.counts(t, map[string]uint64{"late": j.late, "packets": uint64(len(records) + len(objects))})
	}
}
