package run

import (
	"github.com/headrace/headrace/dataplane/handover"
)

// poisoned tells of a worker that failed, and of the frame that did it, if that is known.
func (r *control) poisoned(b *handover.PoisonBody) {
	feed := ""
	if len(b.Frame) > 0 && b.Feed >= 0 && b.Feed < len(r.Plan.Feeds) {
		feed = r.Plan.Feeds[b.Feed].Name
	}
	r.Log.Error("a worker failed", "worker", b.Worker, "stage", b.Stage, "failure", b.Failure, "feed", feed, "frame_bytes", len(b.Frame), "left_out", b.Left)
	if b.Left {
		r.figures.source.CountPoison()
	}
}
