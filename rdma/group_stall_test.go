package rdma_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

// A member that is heard and begins no rounds holds the others up for a while and not
// for ever: whether it still agrees on epochs, or does nothing at all.
func TestAMemberThatBeginsNoRoundsIsLeftOut(t *testing.T) {
	for name, agrees := range map[string]bool{"agrees": true, "does nothing": false} {
		t.Run(name, func(t *testing.T) {
			c := newCrowd(t, 4, "loop", func(g *rdma.GroupConfig) { g.Stall = 3 * testPeriod })
			c.joinAll()
			const stuck, least = 2, 50
			var rounds, alone atomic.Int32 // counted by peer 0; without the one that is stuck
			var over atomic.Bool
			var stalls uint64
			blame := func() { // before peers end, one after the other
				for _, p := range []int{0, 1, 3} {
					stalls += c.groups[p].Stats().Peers[stuck].Stalls
					for _, q := range []int{0, 1, 3} {
						if n := c.groups[p].Stats().Peers[q].Stalls; n != 0 {
							t.Errorf("peer %d left out peer %d, which was not to blame, %d times", p, q, n)
						}
					}
				}
			}
			began := time.Now()
			c.each(func(p int, g *rdma.Group) {
				if p == stuck {
					for !over.Load() {
						if agrees {
							g.Wait(2 * time.Millisecond)
							g.Epoch()
						} else {
							time.Sleep(time.Millisecond)
						}
					}
				}
				v := make([]byte, 8)
				for back := false; v[0] == 0; { // all end with the round in which peer 0 says so
					if clear(v); back {
						v[0] = 1
					}
					g.Epoch()
					r, err := g.AllReduce(rdma.SumInt64, v)
					if err != nil {
						clear(v)
						g.Wait(2 * time.Millisecond)
						continue
					}
					if p != 0 || back {
						continue
					}
					rounds.Add(1)
					if r.Contributors == collective.Of(0, 1, 3) && alone.Add(1) == least {
						t.Logf("%d rounds without it %v after the start", least, time.Since(began))
						over.Store(true)
					}
					if over.Load() && r.Contributors == collective.First(4) {
						t.Logf("all are back %v after the start", time.Since(began))
						blame()
						back = true
					}
				}
			})
			if alone.Load() < least || stalls == 0 {
				t.Errorf("%d rounds without it; it was left out %d times", alone.Load(), stalls)
			}
		})
	}
}
