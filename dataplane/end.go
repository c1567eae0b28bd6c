package dataplane

import (
	"cmp"
	"slices"
	"time"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/sequence"
)

// ending is how far a worker is on its way out.
type ending uint8

const (
	flowing   ending = iota
	finishing        // no more frames: channels give up what they wait for
	emptied          // everything that was decoded here is on its way
	flushing         // the last partials go out
	ended
)

// finishBase is the position of the first release at the end of input, behind all
// packets.
const finishBase = 1 << 39

// channelStart remembers with which packet a channel was first seen: channels finish
// in that order, which does not depend on the number of workers.
type channelStart struct {
	feed    *feed
	channel int
	packet  uint64
}

func (w *Worker) firstSeen(f *feed, channel int) {
	if !w.plan.Replay {
		return
	}
	w.starts = slices.DeleteFunc(w.starts, func(s channelStart) bool { return s.feed == f && s.channel == channel })
	w.starts = append(w.starts, channelStart{f, channel, f.position})
}

// Finish says that no more frames will come: the capture has ended, or control asks
// for a drain. It is called from the worker's thread, between cycles.
func (w *Worker) Finish() {
	if w.ending == flowing {
		w.ending = finishing
		slices.SortStableFunc(w.starts, func(a, b channelStart) int { return cmp.Compare(a.packet, b.packet) })
	}
}

// rest is what is done when no frame is in hand: live, gaps whose deadline has passed
// are given up and silent sources noted; at the end, channels finish one by one.
func (w *Worker) rest() int {
	switch {
	case !w.saves():
		return 0
	case w.ending == finishing:
		w.byTime()
		return w.finishOne()
	case w.ending != flowing || w.plan.Replay || w.hold != 0 || w.now < w.watched.Add(time.Millisecond):
		return 0
	case w.more:
		return 0 // what is waited for may lie in a ring
	}
	w.watched = w.now
	return w.watch()
}

// byTime says that what is let through now, by time or the end, no packet caused.
func (w *Worker) byTime() {
	w.received = uint64(w.now)
	w.causedAt(w.received)
}

// watch looks for deadlines and silence by the clock. Run only.
func (w *Worker) watch() int {
	n := 0
	for i := range w.feeds {
		f := &w.feeds[i]
		if f.sequencer == nil {
			continue
		}
		for r := f.sequencer.Expire(w.now + w.utcOffset); r != nil; r = f.sequencer.Expire(w.now + w.utcOffset) {
			n++
			w.byTime()
			if !w.release(f, r, 0) || !w.saves() {
				w.watched = event.MinNanos // the rest in the next cycle
				return n
			}
		}
		n += f.noteSilence()
	}
	return n
}

// noteSilence tells the owners which sources have been silent for as long as some
// query asks.
func (f *feed) noteSilence() int {
	n := 0
	for c := range f.channels {
		ch := &f.channels[c]
		if ch.Seen == 0 {
			continue
		}
		silent := time.Duration(f.w.now - ch.Since)
		for _, q := range f.w.windows.QueriesOf(f.number) {
			idle := f.w.plan.Queries[q].Idle
			if idle > 0 && silent >= idle && ch.Idle < uint64(idle) && f.room() {
				f.change(c).Idle = uint64(silent)
				fault.Point()
				f.source, f.position = f.sourceOf(c), 0
				f.mark(event.Mark{Kind: event.MarkIdle, Time: ch.Max, Count: ch.Idle})
				n++
			}
		}
	}
	return n
}

// finishOne lets the next channel release what it holds.
func (w *Worker) finishOne() int {
	for w.next < len(w.starts) {
		s := &w.starts[w.next]
		w.next++
		f := s.feed
		r := f.sequencer.FinishChannel(s.channel)
		if r == nil {
			continue
		}
		w.release(f, r, finishBase+s.packet)
		return 1
	}
	if !w.plan.Replay {
		for i := range w.feeds {
			f := &w.feeds[i]
			if f.sequencer == nil {
				continue
			}
			for c := range f.channels {
				if r := f.sequencer.FinishChannel(c); r != nil {
					w.release(f, r, finishBase)
					return 1
				}
			}
		}
	}
	w.ending, w.frontier = emptied, exchange.End
	return 1
}

// release decodes a release that came without a frame, and reports whether it is
// through; if not, the next cycle goes on with it.
func (w *Worker) release(f *feed, r *sequence.Release, position uint64) bool {
	w.memory.mark.by(f.number)
	w.frontier = position
	f.position, f.rank = position, 0
	f.tally(r)
	f.start(r)
	if f.step() {
		return true
	}
	w.closing = f
	return false
}

// reached is the worker's frontier: no record of an earlier position will follow. It
// stays where it is while something decoded has not been sent on.
func (w *Worker) reached() uint64 {
	if w.pending() {
		return w.told
	}
	var at uint64
	switch {
	case w.ending >= emptied:
		at = exchange.End
	case !w.plan.Replay:
	case w.ending == finishing:
		at = max(w.frontier, finishBase)
	case w.at < w.count:
		at = w.frames[w.at].Packet
	default:
		at = min(w.frontierBefore(), finishBase) // the end of the packets is not yet the end
	}
	w.told = max(w.told, at)
	return w.told
}

// frontierBefore is what the receiver knows of packets to come.
func (w *Worker) frontierBefore() uint64 {
	if b, ok := w.receiver.(Bounded); ok {
		return b.Frontier()
	}
	return w.frontier
}

// A Bounded receiver knows the number of the next packet that it may bring.
type Bounded interface {
	Frontier() uint64
}

// pending reports whether something decoded has not been sent on.
func (w *Worker) pending() bool {
	for i := range w.feeds {
		if w.feeds[i].pending() {
			return true
		}
	}
	return false
}

// wind goes on with the end, after a cycle that found nothing to do, and reports
// whether the worker has ended: everything folded, fired and put out.
func (w *Worker) wind() bool {
	switch w.ending {
	case emptied:
		if w.pending() || w.closing != nil || !w.allFolded() {
			return false
		}
		if w.plan.Flush && !w.discard {
			w.windows.FlushAll()
		} else {
			w.windows.DiscardAll()
		}
		w.ending = flushing
	case flushing:
		if w.windows.Closing() {
			return false
		}
		w.ending = ended
		w.publish(w.now)
		w.segment.SetState(segment.Done)
	case ended:
		return true
	}
	return w.ending == ended
}

// allFolded reports whether nothing can come through the lanes any more.
func (w *Worker) allFolded() bool {
	switch {
	case w.inbox == nil:
		return true
	case w.gate != nil:
		return !w.atGate() && w.gate.over.Load()
	}
	return w.inbox.Drained()
}
