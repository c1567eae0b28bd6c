package compile_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/plan"
)

const deep = `feeds:
  deep:
    match: {protocol: udp, destination: 224.2.3.10, port: 16648}
    format: iex-deep
queries:
`

const sinks = `sinks:
  rows: {jsonl: {path: "-"}}
`

// query is a query of the feed deep, with an additional line.
func query(name, line string) string {
	return "  " + name + `:
    from: deep
    key: [symbol]
    window: {tumbling: 1m}
    sinks: [rows]
    ` + strings.ReplaceAll(line, "\n", "\n    ") + "\n"
}

func mustCompile(t *testing.T, text string, o compile.Options) *plan.Plan {
	t.Helper()
	p, err := compile.Compile(config.Read("test.yaml", []byte(text)), o)
	if err != nil {
		t.Fatalf("Compile:\n%v\nof:\n%s", err, text)
	}
	return p
}

// Every example is valid, and its plan changes only with a golden.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d examples, %v; want at least 6", len(files), err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			c, err := config.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			p, err := compile.Compile(c, options())
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			e := json.NewEncoder(&out)
			e.SetIndent("", " ")
			e.SetEscapeHTML(false)
			if err := e.Encode(p); err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", "plans", name+".json"), out.String())
		})
	}
}

func TestOptionsAreNeeded(t *testing.T) {
	if _, err := compile.Compile(config.Read("x", nil), compile.Options{}); !errors.Is(err, compile.ErrNoFormats) {
		t.Errorf("Compile without formats = %v, want %v", err, compile.ErrNoFormats)
	}
}

func TestKindsAreTheUnionOfWhatQueriesWant(t *testing.T) {
	const all = ^uint64(0)
	for _, c := range []struct {
		name   string
		wheres []string
		kinds  uint64
		where  string // that is left of the first
	}{
		{"one kind, nothing left to ask", []string{`message == "trade"`}, 1, ""},
		{"either side of ==", []string{`"trade" == message`}, 1, ""},
		{"a conjunct that asks for more stays", []string{`message == "trade" and size > 100`}, 1, "size int 100 >"},
		{"conjuncts in any order", []string{`size > 100 && (price > 1 and message == "trade")`}, 1, "size int 100 > price int 10000 > and"},
		{"a list", []string{`message in ["trade", "price_level"]`}, 5, ""},
		{"a disjunction of kinds", []string{`message == "trade" or message == "price_level"`}, 5, ""},
		{"a disjunction with something else restricts nothing", []string{`message == "trade" or size > 1`}, all, `message "trade" == size int 1 > or`},
		{"a negation restricts nothing", []string{`not (message == "trade")`}, all, `message "trade" == not`},
		{"no where", []string{""}, all, ""},
		{"two queries", []string{`message == "trade"`, `message == "price_level"`}, 5, `message "trade" ==`},
		{"two queries, one of which wants all", []string{`message == "trade"`, ""}, all, `message "trade" ==`},
		{"a contradiction wants none", []string{`message == "trade" and message == "price_level"`}, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := deep
			for i, w := range c.wheres {
				line := "select: {n: count()}"
				if w != "" {
					line += "\nwhere: '" + w + "'"
				}
				text += query(string(rune('a'+i)), line)
			}
			p := mustCompile(t, text+sinks, options())
			if got := p.Feeds[0].Kinds; got != c.kinds {
				t.Errorf("Kinds = %b, want %b", got, c.kinds)
			}
			if got := show(p, &p.Queries[0].Where); got != c.where {
				t.Errorf("Where = %q, want %q", got, c.where)
			}
		})
	}
}

func TestOnlyColumnsThatAreUsedAreDecoded(t *testing.T) {
	p := mustCompile(t, deep+query("a", `select: {n: sum(size)}
where: message == "trade"`)+query("b", `select: {n: count(trade_id)}
where: message == "trade" and side == "buy"`)+sinks, options())
	f := p.Feeds[0]
	var names []string
	for _, c := range f.Columns {
		names = append(names, c.Name)
	}
	if want := []string{"symbol", "size", "trade_id", "side"}; !slices.Equal(names, want) {
		t.Errorf("columns %v, want %v", names, want)
	}
	want := []plan.Stream{{Feed: 0, Key: []int{0}, Columns: []int{1, 2}, Queries: []int{0, 1}, KeyWidth: 8}}
	if d := cmp.Diff(want, p.Streams); d != "" {
		t.Errorf("two queries of one key list are one stream (-want +got):\n%s", d)
	}
	if f.Identity {
		t.Error("Identity is set, though no query has first or last")
	}
}

func TestPanesAreWhatWidthAndDelayNeed(t *testing.T) {
	for _, c := range []struct {
		width, delay string
		panes        int
	}{
		{"1m", "0s", 1 + 8}, {"1m", "1ns", 2 + 8}, {"1m", "1m", 2 + 8}, {"1m", "121s", 4 + 8}, {"1h", "1m", 2 + 8}, {"1s", "10s", 11 + 8},
	} {
		text := strings.Replace(deep+query("a", "select: {n: count()}\nwatermark: {delay: "+c.delay+"}")+sinks, "tumbling: 1m", "tumbling: "+c.width, 1)
		if got := mustCompile(t, text, options()).Queries[0].Panes; got != c.panes {
			t.Errorf("width %s, delay %s: %d panes, want %d", c.width, c.delay, got, c.panes)
		}
	}
}

func TestKernelHashNeedsPlacementAndKeyToAgree(t *testing.T) {
	for _, c := range []struct {
		name, format, columns, place, key string
		want                              bool
	}{
		{"the same bytes, trimmed", "raw", "a: {type: text, offset: 4, width: 8}", "{bytes: [4, 8], trim: true}", "[a]", true},
		{"not trimmed", "raw", "a: {type: text, offset: 4, width: 8}", "{bytes: [4, 8]}", "[a]", false},
		{"another length", "raw", "a: {type: text, offset: 4, width: 8}", "{bytes: [4, 4], trim: true}", "[a]", false},
		{"an int64's key is not its bytes", "raw", "a: {type: int64, offset: 4, width: 8}", "{bytes: [4, 8], trim: true}", "[a]", false},
		{"several records a packet", "{raw: {stride: 16}}", "a: {type: text, offset: 4, width: 8}", "{bytes: [4, 8], trim: true}", "[a]", false},
		{"two key columns", "raw", "{a: {type: text, offset: 4, width: 8}, b: {type: int64, offset: 12}}", "{bytes: [4, 8], trim: true}", "[a, b]", false},
		{"the first field of a record that may not be the only one", "csv", "a: text", `{until: [0, ","]}`, "[a]", false},
	} {
		columns := c.columns
		if !strings.HasPrefix(columns, "{") {
			columns = "{" + columns + "}"
		}
		text := "feeds:\n  f:\n    match: {port: 9000}\n    format: " + c.format + "\n    columns: " + columns + "\n    time: {receive: true}\n    place: " + c.place +
			"\nqueries:\n  q: {from: f, key: " + c.key + ", window: {tumbling: 1s}, select: {n: count()}, sinks: [rows]}\n" + sinks
		if got := mustCompile(t, text, options()).Streams[0].KernelHash; got != c.want {
			t.Errorf("%s: KernelHash = %v, want %v", c.name, got, c.want)
		}
	}
}

func TestKeyWidthIsTheLongestCanonicalKey(t *testing.T) {
	for key, want := range map[string]int{
		"[symbol]": 8, "[size]": 8, "[price]": 9, "[symbol, size]": 8 + 2 + 8 + 2, "[message, symbol, price]": 24 + 8 + 9 + 6, "[message, symbol, side, price, size, trade_id]": 64,
	} {
		text := strings.Replace(deep+query("a", "select: {n: count()}")+sinks, "[symbol]", key, 1)
		if got := mustCompile(t, text, options()).Streams[0].KeyWidth; got != want {
			t.Errorf("key %s: width %d, want %d", key, got, want)
		}
	}
}

func TestRulesWithoutProtocolYieldToThoseWithOne(t *testing.T) {
	text := strings.Replace(deep, "queries:", `  any:
    match: [{destination: 224.2.3.10, port: 16648}, {port: 5, line: B}]
    format: iex-tops
queries:`, 1) + query("a", "select: {n: count()}") + sinks
	p := mustCompile(t, text, options())
	got := p.Feeds[1].Rules
	want := []struct {
		protocol uint8
		port     uint16
		line     uint8
	}{{6, 16648, 0}, {17, 5, 1}, {6, 5, 1}}
	if len(got) != len(want) {
		t.Fatalf("rules %v, want %v", got, want)
	}
	for i, w := range want {
		if got[i].Protocol != w.protocol || got[i].Port != w.port || got[i].Line != w.line {
			t.Errorf("rule %d = %v, want %v", i, got[i], w)
		}
	}
}

func TestOptionsWinOverTheConfig(t *testing.T) {
	text := "workers: 2\nworkers_max: 3\ninterfaces: {eth1: {mode: native, queues: 2}}\n" + deep + query("a", "select: {n: count()}") + sinks
	o := options()
	p := mustCompile(t, text, o)
	if p.Workers != 2 || p.WorkersMax != 3 || len(p.Interfaces) != 1 || p.Interfaces[0].Frames != 32768 {
		t.Errorf("workers %d of %d, interfaces %+v", p.Workers, p.WorkersMax, p.Interfaces)
	}
	o.Workers, o.Interfaces, o.Name, o.Batch = 5, []string{"eth2", "eth1"}, "x", 7
	p = mustCompile(t, text, o)
	if p.Workers != 5 || p.WorkersMax != 5 || p.Name != "x" || p.Batch != 7 {
		t.Errorf("workers %d of %d, name %s, batch %d", p.Workers, p.WorkersMax, p.Name, p.Batch)
	}
	if i := p.Interfaces; len(i) != 2 || i[0].Name != "eth2" || i[0].Mode != plan.Auto || i[1].Mode != plan.Native || i[1].Queues != 2 {
		t.Errorf("interfaces %+v", i)
	}
	o.Replay, o.Workers = true, 0
	if p = mustCompile(t, text, o); len(p.Interfaces) != 0 || p.WorkersMax != 2 || !p.Replay {
		t.Errorf("replay: %+v", p)
	}
}

func TestPlansOfEqualConfigsAreEqual(t *testing.T) {
	text := deep + query("a", "select: {n: count()}") + query("b", "select: {m: sum(price * size)}") + sinks
	if a, b := mustCompile(t, text, options()).Hash(), mustCompile(t, text+"# a comment\n", options()).Hash(); a != b {
		t.Error("a comment changed the plan")
	}
}

// A field's limits say what they bound: huge files end soon, too.
func TestHostileFilesEndSoon(t *testing.T) {
	const size = 1 << 18
	some := func(n int, s string) string { return strings.Repeat(s, n) }
	indented := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(some(i, " ") + "a:\n")
		}
		return b.String()
	}
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	for name, text := range map[string]string{
		"quotes": fill(`"`), "ticks": fill("'"), "lines": fill("\n"), "spaces": fill(" "), "blocks": fill("|\n"), "colons": fill(":"), "text": fill("x"),
		"escapes": `"` + fill(`\`), "folds": "a: >\n" + fill(" x\n"), "dashes": fill("-"), "cr": fill("\r"), "wide": fill("é"),
		"parentheses":                  deep + query("a", "where: "+fill("(")+"\nselect: {n: count()}"),
		"parentheses within the bound": deep + query("a", "where: "+some(4000, "(")+"\nselect: {n: count()}"),
		"too large":                    fill("a") + "aaa",
		// As much as the bound on tokens lets through.
		"most keys": some(10000, "a: 1\n"), "most brackets": some(30000, "["), "most entries on a line": some(30000, "- "), "most nested": some(15000, "a:\n "),
		"most entries": some(15000, "- a\n"), "most maps in a list": some(7500, "- a: 1\n"), "most flow keys": "{" + some(7500, "a: 1, ") + "}", "deepest": indented(1400),
		"most anchors": some(7500, "- &a 1\n"), "most questions": some(7500, "? a\n: 1\n"), "most brackets in turn": "a: [" + some(7500, "[],") + "]",
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			c := config.Read("x.yaml", []byte(text))
			if err := compile.Check(c, options()); err == nil {
				t.Error("no finding")
			}
			if d := time.Since(begun); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

// Aliases that double a value thirty times are refused before they are followed.
func TestAliasBombIsRefused(t *testing.T) {
	var b strings.Builder
	b.WriteString("feeds: &a0 {x: {match: {port: 1}}}\n")
	for i := range 30 {
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll("kN: &aN [*aM, *aM]\n", "N", string(rune('A'+i))), "M", map[bool]string{true: "0", false: string(rune('A' + i - 1))}[i == 0]))
	}
	b.WriteString("queries: {q: {key: *a" + string(rune('A'+29)) + "}}\n")
	c := config.Read("x.yaml", []byte(b.String()))
	if err := compile.Check(c, options()); err == nil {
		t.Error("no finding")
	}
}

var words = map[plan.OpCode]string{
	plan.OpToFloat: "float", plan.OpAdd: "+", plan.OpSub: "-", plan.OpMul: "*", plan.OpDiv: "/", plan.OpNeg: "neg",
	plan.OpEq: "==", plan.OpNe: "!=", plan.OpLt: "<", plan.OpLe: "<=", plan.OpGt: ">", plan.OpGe: ">=",
	plan.OpAnd: "and", plan.OpOr: "or", plan.OpNot: "not",
}

// show writes a program in postfix words.
func show(p *plan.Plan, prog *plan.Program) string {
	var out []string
	for _, op := range prog.Ops {
		switch op.Code {
		case plan.OpColumn:
			out = append(out, p.Feeds[0].Columns[op.Column].Name)
		case plan.OpInt:
			out = append(out, "int "+jsonText(op.Int))
		case plan.OpFloat:
			out = append(out, "float "+jsonText(op.Float))
		case plan.OpText:
			out = append(out, jsonText(op.Text))
		case plan.OpBool:
			out = append(out, "bool "+jsonText(op.Int))
		case plan.OpScale:
			out = append(out, "scale "+jsonText(op.Int))
		default:
			out = append(out, words[op.Code])
		}
	}
	return strings.Join(out, " ")
}

func jsonText(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
