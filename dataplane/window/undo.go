package window

import (
	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// SaveMax returns how many words of an undo log a State of p takes at most for one full
// batch of every feed ([State.Apply], or [State.Fold] and [State.Mark] for as much), all
// closing that may come of it ([State.Close]), and a flush.
func SaveMax(p *plan.Plan) (words int) {
	for range p.Feeds {
		words += event.MarksMax*(arena.SaveMax[source](1)+arena.SaveMax[feedCounts](1)+arena.SaveMax[uint32](1)) + // releases, idle, retire
			arena.SaveMax[gap](gapsMax+1) + arena.SaveMax[feedCounts](1)
	}
	for i := range p.Queries {
		q := &p.Queries[i]
		state := 0
		// A set that cannot be made has an error for whoever builds the State.
		if set, err := aggregate.NewSet(q, p.Feeds[q.Feed].Columns); err == nil {
			state = set.Words()
		}
		// Each event may be of a new key: its state, and its slot and place.
		words += event.BatchMax*(state+1+1+arena.SaveMax[uint64](1)) + arena.SaveMax[level](1)
		// A pane is opened, loses something, begins to close, and is put out, once a batch:
		// it is not free before that is committed. It may be put out a few keys at a time.
		words += PaneCount(q) * (3*arena.SaveMax[pane](1) + 2*arena.SaveMax[uint64](1))
		words += closesMax * arena.SaveMax[pane](1)
	}
	return words
}

// closesMax is how often Close is called in a batch at most.
const closesMax = 8
