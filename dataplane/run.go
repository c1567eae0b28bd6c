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
// stop is set. It is the body of a goroutine.
func (w *Worker) Replay(stop *atomic.Bool) {
	in := w.receiver.(Input)
	w.segment.SetState(segment.Running)
	for !stop.Load() {
		if w.cycle(in.Now()) > 0 {
			continue
		}
		if in.Ended() && w.at == w.count {
			w.Finish()
		}
		if w.wind() {
			return
		}
		if w.plan.Workers > 1 || w.windows.Closing() {
			runtime.Gosched()
		}
	}
	w.segment.Fail("stopped")
}
