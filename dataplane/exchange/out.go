package exchange

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// Out is a worker's outgoing lanes. One thread uses it.
type Out struct {
	lanes  []*Lane // by owner; the worker's own may be nil
	shapes []Shape
	owner  *[event.GroupCount]uint16
	masks  [][]uint64 // by stream: the mask of each event of the batch
	begun  []bool
	// need is the room that a whole batch may take in one lane.
	need     int
	position uint64
	source   uint32
}

// NewOut returns the outgoing side over lanes, one for each worker; nil where the
// worker keeps its own events. owner is read live.
func NewOut(p *plan.Plan, lanes []*Lane, owner *[event.GroupCount]uint16) *Out {
	o := &Out{lanes: lanes, owner: owner, begun: make([]bool, len(lanes))}
	widest := 0
	for s := range p.Streams {
		o.shapes = append(o.shapes, NewShape(p, s))
		widest = max(widest, o.shapes[s].words)
		o.masks = append(o.masks, make([]uint64, event.BatchMax*o.shapes[s].maskWords))
	}
	// Every event may stand in a release of its own, and every mark too.
	o.need = Need(p, widest)
	return o
}

// Need returns the words that a whole batch of every feed may take in one lane, widest being the
// size of the widest event record: what a lane must hold at least.
func Need(p *plan.Plan, widest int) int {
	return event.BatchMax*max(1, len(p.Streams))*(widest+beginWords) + event.MarksMax*max(1, len(p.Feeds))*(markWords+beginWords)
}

// Room reports whether every lane can take a whole batch, marks included.
func (o *Out) Room() bool {
	for _, l := range o.lanes {
		if l != nil && !l.Room(o.need) {
			return false
		}
	}
	return true
}

// Begin says that what follows belongs to the release of packet number position,
// of the given source.
func (o *Out) Begin(position uint64, source uint32) {
	if o.position == position && o.source == source {
		return
	}
	o.position, o.source = position, source
	clear(o.begun)
}

func (o *Out) begin(owner int) *Lane {
	l := o.lanes[owner]
	if !o.begun[owner] {
		l.Put(kindBegin | uint64(o.source)<<32)
		l.Put(o.position)
		o.begun[owner] = true
	}
	return l
}

// Prepare notes which query of a stream wants which event of k. Sends of the batch
// follow, then Unselect.
func (o *Out) Prepare(stream int, k *event.Keyed) {
	h := &o.shapes[stream]
	masks := o.masks[stream][:k.Batch.N*h.maskWords]
	clear(masks)
	for q, sel := range k.Select {
		for _, i := range sel {
			masks[int(i)*h.maskWords+q/64] |= 1 << (uint(q) % 64)
		}
	}
}

// Send puts the events [from, to) of k that some query wants into their owners'
// lanes; events that the worker itself owns and keeps (its own lane is nil) stay.
func (o *Out) Send(stream int, k *event.Keyed, from, to int) {
	h := &o.shapes[stream]
	for i := from; i < to; i++ {
		mask := o.masks[stream][i*h.maskWords : (i+1)*h.maskWords]
		wanted := uint64(0)
		for _, m := range mask {
			wanted |= m
		}
		if wanted == 0 {
			continue
		}
		owner := int(o.owner[event.Group(k.Hash[i])])
		if o.lanes[owner] != nil {
			put(h, o.begin(owner), k, i, mask)
		}
	}
}

// Unselect removes from k's selections what was sent to other owners and adds to
// sent, by query of the stream, how many events that were.
func (o *Out) Unselect(k *event.Keyed, sent []uint64) {
	for q, sel := range k.Select {
		kept := sel[:0]
		for _, i := range sel {
			if o.lanes[o.owner[event.Group(k.Hash[i])]] != nil {
				sent[q]++
				continue
			}
			kept = append(kept, i)
		}
		k.Select[q] = kept
	}
}

// Mark puts m, of the release that was begun last, into every lane.
func (o *Out) Mark(feed int, m *event.Mark) {
	for owner, l := range o.lanes {
		switch {
		case l == nil:
		case m.Kind == event.MarkRelease:
			putRelease(l, feed, m)
			o.begun[owner] = true
		default:
			putMark(o.begin(owner), feed, m)
		}
	}
}

// Publish makes everything visible; nothing of a position before frontier follows.
func (o *Out) Publish(frontier uint64) {
	for _, l := range o.lanes {
		if l != nil {
			l.Publish(frontier)
		}
	}
}

// Written notes the position of each lane, by owner: what a commit records.
func (o *Out) Written(into []uint64) {
	for owner, l := range o.lanes {
		if l != nil {
			into[owner] = l.Written()
		}
	}
}

// Resume takes up where the commit that noted from left off: what was put after it is
// put once more.
func (o *Out) Resume(from []uint64) {
	for owner, l := range o.lanes {
		if l != nil {
			l.tail = from[owner]
		}
		o.begun[owner] = false // a begin may come twice
	}
}

// Hold says that everything has been published before number, a hold of all workers, and
// that nothing will be put until it ends.
func (o *Out) Hold(number uint64) {
	for _, l := range o.lanes {
		if l != nil {
			l.hold(number)
		}
	}
}
