package config_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/controlplane/config"
)

// read reads a config of one feed and one query, with lines at the top, in the feed
// and in the query.
func read(top, feed, query string) *config.Config {
	return config.Read("f.yaml", []byte(top+`
feeds:
  cars:
    match: {port: 9000}
    format: json
    columns: {a: int64}
    time: {receive: true}
    `+feed+`
queries:
  q:
    from: cars
    key: [a]
    select: {n: count()}
    sinks: [rows]
    `+query+`
sinks:
  rows: {jsonl: {path: "-"}}
`))
}

const window = "window: {tumbling: 1m}"

func TestDefaultsAreThoseOfTheReference(t *testing.T) {
	c := read("", "", window)
	if f := c.Findings(); len(f) > 0 {
		t.Fatal(f)
	}
	f, q := c.Feeds[0], c.Queries[0]
	switch {
	case c.OnStop != "flush", c.OrphanTimeout.D() != 30*time.Second, c.Metrics != nil, c.Workers != 0,
		c.Crash != "rollback", c.Recorder != nil, c.Log.Level != "info", c.API != config.API{Group: "headrace", Others: "read"}:
		t.Errorf("top level: %+v", c)
	case f.Channels != 64, f.Hold.Packets != 64, f.Hold.Bytes != 128<<10, f.Hold.For.D() != 50*time.Millisecond, f.Orders != 1_000_000, f.Zone != "America/New_York", f.Match[0].Line != "A":
		t.Errorf("feed: %+v", f)
	case q.Keys != 65536, q.Panes != 0, q.Watermark.Delay != 0, q.Window.Offset != 0:
		t.Errorf("query: %+v", q)
	}
}

const peers = `group: {me: b, peers: [{id: b, address: "10.0.0.2:7400", pin: "sha256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0="}, {id: a, address: "box-a.example:7400", pin: ["sha256:ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs=", "sha256:Ln0sA6lQeuJl7PW1NWiFpTOTogKdJBOUmXJloaJa78Y="]}]}`

func TestAGroupHasTheDefaultsOfTheReference(t *testing.T) {
	c := read(peers, "", window+"\n    scope: global\n    local_sinks: [rows]")
	if f := c.Findings(); len(f) > 0 {
		t.Fatal(f)
	}
	g, q := c.Group, c.Queries[0]
	switch {
	case g.Me != "b", g.Dir != "/etc/headrace/group", g.Period.D() != time.Second, g.MaxWait.D() != 2*time.Second, g.CorrectFor.D() != 5*time.Minute,
		g.Keep != 256<<20, g.Transport != "auto", g.Device != "", g.Busy, g.Seal, g.AllowSolo, g.TieBreaker != "":
		t.Errorf("group: %+v", g)
	case strings.Join(g.IDs(), ",") != "a,b", g.Peers[0].ID != "b", len(g.Peers[0].Pin) != 1, len(g.Peers[1].Pin) != 2, g.Peers[1].Address != "box-a.example:7400":
		t.Errorf("peers: %+v", g.Peers)
	case q.Scope != "global", len(q.LocalSinks) != 1:
		t.Errorf("query: %+v", q)
	}
	if c := read("", "", window); c.Group != nil || c.Queries[0].Scope != "local" || c.Queries[0].LocalSinks != nil {
		t.Errorf("without a group: %+v, %+v", c.Group, c.Queries[0])
	}
}

// A group of two goes on when one is gone only if somebody says how; that is no mistake.
func TestAGroupOfTwoNeedsNoTieBreaker(t *testing.T) {
	for _, line := range []string{"", "tie_breaker: a", "allow_solo: true", "max_wait: 0", "correct_for: 0", "device: mlx5_0", "transport: verbs"} {
		text := strings.Replace(peers, "{me: b,", "{me: b, "+line+",", 1)
		if line == "" {
			text = peers
		}
		if f := read(text, "", window).Findings(); len(f) > 0 {
			t.Errorf("%s: %v", line, f)
		}
	}
}

func TestSelectKeepsTheOrderOfTheFile(t *testing.T) {
	c := config.Read("f", []byte("queries: {q: {select: {z: count(), a: count(), m: count()}}}"))
	var names []string
	for _, v := range c.Queries[0].Select {
		names = append(names, v.Name)
	}
	if got := strings.Join(names, ""); got != "zam" {
		t.Errorf("order %s, want zam", got)
	}
}

const remote = `{listen: "10.0.0.1:7443", certificate: a.crt, key: a.key, ca: ca.pem, clients: {ann: {role: admin, pin: "sha256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0="}, ci: {role: viewer, san: ci.example}}}`

func TestAllFormsOfAValueAreRead(t *testing.T) {
	for _, c := range []struct{ top, feed, query string }{
		{"interfaces: [eth1, eth2.100]", "", window},
		{"interfaces: {eth1: {mode: native, queues: 4, idle: spin}, eth2: {queues: all}}", "", window},
		{"metrics: {}", "place: {bytes: [0, 8], trim: true}", window},
		{"metrics: {listen: '[::1]:9464'}", "place: {until: [0, ',']}", window},
		{"on_stop: discard", "place: {tuple: [source, destination], symmetric: true}", window},
		{"orphan_timeout: 1m30s", "place: {tuple: [source, destination, source_port, destination_port]}", window},
		{"workers: 0x2", "place: channel", "window: {tumbling: 1d, offset: 1h30m}"},
		{"recorder: {}\ncrash: cold\nlog: {level: debug}\napi: {others: nothing, group: '0'}", "", window},
		{"recorder: {frames: 100, snap: 256B}\napi: {remote: " + remote + "}", "", window},
		{"", "", "window: {tumbling: 0.5s}\n    watermark: {delay: 0}"},
		{"", "", "window: {tumbling: 1m}\n    watermark: {delay: 1m, idle: 30s}\n    keys: 100_000\n    where: |\n      a > 1\n"},
		{"", "hold: {packets: 1, bytes: 65536, for: 1us}", window},
		{"", "channels: 1", "window: &w {tumbling: 1m}\n  q2: {from: cars, key: [a], select: {n: count()}, sinks: [rows], window: *w}"},
	} {
		if f := read(c.top, c.feed, c.query).Findings(); len(f) > 0 {
			t.Errorf("%v: %v", c, f)
		}
	}
}

func TestOneRuleAtATime(t *testing.T) {
	for _, c := range []struct{ top, feed, query, want string }{
		{"workers: 0", "", window, "workers is the number 0; write a whole number from 1 to 64"},
		{"workers: 1.5", "", window, "workers is the number 1.5; write a whole number from 1 to 64"},
		{"workers: 010", "", window, "workers is the number 010; a leading 0 means octal in some YAML: leave it out"},
		{"workers: many", "", window, `workers is the text "many"; write a whole number from 1 to 64`},
		{"metrics: 9464", "", window, "metrics is the number 9464; write a map with the fields listen"},
		{"metrics: {listen: nowhere}", "", window, `listen is "nowhere"; write an address and a port; did you mean "127.0.0.1:9464"?`},
		{"crash: warm", "", window, `crash is the text "warm"; write rollback or cold`},
		{"recorder: {snap: 4KiB}", "", window, `snap is 4096 bytes; from 64 to 2048: a frame has no more; did you mean "2048"?`},
		{"recorder: {frames: 0}", "", window, "frames is the number 0; write a whole number from 1 to 1048576"},
		{"log: {level: trace}", "", window, `level is the text "trace"; write debug, info, warn or error`},
		{"api: {group: 'a b'}", "", window, `"a b" cannot name a Unix group; a name as in /etc/group, or a number; did you mean "headrace"?`},
		{"api: {remote: {listen: '10.0.0.1:7443'}}", "", window, `remote is missing its field "clients"; write clients: and below it each client's name`},
		{"api: {remote: " + strings.Replace(remote, "10.0.0.1:7443", "here", 1) + "}", "", window, `listen is "here"; write an address and a port`},
		{"api: {remote: " + strings.Replace(remote, "key: a.key,", "", 1) + "}", "", window, "certificate stands without key; name the file with the certificate's key too: key: api.key"},
		{"api: {remote: " + strings.Replace(remote, "certificate: a.crt,", "", 1) + "}", "", window, "key stands without certificate; name the file with the certificate too: certificate: api.crt"},
		{"api: {remote: " + strings.Replace(remote, "ca: ca.pem,", "", 1) + "}", "", window, "client ci is known by a name, and no root vouches for names; name the file with the roots, ca: clients.pem beside clients, or give the client a pin"},
		{"api: {remote: " + strings.Replace(remote, ", san: ci.example", "", 1) + "}", "", window, "client ci has neither pin nor san; write pin: \"sha256:…\" as headrace group init prints it, or san: and a name in the client's certificate"},
		{"api: {remote: " + strings.Replace(remote, "san: ci.example", `san: a.b, pin: "sha256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0="`, 1) + "}", "", window, "client ci has both pin and san; keep one: a pin says more than a name"},
		{"api: {remote: " + strings.Replace(remote, "san: ci.example", `pin: "sha256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0="`, 1) + "}", "", window, "clients ann and ci have the same pin; a client has one role: keep one of them"},
		{"api: {remote: " + strings.Replace(remote, "ann: {role: admin, pin: \"sha256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0=\"}", "ann: {role: admin, san: ci.example}", 1) + "}", "", window, "clients ann and ci have the same san; a client has one role: keep one of them"},
		{"interfaces: eth1", "", window, `interfaces is the text "eth1"; write a list, such as [eth1], or a map from name to settings`},
		{"interfaces: []", "", window, "interfaces is an empty list; name at least one interface, or leave interfaces out"},
		{"tables: {}", "", window, "tables is reserved; tables come later; take tables out"},
		{"", "hold: {for: 1 s}", window, `"1 s" is not a duration; write numbers with units ns, us, ms, s, m, h or d, such as 500ms, 1m or 1h30m; did you mean "1s"?`},
		{"", "hold: {bytes: 128k}", window, `"128k" is not a size; write a number of bytes, or one with B, KiB, MiB or GiB, such as 128KiB; did you mean "128KiB"?`},
		{"", "hold: 64", window, "hold is the number 64; write a map with the fields packets, bytes, for"},
		{"", "place: {bytes: [0, 65]}", window, "entry 1 of bytes is the number 65; write a whole number from 1 to 64"},
		{"", "place: {bytes: [0]}", window, "bytes is a list; write [offset, length], such as [0, 8]: offset 0 to 2047, length 1 to 64"},
		{"", `place: {until: [0, ";;"]}`, window, `delimiter ";;" is not one ASCII character; write one, in quotes: ",", ";", "|" or "\t"`},
		{"", "place: {tuple: [source], bytes: [0, 8]}", window, `place has 2 of tuple, bytes and until; write channel, {tuple: [source, source_port]}, {bytes: [0, 8]} or {until: [0, ","]}`},
		{"", "place: {tuple: []}", window, "tuple is an empty list; write at least 1"},
		{"", "place: {tuple: [source, source]}", window, "source is given twice; keep one"},
		{"", "day: 2026-02-30", window, `day "2026-02-30" is not a date; write it as YYYY-MM-DD, such as 2026-01-05`},
		{"", "", "window: {tumbling: 1m, count: 5}", "count is reserved; count windows come later; use tumbling: a width"},
		{"", "", "window: {}", "window names no width; write {tumbling: 1m}"},
		{"", "", "window: {tumbling: 300000d}", `duration "300000d" is too long, or finer than a nanosecond; write numbers with units ns, us, ms, s, m, h or d, such as 500ms, 1m or 1h30m`},
		{"", "", window + "\n    watermark: {idle: 0s}", "idle is 0; leave it out for sources that never become idle, or write how long, such as 30s"},
		{"", "", window + "\n    where: ''", "the expression is empty; leave the field out, or write an expression"},
		{"", "", window + "\n    where: [a]", "where is a list; write an expression"},
		{"", "", window + "\n    panes: ~", "panes has no value; write a whole number from 1 to 65536"},
	} {
		f := read(c.top, c.feed, c.query).Findings()
		if len(f) != 1 {
			t.Errorf("%q %q %q: %d findings, want 1:\n%v", c.top, c.feed, c.query, len(f), f)
			continue
		}
		if _, got, _ := strings.Cut(strings.TrimPrefix(f[0].String(), "f.yaml:"), ": "); got != c.want {
			t.Errorf("%q %q %q:\n got %s\nwant %s", c.top, c.feed, c.query, got, c.want)
		}
	}
}

func TestFindingsStandWhereTheMistakeIs(t *testing.T) {
	// The @ marks the mistake and is taken out.
	for _, text := range []string{
		"feeds: {a: {match: {port: @x}, format: flow}}\nqueries: {}\n",
		"@wrokers: 2\n",
		"workers:   @'2'\n",
		"# é\nfeeds:\n  é@: {}\n",
		"interfaces:\n  - eth1\n  - @eth1\n",
		"\ufeffon_stop: @never\n",
		"on_stop: >-\n  never\n",
		"a: b\r\n@on_stap: flush\r\n",
		"metrics: {listen: \"a:b\" @listen: c}\n",
	} {
		want := strings.Index(text, "@")
		c := config.Read("f", []byte(strings.Replace(text, "@", "", 1)))
		if want < 0 || strings.Contains(text, "é@") || strings.Contains(text, `" @`) {
			if len(c.Findings()) == 0 {
				t.Errorf("%q: no finding", text)
			}
			continue
		}
		before := strings.TrimPrefix(text[:want], "\ufeff")
		line := 1 + strings.Count(before, "\n")
		column := 1 + len([]rune(before[strings.LastIndex(before, "\n")+1:]))
		found := false
		for _, f := range c.Findings() {
			found = found || f.Line == line && f.Column == column
		}
		if !found {
			t.Errorf("%q: none at %d:%d:\n%v", text, line, column, c.Findings())
		}
	}
}

// A place inside of a scalar is found in every style of scalar.
func TestPosWithin(t *testing.T) {
	const expr = "a > 1 and bbb < 2"
	at := strings.Index(expr, "bbb")
	for text, want := range map[string]config.Pos{
		"    where: a > 1 and bbb < 2":                  {Line: 1, Column: 22},
		"    where: 'a > 1 and bbb < 2'":                {Line: 1, Column: 23},
		"    where: \"a > 1 and bbb < 2\"":              {Line: 1, Column: 23},
		"    where: \"a > 1 \\u0061nd bbb < 2\"":        {Line: 1, Column: 12}, // behind an escape: where it begins
		"    where: |-\n      a > 1 and bbb < 2":        {Line: 2, Column: 17},
		"    where: >-\n      a > 1\n      and bbb < 2": {Line: 3, Column: 11},
		"    where: a > 1\n      and\n      bbb < 2":    {Line: 3, Column: 7},
	} {
		c := config.Read("f", []byte("queries:\n  q:\n"+text+"\n"))
		q := c.Queries[0]
		if q.Where == nil || string(*q.Where) != expr {
			t.Errorf("%q: read %v", text, q.Where)
			continue
		}
		want.Line += 2
		if got := c.PosWithin(at, "queries", "q", "where"); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// A duration means what it means in Go, where Go has the units.
func TestDurationsAgreeWithGo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := ""
		for range rapid.IntRange(1, 3).Draw(t, "parts") {
			text += rapid.StringMatching(`[0-9]{1,4}(\.[0-9]{1,3})?`).Draw(t, "number") + rapid.SampledFrom([]string{"us", "ms", "s", "m", "h"}).Draw(t, "unit")
		}
		want, err := time.ParseDuration(text)
		if err != nil || want == 0 {
			return
		}
		c := read("orphan_timeout: "+text, "", window)
		if f := c.Findings(); len(f) > 0 {
			t.Fatal(f)
		}
		if got := c.OrphanTimeout.D(); got != want {
			t.Fatalf("%s = %v, want %v", text, got, want)
		}
	})
}

func TestNearest(t *testing.T) {
	words := []string{"price", "size", "symbol", "message", "native", "generic"}
	for word, want := range map[string]string{
		"prise": "price", "pirce": "price", "PRICE": "price", "sise": "size", "sym": "symbol", "messages": "message", "navite": "native", "zzz": "", "": "", "x": "", "volume": "",
	} {
		if got := config.Nearest(word, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestLoadNamesTheFileThatIsNotThere(t *testing.T) {
	if _, err := config.Load("no/such/file.yaml"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no/such/file.yaml") {
		t.Errorf("Load = %v", err)
	}
}

func TestYAMLMistakesStandWhereTheirCauseIs(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"feeds:\n  a\n  b: 1\n", "f:2:3: this is neither a key with its colon nor a value; write the name, a colon, and below it its fields"},
		{"feeds: {a: 1\nqueries: 1\n", "f:1:8: this { is not closed; close it on its line, or before the next key"},
		{"workers: 1\n  on_stop: flush\n", "f:2:3: the line is indented further than the one before, which has a value; indent it like its neighbors"},
		{"on_stop: a: b\n", `f:1:10: YAML: mapping value is not allowed in this context; a text that holds ": " or " :" needs quotes`},
		{"\ton_stop: flush\n", "f:1:1: the line is indented with a tab; indent with spaces"},
		{"on_stop: \"a \"b\" c\"\n", "f:1:14: this does not go on what stands before it; indent all keys of one map alike; a text with quotes in it needs other quotes around it"},
		{"on_stop: \xff\n", "f:1:10: the file is not UTF-8 text; save it as UTF-8, without control characters"},
	} {
		f := config.Read("f", []byte(c.text)).Findings()
		if len(f) == 0 || f[0].String() != c.want {
			t.Errorf("%q:\n got %v\nwant %s", c.text, f, c.want)
		}
	}
}
