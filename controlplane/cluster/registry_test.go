package cluster

import (
	"fmt"
	"testing"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma/collective"
)

func testRegistry(t *testing.T, peers int) *registry {
	t.Helper()
	r := newRegistry(testShape(t, peers), 1)
	r.members = collective.First(peers)
	return r
}

func TestAContributionCountsOnce(t *testing.T) {
	r := testRegistry(t, 2)
	c := &closing{window: windowID{0, 10, 20}, firing: outbox.OnTime, missing: 3}
	if e, homes := r.accept(0, c); e == nil || homes != 3 {
		t.Fatalf("accept() = %v, %v", e, homes)
	}
	for range 2 {
		if e, homes := r.accept(0, c); e != nil || homes != 0 {
			t.Errorf("the second time accept() = %v, %v", e, homes)
		}
	}
	if e := r.windows[c.window]; e.missing != 3 || e.contributors != 1 || r.counts[0].repeated != 2 {
		t.Errorf("missing %d of %v, repeated %d", e.missing, e.contributors, r.counts[0].repeated)
	}
	if e, homes := r.accept(1, &closing{window: windowID{0, 20, 30}, again: true, firing: outbox.OnTime}); e != nil || homes != 0 {
		t.Errorf("once more of a window that was never there: %v, %v", e, homes)
	}
}

// A floor that some member claims forgets no window that has not fired, nor one whose
// rows are not in the sinks.
func TestAFloorStopsBelowWhatIsNotOver(t *testing.T) {
	r := testRegistry(t, 3)
	for i := range 4 {
		start := event.Nanos(10 * i)
		r.accept(0, &closing{window: windowID{0, start, start + 10}, firing: outbox.OnTime})
	}
	r.marks[0][0], r.marks[1][0], r.marks[2][0] = 40, 20, 40
	r.begin()
	r.fire(1, nil)
	if len(r.fired) != 2 {
		t.Fatalf("%d fired, want 2", len(r.fired))
	}
	r.durable = []uint64{1, 1, 1}
	r.settle()
	r.expire([]mark{{floor: event.MaxNanos}, {floor: event.MinNanos}, {floor: event.MinNanos}})
	if r.floors[0] != 29 || len(r.removed) != 1 || len(r.windows) != 3 {
		t.Errorf("floor %d, %d forgotten, %d left; want 29, 1, 3", r.floors[0], len(r.removed), len(r.windows))
	}
	if e, _ := r.accept(1, &closing{window: windowID{0, 10, 20}, firing: outbox.OnTime}); e != nil || r.counts[0].late != 1 {
		t.Errorf("a contribution below the floor is taken")
	}
	if e, _ := r.accept(1, &closing{window: windowID{0, 20, 30}, firing: outbox.OnTime}); e == nil {
		t.Errorf("a contribution above the floor is not taken")
	}
}

func TestOwnersAndSeconds(t *testing.T) {
	for _, c := range []struct {
		home          int
		members       collective.Set
		owner, second int
	}{
		{1, collective.Of(0, 1, 2), 1, 2},
		{2, collective.Of(0, 1, 2), 2, 0},
		{1, collective.Of(0, 2), 2, 0},
		{2, collective.Of(0, 1), 0, 1},
		{1, collective.Of(0), 0, 0},
	} {
		if o, s := owner(c.home, c.members), second(c.home, c.members); o != c.owner || s != c.second {
			t.Errorf("home %d of %b: owner %d, second %d, want %d, %d", c.home, c.members, o, s, c.owner, c.second)
		}
	}
}

// A state that is not one must not end the process, whatever merging it does.
func TestAStateThatPanicsDamagesItsShareOnly(t *testing.T) {
	s := testShape(t, 1)
	h := newTestHolder(t, s)
	w := windowID{0, 10, 20}
	state := make([]uint64, s.limits.Words[0])
	for i := range state {
		state[i] = ^uint64(0)
	}
	b := appendState(nil, w, []byte("k"), state)
	for range 3 {
		h.merge(shareID{w, 0}, 0, b)
	}
	l := h.form(&entry{id: w, contributors: 1}, &firing{sequence: 1, firing: outbox.OnTime, merged: []collective.Set{1}}, 0)
	for _, line := range splitLines(l) {
		parse(t, line)
	}
}

func splitLines(l lines) (out [][]byte) {
	from := 0
	for _, end := range l.ends {
		out = append(out, l.text[from:end])
		from = end
	}
	return out
}

// One round of three boxes that bring a window of n keys each, and its rows.
func BenchmarkRound(b *testing.B) {
	for _, keys := range []int{0, 100, 10_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			w := newWorld(b, 3, Config{MaxWait: 1 << 40, CorrectFor: 1, Period: 40})
			w.enter(7)
			w.commit()
			w.commit()
			batch := newBatch()
			state := make([]uint64, w.sets[0].Words())
			fold(w.sets[0], batch, state, observation{size: 3, price: 7, x: 1.5})
			var key [][]byte
			for k := range keys {
				key = append(key, fmt.Appendf(nil, "key%d", k))
			}
			at := make([]uint64, 3)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				id := windowID{0, event.Nanos(n * width), event.Nanos(n*width + width)}
				for i, box := range w.boxes {
					for _, k := range key {
						at[i] += 8
						box.tap.Record(0, &outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, Start: id.start, End: id.end, Key: k, State: state}, at[i])
					}
					for worker := range 2 {
						box.tap.Record(worker, &outbox.Partial{Kind: outbox.KindWatermark, End: id.end}, at[i])
					}
				}
				w.now += 10
				w.commit()
				for _, box := range w.boxes {
					for _, in := range box.sink {
						in.written()
					}
					box.sink = box.sink[:0]
				}
			}
			if keys > 0 {
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(3*keys), "ns/partial")
			}
		})
	}
}
