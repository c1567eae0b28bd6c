package cluster

import (
	"slices"
	"sync/atomic"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

// A Generation is one data plane as a source of partials.
type Generation struct {
	// Workers put out records, in the first of so many Outboxes. Required.
	Workers, Outboxes int
	// Commits is where positions are kept for the next control process. Nil: nowhere.
	Commits *segment.Commits
	// Seen reports that some worker has seen an event of a query. Nil: it may have.
	Seen func(query int) bool
	// Progress changes whenever events of a query move its watermark, and not only when
	// that passes a window. Nil: nothing but windows that are over tells of events.
	Progress func(query int) uint64
	// Room is how many bytes of an outbox may wait for the group. Zero: no bound.
	Room int
}

// GenerationOf describes the data plane whose segment is given.
func GenerationOf(p *plan.Plan, s *segment.Segment) Generation {
	workers := max(p.Workers, 1)
	return Generation{
		Workers: workers, Outboxes: s.Layout.Workers, Commits: s.Sink(segment.GroupSink), Room: s.Layout.OutboxBytes / 2,
		Seen: func(query int) bool {
			for w := range workers {
				if s.Worker(w).Watermark(query) != 0 {
					return true
				}
			}
			return false
		},
		Progress: func(query int) (sum uint64) {
			for w := range workers {
				sum += uint64(s.Worker(w).Watermark(query))
			}
			return sum
		},
	}
}

var _ export.Tap = (*Tap)(nil)

// A Tap takes the records of one data plane: an [export.Tap].
type Tap struct {
	cluster *Cluster
	g       Generation
	workers int
	given   []uint64 // guarded by the contributor's lock
	resume  []uint64
	acked   []atomic.Uint64
	commit  segment.Commit
	done    atomic.Bool
}

// Tap returns the tap for the pump of a data plane. There is one at a time: the one
// before it must have been done.
func (c *Cluster) Tap(g Generation) *Tap {
	t := &Tap{cluster: c, g: g, workers: g.Workers, given: make([]uint64, g.Workers), acked: make([]atomic.Uint64, g.Workers)}
	if g.Commits != nil && g.Commits.Load(&t.commit) {
		t.resume = slices.Clone(t.commit.Positions)
		copy(t.given, t.resume)
		c.doubt.Store(t.commit.Rows)
		c.engine.contributor.resume(t.commit.Levels)
		for w := range t.acked {
			t.acked[w].Store(t.resume[w])
		}
	} else {
		t.commit = segment.Commit{Positions: make([]uint64, max(g.Outboxes, g.Workers))}
	}
	if len(t.commit.Levels) == 0 {
		t.commit.Levels = make([]uint64, levelsOf(len(c.c.Plan.Queries)))
	}
	if c.engine.contributor.store(t.commit.Levels) { // of a data plane before this one
		t.store()
	}
	c.engine.contributor.attach(t)
	c.mu.Lock()
	c.tap, c.source, c.progress, c.since = t, g.Seen, g.Progress, c.c.Now()
	c.mu.Unlock()
	return t
}

// Record is [export.Tap]'s.
func (t *Tap) Record(worker int, p *outbox.Partial, after uint64) {
	if worker < t.workers && t.cluster.engine.contributor.record(t, worker, p, after) {
		t.cluster.wake()
	}
}

// Acked is [export.Tap]'s.
func (t *Tap) Acked(worker int) uint64 {
	if worker >= t.workers {
		return ^uint64(0)
	}
	return t.acked[worker].Load()
}

// Resume is [export.Tap]'s.
func (t *Tap) Resume() []uint64 { return t.resume }

// Done is [export.Tap]'s. After [Cluster.Finish] it says so only when the cluster is
// done, or has been given up.
func (t *Tap) Done() bool {
	c := t.cluster
	t.detach(c.ending.Load())
	if c.ending.Load() {
		select {
		case <-c.over:
		default:
			return false
		}
	}
	t.End() // unless the end was asked for, it died: rows go to the next one's pump
	return true
}

// End says that the data plane and its segment may go: nothing of them is used any
// more when it returns. It is to be called when the pump has ended, however that came.
func (t *Tap) End() {
	t.detach(false)
	c := t.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tap != t {
		return
	}
	if c.source != nil {
		saw := make([]bool, len(c.c.Plan.Queries))
		for q := range saw {
			saw[q] = c.source(q)
		}
		c.source = func(query int) bool { return saw[query] }
	}
	c.tap, c.progress = nil, nil
}

func (t *Tap) detach(whole bool) {
	if t.done.CompareAndSwap(false, true) {
		t.cluster.engine.contributor.detach(t, whole)
		t.cluster.wake()
	}
}

// store stores the commit.
func (t *Tap) store() {
	at, n := t.cluster.engine.contributor.remembered(), len(t.commit.Levels)
	t.commit.Levels[n-2], t.commit.Levels[n-1] = at.epoch, at.round
	if t.g.Commits != nil {
		t.g.Commits.Store(&t.commit)
	}
}

// free stores how far the group has this box's records, and how many rows are being
// given out, and then gives back the room.
func (t *Tap) free(waiting uint64) {
	room := uint64(1 << 63)
	if t.g.Room > 0 {
		room = uint64(t.g.Room)
	}
	needs := t.cluster.engine.contributor.needs(t, room)
	if needs == nil {
		return
	}
	more := t.cluster.engine.contributor.store(t.commit.Levels) || t.commit.Rows != waiting
	for w, at := range needs {
		more = more || at > t.acked[w].Load()
	}
	if !more {
		return
	}
	// Rows that are on their way to the sinks when we die may be lost, if no other peer
	// has their states: the next control process finds how many.
	t.commit.Rows = waiting
	copy(t.commit.Positions, needs)
	t.store()
	for w, at := range needs {
		t.acked[w].Store(at)
	}
}
