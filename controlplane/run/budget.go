package run

import (
	"fmt"
	"time"

	"github.com/headrace/headrace/controlplane/status"
)

// takeoverTakes is what a takeover is expected to take before there has been one.
const takeoverTakes = 100 * time.Millisecond

// A budget is how long the rings could hold what comes, with nobody there.
type budget struct {
	at     time.Time
	frames []uint64 // by worker
	rate   float64  // the most that a worker got in a second, of late
	free   float64  // frames that one ring of that worker has room for
}

// rateFades is how much of a rate is left after a second in which less came.
const rateFades = 0.8

// look takes the figures of now. It is called about once a second.
func (b *budget) look(g *generation, workers int) {
	now := time.Now()
	first := len(b.frames) != workers
	if first {
		b.frames = make([]uint64, workers)
	}
	most := 0.0
	for w := range b.frames {
		n := g.segment.Worker(w).Frames()
		if !first && n >= b.frames[w] {
			most = max(most, float64(n-b.frames[w])/now.Sub(b.at).Seconds())
		}
		b.frames[w] = n
	}
	b.at = now
	// All may come by one queue: then one ring has to hold it.
	b.rate, b.free = max(most, b.rate*rateFades), float64(g.layout.Sizes.RxRing)
	if b.rate < 1 {
		b.rate = 0
	}
}

// holds returns how long the rings hold what comes; 0 if nothing does.
func (b *budget) holds() time.Duration {
	if b.rate == 0 {
		return 0
	}
	return time.Duration(b.free / b.rate * float64(time.Second))
}

// affordable returns an error if the rings would overflow while one process takes over
// from another.
func (r *control) affordable() error {
	takes := max(r.g.lives.pause, takeoverTakes)
	if holds := r.budget.holds(); holds > 0 && holds < takes {
		return fmt.Errorf("a takeover takes about %v and at %.0f frames/s the rings hold %v: frames would be lost; wait for a quieter time, or give the interface a larger rx_ring",
			takes.Round(time.Millisecond), r.budget.rate, holds.Round(time.Millisecond))
	}
	return nil
}

// showContinuity renews what is shown. The control's own goroutine calls it.
func (r *control) showContinuity(g *generation) {
	if g.stock == nil {
		r.shown.Store(nil)
		return
	}
	c := &status.Continuity{Pause: g.lives.pause, Budget: r.budget.holds(), Rate: r.budget.rate}
	c.Takeovers, c.Poison = r.figures.source.Takeovers()
	c.PoisonFile = r.poison
	if r.down != nil {
		c.State = "the data plane is down: " + r.down.Error()
	}
	r.shown.Store(c)
}
