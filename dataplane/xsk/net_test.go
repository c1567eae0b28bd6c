package xsk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
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
	Steered(t testing.TB, slot uint32) uint64
}

// attach loads a steering program for so many workers onto an interface.
func attach(t testing.TB, e *netns.End, workers int, driver bool) steering {
	t.Helper()
	p := xdptest.Load(t, workers)
	e.Do(t, func() { p.Attach(t, e.Index, driver) })
	return p
}

// workerOf is the worker whom the steering program chooses for a payload that begins
// with key.
var workerOf = xdptest.WorkerOf

// small are sizes that a test can overrun.
func small(t testing.TB, workers, rxRing int) Sizes {
	t.Helper()
	s, err := Fit(Wish{Workers: workers, RxRing: rxRing, TxRing: 64, FillReserve: 512})
	if err != nil {
		t.Fatal(err)
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

// newRig makes pairs that all end in one namespace and a mesh over these ends.
func newRig(t testing.TB, interfaces, queues, workers, rxRing int, driver bool) *rig {
	t.Helper()
	a, b := netns.New(t), netns.New(t)
	r := &rig{layout: Layout{Workers: workers, Sizes: small(t, workers, rxRing)}}
	for range interfaces {
		p := netns.Join(t, a, b, netns.Options{Queues: queues})
		r.pairs = append(r.pairs, p)
		r.layout.Interfaces = append(r.layout.Interfaces, Interface{Name: p.B.Interface, Index: p.B.Index, Queues: queues})
	}
	r.open(t, b)
	for _, p := range r.pairs {
		r.programs = append(r.programs, attach(t, p.B, workers, driver))
	}
	r.register(t)
	return r
}

func (r *rig) open(t testing.TB, n *netns.Namespace) {
	t.Helper()
	var err error
	n.Do(t, func() { r.mesh, err = OpenMesh(r.layout) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.mesh.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (r *rig) register(t testing.TB) {
	t.Helper()
	for _, s := range r.mesh.Sockets {
		if err := r.programs[s.Interface].Register(s.Slot, s.FD); err != nil {
			t.Fatalf("%v: %v", s, err)
		}
	}
}

// steered returns what the programs sent to the mesh.
func (r *rig) steered(t testing.TB) (sum uint64) {
	t.Helper()
	for _, s := range r.mesh.Sockets {
		sum += r.programs[s.Interface].Steered(t, s.Slot)
	}
	return sum
}

// lost returns what the kernel lost at worker's sockets.
func (r *rig) lost(t testing.TB, worker int) (sum uint64) {
	t.Helper()
	for _, s := range r.mesh.Ports[worker].Sockets() {
		stats, err := Statistics(s.FD)
		if err != nil {
			t.Fatal(err)
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
}

// work starts a thread for each port that is not stalled.
func (r *rig) work(stalled ...int) *crew {
	c := &crew{taken: make([]atomic.Uint64, len(r.mesh.Ports))}
	idle := map[int]bool{}
	for _, w := range stalled {
		idle[w] = true
	}
	for w, p := range r.mesh.Ports {
		if !idle[w] {
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

// settled waits until as many frames were taken as were steered and not lost, by the
// workers that run.
func (r *rig) settled(t testing.TB, c *crew) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var sum uint64
		for w, p := range r.mesh.Ports {
			sum += c.taken[w].Load() + r.lost(t, w) + uint64(p.InRing())
		}
		running := 0
		for w, p := range r.mesh.Ports {
			if c.taken[w].Load() > 0 {
				running += p.InRing()
			}
		}
		if sum == r.steered(t) && running == 0 {
			return
		}
	}
}

// ledger fails the test unless steered = taken + lost + in ring, and returns the
// terms. The workers have stopped.
func (r *rig) ledger(t testing.TB) (steered, taken, lost, inRing uint64) {
	t.Helper()
	for w, p := range r.mesh.Ports {
		taken += p.Taken()
		lost += r.lost(t, w)
		inRing += uint64(p.InRing())
		if p.BadDescriptor+p.BadMeta+p.MultiBuffer != 0 {
			t.Errorf("worker %d: unusable frames: %+v", w, p.Counters)
		}
	}
	steered = r.steered(t)
	if steered != taken+lost+inRing {
		t.Errorf("steered %d != taken %d + lost %d + in ring %d", steered, taken, lost, inRing)
	}
	return steered, taken, lost, inRing
}

func modes(t *testing.T, f func(t *testing.T, driver bool)) {
	t.Helper()
	for _, driver := range []bool{false, true} {
		t.Run(map[bool]string{false: "skb mode", true: "driver mode"}[driver], func(t *testing.T) { f(t, driver) })
	}
}

func TestEveryFrameReachesTheWorkerOfItsKey(t *testing.T) {
	for _, shape := range []struct{ interfaces, queues, workers int }{{1, 1, 1}, {1, 1, 4}, {1, 4, 4}, {2, 2, 3}} {
		t.Run(fmt.Sprintf("%d interfaces, %d queues, %d workers", shape.interfaces, shape.queues, shape.workers), func(t *testing.T) {
			modes(t, func(t *testing.T, driver bool) {
				r := newRig(t, shape.interfaces, shape.queues, shape.workers, 2048, driver)
				c := r.work()
				var wg sync.WaitGroup
				var sent atomic.Uint64
				for _, p := range r.pairs {
					s := netns.NewSender(t, p.A, p.B)
					wg.Go(func() {
						n, err := s.Send(load(40000/len(r.pairs), 150000/len(r.pairs)))
						sent.Add(uint64(n))
						if err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				r.settled(t, c)
				c.end()
				steered, taken, lost, inRing := r.ledger(t)
				if c.misplaced.Load() != 0 || c.garbled.Load() != 0 {
					t.Errorf("of %d frames %d misplaced, %d garbled", taken, c.misplaced.Load(), c.garbled.Load())
				}
				if steered < sent.Load()*9/10 || taken < steered*9/10 || inRing != 0 {
					t.Errorf("sent %d, steered %d, taken %d, lost %d, in ring %d", sent.Load(), steered, taken, lost, inRing)
				}
				t.Logf("sent %d steered %d taken %d lost %d", sent.Load(), steered, taken, lost)
			})
		})
	}
}
