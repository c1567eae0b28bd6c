package rdma_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/loop"
	"github.com/headrace/headrace/rdma/tcp"
)

// A hub is the control of all peers of a test: whoever is linked hears each other, and
// knows at once.
type hub struct {
	mu     sync.Mutex
	linked [][]bool // [from][to]
	queues [][]letter
	bells  []*rdma.Bell
}

type letter struct {
	from int
	msg  []byte
}

func newHub(peers int) *hub {
	h := &hub{linked: make([][]bool, peers), queues: make([][]letter, peers), bells: make([]*rdma.Bell, peers)}
	for p := range h.linked {
		h.linked[p] = make([]bool, peers)
		for q := range h.linked[p] {
			h.linked[p][q] = true
		}
	}
	return h
}

// link says whether what from says gets to to.
func (h *hub) link(from, to int, is bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.linked[from][to] = is
	h.ringAll()
}

// isolate cuts a peer off, or lets it back.
func (h *hub) isolate(peer int, is bool) {
	for p := range h.linked {
		if p != peer {
			h.link(p, peer, !is)
			h.link(peer, p, !is)
		}
	}
}

func (h *hub) ringAll() {
	for _, b := range h.bells {
		if b != nil {
			b.Ring()
		}
	}
}

func (h *hub) heard(by int) (s collective.Set) {
	for p := range h.linked {
		if p == by || h.linked[p][by] {
			s = s.With(p)
		}
	}
	return s
}

type control struct {
	*hub
	me int
}

func (c control) Send(peer int, msg []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.linked[c.me][peer] {
		c.queues[peer] = append(c.queues[peer], letter{c.me, msg})
		if b := c.bells[peer]; b != nil {
			b.Ring()
		}
	}
}

func (c control) Receive() (int, []byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[c.me]
	if len(q) == 0 {
		return 0, nil, false
	}
	c.queues[c.me] = q[1:]
	return q[0].from, q[0].msg, true
}

func (c control) Hears(hears []collective.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range c.heard(c.me).All {
		hears[p] = c.heard(p)
	}
}

func (c control) Notify(b *rdma.Bell) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bells[c.me] = b
	if b == nil {
		c.queues[c.me] = nil
	}
}

// A crowd is the peers of a test.
type crowd struct {
	t      testing.TB
	hub    *hub
	net    *loop.Net
	tcps   []*tcp.Transport
	tweak  func(*rdma.GroupConfig)
	groups []*rdma.Group
}

const testPeriod = 60 * time.Millisecond

// newCrowd makes peers that reach each other by the named transport.
func newCrowd(tb testing.TB, peers int, transport string, tweak func(*rdma.GroupConfig)) *crowd {
	tb.Helper()
	c := &crowd{t: tb, hub: newHub(peers), tweak: tweak, groups: make([]*rdma.Group, peers), tcps: make([]*tcp.Transport, peers)}
	if transport == "loop" {
		var err error
		if c.net, err = loop.NewNet(loop.Config{Peers: peers, Seed: 1, DelayMax: 3}); err != nil {
			tb.Fatal(err)
		}
	}
	for p := range c.groups {
		c.start(p)
	}
	tb.Cleanup(func() {
		for p := range c.groups {
			c.stop(p)
		}
	})
	return c
}

func (c *crowd) start(p int) {
	c.t.Helper()
	g := rdma.GroupConfig{
		Me: p, Control: control{c.hub, p}, Period: testPeriod, Crossover: -1,
		Quorum: collective.Quorum{Peers: len(c.groups), TieBreaker: 0},
		Log:    slog.New(slog.DiscardHandler),
	}
	if os.Getenv("HEADRACE_LOG") != "" {
		g.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("me", p)
	}
	for i := range c.groups {
		g.Names = append(g.Names, fmt.Sprintf("peer%02d", i))
	}
	if c.net != nil {
		g.Transports = []rdma.Transport{c.net.Transport(p)}
	} else {
		tr, err := tcp.New(tcp.Config{Listen: netip.MustParseAddr("127.0.0.1")})
		if err != nil {
			c.t.Fatal(err)
		}
		c.tcps[p] = tr
		g.Transports = []rdma.Transport{tr}
	}
	if c.tweak != nil {
		c.tweak(&g)
	}
	var err error
	if c.groups[p], err = rdma.NewGroup(g); err != nil {
		c.t.Fatal(err)
	}
}

// stop ends a peer as if its process had died, but for the control: see isolate.
func (c *crowd) stop(p int) {
	if c.groups[p] != nil {
		_ = c.groups[p].Close()
	}
	if c.tcps[p] != nil {
		_ = c.tcps[p].Close()
	}
	if c.net != nil {
		c.net.Crash(p)
	}
	c.groups[p], c.tcps[p] = nil, nil
}

// each runs f for every peer that lives, at the same time, until all have returned. Who
// returns early still agrees with the others.
func (c *crowd) each(f func(p int, g *rdma.Group)) {
	c.t.Helper()
	var all sync.WaitGroup
	var busy atomic.Int32
	for p, g := range c.groups {
		if g != nil {
			busy.Add(1)
			all.Go(func() {
				f(p, g)
				for busy.Add(-1); busy.Load() > 0; time.Sleep(time.Millisecond) {
					g.Wait(2 * time.Millisecond)
				}
			})
		}
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute + *soak):
		for p, g := range c.groups {
			if g != nil {
				c.t.Logf("peer %d: %+v %+v", p, g.State(), g.Stats())
			}
		}
		panic("a minute has passed, and the time of a soak")
	}
}

// joinAll waits until all who live are in one epoch, and no others are.
func (c *crowd) joinAll() {
	c.t.Helper()
	var all collective.Set
	for p, g := range c.groups {
		if g != nil {
			all = all.With(p)
		}
	}
	c.join(all)
}

// join waits until the given peers are in one epoch, and no others are.
func (c *crowd) join(members collective.Set) {
	c.t.Helper()
	var mu sync.Mutex
	var is [collective.PeersMax]uint64
	until := time.Now().Add(20 * time.Second)
	c.each(func(me int, g *rdma.Group) {
		for {
			e := g.Epoch()
			if e.Members != members {
				e.Number = 0
			}
			mu.Lock()
			is[me] = e.Number
			all := e.Number != 0
			for p := range members.All {
				all = all && is[p] == is[me]
			}
			mu.Unlock()
			switch {
			case all, !members.Has(me):
				return
			case time.Now().After(until):
				c.t.Errorf("peer %d: no epoch of %b within 20 s: %+v", me, members, g.State())
				return
			}
			g.Wait(2 * time.Millisecond)
		}
	})
}
