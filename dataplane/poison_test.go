package dataplane

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault/killtest"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/wire"
)

// venom is a decoder that ends the process at a message of one packet.
type venom struct {
	wire.Decoder
	packet []byte
	after  uint64 // messages
}

func (v *venom) Decode(p *wire.Packet, b *event.Batch) bool {
	if len(p.Payload) > 0 && bytes.HasSuffix(v.packet, p.Payload) && p.Messages >= v.after {
		killtest.Die()
	}
	return v.Decoder.Decode(p, b)
}

func (x *plant) poison(feed int, packet []byte, after uint64) {
	for _, w := range x.workers {
		f := &w.feeds[feed]
		f.decoder = &venom{f.decoder, packet, after}
	}
}

func balance(t *testing.T, c *segment.Counters) {
	t.Helper()
	sum := func(d *event.Drops) (n uint64) {
		for _, v := range d {
			n += v
		}
		return n
	}
	for i := range c.Feeds {
		f := &c.Feeds[i]
		if n := f.FramesApplied + f.FramesDuplicate + f.FramesHeartbeat + f.FramesHeld + sum(&f.FrameDrops); n != f.Frames {
			t.Errorf("feed %d: %d frames, the sum of their fates is %d", i, f.Frames, n)
		}
		if n := f.Applied + f.Duplicate + f.MessagesHeld + sum(&f.MessageDrops); n != f.Messages {
			t.Errorf("feed %d: %d messages, the sum of their fates is %d", i, f.Messages, n)
		}
	}
	for i := range c.Queries {
		if q := &c.Queries[i]; q.Received != q.Applied+q.Sent-q.Arrived+sum(&q.Drops) {
			t.Errorf("query %d: %+v", i, q)
		}
	}
}

// A frame of which the process dies costs one start, itself, and the completeness of the
// windows that it would have had a part in. The next process knows which one it was.
func TestAFrameOfWhichTheProcessDiesIsLeftOut(t *testing.T) {
	for _, c := range []struct {
		name             string
		feed, number     int
		after            uint64
		low              int
		frames, messages uint64 // counted as poison
	}{
		{"unsequenced", 1, 101, 0, 0, 1, 0},
		{"sequenced", 2, 2, 0, 0, 1, 0},
		{"sequenced, and held for order when it is decoded", 2, 100, 0, 0, 0, 3},
		{"in the middle of a frame that a batch has begun", 1, 103, 40, 250, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := crashPlan(1)
			p.Batch = 16
			frames := crashFrames(t, p, 900)
			calm := newPlant(t, p, frames)
			calm.run(rand.New(rand.NewPCG(1, 0)), nil)

			place := c.number*len(crashFormats) + c.feed // as there is one ring
			fr := &frames[place]
			payload := fr.Data[fr.Meta.PayloadOffset:][:fr.Meta.PayloadLength]
			x := newPlant(t, p, frames)
			x.low = c.low
			var marks []Mark
			x.run(rand.New(rand.NewPCG(1, 0)), func() {
				w := x.workers[0]
				if m, ok := w.Poison(); ok && x.skip == nil {
					marks = append(marks, m)
					x.skip = &m
					w.skip = x.skip
				}
				if _, ok := w.feeds[c.feed].decoder.(*venom); !ok {
					x.poison(c.feed, payload, c.after)
				}
			})
			if x.starts != 2 || len(marks) != 1 {
				t.Fatalf("%d starts, marks %v, want one restart", x.starts, marks)
			}
			if m := marks[0]; m.Stage != StageDecode || m.Feed != c.feed || int(m.Position) != place && !m.Held || !m.Framed {
				t.Errorf("mark %+v, the frame is %d of feed %d", m, place, c.feed)
			}
			got := segment.NewCounters(p)
			if err := x.segment.Worker(0).Read(got); err != nil {
				t.Fatal(err)
			}
			balance(t, got)
			for i := range got.Feeds {
				f := &got.Feeds[i]
				var frames, messages uint64
				if i == c.feed {
					frames, messages = c.frames, c.messages
				}
				if f.FrameDrops[event.DropPoison] != frames || f.MessageDrops[event.DropPoison] != messages {
					t.Errorf("feed %d: %d frames, %d messages of poison, want %d, %d", i, f.FrameDrops[event.DropPoison], f.MessageDrops[event.DropPoison], frames, messages)
				}
			}
			if lost := calm.applied(t) - x.applied(t); lost == 0 || lost > 100 {
				t.Errorf("%d events fewer than without the poison", lost)
			}
			if incomplete(x.rows[0]) == incomplete(calm.rows[0]) {
				t.Error("no window says that it lacks something")
			}
		})
	}
}

func (x *plant) applied(t *testing.T) (n uint64) {
	t.Helper()
	c := segment.NewCounters(x.plan)
	if err := x.segment.Worker(0).Read(c); err != nil {
		t.Fatal(err)
	}
	for i := range c.Queries {
		n += c.Queries[i].Applied
	}
	return n
}

// incomplete sums up what rows say about what they lack.
func incomplete(rows []string) string {
	var s []string
	for _, r := range rows {
		if at := bytes.Index([]byte(r), []byte("flags")); at >= 0 {
			s = append(s, r[:at+len("flags 0 missing 00")])
		}
	}
	return fmt.Sprint(s)
}
