package acceptance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/built"
)

// program is the binary under test.
var program string

func TestMain(m *testing.M) { os.Exit(begin(m)) }

func begin(m *testing.M) int {
	if program = os.Getenv("HEADRACE_BINARY"); program != "" {
		return m.Run()
	}
	defer built.Remove()
	var err error
	if program, err = built.Headrace(""); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// command returns the binary with arguments, under HEADRACE_RUNNER if that is set.
func command(tb testing.TB, args ...string) *exec.Cmd {
	tb.Helper()
	words := append(strings.Fields(os.Getenv("HEADRACE_RUNNER")), program)
	words = append(words, args...)
	return exec.CommandContext(tb.Context(), words[0], words[1:]...)
}

// A result is what a run of the binary left.
type result struct {
	rows    []byte // of --out
	stdout  []byte
	stderr  string
	code    int
	summary summary
}

// summary is the JSON object that is the last line of standard error. Pointers tell a
// missing member from zero.
type summary struct {
	Packets           *uint64           `json:"packets"`
	Truncated         *uint64           `json:"truncated"`
	Messages          *uint64           `json:"messages"`
	Events            *uint64           `json:"events"`
	Rows              *uint64           `json:"rows"`
	Drops             map[string]uint64 `json:"drops"`
	Passed            map[string]uint64 `json:"passed"`
	Filtered          uint64            `json:"filtered"`
	Applied           uint64            `json:"applied"`
	Duplicates        *uint64           `json:"duplicates"`
	Epochs            *uint64           `json:"epochs"`
	Missing           *uint64           `json:"missing"`
	Seconds           *float64          `json:"seconds"`
	MessagesPerSecond *float64          `json:"messages_per_second"`
	Ledger            []struct {
		Layer      string `json:"layer"`
		Of         string `json:"of"`
		Difference int64  `json:"difference"`
		InFlight   uint64 `json:"in_flight"`
	} `json:"ledger"`
}

// run runs the binary and does not judge how it ends, unless it crashed.
func run(tb testing.TB, stdin []byte, args ...string) *result {
	tb.Helper()
	c := command(tb, args...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &out, &errs
	r := &result{}
	var exit *exec.ExitError
	if err := c.Run(); err != nil && !errors.As(err, &exit) {
		tb.Fatalf("headrace %s: %v", strings.Join(args, " "), err)
	}
	r.stdout, r.stderr, r.code = out.Bytes(), errs.String(), c.ProcessState.ExitCode()
	if r.code != 0 && r.code != 1 && r.code != 64 || strings.Contains(r.stderr, "goroutine ") {
		tb.Fatalf("headrace %s: crashed, exit %d:\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r
}

// try replays with --json and --out, and reads rows and summary if it ended well.
// config is the text of a config, or the path of one that ends in .yaml.
func try(tb testing.TB, config string, stdin []byte, args ...string) *result {
	tb.Helper()
	dir := tb.TempDir()
	if !strings.HasSuffix(config, ".yaml") {
		path := filepath.Join(dir, "config.yaml")
		write(tb, path, []byte(config))
		config = path
	}
	out := filepath.Join(dir, "rows.jsonl")
	r := run(tb, stdin, append([]string{"replay", "-c", config, "--json", "--out", out}, args...)...)
	if r.code != 0 {
		return r
	}
	var err error
	if r.rows, err = os.ReadFile(out); err != nil {
		tb.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(r.stderr, "\n"), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r.summary); err != nil {
		tb.Fatalf("the last line of standard error is no summary: %v\n%s", err, r.stderr)
	}
	s := &r.summary
	if s.Packets == nil || s.Messages == nil || s.Events == nil || s.Rows == nil || s.Drops == nil || s.Duplicates == nil ||
		s.Epochs == nil || s.Missing == nil || s.Seconds == nil || s.MessagesPerSecond == nil {
		tb.Fatalf("the summary lacks members: %s", lines[len(lines)-1])
	}
	for _, l := range s.Ledger {
		if l.Difference != 0 || l.InFlight != 0 {
			tb.Errorf("the ledger of %s %s does not balance: difference %d, in flight %d", l.Layer, l.Of, l.Difference, l.InFlight)
		}
	}
	if n := bytes.Count(r.rows, []byte{'\n'}); uint64(n) != *s.Rows {
		tb.Errorf("the summary says %d rows, the file has %d", *s.Rows, n)
	}
	return r
}

// replay is try for a run that must end well.
func replay(tb testing.TB, config string, args ...string) *result {
	tb.Helper()
	r := try(tb, config, nil, args...)
	if r.code != 0 {
		tb.Fatalf("headrace replay %s: exit %d: %s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r
}

// counts reports what of the summary differs from want, by the members' names.
func (r *result) counts(tb testing.TB, want map[string]uint64) {
	tb.Helper()
	s := &r.summary
	for name, w := range want {
		var got uint64
		switch name {
		case "packets":
			got = *s.Packets
		case "truncated":
			got = *s.Truncated
		case "messages":
			got = *s.Messages
		case "events":
			got = *s.Events
		case "rows":
			got = *s.Rows
		case "duplicates":
			got = *s.Duplicates
		case "epochs":
			got = *s.Epochs
		case "missing":
			got = *s.Missing
		case "applied":
			got = s.Applied
		case "filtered":
			got = s.Filtered
		default:
			got = s.Drops[name]
		}
		if got != w {
			tb.Errorf("summary: %s is %d, want %d (drops %v)", name, got, w, s.Drops)
		}
	}
}

// same reports where got differs from want, line by line.
func same(tb testing.TB, what string, got, want []byte) bool {
	tb.Helper()
	if bytes.Equal(got, want) {
		return true
	}
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	shown := 0
	for i := 0; i < max(len(g), len(w)) && shown < 4; i++ {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			shown++
			tb.Errorf("%s: line %d is\n%s\nwant\n%s", what, i+1, a, b)
		}
	}
	tb.Errorf("%s: %d lines, want %d", what, len(g)-1, len(w)-1)
	return false
}

func write(tb testing.TB, path string, b []byte) {
	tb.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// workers are the numbers of workers that rows must not depend on.
func workers(tb testing.TB) []int {
	tb.Helper()
	if testing.Short() {
		return []int{1, 3}
	}
	return []int{1, 2, 3, 8}
}

func flag(name string, v int) []string { return []string{"--" + name, strconv.Itoa(v)} }
