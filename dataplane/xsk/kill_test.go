package xsk

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/headrace/headrace/dataplane/fault/killtest"
)

// A mortal is a queue whose process may die anywhere: workers with what they have
// committed, which outlives them, and what they have in hand, which does not.
type mortal struct {
	*fakeQueue
	committed [][]uint32 // by worker, ring
	done      [][]uint64 // by worker: ids of the frames that were committed, in order
	sent      [][]uint64 // by worker: ids of the frames that were delivered to it
	hand      [][]Frame
	frames    [][16]Frame
	dead      []bool // died, while others of the process go on
	held      bool   // the lock, by somebody else
	id        uint64
}

func newMortal(workers, frames, rxRing int) *mortal {
	m := &mortal{fakeQueue: newFakeQueue(workers, frames, rxRing, frames)}
	for _, p := range m.ports {
		p.keeps = true
	}
	m.committed = make([][]uint32, workers)
	m.done, m.sent = make([][]uint64, workers), make([][]uint64, workers)
	m.hand, m.frames, m.dead = make([][]Frame, workers), make([][16]Frame, workers), make([]bool, workers)
	for w := range m.committed {
		m.committed[w] = []uint32{0}
	}
	return m
}

// fataler fails a test, also one of package rapid.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

// next makes the next process over what the one before left: rings and state.
func (m *mortal) next(t fataler) {
	t.Helper()
	fill := newProducerRing(m.refill.fill.ring)
	m.refill = newRefill(m.refill.queueState, fill, 2048, -1)
	if err := m.refill.restore(); err != nil {
		t.Fatal(err)
	}
	clear(m.dead)
	for w, old := range m.ports {
		r := old.rings[0].ring
		if err := m.refill.join(w, &r, uint64(w)+1); err != nil {
			t.Fatal(err)
		}
		p := &Port{worker: w, keeps: true, rings: []rxRing{newRXRing(r, 0, m.umem, m.refill)}, sockets: []Socket{{}}}
		m.ports[w], m.hand[w] = p, nil
		if err := p.resume(m.committed[w]); err != nil {
			t.Fatal(err)
		}
	}
}

// receive takes frames if none are in hand.
func (m *mortal) receive(w, n int) {
	if len(m.hand[w]) == 0 {
		m.hand[w] = m.frames[w][:m.ports[w].Receive(m.frames[w][:n])]
	}
}

// work does some of the frames in hand, commits that, and if these were all of them
// releases.
func (m *mortal) work(w, n int) {
	p := m.ports[w]
	n = min(n, len(m.hand[w]))
	for i := range m.hand[w][:n] {
		m.done[w] = append(m.done[w], m.hand[w][i].Meta.Hash)
	}
	m.hand[w] = m.hand[w][n:]
	p.Positions(m.committed[w], m.hand[w])
	if len(m.hand[w]) == 0 {
		p.Release()
	}
}

func (m *mortal) deliverTo(w int) bool {
	m.id++
	if !m.deliver(w, good(m.id, 8), 60, 0) {
		return false
	}
	m.sent[w] = append(m.sent[w], m.id)
	return true
}

// seeds is how many random lives the test below runs.
var seeds = flag.Int("seeds", 300, "how many random lives to run")

// Wherever the process is killed, and whatever its other threads do until they are too:
// every frame stays in exactly one place, and every delivered one is done exactly once,
// in order. Without fault points it is killed between statements of the worker only.
func TestAKillLosesNoFrameAndRepeatsNone(t *testing.T) {
	deaths := 0
	for seed := range uint64(*seeds) {
		random := rand.New(rand.NewPCG(seed, 1))
		workers, frames := 1+random.IntN(4), 8<<random.IntN(4)
		m := newMortal(workers, frames, 4<<random.IntN(4))
		for step := range 1000 {
			if m.step(t, random) {
				deaths++
			}
			m.check(t, seed, step)
		}
		m.end(t)
		m.check(t, seed, -1)
		for w := range m.ports {
			if !slices.Equal(m.done[w], m.sent[w]) {
				t.Fatalf("seed %d: worker %d was sent %v and has done %v", seed, w, m.sent[w], m.done[w])
			}
		}
		if back := int(m.refill.fill.next-m.fill) + len(m.spare); back != frames {
			t.Fatalf("seed %d: %d of %d frames came back", seed, back, frames)
		}
	}
	t.Logf("%d deaths", deaths)
}

// step is something that a worker, the kernel or the next process does, and reports
// whether somebody died of it.
func (m *mortal) step(t *testing.T, random *rand.Rand) (died bool) {
	t.Helper()
	w := random.IntN(len(m.ports))
	what := random.IntN(16)
	if m.dead[w] && what > 1 {
		return false
	}
	died = killtest.Attempt(func() {
		if random.IntN(3) == 0 && what != 2 && what != 3 {
			killtest.Arm(1 + random.Int64N(12))
		}
		switch what {
		case 0:
			if !slices.Contains(m.dead, true) && random.IntN(4) > 0 {
				break // nobody died: seldom
			}
			fallthrough
		case 1:
			if slices.Contains(m.dead, true) || random.IntN(10) == 0 {
				m.held = false
				m.next(t)
			}
		case 2: // somebody else of this process takes the lock for a while, or lets go
			if m.held {
				m.refill.lock.Store(0)
				m.held = false
			} else {
				m.held = m.refill.lock.CompareAndSwap(0, 1)
			}
		case 3:
			m.flush()
		case 4, 5, 6, 7:
			for m.deliverTo(random.IntN(len(m.ports))) && random.IntN(6) > 0 {
			}
			if random.IntN(4) > 0 {
				m.flush()
			}
		case 8, 9, 10:
			m.receive(w, 1+random.IntN(16))
		case 11:
			m.ports[w].settle()
		case 12:
			m.work(w, random.IntN(4))
		default:
			m.work(w, 16)
		}
	})
	if died {
		m.dead[w] = true
		for other := range m.dead { // during the start nobody works yet
			m.dead[other] = m.dead[other] || what < 2
		}
	}
	return died
}

// end does everything that is left.
func (m *mortal) end(t *testing.T) {
	t.Helper()
	m.next(t)
	for range 4 { // what found no room at first
		m.flush()
		for w := range m.ports {
			for m.receive(w, 16); len(m.hand[w]) > 0; m.receive(w, 16) {
				m.work(w, 16)
			}
			m.ports[w].settle()
		}
	}
}

// check fails unless every frame is in one place, as the next process would see it.
func (m *mortal) check(t *testing.T, seed uint64, step int) {
	t.Helper()
	for i, n := range m.left() {
		if n != 1 {
			t.Fatalf("seed %d, after step %d: frame %d is in %d places", seed, step, i, n)
		}
	}
	for w := range m.done {
		if n := len(m.done[w]); n > len(m.sent[w]) || !slices.Equal(m.done[w], m.sent[w][:n]) {
			t.Fatalf("seed %d, after step %d: worker %d was sent %v and has done %v", seed, step, w, m.sent[w], m.done[w])
		}
	}
}

// left counts, for every frame, the places that list it, as far as it can be known
// after the process has ended: whereabouts' twin, from what is in memory alone.
func (m *mortal) left() []int {
	places := make([]int, m.sizes.Frames)
	add := func(a uint64) { places[a/2048]++ }
	producer := *m.refill.fill.producer
	for i := m.fill; i != producer; i++ {
		add(*m.refill.fill.address(i))
	}
	for _, a := range m.spare {
		add(a)
	}
	heads := make([]uint32, len(m.ports))
	for w := range heads {
		heads[w] = m.refill.lots[w].Head.Load()
		for _, j := range m.refill.head.Journals {
			if j.To == producer && j.Lots>>w&1 != 0 {
				heads[w] = j.Heads[w]
			}
		}
	}
	for w, p := range m.ports {
		r := &p.rings[0].ring
		from := *r.consumer
		for i := heads[w]; int32(from-i) > 0; i++ {
			add(m.refill.lots[w].slots[i&r.mask])
		}
		if int32(heads[w]-from) > 0 {
			from = heads[w]
		}
		for i := from; i != m.rx[w]; i++ {
			add(r.desc(i).Addr)
		}
	}
	return places
}
