package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/pcapng"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/recorder"
)

// captureEvery is how often the recorders are looked at while somebody asks for frames.
const captureEvery = 2 * time.Millisecond

// recorders are those of a data plane's workers. The process may change under them; other
// memory makes other recorders.
type recorders struct {
	plan    *plan.Plan
	offset  func() time.Duration // from the data plane's clock to UTC
	fds     []int                // of our own, by worker
	places  []recorder.Place
	faces   [][]int // by worker and ring: index of the plan's interfaces
	mu      sync.Mutex
	askers  int
	retired bool // closed when nobody asks any more
}

// openRecorders makes g's recorders those that are asked. Without memory that outlives the
// process there is nothing to be read.
func (r *control) openRecorders(g *generation, workers []handover.Placed) {
	var next *recorders
	if g.stock != nil {
		next = &recorders{plan: r.Plan, offset: g.segment.UTCOffset}
		for w := range min(len(workers), len(g.stock.regions)) {
			fd, err := unix.FcntlInt(uintptr(g.stock.regions[w]), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				r.Log.Warn("frames cannot be captured", "worker", w, "error", err)
				break
			}
			var faces []int
			for _, s := range g.layout.Sockets() {
				if s.Worker == w {
					faces = append(faces, s.Interface)
				}
			}
			next.fds, next.places, next.faces = append(next.fds, fd), append(next.places, workers[w].Recorder), append(next.faces, faces)
		}
	}
	if old := r.recorders.Swap(next); old != nil {
		old.leave(true)
	}
}

// enter reports whether the recorders may be read, until leave.
func (x *recorders) enter() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.retired {
		return false
	}
	x.askers++
	return true
}

// leave ends what enter began, or the life of x, which then closes with the last who asks.
func (x *recorders) leave(retire bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if retire {
		x.retired = true
	} else {
		x.askers--
	}
	if x.askers == 0 {
		if x.plan.Recorder.Frames == 0 {
			x.want(false)
		}
		if x.retired {
			closeAll(x.fds)
			x.fds = nil
		}
	}
}

// want tells workers without a recorder of the plan's whether frames are asked for.
func (x *recorders) want(wanted bool) {
	for w, fd := range x.fds {
		if rd, err := recorder.NewReader(fd, x.places[w]); err == nil {
			_ = rd.Want(wanted) // without it no frame comes
		}
	}
}

// readers returns a reader for each worker.
func (x *recorders) readers() (list []*recorder.Reader, err error) {
	for w, fd := range x.fds {
		rd, err := recorder.NewReader(fd, x.places[w])
		if err != nil {
			return nil, fmt.Errorf("worker %d: %w", w, err)
		}
		list = append(list, rd)
	}
	return list, nil
}

// feed returns the number of a feed, -1 for every one.
func (x *recorders) feed(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	i := slices.IndexFunc(x.plan.Feeds, func(f plan.Feed) bool { return f.Name == name })
	if i < 0 {
		return 0, unknownFeed(x.plan, name)
	}
	return i, nil
}

// A capturer is an [api.Capturer] of a run.
type capturer struct{ r *control }

// now returns the recorders of now, entered.
func (c capturer) now() (*recorders, error) {
	for {
		x := c.r.recorders.Load()
		if x == nil {
			return nil, api.Refuse("set `crash: rollback` and start again", "frames can be captured with `crash: rollback` alone")
		}
		if x.enter() {
			return x, nil
		}
	}
}

// Capture writes frames to w as pcapng: those that come, or those before the latest gap.
func (c capturer) Capture(ctx context.Context, k api.Capture, w io.Writer) error {
	x, err := c.now()
	if err != nil {
		return err
	}
	defer func() { x.leave(false) }()
	feed, err := x.feed(k.Feed)
	if err != nil {
		return err
	}
	if k.BeforeGap {
		return x.beforeGap(feed, k.Count, w)
	}
	out, err := x.begin(w)
	if err != nil {
		return err
	}
	for left := k.Count; left > 0; {
		n, err := x.follow(ctx, feed, left, out, func() bool { return c.r.recorders.Load() != x })
		if left -= n; err != nil || left <= 0 || ctx.Err() != nil {
			return err
		}
		// Another data plane is there: go on with its recorders, if it has the feed.
		next, err := c.now()
		if err != nil {
			return err
		}
		x.leave(false)
		x = next
		if feed, err = x.feed(k.Feed); err != nil {
			return err
		}
	}
	return nil
}

func (x *recorders) begin(w io.Writer) (*pcapng.Writer, error) {
	var faces []pcapng.Face
	for i := range x.plan.Interfaces {
		faces = append(faces, pcapng.Face{Name: x.plan.Interfaces[i].Name, Snap: x.plan.Recorder.Snap})
	}
	return pcapng.NewWriter(w, faces...)
}

// a copied frame is one out of a recorder.
type copied struct {
	recorder.Frame
	worker int
	missed uint64 // frames of the worker before it that nobody could copy
}

// follow writes frames as they come, and returns how many when it has enough, ctx ends, or
// changed says so.
func (x *recorders) follow(ctx context.Context, feed, most int, out *pcapng.Writer, changed func() bool) (n int, err error) {
	readers, err := x.readers()
	if err != nil {
		return 0, err
	}
	next := make([]uint64, len(readers))
	for w, rd := range readers {
		if next[w], err = rd.Head(); err != nil {
			return 0, err
		}
	}
	x.want(true)
	tick := time.NewTicker(captureEvery)
	defer tick.Stop()
	for n < most && !changed() {
		var batch []copied
		for w, rd := range readers {
			if next[w], err = since(rd, next[w], w, feed, &batch); err != nil {
				return n, err
			}
		}
		slices.SortStableFunc(batch, func(a, b copied) int { return cmp.Compare(a.At, b.At) })
		for i := range batch[:min(len(batch), most-n)] {
			if err := x.write(out, &batch[i]); err != nil {
				return n, err
			}
			n++
		}
		select {
		case <-ctx.Done():
			return n, nil
		case <-tick.C:
		}
	}
	return n, nil
}

// since copies what a worker has put in from frame number next on, and returns where to go
// on.
func since(rd *recorder.Reader, next uint64, worker, feed int, batch *[]copied) (uint64, error) {
	head, err := rd.Head()
	if err != nil || head < next { // less: it is not the memory that it was
		return head, err
	}
	missed := uint64(0)
	for ; next < head; next++ {
		if oldest := rd.Oldest(head); next < oldest {
			missed, next = missed+oldest-next, oldest
		}
		f := copied{worker: worker}
		switch err := rd.Read(next, &f.Frame); {
		case errors.Is(err, recorder.ErrOverwritten):
			missed++
			if head, err = rd.Head(); err != nil {
				return next, err
			}
			continue
		case err != nil:
			return next, err
		}
		if feed < 0 || f.Feed == feed {
			f.Bytes = slices.Clone(f.Bytes)
			f.missed, missed = missed, 0
			*batch = append(*batch, f)
		}
	}
	return next, nil
}

// write writes a frame.
func (x *recorders) write(out *pcapng.Writer, f *copied) error {
	at := f.At
	if !f.NICTime {
		at += event.Nanos(x.offset())
	}
	p := pcapng.Frame{At: at, Bytes: f.Bytes, Length: f.Length}
	if faces := x.faces[f.worker]; f.Ring < len(faces) {
		p.Face = faces[f.Ring]
	}
	if f.missed > 0 {
		p.Comment = fmt.Sprintf("up to %d frames of worker %d before this one were received and could not be copied in time", f.missed, f.worker)
	}
	return out.Write(&p)
}

// beforeGap writes the frames before the latest gap of a feed, -1: of any.
func (x *recorders) beforeGap(feed, most int, w io.Writer) error {
	if x.plan.Recorder.Frames == 0 {
		return api.Unknown("set recorder.frames in the config and start again", "no frames are kept")
	}
	readers, err := x.readers()
	if err != nil {
		return err
	}
	worker, before, latest := -1, uint64(0), event.Nanos(0)
	for i, rd := range readers {
		for f := range x.plan.Feeds {
			if feed >= 0 && f != feed {
				continue
			}
			b, at, err := rd.Gap(f)
			if err != nil {
				return err
			}
			if at > latest {
				worker, before, latest = i, b, at
			}
		}
	}
	if worker < 0 {
		return api.Unknown("ask again after one, or without before_gap", "there was no gap")
	}
	var list []copied
	for n := before; n > 0 && len(list) < most; {
		n--
		f := copied{worker: worker}
		err := readers[worker].Read(n, &f.Frame)
		if errors.Is(err, recorder.ErrOverwritten) {
			break
		}
		if err != nil {
			return err
		}
		if feed < 0 || f.Feed == feed {
			f.Bytes = slices.Clone(f.Bytes)
			list = append(list, f)
		}
	}
	if len(list) == 0 {
		return api.Unknown("raise recorder.frames, or ask sooner", "the frames before the latest gap have been overwritten")
	}
	out, err := x.begin(w)
	if err != nil {
		return err
	}
	slices.Reverse(list)
	for i := range list {
		if err := x.write(out, &list[i]); err != nil {
			return err
		}
	}
	return nil
}
