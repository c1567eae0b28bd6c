// Package meshtest is what every transport must do, as tests. A transport's own tests
// call [Run] with a way to make some of it; what they add is only what is special to it.
//
// The tests know a mesh by rdma's interfaces alone, so they also say how a mesh is used:
// Send until it is taken, with a Poll in between; Park when there is nothing to do.
package meshtest

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// Config says what is tested.
type Config struct {
	// Make returns the transports of n peers, which reach each other. The suite
	// closes them. Required.
	Make func(t testing.TB, n int) []rdma.Transport
	// PeersMax is the most peers that Make can make. Zero: 5.
	PeersMax int
	// Sealed seals the frames.
	Sealed bool
	// Scale multiplies every limit of time, for slow machines. Zero: 1.
	Scale int
	// Bytes is what everybody writes to each other before it reads. Zero: 10 MiB.
	Bytes int
	// Allocates leaves out the test that nothing is allocated.
	Allocates bool
}

// Run runs the suite.
func Run(t *testing.T, c Config) {
	t.Helper()
	if c.PeersMax == 0 {
		c.PeersMax = 5
	}
	if c.Scale == 0 {
		c.Scale = 1
	}
	if c.Bytes == 0 {
		c.Bytes = 10 << 20
	}
	s := &suite{Config: c}
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"everybody reaches everybody", s.everybody},
		{"a pair's frames arrive whole and in order", s.order},
		{"one frame goes to many", s.fan},
		{"a slow reader is not overrun", s.slowReader},
		{"all may write before any reads", s.writeFirst},
		{"the bell wakes Park", s.bell},
		{"a frame wakes Park", s.frameWakes},
		{"frames of an old epoch are dropped", s.oldEpoch},
		{"a bad frame fails its peer", s.badFrame},
		{"a peer that closes is a failure, once", s.closes},
		{"what came before the close is seen", s.beforeClose},
		{"the last Prepare counts", s.prepareTwice},
		{"epoch after epoch", s.epochs},
		{"a missing member is named", s.missing},
		{"an offer that is none is refused", s.wrongOffers},
		{"nothing allocates", s.allocations},
	} {
		t.Run(test.name, test.run)
	}
}

type suite struct{ Config }

// limit is how long a step may take: far more than it does.
func (s *suite) limit() time.Duration { return time.Duration(s.Scale) * 10 * time.Second }

// see is told of every event that a peer gets.
type see func(me int, ev *rdma.Event)

// peer is one end of a group.
type peer struct {
	me    int
	mesh  rdma.Mesh // nil: not open, or not any more
	bell  *rdma.Bell
	codec *frame.Codec
}

// group is the peers of an epoch.
type group struct {
	suite   *suite
	epoch   uint64
	members collective.Set
	peers   []*peer    // by number; nil if no member
	offers  [][][]byte // of whom, to whom
}

// keys gives both ends of a pair the same keys, and every epoch others.
func keys(me int, epoch uint64) func(int) ([32]byte, [32]byte, error) {
	return func(peer int) (send, receive [32]byte, err error) {
		send = [32]byte{1, byte(me), byte(peer), byte(epoch), byte(epoch >> 8)}
		receive = [32]byte{1, byte(peer), byte(me), byte(epoch), byte(epoch >> 8)}
		return send, receive, nil
	}
}

func (s *suite) codec(tb testing.TB, me int, epoch uint64, members collective.Set) *frame.Codec {
	tb.Helper()
	c := frame.Config{Me: me, Epoch: epoch, Max: rdma.FrameMax}
	if s.Sealed {
		c.Keys = keys(me, epoch)
	}
	k, err := frame.NewCodec(c, uint32(members))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// transports makes n of them and closes them at the end.
func (s *suite) transports(tb testing.TB, n int) []rdma.Transport {
	tb.Helper()
	ts := s.Make(tb, n)
	tb.Cleanup(func() {
		for p, tr := range ts {
			if err := tr.Close(); err != nil {
				tb.Errorf("peer %d: Close: %v", p, err)
			}
		}
	})
	return ts
}

// prepare makes the offers of an epoch.
func (s *suite) prepare(tb testing.TB, ts []rdma.Transport, epoch uint64, members collective.Set) *group {
	tb.Helper()
	g := &group{
		suite: s, epoch: epoch, members: members,
		peers: make([]*peer, len(ts)), offers: make([][][]byte, len(ts)),
	}
	tb.Cleanup(g.end)
	for p := range members.All {
		offers, err := ts[p].Prepare(epoch, members)
		if err != nil {
			tb.Fatalf("peer %d: Prepare: %v", p, err)
		}
		for to := range ts {
			if to != p && (to < len(offers) && offers[to] != nil) != members.Has(to) {
				tb.Fatalf("peer %d: of members %b, peer %d: a wrong offer", p, members, to)
			}
		}
		g.offers[p] = offers
		bell, err := rdma.NewBell()
		if err != nil {
			tb.Fatal(err)
		}
		g.peers[p] = &peer{me: p, bell: bell, codec: s.codec(tb, p, epoch, members)}
	}
	return g
}

// open opens the epoch at the peers in who, at the same time, and returns their errors.
func (g *group) open(ts []rdma.Transport, who collective.Set, patience time.Duration) []error {
	errs := make([]error, len(ts))
	var wg sync.WaitGroup
	for me := range who.All {
		p := g.peers[me]
		c := rdma.MeshConfig{
			Epoch: g.epoch, Me: me, Members: g.members, Offers: make([][]byte, len(g.peers)),
			Patience: patience, Bell: p.bell, Codec: p.codec,
		}
		for from := range g.members.Without(me).All {
			c.Offers[from] = g.offers[from][me]
		}
		wg.Go(func() { p.mesh, errs[me] = ts[me].Open(c) })
	}
	wg.Wait()
	for me := range who.All {
		if errs[me] != nil {
			g.peers[me].mesh = nil
		}
	}
	return errs
}

func (g *group) mustOpen(tb testing.TB, ts []rdma.Transport) {
	tb.Helper()
	for p, err := range g.open(ts, g.members, g.suite.limit()) {
		if err != nil {
			tb.Fatalf("peer %d: Open: %v", p, err)
		}
	}
}

// group makes n peers and an epoch of them all.
func (s *suite) group(tb testing.TB, n int) *group {
	tb.Helper()
	ts := s.transports(tb, n)
	g := s.prepare(tb, ts, 7, collective.First(n))
	g.mustOpen(tb, ts)
	return g
}

// shut closes the meshes.
func (g *group) shut() {
	for _, p := range g.peers {
		if p != nil && p.mesh != nil {
			_ = p.mesh.Close()
			p.mesh = nil
		}
	}
}

// end closes what there is.
func (g *group) end() {
	g.shut()
	for _, p := range g.peers {
		if p != nil {
			_ = p.bell.Close()
		}
	}
}

// pattern is what frame number n of a pair holds: word i of it is pattern + i times an
// odd number.
func pattern(from, to, n int) uint64 {
	return uint64(from)<<56 ^ uint64(to)<<48 ^ uint64(n)*0x9e3779b97f4a7c15
}

const step = 0xd1342543de82ef95

// fill writes what frame number n of a pair must hold.
func fill(b []byte, from, to, n int) {
	x := pattern(from, to, n)
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, x)
		x += step
	}
	for i := range b {
		b[i] = byte(x >> (8 * i))
	}
}

// check says what is wrong with an event that must be frame number n, filled for to.
func check(ev *rdma.Event, to, n, size int, epoch uint64) error {
	if ev.Err != nil {
		return fmt.Errorf("frame %d from peer %d to %d: %w", n, ev.Peer, to, ev.Err)
	}
	h, b := &ev.Header, ev.Payload
	if h.Round != uint64(n) || int(h.Source) != ev.Peer || h.Epoch != epoch || int(h.Length) != size || len(b) != size {
		return fmt.Errorf("frame %d of %d bytes from peer %d to %d: %+v with %d bytes", n, size, ev.Peer, to, *h, len(b))
	}
	x := pattern(ev.Peer, to, n)
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b) != x {
			return fmt.Errorf("frame %d of %d bytes from peer %d to %d: another at byte %d", n, size, ev.Peer, to, size-len(b))
		}
		x += step
	}
	for i := range b {
		if b[i] != byte(x>>(8*i)) {
			return fmt.Errorf("frame %d of %d bytes from peer %d to %d: another at its end", n, size, ev.Peer, to)
		}
	}
	return nil
}

// until polls all peers, each event through f, until done.
func (g *group) until(tb testing.TB, what string, done func() bool, f see) {
	tb.Helper()
	end := time.Now().Add(g.suite.limit())
	for !done() {
		if time.Now().After(end) {
			tb.Fatalf("%s: not within %v", what, g.suite.limit())
		}
		if g.poll(f) {
			continue
		}
		for _, p := range g.peers {
			if p != nil && p.mesh != nil {
				p.mesh.Park(50 * time.Microsecond)
			}
		}
	}
}

// poll polls every peer once, and reports that something had come.
func (g *group) poll(f see) (came bool) {
	var events [8]rdma.Event
	for _, p := range g.peers {
		if p == nil || p.mesh == nil {
			continue
		}
		for i := range p.mesh.Poll(events[:]) {
			came = true
			f(p.me, &events[i])
		}
	}
	return came
}

// linger polls for some time, for what must not come.
func (g *group) linger(f see) {
	for range 20 {
		g.poll(f)
		time.Sleep(500 * time.Microsecond)
	}
}

// send sends until the frame is taken by all in to, polling in between.
func (g *group) send(tb testing.TB, from int, to collective.Set, h frame.Header, payload []byte, f see) {
	tb.Helper()
	g.until(tb, fmt.Sprintf("peer %d: Send to %b", from, to), func() bool {
		taken := g.peers[from].mesh.Send(to, &h, payload)
		if taken&^to != 0 {
			tb.Fatalf("peer %d: taken for %b of %b", from, taken, to)
		}
		to &^= taken
		return to == 0
	}, f)
}

// works sends a frame from one peer to another. Nothing else may come.
func (g *group) works(tb testing.TB, from, to int) {
	tb.Helper()
	g.worksBeside(tb, from, to, unexpected(tb))
}

// worksBeside is works where other events go to f.
func (g *group) worksBeside(tb testing.TB, from, to int, f see) {
	tb.Helper()
	const text = "all is well"
	got := 0
	count := func(me int, ev *rdma.Event) {
		if me == to && ev.Peer == from && ev.Err == nil && string(ev.Payload) == text {
			got++
		} else {
			f(me, ev)
		}
	}
	g.send(tb, from, collective.Of(to), frame.Header{Kind: frame.Dense}, []byte(text), count)
	g.until(tb, "a frame", func() bool { return got == 1 }, count)
}

// unexpected fails the test on any event.
func unexpected(tb testing.TB) see {
	tb.Helper()
	return func(me int, ev *rdma.Event) {
		tb.Helper()
		tb.Fatalf("peer %d: from peer %d: %+v, %v: nothing is due", me, ev.Peer, ev.Header, ev.Err)
	}
}
