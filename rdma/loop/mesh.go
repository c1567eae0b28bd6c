package loop

import (
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// A Mesh is one epoch on a [Net].
type Mesh struct{ *endpoint }

// Send implements rdma.Mesh.
func (m *Mesh) Send(to collective.Set, h *frame.Header, payload []byte) (taken collective.Set) {
	n := m.net
	n.mu.Lock()
	for p := range (to & m.members).All {
		if m.send(p, h, payload) {
			taken = taken.With(p)
		}
	}
	n.mu.Unlock()
	return taken
}

func (e *endpoint) send(to int, h *frame.Header, payload []byte) bool {
	o := e.other(to)
	if e.gone || o == nil || e.in[to].err != nil {
		return false // Poll tells of it
	}
	in := &o.in[e.me]
	if in.count == len(in.slots) || in.err != nil {
		return false
	}
	s := &in.slots[(in.head+in.count)%len(in.slots)]
	s.frame = e.codec.Seal(s.frame[:0], to, h, payload)
	s.due = o.polls
	if d := e.net.config.DelayMax; d > 0 {
		s.due += uint64(in.chance.IntN(d + 1))
	}
	if l := e.net.config.LossPerMille; l > 0 && in.chance.IntN(1000) < l {
		in.fail(ErrLost)
		e.in[to].fail(ErrLost)
		e.wake()
		o.wake()
		return true
	}
	if c := &e.net.corrupt[e.me]; c.Has(to) {
		*c = c.Without(to)
		bit := in.chance.IntN(8 * len(s.frame))
		s.frame[bit/8] ^= 1 << (bit % 8)
	}
	in.count++
	o.wake()
	return true
}

// Poll implements rdma.Mesh.
func (m *Mesh) Poll(events []rdma.Event) (got int) {
	e := m.endpoint
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.polls++
	for p := range e.members.All {
		e.free(p)
	}
	e.first = (e.first + 1) % e.net.config.Peers
	for i := range e.net.config.Peers {
		if p := (e.first + i) % e.net.config.Peers; e.members.Has(p) {
			got += e.receive(p, events[got:])
		}
	}
	return got
}

// free gives back the slots of what the last Poll has shown.
func (e *endpoint) free(peer int) {
	in := &e.in[peer]
	if in.held == 0 {
		return
	}
	in.head, in.count, in.held = (in.head+in.held)%len(in.slots), in.count-in.held, 0
	if o := e.other(peer); o != nil {
		o.wake() // it has room
	}
}

func (e *endpoint) receive(peer int, events []rdma.Event) (got int) {
	in := &e.in[peer]
	for got < len(events) && in.held < in.count && !e.net.cut[peer].Has(e.me) {
		s := &in.slots[(in.head+in.held)%len(in.slots)]
		if s.due > e.polls {
			break
		}
		in.held++
		ev := &events[got]
		payload, err := e.codec.Open(peer, &ev.Header, s.frame)
		switch {
		case err == nil:
			ev.Peer, ev.Payload, ev.Err = peer, payload, nil
			got++
		case errors.Is(err, frame.ErrEpoch): // late: dropped, and counted by the codec
		default:
			in.count, in.err = in.held, err
		}
	}
	if got < len(events) && in.held == in.count && in.err != nil && !in.told {
		in.told = true
		events[got] = rdma.Event{Peer: peer, Err: fmt.Errorf("loop: peer %d: %w", peer, in.err)}
		got++
	}
	return got
}

// Park implements rdma.Mesh.
func (m *Mesh) Park(d time.Duration) {
	if d <= 0 || m.bell.Rung() || m.pending() {
		return
	}
	m.timer.Reset(d)
	select {
	case <-m.woken:
	case <-m.bell.C():
	case <-m.timer.C:
	}
	m.timer.Stop()
}

// pending reports that a Poll, or one after it, has something.
func (m *Mesh) pending() bool {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	for p := range m.members.All {
		in := &m.in[p]
		if in.count > in.held && !m.net.cut[p].Has(m.me) || in.err != nil && !in.told {
			return true
		}
	}
	return false
}

// Close implements rdma.Mesh.
func (m *Mesh) Close() error {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	m.leave()
	return nil
}
