package cluster

import (
	"testing"
	"time"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/rdma/collective"
)

// checkHonest checks that no row says that it is complete, or has the part of a peer
// whose part is whole, and is something else than what those peers make together.
func (w *world) checkHonest() {
	w.t.Helper()
	for _, r := range w.parsed {
		want, ok := w.expect(w.idOf(r), r.Key["name"], r.Completeness.Merged)
		if c := r.Completeness.Complete; (!ok || string(r.Values) != want) && (c == nil || *c || len(r.Completeness.Merged) == len(w.names) && r.Completeness.Missing == 0 && *c) {
			w.t.Fatalf("row %s\nsays nothing of what it lacks; want values %s", r.short(), want)
		}
	}
}

// writeAll writes all rows that are to be given out.
func (w *world) writeAll() {
	for _, b := range w.boxes {
		for b.give(); len(b.sink) > 0; b.give() {
			b.flush(len(b.sink))
		}
	}
}

// Without a group, windows do not take more than they may, however many they are, and
// take no longer for that.
func TestALongPartitionIsBounded(t *testing.T) {
	w := newWorld(t, 3, Config{MaxWait: 1 << 40, CorrectFor: 1 << 40, Period: 40, Keep: 4096})
	b := w.boxes[0]
	began := time.Now()
	for n := range 10_000 {
		b.close(n, "k")
		b.pumpAll()
		b.free()
		if c := b.engine.contributor; c.bytes > 4096 || len(c.windows) > 4096/windowCost || len(c.pins[0]) > 4096/windowCost+1 {
			t.Fatalf("after %d windows %d are kept, of %d bytes; %d pins", n+1, len(c.windows), c.bytes, len(c.pins[0]))
		}
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("10,000 windows took %v", took)
	} else {
		t.Logf("10,000 windows took %v", took)
	}
	withRecords := 0
	for _, k := range b.engine.contributor.windows {
		if k.bytes > 0 {
			withRecords++
		}
	}
	if n := b.engine.contributor.counts[0].overflow; withRecords == 0 || n != uint64(10_000-withRecords) {
		t.Errorf("%d windows have their records, %d count as dropped", withRecords, n)
	}
}

// Windows that were given up without a word are not said to have been merged: neither
// by one that has followed all rounds, nor by one that comes back.
func TestWhatWasGivenUpIsNotMerged(t *testing.T) {
	for name, away := range map[string]collective.Set{"rounds go on": 0, "a box comes back": collective.Of(0)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3, Config{MaxWait: 1 << 40, CorrectFor: 1 << 40, Period: 40})
			w.enter(collective.First(3))
			w.commit()
			w.commit()
			w.boxes[0].engine.contributor.keep = 4096
			const n = 200
			for i := range n {
				for _, b := range w.boxes {
					if b.me != 0 || i%2 == 0 { // it has nothing of every other window, but who can tell
						b.close(i, sixKeys...)
					} else {
						b.close(i)
					}
					b.pumpAll()
				}
			}
			if away != 0 {
				w.enter(collective.First(3) &^ away)
				w.commit()
				w.commit()
				w.commit()
				w.enter(collective.First(3))
				w.commit()
				w.commit()
			}
			w.commit()
			w.closeAll(n, n+1)
			w.commit()
			w.writeAll()
			w.checkHonest()
			without, all := 0, 0
			for _, r := range w.parsed {
				switch {
				case len(r.Completeness.Merged) == 3 && r.Start.UnixNano() == n*width:
					all++
				case len(r.Completeness.Merged) == 2 && r.Revision == 0:
					without++
				}
			}
			if without < (n-2*4096/windowCost)*len(sixKeys) || all != len(sixKeys) {
				t.Errorf("%d rows without the box that gave up windows, and %d of all later", without, all)
			}
		})
	}
}

// Records that were let go in the outbox, and died with the control process, were there:
// no row says that this box had none.
func TestWhatWasLetGoIsNotForgottenByADeath(t *testing.T) {
	w := newWorld(t, 3, Config{MaxWait: 1 << 40, CorrectFor: 1 << 40, Period: 40})
	w.enter(collective.First(3))
	w.commit()
	w.commit()
	w.enter(0)
	a := w.boxes[0]
	a.tap.g.Room = 4 * len(sixKeys)
	const n = 20
	for i := range n {
		for _, b := range w.boxes {
			b.close(i, sixKeys...)
			b.pumpAll()
			b.free()
		}
	}
	if a.engine.contributor.counts[0].lonely == 0 {
		t.Fatal("nothing was let go")
	}
	a.crash(0)
	w.enter(collective.Of(1, 2))
	w.commit()
	w.commit()
	a.start()
	w.enter(collective.First(3))
	for _, b := range w.boxes {
		b.pumpAll()
	}
	w.commit()
	w.commit()
	w.closeAll(n, n+1) // watermarks that were let go come again with the next window
	w.commit()
	w.writeAll()
	w.checkHonest()
	whole, short := 0, 0
	for _, r := range w.checkRows() {
		if len(r.Completeness.Merged) == 3 {
			whole++
		} else {
			short++
		}
	}
	if whole == 0 || short == 0 || whole+short != (n+1)*len(sixKeys) {
		t.Errorf("%d rows of all, %d of two", whole, short)
	}
	// What has been contributed is let go no more: the next life may speak for it.
	w.closeAll(n+1, n+3)
	a.crash(0)
	a.start()
	if lost, want := a.engine.contributor.lost[0], event.Nanos(n*width); lost >= want {
		t.Errorf("windows up to %d count as lost, though only some before %d are", lost, want)
	}
}
