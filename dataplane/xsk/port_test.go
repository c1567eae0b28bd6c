package xsk

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/steer"
)

// Whatever workers, kernel and lock do, every frame is in exactly one place, and once
// everything is released and the lock is free, all of them come back to the kernel.
func TestEveryFrameIsInExactlyOnePlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		workers := rapid.IntRange(1, 4).Draw(t, "workers")
		frames := 1 << rapid.IntRange(3, 6).Draw(t, "log frames")
		rxRing := 1 << rapid.IntRange(2, 5).Draw(t, "log RX ring")
		f := newFakeQueue(workers, frames, rxRing, frames)
		var batch [16]Frame
		steps := rapid.SliceOfN(rapid.IntRange(0, 5*workers+2), 1, 300).Draw(t, "steps")
		locked := false
		for _, step := range steps {
			p := f.ports[step%workers]
			switch step / workers {
			case 0:
				for f.deliver(p.worker, good(1, 8), 60, 0) && rapid.Bool().Draw(t, "more") {
				}
			case 1:
				p.Receive(batch[:1+step%16])
			case 2:
				p.Release()
			case 3: // somebody else takes the lock, and never sweeps
				if !locked {
					locked = f.refill.lock.CompareAndSwap(0, 1)
				}
			case 4:
				if locked {
					f.refill.lock.Store(0)
					locked = false
				}
			default:
				f.flush()
			}
			for i, n := range f.whereabouts() {
				if n != 1 {
					t.Fatalf("after step %d frame %d is in %d places", step, i, n)
				}
			}
		}
		f.refill.lock.Store(0)
		f.flush()
		for _, p := range f.ports {
			for p.Receive(batch[:]) > 0 {
				p.Release()
			}
		}
		for range 2 { // what found no room before, and was parked meanwhile
			f.flush()
			for _, p := range f.ports {
				p.Release()
				p.Receive(batch[:])
			}
		}
		if back := int(f.refill.fill.next-f.fill) + len(f.spare); back != frames {
			t.Fatalf("%d of %d frames came back", back, frames)
		}
	})
}

// The same with real threads: run with -race.
func TestWorkersRefillOneQueueAtOnce(t *testing.T) {
	const workers, frames, deliveries = 4, 256, 200000
	f := newFakeQueue(workers, frames, 64, frames)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for _, p := range f.ports {
		wg.Go(func() {
			var batch [16]Frame
			for !stop.Load() {
				if p.Receive(batch[:]) == 0 {
					runtime.Gosched()
				}
				p.Release()
			}
			for p.Receive(batch[:]) > 0 {
				p.Release()
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	var sent, idle uint64
	for sent < deliveries && idle < 1e8 {
		if f.deliver(random.IntN(workers), good(1, 8), 60, 0) {
			sent++
		} else {
			idle++
			runtime.Gosched()
		}
		if random.IntN(32) == 0 {
			f.flush()
		}
	}
	f.flush()
	stop.Store(true)
	wg.Wait()
	var got, parked uint64
	for _, p := range f.ports {
		p.settle()
		got += p.Received
		parked += p.Parked
	}
	if sent != deliveries || got != sent {
		t.Errorf("delivered %d of %d, received %d", sent, deliveries, got)
	}
	for i, n := range f.whereabouts() {
		if n != 1 {
			t.Fatalf("frame %d is in %d places", i, n)
		}
	}
	t.Logf("%d frames, %d parked", got, parked)
}

// The slow twin of take: what one descriptor is, by the rules in words.
func verdict(d unix.XDPDesc, m steer.Meta, contd bool, umem int) (kept bool, count func(*Counters) *uint64) {
	last := d.Options&unix.XDP_PKT_CONTD == 0
	switch {
	case contd && last:
		return false, func(c *Counters) *uint64 { return &c.MultiBuffer }
	case contd || !last:
		return false, nil
	case d.Addr < 32 || d.Addr > uint64(umem) || d.Addr+uint64(d.Len) > uint64(umem):
		return false, func(c *Counters) *uint64 { return &c.BadDescriptor }
	case m.Version != 1 || int(m.PayloadOffset)+int(m.PayloadLength) > int(d.Len) || uint64(m.Group) != m.Hash/(1<<54):
		return false, func(c *Counters) *uint64 { return &c.BadMeta }
	default:
		return true, func(c *Counters) *uint64 { return &c.Received }
	}
}

func TestUnusableFramesAreCountedAndNeverHandedOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFakeQueue(1, 32, 32, 32)
		p := f.ports[0]
		var want Counters
		var metas []steer.Meta
		contd := false
		begun := 0 // entries of a packet that has no end
		for range rapid.IntRange(1, 31).Draw(t, "frames") {
			m := good(rapid.Uint64().Draw(t, "hash"), rapid.IntRange(0, 100).Draw(t, "payload"))
			switch rapid.IntRange(0, 8).Draw(t, "fault") {
			case 0:
				m.Version = uint16(rapid.IntRange(0, 2).Draw(t, "version"))
			case 1:
				m.PayloadOffset = rapid.Uint16().Draw(t, "offset")
			case 2:
				m.PayloadLength = rapid.Uint16().Draw(t, "length")
			case 3:
				m.Group = rapid.Uint16().Draw(t, "group")
			}
			length := uint32(rapid.IntRange(42, 200).Draw(t, "bytes"))
			options := uint32(rapid.IntRange(0, 4).Draw(t, "options") / 4)
			if !f.deliver(0, m, length, options) {
				t.Fatal("no room")
			}
			d := p.rings[0].desc(f.rx[0] - 1)
			if rapid.IntRange(0, 9).Draw(t, "wild") == 0 {
				d.Addr = rapid.SampledFrom([]uint64{0, 31, uint64(len(f.umem)) - 1, uint64(len(f.umem)), 1 << 40, ^uint64(0)}).Draw(t, "address")
				if d.Addr == uint64(len(f.umem))-1 {
					d.Len = 2
				}
			}
			kept, count := verdict(*d, m, contd, len(f.umem))
			contd = options != 0
			if begun++; !contd {
				begun = 0
			}
			if count != nil {
				*count(&want)++
			}
			if kept {
				metas = append(metas, m)
			}
		}
		var batch [64]Frame
		f.flush()
		n := p.Receive(batch[:])
		if p.Counters != want || n != len(metas) {
			t.Fatalf("Receive = %d, %+v, want %d, %+v", n, p.Counters, len(metas), want)
		}
		for i, m := range metas {
			if batch[i].Meta != m {
				t.Fatalf("frame %d has %+v, want %+v", i, batch[i].Meta, m)
			}
		}
		if n == 0 && p.InRing() != begun {
			t.Fatalf("nothing was handed out and %d entries stay in the ring, want %d", p.InRing(), begun)
		}
		// Whichever frame is the first that is not done: what is counted before it and
		// after it is all there is.
		for at := range n {
			before := p.Committed(batch[at:n])
			_, position := batch[at].Place()
			again := p.rings[0]
			again.next, again.whole, again.contd = position, position, false
			after := Counters{}
			var rest [64]Frame
			again.take(rest[:], &after)
			if sum := (Counters{
				Received: before.Received + after.Received, BadDescriptor: before.BadDescriptor + after.BadDescriptor,
				BadMeta: before.BadMeta + after.BadMeta, MultiBuffer: before.MultiBuffer + after.MultiBuffer,
			}); sum != want || before.Received != uint64(at) {
				t.Fatalf("%d of %d done: %+v before, %+v after, want %+v together", at, n, before, after, want)
			}
		}
		p.Release()
		if p.InRing() != begun {
			t.Fatalf("released, and %d entries stay in the ring, want %d", p.InRing(), begun)
		}
	})
}

// Nothing shows to the kernel before Release.
func TestReceiveOnlyPeeks(t *testing.T) {
	f := newFakeQueue(1, 16, 16, 16)
	for range 10 {
		f.deliver(0, good(1, 8), 60, 0)
	}
	p := f.ports[0]
	var batch [4]Frame
	var at [1]uint32
	for range 2 {
		if n := p.Receive(batch[:]); n != 4 {
			t.Fatalf("Receive = %d, want 4", n)
		}
	}
	if p.InRing() != 10 || f.refill.fill.waiting() != 16 {
		t.Errorf("before Release: %d in ring, %d to fill, want 10, 16", p.InRing(), f.refill.fill.waiting())
	}
	if n := p.Positions(at[:], nil); n != 1 || at[0] != 8 {
		t.Errorf("Positions = %d %v, want 8", n, at)
	}
	f.flush()
	p.Release()
	if p.InRing() != 2 || f.refill.fill.waiting() != 14 {
		t.Errorf("after Release: %d in ring, %d to fill, want 2, 14", p.InRing(), f.refill.fill.waiting())
	}
}

// With all rings full each batch has its share of every ring; with one full the batch
// is full of that one.
func TestReceiveIsFairOverRings(t *testing.T) {
	const rings, size = 5, 256
	p := &Port{}
	var queues []*fakeQueue
	for range rings {
		f := newFakeQueue(1, size, size, size)
		queues = append(queues, f)
	}
	for i, f := range queues {
		for f.deliver(0, good(uint64(i), 8), 60, 0) {
		}
		p.rings = append(p.rings, f.ports[0].rings[0])
	}
	var got [rings]int
	var batch [64]Frame
	for range 10 {
		n := p.Receive(batch[:])
		if n != len(batch) {
			t.Fatalf("Receive = %d with more in every ring", n)
		}
		var of [rings]int
		for i := range n {
			of[batch[i].Meta.Hash]++
			got[batch[i].Meta.Hash]++
		}
		for r, k := range of {
			if k < 64/rings-4 {
				t.Errorf("ring %d gave %d of a batch of %d", r, k, n)
			}
		}
		p.Release()
	}
	for r, k := range got {
		if k < 640/rings-5 || k > 640/rings+5 {
			t.Errorf("ring %d gave %d of 640: %v", r, k, got)
		}
	}
	lone := &Port{}
	for i := range 3 {
		f := newFakeQueue(1, size, size, size)
		for i == 1 && f.deliver(0, good(1, 8), 60, 0) {
		}
		lone.rings = append(lone.rings, f.ports[0].rings[0])
	}
	if n := lone.Receive(batch[:]); n != len(batch) {
		t.Errorf("one full ring of three: Receive = %d, want %d", n, len(batch))
	}
}

func TestSizesLeaveFramesForAllStalledWorkers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := Wish{
			Workers: rapid.IntRange(0, 70).Draw(t, "workers"), RxRing: rapid.IntRange(0, 1<<17).Draw(t, "RX"),
			TxRing: rapid.IntRange(0, 5000).Draw(t, "TX"), FillReserve: rapid.IntRange(0, 5000).Draw(t, "reserve"),
		}
		s, err := Fit(w)
		if err != nil {
			if w.Workers >= 1 && w.Workers <= 64 && max(w.RxRing, 4096)*2*w.Workers < 1<<20 {
				t.Fatalf("Fit(%+v): %v", w, err)
			}
			return
		}
		d := w.withDefaults()
		if s.RxRing < d.RxRing || s.TxRing < d.TxRing || s.Frames < d.Workers*s.RxRing+d.FillReserve+s.TxRing || s.FillRing < s.Frames ||
			s.Frames >= 2*(d.Workers*s.RxRing+d.FillReserve+s.TxRing) || s.UMEMBytes() >= 1<<32 {
			t.Fatalf("Fit(%+v) = %+v", w, s)
		}
		l := Layout{Interfaces: []Interface{{Name: "eth0", Index: 2, Queues: 1}}, Workers: w.Workers, Sizes: s}
		if err := l.Check(); err != nil {
			t.Fatal(err)
		}
		l.Sizes.Frames, l.Sizes.FillRing = s.Frames/2, s.Frames/2
		if l.Sizes.Frames < w.Workers*s.RxRing+s.TxRing && l.Check() == nil {
			t.Fatalf("%+v: half the frames are enough?", l)
		}
	})
	w := Wish{Workers: 4}
	s, _ := Fit(w)
	const want = `     16384 frames  4 workers × RX ring of 4096: all may stall with full rings
      2048 frames  fill reserve: what the driver holds
       512 frames  TX ring
     32768 frames  rounded up from 18944 to a power of two
  67108864 bytes   UMEM a queue: 32768 frames of 2048 bytes
    536576 bytes   rings a queue: fill, completion, TX, 4 × RX`
	if got := strings.Join(w.Explain(s), "\n"); got != want {
		t.Errorf("Explain =\n%s\nwant\n%s", got, want)
	}
}

func TestALayoutGivesEveryQueueOneOwnerAndEveryWorkerASocket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Layout{Workers: rapid.IntRange(1, 64).Draw(t, "workers"), Raw: rapid.Bool().Draw(t, "raw")}
		for range rapid.IntRange(1, 3).Draw(t, "interfaces") {
			l.Interfaces = append(l.Interfaces, Interface{Queues: rapid.IntRange(1, 64).Draw(t, "queues")})
		}
		type place struct{ nic, queue int }
		owners, sockets := map[place]int{}, map[place]map[uint32]bool{}
		for _, s := range l.Sockets() {
			at := place{s.Interface, s.Queue}
			if s.Owner {
				if owners[at]++; l.Raw && s.Worker != 0 || !l.Raw && s.Worker != s.Queue%l.Workers {
					t.Fatalf("%+v owns", s)
				}
			}
			if sockets[at] == nil {
				sockets[at] = map[uint32]bool{}
			}
			sockets[at][s.Slot] = true
			if s.Slot != uint32(s.Queue*64+s.Worker) {
				t.Fatalf("%+v: slot", s)
			}
		}
		for at, slots := range sockets {
			if owners[at] != 1 || len(slots) != l.Workers {
				t.Fatalf("%+v has %d owners, %d sockets", at, owners[at], len(slots))
			}
		}
		fds := make([]int, len(l.Sockets()))
		for i := range fds {
			fds[i] = i
		}
		n := len(l.Owners())
		got, err := l.Assign(fds[:n], fds[n:])
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range got {
			if s.Owner && s.FD != s.OwnerIndex || !s.Owner && s.FD < n {
				t.Fatalf("%+v", s)
			}
		}
		if _, err := l.Assign(fds[:n-1], fds[n:]); err == nil {
			t.Fatal("an owner is missing and nobody minds")
		}
		weave(t, l)
	})
}

// weave fails unless descriptors by worker come where the workers' sockets are.
func weave(t *rapid.T, l Layout) {
	absent := rapid.IntRange(0, l.Workers-1).Draw(t, "absent")
	byWorker := make([][]int, l.Workers)
	for _, s := range l.Members() {
		byWorker[s.Worker] = append(byWorker[s.Worker], 100_000+1000*int(s.Slot)+s.Interface)
	}
	if got := l.MembersOf(absent); len(got) != len(byWorker[absent]) {
		t.Fatalf("worker %d has %d members, want %d", absent, len(got), len(byWorker[absent]))
	}
	byWorker[absent] = nil
	members, err := l.Weave(byWorker)
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := l.Assign(make([]int, len(l.Owners())), members)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		want := 100_000 + 1000*int(s.Slot) + s.Interface
		switch {
		case s.Owner:
			want = 0
		case s.Worker == absent:
			want = -1
		}
		if s.FD != want {
			t.Fatalf("%+v has descriptor %d, want %d", s, s.FD, want)
		}
	}
	if other := (absent + 1) % l.Workers; len(byWorker[other]) > 0 {
		byWorker[other] = byWorker[other][1:]
		if _, err := l.Weave(byWorker); err == nil && len(byWorker[other]) > 0 {
			t.Fatal("a member is missing and nobody minds")
		}
	}
}

// waiter counts waits.
type waiter int

func (w *waiter) Wait(time.Duration) error { *w++; return unix.ENXIO }

func TestAnAdaptiveWorkerSpinsYieldsAndThenSleeps(t *testing.T) {
	var w waiter
	i := Idle{Adaptive: true, Spins: 3, Yields: 2}
	for round := range 2 {
		for n := range 5 {
			if err := i.Rest(0, &w); err != nil || int(w) != round*3 {
				t.Fatalf("empty cycle %d: %v, %d waits", n, err, w)
			}
		}
		for n := range 3 {
			if err := i.Rest(0, &w); err == nil || int(w) != round*3+n+1 {
				t.Fatalf("a wait's error is lost: %v, %d waits", err, w)
			}
		}
		if err := i.Rest(1, &w); err != nil {
			t.Fatal(err)
		}
	}
	spin := Idle{}
	for range 1000 {
		if err := spin.Rest(0, &w); err != nil || w != 6 {
			t.Fatalf("a spinning worker waited: %v", err)
		}
	}
}
