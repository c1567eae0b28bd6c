package jsonwire

import (
	"bytes"
	"os"
	"reflect"
	"testing"

	"github.com/valyala/fastjson"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/internal/testdata"
)

// fromFastjson reads columns of one line as a general parser does: a tree first, then
// the values. It stands for what users of that library would see.
func fromFastjson(t interface{ Fatalf(string, ...any) }, p *fastjson.Parser, line []byte, columns []plan.Column) []any {
	root, err := p.ParseBytes(line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	var out []any
	for _, c := range columns {
		v := root.Get(c.Path...)
		switch {
		case v == nil || v.Type() == fastjson.TypeNull:
			out = append(out, nil)
		case c.Type == event.Text:
			out = append(out, string(v.GetStringBytes()))
		default:
			out = append(out, v.GetInt64())
		}
	}
	return out
}

// The scanner finds in real lines what a general parser finds.
func TestCarsAreReadAsFastjsonReadsThem(t *testing.T) {
	text, err := os.ReadFile(testdata.Path(t, "arroyo", "cars.json"))
	if err != nil {
		t.Fatal(err)
	}
	columns := []plan.Column{column("event_type", event.Text, 0), column("driver_id", event.Int64, 0), column("location", event.Text, 0), column("absent", event.Int64, 0)}
	f := feed(plan.UnitReceive, columns...)
	var p fastjson.Parser
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	for _, line := range lines {
		rows, packet := decode(t, f, string(line), 1)
		want := fromFastjson(t, &p, line, columns)
		if len(rows) != 1 || !reflect.DeepEqual(rows[0].Values, want) {
			t.Fatalf("%s: %v, drops %v, want %v", line, rows, packet.Drops, want)
		}
	}
	if len(lines) < 1000 {
		t.Fatalf("only %d lines", len(lines))
	}
}

// … and in documents of any shape.
func TestTextsAreReadAsFastjsonReadsThem(t *testing.T) {
	columns := []plan.Column{column("a", event.Text, 0), column("b.c", event.Text, 0)}
	f := feed(plan.UnitReceive, columns...)
	texts := rapid.StringOfN(rapid.SampledFrom([]rune("aZ09 ,:{}[]\"\\/\n\tä€😀")), 0, 15, event.TextMax) // fastjson writes other control characters as they are
	rapid.Check(t, func(t *rapid.T) {
		var arena fastjson.Arena
		root, inner := arena.NewObject(), arena.NewObject()
		inner.Set("c", arena.NewString(texts.Draw(t, "c")))
		root.Set("a", arena.NewString(texts.Draw(t, "a")))
		root.Set("other", arena.NewNumberFloat64(rapid.Float64Range(-1e9, 1e9).Draw(t, "other")))
		root.Set("b", inner)
		line := root.MarshalTo(nil)
		var p fastjson.Parser
		rows, packet := decode(t, f, string(line), 1)
		if want := fromFastjson(t, &p, line, columns); len(rows) != 1 || !reflect.DeepEqual(rows[0].Values, want) {
			t.Fatalf("%s: %v, drops %v, want %v", line, rows, packet.Drops, want)
		}
	})
}
