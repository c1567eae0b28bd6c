package window

import (
	"reflect"

	"github.com/headrace/headrace/dataplane/event"
)

// record is how many words of an undo log a saved T takes at most.
func record[T any](n int) int { return (n*int(reflect.TypeFor[T]().Size())+7)/8 + 2 }

// FoldUndo returns how many words of an undo log [State.Fold] of a full batch of a
// stream takes at most.
func (s *State) FoldUndo(stream int) (words int) {
	for _, n := range s.streams[stream].queries {
		g := &s.queries[n].geometry
		// Each may be of a new key, in a new window, with something dropped beside.
		words += event.BatchMax * (g.State + 1 + 1 + record[uint64](1) + record[pane](1) + record[level](1))
	}
	return words
}

// MarkUndo returns how many words of an undo log [State.Mark] of a feed takes at most.
// [State.Apply] takes that for each mark of the batch, and [State.FoldUndo] for each of
// the feed's streams.
func (s *State) MarkUndo(feed int) (words int) {
	f := &s.feeds[feed]
	words = record[source](1) + record[uint32](len(f.active)) + 2*record[feedCounts](1)
	words += len(f.gaps)*record[gap](1) + record[gap](len(f.gaps)) // closed one by one, then moved
	for _, n := range f.queries {
		panes := len(s.queries[n].panes)
		words += 2*record[level](1) + panes*(record[pane](1)+record[level](1)+record[uint32](1))
	}
	return words
}

// CloseUndo returns how many words of an undo log [State.Close] takes at most.
func (s *State) CloseUndo() (words int) {
	for i := range s.queries {
		words += len(s.queries[i].panes)*(record[pane](1)+record[level](1)) + record[level](1)
	}
	return words
}

// FlushUndo returns how many words of an undo log [State.FlushAll] or
// [State.DiscardAll] takes at most.
func (s *State) FlushUndo() (words int) {
	for i := range s.queries {
		words += len(s.queries[i].panes) * (record[pane](1) + record[level](1) + record[uint32](1))
	}
	return words
}
