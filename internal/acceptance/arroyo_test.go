package acceptance

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/testdata"
)

// A car is a line of cars.json.
type car struct {
	Timestamp string `json:"timestamp"`
	Driver    int64  `json:"driver_id"`
	EventType string `json:"event_type"`
	Location  string `json:"location"`
}

const carsConfig = "../../examples/cars.yaml"

func cars(tb testing.TB) (lines [][]byte, out []car) {
	tb.Helper()
	b, err := os.ReadFile(testdata.Path(tb, "arroyo", "cars.json"))
	if err != nil {
		tb.Fatal(err)
	}
	lines = bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	for _, l := range lines {
		var c car
		if err := json.Unmarshal(l, &c); err != nil {
			tb.Fatal(err)
		}
		out = append(out, c)
	}
	return lines, out
}

// hourly is what another engine made of cars.json, as a set: event_type, hour, count.
func hourly(tb testing.TB) map[string]int {
	tb.Helper()
	b, err := os.ReadFile(testdata.Path(tb, "arroyo", "hourly_by_event_type.golden.json"))
	if err != nil {
		tb.Fatal(err)
	}
	out := map[string]int{}
	for _, l := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var g struct {
			EventType string `json:"event_type"`
			Hour      string `json:"hour"`
			Count     int    `json:"count"`
		}
		if err := json.Unmarshal([]byte(l), &g); err != nil {
			tb.Fatal(err)
		}
		out[fmt.Sprint(g.EventType, " ", g.Hour, "Z ", g.Count)]++
	}
	return out
}

func checkHourly(t *testing.T, what string, rows []byte) {
	t.Helper()
	want := hourly(t)
	for _, l := range strings.Split(strings.TrimSpace(string(rows)), "\n") {
		var r struct {
			Key struct {
				EventType string `json:"event_type"`
			} `json:"key"`
			Start  string `json:"window_start"`
			Values struct {
				Count int `json:"count"`
			} `json:"values"`
		}
		if err := json.Unmarshal([]byte(l), &r); err != nil {
			t.Fatalf("%s: %q: %v", what, l, err)
		}
		want[fmt.Sprint(r.Key.EventType, " ", r.Start, " ", r.Values.Count)]--
	}
	for row, n := range want {
		if n != 0 {
			t.Errorf("%s: %+d of row %s", what, -n, row)
		}
	}
}

// packets puts payloads into a capture, each from one of several senders.
func packets(payloads [][]byte) []record {
	var out []record
	for i, p := range payloads {
		out = append(out, record{
			stamp: 1695046990*second + int64(i)*1e6, data: udp(fmt.Sprintf("10.1.0.%d:%d", 1+i%7, 20000+i%13), "239.1.1.1:9000", p),
		})
	}
	return out
}

// several joins lines to payloads of up to n lines.
func several(lines [][]byte, n int, end string) [][]byte {
	var out [][]byte
	for i := 0; i < len(lines); i += n {
		out = append(out, append(bytes.Join(lines[i:min(i+n, len(lines))], []byte("\n")), end...))
	}
	return out
}

// carsIn is examples/cars.yaml for another format.
func carsIn(tb testing.TB, format string) string {
	tb.Helper()
	b, err := os.ReadFile(carsConfig)
	if err != nil {
		tb.Fatal(err)
	}
	feed, rest, ok := strings.Cut(string(b), "queries:")
	if !ok {
		tb.Fatal("no queries in the example")
	}
	head, _, ok := strings.Cut(feed, "    format:")
	if !ok {
		tb.Fatal("no format in the example")
	}
	return head + format + "queries:" + rest
}

func TestArroyoHourlyCounts(t *testing.T) {
	lines, all := cars(t)
	var rows, fixedRows [][]byte
	for _, c := range all {
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		_ = w.Write([]string{c.Location, c.EventType, strconv.FormatInt(c.Driver, 10), c.Timestamp})
		w.Flush()
		rows = append(rows, bytes.TrimSpace(b.Bytes()))
		when, err := time.Parse(time.RFC3339Nano, c.Timestamp)
		if err != nil {
			t.Fatal(err)
		}
		// big-endian: microseconds, driver as u32, text of 10
		us := when.UnixMicro()
		r := make([]byte, 24)
		for i := range 8 {
			r[i] = byte(us >> (56 - 8*i))
		}
		for i := range 4 {
			r[8+i] = byte(c.Driver >> (24 - 8*i))
		}
		copy(r[12:], c.EventType)
		fixedRows = append(fixedRows, r)
	}
	raw := carsIn(t, `    format: {raw: {order: big}}
    columns:
      event_type: {type: text, offset: 12, width: 12}
      at: {type: int64, offset: 0}
    time: {column: at, unit: us}
    place: {bytes: [12, 12], trim: true}
`)
	strided := strings.Replace(raw, "{raw: {order: big}}", "{raw: {order: big, stride: 24}}", 1)
	strided = strings.Replace(strided, "    place: {bytes: [12, 12], trim: true}\n", "", 1)
	comma := carsIn(t, `    format: csv
    columns:
      location: text
      event_type: text
      driver_id: int64
      timestamp: text
    time: {column: timestamp, unit: rfc3339}
`)
	var blocks [][]byte
	for i := 0; i < len(fixedRows); i += 30 {
		blocks = append(blocks, bytes.Join(fixedRows[i:min(i+30, len(fixedRows))], nil))
	}
	var first []byte
	for _, c := range []struct {
		name, config string
		payloads     [][]byte
	}{
		{"json, one object a packet", carsConfig, lines},
		{"json, several a packet", carsConfig, several(lines, 9, "")},
		{"json, several a packet, all lines ended", carsConfig, several(lines, 3, "\r\n")},
		{"csv, one record a packet", comma, rows},
		{"csv, several a packet", comma, several(rows, 11, "\n")},
		{"raw, one record a packet", raw, fixedRows},
		{"raw, thirty records a packet", strided, blocks},
	} {
		path := writePcap(t, "cars.pcap", packets(c.payloads))
		for _, n := range []int{1, 3} {
			r := replay(t, c.config, append(flag("workers", n), path)...)
			what := fmt.Sprintf("%s, %d workers", c.name, n)
			checkHourly(t, what, r.rows)
			r.counts(t, map[string]uint64{
				"packets": uint64(len(c.payloads)), "messages": uint64(len(lines)), "events": uint64(len(lines)), "applied": uint64(len(lines)),
			})
			if len(r.summary.Drops) > 0 {
				t.Errorf("%s: drops %v", what, r.summary.Drops)
			}
			if first == nil {
				first = r.rows
			}
			same(t, what, r.rows, first)
		}
	}
}
