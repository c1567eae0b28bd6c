package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/window"
)

// A TransferConfig says between whom state goes. No worker runs.
type TransferConfig struct {
	// From are the workers of the old plan, by [OpenHeld], all held for the same hold.
	From []*Worker
	// To are those of the new plan, just built over empty regions: worker w takes up the
	// sockets of worker w of From ([Config.Rings]).
	To []*Worker
	// OwnersFrom and OwnersTo are who owned and who owns each key group.
	OwnersFrom, OwnersTo *[event.GroupCount]uint16
	// Feeds and Queries have for each of the new plan the number in the old plan of the
	// one that goes on in it, or -1.
	Feeds, Queries []int
}

// transfer is a Transfer under way.
type transfer struct {
	TransferConfig
	old, plan *plan.Plan
	// moved are the new numbers of sources, by old feed, as marks have them.
	moved []map[uint32]uint32
	// next has for each feed and query of the old plan the one that it goes on in, or -1.
	nextFeed, nextQuery []int
}

// Transfer gives the workers of a new plan, or of another number, or with other key groups,
// what those before them had at a hold: watermarks and open windows, channels with what
// they hold and what their decoders know, counters, what is known of losses. What goes on
// does so as if nothing had been; what does not go on is left out.
//
// From is only read. Where the new workers cannot take something, the error says what and
// which limit; then, or after a kill, their regions are thrown away, and the old ones are
// as they were. The new ones say so too: nothing is committed in any of them before all of
// it is there, and one that had begun and has no commit is refused ([NewWorker]).
func Transfer(c TransferConfig) error {
	t := &transfer{TransferConfig: c}
	if err := t.run(); err != nil {
		return fmt.Errorf("dataplane: transfer of state: %w", err)
	}
	return nil
}

func (t *transfer) run() error {
	if err := t.check(); err != nil {
		return err
	}
	for _, w := range t.To {
		atomic.StoreUint64(&w.memory.head.Taking, 1)
		fault.Point()
	}
	for f, from := range t.Feeds {
		if from < 0 {
			continue
		}
		if err := t.channels(f, from); err != nil {
			return fmt.Errorf("feed %s: %w", t.plan.Feeds[f].Name, err)
		}
	}
	if err := t.windows(); err != nil {
		return err
	}
	t.losses()
	t.totals()
	if shared := t.To[0].shared; shared != nil {
		if old := t.From[0].shared; old != nil {
			shared.CopyMarks(old, t.queries())
		}
		Recount(shared, t.To)
	}
	t.commit()
	return nil
}

// check finds what can be known to fail before anything is touched.
func (t *transfer) check() error {
	if len(t.From) == 0 || len(t.To) == 0 {
		return errors.New("no workers")
	}
	t.old, t.plan = t.From[0].plan, t.To[0].plan
	switch {
	case t.old.Replay || t.plan.Replay:
		return errors.New("a replay keeps nothing")
	case len(t.From) != t.old.Workers || len(t.To) != t.plan.Workers:
		return fmt.Errorf("%d workers of %d to %d of %d", len(t.From), t.old.Workers, len(t.To), t.plan.Workers)
	case len(t.Feeds) != len(t.plan.Feeds) || len(t.Queries) != len(t.plan.Queries):
		return fmt.Errorf("what goes on is named for %d feeds and %d queries, the plan has %d and %d", len(t.Feeds), len(t.Queries), len(t.plan.Feeds), len(t.plan.Queries))
	}
	for g := range event.GroupCount {
		if int(t.OwnersFrom[g]) >= len(t.From) || int(t.OwnersTo[g]) >= len(t.To) {
			return fmt.Errorf("key group %d goes from worker %d of %d to %d of %d", g, t.OwnersFrom[g], len(t.From), t.OwnersTo[g], len(t.To))
		}
	}
	for w, worker := range t.From {
		if worker.stopped != t.From[0].stopped {
			return fmt.Errorf("worker %d was at hold %d, worker 0 at %d: %w", w, worker.stopped, t.From[0].stopped, ErrNotHeld)
		}
	}
	if len(t.From) > 1 && !lanesEmpty(t.From) {
		return fmt.Errorf("events are between workers: %w", ErrNotHeld)
	}
	for w, worker := range t.To {
		if worker.undo == nil || worker.memory.head.Commit != 0 || worker.memory.head.Taking != 0 {
			return fmt.Errorf("worker %d has no undo log, or has state already: give it an empty region", w)
		}
	}
	return t.checkNames()
}

// checkNames looks at which feeds and queries go on in which.
func (t *transfer) checkNames() (err error) {
	if t.nextFeed, err = inverse(t.Feeds, len(t.old.Feeds)); err != nil {
		return fmt.Errorf("feeds: %w", err)
	}
	if t.nextQuery, err = inverse(t.Queries, len(t.old.Queries)); err != nil {
		return fmt.Errorf("queries: %w", err)
	}
	for f, from := range t.Feeds {
		if from < 0 {
			continue
		}
		a, b := &t.old.Feeds[from], &t.plan.Feeds[f]
		if a.Format != b.Format || a.Sequence != b.Sequence {
			return fmt.Errorf("feed %s: its format is %s in %q, it was %s in %q: it cannot go on", b.Name, b.Format, b.Sequence, a.Format, a.Sequence)
		}
	}
	for q, from := range t.Queries {
		if from >= 0 && t.Feeds[t.plan.Queries[q].Feed] != t.old.Queries[from].Feed {
			return fmt.Errorf("query %s: it is to go on and its feed is not", t.plan.Queries[q].Name)
		}
	}
	return nil
}

// inverse returns for each of n the place in from where it stands, or -1.
func inverse(from []int, n int) ([]int, error) {
	at := make([]int, n)
	for i := range at {
		at[i] = -1
	}
	for i, f := range from {
		switch {
		case f < 0:
		case f >= n:
			return nil, fmt.Errorf("number %d goes on from %d, there are %d", i, f, n)
		case at[f] >= 0:
			return nil, fmt.Errorf("number %d goes on in %d and in %d", f, at[f], i)
		default:
			at[f] = i
		}
	}
	return at, nil
}

// queries are the queries that go on.
func (t *transfer) queries() []window.Pair {
	var pairs []window.Pair
	for q, from := range t.Queries {
		if from >= 0 {
			pairs = append(pairs, window.Pair{Dst: q, Src: from})
		}
	}
	return pairs
}

// windows gives levels to all new workers, and each key group's windows to its owner.
func (t *transfer) windows() error {
	for _, to := range t.To {
		if err := t.levels(to); err != nil {
			return err
		}
	}
	pairs := t.queries()
	for g := range event.GroupCount {
		to := t.To[t.OwnersTo[g]]
		if err := window.CopyGroup(to.windows, t.From[t.OwnersFrom[g]].windows, pairs, g); err != nil {
			return err
		}
	}
	for q, from := range t.Queries {
		// All have applied the same marks, but each in an order of its own: where a source
		// joined late, one worker may have closed windows that another has not.
		at := event.MinNanos
		for _, w := range t.From {
			if from >= 0 {
				at = max(at, w.windows.Watermark(from))
			}
		}
		for _, to := range t.To {
			if from >= 0 {
				to.windows.Continue(q, at)
			} else if t.Feeds[t.plan.Queries[q].Feed] >= 0 {
				to.windows.BeginLate(q)
			}
			to.void()
		}
	}
	return nil
}

// levels gives a worker what all know of feeds and queries, from the one that has
// forgotten least.
func (t *transfer) levels(to *Worker) error {
	as := func(feed int, old uint32) (uint32, bool) {
		now, ok := t.moved[feed][old]
		return now, ok
	}
	for f, from := range t.Feeds {
		if from < 0 {
			continue
		}
		src := slices.MaxFunc(t.From, func(a, b *Worker) int { return cmp.Compare(a.windows.Gaps(from), b.windows.Gaps(from)) })
		if err := window.CopyLevels(to.windows, src.windows, []window.Pair{{Dst: f, Src: from}}, nil, as); err != nil {
			return err
		}
	}
	for _, p := range t.queries() {
		src := slices.MinFunc(t.From, func(a, b *Worker) int { return cmp.Compare(a.windows.Watermark(p.Src), b.windows.Watermark(p.Src)) })
		if err := window.CopyLevels(to.windows, src.windows, nil, []window.Pair{p}, nil); err != nil {
			return err
		}
	}
	return nil
}

// losses says what the workers that are no more had still to say: that frames were lost
// behind those that lay in their rings, which have been taken.
func (t *transfer) losses() {
	owed := false
	for w := len(t.To); w < len(t.From); w++ {
		owed = owed || t.From[w].again != 0
	}
	for f, from := range t.Feeds {
		if !owed || from < 0 || t.plan.Feeds[f].Sequence != plan.Unsequenced {
			continue
		}
		for _, to := range t.To {
			c := &to.feeds[f].channels[0]
			c.Gaps++
			to.windows.Mark(f, &event.Mark{Kind: event.MarkHit, Gap: c.Gaps, Time: c.Max})
			to.void()
		}
	}
}

// void forgets what the log has saved: before the first commit nothing is taken back.
func (w *Worker) void() {
	w.undo.Begin(w.number)
	w.counters.Begin()
}

// commit makes the new workers' state hold, and then visible.
func (t *transfer) commit() {
	for _, w := range t.To {
		w.seal()
	}
	for _, w := range t.To {
		w.showAll()
		w.begin()
	}
}
