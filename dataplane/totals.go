package dataplane

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/segment"
)

// totals gives the new workers the counters of the old ones, so that ledgers go on: worker
// by worker, those of workers that are no more to worker 0, together with where they stand.
func (t *transfer) totals() {
	var latest uint64
	for _, w := range t.From {
		latest = max(latest, w.received)
	}
	for i, to := range t.To {
		to.received = latest
		if i < len(t.From) {
			from := t.From[i]
			to.lost, to.again, to.watched = from.lost, from.again, from.watched
		}
	}
	for i, from := range t.From {
		to := t.To[0]
		if i < len(t.To) {
			to = t.To[i]
		} else if to.again != 0 {
			to.again += from.counters.Worker.Frames // it is a number of frames
		}
		t.add(to, from)
	}
	for f, from := range t.Feeds {
		if from >= 0 {
			t.held(f)
		}
	}
	for _, to := range t.To {
		to.parked = to.counters.Worker.RefillParked
		to.void()
	}
}

// add adds what one worker has counted to another's counters.
func (t *transfer) add(to, from *Worker) {
	a, b := &to.counters.Worker, &from.counters.Worker
	beat := max(a.HeartbeatNanos, b.HeartbeatNanos)
	sum := segment.Counters{Worker: *a}
	segment.Add(&sum, &segment.Counters{Worker: *b})
	*a = sum.Worker
	a.HeartbeatNanos = beat
	for f := range from.counters.Feeds {
		c := from.counters.Feeds[f]
		at := t.nextFeed[f]
		if at < 0 {
			c.FrameDrops[event.DropUnknownFeed] += c.FramesHeld
			c.MessageDrops[event.DropUnknownFeed] += c.MessagesHeld
			c.FramesHeld, c.MessagesHeld = 0, 0
			// Where its number is kept, so are its counters.
			if f >= len(t.plan.Feeds) || !t.plan.Feeds[f].Removed {
				a.UnknownFeed += c.Frames
				continue
			}
			at = f
		}
		one := []segment.FeedCounters{c}
		segment.Add(&segment.Counters{Feeds: to.counters.Feeds[at : at+1]}, &segment.Counters{Feeds: one})
	}
	for q := range from.counters.Queries {
		if at := t.nextQuery[q]; at >= 0 {
			segment.Add(&segment.Counters{Queries: to.counters.Queries[at : at+1]}, &segment.Counters{Queries: from.counters.Queries[q : q+1]})
		}
	}
}

// held counts what is held of a feed where it is now. What a stray channel held is given up.
func (t *transfer) held(f int) {
	if t.To[0].feeds[f].sequencer == nil {
		return
	}
	frames, messages := uint64(0), uint64(0)
	for _, to := range t.To {
		c, s := &to.counters.Feeds[f], to.feeds[f].sequencer
		frames, messages = frames+c.FramesHeld, messages+c.MessagesHeld
		c.FramesHeld, c.MessagesHeld = uint64(s.HeldPackets()), s.HeldMessages()
		frames, messages = frames-c.FramesHeld, messages-c.MessagesHeld
	}
	c := &t.To[0].counters.Feeds[f]
	c.FrameDrops[event.DropNoChannel] += frames
	c.MessageDrops[event.DropNoChannel] += messages
}
