package proc

import (
	"errors"
	"io"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/xsk"
)

// formerPlan counts records by a number.
func formerPlan(workers int) *plan.Plan {
	column := func(name string, offset int) plan.Column {
		return plan.Column{Name: name, Type: event.Int64, Offset: offset, Width: 8}
	}
	return &plan.Plan{
		Version: plan.Version, Workers: workers, WorkersMax: 2, Batch: event.BatchMax, OutboxBytes: 1 << 16, LaneBytes: 1 << 16, Flush: true,
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

// idle is a port without frames.
type idle struct{ dataplane.Nothing }

func (idle) InRing() int              { return 0 }
func (idle) Wait(time.Duration) error { return nil }

// heldWorker lets a worker live until it is held, and returns its region.
func heldWorker(t *testing.T, p *plan.Plan) *arena.Region {
	t.Helper()
	s, err := segment.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	region, err := arena.New("test", 1<<36)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(s.Close(), region.Close()) })
	owner := steer.OwnerTable(1)
	w, err := dataplane.NewWorker(dataplane.Config{Plan: p, Segment: s.Worker(0), Region: region, Owner: &owner, Rollback: true, Receiver: idle{}})
	if err != nil {
		t.Fatal(err)
	}
	number := s.SetHold(segment.Hold, 0)
	done := make(chan struct{})
	var stop atomic.Bool
	var lost atomic.Uint64
	go func() {
		defer close(done)
		w.Live(dataplane.Live{Port: idle{}, Counters: &xsk.Counters{}, Mailbox: s, Clock: monotonic(), Stop: &stop, Lost: &lost})
	}()
	for end := time.Now().Add(10 * time.Second); s.Worker(0).State() != segment.Held || s.Worker(0).HeldFor() != number; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to be held")
		}
	}
	s.SetCommand(segment.Kill)
	<-done
	return region
}

// follower is a process that is asked whether it could go on with a worker's state.
func follower(t *testing.T, old *plan.Plan, region *arena.Region, next *plan.Plan) *process {
	t.Helper()
	common, err := arena.New("test", 1<<30)
	if err == nil {
		_, err = dataplane.NewJournal(common, old)
	}
	if err == nil {
		err = common.Complete(dataplane.StateVersion)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = common.Close() })
	p := &process{plan: next, start: handover.StartBody{
		Plan: next, Kept: &handover.KeptBody{}, Try: true,
		From: &handover.FromBody{Plan: old, Regions: 1, Feeds: []int{0}, Queries: []int{0}},
	}}
	for _, r := range []*arena.Region{region, common} {
		fd, err := unix.Dup(r.FD())
		if err != nil {
			t.Fatal(err)
		}
		p.parts.former = append(p.parts.former, fd)
	}
	return p
}

func TestATrialSaysWhetherAnotherPlanTakesTheStateOver(t *testing.T) {
	old := formerPlan(1)
	region := heldWorker(t, old)
	p := follower(t, old, region, formerPlan(2))
	if err := p.try(); err != nil || !p.ready.Warm {
		t.Errorf("try = %v, warm is %v", err, p.ready.Warm)
	}
	other := formerPlan(2)
	other.Queries[0].Width *= 2
	if err := follower(t, old, region, other).try(); err == nil {
		t.Error("windows of another width take the state over")
	}
	empty, err := arena.New("test", 1<<36)
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	if err := follower(t, old, empty, formerPlan(2)).try(); !errors.Is(err, arena.ErrLayout) {
		t.Errorf("try of nothing = %v", err)
	}
}

// The process before ends when, and only when, there is one that needs nobody else.
func TestTheProcessBeforeEndsOnceNothingIsMissing(t *testing.T) {
	for _, c := range []struct {
		name string
		keep bool
	}{{"control dies before it has given everything", false}, {"everything is there", true}} {
		t.Run(c.name, func(t *testing.T) {
			before := exec.Command("sleep", "60")
			if err := before.Start(); err != nil {
				t.Fatal(err)
			}
			gone := make(chan error, 1)
			go func() { gone <- before.Wait() }()
			defer func() { _ = before.Process.Kill() }()
			pidfd, err := unix.PidfdOpen(before.Process.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			control, end, err := handover.Pair()
			if err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Dup(int(end.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			if err := end.Close(); err != nil {
				t.Fatal(err)
			}
			p := &process{conn: handover.New(fd), clock: monotonic(), pidfd: pidfd, start: handover.StartBody{Former: true}}
			if c.keep {
				if err := control.Send(handover.Keep, handover.KeepBody{Description: []byte(`"all"`)}, nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := control.Close(); err != nil {
				t.Fatal(err)
			}
			if err := p.succeed(); c.keep != (err == nil) || !c.keep && !errors.Is(err, io.EOF) {
				t.Errorf("succeed: %v", err)
			}
			if (string(p.about) == `"all"`) != c.keep || p.hasKept != c.keep {
				t.Errorf("it keeps %q", p.about)
			}
			if !c.keep {
				select {
				case err := <-gone:
					t.Errorf("it ended: %v", err)
				case <-time.After(50 * time.Millisecond):
				}
				return
			}
			select {
			case <-gone:
			case <-time.After(5 * time.Second):
				t.Error("it still runs")
			}
		})
	}
}
