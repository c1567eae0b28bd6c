package dataplane

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/xsk"
)

// spoil flips a byte of some payloads and cuts others short.
func spoil(r *rand.Rand, frames []xsk.Frame) {
	for i := range frames {
		f := &frames[i]
		payload := f.Data[f.Meta.PayloadOffset:][:f.Meta.PayloadLength]
		switch r.IntN(60) {
		case 0:
			payload[r.IntN(len(payload))] ^= byte(1 + r.IntN(255))
		case 1:
			f.Meta.PayloadLength = uint16(r.IntN(len(payload) + 1))
		}
		if r.IntN(200) == 0 {
			f.Meta.Feed = 7
		}
	}
}

// Everything that came in is accounted for when the workers have ended: frames,
// messages and events, whatever the packets held and however full the rings were.
func TestTheLedgerBalancesUnderOverload(t *testing.T) {
	var drops event.Drops
	for format := range payloads {
		for _, workers := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%s/workers=%d", format, workers), func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, uint64(workers)))
				p := beltPlan(format, workers)
				// An outbox that is nearly always full, few keys and panes, the smallest lanes.
				p.OutboxBytes, p.LaneBytes, p.Queries[0].Keys, p.Queries[0].Panes = 1<<14, 64, 60, 2
				b := newBelt(t, p, 6000)
				spoil(r, b.frames)
				receivers := make([]xsk.Receiver, workers)
				for i := range receivers {
					own := &belt{}
					for _, f := range b.frames {
						if int(f.Meta.Group)*workers/event.GroupCount == i {
							own.frames = append(own.frames, f)
						}
					}
					receivers[i] = own
				}
				ws, seg := newWorkers(t, p, workers == 2, receivers...)
				drive(t, r, ws, seg)
				for d, n := range checkConservation(t, ws, uint64(len(b.frames))) {
					drops[d] += n
				}
			})
		}
	}
	for _, d := range []event.Drop{event.DropFiltered, event.DropLate, event.DropTooFarAhead, event.DropKeyLimit, event.DropPaneMemory} {
		if drops[d] == 0 {
			t.Errorf("nothing was dropped as %v: the test does not reach what it is for", d)
		}
	}
}

// drive runs the workers in random turns to their end; the outboxes are emptied now
// and then.
func drive(t *testing.T, r *rand.Rand, ws []*Worker, seg *segment.Segment) {
	t.Helper()
	now := event.Nanos(0)
	through := 0
	for turn := 0; through < len(ws); turn++ {
		if turn > 2_000_000 {
			t.Fatalf("%d of %d workers have not ended", len(ws)-through, len(ws))
		}
		i := r.IntN(len(ws))
		w := ws[i]
		now += event.Nanos(100 * time.Microsecond)
		if w.ending != ended && w.cycle(now) == 0 {
			if b := w.receiver.(*belt); b.at == len(b.frames) && w.at == w.count && w.closing == nil {
				w.Finish()
			}
			if w.wind() {
				through++
			}
		}
		if r.IntN(400*len(ws)) == 0 {
			for i := range ws {
				ring := seg.Worker(i).Ring()
				ring.Freed.Store(ring.Produced.Load())
			}
		}
	}
}

func checkConservation(t *testing.T, ws []*Worker, sent uint64) (drops event.Drops) {
	t.Helper()
	sum := func(d *event.Drops) (n uint64) {
		for _, v := range d {
			n += v
		}
		return n
	}
	var frames, unknown uint64
	var q segment.QueryCounters
	for i, w := range ws {
		f := &w.counters.Feeds[0]
		if n := f.FramesApplied + f.FramesDuplicate + f.FramesHeartbeat + f.FramesHeld + sum(&f.FrameDrops); n != f.Frames {
			t.Errorf("worker %d: %d frames, the sum of their fates is %d: %+v", i, f.Frames, n, *f)
		}
		if n := f.Applied + f.Duplicate + f.MessagesHeld + sum(&f.MessageDrops); n != f.Messages {
			t.Errorf("worker %d: %d messages, the sum of their fates is %d: %+v", i, f.Messages, n, *f)
		}
		if f.FramesHeld|f.MessagesHeld != 0 {
			t.Errorf("worker %d: %d frames, %d messages are held at the end", i, f.FramesHeld, f.MessagesHeld)
		}
		frames += f.Frames
		unknown += w.counters.Worker.UnknownFeed
		k := &w.counters.Queries[0]
		q.Received, q.Applied, q.Sent, q.Arrived = q.Received+k.Received, q.Applied+k.Applied, q.Sent+k.Sent, q.Arrived+k.Arrived
		for d, n := range k.Drops {
			q.Drops[d] += n
		}
		shown := segment.NewCounters(w.plan)
		if err := w.segment.Read(shown); err != nil || shown.Queries[0] != *k || shown.Feeds[0] != *f {
			t.Errorf("worker %d: what the segment shows is not what was counted: %v", i, err)
		}
	}
	if frames+unknown != sent {
		t.Errorf("%d frames of the feed and %d of none, %d were sent", frames, unknown, sent)
	}
	if q.Sent != q.Arrived || q.Received != q.Applied+sum(&q.Drops) {
		t.Errorf("received %d, applied %d, dropped %d, sent %d, arrived %d", q.Received, q.Applied, sum(&q.Drops), q.Sent, q.Arrived)
	}
	return q.Drops
}
