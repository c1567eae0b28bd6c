package segment

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

const childEnv = "HEADRACE_SEGMENT_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

func testPlan() *plan.Plan {
	return &plan.Plan{
		Version: plan.Version, Name: "test", Workers: 2, WorkersMax: 3, OutboxBytes: 1 << 14,
		Feeds:      []plan.Feed{{Name: "a"}, {Name: "b"}},
		Streams:    []plan.Stream{{}},
		Queries:    []plan.Query{{Name: "q", Sinks: []string{"z", "a"}}, {Name: "r", Sinks: []string{"a"}}},
		Interfaces: []plan.Interface{{Name: "eth0"}},
	}
}

func create(t *testing.T, p *plan.Plan) *Segment {
	t.Helper()
	s, err := Create(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Counters are copied as words: a field of another size would be torn.
func TestCountersAreNothingButWords(t *testing.T) {
	var walk func(t *testing.T, typ reflect.Type)
	walk = func(t *testing.T, typ reflect.Type) {
		t.Helper()
		switch typ.Kind() {
		case reflect.Struct:
			for i := range typ.NumField() {
				walk(t, typ.Field(i).Type)
			}
		case reflect.Array:
			walk(t, typ.Elem())
		case reflect.Uint64:
		default:
			t.Errorf("%v is not made of uint64", typ)
		}
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[WorkerCounters](), reflect.TypeFor[FeedCounters](), reflect.TypeFor[QueryCounters]()} {
		walk(t, typ)
	}
}

func TestEachWriterHasItsOwnLines(t *testing.T) {
	for _, typ := range []reflect.Type{reflect.TypeFor[workerLines](), reflect.TypeFor[controlLines](), reflect.TypeFor[freedLine](), reflect.TypeFor[sinkLine](), reflect.TypeFor[slot](), reflect.TypeFor[SocketCounters](), reflect.TypeFor[header]()} {
		if typ.Size()%line != 0 {
			t.Errorf("%v has %d bytes, want a multiple of %d", typ, typ.Size(), line)
		}
	}
	s := create(t, testPlan())
	l := s.Layout
	if l.workers%page != 0 || l.stride%page != 0 || l.ring%page != 0 || l.freed%line != 0 || l.sinks%line != 0 || l.sinkStride%line != 0 {
		t.Errorf("layout %+v is not aligned", l)
	}
}

func TestTheAccountSumsToTheFiles(t *testing.T) {
	s := create(t, testPlan())
	sum := 0
	for _, l := range s.Layout.Lines() {
		sum += l.Bytes
	}
	if want := s.Layout.DataBytes + s.Layout.ControlBytes; sum != want {
		t.Errorf("lines sum to %d, want %d: %+v", sum, want, s.Layout.Lines())
	}
	if got := s.Layout.Sinks; !slices.Equal(got, []string{"a", "z"}) {
		t.Errorf("sinks = %v, want [a z]", got)
	}
	p := testPlan()
	p.Group = &plan.Group{Me: "a", Peers: []string{"a", "b"}}
	p.Queries[0].Global, p.Queries[0].LocalSinks = true, []string{"z", "local"}
	g := create(t, p)
	if got := g.Layout.Sinks; !slices.Equal(got, []string{GroupSink, "a", "local", "z"}) || g.Sink(GroupSink) == nil || s.Sink(GroupSink) != nil {
		t.Errorf("sinks in a group = %v, want [%s a local z]", got, GroupSink)
	}
}

func TestAnotherSegmentIsRefusedAndTheErrorSaysWhatDiffers(t *testing.T) {
	poke := func(s *Segment, f func(h *header)) { f(view[header](s.data, 0)) }
	for _, c := range []struct {
		name  string
		spoil func(s *Segment, p *plan.Plan)
		want  string
	}{
		{"another plan", func(_ *Segment, p *plan.Plan) { p.Batch = 7 }, "its plan is"},
		{"a bigger outbox", func(_ *Segment, p *plan.Plan) { p.OutboxBytes *= 2 }, "its plan is"},
		{"another ABI", func(s *Segment, _ *plan.Plan) { poke(s, func(h *header) { h.Version++ }) }, "its version is 4, not 3"},
		{"another layout", func(s *Segment, _ *plan.Plan) { poke(s, func(h *header) { h.Layout[0]++ }) }, "its layout is"},
		{"another record layout", func(s *Segment, _ *plan.Plan) { poke(s, func(h *header) { h.RecordVersion++ }) }, "its record version is"},
		{"no segment", func(s *Segment, _ *plan.Plan) { poke(s, func(h *header) { *h = header{} }) }, "its magic is 0"},
		{"halves of two segments", func(s *Segment, _ *plan.Plan) { poke(s, func(h *header) { h.Generation++ }) }, "its generation is"},
	} {
		p := testPlan()
		s := create(t, p)
		c.spoil(s, p)
		d, k := s.FDs()
		got, err := Open(dup(t, d), dup(t, k), Control, p)
		if !errors.Is(err, ErrMismatch) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: Open = %v, %v, want an error with %q", c.name, got, err, c.want)
		}
	}
	p := testPlan()
	s := create(t, p)
	d, k := s.FDs()
	if _, err := Open(dup(t, k), dup(t, d), Data, p); !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "wrong order") {
		t.Errorf("swapped files: %v", err)
	}
}

func TestAFileThatCanShrinkIsRefused(t *testing.T) {
	p := testPlan()
	s := create(t, p)
	fd, err := unix.MemfdCreate("loose", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, s.data); err != nil {
		t.Fatal(err)
	}
	_, k := s.FDs()
	if _, err := Open(fd, dup(t, k), Control, p); err == nil || !strings.Contains(err.Error(), "not sealed") {
		t.Errorf("Open = %v, want a refusal", err)
	}
	d, _ := s.FDs()
	if err := unix.Ftruncate(d, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncating the segment: %v, want %v", err, unix.EPERM)
	}
}

func mapped(t *testing.T, mem []byte) string {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("%x-", reflect.ValueOf(mem).Pointer())
	for l := range strings.Lines(string(maps)) {
		if strings.HasPrefix(l, at) {
			return strings.Fields(l)[1]
		}
	}
	return "unmapped"
}

func TestEachSideMapsTheOtherReadOnly(t *testing.T) {
	p := testPlan()
	s := create(t, p)
	for _, c := range []struct {
		side          Side
		data, control string
	}{{Data, "rw-s", "r--s"}, {Control, "r--s", "rw-s"}, {Both, "rw-s", "rw-s"}} {
		d, k := s.FDs()
		o, err := Open(dup(t, d), dup(t, k), c.side, p)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]string{mapped(t, o.data), mapped(t, o.control)}; got != [2]string{c.data, c.control} {
			t.Errorf("%v maps %v, want %v %v", c.side, got, c.data, c.control)
		}
		if o.Generation() != s.Generation() || o.Generation() == 0 {
			t.Errorf("generation %x, want %x", o.Generation(), s.Generation())
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Restrict(Control); err != nil {
		t.Fatal(err)
	}
	if got := mapped(t, s.data); got != "r--s" {
		t.Errorf("after Restrict(Control) the data file is %s", got)
	}
}

func fill(c *Counters, n uint64) {
	for i := range wordsOf(&c.Worker) {
		wordsOf(&c.Worker)[i] = n
	}
	for f := range c.Feeds {
		for i := range wordsOf(&c.Feeds[f]) {
			wordsOf(&c.Feeds[f])[i] = n
		}
		c.TouchFeed(f)
	}
	for q := range c.Queries {
		for i := range wordsOf(&c.Queries[q]) {
			wordsOf(&c.Queries[q])[i] = n
		}
		c.TouchQuery(q)
	}
}

func uniform(c *Counters) (uint64, bool) {
	n := c.Worker.Cycles
	words := slices.Clone(wordsOf(&c.Worker))
	for f := range c.Feeds {
		words = append(words, wordsOf(&c.Feeds[f])...)
	}
	for q := range c.Queries {
		words = append(words, wordsOf(&c.Queries[q])...)
	}
	return n, !slices.ContainsFunc(words, func(w uint64) bool { return w != n })
}

// Every copy is one publication, though the worker publishes without a pause.
func TestACopyOfTheCountersIsNeverTorn(t *testing.T) {
	p := testPlan()
	s := create(t, p)
	w := s.Worker(1)
	var wait sync.WaitGroup
	stop := make(chan struct{})
	wait.Go(func() {
		c := NewCounters(p)
		for n := uint64(1); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			fill(c, n)
			w.Publish(n, c)
		}
	})
	dst := NewCounters(p)
	reads, busy, last := 0, 0, uint64(0)
	for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); {
		if err := w.Read(dst); errors.Is(err, ErrBusy) {
			busy++
			continue
		}
		n, ok := uniform(dst)
		if !ok || n < last {
			t.Errorf("torn copy after %d: %+v", last, dst)
			break
		}
		last = n
		reads++
	}
	close(stop)
	wait.Wait()
	if reads == 0 || last == 0 {
		t.Fatalf("%d good copies, %d busy, last %d", reads, busy, last)
	}
}

func TestOnlyWhatWasTouchedIsPublished(t *testing.T) {
	p := testPlan()
	w := create(t, p).Worker(0)
	c, got := NewCounters(p), NewCounters(p)
	c.Feeds[0].Frames, c.Feeds[1].Frames, c.Queries[1].Applied = 1, 2, 3
	c.TouchFeed(1)
	c.TouchQuery(1)
	w.Publish(9, c)
	if err := w.Read(got); err != nil {
		t.Fatal(err)
	}
	if got.Feeds[0].Frames != 0 || got.Feeds[1].Frames != 2 || got.Queries[1].Applied != 3 || got.Worker.HeartbeatNanos != 9 {
		t.Errorf("read %+v", got)
	}
	if n := testing.AllocsPerRun(100, func() { c.TouchFeed(0); w.Publish(10, c) }); n != 0 {
		t.Errorf("Publish allocates %v times", n)
	}
}

func TestAWorkerThatDiedWhilePublishingIsReportedBusyAndStillReadable(t *testing.T) {
	p := testPlan()
	w := create(t, p).Worker(0)
	c := NewCounters(p)
	c.Worker.Cycles = 5
	w.Publish(1, c)
	w.lines.Sequence.Add(1) // dead here
	if err := w.Read(c); !errors.Is(err, ErrBusy) {
		t.Errorf("Read = %v, want %v", err, ErrBusy)
	}
	w.ReadTorn(c)
	if c.Worker.Cycles != 5 {
		t.Errorf("last words: %+v", c.Worker)
	}
	w.Publish(2, c) // its successor
	if err := w.Read(c); err != nil {
		t.Errorf("after the successor: %v", err)
	}
}

// A kill after any store of a commit leaves the commit before or the new one.
func TestACommitIsWholeAfterAKillAtAnyStore(t *testing.T) {
	s := create(t, testPlan())
	c := s.Sink("a")
	var got Commit
	if c.Load(&got) {
		t.Fatal("a new segment has a commit")
	}
	make3 := func(n uint64) Commit {
		return Commit{Offset: n, Device: n, Inode: n, Rows: n, Bytes: n, Global: n, Positions: []uint64{n, n, n}}
	}
	type dead struct{}
	for n := uint64(1); n < 6; n++ {
		for kill := 0; ; kill++ {
			before := Commit{}
			had := c.Load(&before)
			stores, killed := 0, false
			next := make3(n)
			func() {
				defer func() {
					if r := recover(); r != nil {
						if _, ok := r.(dead); !ok {
							panic(r)
						}
						killed = true
					}
				}()
				c.store(&next, func(at *uint64, v uint64) {
					if stores == kill {
						panic(dead{})
					}
					stores++
					*at = v
				})
			}()
			has := c.Load(&got)
			if killed && (has != had || had && got.Offset != before.Offset) {
				t.Fatalf("commit %d killed at store %d: %v %+v, want %v %+v", n, kill, has, got, had, before)
			}
			if !killed {
				if !has || got.Offset != n || !slices.Equal(got.Positions, []uint64{n, n, n}) {
					t.Fatalf("commit %d: %v %+v", n, has, got)
				}
				break
			}
		}
	}
	if s.Sink("nobody") != nil {
		t.Error("a sink that the plan lacks has commits")
	}
}

func TestASpoiledCommitGivesTheOneBefore(t *testing.T) {
	c := create(t, testPlan()).Sink("z")
	for n := range uint64(3) {
		c.Store(&Commit{Offset: n, Positions: make([]uint64, 3)})
	}
	c.slots[1].Offset = 99 // number 3
	var got Commit
	if !c.Load(&got) || got.Offset != 1 || got.Number != 2 {
		t.Errorf("Load = %+v, want the second commit", got)
	}
}

func TestTheMailboxKeepsTheStrongestCommand(t *testing.T) {
	s := create(t, testPlan())
	s.SetCommand(Discard)
	s.SetCommand(Drain)
	if got := s.Command(); got != Discard {
		t.Errorf("Command = %d, want %d", got, Discard)
	}
	s.mailbox.Command.Store(77)
	if got := s.Command(); got != Kill {
		t.Errorf("nonsense reads as %d, want %d", got, Kill)
	}
	s.SetUTCOffset(-3 * time.Second)
	s.SetHeartbeat(5)
	if s.UTCOffset() != -3*time.Second || s.Heartbeat() != 5 || s.NextControl() != 1 || s.ControlGeneration() != 1 {
		t.Error("the mailbox lost something")
	}
}

func TestAFailureTextIsCutToItsRoom(t *testing.T) {
	w := create(t, testPlan()).Worker(2)
	w.Fail(strings.Repeat("x", 5000))
	if got := w.Failure(); len(got) != failureText || w.State() != Failed || !w.State().Final() {
		t.Errorf("%d bytes, %v", len(got), w.State())
	}
	w.lines.Failure.Length.Store(1 << 60) // the other side is not trusted
	if got := w.Failure(); len(got) != failureText {
		t.Errorf("%d bytes", len(got))
	}
	if got := State(99).String(); got != "unknown" {
		t.Errorf("State(99) = %s", got)
	}
}

// child is the data plane of TestTwoProcesses: it puts records as there is room,
// until it is told to drain.
func child() int {
	p := testPlan()
	s, err := Open(3, 4, Data, p)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w := s.Worker(0)
	w.SetState(Running)
	out, c := outbox.NewWriter(w.Ring()), NewCounters(p)
	part := outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, Key: []byte("k"), State: []uint64{0}}
	for s.Command() == Go {
		part.State[0] = c.Queries[0].Partials
		if !out.Put(&part) {
			c.Worker.OutboxFull++
			continue
		}
		c.Queries[0].Partials++
		c.TouchQuery(0)
		out.Publish()
		w.SetWatermark(0, event.Nanos(c.Queries[0].Partials))
		w.Publish(1, c)
	}
	w.Publish(2, c)
	w.SetState(Done)
	return 0
}

func TestTwoProcesses(t *testing.T) {
	p := testPlan()
	s := create(t, p)
	if err := s.Restrict(Control); err != nil {
		t.Fatal(err)
	}
	d, k := s.FDs()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(dup(t, d)), "data"), os.NewFile(uintptr(dup(t, k)), "control")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	w := s.Worker(0)
	r := outbox.NewReader(w.Ring(), Limits(p, []int{1, 1}))
	var part outbox.Partial
	next := uint64(0)
	for deadline := time.Now().Add(20 * time.Second); !w.State().Final() || r.Pending() > 0; {
		ok, err := r.Next(&part)
		if err != nil || time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			t.Fatalf("after %d records: %v", next, err)
		}
		if !ok {
			continue
		}
		if part.State[0] != next {
			t.Fatalf("record %d says %d", next, part.State[0])
		}
		next++
		r.Free(r.Position())
		if next == 20_000 {
			s.SetCommand(Drain)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	c := NewCounters(p)
	if err := w.Read(c); err != nil || c.Queries[0].Partials != next {
		t.Errorf("counted %d partials, read %d: %v", c.Queries[0].Partials, next, err)
	}
	if got := w.Watermark(0); got != event.Nanos(next) {
		t.Errorf("watermark %d, want %d", got, next)
	}
}

// FuzzSegment checks that control, reading a data file of any content, neither
// panics nor hangs: counters, texts and outboxes are only ever wrong.
func FuzzSegment(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint16(4096))
	f.Add([]byte(strings.Repeat("\xff", 300)), uint16(4096+192))
	f.Fuzz(func(t *testing.T, content []byte, at uint16) {
		p := testPlan()
		s := create(t, p)
		copy(s.data[min(int(at), len(s.data)):], content)
		c := NewCounters(p)
		for i := range s.workers {
			w := s.Worker(i)
			_, _, _ = w.Read(c), w.Failure(), w.State().String()
			r := outbox.NewReader(w.Ring(), Limits(p, []int{1, 1}))
			var part outbox.Partial
			for range 10_000 {
				if ok, _ := r.Next(&part); !ok {
					break
				}
			}
		}
		d, k := s.FDs()
		if o, err := Open(dup(t, d), dup(t, k), Control, p); err == nil {
			_ = o.Close()
		} else if !errors.Is(err, ErrMismatch) && !errors.Is(err, io.EOF) {
			t.Errorf("Open: %v", err)
		}
	})
}

func BenchmarkPublish(b *testing.B) {
	p := testPlan()
	s, err := Create(p)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	c := NewCounters(p)
	b.ReportAllocs()
	for b.Loop() {
		c.Worker.Cycles++
		c.Worker.Frames += 64
		c.Feeds[0].Frames += 64
		c.Feeds[0].Bytes += 64000
		c.Feeds[0].FramesApplied += 64
		c.Feeds[0].Messages += 256
		c.Feeds[0].Applied += 256
		c.Feeds[0].Events += 256
		c.Queries[0].Received += 256
		c.Queries[0].Applied += 256
		c.TouchFeed(0)
		c.TouchQuery(0)
		s.Worker(0).Publish(1, c)
	}
}

func TestAHoldSaysWhoTakesItsRingsFirst(t *testing.T) {
	s, err := Create(&plan.Plan{Workers: 3, OutboxBytes: page})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	past := func() (list []bool) {
		for w := range 3 {
			list = append(list, s.Past(w))
		}
		return list
	}
	if n := s.SetHold(Hold, AllWorkers); n != 1 || slices.Contains(past(), true) {
		t.Errorf("hold %d, past %v", n, past())
	}
	if n := s.SetHold(HoldPast, 1<<2|1); n != 2 || s.Hold() != 2 || !slices.Equal(past(), []bool{true, false, true}) {
		t.Errorf("hold %d, past %v", n, past())
	}
	if n := s.SetHold(HoldPast, AllWorkers); n != 3 || slices.Contains(past(), false) {
		t.Errorf("hold %d, past %v", n, past())
	}
	s.SetCommand(Drain)
	if n := s.SetHold(Hold, 0); n != 0 {
		t.Errorf("hold %d behind a drain", n)
	}
}
