package dataplane

import (
	"github.com/headrace/headrace/dataplane/segment"
)

// A hold brings all workers to where nothing is under way: no frame is in hand, no
// event is in a batch or in a lane, no pane is closing and none is to be cleared. There
// another thread may change what they have: move key groups, take it over into another
// plan. Each worker
//
//  1. takes no more frames (at once, or when it has had those that lay in its rings),
//  2. decodes what is in hand and sends it on, and commits that it is so far,
//  3. says in its lanes that nothing follows, and goes on folding and closing,
//  4. is held when all lanes that lead to it say so and are empty.
//
// A worker that is killed in between comes back to the same step: what step 2 committed
// is in its memory.

// obey notes which hold is asked for, if any; 0 ends it. past says that what lies in the
// rings is taken first. One hold may follow another without an end between them.
func (w *Worker) obey(command segment.Command, number uint64, past bool, port Port) {
	if !command.Holds() {
		number = 0
	}
	if w.stopped != number {
		w.stopped = 0
	}
	if number == w.hold {
		return
	}
	if number == 0 || w.hold != 0 && w.segment.State() == segment.Held {
		w.segment.SetState(segment.Running)
	}
	w.hold, w.quota = number, 0
	if past && number != 0 && w.stopped == 0 {
		w.quota = port.InRing() // those in hand too: some more do no harm
	}
}

// settle goes on with a hold after a cycle that found nothing to do, and reports
// whether the worker is held.
func (w *Worker) settle(port Port) bool {
	if w.quota > 0 && port.InRing() == 0 {
		w.quota = 0 // some were no frames
	}
	switch {
	case w.quota > 0 || w.at < w.count || w.closing != nil || w.pending():
		return false
	case w.stopped != w.hold:
		w.stopped = w.hold // the next commit says so
		return false
	case w.inbox != nil && !w.inbox.Held(w.hold), w.windows.Closing():
		return false
	}
	w.publish(w.now)
	w.segment.SetHeld(w.hold)
	return true
}
