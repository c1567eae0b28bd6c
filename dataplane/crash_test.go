package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/fault/killtest"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/window"
	"github.com/headrace/headrace/dataplane/xsk"
)

// crashFormats are the feeds of a crash plan, two of them sequenced and with losses.
var crashFormats = []string{"iex-deep", "json", "itch50", "raw"}

// crashPlan puts one feed of each format into one plan, and a query by a number besides
// those by text.
func crashPlan(workers int) *plan.Plan {
	p := beltPlan(crashFormats[0], workers)
	p.OutboxBytes, p.LaneBytes = 1<<14, 64 // the smallest lanes
	p.Feeds, p.Streams, p.Queries = nil, nil, nil
	for i, format := range crashFormats {
		one := beltPlan(format, workers)
		f, s, q := one.Feeds[0], one.Streams[0], one.Queries[0]
		f.Name = format
		s.Feed, s.Queries = i, []int{len(p.Queries)}
		q.Name, q.Feed, q.Stream, q.Delay = format, i, len(p.Streams), 10*time.Millisecond
		p.Feeds, p.Streams, p.Queries = append(p.Feeds, f), append(p.Streams, s), append(p.Queries, q)
	}
	number := p.Queries[1]
	number.Name, number.Stream, number.Where, number.Width = "by number", len(p.Streams), plan.Program{}, 15*time.Millisecond
	p.Streams = append(p.Streams, plan.Stream{Feed: 1, Key: []int{1}, Columns: p.Streams[1].Columns, Queries: []int{len(p.Queries)}, KeyWidth: 8})
	p.Queries = append(p.Queries, number)
	return p
}

// crashFrames makes n packets of each feed, in order of time. Some of the text ones
// have many records.
func crashFrames(t *testing.T, p *plan.Plan, n int) (all []xsk.Frame) {
	t.Helper()
	var belts []*belt
	for _, format := range crashFormats {
		belts = append(belts, newBelt(t, beltPlan(format, p.Workers), n))
	}
	for i := range n {
		for feed, b := range belts {
			f := b.frames[i]
			f.Meta.Feed = uint16(feed)
			if crashFormats[feed] == "json" && i%10 == 3 {
				at := int(f.Meta.PayloadOffset)
				lines := bytes.Repeat(f.Data[at:][:f.Meta.PayloadLength], 20)
				f.Data = append(f.Data[:at:at], lines...)
				f.Meta.PayloadLength = uint16(len(lines))
			}
			all = append(all, f)
		}
	}
	return all
}

// source is a ring of frames that outlives its readers.
type source struct {
	frames   []xsk.Frame
	released int
	past     int // those before are to be taken before a hold
}

// tap is one worker's reader of a source.
type tap struct {
	t    *testing.T
	ring *source
	at   int
}

func (r *tap) Receive(frames []xsk.Frame) int {
	n := copy(frames, r.ring.frames[r.at:])
	r.at += n
	return n
}

func (r *tap) Release() { r.ring.released = r.at }

func (r *tap) Spent() bool { return false }

func (r *tap) InRing() int { return len(r.ring.frames) - r.ring.released }

func (r *tap) Wait(time.Duration) error { return nil }

func (r *tap) Positions(into []uint32, rest []xsk.Frame) int {
	into[0] = uint32(r.at - len(rest))
	return 1
}

// plant is a set of workers whose memory outlives them.
type plant struct {
	t       *testing.T
	plan    *plan.Plan
	segment *segment.Segment
	frames  []xsk.Frame // that are still to come, in order of time
	sources []*source
	regions []*arena.Region // of the workers, then the lanes', the allowance's, the journal's
	journal *Journal
	readers []*outbox.Reader
	rows    [][]string // by worker
	workers []*Worker
	now     event.Nanos
	starts  int
	bags    int // cycles that ended with something in the bag
	low     int // words of the undo log that a batch may use; 0: all
	skip    *Mark
	rings   [][]uint32                // by worker: where the first one begins
	owners  *[event.GroupCount]uint16 // in the beginning, nil: evenly

	holds bool // run asks for holds now and then
	moves bool // and moves groups in them
	moved int  // groups
	asked int  // of them
	held  int  // and got there
}

func newPlant(t *testing.T, p *plan.Plan, frames []xsk.Frame) *plant {
	t.Helper()
	x := &plant{t: t, plan: p, frames: frames, rows: make([][]string, p.Workers)}
	var err error
	if x.segment, err = segment.Create(p); err != nil {
		t.Fatal(err)
	}
	var words []int
	for i := range p.Queries {
		set, err := aggregate.NewSet(&p.Queries[i], p.Feeds[p.Queries[i].Feed].Columns)
		if err != nil {
			t.Fatal(err)
		}
		words = append(words, set.Words())
	}
	for i := range p.Workers {
		x.sources = append(x.sources, &source{})
		x.readers = append(x.readers, outbox.NewReader(x.segment.Worker(i).Ring(), segment.Limits(p, words)))
	}
	for range p.Workers + 3 {
		r, err := arena.New("test", 1<<36)
		if err != nil {
			t.Fatal(err)
		}
		x.regions = append(x.regions, r)
	}
	t.Cleanup(func() {
		for _, r := range x.regions {
			_ = r.Close()
		}
		_ = x.segment.Close()
	})
	return x
}

// reopen maps all regions again, as the next process would.
func (x *plant) reopen() {
	for i, r := range x.regions {
		fd, err := unix.Dup(r.FD())
		if err != nil {
			x.t.Fatal(err)
		}
		next, err := arena.Open(fd)
		if err != nil {
			x.t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			x.t.Fatal(err)
		}
		x.regions[i] = next
	}
	x.workers, x.journal = nil, nil
}

// start builds the workers, over whatever their memory holds.
func (x *plant) start() {
	x.t.Helper()
	if err := x.tryStart(); err != nil {
		x.t.Fatalf("start %d: %v", x.starts, err)
	}
}

func (x *plant) tryStart() error {
	x.t.Helper()
	x.starts++
	n := x.plan.Workers
	var lanes [][]*exchange.Lane
	var shared *window.Shared
	journal, err := NewJournal(x.regions[n+2], x.plan)
	if err == nil {
		err = x.regions[n+2].Complete(StateVersion)
	}
	if err != nil {
		x.t.Fatal(err)
	}
	if x.owners != nil && !x.regions[n+2].Warm() {
		*journal.Owner() = *x.owners
	}
	if n > 1 {
		lanes = x.lanes()
		if err = x.regions[n].Complete(StateVersion); err != nil {
			x.t.Fatal(err)
		}
		if shared, err = window.NewShared(x.regions[n+1], len(x.plan.Queries)); err != nil {
			x.t.Fatal(err)
		}
		if err = x.regions[n+1].Complete(StateVersion); err != nil {
			x.t.Fatal(err)
		}
	}
	var workers []*Worker
	var states []*window.State
	for i := range n {
		var rings []uint32
		if i < len(x.rings) {
			rings = x.rings[i]
		}
		w, err := NewWorker(Config{
			Rings: rings,
			Plan:  x.plan, Worker: i, Segment: x.segment.Worker(i), Region: x.regions[i], Lanes: lanes, Owner: journal.Owner(), Shared: shared,
			Rollback: true,
			Attach: func(rings []uint32) (xsk.Receiver, error) {
				r := &tap{t: x.t, ring: x.sources[i]}
				if rings != nil {
					r.at = int(rings[0])
				}
				if r.at < r.ring.released {
					return nil, fmt.Errorf("worker %d goes on at frame %d, those before %d have been given back", i, r.at, r.ring.released)
				}
				return r, nil
			},
		})
		if err != nil {
			return err
		}
		w.skip = x.skip
		if x.low > 0 {
			w.need = w.undo.Cap() - x.low
		}
		workers, states = append(workers, w), append(states, w.windows)
	}
	if shared != nil {
		shared.Recount(states)
	}
	if err := journal.Recover(workers); err != nil {
		return err
	}
	x.workers, x.journal = workers, journal
	return nil
}

// lanes are hardly larger than what must fit: mostly full.
func (x *plant) lanes() [][]*exchange.Lane {
	widest := 0
	for s := range x.plan.Streams {
		h := exchange.NewShape(x.plan, s)
		widest = max(widest, h.Words())
	}
	lanes := make([][]*exchange.Lane, x.plan.Workers)
	for from := range lanes {
		lanes[from] = make([]*exchange.Lane, x.plan.Workers)
		for to := range lanes[from] {
			var err error
			if lanes[from][to], err = exchange.NewLane(x.regions[x.plan.Workers], exchange.Need(x.plan, widest)); err != nil {
				x.t.Fatal(err)
			}
		}
	}
	return lanes
}

// read takes what the outboxes have.
func (x *plant) read() {
	x.t.Helper()
	var p outbox.Partial
	for i, r := range x.readers {
		for {
			ok, err := r.Next(&p)
			if err != nil {
				x.t.Fatalf("worker %d: %v", i, err)
			}
			if !ok {
				break
			}
			if p.Kind == outbox.KindWatermark {
				continue // one for several, if several close at once
			}
			x.rows[i] = append(x.rows[i], fmt.Sprintf("%d %d %q %d-%d flags %d missing %d %d %x", p.Kind, p.Query, p.Key, p.Start, p.End, p.Flags, p.Missing, p.Firing, p.State))
		}
		r.Free(r.Position())
	}
}

// tick lets time pass, and the frames come that were sent meanwhile, if there are any
// more. It is short of a query's delay, and all workers have had everything before it:
// so which events are late does not depend on which worker was faster.
func (x *plant) tick() (more bool) {
	x.now = x.now.Add(4 * time.Millisecond)
	for len(x.frames) > 0 && x.frames[0].Meta.ReceiveNanos <= uint64(beltFirst)+uint64(x.now) {
		f := x.frames[0]
		s := x.sources[x.journal.Owner()[f.Meta.Group]]
		f.Packet = uint64(len(s.frames))
		s.frames, x.frames, more = append(s.frames, f), x.frames[1:], true
	}
	return more
}

// cycle lets worker i do a cycle, and reports whether it did something; over says that
// no frame will come any more.
func (x *plant) cycle(i int, over bool) bool {
	w := x.workers[i]
	if w.ending == ended {
		return false
	}
	port := w.receiver.(*tap)
	w.obey(x.segment.Command(), x.segment.Hold(), x.segment.Past(i), port)
	if w.hold != 0 && x.isHeld(i) {
		return false
	}
	n := w.cycle(x.now)
	if w.pending() {
		x.bags++
	}
	if n > 0 {
		return true
	}
	if w.hold != 0 && w.ending == flowing {
		before := w.stopped
		return w.settle(port) || w.stopped != before
	}
	if over && w.ending == flowing && port.at == len(port.ring.frames) && w.at == w.count && w.closing == nil {
		w.Finish()
		return true
	}
	before := w.ending
	w.wind()
	return w.ending != before
}

func (x *plant) ended() bool {
	for _, w := range x.workers {
		if w.ending != ended {
			return false
		}
	}
	return true
}

// isHeld reports whether worker i, perhaps one that has ended since, is held.
func (x *plant) isHeld(i int) bool {
	s := x.segment.Worker(i)
	return s.State() == segment.Held && s.HeldFor() == x.segment.Hold()
}

// hold begins a hold or, if all workers have got there, ends it.
func (x *plant) hold(r *rand.Rand) {
	x.t.Helper()
	if !x.segment.Command().Holds() {
		if r.IntN(300) == 0 {
			past := r.Uint64()
			x.segment.SetHold(segment.HoldPast, past)
			for i, s := range x.sources {
				if s.past = 0; past>>uint(i)&1 != 0 {
					s.past = len(s.frames)
				}
			}
			x.asked++
		}
		return
	}
	for i := range x.workers {
		if !x.isHeld(i) {
			return
		}
	}
	x.held++
	for i, w := range x.workers {
		if w.at < w.count || w.pending() || w.closing != nil || w.windows.Closing() || w.inbox != nil && !w.inbox.Held(x.segment.Hold()) {
			x.t.Fatalf("worker %d is held with something in hand", i)
		}
		if s := x.sources[i]; s.released < s.past {
			x.t.Fatalf("worker %d is held behind frame %d, %d lay in the ring when it was asked to", i, s.released, s.past)
		}
	}
	if x.moves {
		x.move(r)
	}
	x.segment.SetCommand(segment.Go)
}

// move moves some groups, those of the sequenced channels more often than others.
func (x *plant) move(r *rand.Rand) {
	x.t.Helper()
	for _, s := range x.sources {
		if s.released < len(s.frames) {
			return // they are the old owner's, and would come too late
		}
	}
	var groups []int
	for range 1 + r.IntN(5) {
		groups = append(groups, r.IntN(event.GroupCount))
	}
	for _, g := range x.channelGroups() {
		if r.IntN(2) == 0 {
			groups = append(groups, g)
		}
	}
	n, err := x.journal.Move(x.workers, groups, r.IntN(len(x.workers)))
	if err != nil {
		x.t.Fatal(err)
	}
	x.moved += n
}

// channelGroups are the key groups by which the sequenced feeds are placed.
func (x *plant) channelGroups() (groups []int) {
	for _, s := range x.sources {
		for i := range s.frames {
			if m := &s.frames[i].Meta; x.plan.Feeds[m.Feed].Sequence != plan.Unsequenced && !slices.Contains(groups, int(m.Group)) {
				groups = append(groups, int(m.Group))
			}
		}
	}
	return groups
}

// run goes through everything in random turns. kill, if it is not nil, is called before
// each start and each turn and may see to it that it is the last.
func (x *plant) run(r *rand.Rand, kill func()) {
	x.t.Helper()
	idle, over, i := 0, false, 0
	for turn := 0; x.workers == nil || !x.ended(); turn++ {
		if turn > 5_000_000 {
			x.t.Fatal("no end")
		}
		dead := killtest.Ends(func() {
			if x.workers == nil {
				x.start()
			}
			if kill != nil {
				kill()
			}
			if x.holds || x.segment.Command().Holds() {
				x.hold(r)
			}
			if r.IntN(6) == 0 { // several in a row, so that lanes fill up
				i = r.IntN(len(x.workers))
			}
			switch {
			case x.cycle(i, over):
				idle = 0
			case idle < 50*len(x.workers):
				idle++
			default:
				idle = 0
				over = !x.tick()
				x.holds = x.holds && !over
			}
		})
		if dead {
			x.reopen()
			idle = 0
		}
		if r.IntN(10) == 0 {
			x.read()
		}
	}
	x.read()
	for i := range x.rows {
		slices.Sort(x.rows[i])
	}
}

// check compares with an undisturbed run.
func (x *plant) check(want *plant) {
	x.t.Helper()
	for i := range x.rows {
		if !slices.Equal(x.rows[i], want.rows[i]) {
			x.t.Errorf("worker %d: %d rows, want %d; the first that differs: %s", i, len(x.rows[i]), len(want.rows[i]), firstOther(x.rows[i], want.rows[i]))
		}
		got, right := segment.NewCounters(x.plan), segment.NewCounters(x.plan)
		if err := errors.Join(x.segment.Worker(i).Read(got), want.segment.Worker(i).Read(right)); err != nil {
			x.t.Fatal(err)
		}
		for f := range got.Feeds {
			if got.Feeds[f] != right.Feeds[f] {
				x.t.Errorf("worker %d, feed %d:\n %+v, want\n %+v", i, f, got.Feeds[f], right.Feeds[f])
			}
		}
		for q := range got.Queries {
			if got.Queries[q] != right.Queries[q] {
				x.t.Errorf("worker %d, query %d:\n %+v, want\n %+v", i, q, got.Queries[q], right.Queries[q])
			}
		}
		if got.Worker.Frames != right.Worker.Frames || got.Worker.UnknownFeed != right.Worker.UnknownFeed {
			x.t.Errorf("worker %d: %d frames, %d of no feed, want %d and %d", i, got.Worker.Frames, got.Worker.UnknownFeed, right.Worker.Frames, right.Worker.UnknownFeed)
		}
	}
}

func firstOther(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return got[i] + "\nwant " + want[i]
		}
	}
	return "the end"
}

// crashRuns is how many runs with kills a test makes: more if the environment says so.
func crashRuns() int {
	if n, err := strconv.Atoi(os.Getenv("HEADRACE_CRASH_RUNS")); err == nil {
		return n
	}
	return 2
}

// crashStarts is after how many starts a run goes on undisturbed.
func crashStarts() int {
	if os.Getenv("HEADRACE_CRASH_RUNS") != "" {
		return 600
	}
	return 30
}

// forCrashes calls f with plants that are to be disturbed, and checks them.
func forCrashes(t *testing.T, runs int, f func(x *plant, r *rand.Rand)) {
	t.Helper()
	for workers := 1; workers <= 3; workers++ {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			p := crashPlan(workers)
			p.Batch = 16 // many frames fill more than one
			frames := crashFrames(t, p, 900)
			if workers == 1 {
				spoil(rand.New(rand.NewPCG(5, 5)), frames)
			}
			calm := newPlant(t, p, frames)
			calm.run(rand.New(rand.NewPCG(1, 0)), nil)
			if n := len(calm.rows[0]); n < 100 {
				t.Fatalf("%d rows of the undisturbed run", n)
			}
			starts, bags, holds := 0, 0, 0
			for seed := range uint64(runs) {
				x := newPlant(t, p, frames)
				x.holds = seed%3 != 0
				if seed%2 == 1 {
					x.low = 250 + int(seed%8)*50
				}
				f(x, rand.New(rand.NewPCG(seed, uint64(workers))))
				x.check(calm)
				starts, bags, holds = starts+x.starts-1, bags+x.bags, holds+x.held
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			t.Logf("%d restarts, %d batches that could not be brought to their end, %d holds", starts, bags, holds)
			if runs > 1 && holds == 0 {
				t.Error("nothing was ever held")
			}
			if workers > 1 && bags == 0 {
				t.Error("no lane was ever full: the test does not reach what it is for")
			}
		})
	}
}

// All workers are given up at once, between two cycles of any of them.
func TestWorkersGoOnWhereOthersStopped(t *testing.T) {
	forCrashes(t, crashRuns(), func(x *plant, r *rand.Rand) {
		often := 1 + r.IntN(40)
		x.run(r, func() {
			if r.IntN(often) == 0 && x.starts < crashStarts() {
				killtest.Die()
			}
		})
	})
}

// forMoves is forCrashes of workers among which key groups move, with their channels:
// what all workers together put out, and count, is what it is without.
func forMoves(t *testing.T, runs int, f func(x *plant, r *rand.Rand)) {
	t.Helper()
	for workers := 2; workers <= 3; workers++ {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			p := crashPlan(workers)
			p.Batch = 16
			frames := crashFrames(t, p, 900)
			calm := newPlant(t, p, frames)
			calm.run(rand.New(rand.NewPCG(1, 0)), nil)
			starts, moved := 0, 0
			for seed := range uint64(runs) {
				x := newPlant(t, p, frames)
				x.holds, x.moves = true, true
				f(x, rand.New(rand.NewPCG(seed, uint64(workers))))
				x.checkTogether(calm)
				starts, moved = starts+x.starts-1, moved+x.moved
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			t.Logf("%d restarts, %d groups moved", starts, moved)
			if moved == 0 {
				t.Error("nothing was moved")
			}
		})
	}
}

// checkTogether is check of all workers as one, who owned what being another matter.
func (x *plant) checkTogether(want *plant) {
	x.t.Helper()
	together := func(x *plant) (rows []string, sum *segment.Counters) {
		sum = segment.NewCounters(x.plan)
		for i := range x.rows {
			for _, r := range x.rows[i] {
				if r[0] == '0'+byte(outbox.KindPartial) {
					rows = append(rows, r)
				}
			}
			c := segment.NewCounters(x.plan)
			if err := x.segment.Worker(i).Read(c); err != nil {
				x.t.Fatal(err)
			}
			segment.Add(sum, c)
		}
		for q := range sum.Queries {
			k := &sum.Queries[q]
			if k.Sent != k.Arrived {
				x.t.Errorf("query %d: %d events sent, %d arrived", q, k.Sent, k.Arrived)
			}
			k.Sent, k.Arrived, k.WindowsClosed = 0, 0, 0
		}
		slices.Sort(rows)
		return rows, sum
	}
	rows, c := together(x)
	right, d := together(want)
	if !slices.Equal(rows, right) {
		x.t.Errorf("%d rows, want %d; the first that differs: %s", len(rows), len(right), firstOther(rows, right))
	}
	for f := range c.Feeds {
		if c.Feeds[f] != d.Feeds[f] {
			x.t.Errorf("feed %d:\n %+v, want\n %+v", f, c.Feeds[f], d.Feeds[f])
		}
	}
	for q := range c.Queries {
		if c.Queries[q] != d.Queries[q] {
			x.t.Errorf("query %d:\n %+v, want\n %+v", q, c.Queries[q], d.Queries[q])
		}
	}
}

// Key groups and channels move among workers now and then, and all workers are given up
// now and then.
func TestGroupsThatMoveMakeTheSameRows(t *testing.T) {
	forMoves(t, crashRuns(), func(x *plant, r *rand.Rand) {
		often := 50 + r.IntN(200)
		x.run(r, func() {
			if r.IntN(often) == 0 && x.starts < crashStarts() {
				killtest.Die()
			}
		})
	})
}

// Memory of another plan is refused before it is looked at.
func TestMemoryOfAnotherLayoutIsRefused(t *testing.T) {
	p := crashPlan(1)
	x := newPlant(t, p, crashFrames(t, p, 100))
	x.start()
	x.tick()
	x.cycle(0, false)
	x.reopen()
	other := crashPlan(1)
	other.Queries[0].Keys *= 2
	_, err := NewWorker(Config{Plan: other, Segment: x.segment.Worker(0), Region: x.regions[0], Owner: &[event.GroupCount]uint16{}, Receiver: &tap{ring: x.sources[0]}, Rollback: true})
	if !errors.Is(err, arena.ErrLayout) {
		t.Fatalf("got %v", err)
	}
	if _, err = NewWorker(Config{Plan: p, Segment: x.segment.Worker(0), Region: x.regions[0], Owner: &[event.GroupCount]uint16{}, Receiver: blind{}, Rollback: true}); err == nil {
		t.Fatal("a receiver without positions is taken")
	}
	x.reopen()
	x.start()
}

// blind is a receiver that has no positions.
type blind struct{}

func (blind) Receive([]xsk.Frame) int { return 0 }

func (blind) Release() {}

// What a start over warm memory takes, beside mapping it.
func BenchmarkWarmStart(b *testing.B) {
	t := &testing.T{}
	p := crashPlan(1)
	p.Queries[0].Keys = 65536
	x := newPlant(t, p, crashFrames(t, p, 200))
	x.start()
	for range 20 {
		x.tick()
		x.cycle(0, false)
	}
	for b.Loop() {
		x.reopen()
		x.start()
	}
}
