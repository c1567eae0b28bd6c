package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/internal/built"
	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/show"
)

// line is a global row of one driver.
func line(id string, revision int, merged string, epoch int, rest string) string {
	complete := "null"
	if merged != "a b c" {
		complete = "false"
	}
	return fmt.Sprintf(`{"query":"drivers","scope":"global","key":{"driver_id":7},"window_start":"2026-03-02T14:30:00Z","window_end":"2026-03-02T14:30:00.5Z",`+
		`"firing":"on_time","revision":%d,"values":{"reports":%s},"completeness":{"complete":%s,"missing":0,"merged":["%s"],"known":["a","b","c"],"epoch":%d},"row_id":%q}`+"\n",
		revision, rest, complete, strings.ReplaceAll(merged, " ", `","`), epoch, id)
}

func read(t *testing.T, files ...string) *book {
	t.Helper()
	b := newBook()
	for i, text := range files {
		path := filepath.Join(t.TempDir(), "rows.jsonl")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b.add(everybody[i], path)
	}
	if err := b.look(); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestABookFindsWhatBreaksThePromise(t *testing.T) {
	whole := line("1", 0, "a b c", 3, "10")
	for _, c := range []struct {
		name  string
		files []string
		want  string // "": nothing is broken
	}{
		{"the same row from two boxes", []string{whole, whole}, ""},
		{"a correction with more peers", []string{line("1", 0, "a b", 3, "7") + line("1", 1, "a b c", 5, "10")}, ""},
		{"a correction that is read first", []string{line("1", 1, "a b c", 5, "10"), line("1", 0, "a b", 3, "7")}, ""},
		{"two rows that differ in a value", []string{whole, line("1", 0, "a b c", 3, "11")}, "one row_id and revision"},
		{"two rows that differ in their epoch", []string{whole, line("1", 0, "a b c", 4, "10")}, "one row_id and revision"},
		{"a revision with fewer peers", []string{whole, line("1", 1, "a b", 5, "7")}, "fewer peers"},
		{"one that is read first", []string{line("1", 1, "a b", 5, "7"), whole}, "fewer peers"},
		{"a row that hides who is missing", []string{strings.Replace(line("1", 0, "a b", 3, "7"), `"complete":false`, `"complete":true`, 1)}, "incomplete"},
		{"a row of one box", []string{strings.Replace(whole, "global", "local:a", 1)}, "not a global row"},
		{"no row", []string{"{}\n"}, "no row"},
	} {
		b := read(t, c.files...)
		err := judged(b, 0, func(string, ...any) {})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if err := judged(newBook(), 3, func(string, ...any) {}); err == nil {
		t.Error("rows that were never corrected are as promised")
	}
}

func TestABookReadsWholeLinesWhileTheyGrow(t *testing.T) {
	whole := line("1", 0, "a b", 3, "7") + line("1", 1, "a b c", 5, "10") + line("2", 0, "a b", 3, "8")
	b := read(t, "")
	for n := range len(whole) {
		if err := os.WriteFile(b.files[0].path, []byte(whole[:n+1]), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.look(); err != nil {
			t.Fatal(err)
		}
		if got, want := b.all.rows, uint64(strings.Count(whole[:n+1], "\n")); got != want {
			t.Fatalf("%d rows after %d bytes, want %d", got, n+1, want)
		}
	}
	if b.all.corrected != 1 || b.all.by["a b"] != (share{2, 3}) || b.all.by["a b c"] != (share{1, 5}) || len(b.broken) > 0 {
		t.Errorf("counted %+v, broken %v", b.all, b.broken)
	}
	if rows, left := b.short(3, 5); rows != 2 || left != 1 {
		t.Errorf("short = %d, %d left, want 2 and 1", rows, left)
	}
	if rows, _ := b.short(4, 5); rows != 0 {
		t.Errorf("short of an epoch without rows = %d", rows)
	}
}

// boxesIn returns boxes that all run in an epoch of the given members.
func boxesIn(epoch uint64, members []string) (list []boxSight) {
	for _, id := range everybody {
		b := boxSight{id: id, running: true, receives: true}
		if strings.Contains(peersOf(members), id) {
			b.epoch, b.members = epoch, members
		}
		list = append(list, b)
	}
	return list
}

// stage0 is a group as a story sees it, with a clock of its own.
type stage0 struct {
	now    sight
	done   []string
	deaf   bool // nothing comes of what is done
	behind int  // sights until something comes of it
	due    func()
}

func (g *stage0) deed(name string, then func()) func() error {
	return func() error {
		g.done = append(g.done, name)
		g.behind, g.due = 3, then
		return nil
	}
}

func (g *stage0) rows(merged string, corrections uint64) {
	s := g.now.rows.by[merged]
	g.now.rows.by[merged] = share{s.rows + 10, g.now.epoch()}
	g.now.rows.corrected += corrections
}

func (g *stage0) deeds() *deeds {
	epoch := func(n uint64, members []string) { g.now.boxes = boxesIn(n, members) }
	return &deeds{
		start:   g.deed("start", func() { epoch(1, everybody) }),
		send:    g.deed("send", func() { g.rows("a b c", 0) }),
		kill:    g.deed("kill", func() { epoch(2, others); g.now.boxes[2] = boxSight{id: "c", killed: true}; g.rows("a b", 0) }),
		restart: g.deed("restart", func() { epoch(3, everybody); g.rows("a b c", 0) }),
		cut:     g.deed("cut", func() { epoch(4, others); g.rows("a b", 0) }),
		mend:    g.deed("mend", func() { epoch(5, everybody); g.rows("a b c", 4) }),
		end:     g.deed("end", nil),
	}
}

// play looks every 10 ms until the story is over, at most for 100 s.
func (g *stage0) play(t *testing.T, until time.Duration) (s *story, told string, over bool) {
	t.Helper()
	g.now = sight{boxes: boxesIn(0, nil), rows: tally{by: map[string]share{}}}
	var b strings.Builder
	s = &story{scenes: scenes(g.deeds()), until: until, tell: func(when, what string) { b.WriteString(storyLine([2]string{when, what}) + "\n") }}
	for ; g.now.now < 100*time.Second; g.now.now += 10 * time.Millisecond {
		if g.behind--; g.behind == 0 && !g.deaf && g.due != nil {
			g.due()
		}
		seen := g.now
		seen.rows.by = map[string]share{}
		for k, v := range g.now.rows.by {
			seen.rows.by[k] = v
		}
		over, err := s.look(&seen)
		if err != nil {
			t.Fatal(err)
		}
		if over {
			return s, b.String(), true
		}
	}
	return s, b.String(), false
}

func TestTheStoryIsToldLineByLine(t *testing.T) {
	g := &stage0{}
	s, told, over := g.play(t, 10*time.Second)
	const want = `    0.0 s  three boxes, epoch 1 of a, b, c
    0.0 s  a feed to each box
+30.00 ms  rows say: merged a b c of a b c
    2.0 s  box c is killed (kill -9)
+30.00 ms  epoch 2 of a, b
+30.00 ms  rows say: merged a b of a b c
    4.0 s  box c is started again
+30.00 ms  epoch 3 of a, b, c
+30.00 ms  rows say: merged a b c of a b c
    6.0 s  box c is cut off from a and b; its feed goes on
+30.00 ms  epoch 4 of a, b
+30.00 ms  c is alone and makes no global rows
+30.00 ms  rows say: merged a b of a b c
    8.0 s  the cable of c is back
+30.00 ms  epoch 5 of a, b, c
+30.00 ms  rows are corrected with what c saw meanwhile: 4 so far
+30.00 ms  rows say: merged a b c of a b c
   10.0 s  the feeds end, the boxes are stopped
`
	if !over || told != want {
		t.Errorf("over %v, told:\n%s\nwant:\n%s", over, told, want)
	}
	if first, end := s.apart(); first != 4 || end != 5 {
		t.Errorf("c was cut off in epochs %d to %d, want 4 to 5", first, end)
	}
	if n := len(s.told()); n != 11 {
		t.Errorf("the account has %d lines, want 11", n)
	}
}

// Where time is short everything still happens, and in the same order.
func TestAStoryThatHasNoTimeIsToldAtOnce(t *testing.T) {
	g := &stage0{}
	_, _, over := g.play(t, time.Millisecond)
	if got := strings.Join(g.done, " "); !over || got != "start send kill restart cut mend end" || g.now.now > 2*time.Second {
		t.Errorf("over %v after %v: %s", over, g.now.now, got)
	}
}

func TestAStoryThatWaitsSaysForWhat(t *testing.T) {
	g := &stage0{deaf: true}
	s, told, over := g.play(t, 10*time.Second)
	if over || told != "" || len(g.done) != 1 || s.waits() != "epoch of a, b, c" || len(s.told()) > 0 {
		t.Errorf("over %v, waits for %q, told %q", over, s.waits(), told)
	}
}

func someView(t *testing.T) *view {
	t.Helper()
	v := &view{
		about: []string{"a title longer than many a screen is wide, so that it must be cut off somewhere before it ends"}, phase: "three boxes, one system",
		elapsed: 12 * time.Second, bound: 30 * time.Second, now: sight{boxes: boxesIn(9, others)},
		newest: read(t, line("1", 0, "a b", 9, "7")+strings.Replace(line("2", 1, "a b c", 9, `"\u001b[2J"`), `"driver_id":7`, `"driver_id":1234`, 1)).newest,
	}
	v.now.boxes[0].heard, v.now.boxes[0].rows, v.now.boxes[0].fixed = []string{"b"}, 12345, 67
	v.now.boxes[2] = boxSight{id: "c", killed: true, rows: 3}
	for i := range 12 {
		v.story = append(v.story, [2]string{fmt.Sprintf("%d.0 s", i), "something"})
	}
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
	const want = `headrace: three boxes, one system                                     12s of 30s
a title longer than many a screen is wide, so that it must be cut off somewhere 

box  state   epoch  members  hears  rows written  corrections
a    member  9      a b      b            12,345           67
b    member  9      a b                        0            0
c    dead                                      3            0

window      driver_id  merged  known  revision  reports
14:30:00.0  7          a b     a b c         0        7
14:30:00.0  1234       a b c   a b c         1     ?[2J

    5.0 s  something
    6.0 s  something
    7.0 s  something
    8.0 s  something
    9.0 s  something
   10.0 s  something
   11.0 s  something`
	if got != want {
		t.Errorf("picture:\n%s\nwant:\n%s", got, want)
	}
}

func TestSettingsThatAreNoneAreRefused(t *testing.T) {
	for _, c := range []struct{ name, value string }{{"DURATION", "20"}, {"DURATION", "14s"}, {"RATE", "0"}, {"RATE", "fast"}, {"HEADRACE", "/nowhere"}} {
		get := func(name string) string {
			if name == c.name {
				return c.value
			}
			return map[string]string{"HEADRACE": os.Args[0]}[name]
		}
		if _, err := fromEnvironment(get); err == nil || !strings.Contains(err.Error(), c.value) {
			t.Errorf("%s=%s: error %v, want one that names the value", c.name, c.value, err)
		}
	}
	s, err := fromEnvironment(func(name string) string {
		return map[string]string{"HEADRACE": os.Args[0], "KEEP": "1", "RATE": "700"}[name]
	})
	if err != nil || s.duration != durationDefault || !s.keep || s.rate != 700 {
		t.Errorf("settings %+v, %v", s, err)
	}
}

func TestWithoutRootItSaysWhatIsMissingAndHowToRunIt(t *testing.T) {
	err := needs("CAP_SYS_ADMIN")
	if !errors.Is(err, errNeeds) || !strings.Contains(err.Error(), "CAP_SYS_ADMIN is missing") || !strings.Contains(err.Error(), "sudo make run-peers") {
		t.Errorf("needs = %v", err)
	}
	if err := needs(""); err != nil {
		t.Errorf("nothing is missing: %v", err)
	}
}

// told is an output that calls then when a text has come.
type told struct {
	mu   sync.Mutex
	b    bytes.Buffer
	want string
	then func() error
}

func (o *told) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b.Write(p)
	if o.want != "" && strings.Contains(o.b.String(), o.want) {
		if err := o.then(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func TestMain(m *testing.M) {
	code := m.Run()
	_ = built.Remove()
	os.Exit(code)
}

func testSettings(t *testing.T, out *told) *settings {
	t.Helper()
	netns.Need(t)
	from, err := built.Headrace("")
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(path, "headrace") // its own: processes that are left are seen
	if err := os.Link(from, path); err != nil {
		t.Fatal(err)
	}
	return &settings{binary: path, duration: 20 * time.Second, rate: 1_000, temp: t.TempDir(), out: out}
}

// nothingLeft checks that files, processes, namespaces and what runs leave are gone.
func nothingLeft(t *testing.T, s *settings, said string) {
	t.Helper()
	if found, _ := filepath.Glob(filepath.Join(s.temp, "*")); len(found) > 0 {
		t.Errorf("files left: %v", found)
	}
	spaces := regexp.MustCompile(`hr-[0-9a-f]{8}`).FindAllString(said, -1)
	if len(spaces) != len(everybody) {
		t.Errorf("it says that its namespaces are %v", spaces)
	}
	for _, name := range spaces {
		if _, err := os.Stat("/run/netns/" + name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("namespace %s is left: %v", name, err)
		}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.TrimSuffix(to, " (deleted)") == s.binary {
			t.Errorf("a process is left: %s", link)
		}
	}
	name := regexp.MustCompile(`headrace-peers-\d+`).FindString(said)
	if found, _ := filepath.Glob("/run/headrace/" + name + "*"); name == "" || len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

func TestNetnsThreeBoxesAreShownAndNothingIsLeft(t *testing.T) {
	out := &told{}
	s := testSettings(t, out)
	begin := time.Now()
	if err := play(t.Context(), t.Context(), s); err != nil {
		t.Fatal(err, out.b.String())
	}
	if took := time.Since(begin); took > s.duration+time.Second {
		t.Errorf("it took %s of %s", took, s.duration)
	}
	for _, want := range []string{
		`three boxes, epoch \d+ of a, b, c\n`, `box c is killed \(kill -9\)\n`, `\+.* epoch \d+ of a, b\n`, `rows say: merged a b of a b c\n`,
		`box c is started again\n`, `c is alone`, `rows are corrected with what c saw meanwhile: [1-9]`, `(?m)^ {6}\{"query":"drivers","scope":"global"`,
		`; [1-9]\d* of them have been corrected since`, `No two rows with equal`,
	} {
		if !regexp.MustCompile(want).MatchString(out.b.String()) {
			t.Errorf("nothing matches %s", want)
		}
	}
	if strings.Contains(out.b.String(), "\x1b") {
		t.Error("it writes for a terminal where there is none")
	}
	nothingLeft(t, s, out.b.String())
	if t.Failed() {
		t.Log(out.b.String())
	}
}

func TestNetnsAStopEndsItInGoodOrder(t *testing.T) {
	stop, cancel := context.WithCancel(t.Context())
	out := &told{want: "rows say: merged a b c", then: func() error { cancel(); return nil }}
	s := testSettings(t, out)
	if err := play(stop, t.Context(), s); err != nil {
		t.Error(err, out.b.String())
	}
	if !strings.Contains(out.b.String(), "No two rows with equal") || strings.Contains(out.b.String(), "is killed") {
		t.Errorf("it is not stopped in good order:\n%s", out.b.String())
	}
	nothingLeft(t, s, out.b.String())
}

func TestNetnsAReaderThatGoesAwayLeavesNothing(t *testing.T) {
	out := &told{want: "a feed to each box", then: func() error { return os.ErrClosed }}
	s := testSettings(t, out)
	if err := play(t.Context(), t.Context(), s); !errors.Is(err, os.ErrClosed) {
		t.Errorf("play = %v, want what the write says", err)
	}
	nothingLeft(t, s, out.b.String())
}
