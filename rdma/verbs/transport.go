//go:build linux && cgo && rdma

package verbs

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

// A Transport makes meshes of queue pairs on one port. It implements
// [rdma.Transport]. Stats may be called from any goroutine, the rest from one.
type Transport struct {
	config   Config
	dev      *device
	prepared *mesh // made by Prepare, not opened
	offers   [collective.PeersMax]offer
	open     map[*mesh]struct{}
	spare    *arena // of a mesh that is closed

	completions [StatusCount]atomic.Uint64
	roomMin     atomic.Int64

	mu    sync.Mutex // the rest is what Stats shows
	shown Stats
}

// New opens the device. It returns an error wrapping [ErrConfig], or [ErrNoVerbs] with
// the reason.
func New(c Config) (*Transport, error) {
	c, err := c.checked()
	if err != nil {
		return nil, fmt.Errorf("verbs: %w", err)
	}
	dev, err := openDevice(c)
	if err != nil {
		return nil, fmt.Errorf("verbs: %w: %w", ErrNoVerbs, err)
	}
	t := &Transport{config: c, dev: dev, open: make(map[*mesh]struct{})}
	t.roomMin.Store(int64(c.Slots))
	t.show(nil)
	return t, nil
}

// Name is the transport's name in metrics.
func (t *Transport) Name() string { return "verbs" }

// Prepare implements [rdma.Transport]: it makes the queue pairs, with receives posted,
// and fresh keys for the memory.
func (t *Transport) Prepare(epoch uint64, members collective.Set) ([][]byte, error) {
	if t.prepared != nil {
		t.release(t.prepared)
	}
	if t.dev == nil {
		return nil, errors.New("verbs: closed")
	}
	if !members.Has(t.config.Me) {
		return nil, fmt.Errorf("verbs: epoch %d: we are %d and no member", epoch, t.config.Me)
	}
	if err := t.revive(); err != nil {
		return nil, fmt.Errorf("verbs: %s: %w", t.dev.name, err)
	}
	m := &mesh{t: t, me: t.config.Me, epoch: epoch, joining: members.Without(t.config.Me)}
	offers, err := t.build(m)
	if err != nil {
		t.release(m)
		return nil, fmt.Errorf("verbs: %s: %w", t.dev.name, err)
	}
	t.prepared = m
	t.show(m)
	return offers, nil
}

// revive looks at the port again. A device that was reset answers only after it has
// been opened anew, which cannot be while a mesh is on it.
func (t *Transport) revive() error {
	err := t.dev.choose(t.config)
	if err == nil || len(t.open) > 0 {
		return err
	}
	dev, again := openDevice(t.config)
	if again != nil {
		return err
	}
	t.dev.close()
	t.dev = dev
	return nil
}

// build makes the memory and the queue pairs of m.
func (t *Transport) build(m *mesh) (offers [][]byte, err error) {
	slots, n := t.config.Slots, m.joining.Len()
	ring := (slots*slotBytes + 4095) &^ 4095
	sends, recvs := slots+wordsMax+1, slots+wordsMax // one is a probe's
	if m.link, err = newLink(t.dev, n, sends, recvs); err != nil {
		return nil, err
	}
	if m.arena, err = t.takeArena(max(1, 2*n) * ring); err != nil {
		return nil, err
	}
	in, out := m.arena.mem[:n*ring], m.arena.mem[n*ring:][:max(1, n)*ring]
	if err = m.link.sendFrom(out); err != nil {
		return nil, err
	}
	offers = make([][]byte, collective.PeersMax)
	for id := range m.joining.All {
		o := &t.offers[id]
		*o = offer{
			epoch: m.epoch, gid: t.dev.gid.addr.As16(), mtu: t.dev.mtu, psn: randomPSN(),
			slots: slots, slotBytes: slotBytes, from: uint8(m.me), to: uint8(id),
		}
		p := &peer{
			flow: flow{slots: uint64(slots)}, id: id, ring: in[:ring], out: out[:ring],
			lens: make([]uint32, slots), last: noWord,
		}
		in, out = in[ring:], out[ring:]
		m.peers = append(m.peers, p)
		m.by[id] = p
		if err = m.link.add(id, sends, p.ring, o); err != nil {
			return nil, err
		}
		offers[id] = o.bytes()
	}
	return offers, nil
}

// randomPSN returns the number of a first packet: who cannot see our packets shall
// not guess it.
func randomPSN() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.LittleEndian.Uint32(b[:]) >> 8
}

// Open implements [rdma.Transport]. It returns when both ends of every pair are ready.
func (t *Transport) Open(c rdma.MeshConfig) (rdma.Mesh, error) {
	m := t.prepared
	if m == nil || m.epoch != c.Epoch || m.joining.With(m.me) != c.Members || c.Me != m.me {
		return nil, fmt.Errorf("verbs: epoch %d with members %b was not prepared for peer %d", c.Epoch, c.Members, c.Me)
	}
	if n := c.Codec.Overhead(); n > overheadMax {
		return nil, fmt.Errorf("verbs: a seal of %d bytes", n)
	}
	t.prepared = nil
	t.open[m] = struct{}{}
	m.bell, m.codec = c.Bell, c.Codec
	m.poll = [3]unix.PollFd{
		{Fd: int32(m.link.fd()), Events: unix.POLLIN},
		{Fd: int32(t.dev.asyncFD()), Events: unix.POLLIN},
		{Fd: int32(c.Bell.FD()), Events: unix.POLLIN},
	}
	for _, p := range m.peers {
		if p.id >= len(c.Offers) {
			t.release(m)
			return nil, fmt.Errorf("verbs: peer %d: %w: none", p.id, errOffer)
		}
		var o offer
		mine := &t.offers[p.id]
		if err := o.parse(c.Offers[p.id], p.id, mine); err != nil {
			t.release(m)
			return nil, fmt.Errorf("verbs: peer %d: %w", p.id, err)
		}
		p.to = o.addr
		p.path = path{gid: o.gid, qpn: o.qpn, psn: mine.psn, peerPSN: o.psn, rkey: o.rkey, mtu: min(o.mtu, mine.mtu)}
	}
	patience := c.Patience
	if patience <= 0 {
		patience = 5 * time.Second
	}
	if err := m.join(patience); err != nil {
		t.release(m)
		return nil, fmt.Errorf("verbs: epoch %d: %w", c.Epoch, err)
	}
	return m, nil
}

func (t *Transport) takeArena(bytes int) (*arena, error) {
	if a := t.spare; a != nil {
		t.spare = nil
		if len(a.mem) >= bytes {
			return a, nil
		}
		a.close()
	}
	return newArena(bytes, t.dev.node)
}

// release lets go of a mesh; its memory is kept for the next one.
func (t *Transport) release(m *mesh) {
	if m.link == nil {
		return
	}
	m.link.close()
	m.link = nil
	delete(t.open, m)
	if t.prepared == m {
		t.prepared = nil
	}
	switch {
	case m.arena == nil:
	case t.spare == nil:
		t.spare = m.arena
	default:
		m.arena.close()
	}
	m.arena = nil
}

// Close lets go of the device and of all meshes.
func (t *Transport) Close() error {
	if t.dev == nil {
		return nil
	}
	if t.prepared != nil {
		t.release(t.prepared)
	}
	for m := range t.open {
		t.release(m)
	}
	if t.spare != nil {
		t.spare.close()
		t.spare = nil
	}
	t.dev.close()
	t.dev = nil
	return nil
}

// sawRoom keeps the least room that a Send found.
func (t *Transport) sawRoom(room int) {
	if int64(room) < t.roomMin.Load() {
		t.roomMin.Store(int64(room))
	}
}

// show renews what Stats says that does not change between epochs.
func (t *Transport) show(m *mesh) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.shown
	s.Device, s.Port, s.Node, s.Slots = t.dev.name, t.dev.port, t.dev.node, t.config.Slots
	s.GID, s.GIDIndex, s.MTU = t.dev.gid.addr, t.dev.gid.index, 128<<t.dev.mtu
	if m != nil {
		s.Huge = m.arena.huge
		if len(m.peers) > 0 {
			s.Inline = m.link.inline(m.peers[0].id)
		}
	}
}

// Stats returns what the transport is and has done so far. It may be called from any
// goroutine.
func (t *Transport) Stats() Stats {
	t.mu.Lock()
	s := t.shown
	t.mu.Unlock()
	s.CreditsMin = int(t.roomMin.Swap(int64(s.Slots)))
	for i := range s.Completions {
		s.Completions[i] = t.completions[i].Load()
	}
	s.Counters = counters(s.Device, s.Port)
	return s
}
