package cluster

import (
	"slices"
	"time"
)

// Stats says how the global queries do.
type Stats struct {
	Epoch   uint64   `json:"epoch"` // 0: none
	Members []string `json:"members"`
	// Current: we know what has happened so far, and take part in it.
	Current bool   `json:"current"`
	Rounds  uint64 `json:"rounds"`
	// Unclear counts rounds that ended with their epoch.
	Unclear uint64 `json:"unclear"`
	// Kept is this box's own partials until their rows are safe.
	KeptBytes   int `json:"kept_bytes"`
	KeptWindows int `json:"kept_windows"`
	// Held is states of the key groups that this box owns or is second for.
	HeldBytes int `json:"held_bytes"`
	// Waiting is rows that the sinks have not written yet.
	Waiting int `json:"rows_waiting"`
	// InDoubt is rows that the control process before this one had made and that may
	// not have been written. Where there was a second, that one has made them again.
	InDoubt uint64       `json:"rows_in_doubt"`
	Queries []QueryStats `json:"queries"` // the global ones
	Bad     []BadStats   `json:"bad_contributions,omitempty"`
}

// QueryStats says how one global query does.
type QueryStats struct {
	Query int    `json:"-"`
	Name  string `json:"query"`
	Rows  uint64 `json:"rows"` // that this box gave out
	// Straggler is the peer that windows wait for, and Lag how far it is behind the
	// one that is furthest.
	Straggler string        `json:"straggler,omitempty"`
	Lag       time.Duration `json:"lag"`
	// Open is windows that somebody has contributed and that have not fired.
	Open        int    `json:"open"`
	Fired       uint64 `json:"fired"` // times that this peer has seen a window fire
	Corrections uint64 `json:"corrections"`
	Forced      uint64 `json:"forced"` // fired without a peer that was behind
	// Unknown is shares of windows whose rows could not be made again, because who had
	// them is gone, and windows that a group before this one may have fired.
	Unknown uint64 `json:"unknown"`
	// Short is shares of windows that went out without a peer that had contributed:
	// both holders of its part are gone, and so is what the peer kept.
	Short      uint64 `json:"short"`
	Late       uint64 `json:"late"`       // contributed when they could be corrected no more
	Repeated   uint64 `json:"repeated"`   // contributed by a peer that had done so
	Again      uint64 `json:"again"`      // contributed by this box once more
	Overflow   uint64 `json:"overflow"`   // of this box: dropped for want of room
	Shed       uint64 `json:"shed"`       // rows of this box that its sinks did not write while hold was full
	Stray      uint64 `json:"stray"`      // records of this box that came after their window
	Unattended uint64 `json:"unattended"` // windows of this box that are kept in this process alone
	Watermarks []Mark `json:"watermarks"`
}

// A Mark is how far a peer is with a query.
type Mark struct {
	Peer string `json:"peer"`
	// Nanos is the event time up to which it has contributed everything, in
	// nanoseconds; absent if nothing is known.
	Nanos *int64 `json:"nanos,omitempty"`
	Idle  bool   `json:"idle"`
	Final bool   `json:"final"`
}

// BadStats counts what was wrong with the contributions of one peer.
type BadStats struct {
	Peer   string `json:"peer"`
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// Stats may be called from any goroutine. Its slices must not be changed.
func (c *Cluster) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

const reportEvery = 100 * time.Millisecond

// report publishes figures now and then.
func (c *Cluster) report(now bool) {
	t := c.c.Now()
	if !now && t-c.reported < reportEvery {
		return
	}
	c.reported = t
	n, m := c.engine, c.engine.member
	e := c.c.Group.Epoch()
	s := Stats{
		Epoch: e.Number, Members: c.namesOf(e.Members), Current: e.Number != 0 && m.epoch.Number == e.Number && m.phase == plain,
		Rounds: c.rounds, Unclear: c.unclear, HeldBytes: m.holder.bytes, InDoubt: c.doubt.Load(), Waiting: m.waiting(),
	}
	var own []keeps
	own, s.KeptWindows, s.KeptBytes = n.contributor.figures()
	for q := range n.s.queries {
		if n.s.queries[q].Global {
			s.Queries = append(s.Queries, c.query(q, &own[q]))
		}
	}
	for p := range n.faults.counts {
		for f, count := range n.faults.counts[p] {
			if count > 0 {
				s.Bad = append(s.Bad, BadStats{c.c.Names[p], Fault(f).String(), count})
			}
		}
	}
	c.mu.Lock()
	c.stats = s
	c.mu.Unlock()
}

func (c *Cluster) query(q int, own *keeps) QueryStats {
	r := c.engine.member.registry
	n := &r.counts[q]
	s := QueryStats{
		Query: q, Name: c.engine.s.queries[q].Name, Rows: c.emitted[q], Fired: n.fired, Corrections: n.corrected, Forced: n.forced,
		Unknown: n.unknown + own.unknown + c.engine.member.unmade[q], Short: n.short, Late: n.late, Repeated: n.repeated, Again: own.again, Overflow: own.overflow,
		Shed: c.engine.member.shed[q], Stray: own.stray, Unattended: own.lonely,
	}
	for _, e := range r.open {
		if int(e.id.query) == q {
			s.Open++
		}
	}
	p, lag := r.straggler(q)
	if p >= 0 {
		s.Straggler, s.Lag = c.c.Names[p], lag
	}
	for p, name := range c.c.Names {
		m := Mark{Peer: name, Idle: r.idle[p][q] != waited, Final: r.final.Has(p)}
		if t := int64(r.marks[p][q]); t != -1<<63 {
			m.Nanos = &t
		}
		s.Watermarks = append(s.Watermarks, m)
	}
	return s
}

// figures returns a copy of the counts, and what is kept.
func (c *contributor) figures() (counts []keeps, windows, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.counts), len(c.windows), c.bytes
}
