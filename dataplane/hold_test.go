package dataplane

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/xsk"
)

// Workers on threads of their own get to a hold, nothing of them changes in it, groups
// move, and they go on.
func TestWorkersOnThreadsAreHeldAndGoOn(t *testing.T) {
	if testing.Short() {
		t.Skip("also for the race detector, which does not see the memory by which the threads talk")
	}
	p := crashPlan(3)
	x := newPlant(t, p, crashFrames(t, p, 600))
	x.start()
	var stop atomic.Bool
	var lost atomic.Uint64
	var threads sync.WaitGroup
	begin := time.Now()
	for x.tick() { // all at once: which events are late is another matter
	}
	for _, w := range x.workers {
		threads.Go(func() {
			w.Live(Live{
				Port: w.receiver.(*tap), Counters: &xsk.Counters{}, Mailbox: x.segment, Stop: &stop, Lost: &lost, Idle: xsk.Idle{Adaptive: true},
				Clock: func() event.Nanos { return event.Nanos(time.Since(begin)) },
			})
		})
	}
	wait := func(what string, done func() bool) {
		t.Helper()
		for until := time.Now().Add(20 * time.Second); !done(); x.read() {
			if time.Now().After(until) {
				stop.Store(true)
				t.Fatalf("not %s after 20 s", what)
			}
			time.Sleep(time.Millisecond)
		}
	}
	moved := 0
	for round := range 10 {
		number := x.segment.SetHold([]segment.Command{segment.Hold, segment.HoldPast}[round%2], segment.AllWorkers)
		for i := range x.workers {
			wait("held", func() bool {
				s := x.segment.Worker(i)
				return s.State() == segment.Held && s.HeldFor() == number
			})
		}
		var groups []int
		for g := range 40 {
			groups = append(groups, (round*101+g)%event.GroupCount)
		}
		n, err := x.journal.Move(x.workers, groups, round%3)
		if err != nil {
			t.Fatal(err)
		}
		moved += n
		x.segment.SetCommand(segment.Go)
		wait("running", func() bool { return x.segment.Worker(0).State() == segment.Running })
	}
	x.segment.SetCommand(segment.Drain)
	for i := range x.workers {
		wait("done", func() bool { return x.segment.Worker(i).State() == segment.Done })
	}
	threads.Wait()
	x.read()
	sum := segment.NewCounters(p)
	for i := range x.workers {
		c := segment.NewCounters(p)
		if err := x.segment.Worker(i).Read(c); err != nil {
			t.Fatal(err)
		}
		segment.Add(sum, c)
	}
	balance(t, sum)
	if sum.Worker.Frames != 600*uint64(len(crashFormats)) || moved < 400 {
		t.Errorf("%d frames, %d groups moved", sum.Worker.Frames, moved)
	}
}
