package collective

import (
	"flag"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var seedFlag = flag.Uint64("seed", 0, "run this schedule only, and tell it")

type total struct {
	rounds, epochs int
	met            [metCount]int
}

// schedules runs schedules 1 to n and returns the first that goes wrong.
func schedules(n uint64, prepare func(*simulation)) (wrong error, sum total) {
	var next atomic.Uint64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1)
				if seed > n {
					return
				}
				s := newSimulation(seed)
				prepare(s)
				err := s.run()
				mu.Lock()
				if err != nil && wrong == nil {
					wrong = err
					next.Store(n)
				}
				sum.rounds += s.rounds
				sum.epochs += len(s.opened)
				for i, n := range s.met {
					sum.met[i] += n
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return wrong, sum
}

// Whatever fails, members agree on what counts and what it comes to, nothing counts
// twice, what was used stays, a minority has no epoch, and when all is whole again
// everybody is back.
func TestSchedules(t *testing.T) {
	if *seedFlag != 0 {
		s := newSimulation(*seedFlag)
		s.trace = new(strings.Builder)
		err := s.run()
		t.Logf("%+v\n%s", s.quorum, s.trace)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	n := uint64(2000)
	if os.Getenv("HEADRACE_LONG") != "" {
		n = 50_000
	}
	wrong, sum := schedules(n, func(*simulation) {})
	if wrong != nil {
		t.Fatalf("%v; -seed tells the schedule", wrong)
	}
	for i, met := range sum.met {
		if met == 0 {
			t.Errorf("no schedule has met %d", i)
		}
	}
	t.Logf("schedules 1 to %d: %d epochs, %d results; %d taken, %d stand, %d again, %d lost, %d unsaid, %d from nothing",
		n, sum.epochs, sum.rounds, sum.met[metTake], sum.met[metStands], sum.met[metAgain], sum.met[metLost],
		sum.met[metUnsaid], sum.met[metNothing])
}

// A wrong implementation does not come through.
func TestFlawsAreFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		among uint64
		flaw  func(*simulation)
	}{
		{"a round is complete when its own contribution was acknowledged", 100, func(s *simulation) { s.acks = true }},
		{"a sparse round counts if anybody has it", 2000, func(s *simulation) { s.flaw = flawTrimMax }},
		{"accepted steps are forgotten", 2000, func(s *simulation) { s.flaw = flawForget }},
	} {
		t.Run(c.name, func(t *testing.T) {
			wrong, _ := schedules(c.among, c.flaw)
			if wrong == nil {
				t.Fatalf("not found in %d schedules", c.among)
			}
			t.Log(wrong)
		})
	}
}
