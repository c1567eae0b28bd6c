package xsk

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/internal/netns"
)

// A frame that brought a process down can be looked at by the next one, so that it is kept
// for people to see, and all is received as if nobody had.
func TestAFrameThatIsLookedAtComesAllTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMortal(1, 64, 64)
		n := rapid.IntRange(1, 40).Draw(t, "frames")
		for range n {
			if rapid.IntRange(0, 9).Draw(t, "unusable") == 0 {
				m.deliver(0, good(1<<40, 8), 10, 0)
			} else {
				m.deliverTo(0)
			}
		}
		m.flush()
		m.receive(0, 16)
		m.work(0, rapid.IntRange(0, 16).Draw(t, "done"))
		if len(m.hand[0]) == 0 {
			m.receive(0, 16)
			m.work(0, 0) // what could not be used is done
		}
		var places []Frame
		for _, f := range m.hand[0] {
			if rapid.IntRange(0, 3).Draw(t, "poison") == 0 {
				places = append(places, f)
			}
		}
		counted := m.ports[0].Committed(m.hand[0])
		m.next(t)
		p := m.ports[0]
		p.Counters = counted
		for _, f := range places {
			ring, position := f.Place()
			got, err := p.Peek(ring, position)
			if err != nil || got.Meta != f.Meta || string(got.Data) != string(f.Data) {
				t.Fatalf("look at %d: %v, %+v, want %+v", position, err, got.Meta, f.Meta)
			}
		}
		for range 2 * n {
			if m.receive(0, rapid.IntRange(1, 16).Draw(t, "batch")); len(m.hand[0]) > 0 || p.Spent() {
				m.work(0, 16)
			}
		}
		if fmt.Sprint(m.done[0]) != fmt.Sprint(m.sent[0]) {
			t.Fatalf("done %v, want %v", m.done[0], m.sent[0])
		}
		if p.Taken() != uint64(n) || p.InRing() != 0 {
			t.Fatalf("%+v of %d frames, %d in the ring", p.Counters, n, p.InRing())
		}
		if _, err := p.Peek(0, p.rings[0].next); err == nil {
			t.Fatal("a frame was shown that has not come")
		}
	})
}

// What was parked of a socket that is gone goes back when the worker's next one comes.
func TestAnotherSocketOfAWorkerBeginsItsLotAnew(t *testing.T) {
	f := newFakeQueue(2, 16, 8, 16)
	for range 5 {
		f.deliver(1, good(1, 8), 60, 0)
	}
	f.flush()
	var frames [16]Frame
	f.refill.lock.Store(1)
	f.ports[1].Receive(frames[:])
	f.ports[1].Release()
	if n := f.refill.lots[1].held(); n != 5 {
		t.Fatalf("%d parked, want 5", n)
	}
	r := fakeRing(8, descBytes)
	if err := f.refill.join(1, &r, 77); err == nil {
		t.Error("joined with frames of the socket before in the lot and nobody to take them")
	}
	f.refill.lock.Store(0)
	if err := f.refill.join(1, &r, 77); err != nil {
		t.Fatal(err)
	}
	f.ports[1].rings[0] = newRXRing(r, 0, f.umem, f.refill)
	f.rx[1] = 0
	for i, n := range f.whereabouts() {
		if n != 1 {
			t.Errorf("frame %d is in %d places", i, n)
		}
	}
	if err := f.refill.join(2, &r, 78); err == nil {
		t.Error("a third worker joined a queue for two")
	}
}

// rawPair opens raw owners of a pair's near end.
func rawPair(t *testing.T, workers, most int) (Layout, *netns.Pair, []*RawOwner) {
	t.Helper()
	p := netns.NewPair(t, netns.Options{Queues: 2})
	l := Layout{
		Interfaces: []Interface{{Name: p.B.Interface, Index: p.B.Index, Queues: 2}},
		Workers:    workers, Sizes: small(t, most, 256), Raw: true,
	}
	var owners []*RawOwner
	var err error
	p.B.Do(t, func() { owners, err = OpenRawOwners(l) })
	if err != nil {
		t.Fatal(err)
	}
	return l, p, owners
}

func descriptors(owners []*RawOwner) (fds, files []int) {
	for _, o := range owners {
		fds, files = append(fds, o.FD), append(files, o.File)
	}
	return fds, files
}

func newRegion(t *testing.T) *arena.Region {
	t.Helper()
	r, err := arena.New("test queues", 1<<32)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// Workers come and go while packets flow; sockets keep their places, and no frame is
// lost by it.
func TestWorkersComeAndGoOnTheSameOwners(t *testing.T) {
	l, pair, raw := rawPair(t, 1, 3)
	fds, files := descriptors(raw)
	owners, err := AdoptOwners(l, fds, files, newRegion(t))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{layout: l, pairs: []*netns.Pair{pair}, mesh: &Mesh{Owners: owners}, programs: []steering{attach(t, pair.B, 3, true)}}
	byWorker := make([][]int, 3)
	grow := func(worker int) {
		t.Helper()
		r.layout.Workers = max(r.layout.Workers, worker+1)
		var err error
		if worker > 0 {
			pair.B.Do(t, func() { byWorker[worker], err = OpenMembersOf(r.layout, fds, worker) })
		}
		if err != nil {
			t.Fatal(err)
		}
		members, err := r.layout.Weave(byWorker[:r.layout.Workers])
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewPort(r.layout, worker, owners, members, nil)
		if err != nil {
			t.Fatal(err)
		}
		if worker == len(r.mesh.Ports) {
			r.mesh.Ports = append(r.mesh.Ports, nil)
		}
		r.mesh.Ports[worker] = p
		r.mesh.Sockets = nil
		for _, p := range r.mesh.Ports {
			r.mesh.Sockets = append(r.mesh.Sockets, p.Sockets()...)
		}
		r.register(t)
	}
	t.Cleanup(func() {
		if err := r.mesh.Close(); err != nil {
			t.Error(err)
		}
	})
	var taken uint64
	for _, worker := range []int{0, 1, 2, 1, 2} {
		if worker < len(r.mesh.Ports) { // it has drained its rings: its sockets may go
			p := r.mesh.Ports[worker]
			taken += p.Taken()
			for _, s := range p.Sockets() {
				r.programs[0].Unregister(s.Slot)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
		grow(worker)
		before := r.steered(t)
		for range 10 {
			r.send(t, load(50, 0))
			var frames [64]Frame
			eventually(t, "all was taken", func() bool {
				sum := taken
				for _, p := range r.mesh.Ports {
					p.Receive(frames[:])
					p.Release()
					sum += p.Taken()
				}
				return sum == r.steered(t)
			})
		}
		if came := r.steered(t) - before; came < uint64(100*len(r.mesh.Ports)) {
			t.Errorf("%d frames came to %d workers", came, len(r.mesh.Ports))
		}
		for _, o := range owners {
			if a, err := o.Account(); err != nil || a.Rings != 0 || a.Kernel != 0 {
				t.Errorf("with %d workers: %+v, %v", len(r.mesh.Ports), a, err)
			}
		}
	}
}

func TestAMemoryThatIsNotOfTheSocketsIsRefused(t *testing.T) {
	l, pair, raw := rawPair(t, 1, 1)
	fds, files := descriptors(raw)
	good := newRegion(t)
	program := attach(t, pair.B, 1, true)
	use := func() {
		var dup []int
		for _, fd := range append(append([]int{}, fds...), files...) {
			fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			dup = append(dup, fd)
		}
		again, err := unix.FcntlInt(uintptr(good.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		region, err := arena.Open(again)
		if err != nil {
			t.Fatal(err)
		}
		defer region.Close()
		owners, err := AdoptOwners(l, dup[:2], dup[2:], region)
		if err != nil {
			t.Fatal(err)
		}
		if err := region.Complete(StateVersion); err != nil {
			t.Fatal(err)
		}
		p, err := NewPort(l, 0, owners, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Sockets() {
			if err := program.Register(s.Slot, s.FD); err != nil {
				t.Fatal(err)
			}
		}
		r := &rig{pairs: []*netns.Pair{pair}}
		var frames [64]Frame
		for before := p.Taken(); p.Taken() < before+10; p.Release() {
			r.send(t, load(20, 0))
			p.Receive(frames[:])
		}
		if _, err := NewPort(l, 0, owners, nil, []uint32{0, 1 << 30}); !errors.Is(err, ErrState) {
			t.Errorf("a port that goes on far beyond what came: %v", err)
		}
		if err := errors.Join(p.Close(), closeOwners(owners)); err != nil {
			t.Fatal(err)
		}
	}
	use()
	use()
	if _, err := AdoptOwners(l, fds, files, newRegion(t)); !errors.Is(err, ErrState) {
		t.Errorf("a new memory for sockets that were used: %v", err)
	}
	_, _, others := rawPair(t, 1, 1)
	otherFDs, otherFiles := descriptors(others)
	if _, err := AdoptOwners(l, otherFDs, otherFiles, reopened(t, good)); !errors.Is(err, ErrState) {
		t.Errorf("the memory of other sockets: %v", err)
	}
	empty, err := unix.MemfdCreate("too small", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(empty)
	if _, err := AdoptOwners(l, fds, []int{empty, empty}, reopened(t, good)); !errors.Is(err, ErrState) {
		t.Errorf("a memory file without memory: %v", err)
	}
	if _, err := AdoptOwners(l, fds[:1], files, good); err == nil {
		t.Error("a socket is missing and nobody minds")
	}
	for _, o := range append(raw, others...) {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
}

func reopened(t *testing.T, r *arena.Region) *arena.Region {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(r.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	again, err := arena.Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	return again
}

// What is asked of a UMEM's memory and cannot be had is said, and costs nothing else.
func TestAnOwnerSaysWhatMemoryItGot(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	for _, m := range []Memory{{}, {OnNode: true}, {Huge: true}, {Huge: true, OnNode: true}, {OnNode: true, Node: 900}, {OnNode: true, Node: -1}} {
		p.B.Do(t, func() {
			o, err := OpenRaw(OwnerConfig{Interface: p.B.Interface, Sizes: small(t, 1, 256), Memory: m})
			if err != nil {
				t.Fatalf("%+v: %v", m, err)
			}
			defer o.Close()
			g := o.Granted
			if g.PageBytes*g.Pages < small(t, 1, 256).UMEMBytes() {
				t.Errorf("%+v: got %+v", m, g)
			}
			huge := g.PageBytes == hugePage
			if asked, got := m.Huge, huge; asked != got && !strings.Contains(g.Why, "2097152") || !asked && got {
				t.Errorf("%+v: got %+v", m, g)
			}
			if !huge && g.PageBytes != os.Getpagesize() {
				t.Errorf("%+v: pages of %d bytes", m, g.PageBytes)
			}
			switch near := g.Remote == 0; {
			case !m.OnNode && g.Remote != -1, m.OnNode && m.Node != 0 && (near || !strings.Contains(g.Why, "node")):
				t.Errorf("%+v: got %+v", m, g)
			case m.OnNode && m.Node == 0 && !near && g.Why == "":
				t.Errorf("%+v: got %+v", m, g)
			}
			if seals, err := unix.FcntlInt(uintptr(o.File), unix.F_GET_SEALS, 0); err != nil || seals&(unix.F_SEAL_SHRINK|unix.F_SEAL_GROW) != unix.F_SEAL_SHRINK|unix.F_SEAL_GROW {
				t.Errorf("seals of the memory file: %#x, %v", seals, err)
			}
			t.Logf("%+v: %+v", m, g)
		})
	}
}
