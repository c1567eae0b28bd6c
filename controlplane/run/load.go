package run

import (
	"slices"
	"time"

	"github.com/headrace/headrace/dataplane/event"
)

// A load is how much each worker has had to do of late.
type load struct {
	busy  []float64 // by worker: cycles with work, of all, since the last look
	seen  [][2]uint64
	since time.Time
}

// look takes the figures of now.
func (l *load) look(counts [][2]uint64) {
	if len(l.seen) != len(counts) {
		l.seen, l.busy, l.since = counts, nil, time.Now()
		return
	}
	if time.Since(l.since) < loadOver {
		return
	}
	l.busy = l.busy[:0]
	for w := range counts {
		cycles, busy := counts[w][0]-l.seen[w][0], counts[w][1]-l.seen[w][1]
		l.busy = append(l.busy, float64(busy)/float64(max(cycles, 1)))
	}
	l.seen, l.since = counts, time.Now()
}

const (
	// loadOver is how long a look looks back, at least.
	loadOver = 5 * time.Second
	// leastShare is the share of a worker's groups that it keeps, however busy it is.
	leastShare = 0.25
	// worthIt is how much busier than the average a worker is when groups are moved by
	// themselves.
	worthIt = 1.3
)

// uneven reports whether some worker has so much more to do than the average that moving
// groups is worth its pause.
func (l *load) uneven() bool {
	sum := 0.0
	for _, b := range l.busy {
		sum += b
	}
	return len(l.busy) > 1 && slices.Max(l.busy) > worthIt*sum/float64(len(l.busy)) && slices.Max(l.busy) > 0.5
}

// balance returns a table in which each worker has as many of table's groups as goes with
// its load: what a group costs is taken to be its worker's load over its groups. Without
// figures each gets as many. As few groups as possible move.
func (l *load) balance(table *owners, workers int) owners {
	have := make([]float64, workers)
	for _, w := range table {
		have[w]++
	}
	target := make([]float64, workers)
	sum := 0.0
	for w := range target {
		cost := 1.0
		if len(l.busy) == workers && have[w] > 0 && l.busy[w] > 0 {
			cost = l.busy[w] / have[w]
		}
		target[w] = 1 / cost
		sum += target[w]
	}
	count := make([]int, workers)
	left := event.GroupCount
	for w := range target {
		// Half-way, since moving groups changes what they cost.
		share := (target[w]/sum*event.GroupCount + have[w]) / 2
		if len(l.busy) != workers {
			share = float64(event.GroupCount) / float64(workers)
		}
		count[w] = int(max(share, leastShare*event.GroupCount/float64(workers)))
		left -= count[w]
	}
	for w := 0; left != 0; w = (w + 1) % workers {
		step := 1
		if left < 0 {
			step = -1
		}
		count[w] += step
		left -= step
	}
	return dealt(table, count)
}

// dealt returns a table in which worker w has count[w] groups; as few as possible have
// another worker than in the one given.
func dealt(table *owners, count []int) owners {
	want := *table
	var homeless []int
	for g, w := range table {
		if int(w) < len(count) && count[w] > 0 {
			count[w]--
		} else {
			homeless = append(homeless, g)
		}
	}
	w := 0
	for _, g := range homeless {
		for count[w] <= 0 {
			w++
		}
		want[g] = uint16(w)
		count[w]--
	}
	return want
}

// lookAtLoad moves key groups by itself, if that was asked for and is worth it.
func (r *control) lookAtLoad(g *generation) {
	counts := make([][2]uint64, r.Plan.Workers)
	for w := range counts {
		counts[w][0], counts[w][1] = g.segment.Worker(w).Load()
	}
	r.load.look(counts)
	if !r.auto || r.stopping || !r.load.uneven() {
		return
	}
	if n, err := r.rebalance(); err != nil {
		r.Log.Warn("key groups could not be moved", "error", err)
	} else if n > 0 {
		r.load = load{}
	}
}
