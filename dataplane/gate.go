package dataplane

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/window"
)

// gateEvery is the number of packets after which the workers of a replay meet even
// if no window closes, so that new keys do not wait long to be admitted.
const gateEvery = 1024

// A Gate is where the workers of a replay meet: whenever windows close and every
// gateEvery packets. All have then folded exactly the same prefix of the capture, and
// the last to arrive admits the new keys for all. Without it the rows would depend on
// which worker was faster.
type Gate struct {
	mu      sync.Mutex
	workers []*window.State
	arrived int
	least   uint64

	turn atomic.Uint64 // meetings held
	next atomic.Uint64 // position of the next meeting
	over atomic.Bool   // nothing is left to fold
}

// NewGate returns a gate; workers join it as they are built.
func NewGate() *Gate { return &Gate{least: math.MaxUint64} }

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
	window.Settle(g.workers)
	g.over.Store(g.least == exchange.End)
	if g.least != exchange.End {
		g.next.Store((g.least/gateEvery + 1) * gateEvery)
	}
	g.arrived, g.least = 0, math.MaxUint64
	g.turn.Store(turn)
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
	w.inbox.Gate = w.gate.next.Load()
	return false
}
