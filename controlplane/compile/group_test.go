package compile_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/plan"
)

func groupFile(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../examples/group-a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBoxesOfAGroupAgreeAndStillDiffer(t *testing.T) {
	base := groupFile(t)
	want := compile.GroupHash(mustCompile(t, base, options()))
	for _, c := range []struct {
		name, old, new string
		same           bool
	}{
		{"its id", "me: a", "me: b", true},
		{"its rules", "destination: 239.7.1.1, port: 9000", "destination: 239.7.1.2, port: 9001", true},
		{"its placement", "time: {column: at, unit: ms}", "time: {column: at, unit: ms}\n    place: {bytes: [0, 8]}", true},
		{"its sinks", "    sinks: [rows]              #", "    sinks: [here]              #", true},
		{"its sinks for rows of its own", "    local_sinks: [here]", "    #", true},
		{"the place of its file", "path: rows.jsonl", "path: /data/rows.jsonl", true},
		{"its folder and device", "period: 1s", "dir: /keys\n  device: mlx5_1\n  period: 1s", true},
		{"its workers", "group:\n", "workers: 2\nworkers_max: 7\norphan_timeout: 1m\ngroup:\n", true},
		{"its interfaces", "group:\n", "interfaces: [eth7]\ngroup:\n", true},
		{"a local query less", "where: watts == 0", "where: watts == 1", true},
		{"a local query that comes first and uses other columns", "queries:\n", "queries:\n  a:\n    from: sensors\n    key: [floor]\n    window: {tumbling: 1m}\n    select: {n: sum(watts)}\n    sinks: [here]\n", true},
		{"another order of columns", "      room: text\n      celsius: decimal(2)\n      watts: float64\n", "      floor: text\n      watts: float64\n      celsius: decimal(2)\n      room: text\n", true},
		{"an id of another", "id: c", "id: d", false},
		{"who goes on", "  period: 1s", "  allow_solo: true\n  period: 1s", false},
		{"seals", "  period: 1s", "  seal: true\n  period: 1s", false},
		{"a query's name", "  climate:", "  weather:", false},
		{"a window", "window: {tumbling: 1m}", "window: {tumbling: 2m}", false},
		{"an offset", "window: {tumbling: 1m}", "window: {tumbling: 1m, offset: 1s}", false},
		{"a delay", "watermark: {delay: 2s, idle: 30s}\n    keys: 10000\n    select:\n", "watermark: {delay: 3s, idle: 30s}\n    keys: 10000\n    select:\n", false},
		{"a condition", "    keys: 10000\n    select:\n", "    keys: 10000\n    where: watts > 0\n    select:\n", false},
		{"a key", "    key: [room]\n    window: {tumbling: 1m}", "    key: [floor]\n    window: {tumbling: 1m}", false},
		{"a value", "coldest: min(celsius)", "coldest: max(celsius)", false},
		{"a value's name", "coldest:", "lowest:", false},
		{"the order of values", "      coldest: min(celsius)\n      warmest: max(celsius)\n", "      warmest: max(celsius)\n      coldest: min(celsius)\n", false},
		{"a column's scale", "celsius: decimal(2)", "celsius: decimal(3)", false},
		{"a column's path", "celsius: decimal(2)", "celsius: {type: decimal(2), path: t.c}", false},
		{"the unit of time", "unit: ms", "unit: us", false},
		{"a global query more", "    sinks: [here]              # scope", "    sinks: [here]\n    scope: global # scope", false},
	} {
		text := base
		if !strings.Contains(text, "floor") && strings.Contains(c.new, "[floor]") {
			text = strings.Replace(text, "      room: text\n", "      room: text\n      floor: text\n", 1)
		}
		changed := strings.Replace(text, c.old, c.new, 1)
		if changed == text {
			t.Fatalf("%s: %q is not in the file", c.name, c.old)
		}
		if got := compile.GroupHash(mustCompile(t, changed, options())); (got == want) != c.same {
			t.Errorf("%s: the hash is the same: %v, want %v", c.name, got == want, c.same)
		}
	}
	for _, name := range []string{"b", "c"} {
		_, p, err := compile.File("../../examples/group-"+name+".yaml", compile.Options{Formats: options().Formats, CPUs: 16})
		if err != nil {
			t.Fatal(err)
		}
		if compile.GroupHash(p) != want {
			t.Errorf("group-%s.yaml differs from group-a.yaml", name)
		}
	}
}

// What the decoder sees to, and so what is left of a condition, depends on the other
// queries of the feed.
func TestAConditionIsTheSameWhateverOtherQueriesWant(t *testing.T) {
	top := groupFile(t)
	top = top[:strings.Index(top, "feeds:")]
	one := query("g", "select: {n: sum(size)}\nwhere: message == \"trade\" and size > 100\nscope: global")
	a := mustCompile(t, top+deep+one+sinks, options())
	b := mustCompile(t, top+deep+query("x", "select: {n: count(price)}\nwhere: message == \"price_level\"")+one+sinks, options())
	if show(a, &a.Queries[0].Where) == show(b, &b.Queries[0].Where) {
		t.Fatal("the conditions are the same anyway")
	}
	if compile.GroupHash(a) != compile.GroupHash(b) {
		t.Error("the hashes differ")
	}
	c := mustCompile(t, top+deep+strings.Replace(one, "100", "101", 1)+sinks, options())
	if compile.GroupHash(a) == compile.GroupHash(c) {
		t.Error("another condition has the same hash")
	}
}

func TestGlobalQueriesComeFirstAndByName(t *testing.T) {
	top := groupFile(t)
	top = top[:strings.Index(top, "feeds:")]
	const n = "select: {n: count()}"
	text := top + deep + query("z", n) + query("m", n+"\nscope: global\nlocal_sinks: [rows]") + query("a", n) + query("b", n+"\nscope: global") + sinks
	names := func(o compile.Options) (names []string, p *plan.Plan) {
		p = mustCompile(t, text, o)
		for _, q := range p.Queries {
			names = append(names, q.Name)
		}
		for i, s := range p.Streams {
			for _, q := range s.Queries {
				if p.Queries[q].Stream != i {
					t.Errorf("query %d of stream %d says %d", q, i, p.Queries[q].Stream)
				}
			}
		}
		return names, p
	}
	got, p := names(options())
	if want := []string{"b", "m", "z", "a"}; !slices.Equal(got, want) {
		t.Errorf("queries %v, want %v", got, want)
	}
	for i, want := range []struct {
		global bool
		local  []string
	}{{true, nil}, {true, []string{"rows"}}, {false, []string{"rows"}}, {false, []string{"rows"}}} {
		if q := &p.Queries[i]; q.Global != want.global || !slices.Equal(q.Local(), want.local) || !slices.Equal(q.Sinks, []string{"rows"}) {
			t.Errorf("query %s: %+v", q.Name, q)
		}
	}
	o := options()
	o.Replay = true
	got, p = names(o)
	if want := []string{"z", "m", "a", "b"}; !slices.Equal(got, want) || p.Group != nil || p.Queries[1].Global || p.Queries[1].LocalSinks != nil {
		t.Errorf("a replay has queries %v, group %v, %+v", got, p.Group, p.Queries[1])
	}
}

func TestAPlanKnowsItsGroup(t *testing.T) {
	c := config.Read("x", []byte(strings.Replace(groupFile(t), "  period: 1s", "  seal: true\n  allow_solo: true", 1)))
	p, err := compile.Compile(c, options())
	if err != nil {
		t.Fatal(err)
	}
	if g := p.Group; g.Me != "a" || !slices.Equal(g.Peers, []string{"a", "b", "c"}) || !g.Seal || !g.AllowSolo || g.TieBreaker != "" {
		t.Errorf("group %+v", g)
	}
}
