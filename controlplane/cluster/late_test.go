package cluster

import (
	"fmt"
	"slices"
	"testing"

	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

// turns lets every member have a turn with its group, in which it says what it has and
// is not told what became of the round. It returns what each would gather.
func (w *world) turns() []*rdma.Gathered {
	w.t.Helper()
	w.round++
	heads, parts := make([][]byte, len(w.boxes)), make([][][]byte, len(w.boxes))
	for p := range w.epoch.Members.All {
		b := w.boxes[p]
		b.link.exchange = func(head []byte, bodies [][]byte) (*rdma.Gathered, error) {
			heads[p] = slices.Clone(head)
			for _, body := range bodies {
				parts[p] = append(parts[p], slices.Clone(body))
			}
			return nil, rdma.ErrNoEpoch
		}
		b.engine.contributor.nudge()
		if err := b.turn(); err != nil {
			w.t.Fatal(err)
		}
		if heads[p] == nil {
			w.t.Fatalf("box %s said nothing", w.names[p])
		}
	}
	out := make([]*rdma.Gathered, len(w.boxes))
	for p := range w.epoch.Members.All {
		out[p] = &rdma.Gathered{Epoch: w.epoch, Round: w.round}
		for q := range w.epoch.Members.All {
			out[p].From = append(out[p].From, rdma.Part{Peer: q, Header: heads[q], Body: parts[q][p]})
		}
	}
	return out
}

// A round that one member has seen to count, while the others had given it up, is
// followed by them too before they go on without that one.
func TestARoundThatCountsAfterAllIsFollowed(t *testing.T) {
	w := newWorld(t, 3, Config{MaxWait: 1 << 40, Period: 40})
	w.enter(collective.First(3))
	w.commit()
	w.commit()
	id := windowID{query: 0, end: width}
	for _, b := range w.boxes {
		for _, key := range []string{"k0", "k1", "k2", "k3", "k4", "k5"} {
			b.partial(0, id, key, outbox.OnTime, outbox.FlagSequenced, 0, observation{size: int64(b.me) + 1})
		}
		b.watermark(0, 0, width)
		b.watermark(1, 0, width)
		b.pumpAll()
	}
	all := w.turns()
	a := w.boxes[0]
	a.take(all[0])
	a.flush(len(a.sink))
	if a.emitted == 0 {
		t.Fatal("the one that followed the round gave out nothing")
	}
	a.crash(0)
	w.enter(collective.Of(1, 2))
	for _, b := range w.boxes[1:] {
		b.link.late = &rdma.Late{Gathered: all[b.me]}
	}
	for range 6 {
		for p, g := range w.turns() {
			if g != nil {
				w.boxes[p].take(g)
				w.boxes[p].flush(len(w.boxes[p].sink))
			}
		}
	}
	w.checkRows()
	if len(w.parsed) != 6 {
		t.Errorf("%d rows, want 6", len(w.parsed))
	}
	for _, b := range w.boxes[1:] {
		if n := b.engine.member.registry.counts[0]; n.fired != 1 || n.repeated != 0 {
			t.Errorf("box %s: %+v", w.names[b.me], n)
		}
	}
}

// What a member does wrong ends a round, and not what the others go on with.
func TestAMembersMistakeEndsNoCluster(t *testing.T) {
	w := newWorld(t, 1, Config{Period: 40})
	w.enter(1)
	for _, err := range []error{rdma.ErrAgain, rdma.ErrNoEpoch, rdma.ErrOp} {
		w.boxes[0].link.exchange = func([]byte, [][]byte) (*rdma.Gathered, error) { return nil, fmt.Errorf("round 1: %w", err) }
		if got := w.boxes[0].turn(); got != nil {
			t.Errorf("after %v: %v", err, got)
		}
	}
	w.boxes[0].link.exchange = func([]byte, [][]byte) (*rdma.Gathered, error) { return nil, rdma.ErrClosed }
	if w.boxes[0].turn() == nil {
		t.Error("a group that is closed goes on")
	}
}

// A control process that dies just after it has given out rows must not make them
// again out of the same records: nobody may be left who knows of the first ones.
func TestRecordsAreFreedBeforeTheirRowsAreOut(t *testing.T) {
	w := newWorld(t, 1, Config{Period: 40})
	b := w.boxes[0]
	asked := 0
	b.refuse = func() bool {
		if asked++; b.tap.Acked(0) != 2 || b.tap.commit.Rows != 1 {
			t.Errorf("rows go out while records from %d on are still to be read again, and %d rows count as on their way", b.tap.Acked(0), b.tap.commit.Rows)
		}
		return false
	}
	w.enter(1)
	w.commit()
	w.commit()
	b.close(0, "k")
	b.pumpAll()
	b.engine.take(w.turns()[0], w.now)
	b.link.exchange = func([]byte, [][]byte) (*rdma.Gathered, error) { return nil, rdma.ErrAgain }
	if err := b.turn(); err != nil {
		t.Fatal(err)
	}
	if asked != 1 {
		t.Fatalf("rows were offered %d times", asked)
	}
}

// All control processes die at once while the data planes go on, some before they have
// stored what the group has. Rows that were out are not contradicted by others of the
// same window, and none claims a peer whose part is gone.
func TestAGroupThatForgetsContradictsNothing(t *testing.T) {
	for name, first := range map[string]collective.Set{"one had not stored it": collective.First(3), "one came late": collective.Of(0, 1)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3, Config{MaxWait: 50, CorrectFor: 1 << 40, Period: 40})
			w.enter(collective.First(3))
			w.commit()
			w.commit()
			keys := []string{"k0", "k1", "k2", "k3", "k4", "k5"}
			for _, b := range w.boxes {
				b.close(0, keys...)
				if first.Has(b.me) {
					b.pumpAll()
				}
			}
			w.now += 10
			w.commit()
			w.now += 60
			for p, g := range w.contribute() {
				b := w.boxes[p]
				b.engine.take(g, w.now)
				if b.me == 2 { // dies then and there
					continue
				}
				b.free()
				b.give()
				b.flush(len(b.sink))
			}
			for _, b := range w.boxes {
				b.crash(0)
			}
			for _, b := range w.boxes {
				b.start()
			}
			w.enter(collective.First(3))
			for n := 1; n < 4; n++ {
				for _, b := range w.boxes {
					b.close(n, keys...)
					b.pumpAll()
				}
				for range 3 {
					w.now += 60
					w.commit()
					for _, b := range w.boxes {
						b.flush(len(b.sink))
					}
				}
			}
			w.checkRows()
			whole := 0
			for _, r := range w.parsed {
				if r.Start.UnixNano() > 0 && len(r.Completeness.Merged) == 3 {
					whole++
				}
			}
			if whole != 3*len(keys) {
				t.Errorf("%d rows of later windows, want %d", whole, 3*len(keys))
			}
		})
	}
}

// One box is cut off. The others go on, and then their control processes die at once:
// what the one knows is not all that has happened, and it must not pass for it.
func TestWhoWasAwayDoesNotKnowBetterThanThoseWhoForgot(t *testing.T) {
	w := newWorld(t, 3, Config{MaxWait: 50, CorrectFor: 1 << 40, Period: 40})
	keys := []string{"k0", "k1", "k2", "k3", "k4", "k5"}
	flush := func() {
		for _, b := range w.boxes {
			b.flush(len(b.sink))
		}
	}
	w.enter(collective.First(3))
	w.commit()
	w.commit()
	w.enter(collective.Of(0, 1))
	w.commit()
	w.commit()
	for _, b := range w.boxes {
		b.close(0, keys...)
		b.pumpAll()
	}
	w.commit()
	flush()
	if len(w.parsed) != len(keys) {
		t.Fatalf("%d rows", len(w.parsed))
	}
	for _, b := range w.boxes[:2] {
		b.crash(0)
		b.start()
	}
	w.enter(collective.First(3))
	for n := 1; n < 4; n++ {
		for _, b := range w.boxes {
			b.close(n, keys...)
			b.pumpAll()
		}
		for range 3 {
			w.now += 60
			w.commit()
			flush()
		}
	}
	w.checkRows()
	if len(w.parsed) < 4*len(keys) {
		t.Errorf("%d rows, want %d", len(w.parsed), 4*len(keys))
	}
	for _, b := range w.boxes[1:] {
		if b.engine.member.registry.lineage != w.boxes[0].engine.member.registry.lineage || b.engine.member.at != w.boxes[0].engine.member.at {
			t.Errorf("box %s knows something else", w.names[b.me])
		}
	}
}
