package cluster

import (
	"cmp"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/rdma/collective"
)

// A shape is what all members know alike before the first round: the configured peers,
// the queries, and where key groups are at home.
type shape struct {
	me      int
	names   []string
	queries []plan.Query
	sets    []*aggregate.Set
	limits  outbox.Limits
	homes   [event.GroupCount]uint8 // the peer to which a key group belongs while it is there
}

func newShape(c *Config) *shape {
	s := &shape{me: c.Me, names: c.Names, queries: common(c.Plan.Queries), sets: c.Sets}
	for i := range s.queries {
		s.limits.Words = append(s.limits.Words, s.sets[i].Words())
		s.limits.KeyWidth = append(s.limits.KeyWidth, c.Plan.Streams[s.queries[i].Stream].KeyWidth)
	}
	for g := range s.homes {
		s.homes[g] = uint8(g % len(s.names))
		if c.Home != nil {
			s.homes[g] = uint8(c.Home(g))
		}
	}
	return s
}

// common returns queries without the local ones at the end. Global ones come first in a
// plan; what comes after them is each box's own, and no peer knows how many they are.
func common(queries []plan.Query) []plan.Query {
	n := len(queries)
	for n > 0 && !queries[n-1].Global {
		n--
	}
	return queries[:n]
}

func (s *shape) peers() int          { return len(s.names) }
func (s *shape) all() collective.Set { return collective.First(len(s.names)) }

// home returns the peer to which key belongs.
func (s *shape) home(key []byte) int { return int(s.homes[event.Group(event.HashKey(key))]) }

// A windowID names one window of one query.
type windowID struct {
	query      uint16
	start, end event.Nanos
}

// compare orders windows as they fire.
func (w windowID) compare(v windowID) int {
	return cmp.Or(cmp.Compare(w.query, v.query), cmp.Compare(w.end, v.end), cmp.Compare(w.start, v.start))
}

// valid reports that the plan has such a window.
func (s *shape) valid(w windowID) bool {
	if int(w.query) >= len(s.queries) || !s.queries[w.query].Global {
		return false
	}
	q := &s.queries[w.query]
	i := w.start.Index(q.Width, q.Offset)
	return w.end > w.start && event.WindowStart(i, q.Width, q.Offset) == w.start && event.WindowStart(i+1, q.Width, q.Offset) == w.end
}

// owner is the member that makes the rows of home, second the one that can make them
// in its place; with one member they are the same.
func owner(home int, members collective.Set) int {
	if members.Has(home) {
		return home
	}
	return members.After(home)
}

func second(home int, members collective.Set) int { return members.After(owner(home, members)) }

func holders(home int, members collective.Set) collective.Set {
	if members == 0 {
		return 0
	}
	return collective.Of(owner(home, members), second(home, members))
}
