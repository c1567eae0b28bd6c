package csvwire

import (
	"encoding/csv"
	"math"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/wiretest"
	"github.com/headrace/headrace/internal/testdata"
)

func feed(unit plan.TimeUnit, at int, columns ...plan.Column) *plan.Feed {
	return &plan.Feed{Name: "f", Columns: columns, Identity: true, Time: plan.EventTime{Unit: unit, Column: plan.Column{Index: at}}}
}

func column(index int, t event.Type, scale uint8) plan.Column {
	return plan.Column{Name: "c" + strconv.Itoa(index), Type: t, Scale: scale, Index: index}
}

func decode(t interface{ Fatal(...any) }, f *plan.Feed, payload string, limit int) ([]wiretest.Row, *wire.Packet) {
	d, err := Format().New(f, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &wire.Packet{Payload: []byte(payload), Progress: wire.Progress{Max: event.MinNanos}, Receive: 77, Chan: 1, Order: 2, Seq: 3}
	rows, err := wiretest.Decode(d, f, p, wiretest.Batch(f), limit)
	if err != nil {
		t.Fatal(err)
	}
	return rows, p
}

func TestRecords(t *testing.T) {
	long := strings.Repeat("x", 65)
	f := feed(plan.UnitS, 0, column(1, event.Text, 0), column(2, event.Int64, 0), column(3, event.Decimal, 2), column(4, event.Float64, 0))
	for _, c := range []struct {
		name, line string
		want       []any
		drop       event.Drop
	}{
		{"a plain record", "5,pickup,-7,1.25,0.5", []any{"pickup", int64(-7), int64(125), int64(math.Float64bits(0.5))}, event.Kept},
		{"empty fields", "5,,,,", []any{nil, nil, nil, nil}, event.Kept},
		{"quoted empty fields", `5,"","","",""`, []any{nil, nil, nil, nil}, event.Kept},
		{"a record that ends early", "5,x", []any{"x", nil, nil, nil}, event.Kept},
		{"more fields than columns", "5,x,1,2,3,4,5", []any{"x", int64(1), int64(200), int64(math.Float64bits(3))}, event.Kept},
		{"quotes", `5,"a ""b"", c","7"`, []any{`a "b", c`, int64(7), nil, nil}, event.Kept},
		{"a quote that stays open", `5,"x`, nil, event.DropSyntax},
		{"text behind a quote", `5,"x"y`, nil, event.DropSyntax},
		{"a quote inside a field", `5,x"y`, nil, event.DropSyntax},
		{"a quote at the end that is doubled", `5,"x""`, nil, event.DropSyntax},
		{"a space before a number", "5,x, 7", nil, event.DropBadValue},
		{"a word for a number", "5,x,y", nil, event.DropBadValue},
		{"NaN", "5,x,1,1,NaN", nil, event.DropNotFinite},
		{"a text of 64 bytes", "5," + long[:64], []any{long[:64], nil, nil, nil}, event.Kept},
		{"a text of 65 bytes", "5," + long, nil, event.DropTooLong},
		{"a text of 64 bytes and a quote", `5,"` + long[:64] + `"""`, nil, event.DropTooLong},
		{"a text of 64 quotes", `5,"` + strings.Repeat(`""`, 64) + `"`, []any{strings.Repeat(`"`, 64), nil, nil, nil}, event.Kept},
		{"no time", ",x", nil, event.DropNoTime},
		{"a line of names", "time,name,a,b,c", nil, event.DropNoTime},
		{"a line that is too long", "5," + strings.Repeat("x", LineMax), nil, event.DropTooLong},
	} {
		rows, p := decode(t, f, c.line, 8)
		if c.drop != event.Kept {
			if len(rows) != 0 || p.Drops[c.drop] != 1 || !p.Hit {
				t.Errorf("%s: %v, drops %v, want %v", c.name, rows, p.Drops, c.drop)
			}
			continue
		}
		if len(rows) != 1 || rows[0].Time != 5e9 || !reflect.DeepEqual(rows[0].Values, c.want) {
			t.Errorf("%s: %v, drops %v, want %v", c.name, rows, p.Drops, c.want)
		}
	}
}

func TestLinesAreEvents(t *testing.T) {
	f := feed(plan.UnitReceive, 0, column(0, event.Text, 0))
	f.Delimiter = ';'
	for limit := 1; limit < 5; limit++ {
		rows, p := decode(t, f, "\na;1\r\n\r\nb,c\n\"x\n d", limit)
		var got []any
		for _, r := range rows {
			got = append(got, r.Values[0], int(r.Index), int(r.Time))
		}
		if want := []any{"a", 0, 77, "b,c", 1, 77, " d", 3, 77}; !reflect.DeepEqual(got, want) || p.Messages != 4 || p.Drops[event.DropSyntax] != 1 {
			t.Errorf("batches of %d: %v, account %+v, want %v", limit, got, p, want)
		}
	}
}

// checkLine holds a line against encoding/csv.
func checkLine(t interface {
	Fatal(...any)
	Fatalf(string, ...any)
}, line string,
) {
	if strings.ContainsAny(line, "\n\r") || line == "" || len(line) > LineMax {
		return
	}
	var columns []plan.Column
	for i := range 5 {
		columns = append(columns, column(i, event.Text, 0))
	}
	rows, p := decode(t, feed(plan.UnitReceive, 0, columns...), line, 8)
	want, err := csv.NewReader(strings.NewReader(line)).Read()
	if err != nil {
		if p.Drops[event.DropSyntax] != 1 {
			t.Fatalf("%q: %v, but %v, drops %v", line, err, rows, p.Drops)
		}
		return
	}
	for i := range 5 {
		if i < len(want) && len(want[i]) > event.TextMax {
			if p.Drops[event.DropTooLong] != 1 {
				t.Fatalf("%q: drops %v, want too_long", line, p.Drops)
			}
			return
		}
	}
	if len(rows) != 1 {
		t.Fatalf("%q: drops %v, want %q", line, p.Drops, want)
	}
	for i, got := range rows[0].Values {
		var w any
		if i < len(want) && want[i] != "" {
			w = want[i]
		}
		if got != w {
			t.Fatalf("%q: field %d is %v, want %v", line, i, got, w)
		}
	}
}

func TestDecodeEqualsEncodingCSV(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkLine(t, rapid.StringMatching(`[a",]{0,12}|("([ab,]|""){0,4}",?){0,3}|[a-z,]{0,20}`).Draw(t, "line"))
		fields := rapid.SliceOfN(rapid.StringMatching(`[a-c", ]{0,5}`), 1, 7).Draw(t, "fields")
		var out strings.Builder
		w := csv.NewWriter(&out)
		if err := w.Write(fields); err != nil {
			t.Fatal(err)
		}
		w.Flush()
		checkLine(t, strings.TrimSuffix(out.String(), "\n"))
	})
}

// The series of the anomaly benchmark: the times have no zone, so the test gives them
// one; the first line has the names.
func TestNABDecodes(t *testing.T) {
	text, err := os.ReadFile(testdata.Path(t, "nab", "data", "realKnownCause", "machine_temperature_system_failure.csv"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := csv.NewReader(strings.NewReader(string(text))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	zoned := strings.ReplaceAll(strings.ReplaceAll(string(text), "\r", ""), ",", "Z,")
	rows, p := decode(t, feed(plan.UnitRFC3339, 0, column(1, event.Float64, 0)), zoned, event.BatchMax)
	if len(rows) != len(all)-1 || p.Drops[event.DropNoTime] != 1 || p.Messages != uint64(len(all)) {
		t.Fatalf("%d rows of %d lines, drops %v", len(rows), len(all), p.Drops)
	}
	for i, row := range rows {
		at, err := time.Parse(time.DateTime, all[i+1][0])
		if err != nil {
			t.Fatal(err)
		}
		v, err := strconv.ParseFloat(all[i+1][1], 64)
		if err != nil {
			t.Fatal(err)
		}
		if int64(row.Time) != at.UnixNano() || row.Values[0] != int64(math.Float64bits(v)) {
			t.Fatalf("line %d: %v, want %v", i+2, row, all[i+1])
		}
	}
}

func TestEveryTruncationBalances(t *testing.T) {
	f := feed(plan.UnitRFC3339, 0, column(1, event.Text, 0), column(2, event.Decimal, 2))
	text := "2023-09-18T14:23:10Z,\"a \"\"b\"\"\",1.25\r\n2023-09-18T14:23:11Z,x,2"
	for n := range len(text) + 1 {
		if _, p := decode(t, f, text[:n], 1); p.Messages > 2 {
			t.Errorf("%d bytes: %d messages", n, p.Messages)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	quote := feed(plan.UnitS, 0)
	quote.Delimiter = '"'
	for name, f := range map[string]*plan.Feed{
		"a quote as delimiter": quote,
		"no unit":              feed("", 0),
		"an index below 0":     feed(plan.UnitS, -1),
		"an index too great":   feed(plan.UnitS, 0, column(IndexMax+1, event.Text, 0)),
		"a bool":               feed(plan.UnitS, 0, column(0, event.Bool, 0)),
	} {
		if _, err := Format().New(f, nil, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	f := feed(plan.UnitRFC3339, 0, column(1, event.Text, 0), column(2, event.Decimal, 2), column(3, event.Float64, 0))
	payload := []byte(strings.Repeat("2023-09-18T14:23:10Z,\"a \"\"b\"\"\",1.25,0.30000000000000004\r\n2023-09-18T14:23:11Z,x,2,1e999\n\"\n", 3))
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
			b.Limit = 2
			more = d.Decode(&p, b)
			events += b.N
		}
	}); n != 0 || events == 0 {
		t.Errorf("%v allocations for %d events, want 0", n, events)
	}
}

// FuzzDecode checks that the account of any payload balances and that records are
// those of encoding/csv.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"5,\"a \"\"b\"\"\",1.5,2\r\n\n6,,", "5,\"x\"y", "5,x\"y", "\"5\",x,1e3,nan", ";;;"} {
		f.Add([]byte(s), uint8(','))
	}
	f.Fuzz(func(t *testing.T, payload []byte, delimiter uint8) {
		fd := feed(plan.UnitS, 0, column(1, event.Text, 0), column(2, event.Decimal, 2), column(3, event.Float64, 0))
		fd.Delimiter = delimiter
		if _, err := Format().New(fd, nil, nil); err != nil {
			return
		}
		decode(t, fd, string(payload), 2)
		for line := range strings.SplitSeq(string(payload), "\n") {
			checkLine(t, line)
		}
	})
}

// BenchmarkDecode decodes an anomaly series.
func BenchmarkDecode(b *testing.B) {
	text, err := os.ReadFile(testdata.Path(b, "nab", "data", "realKnownCause", "machine_temperature_system_failure.csv"))
	if err != nil {
		b.Fatal(err)
	}
	payload := []byte(strings.ReplaceAll(string(text), ",", "Z,"))
	f := feed(plan.UnitRFC3339, 0, column(1, event.Decimal, 9))
	b.Run("format=csv", func(b *testing.B) {
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
			for d.Decode(&p, batch) {
				batch.Reset()
			}
			batch.Reset()
			events += p.Events
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
	})
}
