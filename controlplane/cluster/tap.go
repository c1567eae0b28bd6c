package cluster

import (
	"slices"
	"sync/atomic"

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
	}
}

// A Tap takes the records of one data plane: an [export.Tap].
type Tap struct {
	cluster *Cluster
	g       Generation
	workers int
	given   []uint64 // guarded by the contributor's lock
	resume  []uint64
	acked   []atomic.Uint64
	commit  segment.Commit
	done    bool
}

// Tap returns the tap for the pump of a data plane. There is one at a time: the one
// before it must have been done.
func (c *Cluster) Tap(g Generation) *Tap {
	t := &Tap{cluster: c, g: g, workers: g.Workers, given: make([]uint64, g.Workers), acked: make([]atomic.Uint64, g.Workers)}
	if g.Commits != nil && g.Commits.Load(&t.commit) {
		t.resume = slices.Clone(t.commit.Positions)
		copy(t.given, t.resume)
		for w := range t.acked {
			t.acked[w].Store(t.resume[w])
		}
	} else {
		t.commit = segment.Commit{Positions: make([]uint64, max(g.Outboxes, g.Workers))}
	}
	c.engine.contributor.attach(t)
	c.mu.Lock()
	c.tap, c.source = t, g.Seen
	c.mu.Unlock()
	return t
}

// Record is [export.Tap]'s.
func (t *Tap) Record(worker int, p *outbox.Partial, after uint64) {
	if worker < t.workers && t.cluster.engine.contributor.record(t, worker, p, after) {
		t.cluster.c.Group.Wake()
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
	if !t.done {
		t.done = true
		c.engine.contributor.detach(t, c.ending.Load())
		c.c.Group.Wake()
	}
	if !c.ending.Load() {
		return true // it died: rows go to the next one's pump
	}
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

// free stores how far the group has this box's records, and then gives back the room.
func (t *Tap) free() {
	room := uint64(1 << 63)
	if t.g.Room > 0 {
		room = uint64(t.g.Room)
	}
	needs := t.cluster.engine.contributor.needs(t, room)
	more := false
	for w, at := range needs {
		more = more || at > t.acked[w].Load()
	}
	if !more {
		return
	}
	copy(t.commit.Positions, needs)
	if t.g.Commits != nil {
		t.g.Commits.Store(&t.commit)
	}
	for w, at := range needs {
		t.acked[w].Store(at)
	}
}
