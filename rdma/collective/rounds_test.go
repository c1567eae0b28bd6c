package collective_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/headrace/headrace/rdma/collective"
)

const (
	dense  = collective.Dense
	sparse = collective.Sparse

	complete  = collective.Complete
	committed = collective.Committed
	heard     = collective.Heard
)

// call is one call of a method of Rounds, and what it should answer.
type call struct {
	do   string // begin, arrived, have
	src  int
	n    uint64
	kind collective.Kind
	want collective.Progress
	err  error
}

func begin(n uint64, kind collective.Kind, want collective.Progress) call {
	return call{do: "begin", n: n, kind: kind, want: want}
}

func arrived(src int, n uint64, kind collective.Kind, want collective.Progress) call {
	return call{do: "arrived", src: src, n: n, kind: kind, want: want}
}

// have is for round 1.
func have(src int, want collective.Progress) call {
	return call{do: "have", src: src, n: 1, want: want}
}

func (c call) but(err error) call {
	c.err = err
	return c
}

func (c call) on(r *collective.Rounds) (got collective.Progress, err error) {
	switch c.do {
	case "begin":
		var n uint64
		if n, got, err = r.Begin(c.kind); err == nil && n != c.n {
			err = fmt.Errorf("it is round %d", n)
		}
	case "arrived":
		got, err = r.Arrived(c.src, c.n, c.kind)
	case "have":
		got, err = r.Have(c.src, c.n)
	}
	return got, err
}

func TestRounds(t *testing.T) {
	three := collective.Of(0, 1, 2) // we are 1
	for _, c := range []struct {
		name    string
		members collective.Set
		calls   []call
		waiting collective.Set // in the end
		done    uint64
	}{
		{"nothing has begun", three, nil, 0, 0},
		{"a round that is begun waits for all others", three, []call{
			begin(1, dense, 0),
		}, collective.Of(0, 2), 0},
		{"a dense round is complete when all contributions are here", three, []call{
			begin(1, dense, 0), arrived(2, 1, dense, 0), arrived(0, 1, dense, complete),
		}, 0, 1},
		{"a round that others begin is not complete without us", three, []call{
			arrived(0, 1, dense, heard), arrived(2, 1, dense, heard),
		}, 0, 0},
		{"the last to begin has everything at once", three, []call{
			arrived(0, 1, dense, heard), arrived(2, 1, dense, heard), begin(1, dense, complete),
		}, 0, 1},
		{"a sparse round is committed when all have it", three, []call{
			begin(1, sparse, 0), arrived(0, 1, sparse, 0), have(0, 0), arrived(2, 1, sparse, complete),
			have(2, committed),
		}, 0, 1},
		{"a sparse round that is complete waits for those that have not said so", three, []call{
			begin(1, sparse, 0), arrived(0, 1, sparse, 0), arrived(2, 1, sparse, complete), have(2, 0),
		}, collective.Of(0), 1},
		{"that all others have it does not make it complete here", three, []call{
			begin(1, sparse, 0), arrived(0, 1, sparse, 0), have(0, 0),
		}, collective.Of(2), 0},
		{"who begins the next round has this one", three, []call{
			begin(1, sparse, 0), arrived(0, 1, sparse, 0), arrived(2, 1, sparse, complete), have(2, 0),
			arrived(0, 2, dense, heard|committed),
		}, 0, 1},
		{"the next dense round is heard while this one is in hand", three, []call{
			begin(1, dense, 0), arrived(0, 1, dense, 0), arrived(0, 2, sparse, heard), arrived(2, 1, dense, complete),
			begin(2, sparse, 0), arrived(2, 2, sparse, complete),
		}, collective.Of(0, 2), 2},
		{"a group of one", collective.Of(1), []call{
			begin(1, dense, complete), begin(2, sparse, complete|committed), begin(3, sparse, complete|committed),
		}, 0, 3},
		{"to have something twice does no harm", three, []call{
			begin(1, sparse, 0), arrived(0, 1, sparse, 0), have(0, 0), have(0, 0), arrived(2, 1, sparse, complete),
			have(2, committed), have(2, 0), begin(2, dense, 0), have(0, 0),
		}, collective.Of(0, 2), 1},

		{"no next round before a dense one is complete", three, []call{
			begin(1, dense, 0), begin(2, dense, 0).but(collective.ErrRound),
		}, collective.Of(0, 2), 0},
		{"no next round before a sparse one is committed", three, []call{
			begin(1, sparse, 0), arrived(0, 1, sparse, 0), arrived(2, 1, sparse, complete),
			begin(2, sparse, 0).but(collective.ErrRound),
		}, collective.Of(0, 2), 1},
		{"a contribution twice", three, []call{
			begin(1, dense, 0), arrived(0, 1, dense, 0), arrived(0, 1, dense, 0).but(collective.ErrRound),
		}, collective.Of(2), 0},
		{"the next round before this one", three, []call{
			begin(1, dense, 0), arrived(0, 2, dense, 0).but(collective.ErrRound),
		}, collective.Of(0, 2), 0},
		{"the next round before we have a sparse one", three, []call{
			begin(1, sparse, 0), arrived(0, 1, sparse, 0), arrived(0, 2, sparse, 0).but(collective.ErrRound),
		}, collective.Of(2), 0},
		{"two rounds ahead", three, []call{arrived(0, 2, dense, 0).but(collective.ErrRound)}, 0, 0},
		{"round 0", three, []call{arrived(0, 0, dense, 0).but(collective.ErrRound)}, 0, 0},
		{"a round that is over", three, []call{
			begin(1, dense, 0), arrived(0, 1, dense, 0), arrived(2, 1, dense, complete), begin(2, dense, 0),
			arrived(0, 1, dense, 0).but(collective.ErrRound),
		}, collective.Of(0, 2), 1},
		{"a round that we have not begun is not had", three, []call{have(0, 0).but(collective.ErrRound)}, 0, 0},
		{"had by one who has not contributed", three, []call{
			begin(1, sparse, 0), have(0, 0).but(collective.ErrRound),
		}, collective.Of(0, 2), 0},
		{"a stranger", three, []call{
			begin(1, dense, 0), arrived(3, 1, dense, 0).but(collective.ErrRound), have(3, 0).but(collective.ErrRound),
		}, collective.Of(0, 2), 0},
		{"from ourselves", three, []call{begin(1, dense, 0), arrived(1, 1, dense, 0).but(collective.ErrRound)}, collective.Of(0, 2), 0},
		{"another kind than ours", three, []call{
			begin(1, dense, 0), arrived(0, 1, sparse, 0).but(collective.ErrKind),
		}, collective.Of(0, 2), 0},
		{"another kind than theirs", three, []call{
			arrived(0, 1, sparse, heard), begin(1, dense, 0).but(collective.ErrKind),
		}, 0, 0},
		{"two others of different kinds", three, []call{
			arrived(0, 1, sparse, heard), arrived(2, 1, dense, 0).but(collective.ErrKind),
		}, 0, 0},
		{"a dense round is not had", three, []call{
			begin(1, dense, 0), arrived(0, 1, dense, 0), have(0, 0).but(collective.ErrKind),
		}, collective.Of(2), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := collective.NewRounds(1, c.members)
			for i, call := range c.calls {
				got, err := call.on(r)
				if got != call.want || !errors.Is(err, call.err) || call.err == nil && err != nil {
					t.Fatalf("call %d, %+v = %b, %v", i, call, got, err)
				}
			}
			if got := r.Waiting(); got != c.waiting {
				t.Errorf("Waiting() = %b, want %b", got, c.waiting)
			}
			if got, _ := r.Completed(); got != c.done {
				t.Errorf("Completed() = %d, want %d", got, c.done)
			}
		})
	}
}

func TestWedgedRoundsStayAsTheyAre(t *testing.T) {
	r := collective.NewRounds(0, collective.Of(0, 1))
	_, _, _ = r.Begin(dense)
	r.Wedge()
	if p, err := r.Arrived(1, 1, dense); p != 0 || err != nil {
		t.Errorf("Arrived = %b, %v, want nothing", p, err)
	}
	if p, err := r.Have(1, 1); p != 0 || err != nil {
		t.Errorf("Have = %b, %v, want nothing", p, err)
	}
	if _, _, err := r.Begin(dense); !errors.Is(err, collective.ErrWedged) {
		t.Errorf("Begin = %v, want %v", err, collective.ErrWedged)
	}
	if n, _ := r.Completed(); n != 0 || r.Round() != 1 {
		t.Errorf("round %d is complete, %d in hand", n, r.Round())
	}
	r.Reset(1, collective.Of(1))
	if n, p, err := r.Begin(sparse); n != 1 || p != complete|committed || err != nil {
		t.Errorf("after Reset, Begin = %d, %b, %v", n, p, err)
	}
	var zero collective.Rounds
	if _, _, err := zero.Begin(dense); !errors.Is(err, collective.ErrWedged) {
		t.Errorf("the zero value: Begin = %v, want %v", err, collective.ErrWedged)
	}
}

// cycle is a round of each kind among the given members, all others being quicker.
func cycle(r *collective.Rounds, members collective.Set) {
	for _, kind := range [...]collective.Kind{dense, sparse} {
		n, _, _ := r.Begin(kind)
		for p := range members.Without(0).All {
			_, _ = r.Arrived(p, n, kind)
		}
		if kind == sparse {
			for p := range members.Without(0).All {
				_, _ = r.Have(p, n)
			}
		}
	}
}

func TestRoundsDoNotAllocate(t *testing.T) {
	members := collective.First(9)
	r := collective.NewRounds(0, members)
	if n := testing.AllocsPerRun(100, func() { cycle(r, members) }); n != 0 {
		t.Errorf("%v allocations in two rounds, want 0", n)
	}
	if n, _ := r.Completed(); n != 202 {
		t.Errorf("%d rounds are complete, want 202", n)
	}
	if n := testing.AllocsPerRun(100, func() { r.Reset(0, members) }); n != 0 {
		t.Errorf("%v allocations in Reset, want 0", n)
	}
}

func BenchmarkRounds(b *testing.B) {
	for _, peers := range []int{2, 4, 9} {
		b.Run(fmt.Sprintf("peers=%d", peers), func(b *testing.B) {
			members := collective.First(peers)
			r := collective.NewRounds(0, members)
			b.ReportAllocs()
			for b.Loop() {
				cycle(r, members)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/round")
		})
	}
}
