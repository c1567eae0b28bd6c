package loop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// ErrMissing reports members that did not open the epoch in time.
var ErrMissing = errors.New("not there in time")

// ErrNotPrepared reports an Open of an epoch that was not prepared, or not any more.
var ErrNotPrepared = errors.New("the epoch is not prepared")

// A Transport is a peer's access to a [Net].
type Transport struct {
	net      *Net
	me       int
	prepared *endpoint
	closed   bool
}

// Name is loop.
func (t *Transport) Name() string { return "loop" }

// Prepare implements rdma.Transport.
func (t *Transport) Prepare(epoch uint64, members collective.Set) ([][]byte, error) {
	n := t.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if t.closed {
		return nil, errors.New("loop: closed")
	}
	if t.prepared != nil {
		t.prepared.leave()
	}
	n.tokens++
	e := &endpoint{
		net: n, me: t.me, epoch: epoch, token: n.tokens,
		members: members.Without(t.me), woken: make(chan struct{}, 1),
	}
	for p := range e.members.All {
		e.in[p].slots = make([]slot, n.config.Queue)
		e.in[p].chance = n.source(epoch, p, t.me)
	}
	t.prepared = e
	n.endpoints[e.token] = e
	offers := make([][]byte, n.config.Peers)
	for p := range e.members.All {
		offers[p] = binary.LittleEndian.AppendUint64(nil, e.token)
	}
	return offers, nil
}

// Open implements rdma.Transport.
func (t *Transport) Open(c rdma.MeshConfig) (rdma.Mesh, error) {
	n := t.net
	n.mu.Lock()
	defer n.mu.Unlock()
	e := t.prepared
	if e == nil || e.epoch != c.Epoch {
		return nil, fmt.Errorf("loop: epoch %d: %w", c.Epoch, ErrNotPrepared)
	}
	t.prepared = nil
	e.bell, e.codec = c.Bell, c.Codec
	for p := range e.members.All {
		if p >= len(c.Offers) || len(c.Offers[p]) != 8 {
			e.leave()
			return nil, fmt.Errorf("loop: epoch %d: peer %d: an offer that is none of ours", c.Epoch, p)
		}
		e.offers[p] = binary.LittleEndian.Uint64(c.Offers[p])
	}
	e.open = true
	n.opened.Broadcast()
	late := false
	stop := time.AfterFunc(c.Patience, func() {
		n.mu.Lock()
		late = true
		n.opened.Broadcast()
		n.mu.Unlock()
	})
	defer stop.Stop()
	for {
		missing := e.missing()
		if missing == 0 {
			e.timer = time.NewTimer(time.Hour)
			e.timer.Stop()
			return &Mesh{endpoint: e}, nil
		}
		if late || e.gone || n.config.Alone {
			e.leave()
			text := ""
			for p := range missing.All {
				text += fmt.Sprintf(" peer %d", p)
			}
			return nil, fmt.Errorf("loop: epoch %d:%s: %w", c.Epoch, text, ErrMissing)
		}
		n.opened.Wait()
	}
}

// Close implements rdma.Transport. Meshes that are open go on.
func (t *Transport) Close() error {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	t.closed = true
	if t.prepared != nil {
		t.prepared.leave()
		t.prepared = nil
	}
	return nil
}

// endpoint is one peer's end of an epoch. The net's lock guards it.
type endpoint struct {
	net     *Net
	me      int
	epoch   uint64
	token   uint64
	members collective.Set // without me
	offers  [collective.PeersMax]uint64
	in      [collective.PeersMax]pair
	polls   uint64 // how often we have polled: the clock of what comes in
	open    bool
	gone    bool
	woken   chan struct{}
	timer   *time.Timer
	bell    *rdma.Bell
	codec   *frame.Codec
	first   int // the peer whose frames are looked at first
}

// pair is what is on the way from one peer to the endpoint.
type pair struct {
	slots       []slot
	head, count int
	held        int // frames at head that the last Poll has shown
	chance      *rand.Rand
	err         error // told when the queue is empty
	told        bool
}

type slot struct {
	frame []byte
	due   uint64 // the receiver's poll from which it may be seen
}

// fail ends the pair. What was on the way still arrives.
func (p *pair) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// wake lets a Park return.
func (e *endpoint) wake() {
	select {
	case e.woken <- struct{}{}:
	default:
	}
}

// other returns the other end of a pair, or nil.
func (e *endpoint) other(peer int) *endpoint {
	o := e.net.endpoints[e.offers[peer]]
	if o == nil || o.me != peer || o.epoch != e.epoch {
		return nil
	}
	return o
}

// missing returns the members whose end is not open.
func (e *endpoint) missing() (missing collective.Set) {
	for p := range e.members.All {
		if o := e.other(p); o == nil || (!o.open && !e.net.config.Alone) {
			missing = missing.With(p)
		}
	}
	return missing
}

// leave ends the endpoint. The others get what was on the way up to some frame.
func (e *endpoint) leave() {
	if e.gone {
		return
	}
	e.gone = true
	delete(e.net.endpoints, e.token)
	for p := range e.members.All {
		o := e.net.endpoints[e.offers[p]]
		if o == nil || o.me != p || !o.members.Has(e.me) {
			continue
		}
		in := &o.in[e.me]
		in.count = in.held + in.chance.IntN(in.count-in.held+1)
		in.fail(ErrClosed)
		o.wake()
	}
	e.net.opened.Broadcast()
	e.wake()
}
