package dataplane

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/xsk"
)

// heartbeat is how often a worker without work says that it lives.
const heartbeat = event.Nanos(100 * time.Millisecond)

// A Port is a receiver of live frames; [xsk.Port] is one.
type Port interface {
	xsk.Receiver
	xsk.Waiter
	// InRing is how many frames lie in the rings, those in the worker's hands included.
	InRing() int
}

// A Mailbox is what control tells the workers; [segment.Segment] is one.
type Mailbox interface {
	Command() segment.Command
	// Hold is the number of the hold that Command asks for.
	Hold() uint64
	// Past reports whether the worker takes first what lies in its rings; it is asked
	// after Hold.
	Past(worker int) bool
	UTCOffset() time.Duration
}

// Live is what a worker needs beside its [Config] to run on a thread.
type Live struct {
	// Port is the worker's Receiver.
	Port Port
	// Counters are the port's.
	Counters *xsk.Counters
	// Committed returns them without what the port gave and will give again, if it is to
	// go on before those frames; nil: they are always whole.
	Committed func(again []xsk.Frame) xsk.Counters
	Mailbox   Mailbox
	// Clock is CLOCK_MONOTONIC, read once a cycle.
	Clock func() event.Nanos
	// Pin, if set, keeps the runtime away from a worker that spins.
	Pin *Pin
	// Idle is what to do without work.
	Idle xsk.Idle
	// Stop asks for a drain, as the mailbox does: the process has a reason of its own.
	Stop *atomic.Bool
	// Over is the number of the last hold that is over though the mailbox still asks for
	// it: who asked has gone. Nil: there is none.
	Over *atomic.Uint64
	// Lost counts the frames that the kernel dropped before this worker's rings. When
	// it grows, the open windows of unsequenced feeds are marked.
	Lost *atomic.Uint64
}

// Live runs the worker until control or the process asks it to end, and everything
// that it has is put out. It is the body of a goroutine, whose thread it keeps.
func (w *Worker) Live(l Live) {
	runtime.LockOSThread()
	w.port, w.committed = l.Counters, l.Committed
	if w.ending == flowing {
		w.segment.SetState(segment.Running)
	} else {
		w.segment.SetState(segment.Draining) // the worker before this one was at it
	}
	held := false
	l.Pin.pin()
	defer l.Pin.unpin()
	for told := event.Nanos(0); ; {
		l.Pin.look()
		command := l.Mailbox.Command()
		if command == segment.Kill {
			w.segment.Fail("killed by command")
			return
		}
		now, n := l.Clock(), 0
		number := l.Mailbox.Hold()
		switch {
		case l.Stop.Load():
			number = 0 // who stops waits for nobody
		case l.Over != nil && command.Holds() && number <= l.Over.Load():
			command, number = segment.Go, 0
		}
		w.obey(command, number, l.Mailbox.Past(w.id), l.Port)
		if held = held && w.hold != 0 && w.hold == w.segment.HeldFor(); !held {
			w.utcOffset = event.Nanos(l.Mailbox.UTCOffset())
			if w.stopped == 0 {
				w.markLost(l.Lost.Load(), l.Port)
			}
			n = w.cycle(now)
			switch {
			case n > 0:
			case w.hold != 0 && w.ending == flowing:
				held = w.settle(l.Port)
			case command != segment.Go || l.Stop.Load() || w.ending > flowing:
				w.discard = command == segment.Discard
				if w.drain(l.Port) {
					return
				}
			}
		}
		if now >= told+heartbeat {
			told = now
			if held { // the memory is somebody else's now
				w.segment.Beat(uint64(now))
			} else {
				w.publish(now)
			}
		}
		// What can go wrong with the sockets is looked after by another thread.
		_ = l.Idle.Rest(n, l.Port)
	}
}

// drain goes on with the end, after a cycle that found nothing to do, and reports
// whether the worker has ended.
func (w *Worker) drain(port Port) bool {
	if w.ending == flowing {
		w.segment.SetState(segment.Draining)
		if port.InRing() == 0 && w.at == w.count && w.closing == nil {
			w.Finish()
		}
	}
	return w.wind()
}

// bookPort counts what the port took from its rings and could not give to the worker:
// frames of no known feed.
func (w *Worker) bookPort() {
	if w.port == nil || w.at < w.count {
		return
	}
	w.counters.Worker.RefillParked = w.parked + w.port.Parked
	if n := bad(w.port); n != w.bad {
		w.counters.Worker.Frames += n - w.bad
		w.counters.Worker.UnknownFeed += n - w.bad
		w.bad = n
	}
}

func bad(c *xsk.Counters) uint64 { return c.BadDescriptor + c.BadMeta + c.MultiBuffer }

// markLost marks windows when lost has grown. What lies in the rings then is older than
// the frames that found them full, so windows are marked once more when that has been
// received: the lost frames were between there and the next one.
func (w *Worker) markLost(lost uint64, port Port) {
	if lost > w.lost { // less is what a new process has not yet read
		if w.hit() {
			w.lost = lost
			w.again = w.counters.Worker.Frames + uint64(port.InRing())
		}
		return
	}
	if w.again != 0 && (w.counters.Worker.Frames >= w.again || port.InRing() == 0) && w.hit() {
		w.again = 0
	}
}

// hit says that something was lost that no sequence number will tell of: the open
// windows of unsequenced feeds are marked. It reports false, having done nothing, if
// that has to wait for a batch under way.
func (w *Worker) hit() bool {
	for i := range w.feeds {
		if f := &w.feeds[i]; f.sequencer == nil && (f.keyed || !f.room()) {
			return false
		}
	}
	for i := range w.feeds {
		if f := &w.feeds[i]; f.sequencer == nil {
			f.hit()
		}
	}
	return true
}

// hit marks the open windows of an unsequenced feed.
func (f *feed) hit() {
	c := f.change(0)
	c.Gaps++
	fault.Point()
	f.mark(event.Mark{Kind: event.MarkHit, Gap: c.Gaps, Time: c.Max})
}

// An Input is a receiver that comes to an end: a capture.
type Input interface {
	Ended() bool
	Now() event.Nanos
}

// Replay runs the worker over a receiver that is an [Input], to its end or until
// stop is set; who sets it calls [Gate.Wake]. It is the body of a goroutine.
func (w *Worker) Replay(stop *atomic.Bool) {
	in := w.receiver.(Input)
	w.segment.SetState(segment.Running)
	for !stop.Load() {
		var seen uint64
		if w.gate != nil {
			seen = w.gate.news.Load()
		}
		told, ending := w.told, w.ending
		n := w.cycle(in.Now())
		if w.gate != nil && (n > 0 || w.told != told) {
			w.gate.Wake()
		}
		if n > 0 {
			continue
		}
		if in.Ended() && w.at == w.count {
			w.Finish()
		}
		if w.wind() {
			return
		}
		switch {
		case w.told != told || w.ending != ending: // something was done after all
		case w.waiting == 0 && w.windows.Closing(): // the outbox is full, and its reader rings no bell
			runtime.Gosched()
		case w.gate != nil:
			w.gate.rest(seen)
		}
	}
	w.segment.Fail("stopped")
}
