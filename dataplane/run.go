package dataplane

import (
	"runtime"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/segment"
)

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
