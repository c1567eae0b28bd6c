package exchange

import (
	"math"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// Status says what [Inbox.Next] found.
type Status uint8

// The outcomes.
const (
	// Empty: nothing can be taken now.
	Empty Status = iota
	// Event: the record is an event of Inbox.Stream; take it with Inbox.Take.
	Event
	// Mark: Inbox.Mark of feed Inbox.Feed.
	Mark
	// Gate (replay): every record before position Inbox.Gate has been taken.
	Gate
)

// End is the position behind all others.
const End = math.MaxUint64

type cursor struct {
	lane     *Lane
	position uint64
	source   uint32
}

// Inbox is a worker's incoming lanes. One thread uses it.
type Inbox struct {
	lanes  []cursor
	shapes []Shape
	merge  bool
	at     int    // the lane being read
	limit  uint64 // in merge: that lane may be read on up to here, without, before others

	// Gate is the position at which Next stops in replay until the caller raises it.
	Gate uint64
	// Reached is, after status Gate, the least position that is still to come.
	Reached uint64

	// Of the last record.
	Stream   int
	Feed     int
	Position uint64
	Source   uint32
	Mark     event.Mark
}

// NewInbox returns the incoming side over lanes, one from each worker, nil where
// there is none. merge takes records in order of position.
func NewInbox(p *plan.Plan, lanes []*Lane, merge bool) *Inbox {
	x := &Inbox{merge: merge, at: -1}
	for _, l := range lanes {
		if l != nil {
			x.lanes = append(x.lanes, cursor{lane: l})
		}
	}
	for s := range p.Streams {
		x.shapes = append(x.shapes, NewShape(p, s))
	}
	return x
}

// Next finds the next record. After Event the caller must call Take before it
// calls Next again.
func (x *Inbox) Next() Status {
	for {
		if x.at < 0 || !x.continues() {
			if s, ok := x.choose(); !ok {
				return s
			}
		}
		c := &x.lanes[x.at]
		first := c.lane.word(0)
		switch first & 0xff {
		case kindBegin:
			c.source, c.position = uint32(first>>32), c.lane.word(1)
			c.lane.head += beginWords
			continue // in merge the lane stays chosen: it was chosen for this position
		case kindEvent:
			x.Stream = int(first >> 16 & 0xff)
			x.Position, x.Source = c.position, c.source
			x.Feed = x.shapes[x.Stream].feed
			return Event
		case kindRelease:
			c.source, c.position = uint32(first>>32), c.lane.word(1)
			x.Feed = int(first >> 16 & 0xffff)
			x.Mark = event.Mark{Kind: event.MarkRelease, Source: c.source, Position: c.position, Time: event.Nanos(c.lane.word(2))}
			x.Position, x.Source = c.position, c.source
			c.lane.head += releaseWords
			return Mark
		case kindMark:
			x.Feed = int(first >> 16 & 0xffff)
			x.Mark = event.Mark{
				Kind: event.MarkKind(first >> 8), Gap: uint32(first >> 32), Source: c.source, Position: c.position,
				Time: event.Nanos(c.lane.word(1)), Count: c.lane.word(2),
			}
			x.Position, x.Source = c.position, c.source
			c.lane.head += markWords
			return Mark
		default:
			panic("exchange: lane record of unknown kind")
		}
	}
}

// continues reports whether the lane being read goes on with something that comes
// before all other lanes' (in merge) or with anything (in arrival order).
func (x *Inbox) continues() bool {
	c := &x.lanes[x.at]
	if ok, _ := c.lane.available(); !ok {
		return false
	}
	return !x.merge || c.next() < x.limit || c.next() == c.position
}

// next is the position of the record at the lane's head.
func (c *cursor) next() uint64 {
	switch c.lane.word(0) & 0xff {
	case kindBegin, kindRelease:
		return c.lane.word(1)
	}
	return c.position
}

// choose finds the lane to read from.
func (x *Inbox) choose() (Status, bool) {
	if !x.merge {
		for n := 1; n <= len(x.lanes); n++ {
			i := (x.at + n) % len(x.lanes)
			if ok, _ := x.lanes[i].lane.available(); ok {
				x.at = i
				return Empty, true
			}
		}
		x.at = -1
		return Empty, false
	}
	least, other, at, have := uint64(End), uint64(End), -1, false
	for i := range x.lanes {
		c := &x.lanes[i]
		ok, bound := c.lane.available()
		if ok {
			bound = c.next()
		}
		// At equal bounds a lane without records comes first: it may still bring one.
		if bound < least || bound == least && (at < 0 || !ok) {
			least, other, at, have = bound, least, i, ok
		} else {
			other = min(other, bound)
		}
	}
	if least >= x.Gate {
		x.Reached = least
		x.at = -1
		return Gate, false
	}
	if !have {
		x.at = -1
		return Empty, false
	}
	x.at, x.limit = at, min(other, x.Gate) // bounds only grow
	return Empty, true
}

// Take appends the event just found to k, which must not be full.
func (x *Inbox) Take(k *event.Keyed) {
	c := &x.lanes[x.at]
	h := &x.shapes[x.Stream]
	i := k.Batch.N
	take(h, k, c.lane)
	k.Batch.Source[i] = c.source
	if k.Position != nil {
		k.Position[i] = c.position<<event.RankBits | uint64(k.Batch.Rank[i])
	}
	c.lane.head += uint64(h.words)
}

// Release gives the room of everything taken back to the writers.
func (x *Inbox) Release() {
	for i := range x.lanes {
		x.lanes[i].lane.release()
	}
}

// Drained reports that nothing can come any more: every writer has said so, and
// every lane is empty.
func (x *Inbox) Drained() bool {
	for i := range x.lanes {
		if ok, frontier := x.lanes[i].lane.available(); ok || frontier != End {
			return false
		}
	}
	return true
}

// Held reports that every writer has stopped for hold number, and that every lane is
// empty: nothing comes until the hold ends.
func (x *Inbox) Held(number uint64) bool {
	for i := range x.lanes {
		if !x.lanes[i].lane.held(number) {
			return false
		}
	}
	return true
}

// A Place is where the reader of a lane stands: what it has taken, in words, and the
// release that the last begin record named, to which the next records belong.
type Place struct {
	Taken, Position uint64
	Source          uint32
	_               uint32
}

// Taken notes the place in each lane, in the inbox's order: what a commit records.
func (x *Inbox) Taken(into []Place) {
	for i := range x.lanes {
		c := &x.lanes[i]
		into[i] = Place{Taken: c.lane.Taken(), Position: c.position, Source: c.source}
	}
}

// Resume takes up where the commit that noted from left off.
func (x *Inbox) Resume(from []Place) {
	x.at = -1
	for i := range x.lanes {
		c := &x.lanes[i]
		c.lane.head, c.lane.tailSeen = from[i].Taken, 0
		c.position, c.source = from[i].Position, from[i].Source
	}
}
