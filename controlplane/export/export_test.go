package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

const childEnv = "HEADRACE_EXPORT_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

type number struct{}

func (number) Words() int { return 1 }

func (number) AppendJSON(dst []byte, _ int, state []uint64) ([]byte, string) {
	return strconv.AppendUint(dst, state[0], 10), ""
}

func testPlan(workers int) *plan.Plan {
	n := []plan.Aggregate{{Name: "n", Kind: plan.Count}}
	return &plan.Plan{
		Version: plan.Version, Name: "test", Workers: workers, WorkersMax: workers + 1, OutboxBytes: 1 << 14,
		Feeds:   []plan.Feed{{Name: "f", Columns: []plan.Column{{Name: "k", Type: event.Text}}}},
		Streams: []plan.Stream{{Key: []int{0}}},
		Queries: []plan.Query{{Name: "q", Aggregates: n, Sinks: []string{"one", "two"}}, {Name: "r", Aggregates: n, Sinks: []string{"two"}}},
	}
}

var testValues = []rows.Values{number{}, number{}}

func create(t *testing.T, p *plan.Plan) *segment.Segment {
	t.Helper()
	s, err := segment.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// nth is the nth record that worker w puts: every fifth is a mark, some belong to r.
func nth(w int, n uint64) outbox.Partial {
	if n%5 == 4 {
		return outbox.Partial{Kind: outbox.KindWatermark, End: event.Nanos(n)}
	}
	return outbox.Partial{
		Kind: outbox.KindPartial, Firing: outbox.OnTime, Query: uint16(n % 3 / 2), Start: event.Nanos(n), End: event.Nanos(n + 1),
		Key: []byte(fmt.Sprintf("w%d-%0*d", w, int(n%30), n)), State: []uint64{n},
	}
}

// want is the rows of one sink from one worker's first n records.
func want(p *plan.Plan, sink string, w int, n uint64) []byte {
	f := rows.New(p, testValues)
	var b []byte
	for i := range n {
		part := nth(w, i)
		if part.Kind == outbox.KindPartial && slices.Contains(p.Queries[part.Query].Sinks, sink) {
			b, _ = f.Append(b, &part)
		}
	}
	return b
}

// produce puts n records into each worker's outbox as there is room, and ends.
func produce(s *segment.Segment, workers int, n uint64, pause func()) {
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			out := outbox.NewWriter(s.Worker(w).Ring())
			for i := uint64(0); i < n; {
				part := nth(w, i)
				if out.Put(&part) {
					i++
				} else {
					time.Sleep(20 * time.Microsecond)
				}
				out.Publish()
				if pause != nil {
					pause()
				}
			}
			s.Worker(w).SetState(segment.Done)
		})
	}
	wait.Wait()
}

func open(t rapid.TB, s *segment.Segment, name, path string) *JSONL {
	t.Helper()
	j, err := OpenJSONL(JSONLConfig{Name: name, Path: path, Workers: s.Layout.Workers, Commits: s.Sink(name)})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func read(t rapid.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// byWorker checks that got is a merge of the workers' rows, each in its order.
func byWorker(t *testing.T, p *plan.Plan, sink string, got []byte, counts []uint64) {
	t.Helper()
	all := 0
	for w, n := range counts {
		var mine []byte
		for line := range bytes.Lines(got) {
			if bytes.Contains(line, fmt.Appendf(nil, `"k":"w%d-`, w)) {
				mine = append(mine, line...)
			}
		}
		expect := want(p, sink, w, n)
		if all += len(expect); !bytes.Equal(mine, expect) {
			t.Errorf("sink %s has %d rows of worker %d, want %d", sink, bytes.Count(mine, []byte("\n")), w, bytes.Count(expect, []byte("\n")))
		}
	}
	if len(got) != all {
		t.Errorf("sink %s has %d bytes, want %d", sink, len(got), all)
	}
}

func TestEveryRowReachesEverySinkThatWantsIt(t *testing.T) {
	p := testPlan(3)
	s := create(t, p)
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	pump, err := NewPump(Config{Plan: p, Segment: s, Values: testValues, Sinks: []Sink{open(t, s, "one", one), open(t, s, "two", two)}, BatchBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	const n = 3000
	go produce(s, 3, n, nil)
	if err := pump.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	byWorker(t, p, "one", read(t, one), []uint64{n, n, n})
	byWorker(t, p, "two", read(t, two), []uint64{n, n, n})
	for w := range 3 {
		if r := s.Worker(w).Ring(); r.Freed.Load() != r.Produced.Load() {
			t.Errorf("worker %d: %d freed of %d", w, r.Freed.Load(), r.Produced.Load())
		}
	}
	stats := pump.Sinks()
	if stats[1].Rows != pump.Rows(0)+pump.Rows(1) || stats[0].Rows != pump.Rows(0) || pump.Rows(0) == 0 || pump.Rows(1) == 0 {
		t.Errorf("stats %+v, rows %d and %d", stats, pump.Rows(0), pump.Rows(1))
	}
}

func TestReplaySortsOverWorkersAndTruncates(t *testing.T) {
	p := testPlan(2)
	p.Queries = p.Queries[:1]
	s := create(t, p)
	path := filepath.Join(t.TempDir(), "rows")
	if err := os.WriteFile(path, []byte("what was there, even without a newline"), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := OpenJSONL(JSONLConfig{Name: "one", Path: path, Truncate: true, Workers: s.Layout.Workers})
	if err != nil {
		t.Fatal(err)
	}
	pump, err := NewPump(Config{Plan: p, Segment: s, Values: testValues[:1], Sinks: []Sink{j}, Sort: true, BatchBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for w := range 2 {
			out := outbox.NewWriter(s.Worker(w).Ring())
			for i := range 2000 {
				part := outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, Start: event.Nanos(i / 10), End: event.Nanos(i/10 + 1), Key: []byte(fmt.Sprintf("%02d", (i*7+w)%20)), State: []uint64{uint64(i)}}
				if i%10 == 0 {
					part = outbox.Partial{Kind: outbox.KindWatermark, End: event.Nanos(i / 10)}
				}
				for !out.Put(&part) {
					time.Sleep(20 * time.Microsecond)
				}
				out.Publish()
			}
			s.Worker(w).SetState(segment.Done)
		}
	}()
	if err := pump.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	type place struct{ end, key string }
	var places []place
	for line := range strings.Lines(string(read(t, path))) {
		_, end, _ := strings.Cut(line, `"window_end":"`)
		_, key, _ := strings.Cut(line, `"k":"`)
		at, _, _ := strings.Cut(end, "Z")
		whole, frac, _ := strings.Cut(at, ".")
		places = append(places, place{whole + (frac + "000000000")[:9], key[:2]})
	}
	if len(places) != 2*1800 || !slices.IsSortedFunc(places, func(a, b place) int { return strings.Compare(a.end+a.key, b.end+b.key) }) {
		t.Errorf("%d rows, sorted or not: %v", len(places), places[:min(len(places), 30)])
	}
}

// killed is what the disk says to a process that is no more.
type killed struct{}

// session runs a pump over what is in the outboxes, killing it at its nth step: a
// write (in the middle), or the moment before or after one. It reports whether it
// lived to the end.
func session(t rapid.TB, p *plan.Plan, s *segment.Segment, path string, kill int, part float64) bool {
	j := open(t, s, "one", path)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	step, dead := 0, false
	put := j.write
	j.write = func(b []byte) (int, error) {
		switch step++; {
		case dead:
		case step == kill: // in the middle of a write, perhaps after all of it
			_, _ = put(b[:int(float64(len(b))*part)])
			dead = true
		default:
			return put(b)
		}
		cancel(errors.New("killed"))
		panic(killed{})
	}
	defer j.Close()
	pump, err := NewPump(Config{Plan: p, Segment: s, Values: testValues, Sinks: []Sink{&mortal{Sink: j}}, BatchBytes: 600})
	if err != nil {
		t.Fatal(err)
	}
	pump.Finish()
	return pump.Run(ctx) == nil
}

// mortal turns the panic of a killed write into an error, without a commit.
type mortal struct{ Sink }

func (m *mortal) Write(ctx context.Context, lines []byte, n RowCount, positions []uint64) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("killed")
		}
	}()
	return m.Sink.Write(ctx, lines, n, positions)
}

func TestADeathInAnyWriteLosesAndDoublesNothing(t *testing.T) {
	p := testPlan(1)
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		s, err := segment.Create(p)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		runs++
		path := filepath.Join(dir, strconv.Itoa(runs))
		out := outbox.NewWriter(s.Worker(0).Ring())
		n, deaths := uint64(0), 0
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			for range rapid.IntRange(0, 60).Draw(t, "records") {
				part := nth(0, n)
				if out.Put(&part) {
					n++
				}
			}
			out.Publish()
			if !session(t, p, s, path, rapid.IntRange(1, 6).Draw(t, "kill"), rapid.Float64Range(0, 1).Draw(t, "part")) {
				deaths++
			}
		}
		if !session(t, p, s, path, -1, 0) {
			t.Fatal("the last session did not end well")
		}
		if got := read(t, path); !bytes.Equal(got, want(p, "one", 0, n)) {
			t.Fatalf("after %d deaths: %d rows, want %d", deaths, bytes.Count(got, []byte("\n")), bytes.Count(want(p, "one", 0, n), []byte("\n")))
		}
	})
}

// child is the control process of TestAKilledControl…: it pumps until the workers
// are done.
func child() int {
	workers, err := strconv.Atoi(os.Getenv(childEnv))
	if err != nil {
		return 2
	}
	p := testPlan(workers)
	if workers == 0 { // a box of a group
		p = groupTestPlan(1, "one")
	}
	s, err := segment.Open(3, 4, segment.Control, p)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var sinks []Sink
	c := Config{Plan: p, Segment: s, Values: testValues, BatchBytes: 2048}
	var m *member
	for _, name := range s.Layout.Sinks {
		if name == segment.GroupSink {
			m = newMember(s)
			m.live = true
			c.Tap = m
			continue
		}
		j, err := OpenJSONL(JSONLConfig{Name: name, Path: filepath.Join(os.Getenv("HEADRACE_EXPORT_TEST_DIR"), name), Workers: s.Layout.Workers, Commits: s.Sink(name)})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		sinks = append(sinks, j)
	}
	c.Sinks = sinks
	pump, err := NewPump(c)
	if err == nil {
		if m != nil {
			m.pump = pump
		}
		s.NextControl()
		err = pump.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func spawn(t *testing.T, s *segment.Segment, dir string, workers int) *exec.Cmd {
	t.Helper()
	d, k := s.FDs()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", childEnv, workers), "HEADRACE_EXPORT_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	for _, fd := range []int{d, k} {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(n), "segment"))
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	return cmd
}

// The control process is killed -9 at random moments, over the real memory files,
// and what it leaves is what an undisturbed one would have left.
func TestAKilledControlLosesAndDoublesNothing(t *testing.T) {
	for _, workers := range []int{1, 3} {
		p := testPlan(workers)
		dir, counts := killed9(t, p, 25)
		byWorker(t, p, "one", read(t, filepath.Join(dir, "one")), counts)
		byWorker(t, p, "two", read(t, filepath.Join(dir, "two")), counts)
	}
}

// killed9 runs control processes of p while workers put out records, kills each but
// the last, and returns the folder of the rows and what each worker put out.
func killed9(t *testing.T, p *plan.Plan, deaths int) (dir string, counts []uint64) {
	t.Helper()
	workers, child := p.Workers, p.Workers
	if p.Group != nil {
		child = 0
	}
	s := create(t, p)
	if err := s.Restrict(segment.Data); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	produced, stop := make(chan [2]uint64, workers), make(chan struct{})
	for w := range workers {
		go func() {
			out, i := outbox.NewWriter(s.Worker(w).Ring()), uint64(0)
			for {
				part := nth(w, i)
				put := out.Put(&part)
				if put {
					i++
				}
				out.Publish()
				if !put || i%16 == 0 { // one that waits for room leaves the processor to the others
					time.Sleep(100 * time.Microsecond)
				}
				select {
				case <-stop:
					s.Worker(w).SetState(segment.Done)
					produced <- [2]uint64{uint64(w), i}
					return
				default:
				}
			}
		}()
	}
	for range deaths {
		before := s.ControlGeneration()
		cmd := spawn(t, s, dir, child)
		for until := time.Now().Add(10 * time.Second); s.ControlGeneration() == before && time.Now().Before(until); {
			time.Sleep(50 * time.Microsecond)
		}
		time.Sleep(time.Duration(rand.IntN(8000*slow)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	last := spawn(t, s, dir, child)
	close(stop)
	counts = make([]uint64, workers)
	for range workers {
		c := <-produced
		counts[c[0]] = c[1]
	}
	if err := last.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := s.ControlGeneration(); got != uint64(deaths)+1 {
		t.Errorf("%d control processes, want %d", got, deaths+1)
	}
	least, most := slices.Min(counts), slices.Max(counts)
	t.Logf("%d workers: %d deaths, %d to %d records each", workers, deaths, least, most)
	if least < 1000 {
		t.Errorf("only %d records: the kills hit nothing", least)
	}
	return dir, counts
}

func write(t *testing.T, j *JSONL, lines string) {
	t.Helper()
	if err := j.Write(t.Context(), []byte(lines), RowCount{Rows: strings.Count(lines, "\n")}, make([]uint64, 2)); err != nil {
		t.Fatal(err)
	}
}

const rowA, rowB, rowC = `{"query":"a"}` + "\n", `{"query":"bb"}` + "\n", `{"query":"ccc"}` + "\n"

func plain(t *testing.T, path string) *JSONL {
	t.Helper()
	j, err := OpenJSONL(JSONLConfig{Name: "one", Path: path, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func TestAColdStartCutsOffATornLine(t *testing.T) {
	for _, c := range []struct {
		name, before, after string
		err                 error
	}{
		{"nothing", "", rowB, nil},
		{"whole lines", rowA + rowA, rowA + rowA + rowB, nil},
		{"a torn row", rowA + `{"query":"a`, rowA + rowB, nil},
		{"a row torn early", rowA + `{"q`, rowA + rowB, nil},
		{"nothing but a torn row", `{"query":"a`, rowB, nil},
		{"somebody else's text", "my notes", "", ErrNotRows},
		{"somebody else's last line", rowA + "my notes", "", ErrNotRows},
	} {
		path := filepath.Join(t.TempDir(), "rows")
		if err := os.WriteFile(path, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := OpenJSONL(JSONLConfig{Name: "one", Path: path, Workers: 2})
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if c.err != nil {
			if got := string(read(t, path)); got != c.before {
				t.Errorf("%s: the file became %q", c.name, got)
			}
			continue
		}
		write(t, j, rowB)
		if got := string(read(t, path)); got != c.after {
			t.Errorf("%s: %q, want %q", c.name, got, c.after)
		}
		j.Close()
	}
}

// A disk that takes part of a line and then nothing: readers see whole lines only,
// and in the end every row is there once.
func TestAFullDiskLosesNoRowAndLeavesNoTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows")
	j := plain(t, path)
	write(t, j, rowA)
	room, tries, cuts := len(rowB)+3, 0, 0
	put, cut := j.write, j.truncate
	j.write = func(b []byte) (int, error) {
		tries++
		if got := read(t, path); len(got) > 0 && got[len(got)-1] != '\n' {
			t.Errorf("before try %d the file ends in %q", tries, got)
		}
		if tries > 3 {
			return put(b)
		}
		n, _ := put(b[:min(room, len(b))])
		room -= n
		return n, unix.ENOSPC
	}
	j.truncate = func(n int64) error {
		if cuts++; cuts == 1 {
			return unix.EIO
		}
		return cut(n)
	}
	write(t, j, rowB+rowC+rowA)
	if got, want := string(read(t, path)), rowA+rowB+rowC+rowA; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if s := j.Stats(); s.Retries < 3 || !strings.Contains(s.LastError, "no space") || s.Rows != 4 {
		t.Errorf("stats %+v", s)
	}
}

func TestAWriteThatCannotEndStopsWithItsContext(t *testing.T) {
	j := plain(t, filepath.Join(t.TempDir(), "rows"))
	j.write = func([]byte) (int, error) { return 0, unix.ENOSPC }
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := j.Write(ctx, []byte(rowA), RowCount{Rows: 1}, make([]uint64, 2)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Write = %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestAFileThatIsMovedAwayIsFollowedByANewOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows")
	j := plain(t, path)
	write(t, j, rowA)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, j, rowB)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, j, rowC)
	if a, c := string(read(t, path+".1")), string(read(t, path)); a != rowA || c != rowC {
		t.Errorf("%q and %q", a, c)
	}
	if s := j.Stats(); s.Reopened != 2 || s.Rows != 3 {
		t.Errorf("stats %+v", s)
	}
}

func TestAFileThatIsEmptiedIsWrittenFromItsStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows")
	j := plain(t, path)
	write(t, j, rowA)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write(t, j, rowB)
	if got := string(read(t, path)); got != rowB || j.Stats().Cut != 1 || j.end != int64(len(rowB)) {
		t.Errorf("%q, %+v", got, j.Stats())
	}
}

func TestTwoRunsDoNotShareAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows")
	plain(t, path)
	if _, err := OpenJSONL(JSONLConfig{Name: "one", Path: path, Workers: 2}); !errors.Is(err, ErrInUse) {
		t.Errorf("the second: %v, want %v", err, ErrInUse)
	}
}

func TestACommitToAnotherFileCutsNothing(t *testing.T) {
	p := testPlan(1)
	s := create(t, p)
	dir := t.TempDir()
	path := filepath.Join(dir, "rows")
	j := open(t, s, "one", path)
	write(t, j, rowA)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".1"); err != nil { // still there: its inode is not used again
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(rowC+rowC), 0o600); err != nil {
		t.Fatal(err)
	}
	j = open(t, s, "one", path)
	defer j.Close()
	write(t, j, rowB)
	if got := string(read(t, path)); got != rowC+rowC+rowB {
		t.Errorf("%q", got)
	}
	if j.Stats().Rows != 2 {
		t.Errorf("stats %+v, want the rows of both processes", j.Stats())
	}
}

func TestAPipeTakesRowsAndAStopDoesNotWaitForItsReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	s := create(t, testPlan(1))
	j := open(t, s, "one", path)
	defer j.Close()
	write(t, j, rowA)
	got := make([]byte, len(rowA))
	if _, err := reader.Read(got); err != nil || string(got) != rowA {
		t.Errorf("read %q, %v", got, err)
	}
	var c segment.Commit
	if !s.Sink("one").Load(&c) || c.Flags != segment.FlagStream || c.Offset != 0 {
		t.Errorf("commit %+v", c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := j.Write(ctx, bytes.Repeat([]byte(rowA), 1<<16), RowCount{Rows: 1 << 16}, make([]uint64, 2)); err == nil {
		t.Error("a write that nobody reads came to an end")
	}
}

func TestABadRecordStopsItsOutboxOnly(t *testing.T) {
	p := testPlan(3)
	s := create(t, p)
	path := filepath.Join(t.TempDir(), "two")
	pump, err := NewPump(Config{Plan: p, Segment: s, Values: testValues, Sinks: []Sink{open(t, s, "two", path)}})
	if err != nil {
		t.Fatal(err)
	}
	for w := range 3 {
		out := outbox.NewWriter(s.Worker(w).Ring())
		for i := range uint64(20) {
			part := nth(w, i)
			if w == 2 && i == 10 {
				part = outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, Key: bytes.Repeat([]byte("x"), 64), State: []uint64{1}, Start: event.MaxNanos, End: event.MaxNanos}
			}
			if !out.Put(&part) {
				t.Fatal("no room")
			}
		}
		out.Publish()
		s.Worker(w).SetState(segment.Done)
	}
	at := outbox.RecordBytes(len(nth(1, 0).Key), 1)
	s.Worker(1).Ring().Bytes[at+5] = 77 // a kind that is none
	if err := pump.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := read(t, path)
	for w, n := range []uint64{20, 1} {
		if part := want(p, "two", w, n); bytes.Count(got, fmt.Appendf(nil, `"k":"w%d-`, w)) != bytes.Count(part, []byte("\n")) {
			t.Errorf("worker %d: %s", w, got)
		}
	}
	if pump.Faults(outbox.FaultKind) != 1 {
		t.Errorf("%d faults of kind, want 1", pump.Faults(outbox.FaultKind))
	}
}

func TestASinkThatCannotGoOnEndsThePump(t *testing.T) {
	p := testPlan(1)
	s := create(t, p)
	broken := errors.New("broken pipe")
	j := open(t, s, "two", filepath.Join(t.TempDir(), "two"))
	j.regular = false
	j.write = func([]byte) (int, error) { return 0, broken }
	pump, err := NewPump(Config{Plan: p, Segment: s, Values: testValues, Sinks: []Sink{j}})
	if err != nil {
		t.Fatal(err)
	}
	out := outbox.NewWriter(s.Worker(0).Ring())
	part := nth(0, 0)
	out.Put(&part)
	out.Publish()
	if err := pump.Run(t.Context()); !errors.Is(err, broken) || !strings.Contains(err.Error(), "sink two") {
		t.Errorf("Run = %v", err)
	}
	if s.Worker(0).Ring().Freed.Load() != 0 {
		t.Error("room was given back though the row was not written")
	}
}

func TestAStopEndsThePump(t *testing.T) {
	p := testPlan(1)
	s := create(t, p)
	pump, err := NewPump(Config{Plan: p, Segment: s, Values: testValues})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := pump.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run = %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestPositionsThatTheSegmentDoesNotHoldAreRefused(t *testing.T) {
	p := testPlan(1)
	s := create(t, p)
	path := filepath.Join(t.TempDir(), "one")
	j := open(t, s, "one", path)
	if err := j.Write(t.Context(), nil, RowCount{}, []uint64{800, 0}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPump(Config{Plan: p, Segment: s, Values: testValues, Sinks: []Sink{open(t, s, "one", path)}}); err == nil {
		t.Error("a pump began at a position that no worker has reached")
	}
}
