package change_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/controlplane/change"
	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/wire/formats"
)

// state compiles text as `run` does, on a host of four CPUs.
func state(t interface {
	Helper()
	Fatalf(string, ...any)
}, text string,
) change.State {
	t.Helper()
	c := config.Read("f.yaml", []byte(text))
	p, err := compile.Compile(c, compile.Options{Formats: formats.Lookup, CPUs: 4})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return change.State{Config: c, Plan: p}
}

const base = `workers: 2
workers_max: 3
interfaces: {eth1: {rx_ring: 1024, queues: 1}, eth2: {rx_ring: 1024, idle: adaptive}}
recorder: {frames: 100, snap: 128B}
metrics: {listen: "127.0.0.1:9464"}
api: {group: headrace}
log: {level: info}
on_stop: flush
orphan_timeout: 30s
crash: rollback
feeds:
  cars:
    match: {port: 9000}
    format: json
    columns: {id: text, speed: int64, fuel: "decimal(2)"}
    time: {column: at, unit: ms}
    place: {bytes: [0, 8]}
  bars:
    match: {destination: 239.1.1.1, port: 9001}
    format: itch50
    day: 2026-01-05
    hold: {packets: 32, for: 10ms}
queries:
  fast:
    from: cars
    where: speed > 100
    key: [id]
    window: {tumbling: 1m}
    select: {n: count(), top: max(speed)}
    sinks: [rows]
  fuel:
    from: cars
    key: [id]
    window: {tumbling: 1m}
    watermark: {delay: 1s}
    select: {used: sum(fuel)}
    sinks: [rows, more]
  trades:
    from: bars
    where: message == "trade"
    key: [symbol]
    window: {tumbling: 1s}
    select: {n: count()}
    sinks: [rows]
sinks:
  rows: {jsonl: {path: rows.jsonl}}
  more: {jsonl: {path: more.jsonl}}
`

// spare reads columns where nothing else in the config does.
const spare = `interfaces: [eth1]
feeds:
  cars: {match: {port: 9000}, format: csv, columns: {at: int64, id: text, fuel: "decimal(2)"}, time: {column: at, unit: ms}}
queries:
  low: {from: cars, where: fuel < 1.5, key: [id], window: {tumbling: 1m}, select: {n: count()}, sinks: [rows]}
  all: {from: cars, key: [id], window: {tumbling: 1m}, select: {n: count()}, sinks: [rows]}
sinks: {rows: {jsonl: {path: "-"}}}
`

const peers = `{id: a, address: "10.0.0.1:7400", pin: "sha256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0="}, {id: b, address: "10.0.0.2:7400", pin: "sha256:ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs="}`

// grouped is base in a group, with the query fuel a global one.
var grouped = strings.Replace(base, "    from: cars\n    key: [id]", "    from: cars\n    scope: global\n    key: [id]", 1) +
	"group: {me: a, peers: [" + peers + "], period: 1s}\n"

// lines writes items as the table has them, without their reasons.
func lines(c *change.Change) []string {
	var out []string
	for i := range c.Items {
		x := &c.Items[i]
		tag := string(x.Tag)
		if x.Refused != "" {
			tag = "refused"
		}
		line := tag + " " + x.Title()
		if x.Action != change.Changed {
			line += " " + string(x.Action)
		}
		if x.Reason == "" || x.Action == change.Changed && x.Field != "order" && x.Old == "" && x.New == "" && x.Object != change.Query && x.Object != change.Feed {
			line += " WITHOUT A REASON OR VALUES"
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// keeps names the feeds and queries of the new plan whose state goes on.
func keeps(c *change.Change) string {
	var names []string
	for id, from := range c.Feeds {
		if from >= 0 {
			names = append(names, c.Plan.Feeds[id].Name)
		}
	}
	for i, from := range c.Queries {
		if from >= 0 {
			names = append(names, c.Plan.Queries[i].Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

const all = "bars cars fast fuel trades"

func TestEachChangeHasItsTagAndKeepsWhatItMay(t *testing.T) {
	for _, c := range []struct {
		text, old, next string // text with old replaced by next
		want            []string
		keeps           string
	}{
		{base, "", "", nil, all},
		{base, "level: info", "level: debug", []string{"live log level"}, all},
		{base, "127.0.0.1:9464", "127.0.0.1:9465", []string{"live metrics listen"}, all},
		{base, "metrics: {listen: \"127.0.0.1:9464\"}\n", "", []string{"live metrics removed"}, all},
		{base, "api: {group: headrace}", "api: {group: ops, others: nothing}", []string{"live api group", "live api others"}, all},
		{base, "on_stop: flush", "on_stop: discard", []string{"warm run on_stop"}, all},
		{base, "orphan_timeout: 30s", "orphan_timeout: 1m", []string{"warm run orphan_timeout"}, all},
		{base, "crash: rollback", "crash: cold", []string{"cold run crash"}, all},
		{base, "frames: 100,", "frames: 200,", []string{"warm limits recorder"}, all},
		{base, "recorder: {frames: 100, snap: 128B}\n", "", []string{"warm limits recorder"}, all},
		{base, "workers: 2", "workers: 1", []string{"warm workers"}, all},
		{base, "workers_max: 3", "workers_max: 2", []string{"cold interface eth1 frames", "cold interface eth2 frames", "cold workers workers_max"}, all},
		{base, "queues: 1", "queues: 2", []string{"cold interface eth1 queues"}, all},
		{base, "idle: adaptive", "idle: spin", []string{"warm interface eth2 idle"}, all},
		{base, ", eth2: {rx_ring: 1024, idle: adaptive}", "", []string{"cold interface eth2 removed"}, all},
		{base, "eth1: {rx_ring: 1024, queues: 1}, eth2: {rx_ring: 1024, idle: adaptive}", "eth2: {rx_ring: 1024}, eth1: {rx_ring: 1024, queues: 1}", []string{"cold interface order"}, all},

		{base, "port: 9000", "port: 9007", []string{"warm feed cars match"}, all},
		{base, "{port: 9000}", "[{port: 9000}, {port: 9100, line: B}]", []string{"warm feed cars match"}, all},
		{base, "for: 10ms", "for: 20ms", []string{"warm feed bars hold.for"}, all},
		{base, "bytes: [0, 8]", "bytes: [1, 8]", []string{"warm feed cars place"}, all},
		{base, "day: 2026-01-05", "day: 2026-01-06", []string{"warm feed bars day", "warm query trades from"}, "cars fast fuel"},
		{base, "packets: 32", "packets: 33", []string{"warm feed bars hold.packets", "warm query trades from"}, "cars fast fuel"},
		{base, "unit: ms", "unit: us", []string{"warm feed cars time", "warm query fast from", "warm query fuel from"}, "bars trades"},
		// A column that nobody reads.
		{base, "id: text,", "id: text, more: int64,", []string{"warm feed cars columns"}, all},
		{base, "speed: int64", "speed: {type: int64, path: v.speed}", []string{"warm feed cars columns", "warm query fast columns"}, "bars cars fuel trades"},
		{base, "decimal(2)", "decimal(3)", []string{"warm feed cars columns", "warm query fuel columns"}, "bars cars fast trades"},

		{base, "speed > 100", "speed > 101", []string{"warm query fast where"}, "bars cars fuel trades"},
		{base, "delay: 1s", "delay: 2s", []string{"warm query fuel watermark"}, "bars cars fast trades"},
		{base, "used: sum(fuel)", "used: sum(fuel), n: count()", []string{"warm query fuel select"}, "bars cars fast trades"},
		// Another column of the feed is read: the unchanged query reads what it read.
		{base, "top: max(speed)", "top: max(fuel)", []string{"warm query fast select"}, "bars cars fuel trades"},
		{base, "sinks: [rows, more]", "sinks: [more]", []string{"warm query fuel sinks"}, all},
		{base, "path: more.jsonl", "path: less.jsonl", []string{"live sink more jsonl"}, all},
		{base, "sinks:\n  rows:", "sinks:\n  extra: {jsonl: {path: extra.jsonl}}\n  rows:", []string{"live sink extra added"}, all},
		{base, "  fast:\n", "  quick:\n", []string{"warm query fast removed", "warm query quick added"}, "bars cars fuel trades"},
		{base, base[strings.Index(base, "  trades:"):strings.Index(base, "sinks:\n  rows")], "", []string{"warm query trades removed"}, "bars cars fast fuel"},
		{base, "symbol]\n    window: {tumbling: 1s}", "symbol]\n    window: {tumbling: 1s, offset: 100ms}", []string{"warm query trades window"}, "bars cars fast fuel"},

		{base, "day: 2026-01-05", "day: 2026-01-05\n    place: channel", []string{"warm feed bars place"}, all},
		// Only a condition reads the column.
		{spare, "decimal(2)", "decimal(3)", []string{"warm feed cars columns", "warm query low columns"}, "all cars"},
		{spare, "columns: {at: int64, id: text", "columns: {at: {type: int64, index: 9}, id: text", []string{"warm feed cars columns", "warm feed cars time", "warm query all from", "warm query low from"}, ""},
		{spare, "fuel: \"decimal(2)\"}", "fuel: \"decimal(2)\", more: text}", []string{"warm feed cars columns"}, "all cars low"},

		{grouped, "period: 1s", "period: 2s", []string{"refused group period"}, all},
		{grouped, "10.0.0.2:7400", "10.0.0.3:7400", []string{"refused group peers"}, all},
		{grouped, "me: a", "me: b", []string{"refused group me"}, all},
		{grouped, "used: sum(fuel)", "used: sum(speed)", []string{"refused query fuel select"}, "bars cars fast trades"},
		{grouped, "unit: ms", "unit: us", []string{"refused query fuel from", "warm feed cars time", "warm query fast from"}, "bars trades"},
		{grouped, "speed > 100", "speed > 101", []string{"warm query fast where"}, "bars cars fuel trades"},
		{grouped, "    scope: global\n", "", []string{"refused query fuel scope"}, "bars cars fast trades"},
	} {
		if strings.Count(c.text, c.old) == 0 {
			t.Fatalf("%q is not in the config", c.old)
		}
		next := strings.Replace(c.text, c.old, c.next, 1)
		got := change.Between(state(t, c.text), state(t, next))
		if lines := lines(got); !slices.Equal(lines, c.want) {
			t.Errorf("%q -> %q:\n got %q\nwant %q", c.old, c.next, lines, c.want)
		}
		if kept := keeps(got); kept != c.keeps {
			t.Errorf("%q -> %q: %q go on, want %q", c.old, c.next, kept, c.keeps)
		}
	}
}

func TestJoiningAGroupAndAnotherNameAreRefused(t *testing.T) {
	a, b := state(t, base), state(t, base+"group: {me: a, peers: ["+peers+"]}\n")
	for _, pair := range [][2]change.State{{a, b}, {b, a}} {
		if r := change.Between(pair[0], pair[1]).Refused(); len(r) != 1 || r[0].Object != change.Group {
			t.Errorf("refused: %+v", r)
		}
	}
	c := state(t, base)
	c.Plan.Name = "other"
	if r := change.Between(a, c).Refused(); len(r) != 1 || r[0].Field != "name" || !strings.Contains(r[0].Refused, "start another run") {
		t.Errorf("refused: %+v", r)
	}
}

// A changed feed gets another number, and frames with the old one go nowhere.
func TestAFeedThatBeginsAnewGetsAnotherNumber(t *testing.T) {
	a := state(t, base)
	b := state(t, strings.Replace(base, "unit: ms", "unit: us", 1))
	c := change.Between(a, b)
	if n := len(c.Plan.Feeds); n != 3 || !c.Plan.Feeds[0].Removed || c.Plan.Feeds[2].Name != "cars" || c.Plan.Feeds[1].Name != "bars" {
		t.Fatalf("feeds: %+v", c.Plan.Feeds)
	}
	if f := c.Plan.Feeds[0]; f.Name != "cars (removed, 0)" || f.Rules != nil || f.Columns != nil || f.Format != "json" {
		t.Errorf("what remains: %+v", f)
	}
	// The number is free in the change after, and not before.
	d := change.Between(change.State{Config: b.Config, Plan: c.Plan}, a)
	if f := d.Plan.Feeds; len(f) != 3 || f[0].Name != "cars" || f[0].Removed || !f[2].Removed || f[2].Name != "cars (removed, 2)" {
		t.Errorf("feeds: %+v", f)
	}
	// And it is not kept for ever at the end.
	e := change.Between(change.State{Config: a.Config, Plan: d.Plan}, a)
	if len(e.Plan.Feeds) != 2 {
		t.Errorf("feeds: %+v", e.Plan.Feeds)
	}
}

func TestMoreFeedsThanNumbersAreRefused(t *testing.T) {
	text := func(prefix string) string {
		var b strings.Builder
		b.WriteString("sinks: {rows: {jsonl: {path: '-'}}}\nqueries: {q: {from: " + prefix + "0, key: [protocol], window: {tumbling: 1m}, select: {n: count()}, sinks: [rows]}}\nfeeds:\n")
		for i := range 200 {
			fmt.Fprintf(&b, "  %s%d: {match: {port: %d}, format: flow}\n", prefix, i, i+1)
		}
		return b.String()
	}
	a, b := state(t, text("a")), state(t, text("b"))
	c := change.Between(a, b)
	if r := c.Refused(); len(r) != 1 || !strings.Contains(r[0].Refused, "need 400 numbers together, and there are 256") {
		t.Errorf("refused: %+v", r)
	}
	if c := change.Between(a, state(t, text("a"))); len(c.Items) != 0 {
		t.Errorf("items: %+v", c.Items)
	}
}

func TestTheTableShowsTheHeaviestFirst(t *testing.T) {
	next := strings.NewReplacer("level: info", "level: warn", "queues: 1", "queues: 2", "speed > 100", "speed > 1").Replace(base)
	var b strings.Builder
	if err := change.Between(state(t, base), state(t, next)).Report().Write(&b); err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(b.String()), "\n")
	var tags []string
	for _, r := range rows[1:] {
		tags = append(tags, strings.Fields(r)[0])
	}
	if !slices.Equal(tags, []string{"cold", "warm", "live"}) || !strings.Contains(b.String(), "speed > 100 -> speed > 1  ") {
		t.Errorf("table:\n%s", b.String())
	}
}

// mutants calls f for each field of the config below v, after changing its value, and
// puts it back.
func mutants(t *testing.T, path string, v reflect.Value, f func(path string)) {
	t.Helper()
	set := func(x reflect.Value) {
		was := reflect.New(v.Type()).Elem()
		was.Set(v)
		v.Set(x)
		f(path)
		v.Set(was)
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			set(reflect.New(v.Type().Elem()))
			return
		}
		set(reflect.Zero(v.Type()))
		mutants(t, path, v.Elem(), f)
	case reflect.Struct:
		if p, ok := v.Addr().Interface().(*config.Prefix); ok {
			if p.IsValid() {
				set(reflect.ValueOf(config.Prefix{}))
			} else {
				set(reflect.ValueOf(state(t, base).Config.Feeds[1].Match[0].Destination))
			}
			return
		}
		for i := range v.NumField() {
			tag := v.Type().Field(i).Tag.Get("yaml")
			if v.Field(i).Type() == reflect.TypeFor[config.Reserved]() || !v.Type().Field(i).IsExported() || tag == "-" {
				continue // nothing can be written there, or it follows from another field
			}
			mutants(t, path+"."+tag, v.Field(i), f)
		}
	case reflect.Slice:
		if v.Len() == 0 {
			set(reflect.MakeSlice(v.Type(), 1, 1))
			return
		}
		x := reflect.New(v.Type().Elem()).Elem()
		x.Set(v.Index(0))
		if name := x.Kind() == reflect.Struct && x.FieldByName("Name").IsValid(); name {
			x.FieldByName("Name").SetString("another")
		}
		set(reflect.Append(v.Slice(0, v.Len()), x))
		mutants(t, path+".0", v.Index(0), f)
	case reflect.String:
		set(reflect.ValueOf(v.String() + "x").Convert(v.Type()))
	case reflect.Int, reflect.Int64:
		set(reflect.ValueOf(v.Int() + 1).Convert(v.Type()))
	case reflect.Uint8:
		set(reflect.ValueOf(v.Uint() + 1).Convert(v.Type()))
	case reflect.Bool:
		set(reflect.ValueOf(!v.Bool()))
	default:
		t.Fatalf("%s: no mutant of a %s", path, v.Type())
	}
}

// full is a config that gives every section.
var full = strings.Replace(grouped, "api: {group: headrace}",
	`api: {remote: {listen: "10.0.0.1:7443", ca: ca.pem, clients: {ann: {role: admin, san: ann}}}}`, 1)

// Whatever field of the config changes, there is an item that says so, with a reason.
// What is settled in the plan is looked at there.
func TestNoFieldOfTheConfigChangesInSilence(t *testing.T) {
	old, next := state(t, full), state(t, full)
	seen := 0
	mutants(t, "", reflect.ValueOf(next.Config).Elem(), func(path string) {
		for _, planned := range []string{".workers", ".interfaces"} {
			if strings.HasPrefix(path, planned) {
				return
			}
		}
		seen++
		c := change.Between(old, next)
		if len(c.Items) == 0 {
			t.Errorf("%s changes in silence", path)
		}
		for i := range c.Items {
			if x := &c.Items[i]; x.Reason == "" || x.Tag == "" || x.Tag == change.None {
				t.Errorf("%s: %+v", path, x)
			}
		}
	})
	if seen < 80 {
		t.Errorf("%d fields", seen)
	}
}

// And so for what is settled in the plan. Fields of feeds and queries that differ
// though their config does not make them begin anew.
func TestNoFieldOfThePlanChangesInSilence(t *testing.T) {
	old, next := state(t, full), state(t, full)
	control := []string{"Replay", "Asked", "Feed", "Stream", "Removed"} // numbers, or never in what is compiled
	seen := 0
	visit := func(path string, v reflect.Value) {
		for i := range v.NumField() {
			field, x := v.Type().Field(i).Name, v.Field(i)
			if slices.Contains(control, field) {
				continue
			}
			was := reflect.New(x.Type()).Elem()
			was.Set(x)
			switch x.Kind() {
			case reflect.Int, reflect.Int64:
				x.SetInt(x.Int() + 1)
			case reflect.String:
				x.SetString(x.String() + "x")
			case reflect.Bool:
				x.SetBool(!x.Bool())
			default:
				continue
			}
			seen++
			if c := change.Between(old, next); len(c.Items) == 0 || c.Tag() == change.Live {
				t.Errorf("%s.%s changes in silence: %+v", path, field, c.Items)
			}
			x.Set(was)
		}
	}
	visit("plan", reflect.ValueOf(next.Plan).Elem())
	visit("interface", reflect.ValueOf(&next.Plan.Interfaces[0]).Elem())
	visit("feed", reflect.ValueOf(&next.Plan.Feeds[0]).Elem())
	visit("query", reflect.ValueOf(&next.Plan.Queries[0]).Elem())
	if seen < 35 {
		t.Errorf("%d fields", seen)
	}
}

// draw writes a config of some of many parts.
func draw(t *rapid.T, label string) string {
	pick := func(name string, options ...string) string { return rapid.SampledFrom(options).Draw(t, label+" "+name) }
	var feeds, queries strings.Builder
	order := rapid.Permutation([]string{"a", "b", "c", "d"}).Draw(t, label+" order")
	for _, f := range order[:rapid.IntRange(1, 4).Draw(t, label+" feeds")] {
		fmt.Fprintf(&feeds, "  %s: {match: {port: %d%s}, format: json, columns: {k: %s, v: %s, w: int64}, time: {column: t, unit: %s}}\n",
			f, 9000+int(f[0]), pick("vlan "+f, "", ", vlan: 7"), pick("k "+f, "text", "int64"), pick("v "+f, "int64", "decimal(2)", "float64"), pick("unit "+f, "ms", "us"))
		for n := range rapid.IntRange(0, 2).Draw(t, label+" queries "+f) {
			fmt.Fprintf(&queries, "  %s%d: {from: %s, key: [k], window: {tumbling: %s}, select: {x: %s}, sinks: [%s]}\n", f, n, f,
				pick("width", "1s", "1m"), pick("value", "count()", "sum(v)", "max(w)"), pick("sink", "s", "r", "s, r"))
		}
	}
	if queries.Len() == 0 {
		fmt.Fprintf(&queries, "  only: {from: %s, key: [k], window: {tumbling: 1s}, select: {x: count()}, sinks: [s]}\n", order[0])
	}
	return fmt.Sprintf("workers: %s\nlog: {level: %s}\nfeeds:\n%squeries:\n%ssinks: {s: {jsonl: {path: s}}, r: {jsonl: {path: r}}}\n",
		pick("workers", "1", "2"), pick("level", "info", "warn"), feeds.String(), queries.String())
}

// Over a chain of changes frames stay with their feeds, and what goes on goes on
// with what it is.
func TestNumbersHoldOverAnyChainOfChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := state(t, draw(t, "0"))
		for n := range rapid.IntRange(1, 4).Draw(t, "changes") {
			if c := change.Between(now, now); len(c.Items) > 0 && !hasRemoved(now.Plan) {
				t.Fatalf("a config differs from itself: %+v", c.Items)
			}
			text := draw(t, fmt.Sprint(n+1))
			next := state(t, text)
			c := change.Between(now, next)
			checkNumbers(t, now, next, c)
			if c.Tag() == change.Live && now.Plan.Hash() != c.Plan.Hash() {
				t.Fatalf("another plan is no live change: %+v", c.Items)
			}
			if len(c.Items) == 0 && !hasRemoved(now.Plan) && now.Plan.Hash() != c.Plan.Hash() {
				t.Fatalf("the plan changes in silence:\n%s", text)
			}
			now = change.State{Config: next.Config, Plan: c.Plan}
		}
	})
}

func hasRemoved(p *plan.Plan) bool {
	return slices.ContainsFunc(p.Feeds, func(f plan.Feed) bool { return f.Removed })
}

func checkNumbers(t *rapid.T, old, next change.State, c *change.Change) {
	if _, err := steer.Compile(c.Plan.Feeds); err != nil {
		t.Fatalf("the rules: %v", err)
	}
	names := map[string]bool{}
	for id := range c.Plan.Feeds {
		f := &c.Plan.Feeds[id]
		if names[f.Name] {
			t.Fatalf("two feeds %q", f.Name)
		}
		names[f.Name] = true
		var was *plan.Feed
		if id < len(old.Plan.Feeds) {
			was = &old.Plan.Feeds[id]
		}
		switch from := c.Feeds[id]; {
		case from >= 0 && (from != id || was == nil || was.Name != f.Name || was.Removed || f.Removed):
			t.Fatalf("feed %d goes on as %d: %+v", from, id, f)
		case from < 0 && was != nil && !was.Removed && !f.Removed:
			t.Fatalf("number %d of %s is given to %s", id, was.Name, f.Name)
		case f.Removed && len(f.Rules) > 0:
			t.Fatalf("a rule leads to %s", f.Name)
		}
	}
	live := 0
	for i := range next.Plan.Feeds {
		if names[next.Plan.Feeds[i].Name] {
			live++
		}
	}
	if live != len(next.Plan.Feeds) || len(c.Plan.Feeds) > event.FeedsMax {
		t.Fatalf("feeds: %+v", c.Plan.Feeds)
	}
	for i := range c.Plan.Queries {
		q, want := &c.Plan.Queries[i], &next.Plan.Queries[i]
		if c.Plan.Feeds[q.Feed].Name != next.Plan.Feeds[want.Feed].Name || c.Plan.Streams[q.Stream].Feed != q.Feed {
			t.Fatalf("query %s reads feed %d", q.Name, q.Feed)
		}
		from := c.Queries[i]
		if from < 0 {
			continue
		}
		// What goes on has the same state: its feed does, and key, windows and values are equal.
		o := &old.Plan.Queries[from]
		if o.Name != q.Name || o.Width != q.Width || c.Feeds[q.Feed] < 0 || !reflect.DeepEqual(valuesOf(old.Plan, o), valuesOf(c.Plan, q)) {
			t.Fatalf("query %s goes on as another:\n%+v\n%+v", q.Name, o, q)
		}
	}
	for i := range c.Items {
		if x := &c.Items[i]; x.Object == change.Query && x.Loses != "" && x.Action == change.Changed {
			if k := slices.IndexFunc(c.Plan.Queries, func(q plan.Query) bool { return q.Name == x.Name }); c.Queries[k] >= 0 {
				t.Fatalf("query %s loses %q and goes on", x.Name, x.Loses)
			}
		}
	}
}

// valuesOf writes what a query computes, with columns by name and type.
func valuesOf(p *plan.Plan, q *plan.Query) []string {
	column := func(i int) string {
		c := p.Feeds[q.Feed].Columns[i]
		return fmt.Sprint(c.Name, c.Type, c.Scale, c.Path)
	}
	var out []string
	for _, k := range p.Streams[q.Stream].Key {
		out = append(out, column(k))
	}
	for _, a := range q.Aggregates {
		out = append(out, a.Name+a.Kind.String())
		for _, x := range a.Args {
			for _, op := range x.Ops {
				if op.Code == plan.OpColumn {
					out = append(out, column(op.Column))
				}
			}
		}
	}
	return out
}
