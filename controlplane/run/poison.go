package run

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/controlplane/pcapng"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
)

const (
	poisonFiles = 16 // that are kept
	// poisonStamp sorts by time as text.
	poisonStamp = "20060102T150405.000000000"
)

// poisoned tells of a worker that failed, and of the frame that did it, if that is known.
func (r *control) poisoned(b *handover.PoisonBody) {
	feed, path := "", ""
	if len(b.Frame) > 0 {
		if b.Feed >= 0 && b.Feed < len(r.Plan.Feeds) {
			feed = r.Plan.Feeds[b.Feed].Name
		}
		var err error
		if path, err = r.keepPoison(b, feed); err != nil {
			r.Log.Warn("the frame that a worker failed at could not be kept", "error", err)
		}
	}
	r.Log.Error("a worker failed", "worker", b.Worker, "stage", b.Stage, "failure", b.Failure, "feed", feed, "frame_bytes", len(b.Frame), "frame", path, "left_out", b.Left)
	if b.Left {
		r.figures.source.CountPoison()
	}
	if path != "" {
		r.poison = path
	}
	r.showContinuity(r.g)
}

// keepPoison writes the frame into a file of its own and returns its name. Of the files
// that there were the last ones stay.
func (r *control) keepPoison(b *handover.PoisonBody, feed string) (path string, err error) {
	old, err := filepath.Glob(filepath.Join(r.folder.path, "poison-*.pcapng"))
	if err != nil {
		return "", err
	}
	slices.Sort(old)
	for ; len(old) >= poisonFiles; old = old[1:] {
		if err := os.Remove(old[0]); err != nil {
			return "", err
		}
	}
	path = filepath.Join(r.folder.path, "poison-"+time.Now().UTC().Format(poisonStamp)+".pcapng")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	w, err := pcapng.NewWriter(f, pcapng.Face{Name: strings.ToValidUTF8(b.Interface, "?")})
	if err != nil {
		return "", err
	}
	return path, w.Write(&pcapng.Frame{
		At: b.Received + event.Nanos(r.g.segment.UTCOffset()), Bytes: b.Frame,
		Comment: strings.ToValidUTF8(fmt.Sprintf("headrace: worker %d failed at this frame of feed %q, stage %s: %s", b.Worker, feed, b.Stage, b.Failure), "?"),
	})
}
