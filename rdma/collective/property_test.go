package collective

import (
	"flag"
	"math/rand/v2"
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
func schedules(n uint64, prepare func(*simulation)) (sum total, wrong error) {
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
	return sum, wrong
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
	sum, wrong := schedules(n, func(*simulation) {})
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

// A peer that was started anew after its clock was set back has ballots below those of
// its earlier life, and must not take them for its own: it remembers nothing of them.
func TestAnEarlierLifesEpochIsNotOursThoughItsNumberIsHigher(t *testing.T) {
	m := New(Config{Me: 1, Quorum: Quorum{Peers: 3, TieBreaker: -1}, Counter: 5<<lifeBits + 3})
	for _, c := range []struct {
		what          string
		counter, life uint64
		by            uint64
		ours          bool
	}{
		{"of this life", 7, 3, 1, true},
		{"of an earlier life", 7, 2, 1, false},
		{"from before this life", 4, 3, 1, false},
		{"of another peer", 7, 3, 2, false},
	} {
		if got := m.ours((c.counter<<lifeBits+c.life)<<peerBits + c.by); got != c.ours {
			t.Errorf("an epoch %s: ours = %v", c.what, got)
		}
	}
}

// No message, however wrong, does harm to the machine itself.
func TestNonsense(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	set := func() Set { return Set(rng.Uint32N(16)) }
	number := func() uint64 { return rng.Uint64N(3)<<(peerBits+lifeBits) | rng.Uint64N(4) }
	for range 300 {
		m := New(Config{Me: rng.IntN(3), Quorum: Quorum{Peers: 3, TieBreaker: -1}})
		for range 200 {
			msg := Message{
				Kind: MessageKind(rng.Uint32N(12)), Ballot: number(), Promised: number(), Epoch: number(),
				Round: rng.Uint64N(4), RoundKind: Kind(rng.Uint32N(4)), Members: set(), Contributors: set(),
				Offers: make([][]byte, rng.IntN(5)), Steps: make([]Step, rng.IntN(4)),
			}
			for i := range msg.Steps {
				msg.Steps[i] = Step{number(), set(), number(), rng.Uint64N(3), set(), set()}
			}
			var out []Effect
			switch rng.IntN(6) {
			case 0:
				out = m.Hear(rng.IntN(5)-1, set(), nil)
			case 1:
				out = m.Timeout(nil)
			case 2:
				out = m.Offer(m.promised, msg.Offers, nil)
			default:
				out = m.Receive(rng.IntN(5)-1, &msg, nil)
			}
			for _, e := range out {
				if e.Kind == Send && (e.To == m.config.Me || e.To < 0 || e.To >= 3) {
					t.Fatalf("%v %v to %d", e.Kind, e.Message.Kind, e.To)
				}
			}
		}
		if m.Malformed() == 0 {
			t.Error("nothing was counted as malformed")
		}
	}
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
		{"a peer that was started anew counts among those that remember", 2000, func(s *simulation) { s.flaw = flawTrust }},
		{"a peer's ballots begin at zero in every life", 2000, func(s *simulation) { s.zero = true }},
		{"accepted steps are forgotten", 2000, func(s *simulation) { s.flaw = flawForget }},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, wrong := schedules(c.among, c.flaw)
			if wrong == nil {
				t.Fatalf("not found in %d schedules", c.among)
			}
			t.Log(wrong)
		})
	}
}
