package dataplane

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/window"
)

// The workers of a replay meet even if no window closes, so that new keys do not wait
// long to be admitted: after gateEvery packets where keys have waited, else after ever
// more, up to gateMost.
const (
	gateEvery = 1 << 10
	gateMost  = 1 << 17
)

// A Gate is where the workers of a replay meet: whenever windows close and now and
// then in between. All have then folded exactly the same prefix of the capture, and
// the last to arrive admits the new keys for all. Without it the rows would depend on
// which worker was faster. (When they meet in between changes nothing: keys are
// admitted in capture order, whenever that is.)
//
// It is also where a worker rests that can do nothing until another one, or the
// reader of the capture, has done something: replay may have more workers than there
// are processors, and those that spin keep the others from theirs.
type Gate struct {
	mu      sync.Mutex
	workers []*window.State
	arrived int
	least   uint64
	every   uint64

	turn atomic.Uint64 // meetings held
	next atomic.Uint64 // position of the next meeting
	over atomic.Bool   // nothing is left to fold

	news    atomic.Uint64 // counts what may let others go on
	resting atomic.Int64
	bed     sync.Mutex
	bell    sync.Cond
}

// NewGate returns a gate; workers join it as they are built.
func NewGate() *Gate {
	g := &Gate{least: math.MaxUint64, every: gateEvery}
	g.bell.L = &g.bed
	return g
}

// Wake lets resting workers look again. It may be called from any goroutine.
func (g *Gate) Wake() {
	g.news.Add(1)
	if g.resting.Load() > 0 {
		g.bed.Lock()
		g.bell.Broadcast()
		g.bed.Unlock()
	}
}

// rest waits until there is news since seen, a value of g.news.
func (g *Gate) rest(seen uint64) {
	g.resting.Add(1) // before the news are looked at: who makes some sees it
	g.bed.Lock()
	for g.news.Load() == seen {
		g.bell.Wait()
	}
	g.bed.Unlock()
	g.resting.Add(-1)
}

func (g *Gate) join(w *Worker) {
	g.mu.Lock()
	g.workers = append(g.workers, w.windows)
	g.mu.Unlock()
}

// arrive says that the calling worker has folded everything before position reached,
// and returns the turn that it must wait for.
func (g *Gate) arrive(reached uint64) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	turn := g.turn.Load() + 1
	g.least = min(g.least, reached)
	if g.arrived++; g.arrived < len(g.workers) {
		return turn
	}
	if window.Settle(g.workers) {
		g.every = gateEvery
	} else {
		g.every = min(2*g.every, gateMost)
	}
	g.over.Store(g.least == exchange.End)
	if g.least != exchange.End {
		g.next.Store((g.least/g.every + 1) * g.every)
	}
	g.arrived, g.least = 0, math.MaxUint64
	g.turn.Store(turn)
	g.Wake() // also if it was no work: the others wait for the turn
	return turn
}

// atGate reports whether the worker waits for others, and notes when it need not any
// more.
func (w *Worker) atGate() bool {
	if w.waiting == 0 {
		return false
	}
	if w.gate.turn.Load() < w.waiting {
		return true
	}
	w.waiting = 0
	w.windows.Book()
	w.inbox.Gate = w.gate.next.Load()
	return false
}
