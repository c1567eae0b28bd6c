package xsk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/xdptest"
)

// steering is what these tests need of an XDP program, one an interface.
type steering interface {
	Register(slot uint32, fd int) error
	Unregister(slot uint32) error
	Steered(tb testing.TB, slot uint32) uint64
}

// attach loads a steering program for so many workers onto an interface.
func attach(tb testing.TB, e *netns.End, workers int, driver bool) steering {
	tb.Helper()
	p := xdptest.Load(tb, workers)
	e.Do(tb, func() { p.Attach(tb, e.Index, driver) })
	return p
}

// workerOf is the worker whom the steering program chooses for a payload that begins
// with key.
var workerOf = xdptest.WorkerOf

// small are sizes that a test can overrun.
func small(tb testing.TB, workers, rxRing int) Sizes {
	tb.Helper()
	s, err := Fit(Wish{Workers: workers, RxRing: rxRing, TxRing: 64, FillReserve: 512})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// rig is a mesh over real interfaces, with a steering program on each.
type rig struct {
	layout   Layout
	mesh     *Mesh
	programs []steering // by interface
	pairs    []*netns.Pair
}

// newRig makes pairs that all end in one namespace and a mesh over these ends, of
// owners by asavie/xdp.
func newRig(tb testing.TB, interfaces, queues, workers, rxRing int, driver bool) *rig {
	tb.Helper()
	return newRigOf(tb, false, interfaces, queues, workers, rxRing, driver)
}

// kinds are the kinds of owners, by name: raw or not.
var kinds = map[string]bool{"asavie": false, "raw": true}

func newRigOf(tb testing.TB, raw bool, interfaces, queues, workers, rxRing int, driver bool) *rig {
	tb.Helper()
	a, b := netns.New(tb), netns.New(tb)
	r := &rig{layout: Layout{Workers: workers, Sizes: small(tb, workers, rxRing), Raw: raw}}
	for range interfaces {
		p := netns.Join(tb, a, b, netns.Options{Queues: queues})
		r.pairs = append(r.pairs, p)
		r.layout.Interfaces = append(r.layout.Interfaces, Interface{Name: p.B.Interface, Index: p.B.Index, Queues: queues})
	}
	r.open(tb, b)
	for _, p := range r.pairs {
		r.programs = append(r.programs, attach(tb, p.B, workers, driver))
	}
	r.register(tb)
	return r
}

func (r *rig) open(tb testing.TB, n *netns.Namespace) {
	tb.Helper()
	var err error
	n.Do(tb, func() { r.mesh, err = OpenMesh(r.layout) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.mesh.Close(); err != nil {
			tb.Error(err)
		}
	})
}

func (r *rig) register(tb testing.TB) {
	tb.Helper()
	for _, s := range r.mesh.Sockets {
		if err := r.programs[s.Interface].Register(s.Slot, s.FD); err != nil {
			tb.Fatalf("%v: %v", s, err)
		}
	}
}

// steered returns what the programs sent to the mesh.
func (r *rig) steered(tb testing.TB) (sum uint64) {
	tb.Helper()
	for _, s := range r.mesh.Sockets {
		sum += r.programs[s.Interface].Steered(tb, s.Slot)
	}
	return sum
}

// lost returns what the kernel lost at worker's sockets.
func (r *rig) lost(tb testing.TB, worker int) (sum uint64) {
	tb.Helper()
	for _, s := range r.mesh.Ports[worker].Sockets() {
		stats, err := Statistics(s.FD)
		if err != nil {
			tb.Fatal(err)
		}
		sum += stats.Lost()
	}
	return sum
}

// crew are the workers of a rig, all but the stalled ones running.
type crew struct {
	stop      atomic.Bool
	wg        sync.WaitGroup
	misplaced atomic.Uint64
	garbled   atomic.Uint64
	err       atomic.Pointer[error]
	taken     []atomic.Uint64
	stalled   []int
}

// work starts a thread for each port that is not stalled.
func (r *rig) work(stalled ...int) *crew {
	c := &crew{taken: make([]atomic.Uint64, len(r.mesh.Ports)), stalled: stalled}
	for w, p := range r.mesh.Ports {
		if !slices.Contains(stalled, w) {
			c.wg.Add(1)
			go c.run(w, len(r.mesh.Ports), p)
		}
	}
	return c
}

func (c *crew) run(w, workers int, p *Port) {
	defer c.wg.Done()
	runtime.LockOSThread()
	var frames [64]Frame
	idle := Idle{Adaptive: true, Spins: 10, Yields: 10}
	for !c.stop.Load() {
		n := p.Receive(frames[:])
		for i := range frames[:n] {
			c.check(w, workers, &frames[i])
		}
		if n > 0 {
			p.Release()
		}
		c.taken[w].Store(p.Taken())
		if err := idle.Rest(n, p); err != nil {
			c.err.Store(&err) // the last is the one to look at
			if errors.Is(err, ErrInterfaceGone) {
				return
			}
		}
	}
}

func (c *crew) check(w, workers int, f *Frame) {
	payload := f.Data[f.Meta.PayloadOffset:][:f.Meta.PayloadLength]
	key := binary.LittleEndian.Uint64(payload)
	if workerOf(key, workers) != w {
		c.misplaced.Add(1)
	}
	if f.Meta.Hash != key || f.Meta.Feed != xdptest.Feed || f.Meta.ReceiveNanos == 0 || binary.LittleEndian.Uint64(payload[8:]) != mix(key) {
		c.garbled.Add(1)
	}
}

// end stops the workers.
func (c *crew) end() {
	c.stop.Store(true)
	c.wg.Wait()
}

// mix is a bijection that makes keys of counting numbers (the finalizer of
// MurmurHash3, github.com/aappleby/smhasher).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// load is count frames with keys that spread over all workers; each carries a check
// of its key.
func load(count, rate int) netns.Load {
	return netns.Load{
		Count: count, Rate: rate, Flows: 64, Port: xdptest.Port, Size: 32,
		Fill: func(i int, p []byte) {
			key := mix(uint64(i) + 1)
			binary.LittleEndian.PutUint64(p, key)
			binary.LittleEndian.PutUint64(p[8:], mix(key))
		},
	}
}

// settled waits until the workers that run have taken all that was steered to them.
func (r *rig) settled(tb testing.TB, c *crew) {
	tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		var sum uint64
		running := 0
		for w, p := range r.mesh.Ports {
			sum += c.taken[w].Load() + r.lost(tb, w) + uint64(p.InRing())
			if !slices.Contains(c.stalled, w) {
				running += p.InRing()
			}
		}
		if running == 0 && sum == r.steered(tb) {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("after 10 s: steered %d, taken, lost and in ring %d, of that in rings of running workers %d", r.steered(tb), sum, running)
		}
	}
}

// sendAll sends count frames, over all pairs in turn, never more at a time than any
// ring can hold, so that no frame need be lost however slow the machine is. It returns
// how many were sent.
func (r *rig) sendAll(tb testing.TB, c *crew, count int) (sent int) {
	tb.Helper()
	const step = 500
	var senders []*netns.Sender
	for _, p := range r.pairs {
		senders = append(senders, netns.NewSender(tb, p.A, p.B))
	}
	for i := 0; i < count; i += step {
		l := load(step, 0)
		fill := l.Fill
		l.Fill = func(k int, payload []byte) { fill(i+k, payload) }
		n, err := senders[i/step%len(senders)].Send(l)
		if err != nil {
			tb.Fatal(err)
		}
		sent += n
		r.settled(tb, c)
	}
	return sent
}

// ledger fails the test unless steered = taken + lost + in ring, and returns the
// terms. The workers have stopped.
func (r *rig) ledger(tb testing.TB) (steered, taken, lost, inRing uint64) {
	tb.Helper()
	for w, p := range r.mesh.Ports {
		taken += p.Taken()
		lost += r.lost(tb, w)
		inRing += uint64(p.InRing())
		if p.BadDescriptor+p.BadMeta+p.MultiBuffer != 0 {
			tb.Errorf("worker %d: unusable frames: %+v", w, p.Counters)
		}
	}
	steered = r.steered(tb)
	if steered != taken+lost+inRing {
		tb.Errorf("steered %d != taken %d + lost %d + in ring %d", steered, taken, lost, inRing)
	}
	return steered, taken, lost, inRing
}

// modes are the XDP modes, by name: driver mode or not.
var modes = map[string]bool{"skb mode": false, "driver mode": true}

// shape is how large a mesh is.
type shape struct{ interfaces, queues, workers int }

func TestEveryFrameReachesTheWorkerOfItsKey(t *testing.T) {
	for _, s := range []shape{{1, 1, 1}, {1, 1, 4}, {1, 4, 4}, {2, 2, 3}} {
		for mode, driver := range modes {
			name := fmt.Sprintf("%d interfaces, %d queues, %d workers, %s", s.interfaces, s.queues, s.workers, mode)
			t.Run(name, func(t *testing.T) { testPlacement(t, s, false, driver) })
		}
	}
	t.Run("raw owners", func(t *testing.T) { testPlacement(t, shape{2, 2, 3}, true, true) })
}

func testPlacement(t *testing.T, s shape, raw, driver bool) {
	t.Helper()
	r := newRigOf(t, raw, s.interfaces, s.queues, s.workers, 2048, driver)
	c := r.work()
	sent := uint64(r.sendAll(t, c, 40000))
	c.end()
	steered, taken, lost, inRing := r.ledger(t)
	if c.misplaced.Load() != 0 || c.garbled.Load() != 0 {
		t.Errorf("of %d frames %d misplaced, %d garbled", taken, c.misplaced.Load(), c.garbled.Load())
	}
	// Before the program, veth may drop what its own queue has no room for.
	if steered < sent*9/10 || lost != 0 || inRing != 0 {
		t.Errorf("sent %d, steered %d, taken %d, lost %d, in ring %d", sent, steered, taken, lost, inRing)
	}
	for w, p := range r.mesh.Ports {
		if p.Received < taken/uint64(2*s.workers) {
			t.Errorf("worker %d has %d of %d frames", w, p.Received, taken)
		}
	}
	t.Logf("sent %d, steered %d, taken %d", sent, steered, taken)
}
