package dataplane

import (
	"encoding/binary"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/xsk"
)

// livePlan counts records of (key int64, time int64 in seconds) by key in windows of
// ten seconds, without delay.
func livePlan() *plan.Plan {
	column := func(name string, offset int) plan.Column {
		return plan.Column{Name: name, Type: event.Int64, Offset: offset, Width: 8}
	}
	return &plan.Plan{
		Version: plan.Version, Name: "live", Workers: 1, WorkersMax: 1, Batch: event.BatchMax, OutboxBytes: 1 << 16, LaneBytes: 1 << 16, Flush: true,
		Feeds: []plan.Feed{{
			Name: "records", Format: "raw", Rules: []plan.Rule{{Protocol: 17, Port: 9000}}, LittleEndian: true, Kinds: 1,
			Place:   plan.Placement{Kind: plan.PlaceTuple, Fields: plan.FieldSource | plan.FieldSourcePort},
			Columns: []plan.Column{column("key", 0)}, Time: plan.EventTime{Unit: plan.UnitS, Column: column("time", 8)},
		}},
		Streams: []plan.Stream{{Key: []int{0}, Queries: []int{0}, KeyWidth: 8}},
		Queries: []plan.Query{{
			Name: "counts", Width: 10 * time.Second, Keys: 64, Panes: 8, Sinks: []string{"rows"},
			Aggregates: []plan.Aggregate{{Name: "count", Kind: plan.Count}},
		}},
	}
}

// ring is a port whose frames a test puts in.
type ring struct {
	frames []xsk.Frame
	taken  int
	waits  int
}

func (r *ring) put(key, second int64) {
	const headers = 42
	data := make([]byte, headers+16)
	binary.LittleEndian.PutUint64(data[headers:], uint64(key))
	binary.LittleEndian.PutUint64(data[headers+8:], uint64(second))
	r.frames = append(r.frames, xsk.Frame{Data: data, Meta: steer.Meta{PayloadOffset: headers, PayloadLength: 16, Version: steer.MetaVersion}})
}

func (r *ring) Receive(frames []xsk.Frame) int {
	r.taken = copy(frames, r.frames)
	return r.taken
}

func (r *ring) Release() { r.frames, r.taken = r.frames[r.taken:], 0 }

func (r *ring) Wait(time.Duration) error { r.waits++; return nil }

func (r *ring) InRing() int { return len(r.frames) }

// script is a mailbox and a clock that do something at every cycle: step is called
// with the number of the cycle and returns what control asks for.
type script struct {
	cycles int
	step   func(cycle int) segment.Command
}

func (s *script) Command() segment.Command {
	s.cycles++
	return s.step(s.cycles)
}

func (s *script) Hold() uint64 { return 0 }

func (s *script) Past(int) bool { return false }

func (s *script) UTCOffset() time.Duration { return 0 }

// Clock passes a millisecond a cycle.
func (s *script) Clock() event.Nanos { return event.Nanos(s.cycles) * event.Nanos(time.Millisecond) }

// life is one worker with everything that it needs.
type life struct {
	worker   *Worker
	segment  *segment.Segment
	ring     ring
	counters xsk.Counters
	stop     atomic.Bool
	lost     atomic.Uint64
	reader   *outbox.Reader
}

func newLife(t *testing.T, p *plan.Plan, resume []event.Nanos) *life {
	t.Helper()
	l := &life{}
	var err error
	if l.segment, err = segment.Create(p); err != nil {
		t.Fatal(err)
	}
	region, err := arena.New("test", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.segment.Close()
		region.Close()
	})
	owner := steer.OwnerTable(1)
	if l.worker, err = NewWorker(Config{
		Plan: p, Receiver: &l.ring, Segment: l.segment.Worker(0), Region: region, Owner: &owner, Resume: resume,
	}); err != nil {
		t.Fatal(err)
	}
	set, err := aggregate.NewSet(&p.Queries[0], p.Feeds[0].Columns)
	if err != nil {
		t.Fatal(err)
	}
	l.reader = outbox.NewReader(l.segment.Worker(0).Ring(), segment.Limits(p, []int{set.Words()}))
	return l
}

// run lives until the script ends it.
func (l *life) run(step func(cycle int) segment.Command) *script {
	s := &script{step: step}
	l.worker.Live(Live{Port: &l.ring, Counters: &l.counters, Mailbox: s, Clock: s.Clock, Stop: &l.stop, Lost: &l.lost, Idle: xsk.Idle{Adaptive: true}})
	return s
}

// a window is what came out of one: its end, in seconds, and whether it is incomplete.
type fired struct {
	end        int64
	incomplete bool
	firing     outbox.Firing
}

func (l *life) windows(t *testing.T) (list []fired) {
	t.Helper()
	var p outbox.Partial
	for {
		ok, err := l.reader.Next(&p)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return list
		}
		if p.Kind == outbox.KindPartial {
			list = append(list, fired{int64(p.End) / 1e9, p.Flags&outbox.FlagIncomplete != 0, p.Firing})
		}
	}
}

func (l *life) check(t *testing.T, want ...fired) {
	t.Helper()
	if got := l.windows(t); !slices.Equal(got, want) {
		t.Errorf("windows %v, want %v", got, want)
	}
}

func TestADrainTakesWhatIsInTheRingsAndFiresWhatIsOpen(t *testing.T) {
	l := newLife(t, livePlan(), nil)
	for s := range int64(200) {
		l.ring.put(7, s/10)
	}
	l.run(func(int) segment.Command { return segment.Drain })
	l.check(t, fired{10, false, outbox.OnTime}, fired{20, false, outbox.Flush})
	if n := l.worker.Counters().Worker.Frames; n != 200 {
		t.Errorf("%d frames received, 200 were in the ring", n)
	}
	if s := l.segment.Worker(0).State(); s != segment.Done {
		t.Errorf("state %v after the drain", s)
	}
}

func TestADiscardDropsWhatIsOpen(t *testing.T) {
	l := newLife(t, livePlan(), nil)
	l.ring.put(7, 3)
	l.ring.put(7, 13)
	l.run(func(int) segment.Command { return segment.Discard })
	l.check(t, fired{10, false, outbox.OnTime})
}

func TestTheProcessCanAskForADrainToo(t *testing.T) {
	l := newLife(t, livePlan(), nil)
	l.ring.put(7, 3)
	l.stop.Store(true)
	l.run(func(int) segment.Command { return segment.Go })
	l.check(t, fired{10, false, outbox.Flush})
}

func TestAKillEndsAtOnceAndSaysSo(t *testing.T) {
	l := newLife(t, livePlan(), nil)
	l.ring.put(7, 3)
	l.run(func(int) segment.Command { return segment.Kill })
	if w := l.segment.Worker(0); w.State() != segment.Failed || w.Failure() == "" {
		t.Errorf("state %v, failure %q", w.State(), w.Failure())
	}
}

func TestAWorkerWithoutWorkSaysThatItLives(t *testing.T) {
	l := newLife(t, livePlan(), nil)
	var beats []uint64
	c := segment.NewCounters(livePlan())
	s := l.run(func(cycle int) segment.Command {
		if l.segment.Worker(0).Read(c) == nil && (len(beats) == 0 || beats[len(beats)-1] != c.Worker.HeartbeatNanos) {
			beats = append(beats, c.Worker.HeartbeatNanos)
		}
		if cycle < 1000 {
			return segment.Go
		}
		return segment.Kill
	})
	if len(beats) < 9 || len(beats) > 12 {
		t.Errorf("%d heartbeats in a second: %v", len(beats), beats)
	}
	if l.ring.waits == 0 || l.ring.waits > s.cycles {
		t.Errorf("%d waits in %d cycles without work", l.ring.waits, s.cycles)
	}
}

func TestALossBeforeTheRingsMarksTheWindowsThatItMayTouch(t *testing.T) {
	for _, c := range []struct {
		name string
		lost int // the cycle at which the loss shows
		want []fired
	}{
		{"no loss", 0, []fired{{10, false, outbox.OnTime}, {20, false, outbox.OnTime}, {30, false, outbox.OnTime}, {40, false, outbox.Flush}}},
		// Shown while window 0 to 10 is open and the ring is empty: up to the next frame.
		{"before the second window", 3, []fired{{10, true, outbox.OnTime}, {20, true, outbox.OnTime}, {30, false, outbox.OnTime}, {40, false, outbox.Flush}}},
		{"at the end", 25, []fired{{10, false, outbox.OnTime}, {20, false, outbox.OnTime}, {30, false, outbox.OnTime}, {40, true, outbox.Flush}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLife(t, livePlan(), nil)
			l.run(func(cycle int) segment.Command {
				switch cycle {
				case 1:
					l.ring.put(1, 5)
				case 5:
					l.ring.put(1, 15)
				case 10:
					l.ring.put(1, 25)
				case 20:
					l.ring.put(1, 35)
				case 30:
					return segment.Drain
				}
				if c.lost > 0 && cycle >= c.lost {
					l.lost.Store(1)
				}
				if cycle > 30 {
					return segment.Drain
				}
				return segment.Go
			})
			l.check(t, c.want...)
		})
	}
}

func TestALossShownWhileTheRingIsFullMarksTheWindowsBehindTheRing(t *testing.T) {
	l := newLife(t, livePlan(), nil)
	// Six windows lie in the ring when the loss shows; what was lost came after them.
	for s := range int64(60) {
		for range 10 {
			l.ring.put(1, s)
		}
	}
	l.lost.Store(5)
	l.run(func(cycle int) segment.Command {
		switch {
		case len(l.ring.frames) > 0:
			return segment.Go
		case cycle < 100:
			return segment.Go
		case cycle == 100:
			l.ring.put(1, 71)
			l.ring.put(1, 81)
			return segment.Go
		case cycle < 110:
			return segment.Go
		}
		return segment.Drain
	})
	got := l.windows(t)
	marked := map[int64]bool{}
	for _, f := range got {
		marked[f.end] = f.incomplete
	}
	// 60 is open where the ring ends, 80 holds the first frame after the loss.
	if !marked[60] || !marked[80] || marked[90] {
		t.Errorf("windows %v: 60 and 80 may have lost frames, 90 cannot", got)
	}
}

func TestAWorkerThatGoesOnAfterACrash(t *testing.T) {
	const second = event.Nanos(time.Second)
	p := livePlan()
	l := newLife(t, p, []event.Nanos{25 * second})
	l.ring.put(1, 15) // its window was put out before the crash
	l.ring.put(1, 26)
	l.ring.put(1, 47)
	l.ring.put(1, 55)
	l.run(func(cycle int) segment.Command {
		if cycle%4 == 0 && cycle < 60 {
			l.ring.put(1, int64(50+cycle/4*10))
		}
		return segment.Command(min(cycle/64, 1)) * segment.Drain
	})
	got := l.windows(t)
	if len(got) == 0 || got[0] != (fired{30, true, outbox.OnTime}) {
		t.Fatalf("windows %v: the first is 20 to 30, incomplete", got)
	}
	for _, f := range got {
		// Eight panes could be open at 25 s: those up to the window that ends at 110.
		if want := f.end <= 110; f.incomplete != want {
			t.Errorf("window to %d s: incomplete %v", f.end, f.incomplete)
		}
	}
	if n := l.worker.Counters().Queries[0].Drops[event.DropLate]; n != 1 {
		t.Errorf("%d late events, want 1", n)
	}
}

func TestATimeJumpDuringACrashMarksTheWindowWhereASourceComesBack(t *testing.T) {
	const second = event.Nanos(time.Second)
	l := newLife(t, livePlan(), []event.Nanos{25 * second})
	l.ring.put(1, 100_005)
	l.ring.put(1, 100_015)
	l.ring.put(1, 100_025)
	l.run(func(int) segment.Command { return segment.Drain })
	l.check(t, fired{100_010, true, outbox.OnTime}, fired{100_020, false, outbox.OnTime}, fired{100_030, false, outbox.Flush})
}

func TestFramesThatThePortCannotGiveAreCounted(t *testing.T) {
	l := newLife(t, livePlan(), nil)
	l.ring.put(1, 5)
	l.run(func(cycle int) segment.Command {
		if cycle == 3 {
			l.counters.BadMeta, l.counters.MultiBuffer, l.counters.Parked = 2, 3, 4
		}
		return segment.Command(min(cycle/9, 1)) * segment.Drain
	})
	if c := l.worker.Counters().Worker; c.Frames != 6 || c.UnknownFeed != 5 || c.RefillParked != 4 {
		t.Errorf("%d frames, %d of no feed, %d parked", c.Frames, c.UnknownFeed, c.RefillParked)
	}
}

func TestTheLiveLoopAllocatesNothing(t *testing.T) {
	p := livePlan()
	l := newLife(t, p, nil)
	l.ring.put(1, 5)
	store := [1]xsk.Frame{l.ring.frames[0]}
	const cycles = 20_000
	var before, after runtime.MemStats
	l.run(func(cycle int) segment.Command {
		switch {
		case cycle == 100:
			runtime.ReadMemStats(&before)
		case cycle == cycles:
			runtime.ReadMemStats(&after)
		case cycle > cycles:
			return segment.Kill
		}
		if cycle%3 == 0 { // some cycles find nothing, and losses are marked now and then
			l.ring.frames = store[:]
		}
		if cycle%1000 == 0 {
			l.lost.Add(1)
		}
		return segment.Go
	})
	// The runtime's own goroutines allocate now and then; the loop would in every cycle.
	if n := after.Mallocs - before.Mallocs; n > cycles/100 {
		t.Errorf("%d allocations in %d cycles", n, cycles)
	}
}
