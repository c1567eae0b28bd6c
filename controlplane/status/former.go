package status

import (
	"github.com/headrace/headrace/dataplane/segment"
)

// restartReason is what was lost with a data plane that died, in the ledgers.
const restartReason = "data_plane_restart"

// Former is what the data planes before this one counted: a data plane that is
// started again counts from 0. It is plain data, to be handed to the next control
// process. The zero value says that there was none.
type Former struct {
	Restarts uint64
	// Takeovers are the processes that went on where the one before them was.
	Takeovers uint64
	Poison    uint64             // frames that were left out
	Workers   []segment.Counters // with nothing in flight
	Sockets   []Sockets          // by interface
	Rows      []uint64           // by query, made by this control process
	// Put are partials, by query, that the workers count on from and that were put out
	// through another segment.
	Put   []uint64
	Sinks map[string]FormerSink
	Lost  []FormerLost
}

// FormerSink is what a sink had committed.
type FormerSink struct{ Rows, Bytes, Global uint64 }

// FormerLost is what was in flight when a data plane died, or what it had not
// counted yet: the difference of one line of a ledger.
type FormerLost struct {
	Layer, Of string
	Count     uint64
}

// Former returns what snap shows as the account of a data plane that has died, added to
// those before it. Its sockets must be closed and its outboxes empty.
func (snap *Snapshot) Former() Former {
	f := Former{Restarts: snap.Restarts + 1, Takeovers: snap.former.Takeovers, Poison: snap.former.Poison, Sinks: snap.committed()}
	for _, line := range NewLedger(snap) {
		n := line.Difference + int64(line.InFlight)
		for _, c := range line.Dropped {
			if c.Name == restartReason {
				n += int64(c.Count)
			}
		}
		if n > 0 && line.Layer != layerRows && line.Layer != layerRestarts {
			f.Lost = append(f.Lost, FormerLost{line.Layer, line.Of, uint64(n)})
		}
	}
	for w := range snap.workers {
		c := snap.workers[w]
		f.Workers = append(f.Workers, segment.Counters{
			Worker: c.Worker, Feeds: append([]segment.FeedCounters(nil), c.Feeds...), Queries: append([]segment.QueryCounters(nil), c.Queries...),
		})
		for i := range c.Feeds {
			f.Workers[w].Feeds[i].FramesHeld, f.Workers[w].Feeds[i].MessagesHeld = 0, 0
		}
	}
	for q := range snap.Queries {
		// What was in lanes is lost, no longer on its way.
		if x := &snap.Queries[q]; x.Sent > x.Arrived && len(f.Workers) > 0 {
			f.Workers[0].Queries[q].Arrived += x.Sent - x.Arrived
		}
		f.Rows = append(f.Rows, snap.Queries[q].Rows)
	}
	if snap.XDP != nil {
		for i := range snap.XDP.Interfaces {
			sum := snap.XDP.Interfaces[i].Sockets
			sum.InRing = 0
			f.Sockets = append(f.Sockets, sum)
		}
	}
	return f
}

// committed is what each sink has committed.
func (snap *Snapshot) committed() map[string]FormerSink {
	sinks := map[string]FormerSink{}
	for i := range snap.Sinks {
		x := &snap.Sinks[i]
		sinks[x.Name] = FormerSink{x.Rows, x.Bytes, x.Global}
	}
	return sinks
}

// addTo adds worker w's former counters to c.
func (f *Former) addTo(w int, c *segment.Counters) {
	if w >= len(f.Workers) {
		return
	}
	old := &f.Workers[w]
	heartbeat := c.Worker.HeartbeatNanos
	segment.Add(c, old)
	c.Worker.HeartbeatNanos = heartbeat
}

// partials is how many partials of query q the former data planes put out.
func (f *Former) partials(q int) (n uint64) {
	for w := range f.Workers {
		n += f.Workers[w].Queries[q].Partials
	}
	return n + pick(f.Put, q)
}

// lost is what the ledger's line lost with former data planes.
func (f *Former) lost(layer, of string) uint64 {
	for _, l := range f.Lost {
		if l.Layer == layer && l.Of == of {
			return l.Count
		}
	}
	return 0
}

// add adds a former data plane's sockets.
func (s *Sockets) add(o *Sockets) {
	s.RxDropped += o.RxDropped
	s.RxRingFull += o.RxRingFull
	s.FillRingEmpty += o.FillRingEmpty
	s.RxInvalid += o.RxInvalid
	s.TxInvalid += o.TxInvalid
	s.InRing += o.InRing
}

// Takeover counts one more process that goes on where the one before it was, and returns
// the account to hand over.
func (s *Source) Takeover() Former {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Former.Takeovers++
	return s.Former
}

// Account returns the account of the data planes before this one.
func (s *Source) Account() Former {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Former
}

// CountPoison counts one more frame that is left out.
func (s *Source) CountPoison() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Former.Poison++
}

// Takeovers returns how many processes went on where the one before them was, and how
// many frames were left out.
func (s *Source) Takeovers() (processes, poison uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Former.Takeovers, s.Former.Poison
}

// Renumber returns the account as it is for the data plane after this one that takes its
// memory over, counts included, with another plan, of so many workers: queries and feeds
// have for each of the new plan its old number, or -1. snap is of when all rows have been
// written. gone are the sockets, by interface, that the next one has not.
func (snap *Snapshot) Renumber(queries, feeds []int, workers int, gone []Sockets) Former {
	old := snap.former
	f := Former{
		Restarts: old.Restarts, Takeovers: old.Takeovers, Poison: old.Poison, Lost: old.Lost, Sockets: gone,
		Sinks: snap.committed(),
	}
	for w := range old.Workers {
		c := segment.Counters{Worker: old.Workers[w].Worker}
		for _, from := range feeds {
			c.Feeds = append(c.Feeds, pick(old.Workers[w].Feeds, from))
		}
		for _, from := range queries {
			c.Queries = append(c.Queries, pick(old.Workers[w].Queries, from))
		}
		f.Workers = append(f.Workers, c)
	}
	for w := workers; w < len(f.Workers); w++ { // as the data plane does with its own
		segment.Add(&f.Workers[0], &f.Workers[w])
	}
	f.Workers = f.Workers[:min(workers, len(f.Workers))]
	for _, from := range queries {
		var rows, partials uint64
		if from >= 0 {
			rows, partials = snap.Queries[from].Rows, snap.Queries[from].Partials
			for w := range old.Workers {
				partials -= old.Workers[w].Queries[from].Partials
			}
		}
		f.Rows, f.Put = append(f.Rows, rows), append(f.Put, partials)
	}
	for i := range gone {
		before := pick(old.Sockets, i)
		gone[i].add(&before)
	}
	return f
}

// pick returns list[i], or nothing if there is no such element.
func pick[T any](list []T, i int) (v T) {
	if i >= 0 && i < len(list) {
		v = list[i]
	}
	return v
}
