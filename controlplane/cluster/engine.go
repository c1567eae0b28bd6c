package cluster

import (
	"time"

	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/rdma"
)

// An engine is all of a box's part but for the goroutine that waits and talks: what to
// say in the next round, and what to do after it. The time is given to it.
type engine struct {
	s           *shape
	contributor *contributor
	member      *member
	timekeeper  *timekeeper
	faults      *faults
	// seen reports that this box has seen an event of a query, or else since when it
	// has not.
	seen func(query int) (bool, time.Duration)
	// progress changes when events of a query come.
	progress func(query int) uint64
	limit    int // bytes of a contribution to one member
	saying   saying
	last     uint64 // the firing at which we were done
}

// contributionLimit is what one round takes of windows that wait, more or less.
const contributionLimit = 64 << 20

func newEngine(c *Config) *engine {
	s := newShape(c)
	f := &faults{counts: make([][FaultCount]uint64, s.peers())}
	return &engine{
		s: s, faults: f, contributor: newContributor(s, c.Keep), member: newMember(s, rows.New(c.Plan, c.Values), f, c.Hold),
		timekeeper: newTimekeeper(s, c.MaxWait, c.CorrectFor), limit: contributionLimit,
		seen: func(int) (bool, time.Duration) { return true, 0 }, progress: func(int) uint64 { return 0 },
	}
}

// contribute returns what to say in the next round of epoch e.
func (n *engine) contribute(e rdma.Epoch, now time.Duration) (head []byte, parts [][]byte) {
	if n.member.epoch.Number != e.Number {
		n.member.begin(e)
	}
	s := &n.saying
	*s = saying{marks: append(s.marks[:0], make([]mark, len(n.s.queries))...), offers: s.offers[:0], forced: s.forced[:0]}
	var r *registry
	if n.member.phase == plain {
		r = n.member.registry
	}
	n.contributor.say(s, r, n.limit)
	for q := range s.marks {
		n.timekeeper.note(q, n.contributor.moved(q), n.progress(q), now)
		s.marks[q].floor = n.member.registry.floors[q]
		if r == nil {
			s.marks[q].floor = n.contributor.reachedOf(q)
		}
		seen, since := n.seen(q)
		s.marks[q].idle = n.timekeeper.judge(q, seen, n.contributor.waiting(q), now, since)
	}
	if r != nil {
		n.timekeeper.rule(s, r, now)
	}
	s.past = n.contributor.remembered()
	return n.member.contribute(s)
}

// take follows a committed round.
func (n *engine) take(g *rdma.Gathered, now time.Duration) {
	m := n.member
	was := m.phase
	m.take(g)
	if was == rollCall {
		return
	}
	if was == carrying {
		n.timekeeper.adopt(m.registry, now)
	} else {
		n.timekeeper.look(m.registry, now)
	}
	n.contributor.look(m.registry, m.at, n.saying.marks, was == carrying)
	n.contributor.follow(m.registry)
}

// drained reports that nothing of ours is on its way: our windows are in the sinks, and
// so are the rows that had become ours to give out by then.
func (n *engine) drained() bool {
	m := n.member
	if m.phase != plain || !m.registry.final.Has(n.s.me) || !n.contributor.nothing() {
		return false
	}
	if m.registry.needed(n.s.me) {
		return false
	}
	if n.last == 0 {
		n.last = m.registry.sequence
	}
	for home, d := range m.registry.durable {
		if owner(home, m.epoch.Members) == n.s.me && d < n.last {
			return false
		}
	}
	return true
}

// faults counts what was wrong with contributions, by peer.
type faults struct{ counts [][FaultCount]uint64 }

func (f *faults) note(peer int, fault Fault) { f.counts[peer][fault]++ }
