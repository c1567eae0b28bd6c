package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/internal/show"
)

const oneRow = `{"query":"bars","key":{"symbol":"%s"},"window_start":"2026-03-02T14:30:01Z","window_end":"2026-03-02T14:30:02Z",` +
	`"firing":"on_time","revision":0,"values":{"open":1.50,"volume":null,"text":"x"},"errors":{"volume":"overflow"},` +
	`"completeness":{"complete":false,"missing":%d},"row_id":"00"}` + "\n"

func rowsFile(tb testing.TB, content string) *tail {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "rows.jsonl")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
	return newTail(path)
}

func someView(tb testing.TB) *view {
	tb.Helper()
	v := &view{
		about: []string{"a title longer than many a screen is wide, so that it must be cut off somewhere", "second"}, phase: "sending",
		elapsed: 3 * time.Second, bound: 20 * time.Second, latency: export.Latency{Rows: 3, P50: 1_500_000, P99: 2e9, P999: 3e9, Max: 90_000}, watermark: 1772461803e9,
		rows: rowsFile(tb, fmt.Sprintf(oneRow, "AAPL", 0)+fmt.Sprintf(oneRow, "MSFT\\u001b[2J", 12)),
	}
	at := time.Unix(100, 0)
	v.samples = []figures{{at: at, packets: 100}, {at: at.Add(2 * time.Second), packets: 2100, messages: 20_000, rows: 7, missing: 3, lines: []lineFigures{{"A", 1000, 10}, {"B", 990, 20}}}}
	return v
}

func TestAPictureNeverExceedsTheScreen(t *testing.T) {
	v := someView(t)
	rapid.Check(t, func(t *rapid.T) {
		width, height := rapid.IntRange(show.WidthLeast, 200).Draw(t, "width"), rapid.IntRange(show.HeightLeast, 60).Draw(t, "height")
		lines := v.Picture(width, height)
		if len(lines) > height {
			t.Errorf("%d lines on a screen of %d", len(lines), height)
		}
		for _, l := range lines {
			if n := utf8.RuneCountInString(l); n > width {
				t.Errorf("%d characters on a screen of %d: %s", n, width, l)
			}
		}
	})
}

func TestThePictureOfA24By80Terminal(t *testing.T) {
	got := strings.Join(someView(t).Picture(80, 23), "\n")
	const want = `headrace: sending                                                      3s of 20s
a title longer than many a screen is wide, so that it must be cut off somewhere
second

                  a second            total     line      lost
packets              1,000            2,100     A           10  0.99 %
messages            10,000           20,000     B           20  1.98 %
rows                     4                7     kernel      0
missing                  2                3

row latency  p50 1.50 ms   p99 2.00 s   p99.9 3.00 s   max 90.0 µs
watermark    2026-03-02 14:30:03.000 UTC

symbol    window    missing  open  volume  text
AAPL      14:30:01        0  1.50    null     x
MSFT?[2J  14:30:01       12  1.50    null     x`
	if got != want {
		t.Errorf("picture:\n%s\nwant:\n%s", got, want)
	}
}

// A line lacks what was new on any line, less what came on it.
func TestWhatALineLost(t *testing.T) {
	var f figures
	// 100 packets and 2 heartbeats a line; A lost 3 of them, B 5, none the same.
	f.addFeed(&status.Feed{Frames: 196, Applied: 99, Held: 1, Duplicate: 92, Heartbeat: 4, LineFrames: []uint64{99, 97, 0, 0}})
	want := []lineFigures{{"A", 99, 3}, {"B", 97, 5}}
	if !slices.Equal(f.lines, want) {
		t.Errorf("lines = %v, want %v", f.lines, want)
	}
	var one figures
	one.addFeed(&status.Feed{Frames: 5, Applied: 5, LineFrames: []uint64{5, 0, 0, 0}})
	if len(one.lines) != 0 {
		t.Errorf("a feed of one line has lines %v", one.lines)
	}
}

func TestOnlyWholeLinesOfTheFileAreRows(t *testing.T) {
	for _, c := range []struct {
		name, content string
		n             int
		want          string
	}{
		{"an empty file", "", 3, ""},
		{"a torn line", "abc", 3, ""},
		{"a torn line after whole ones", "a\nb\nc", 3, "a b"},
		{"more than is asked for", "a\nb\nc\n", 2, "b c"},
		{"longer than what is read", strings.Repeat("x", tailBytes) + "\nb\nc\n", 9, "b c"},
	} {
		got := string(joined(rowsFile(t, c.content).last(c.n)))
		if got != c.want {
			t.Errorf("%s: rows %.40q, want %q", c.name, got, c.want)
		}
	}
	if got := newTail(filepath.Join(t.TempDir(), "none")).last(2); got != nil {
		t.Errorf("a file that is not there has rows %q", got)
	}
	if n, err := rowsFile(t, strings.Repeat("row\n", 40_000)+"torn").count(); n != 40_000 || err != nil {
		t.Errorf("count = %d, %v, want 40000", n, err)
	}
}

func joined(lines [][]byte) []byte {
	var b []byte
	for i, l := range lines {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, l...)
	}
	return b
}

func someLedger(t *rapid.T) status.Ledger {
	var l status.Ledger
	for i := range rapid.IntRange(1, 6).Draw(t, "lines") {
		n := func(name string) uint64 { return rapid.Uint64Max(1<<40).Draw(t, name) }
		line := status.Line{Layer: []string{"xdp", "worker", "frames", "messages", "events", "restarts"}[i], Of: rapid.SampledFrom([]string{"all", "0", "data plane"}).Draw(t, "of"), Received: n("received"), Applied: n("applied"), InFlight: n("in flight")}
		if rapid.Bool().Draw(t, "dropped") {
			line.Dropped = []status.Count{{Name: "unknown_order", Count: n("drops")}}
		}
		line.Difference = int64(rapid.IntRange(-1, 1).Draw(t, "difference"))
		l = append(l, line)
	}
	return l
}

// The ledger is found among what was logged, and every line that does not balance in
// it; set narrow, it says the same.
func TestTheLedgerIsFoundAndItsDifferencesAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := someLedger(t)
		var text strings.Builder
		if err := l.Write(&text); err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, x := range l {
			if x.Difference != 0 {
				want = append(want, fmt.Sprintf("%s of %s by %d", x.Layer, x.Of, x.Difference))
			}
		}
		said := "time=1 msg=layer\nname  2026-03-02  worker 0: done\n\n" + text.String() + "time=2 msg=more\n\nnotes of 3 lines\n"
		table, differences, err := ledgerOf([]byte(said))
		if err != nil || table != text.String() || !slices.Equal(differences, want) {
			t.Fatalf("ledgerOf = %v, differences %v, want %v\n%s\nof\n%s", err, differences, want, table, said)
		}
		small := narrow(table)
		if longest(small) >= longest(table) || strings.Count(small, "\n") != strings.Count(table, "\n") {
			t.Errorf("%d characters narrow, %d wide\n%s", longest(small), longest(table), small)
		}
		a, b := strings.Fields(strings.ReplaceAll(table, "in flight", "in_flight")), strings.Fields(small)
		if a, b = a[9:], b[9:]; !slices.Equal(a, b) {
			t.Errorf("narrow, the ledger says %v, not %v", b, a)
		}
	})
	if _, _, err := ledgerOf([]byte("time=1 msg=x\n")); err == nil {
		t.Error("no ledger is no error")
	}
}

func TestSettingsThatAreNoneAreRefused(t *testing.T) {
	t.Setenv("HEADRACE", os.Args[0])
	for _, c := range []struct{ name, value string }{
		{"DURATION", "20"}, {"DURATION", "1ms"}, {"DURATION", "-5s"}, {"RATE", "0"}, {"RATE", "fast"}, {"PPS", "-1"}, {"CAPTURE", "/nowhere.pcap"}, {"CONFIG", "/nowhere.yaml"},
	} {
		get := func(name string) string {
			switch name {
			case c.name:
				return c.value
			case "HEADRACE":
				return os.Args[0]
			}
			return ""
		}
		if _, err := fromEnvironment(get); err == nil || !strings.Contains(err.Error(), c.value) {
			t.Errorf("%s=%s: error %v, want one that names the value", c.name, c.value, err)
		}
	}
	s, err := fromEnvironment(func(name string) string {
		return map[string]string{"HEADRACE": os.Args[0], "DURATION": "2m", "KEEP": "1", "REPLAY": "0", "RATE": "7"}[name]
	})
	if err != nil || s.duration != 2*time.Minute || !s.keep || s.replay || s.rate != 7 || s.pps != defaultPPS {
		t.Errorf("settings %+v, %v", s, err)
	}
}
