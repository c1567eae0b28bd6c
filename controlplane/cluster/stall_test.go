package cluster

import (
	"testing"

	"github.com/headrace/headrace/rdma/collective"
)

var sixKeys = []string{"k0", "k1", "k2", "k3", "k4", "k5"}

// closeAll puts windows [from, to) out at all boxes, a round each, and writes what the
// sinks have taken.
func (w *world) closeAll(from, to int) {
	for n := from; n < to; n++ {
		for _, b := range w.boxes {
			b.close(n, sixKeys...)
			b.pumpAll()
		}
		w.now += 10
		w.commit()
		for _, b := range w.boxes {
			b.flush(len(b.sink))
		}
	}
}

// A sink that takes nothing costs its own rows, and no more memory than was given,
// at any box.
func TestAStalledSinkIsBounded(t *testing.T) {
	for name, stall := range map[string]func(b *box){
		"takes nothing":      func(b *box) { b.refuse = func() bool { return true } },
		"takes and is stuck": func(b *box) { b.stuck = true },
	} {
		t.Run(name, func(t *testing.T) {
			const hold = 16 << 10
			w := newWorld(t, 3, Config{MaxWait: 1 << 40, CorrectFor: 1000, Period: 40, Hold: hold})
			w.enter(collective.First(3))
			w.commit()
			w.commit()
			stall(w.boxes[0])
			for n := 0; n < 500; n += 50 {
				w.closeAll(n, n+50)
				for _, b := range w.boxes {
					m := b.engine.member
					if m.holder.bytes > 2*hold || len(m.registry.unsaved) > 60 || len(b.engine.contributor.windows) > 60 || len(m.leaves) > 60 {
						t.Fatalf("after %d windows box %s holds %d bytes, %d windows that are not safe, keeps %d; %d leaves", n+50, w.names[b.me],
							m.holder.bytes, len(m.registry.unsaved), len(b.engine.contributor.windows), len(m.leaves))
					}
				}
			}
			a, b, c := w.boxes[0], w.boxes[1], w.boxes[2]
			if a.engine.member.shed[0] == 0 || b.engine.member.shed[0]+c.engine.member.shed[0] != 0 {
				t.Errorf("shed: %v, %v, %v", a.engine.member.shed, b.engine.member.shed, c.engine.member.shed)
			}
			a.report(true)
			if got := a.Stats().Queries[0].Shed; got != a.engine.member.shed[0] {
				t.Errorf("the figures say %d rows were dropped, %d were", got, a.engine.member.shed[0])
			}
			rows := 0
			for _, r := range w.parsed {
				if r.Revision == 0 {
					rows++
				}
			}
			if want := rows + int(a.engine.member.shed[0]) + a.engine.member.waiting(); want != 500*len(sixKeys) {
				t.Errorf("%d rows out, %d dropped, %d wait; %d in all, want %d", rows, a.engine.member.shed[0], a.engine.member.waiting(), want, 500*len(sixKeys))
			}
			w.checkRows()
			// It goes on as soon as the sink does.
			a.refuse, a.stuck = nil, false
			a.flush(len(a.sink))
			before := a.emitted
			w.closeAll(500, 502)
			w.commit()
			if a.emitted == before || a.engine.member.waiting() != 0 {
				t.Errorf("%d rows wait after the sink has gone on", a.engine.member.waiting())
			}
		})
	}
}

// A sink that is merely slower than a round loses nothing, however little is to be held.
func TestWhatJustFiredIsNotShed(t *testing.T) {
	w := newWorld(t, 3, Config{MaxWait: 1 << 40, CorrectFor: 1 << 40, Period: 40, Hold: 1})
	w.enter(collective.First(3))
	w.commit()
	w.commit()
	w.closeAll(0, 50)
	for _, b := range w.boxes {
		if b.engine.member.shed[0] != 0 {
			t.Errorf("box %s has dropped %d rows", w.names[b.me], b.engine.member.shed[0])
		}
	}
	if len(w.parsed) != 50*len(sixKeys) {
		t.Errorf("%d rows, want %d", len(w.parsed), 50*len(sixKeys))
	}
}
