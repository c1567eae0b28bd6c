package dataplane

import (
	"errors"
	"fmt"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/sequence"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/window"
)

// channels gives what is known of old feed number from to the new workers' feed f.
func (t *transfer) channels(f, from int) error {
	if t.moved == nil {
		t.moved = make([]map[uint32]uint32, len(t.old.Feeds))
	}
	t.moved[from] = map[uint32]uint32{}
	if t.plan.Feeds[f].Sequence == plan.Unsequenced {
		t.oneSource(f, from)
		return nil
	}
	// First those that live, where their packets come: sessions that have ended take what
	// room is left.
	for _, turn := range []claim{owned, stray, over} {
		for w, worker := range t.From {
			for _, c := range worker.feeds[from].sequencer.Channels() {
				if t.claimOf(from, w, &c) != turn {
					continue
				}
				if err := t.channel(f, from, w, &c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// A claim is what a worker has of a channel.
type claim uint8

const (
	owned claim = iota // its packets come to the worker
	stray              // some came there once, while groups changed hands and it was taken back
	over               // its session has ended
)

func (t *transfer) claimOf(from, w int, c *sequence.Channel) claim {
	if c.Retired {
		return over
	}
	f := &t.old.Feeds[from]
	placed := placedBy(&f.Place, &c.Session, f.Sequence)
	if placed != nil && int(t.OwnersFrom[event.Group(event.HashKey(placed))]) != w {
		return stray
	}
	return owned
}

// oneSource combines what the workers know of an unsequenced feed, which is one source
// whoever decodes it. A gap is open if it is for one of them: the next release of any ends
// it.
func (t *transfer) oneSource(f, from int) {
	all := channelState{Max: event.MinNanos}
	open := false
	for _, w := range t.From {
		c := &w.feeds[from].channels[0]
		all.Max, all.Since = max(all.Max, c.Max), max(all.Since, c.Since)
		all.Seen, all.Gaps = max(all.Seen, c.Seen), max(all.Gaps, c.Gaps)
		open = open || c.Closed < c.Gaps
	}
	if all.Closed = all.Gaps; open {
		all.Closed--
	}
	for _, w := range t.To {
		w.feeds[f].channels[0] = all
		fault.Point()
	}
}

// channel moves one channel of worker w to who gets its packets from now on.
func (t *transfer) channel(f, from, w int, c *sequence.Channel) error {
	to, err := t.placeOf(f, from, w, &c.Session)
	if err != nil {
		return err
	}
	src, dst := &t.From[w].feeds[from], &t.To[to].feeds[f]
	if c.Retired && !dst.spare(src, c.Slot) {
		return nil
	}
	if dst.sequencer.Has(&c.Session) && t.claimOf(from, w, c) == stray {
		t.moved[from][src.sourceOf(c.Slot)] = window.Gone
		return nil
	}
	slot, err := dst.sequencer.MoveChannel(src.sequencer, c.Slot)
	if err != nil {
		return fmt.Errorf("worker %d: %w", to, err)
	}
	dst.w.void()
	t.moved[from][src.sourceOf(c.Slot)] = dst.sourceOf(slot)
	if c.Retired {
		return nil
	}
	dst.channels[slot] = src.channels[c.Slot]
	fault.Point()
	if err := dst.takeDecoded(src, c.Slot, slot, dst.w.void); err != nil {
		return fmt.Errorf("worker %d: channel %x: %w", to, c.Session[:10], err)
	}
	return nil
}

// spare reports whether there is room for a channel whose session has ended. It is kept to
// know late copies by: where there is none, it need not be.
func (f *feed) spare(from *feed, slot int) bool {
	return len(f.sequencer.Channels()) < f.plan.Channels && f.sequencer.Fits(from.sequencer, slot) == nil
}

// errPlacement reports a feed whose channels belong to no one worker.
var errPlacement = errors.New("its packets are not placed by their channel, so that nobody knows whose it is from now on: place it by its session, or stop and start")

// placeOf returns the new worker that gets a session's packets.
func (t *transfer) placeOf(f, from, w int, session *sequence.Session) (int, error) {
	p := &t.plan.Feeds[f].Place
	if placed := placedBy(p, session, t.plan.Feeds[f].Sequence); placed != nil {
		return int(t.OwnersTo[event.Group(event.HashKey(placed))]), nil
	}
	if len(t.From) != len(t.To) || *t.OwnersFrom != *t.OwnersTo || *p != t.old.Feeds[from].Place {
		return 0, errPlacement
	}
	return w, nil
}

// placedBy returns the bytes by which a session's packets are placed, nil if others have a
// part in it.
func placedBy(p *plan.Placement, session *sequence.Session, s plan.Sequence) []byte {
	begin, end := 0, int(p.Offset)+int(p.Length)
	if s == plan.IEXTP {
		begin = iexSession
	}
	header := session.Header(s)
	if p.Kind != plan.PlaceChannel && p.Kind != plan.PlaceBytes || int(p.Offset) < begin || end > len(header) {
		return nil
	}
	var buf [steer.PlaceMax]byte
	placed, _ := steer.Place(p, header, nil, &buf)
	return placed
}

// iexSession is where channel and session begin in a header of IEX-TP.
const iexSession = 4
