// Package loop carries frames in memory, among the peers of one process: for tests of
// what is above a transport. A [Net] is what connects them; it delays frames, lets
// those of different peers overtake each other, and fails as it is told.
//
// There is no clock in it. A frame's delay is a number of Polls by its receiver, drawn
// from the pair's own seeded source. So the same code serves real goroutines and a
// test that drives all peers from one and gets the same run from the same seed.
package loop

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/headrace/headrace/rdma/collective"
)

// Why a pair failed.
var (
	// ErrLost reports a pair of which a frame was lost.
	ErrLost = errors.New("a frame was lost")
	// ErrClosed reports a peer that is gone.
	ErrClosed = errors.New("the peer is gone")
	// ErrFailed reports a pair that was told to fail.
	ErrFailed = errors.New("the pair was told to fail")
)

// Config makes a [Net].
type Config struct {
	// Peers is the number of peers, at most collective.PeersMax. Required.
	Peers int
	// Seed is where all chances come from.
	Seed uint64
	// DelayMax bounds a frame's delay, in Polls of its receiver. Zero: none.
	DelayMax int
	// LossPerMille is the chance that a frame is lost and its pair fails.
	LossPerMille int
	// Queue is how many frames may be on the way in a pair. Zero: 4.
	Queue int
	// Alone is for tests that drive all peers from one goroutine: Open does not wait for
	// the others, and fails at once if one has not prepared. What is sent to a peer waits
	// until it opens.
	Alone bool
}

// A Net connects peers. Its methods may be called from any goroutine.
type Net struct {
	config Config

	mu         sync.Mutex
	opened     sync.Cond // an endpoint was opened or is gone
	transports []*Transport
	endpoints  map[uint64]*endpoint // by token
	tokens     uint64
	cut        [collective.PeersMax]collective.Set // of those that a peer's frames do not reach
	corrupt    [collective.PeersMax]collective.Set // of those whose next frame from a peer is damaged
}

// NewNet returns a net and its peers' transports.
func NewNet(c Config) (*Net, error) {
	if c.Peers < 1 || c.Peers > collective.PeersMax {
		return nil, fmt.Errorf("loop: %d peers: not in 1 … %d", c.Peers, collective.PeersMax)
	}
	if c.Queue == 0 {
		c.Queue = 4
	}
	n := &Net{config: c, endpoints: map[uint64]*endpoint{}}
	n.opened.L = &n.mu
	for p := range c.Peers {
		n.transports = append(n.transports, &Transport{net: n, me: p})
	}
	return n, nil
}

// Transport returns the transport of a peer.
func (n *Net) Transport(peer int) *Transport { return n.transports[peer] }

// Cut stops, or with false lets go on, what from sends to to. Nothing is lost: it
// stays on the way.
func (n *Net) Cut(from, to int, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if cut {
		n.cut[from] = n.cut[from].With(to)
		return
	}
	n.cut[from] = n.cut[from].Without(to)
	for _, e := range n.endpoints {
		if e.me == to || e.me == from {
			e.wake()
		}
	}
}

// Corrupt flips a bit of the next frame that from sends to to.
func (n *Net) Corrupt(from, to int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.corrupt[from] = n.corrupt[from].With(to)
}

// Fail breaks the pair of a and b in every epoch that is open: both are told.
func (n *Net) Fail(a, b int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.endpoints {
		for _, pair := range [][2]int{{a, b}, {b, a}} {
			if e.me == pair[0] && e.members.Has(pair[1]) {
				e.in[pair[1]].fail(ErrFailed)
				e.wake()
			}
		}
	}
}

// Crash ends all that a peer has open, as if its process had died. What it sent last
// may be lost. The peer may prepare anew.
func (n *Net) Crash(peer int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.endpoints {
		if e.me == peer {
			e.leave()
		}
	}
	n.transports[peer].prepared = nil
}

// source gives a pair's chances: the same whatever the other pairs do.
func (n *Net) source(epoch uint64, from, to int) *rand.Rand {
	return rand.New(rand.NewPCG(n.config.Seed, epoch<<16|uint64(from)<<8|uint64(to)))
}
