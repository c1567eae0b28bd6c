package jsonwire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/wiretest"
	"github.com/headrace/headrace/internal/testdata"
)

func feed(unit plan.TimeUnit, columns ...plan.Column) *plan.Feed {
	return &plan.Feed{Name: "f", Columns: columns, Identity: true, Time: plan.EventTime{Unit: unit, Column: plan.Column{Path: []string{"t"}}}}
}

func column(name string, t event.Type, scale uint8) plan.Column {
	return plan.Column{Name: name, Type: t, Scale: scale, Path: strings.Split(name, ".")}
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

func TestValues(t *testing.T) {
	long := strings.Repeat("x", 65)
	for _, c := range []struct {
		name string
		kind plan.Column
		json string
		want any
		drop event.Drop
	}{
		{"a whole number", column("v", event.Int64, 0), `-12`, int64(-12), event.Kept},
		{"a whole number written with a point", column("v", event.Int64, 0), `12.0`, int64(12), event.Kept},
		{"a whole number written with an exponent", column("v", event.Int64, 0), `1e3`, int64(1000), event.Kept},
		{"a fraction for an integer", column("v", event.Int64, 0), `1.5`, nil, event.DropBadValue},
		{"a number in a string", column("v", event.Int64, 0), `"12"`, int64(12), event.Kept},
		{"a number in a string with escapes", column("v", event.Int64, 0), `"\u0031\u0032"`, int64(12), event.Kept},
		{"a word for an integer", column("v", event.Int64, 0), `"a dozen"`, nil, event.DropBadValue},
		{"an empty string for an integer", column("v", event.Int64, 0), `""`, nil, event.DropBadValue},
		{"true for an integer", column("v", event.Int64, 0), `true`, nil, event.DropBadValue},
		{"an object for an integer", column("v", event.Int64, 0), `{"a":1}`, nil, event.DropBadValue},
		{"an array for a text", column("v", event.Text, 0), `["a"]`, nil, event.DropBadValue},
		{"a number for a text", column("v", event.Text, 0), `1`, nil, event.DropBadValue},
		{"null", column("v", event.Int64, 0), `null`, nil, event.Kept},
		{"a decimal", column("v", event.Decimal, 2), `19.995`, int64(2000), event.Kept},
		{"a decimal rounded half-even", column("v", event.Decimal, 2), `19.985`, int64(1998), event.Kept},
		{"a decimal that overflows", column("v", event.Decimal, 18), `10`, nil, event.DropBadValue},
		{"a float", column("v", event.Float64, 0), `0.1`, int64(math.Float64bits(0.1)), event.Kept},
		{"minus zero", column("v", event.Float64, 0), `-0.0`, int64(0), event.Kept},
		{"NaN", column("v", event.Float64, 0), `NaN`, nil, event.DropNotFinite},
		{"minus infinity", column("v", event.Float64, 0), `-Infinity`, nil, event.DropNotFinite},
		{"NaN in a string", column("v", event.Float64, 0), `"nan"`, nil, event.DropNotFinite},
		{"a float beyond the greatest", column("v", event.Float64, 0), `1e309`, nil, event.DropNotFinite},
		{"text", column("v", event.Text, 0), `"pickup"`, "pickup", event.Kept},
		{"an empty text", column("v", event.Text, 0), `""`, "", event.Kept},
		{"text with escapes", column("v", event.Text, 0), `"a\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00"`, "a\"\\/\b\f\n\r\tä😀", event.Kept},
		{"a lone surrogate", column("v", event.Text, 0), `"\ud83dx\udc00"`, "\ufffdx\ufffd", event.Kept},
		{"a surrogate before an escape that is none", column("v", event.Text, 0), `"\ud83d\u0041"`, "\ufffdA", event.Kept},
		{"a text of 64 bytes", column("v", event.Text, 0), `"` + long[:64] + `"`, long[:64], event.Kept},
		{"a text of 65 bytes", column("v", event.Text, 0), `"` + long + `"`, nil, event.DropTooLong},
		{"a text of 64 bytes and an escape", column("v", event.Text, 0), `"` + long[:64] + `\n"`, nil, event.DropTooLong},
		{"a text of 384 bytes of escapes", column("v", event.Text, 0), `"` + strings.Repeat(`\u0041`, 64) + `"`, strings.Repeat("A", 64), event.Kept},
		{"a number of 65 digits", column("v", event.Float64, 0), strings.Repeat("1", 65), nil, event.DropTooLong},
	} {
		f := feed(plan.UnitReceive, c.kind)
		rows, p := decode(t, f, `{"v":`+c.json+`}`, 8)
		if c.drop != event.Kept {
			if p.Drops[c.drop] != 1 || len(rows) != 0 || !p.Hit {
				t.Errorf("%s: %v, drops %v, want %v", c.name, rows, p.Drops, c.drop)
			}
			continue
		}
		if len(rows) != 1 || !reflect.DeepEqual(rows[0].Values[0], c.want) {
			t.Errorf("%s: %v, drops %v, want %v", c.name, rows, p.Drops, c.want)
		}
	}
}

func TestPathsAndEqualKeys(t *testing.T) {
	f := feed(plan.UnitReceive, column("a", event.Int64, 0), column("b.c", event.Int64, 0), column("b", event.Text, 0))
	for _, c := range []struct {
		json string
		want []any
	}{
		{`{"a":1,"b":{"c":2}}`, nil}, // b is an object: no text
		{`{"a":1,"a":2,"b":"x"}`, []any{int64(2), nil, "x"}},
		{`{"b":{"c":2},"b":"y"}`, []any{nil, nil, "y"}},
		{`{"b":{"c":2},"b":null}`, []any{nil, nil, nil}},
		{`{"a":1,"a":null}`, []any{nil, nil, nil}},
		{`{"\u0061":3}`, []any{int64(3), nil, nil}},
		{`{"a":1,"\u0061":3}`, []any{int64(3), nil, nil}},
		{`{"aa":1,"x":{"a":2},"y":[{"a":3}],"":4}`, []any{nil, nil, nil}},
		{`{}`, []any{nil, nil, nil}},
	} {
		rows, p := decode(t, f, c.json, 8)
		if c.want == nil {
			if p.Drops[event.DropBadValue] != 1 {
				t.Errorf("%s: %v, want bad_value", c.json, p.Drops)
			}
			continue
		}
		if len(rows) != 1 || !reflect.DeepEqual(rows[0].Values, c.want) {
			t.Errorf("%s: %v, drops %v, want %v", c.json, rows, p.Drops, c.want)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		json string
		unit plan.TimeUnit
		want event.Nanos // 0: no time
	}{
		{`"2023-09-18T14:23:10Z"`, plan.UnitRFC3339, 1695046990e9},
		{`"2023-09-18T16:23:10.5\u002b02:00"`, plan.UnitRFC3339, 1695046990500000000},
		{`1695046990.123456789`, plan.UnitS, 1695046990123456789},
		{`"1695046990.123456789"`, plan.UnitS, 1695046990123456789},
		{`1695046990123`, plan.UnitMS, 1695046990123000000},
		{`1695046990123456`, plan.UnitUS, 1695046990123456000},
		{`1695046990123456789`, plan.UnitNS, 1695046990123456789},
		{`1695046990`, plan.UnitRFC3339, 0},
		{`null`, plan.UnitS, 0},
		{`"soon"`, plan.UnitS, 0},
		{`true`, plan.UnitS, 0},
		{`NaN`, plan.UnitS, 0},
		{`1e30`, plan.UnitS, 0},
	} {
		rows, p := decode(t, feed(c.unit), `{"t":`+c.json+`}`, 8)
		switch {
		case c.want == 0 && (p.Drops[event.DropNoTime] != 1 || !p.Hit || p.Max != event.MinNanos):
			t.Errorf("%s: %v, account %+v, want no_time", c.json, rows, p)
		case c.want != 0 && (len(rows) != 1 || rows[0].Time != c.want || p.Max != c.want):
			t.Errorf("%s: %v, account %+v, want %d", c.json, rows, p, c.want)
		}
	}
	if _, p := decode(t, feed(plan.UnitS), `{"u":1}`, 8); p.Drops[event.DropNoTime] != 1 {
		t.Errorf("no time at all: %v", p.Drops)
	}
	if rows, _ := decode(t, feed(plan.UnitReceive), `{"t":1}`, 8); len(rows) != 1 || rows[0].Time != 77 {
		t.Errorf("time of receipt: %v, want 77", rows)
	}
}

func TestLinesAreEvents(t *testing.T) {
	f := feed(plan.UnitReceive, column("a", event.Int64, 0))
	for limit := 1; limit < 5; limit++ {
		rows, p := decode(t, f, "\n{\"a\":1}\r\n  \t\r\n{\"a\":2\n{\"a\":3} x\n {\"a\":4} \n\n", limit)
		var got []string
		for _, r := range rows {
			got = append(got, fmt.Sprint(r.Values[0], " ", r.Chan, r.Order, r.Seq, r.Index))
		}
		if want := []string{"1 1 2 3 0", "4 1 2 3 3"}; !reflect.DeepEqual(got, want) || p.Messages != 4 || p.Drops[event.DropSyntax] != 2 {
			t.Errorf("batches of %d: %q, account %+v, want %q", limit, got, p, want)
		}
	}
	if rows, p := decode(t, f, "  \r\n\n", 1); len(rows) != 0 || p.Messages != 0 {
		t.Errorf("blank lines: %v, %d messages, want nothing", rows, p.Messages)
	}
}

func TestDepthAndLengthAreBounded(t *testing.T) {
	nested := func(n int) string { return strings.Repeat(`{"a":`, n-1) + "{}" + strings.Repeat("}", n-1) }
	f := feed(plan.UnitReceive)
	for _, c := range []struct {
		name, json string
		drop       event.Drop
	}{
		{"objects at the limit", nested(DepthMax), event.Kept},
		{"objects one too deep", nested(DepthMax + 1), event.DropDepth},
		{"a frame of opened objects", strings.Repeat(`{"a":`, 290), event.DropDepth},
		{"arrays at the limit", `{"a":` + strings.Repeat("[", DepthMax-1) + strings.Repeat("]", DepthMax-1) + "}", event.Kept},
		{"arrays one too deep", `{"a":` + strings.Repeat("[", DepthMax) + strings.Repeat("]", DepthMax) + "}", event.DropDepth},
		{"a line that is too long", `{"a":"` + strings.Repeat("x", LineMax) + `"}`, event.DropTooLong},
		{"a long line", `{"a":"` + strings.Repeat("x", LineMax-8) + `"}`, event.Kept},
	} {
		if _, p := decode(t, f, c.json, 8); c.drop == event.Kept != (p.Events == 1) || c.drop != event.Kept && p.Drops[c.drop] != 1 {
			t.Errorf("%s: drops %v, want %v", c.name, p.Drops, c.drop)
		}
	}
}

// checkSyntax holds the scanner against encoding/json.
func checkSyntax(t interface{ Fatalf(string, ...any) }, line []byte) {
	s := scanner{}
	drop := s.object(line, &node{})
	valid := json.Valid(line) && bytes.HasPrefix(bytes.TrimLeft(line, " \t\r\n"), []byte("{"))
	switch {
	case valid && drop != event.Kept && drop != event.DropDepth:
		t.Fatalf("%q is an object, but %v", line, drop)
	case !valid && drop == event.Kept && !bytes.Contains(line, []byte("NaN")) && !bytes.Contains(line, []byte("Infinity")):
		t.Fatalf("%q is no object, but kept", line)
	}
}

func TestGrammarIsThatOfEncodingJSON(t *testing.T) {
	for _, line := range []string{
		`{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":+1}`, `{"a":1e+05}`, `{"a":"\x"}`, `{"a":"\u12g4"}`, `{"a":"\u00zz"}`,
		`{"a":"` + "\t" + `"}`, `{"a"}`, `{"a":}`, `{,}`, `{"a":1,}`, `{a:1}`, `[1]`, `1`, ``, `{"a":[1,]}`, `{"a":[,1]}`, `{"a":tru}`, `{"a":nul}`,
		`{"a":truex}`, `{"a":"`, `{"a":"\`, `{"a":"\u`, `{"a":1}}`, `{"a":[}`, `{"a":{]}`, `{"a":0x1}`, `{"a":-0}`, `{"a":1E9}`, `{"a":--1}`, `{"\ud800":1}`,
	} {
		checkSyntax(t, []byte(line))
	}
	rapid.Check(t, func(t *rapid.T) {
		text, err := json.Marshal(map[string]any{"a": document(t, 4), "b": document(t, 2)})
		if err != nil {
			t.Fatal(err)
		}
		checkSyntax(t, text)
		for range 5 { // and with one byte gone wrong
			bad := bytes.Clone(text)
			bad[rapid.IntRange(0, len(bad)-1).Draw(t, "at")] = rapid.SampledFrom([]byte("{}[]\",:\\u0e-. \x00atz")).Draw(t, "byte")
			checkSyntax(t, bad)
		}
	})
}

// document draws a value of any kind.
func document(t *rapid.T, depth int) any {
	kinds := 6
	if depth == 0 {
		kinds = 4
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return json.Number(strconv.FormatInt(rapid.Int64().Draw(t, "int"), 10))
	case 2:
		return rapid.StringN(0, 20, 64).Draw(t, "string")
	case 3:
		return rapid.Bool().Draw(t, "bool")
	case 4:
		list := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "length") {
			list = append(list, document(t, depth-1))
		}
		return list
	}
	object := map[string]any{}
	for range rapid.IntRange(0, 4).Draw(t, "members") {
		object[rapid.SampledFrom([]string{"a", "b", "c", "ä", "\n"}).Draw(t, "key")] = document(t, depth-1)
	}
	return object
}

// What is decoded is what encoding/json finds at the same paths.
func TestDecodeEqualsEncodingJSON(t *testing.T) {
	paths := []string{"a", "b", "a.a", "a.b", "a.ä", "a.b.c", "a.\n"}
	rapid.Check(t, func(t *rapid.T) {
		var columns []plan.Column
		for _, path := range paths {
			if rapid.Bool().Draw(t, "wanted") {
				columns = append(columns, column(path, rapid.SampledFrom([]event.Type{event.Text, event.Int64}).Draw(t, "type"), 0))
			}
		}
		f := feed(plan.UnitReceive, columns...)
		top, err := json.Marshal(map[string]any{"a": document(t, 3), "b": document(t, 1)})
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "twice") { // the first of equal keys does not count
			first, err := json.Marshal(document(t, 2))
			if err != nil {
				t.Fatal(err)
			}
			top = append([]byte(`{"a":`+string(first)+`,`), top[1:]...)
		}
		var root any
		reader := json.NewDecoder(bytes.NewReader(top))
		reader.UseNumber()
		if err := reader.Decode(&root); err != nil {
			t.Fatal(err)
		}
		var want []any
		dropped := false
		for _, c := range columns {
			at := root
			for _, step := range c.Path {
				object, _ := at.(map[string]any)
				at = object[step]
			}
			switch v := at.(type) {
			case nil:
				want = append(want, nil)
			case string:
				dropped = dropped || c.Type != event.Text || len(v) > event.TextMax // no drawn string is a number
				if _, err := strconv.ParseFloat(v, 64); err == nil && c.Type != event.Text {
					return
				}
				want = append(want, v)
			case json.Number:
				n, err := v.Int64()
				dropped = dropped || c.Type != event.Int64 || err != nil
				want = append(want, n)
			default:
				dropped = true
			}
		}
		rows, p := decode(t, f, string(top), 3)
		if dropped {
			if len(rows) != 0 || !p.Hit {
				t.Fatalf("%s: %v, want a drop", top, rows)
			}
			return
		}
		if len(rows) != 1 || len(want)+len(rows[0].Values) > 0 && !reflect.DeepEqual(rows[0].Values, want) {
			t.Fatalf("%s: %v, drops %v, want %v", top, rows, p.Drops, want)
		}
	})
}

func TestCarsDecode(t *testing.T) {
	lines, err := os.ReadFile(testdata.Path(t, "arroyo", "cars.json"))
	if err != nil {
		t.Fatal(err)
	}
	f := feed(plan.UnitRFC3339, column("event_type", event.Text, 0), column("driver_id", event.Int64, 0))
	f.Time.Column.Path = []string{"timestamp"}
	want := map[string]int{}
	sum, n := int64(0), 0
	for line := range bytes.Lines(lines) {
		var car struct {
			EventType string `json:"event_type"`
			DriverID  int64  `json:"driver_id"`
		}
		if err := json.Unmarshal(line, &car); err != nil {
			t.Fatal(err)
		}
		want[car.EventType]++
		sum += car.DriverID
		n++
	}
	rows, p := decode(t, f, string(lines), event.BatchMax)
	got, gotSum := map[string]int{}, int64(0)
	for _, r := range rows {
		got[r.Values[0].(string)]++
		gotSum += r.Values[1].(int64)
	}
	if !maps.Equal(got, want) || len(want) < 2 || len(rows) != n || gotSum != sum || p.Hit {
		t.Errorf("%d events %v, drivers %d, want %d, %v, %d", len(rows), got, gotSum, n, want, sum)
	}
}

func TestEveryTruncationBalances(t *testing.T) {
	f := feed(plan.UnitRFC3339, column("a", event.Text, 0), column("b.c", event.Decimal, 2))
	text := `{"t":"2023-09-18T14:23:10Z","a":"\u00e4\\","b":{"c":-1.25e1,"d":[true,null,{}]}}` + "\r\n" + `{"t":"2023-09-18T14:23:11Z"}`
	for n := range len(text) + 1 {
		rows, p := decode(t, f, text[:n], 1)
		if whole := n / 82; n < len(text) && len(rows) > whole+1 || p.Messages > 2 {
			t.Errorf("%d bytes: %d rows, %d messages", n, len(rows), p.Messages)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, f := range map[string]*plan.Feed{
		"no unit":           feed("", column("a", event.Text, 0)),
		"own time":          feed(plan.UnitOwn, column("a", event.Text, 0)),
		"a bool":            feed(plan.UnitS, column("a", event.Bool, 0)),
		"a scale of 19":     feed(plan.UnitS, column("a", event.Decimal, 19)),
		"an int with scale": feed(plan.UnitS, column("a", event.Int64, 1)),
	} {
		if _, err := Format().New(f, nil, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	f := feed(plan.UnitRFC3339, column("a", event.Text, 0), column("b.c", event.Decimal, 2), column("d", event.Float64, 0))
	payload := []byte(strings.Repeat(`{"t":"2023-09-18T14:23:10Z","a":"\u00e4\ud83d\ude00\n","b":{"c":-1.25},"d":0.30000000000000004,"\u0065":[1,{"x":"y"}]}`+"\n"+
		`{"t":"2023-09-18T14:23:10Z","a":"plain","d":1e999}`+"\n"+`{"broken`+"\n", 3) + strings.Repeat(`{"a":`, 100))
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

// FuzzDecode checks that the account of any payload balances and that the grammar is
// that of encoding/json.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"t":"2023-09-18T14:23:10Z","a":"x","b":{"c":1.5},"d":2}`, "{\"t\":1,\"a\":\"\\ud83d\\ude00\"}\r\n\n{\"t\":2", `{"a":{"a":[[[{"b":NaN}]]]}}`,
		`{"t":-Infinity}`, strings.Repeat(`{"a":`, 50), `{"\u0061":"\"\\\/\b"}`,
	} {
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, payload []byte, rfc bool) {
		unit := plan.UnitS
		if rfc {
			unit = plan.UnitRFC3339
		}
		fd := feed(unit, column("a", event.Text, 0), column("b.c", event.Decimal, 2), column("d", event.Float64, 0), column("d", event.Int64, 0))
		decode(t, fd, string(payload), 2)
		for line := range bytes.SplitSeq(payload, []byte("\n")) {
			checkSyntax(t, line)
		}
	})
}

// BenchmarkDecode decodes cars.json, ten lines a packet.
func BenchmarkDecode(b *testing.B) {
	lines, err := os.ReadFile(testdata.Path(b, "arroyo", "cars.json"))
	if err != nil {
		b.Fatal(err)
	}
	f := feed(plan.UnitRFC3339, column("event_type", event.Text, 0), column("driver_id", event.Int64, 0))
	f.Time.Column.Path = []string{"timestamp"}
	b.Run("format=json", func(b *testing.B) {
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
			p.Payload = lines
			for d.Decode(&p, batch) {
				batch.Reset()
			}
			batch.Reset()
			events += p.Events
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
	})
}
