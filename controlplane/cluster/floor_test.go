package cluster

import (
	"testing"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma/collective"
)

// One window far ahead, of one box, is one window: the others' are not late for it, nor
// those that are behind, and each can be corrected for as long as it may.
func TestAWindowFarAheadMakesNoOtherLate(t *testing.T) {
	const ahead = 1_000_000
	for name, behind := range map[string]int{"all keep up": 0, "one is behind": 1} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3, Config{MaxWait: 50, CorrectFor: 500, Period: 40})
			w.enter(collective.First(3))
			w.commit()
			w.commit()
			w.closeAll(0, 3)
			w.boxes[0].close(ahead, "k0")
			w.boxes[0].pumpAll()
			for range 40 { // the others are quiet for long
				w.now += 100
				w.commit()
			}
			const n = 60
			for i := 3; i < n; i++ {
				for _, b := range w.boxes[1:] {
					at := i
					if b.me == 2 {
						at -= behind
					}
					if at >= 3 {
						b.close(at, sixKeys...)
						b.pumpAll()
					}
				}
				w.now += 100
				w.commit()
				w.writeAll()
			}
			for range 10 {
				w.now += 100
				w.commit()
			}
			w.writeAll()
			for _, b := range w.boxes {
				if c := b.engine.member.registry.counts[0]; c.late != 0 || b.engine.contributor.counts[0].late != 0 {
					t.Errorf("box %s: %d contributions are late, %d of its own", w.names[b.me], c.late, b.engine.contributor.counts[0].late)
				}
				// Floors still rise with the others.
				if f := b.engine.member.registry.floors[0]; f < (n-15)*width || f >= ahead*width {
					t.Errorf("box %s: the floor is %d", w.names[b.me], f)
				}
			}
			last := w.checkRows()
			seen := 0
			for _, r := range last {
				if s := r.Start.UnixNano(); s >= 3*width && s < (n-2)*width && len(r.Completeness.Merged) == 3 {
					seen++
				}
			}
			if want := (n - 5) * len(sixKeys); seen != want {
				t.Errorf("%d rows of all boxes, want %d", seen, want)
			}
		})
	}
}

// Whatever the lowest member's clock says, no window is over before most have passed it.
func TestAFloorStopsWhereMostMembersAre(t *testing.T) {
	for _, c := range []struct {
		name  string
		marks []event.Nanos
		idle  []idle
		final collective.Set
		want  event.Nanos
	}{
		{"three", []event.Nanos{1000, 20, 30}, []idle{0, 0, 0}, 0, 30},
		{"two", []event.Nanos{1000, 20}, []idle{0, 0}, 0, 20},
		{"four", []event.Nanos{1000, 20, 30, 40}, []idle{0, 0, 0, 0}, 0, 30},
		{"a silent one does not count", []event.Nanos{1000, 40, 20}, []idle{0, 0, silent}, 0, 40},
		{"nor one without events", []event.Nanos{1000, 40, event.MinNanos}, []idle{0, 0, without}, 0, 40},
		{"nor one that is final", []event.Nanos{1000, 40, 20}, []idle{0, 0, 0}, 4, 40},
		{"all are silent", []event.Nanos{50, 20}, []idle{silent, silent}, 0, 900},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testRegistry(t, len(c.marks))
			for p := range c.marks {
				r.marks[p][0], r.idle[p][0] = c.marks[p], c.idle[p]
			}
			r.final = c.final
			r.accept(0, &closing{window: windowID{0, 0, 10}, firing: outbox.OnTime})
			marks := []mark{{floor: 900}, {floor: event.MinNanos}, {floor: event.MinNanos}}
			r.begin()
			r.fire(1, []windowID{{0, 0, 10}})
			r.expire(marks)
			if r.floors[0] != c.want {
				t.Errorf("the floor is %d, want %d", r.floors[0], c.want)
			}
		})
	}
}
