package rdma_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

var transportNames = []string{"loop", "tcp"}

// vector is what a peer contributes, known to all.
func vector(peer, round, n int) []byte {
	return rdma.CarryRich(rand.New(rand.NewPCG(uint64(peer), uint64(round))), n)
}

// fold is the definition of a result: the contributors' vectors, in their order.
func fold(op rdma.Op, contributors collective.Set, round, n int) []byte {
	foldsMu.Lock()
	defer foldsMu.Unlock()
	key := [4]int{int(op), int(contributors), round, n}
	v, ok := folds[key]
	if !ok {
		v = foldAnew(op, contributors, round, n)
		if n > 1000 {
			clear(folds) // peers ask for the same one at about the same time
		}
		folds[key] = v
	}
	return v
}

var (
	foldsMu sync.Mutex
	folds   = map[[4]int][]byte{}
)

func foldAnew(op rdma.Op, contributors collective.Set, round, n int) (v []byte) {
	for p := range contributors.All {
		w := vector(p, round, n)
		switch {
		case v == nil:
			v = w
		case op == rdma.AffineOp:
			rdma.Affine(v, w)
		default:
			v = rdma.Naive(op, v, w)
		}
	}
	return v
}

func TestEveryOpAtEverySizeOfGroup(t *testing.T) {
	for _, transport := range transportNames {
		for peers := 1; peers <= 6; peers++ {
			for _, crossover := range []int{-1, 200} {
				t.Run(fmt.Sprintf("%s/%d/%d", transport, peers, crossover), func(t *testing.T) {
					c := newCrowd(t, peers, transport, func(g *rdma.GroupConfig) { g.Crossover = crossover })
					c.joinAll()
					c.each(func(p int, g *rdma.Group) {
						rounds := 0
						for _, op := range append([]rdma.Op{rdma.AffineOp}, rdma.AllOps...) {
							for _, elements := range []int{0, 1, 13, 300} {
								rounds++
								if !oneRound(t, g, p, op, rounds, elements*rdma.ElementBytes(op), collective.First(peers)) {
									return
								}
							}
						}
						for _, op := range []rdma.Op{rdma.SumInt64, rdma.AffineOp, rdma.SumBins(3)} {
							rounds++
							n := (3*rdma.FrameMax + 1000) / rdma.ElementBytes(op) * rdma.ElementBytes(op)
							if !oneRound(t, g, p, op, rounds, n, collective.First(peers)) {
								return
							}
						}
						if s := g.Stats(); s.RoundsComplete != uint64(rounds) || s.RoundsRerun != 0 {
							t.Errorf("%d rounds complete and %d again, want %d and 0", s.RoundsComplete, s.RoundsRerun, rounds)
						}
					})
				})
			}
		}
	}
}

func oneRound(t *testing.T, g *rdma.Group, p int, op rdma.Op, round, n int, members collective.Set) bool {
	t.Helper()
	v := vector(p, round, n)
	r, err := g.AllReduce(op, v)
	if err != nil || r.Contributors != members || r.Round != uint64(round) {
		t.Errorf("peer %d, round %d: %v of %d bytes: %+v, %v", p, round, op, n, r, err)
		return false
	}
	if want := fold(op, members, round, n); !bytes.Equal(v, want) {
		t.Errorf("peer %d, round %d: %v of %d bytes differs from the fold", p, round, op, n)
		return false
	}
	return true
}

// part is what a peer gives to another in a round of an Exchange, from nothing to
// several frames; a header is what it gives to all.
func part(from, to, round int) []byte {
	r := rand.New(rand.NewPCG(uint64(from*100+to), uint64(round)))
	n := []int{0, 1, 100, 5000, rdma.FrameMax, 200_000}[r.IntN(6)]
	return rdma.CarryRich(r, n/2+r.IntN(n/2+1))
}

func header(from, round int) []byte { return part(from, 99, round) }

func exchange(g *rdma.Group, p, peers, round int) (*rdma.Gathered, error) {
	parts := make([][]byte, peers)
	for q := range g.Epoch().Members.All {
		parts[q] = part(p, q, round)
	}
	return g.Exchange(header(p, round), parts)
}

func rightGathered(t *testing.T, g *rdma.Gathered, p, round int) {
	t.Helper()
	var from collective.Set
	for _, m := range g.From {
		from = from.With(m.Peer)
		if !bytes.Equal(m.Header, header(m.Peer, round)) || !bytes.Equal(m.Body, part(m.Peer, p, round)) {
			t.Errorf("peer %d, round %d: what %d gave is not what it gave", p, round, m.Peer)
		}
	}
	if from != g.Epoch.Members {
		t.Errorf("peer %d, round %d: from %b of %b", p, round, from, g.Epoch.Members)
	}
}

func TestExchangeGivesEveryoneItsPart(t *testing.T) {
	for _, transport := range transportNames {
		for peers := 1; peers <= 5; peers++ {
			t.Run(fmt.Sprintf("%s/%d", transport, peers), func(t *testing.T) {
				c := newCrowd(t, peers, transport, nil)
				c.joinAll()
				c.each(func(p int, g *rdma.Group) {
					pause := rand.New(rand.NewPCG(5, uint64(p)))
					for round := 1; round <= 20; round++ {
						if pause.IntN(4) == 0 {
							time.Sleep(time.Duration(pause.IntN(3)) * time.Millisecond)
						}
						o, err := exchange(g, p, peers, round)
						if err != nil {
							t.Errorf("peer %d, round %d: %v", p, round, err)
							return
						}
						rightGathered(t, o, p, round)
						if round%5 == 0 { // the kinds take turns
							v := vector(p, round, 1000*8)
							if _, err := g.AllReduce(rdma.SumInt64, v); err != nil || !bytes.Equal(v, fold(rdma.SumInt64, o.Epoch.Members, round, 8000)) {
								t.Errorf("peer %d, after round %d: %v", p, round, err)
								return
							}
						}
					}
				})
			})
		}
	}
}

func TestWaitTellsOfARoundThatAnotherHasBegun(t *testing.T) {
	c := newCrowd(t, 2, "tcp", nil)
	c.joinAll()
	c.each(func(p int, g *rdma.Group) {
		v := vector(p, 1, 8)
		if p == 1 {
			for until := time.Now().Add(5 * time.Second); g.Wait(time.Second)&rdma.NewsRound == 0; {
				if time.Now().After(until) {
					t.Error("no word of round 1")
					return
				}
			}
		}
		if _, err := g.AllReduce(rdma.SumInt64, v); err != nil || !bytes.Equal(v, fold(rdma.SumInt64, 3, 1, 8)) {
			t.Errorf("peer %d: %v", p, err)
		}
	})
}

func TestWakeWakes(t *testing.T) {
	c := newCrowd(t, 1, "loop", nil)
	c.joinAll()
	go func() { time.Sleep(10 * time.Millisecond); c.groups[0].Wake() }()
	began := time.Now()
	for c.groups[0].Wait(20*time.Second)&rdma.NewsWoken == 0 {
	}
	if time.Since(began) > 10*time.Second {
		t.Error("Wait slept on")
	}
}

func TestDifferentOpsAreFoundOut(t *testing.T) {
	for _, c := range []struct {
		name string
		call func(p int, g *rdma.Group) error
	}{
		{"another op", func(p int, g *rdma.Group) error {
			_, err := g.AllReduce([]rdma.Op{rdma.SumInt64, rdma.MaxInt64}[p], make([]byte, 8))
			return err
		}},
		{"another length", func(p int, g *rdma.Group) error {
			_, err := g.AllReduce(rdma.SumInt64, make([]byte, 8+8*p))
			return err
		}},
		{"another kind", func(p int, g *rdma.Group) (err error) {
			if p == 0 {
				_, err = g.AllReduce(rdma.SumInt64, make([]byte, 8))
			} else {
				_, err = g.Exchange(nil, nil)
			}
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newCrowd(t, 2, "loop", nil)
			w.joinAll()
			errs := make([]error, 2)
			w.each(func(p int, g *rdma.Group) { errs[p] = c.call(p, g) })
			for _, err := range errs {
				if !errors.Is(err, rdma.ErrOp) && !errors.Is(err, rdma.ErrAgain) {
					t.Errorf("%v, want ErrOp or ErrAgain", err)
				}
			}
			if !errors.Is(errors.Join(errs...), rdma.ErrOp) {
				t.Errorf("nobody says ErrOp: %v", errs)
			}
			w.joinAll()
			w.each(func(p int, g *rdma.Group) { oneRound(t, g, p, rdma.SumInt64, 1, 8, 3) })
		})
	}
}

func TestWhatCannotBeIsRefusedBeforeItIsSent(t *testing.T) {
	c := newCrowd(t, 2, "loop", func(g *rdma.GroupConfig) { g.ContributionMax = 1000 })
	g := c.groups[0]
	if _, err := g.AllReduce(rdma.SumInt64, make([]byte, 8)); !errors.Is(err, rdma.ErrNoEpoch) {
		t.Errorf("without an epoch: %v", err)
	}
	c.joinAll()
	for _, call := range []struct {
		name string
		want error
		call func() error
	}{
		{"half an element", rdma.ErrOp, func() error { _, err := g.AllReduce(rdma.SumInt64, make([]byte, 12)); return err }},
		{"an op that is not there", rdma.ErrOpUnknown, func() error { _, err := g.AllReduce(rdma.Op(0), nil); return err }},
		{"too long a vector", rdma.ErrTooLarge, func() error { _, err := g.AllReduce(rdma.SumInt64, make([]byte, 1008)); return err }},
		{"too long a part", rdma.ErrTooLarge, func() error { _, err := g.Exchange(nil, [][]byte{nil, make([]byte, 1000)}); return err }},
	} {
		if err := call.call(); !errors.Is(err, call.want) {
			t.Errorf("%s: %v, want %v", call.name, err, call.want)
		}
	}
	c.each(func(p int, g *rdma.Group) { oneRound(t, g, p, rdma.SumInt64, 1, 8, 3) })
	_ = g.Close()
	if _, err := g.Exchange(nil, nil); !errors.Is(err, rdma.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
