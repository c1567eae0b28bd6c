package boxes

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/internal/built"
	"github.com/headrace/headrace/internal/netns"
)

// binary returns headrace, built without cgo.
func binary() (string, error) {
	if path := os.Getenv("HEADRACE_BINARY"); path != "" {
		return path, nil
	}
	return built.Headrace("")
}

func TestMain(m *testing.M) {
	code := m.Run()
	_ = built.Remove()
	os.Exit(code)
}

// lab makes boxes a, b and c, which are removed when the test ends.
func lab(t *testing.T, pipeline string, group ...string) *Lab {
	t.Helper()
	netns.Need(t)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return labOf(t, Config{Binary: path, Names: []string{"a", "b", "c"}, Pipeline: pipeline, Group: group})
}

// labOf makes what c says, in a folder of its own.
func labOf(t *testing.T, c Config) *Lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "headrace-boxes-") //nolint:usetesting // its name is short and of this lab alone: runs are called by it
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = dir
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("VERBOSE") != "" {
			for _, b := range l.Boxes {
				t.Logf("box %s said:\n%s", b.ID, b.Said())
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() && os.Getenv("KEEP") != "" {
			t.Logf("kept: %s", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	return l
}

// begin starts all boxes and waits until they are one group that receives.
func begin(t *testing.T, l *Lab) {
	t.Helper()
	for _, b := range l.Boxes {
		start(t, b)
	}
	for _, b := range l.Boxes {
		members(t, b, len(l.Boxes))
	}
}

func start(t *testing.T, b *Box) {
	t.Helper()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
}

// patience is how long anything may take on a busy machine, or on an emulated one.
var patience = 30 * time.Second

// members waits until b is in an epoch of n members and its workers run.
func members(t *testing.T, b *Box, n int) *status.Report {
	t.Helper()
	r, err := b.Await(patience, func(r *status.Report) bool {
		g := r.Snapshot.Group
		return g != nil && len(g.Members) == n && len(r.Snapshot.Workers) > 0 && r.Snapshot.Workers[0].State == "running"
	})
	if err != nil {
		t.Fatalf("%d members at %s: %v", n, b.ID, err)
	}
	return r
}

// send sends a capture to a box and waits for the end.
func send(t *testing.T, l *Lab, b *Box, args ...string) <-chan error {
	t.Helper()
	c := l.Send(b, append([]string{"send"}, args...)...)
	out := &strings.Builder{}
	c.Stderr = out
	if err := l.Start(c); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		err := c.Wait()
		if err != nil {
			err = fmt.Errorf("send: %w: %s", err, out)
		}
		done <- err
	}()
	return done
}

// stopAll ends all boxes in good order, at once.
func stopAll(t *testing.T, l *Lab) {
	t.Helper()
	var wait sync.WaitGroup
	for _, b := range l.Boxes {
		if b.Running() {
			wait.Go(func() {
				if code := b.Stop(patience); code != 0 {
					t.Errorf("box %s ended with %d", b.ID, code)
				}
			})
		}
	}
	wait.Wait()
}

// A row is a global row.
type row struct {
	Query        string          `json:"query"`
	Scope        string          `json:"scope"`
	Key          json.RawMessage `json:"key"`
	Start        time.Time       `json:"window_start"`
	End          time.Time       `json:"window_end"`
	Firing       string          `json:"firing"`
	Revision     int             `json:"revision"`
	Values       json.RawMessage `json:"values"`
	Completeness struct {
		Complete *bool    `json:"complete"`
		Missing  uint64   `json:"missing"`
		Merged   []string `json:"merged"`
		Known    []string `json:"known"`
		Epoch    uint64   `json:"epoch"`
	} `json:"completeness"`
	ID   string `json:"row_id"`
	line string
	box  string
}

func (r *row) place() string {
	return fmt.Sprint(r.Query, " ", string(r.Key), " ", r.Start.UTC().Format(time.RFC3339Nano))
}

// rows reads a file of rows; none if there is no file.
func rowsOf(t *testing.T, path string) (all []*row) {
	t.Helper()
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if line == "" {
			continue
		}
		r := &row{line: line}
		if err := json.Unmarshal([]byte(line), r); err != nil {
			t.Fatalf("%s: %v: %s", path, err, line)
		}
		all = append(all, r)
	}
	return all
}

// global reads the global rows of all boxes and checks the promise: rows with equal
// id and revision are equal, and a revision never has fewer peers than one before.
func global(t *testing.T, l *Lab) []*row {
	t.Helper()
	var all []*row
	for _, b := range l.Boxes {
		for _, r := range rowsOf(t, b.Rows) {
			r.box = b.ID
			all = append(all, r)
		}
	}
	seen := map[string]*row{}
	byID := map[string][]*row{}
	for _, r := range all {
		if r.Scope != "global" {
			t.Errorf("scope %q: %s", r.Scope, r.line)
		}
		at := fmt.Sprint(r.ID, " ", r.Revision)
		if old := seen[at]; old == nil {
			seen[at] = r
			byID[r.ID] = append(byID[r.ID], r)
		} else if old.line != r.line {
			t.Errorf("two rows with one id and revision:\n%s: %s\n%s: %s", old.box, old.line, r.box, r.line)
		}
	}
	for _, list := range byID {
		slices.SortFunc(list, func(x, y *row) int { return x.Revision - y.Revision })
		for i := 1; i < len(list); i++ {
			if len(list[i].Completeness.Merged) < len(list[i-1].Completeness.Merged) {
				t.Errorf("a revision that has fewer peers:\n%s\n%s", list[i-1].line, list[i].line)
			}
		}
	}
	return all
}

// latest keeps the last revision of each window and key.
func latest(all []*row) map[string]*row {
	last := map[string]*row{}
	for _, r := range all {
		if old := last[r.place()]; old == nil || old.Revision < r.Revision {
			last[r.place()] = r
		}
	}
	return last
}

// same compares windows, keys and values.
func same(t *testing.T, got, want map[string]*row) {
	t.Helper()
	wrong := 0
	for at, w := range want {
		g := got[at]
		if g == nil {
			wrong++
			if wrong < 6 {
				t.Errorf("no row of %s", at)
			}
			continue
		}
		if string(g.Values) != string(w.Values) {
			wrong++
			if wrong < 6 {
				t.Errorf("%s:\n got %s\nwant %s", at, g.line, w.line)
			}
		}
	}
	for at, g := range got {
		if want[at] == nil {
			wrong++
			if wrong < 6 {
				t.Errorf("a row that should not be: %s", g.line)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d rows differ", wrong, len(want))
	}
}

// replayed is the rows of one box that saw everything.
func replayed(t *testing.T, l *Lab, captures ...string) map[string]*row {
	t.Helper()
	out := filepath.Join(l.Dir, "replayed.jsonl")
	args := append([]string{"replay", "-c", l.Boxes[0].config(), "--out", out}, captures...)
	if said, err := exec.Command(l.Binary, args...).CombinedOutput(); err != nil {
		t.Fatalf("replay: %v: %s", err, said)
	}
	return latest(rowsOf(t, out))
}

// generate writes a capture.
func generate(t *testing.T, l *Lab, name, kind string, args ...string) string {
	t.Helper()
	path := filepath.Join(l.Dir, name)
	if said, err := exec.Command(l.Binary, append([]string{"generate", kind, "--out", path, "--quiet"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("generate: %v: %s", err, said)
	}
	return path
}

// A feed is a capture for each box of a lab.
type feed struct {
	whole string // what was dealt out; empty: each box has a capture of its own
	parts []string
	sent  []<-chan error
	began time.Time
}

// dealt deals the packets of a capture out at random.
func dealt(t *testing.T, l *Lab, whole string) *feed {
	t.Helper()
	return &feed{whole: whole, parts: split(t, l, whole, len(l.Boxes))}
}

// send begins to send to every box.
func (f *feed) send(t *testing.T, l *Lab) {
	t.Helper()
	f.began = time.Now()
	for i, b := range l.Boxes {
		f.sent = append(f.sent, send(t, l, b, f.parts[i]))
	}
}

// wait waits until all is sent.
func (f *feed) wait(t *testing.T) {
	t.Helper()
	for _, done := range f.sent {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}
