package cluster

import (
	"testing"
	"time"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma/collective"
)

// idleWorld is a world whose queries have an idle, and whose boxes see events of
// query 0 when progress says so.
func idleWorld(t *testing.T, peers int, limit time.Duration, c Config) (w *world, progress []uint64) {
	t.Helper()
	w = newWorld(t, peers, c)
	progress = make([]uint64, peers)
	for _, b := range w.boxes {
		for q := range b.engine.s.queries {
			b.engine.s.queries[q].Idle = limit
		}
		b.mu.Lock()
		b.source = func(int) bool { return progress[b.me] != 0 }
		b.progress = func(int) uint64 { return progress[b.me] }
		b.mu.Unlock()
	}
	return w, progress
}

// A peer whose events come is waited for, though no window of its has been over for
// longer than what makes a source idle.
func TestAPeerIsNotIdleWhileItsEventsCome(t *testing.T) {
	w, progress := idleWorld(t, 2, 30, Config{MaxWait: 1000, Period: 40})
	w.enter(collective.First(2))
	w.commit()
	w.commit()
	for range 20 { // a long window
		w.now += 10
		progress[0]++
		progress[1]++
		w.commit()
	}
	w.boxes[0].close(0, "k")
	w.boxes[0].pumpAll()
	w.commit()
	if n := w.boxes[0].engine.member.registry.counts[0]; n.fired != 0 {
		t.Fatalf("the window fired %d times without the peer that is a little behind", n.fired)
	}
	w.boxes[1].close(0, "k")
	w.boxes[1].pumpAll()
	w.commit()
	if n := w.boxes[0].engine.member.registry.counts[0]; n.fired != 1 || n.corrected != 0 {
		t.Errorf("%+v", n)
	}
}

// The first event that a box ever sees makes it one that is waited for.
func TestAPeerIsNotIdleAtItsFirstEvent(t *testing.T) {
	w, progress := idleWorld(t, 2, 30, Config{MaxWait: 50, Period: 40})
	w.enter(collective.First(2))
	progress[0] = 1
	w.now += 1000
	w.commit()
	w.commit()
	w.commit()
	progress[1] = 1 // in the window that is about to be over
	progress[0]++
	w.boxes[0].close(0, "k")
	w.boxes[0].pumpAll()
	w.commit()
	if n := w.boxes[0].engine.member.registry.counts[0]; n.fired != 0 {
		t.Errorf("the window fired without a peer that has just seen an event")
	}
}

// close puts out a window of query 0 and says that it is over.
func (b *box) close(n int, keys ...string) {
	id := windowID{query: 0, start: event.Nanos(n * width), end: event.Nanos(n*width + width)}
	for _, key := range keys {
		b.partial(0, id, key, outbox.OnTime, outbox.FlagSequenced, 0, observation{time: id.start, size: int64(b.me) + 1})
	}
	b.watermark(0, 0, id.end)
	b.watermark(1, 0, id.end)
}

// What a box brings when it stops is of windows that go on elsewhere. The time for
// corrections does not begin before they are over there.
func TestAWindowThatGoesOnElsewhereIsNotForgotten(t *testing.T) {
	w := newWorld(t, 3, Config{MaxWait: 50, CorrectFor: 100, Period: 40})
	w.enter(collective.First(3))
	w.commit()
	w.commit()
	a := w.boxes[0]
	id := windowID{query: 0, end: width}
	a.partial(0, id, "k", outbox.Flush, outbox.FlagSequenced, 0, observation{size: 1})
	a.pumpAll()
	a.ended = true
	a.Finish()
	a.tap.Done()
	for range 40 { // the others are in the middle of it
		w.now += 10
		w.commit()
		for _, b := range w.boxes {
			b.flush(len(b.sink))
		}
	}
	if !a.engine.drained() {
		t.Fatal("the box that stops cannot")
	}
	a.crash(0)
	w.enter(collective.Of(1, 2))
	w.commit()
	w.commit()
	for _, b := range w.boxes[1:] {
		b.close(0, "k")
		b.pumpAll()
	}
	for range 3 {
		w.now += 10
		w.commit()
		for _, b := range w.boxes {
			b.flush(len(b.sink))
		}
	}
	last := w.checkRows()
	for _, r := range last {
		if len(r.Completeness.Merged) != 3 {
			t.Errorf("the last row is %s", r.short())
		}
	}
	w.now += 1000
	for range 3 {
		w.commit()
	}
	for _, b := range w.boxes[1:] {
		if n := len(b.engine.member.registry.windows); n != 0 {
			t.Errorf("box %s knows %d windows for ever", w.names[b.me], n)
		}
	}
}
