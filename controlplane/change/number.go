package change

import (
	"fmt"
	"slices"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// renumber returns next with the numbers that a data plane needs that goes on from old.
// Frames in rings carry their feed's number, so a feed that goes on, as goesOn says by
// its name, keeps its number, and the number of any other feed of old stays empty in
// this change: a feed with [plan.Feed.Removed] stands there, takes the frames that are
// still on their way and steers none. A change later the number may be used again.
//
// from has for each feed of the plan the number in old of the feed that goes on in it,
// or -1. The error says that there are not enough numbers. Neither plan is changed.
func renumber(old, next *plan.Plan, goesOn func(feed string) bool) (numbered *plan.Plan, from []int, err error) {
	const unused = -1
	// number[i] is the new number of next.Feeds[i].
	number := make([]int, len(next.Feeds))
	taken := map[int]bool{}
	for i := range next.Feeds {
		number[i] = unused
		if id := feedNumber(old, next.Feeds[i].Name); id >= 0 && goesOn(next.Feeds[i].Name) {
			number[i], taken[id] = id, true
		}
	}
	// What had been removed before this change has no frames on their way any more.
	free := func(id int) bool { return !taken[id] && (id >= len(old.Feeds) || old.Feeds[id].Removed) }
	size := 0
	for id := range old.Feeds {
		if !old.Feeds[id].Removed {
			size = id + 1
		}
	}
	for i, id := 0, 0; i < len(number); i++ {
		if number[i] != unused {
			continue
		}
		for !free(id) {
			id++
		}
		number[i], taken[id] = id, true
		size = max(size, id+1)
	}
	if size > event.FeedsMax {
		return nil, nil, fmt.Errorf("feeds that go and feeds that come need %d numbers together, and there are %d: %s", size, event.FeedsMax, refuseIDs)
	}
	from = slices.Repeat([]int{-1}, size)
	for _, id := range number {
		if id < len(old.Feeds) && !old.Feeds[id].Removed { // else it was free
			from[id] = id
		}
	}
	return renumbered(old, next, number, size), from, nil
}

// renumbered puts next's feeds in their places and fills the others.
func renumbered(old, next *plan.Plan, number []int, size int) *plan.Plan {
	p := *next
	p.Feeds = make([]plan.Feed, size)
	for id := range p.Feeds {
		if id < len(old.Feeds) {
			p.Feeds[id] = remains(&old.Feeds[id], id)
		}
	}
	for i, id := range number {
		p.Feeds[id] = next.Feeds[i]
	}
	p.Streams = slices.Clone(next.Streams)
	for i := range p.Streams {
		p.Streams[i].Feed = number[p.Streams[i].Feed]
	}
	p.Queries = slices.Clone(next.Queries)
	for i := range p.Queries {
		p.Queries[i].Feed = number[p.Queries[i].Feed]
	}
	return &p
}

// remains returns what stands at the number of a feed that is no more: a feed that no
// rule leads to and no query reads, with the least memory that its format can have. Its
// name says what it was, and is no name that a config can give.
func remains(f *plan.Feed, id int) plan.Feed {
	x := *f
	if !x.Removed {
		x.Name = fmt.Sprintf("%s (removed, %d)", f.Name, id)
	}
	x.Removed = true
	x.Rules, x.Columns, x.Kinds, x.Identity = nil, nil, 0, false
	x.Channels, x.HoldPackets, x.HoldBytes, x.Orders = min(x.Channels, 1), min(x.HoldPackets, 1), min(x.HoldBytes, remainsHold), min(x.Orders, 1)
	return x
}

// remainsHold is room for one payload: what is held must have some.
const remainsHold = 2048
