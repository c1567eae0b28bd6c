package window

import (
	"fmt"
	"math"
	"slices"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

// gapsMax bounds the gaps kept for one feed.
const gapsMax = 64

// beforeAll is the window number of "no watermark yet": far enough from the end
// that adding panes cannot wrap.
const beforeAll = math.MinInt64 / 2

// Limit says who decides whether a new key is admitted.
type Limit uint8

// The ways to hold to a query's limit of keys.
const (
	// Alone: this worker owns every key; its own count decides.
	Alone Limit = iota
	// SharedLimit: workers draw on a common allowance ([Shared]).
	SharedLimit
	// Settled: new keys wait in a log until [Settle] admits them in capture order.
	Settled
)

// Config says how a State is used.
type Config struct {
	Plan   *plan.Plan
	Limit  Limit
	Shared *Shared // for SharedLimit
	// Wait stops Apply when windows begin to close, until Close has put them out:
	// replay, where the reader waits instead of losing anything.
	Wait bool
	// Counters are the worker's own, one a query.
	Counters []segment.QueryCounters
	// Resume are the watermarks, one a query, that a State before this one had reached,
	// [event.MinNanos] where it had none; nil: there was no such State. Windows behind
	// a watermark are closed, and those that may have been open are incomplete.
	Resume []event.Nanos
}

// State is one worker's share of all queries. One thread uses it.
type State struct {
	config  Config
	queries []query
	feeds   []feed
	streams []stream
	// closing is the number of panes in state paneClosing, waiting the number of events
	// that were admitted but have no pane yet.
	closing, waiting int
	cause            uint64
	log              setAside
}

// stream is the fold-side view of one plan.Stream.
type stream struct {
	feed    int
	queries []int
}

// query is one query's state. The slices are in the arena.
type query struct {
	plan   *plan.Query
	number int
	// hit is the last window that something was dropped beside: windows up to it that
	// close from now on are incomplete. lost are windows that lost keys to the limit on
	// some worker, whether or not this one has anything in them (replay only).
	hit      int64
	resuming bool // hit grows with each source's first release
	lost     []int64
	set      *aggregate.Set
	counters *segment.QueryCounters
	// What Settle did, until it is booked.
	admitted, refused uint64
	geometry          Geometry
	stateAt           uint32
	keyWidth          int

	mem       []uint64 // panes one after the other
	panes     []pane   // window i is in pane i modulo their number, unless that was taken
	displaced int      // panes that are elsewhere
	queue     []uint32 // panes that are closing, oldest first: a ring
	first     int      // of queue
	closing   int      // of queue
	used      []uint64 // for each pane and group: usedWords words of occupied slots
	usedWords int
	groups    []uint32 // for each pane and group: entries
	mark      []level  // one element

	// The pane of the last event: [start, end) and its place.
	start, end event.Nanos
	slot       int

	// Scratch of one fold.
	at    [event.BatchMax]uint32
	base  [event.BatchMax]uint32
	which [event.BatchMax]uint16
	away  away
	next  int // of the batch being applied: position in the selection

	told int64 // window number up to which the outbox has been told
	key  []byte
}

// level is a query's watermark.
type level struct {
	Time  event.Nanos
	Index int64 // windows before this one are closed
}

// source is one source of a feed.
type source struct {
	Max    event.Nanos
	Idle   uint64 // nanoseconds that it has been silent, 0: it is not
	Active uint32
}

// gap is one gap of a feed: something is missing in [From - delay, To].
type gap struct {
	Source, Number uint32
	From, To       event.Nanos
	Least          event.Nanos // To will not be before
	Count          uint64
	Open           uint32
	Hit            uint32
}

type feed struct {
	plan     *plan.Feed
	streams  []int
	queries  []int
	sources  []source // worker*channels + slot
	active   []uint32 // numbers of active sources; activeCount of them
	channels int
	counts   []feedCounts // one element
	gaps     []gap
	// quiet: a release whose source's greatest time stays below changes nothing but
	// that source's time.
	quiet event.Nanos
	// passed: windows have begun to close since gaps were last forgotten.
	passed bool

	keyed []*event.Keyed // by stream of the feed
	// Position in the batch being applied.
	mark, from int
}

type feedCounts struct {
	Active, Gaps uint32
	Greatest     event.Nanos // greatest event time of any source
}

// New takes the memory of all queries of c.Plan from r.
func New(c Config, r *arena.Region) (*State, error) {
	s := &State{config: c}
	p := c.Plan
	for i := range p.Streams {
		s.streams = append(s.streams, stream{feed: p.Streams[i].Feed, queries: p.Streams[i].Queries})
	}
	s.feeds = make([]feed, len(p.Feeds))
	for i := range p.Feeds {
		if err := s.feeds[i].init(p, i, r); err != nil {
			return nil, fmt.Errorf("window: feed %s: %w", p.Feeds[i].Name, err)
		}
	}
	s.queries = make([]query, len(p.Queries))
	for i := range p.Queries {
		if err := s.queries[i].init(p, i, &c.Counters[i], r); err != nil {
			return nil, fmt.Errorf("window: query %s: %w", p.Queries[i].Name, err)
		}
		if c.Resume != nil {
			s.queries[i].resume(c.Resume[i])
		}
	}
	s.log.init(p)
	return s, nil
}

func (f *feed) init(p *plan.Plan, number int, r *arena.Region) (err error) {
	f.plan = &p.Feeds[number]
	f.channels = 1
	workers := 1
	if f.plan.Sequence != plan.Unsequenced {
		f.channels, workers = f.plan.Channels, max(p.Workers, p.WorkersMax)
	}
	for i := range p.Streams {
		if p.Streams[i].Feed == number {
			f.streams = append(f.streams, i)
			f.queries = append(f.queries, p.Streams[i].Queries...)
		}
	}
	f.quiet = event.MinNanos
	if f.sources, err = arena.Slice[source](r, "sources", workers*f.channels); err != nil {
		return err
	}
	if f.active, err = arena.Slice[uint32](r, "sources", workers*f.channels); err != nil {
		return err
	}
	if f.gaps, err = arena.Slice[gap](r, "gaps", gapsMax+1); err != nil {
		return err
	}
	if f.counts, err = arena.Slice[feedCounts](r, "sources", 1); err != nil {
		return err
	}
	f.counts[0].Greatest = event.MinNanos
	return nil
}

// PaneCount is the number of panes a query's memory holds: twice those that may be
// open, since a release that moves time forward opens new windows before the old
// ones have closed. Where that is not enough, replay sets events aside until panes
// have closed, and run drops them ([event.DropPaneMemory]).
func PaneCount(q *plan.Query) int { return 2 * q.Panes }

func (q *query) init(p *plan.Plan, number int, c *segment.QueryCounters, r *arena.Region) (err error) {
	q.plan, q.number, q.counters = &p.Queries[number], number, c
	st := &p.Streams[q.plan.Stream]
	if q.set, err = aggregate.NewSet(q.plan, p.Feeds[q.plan.Feed].Columns); err != nil {
		return err
	}
	variable := len(st.Key) > 1
	for _, c := range st.Key {
		variable = variable || p.Feeds[q.plan.Feed].Columns[c].Type == event.Text
	}
	q.keyWidth = st.KeyWidth
	q.geometry = NewGeometry(q.plan.Keys, st.KeyWidth, variable, q.set.Words())
	q.stateAt = q.geometry.stateAt()
	panes := PaneCount(q.plan)
	if total := float64(panes) * float64(q.geometry.PaneWords); total >= math.MaxUint32 {
		return fmt.Errorf("%d panes of %d keys need %.1f GiB: fewer keys, a shorter delay or fewer panes", panes, q.plan.Keys, total/(1<<27))
	}
	label := "query " + q.plan.Name
	if q.mem, err = arena.Slice[uint64](r, label+": pane tables", panes*q.geometry.PaneWords); err != nil {
		return err
	}
	q.usedWords = (q.geometry.Slots + 63) / 64
	if q.used, err = arena.Slice[uint64](r, label+": slot maps", panes*event.GroupCount*q.usedWords); err != nil {
		return err
	}
	if q.groups, err = arena.Slice[uint32](r, label+": group counts", panes*event.GroupCount); err != nil {
		return err
	}
	if q.panes, err = arena.Slice[pane](r, label+": panes", panes); err != nil {
		return err
	}
	if q.mark, err = arena.Slice[level](r, label+": watermark", 1); err != nil {
		return err
	}
	q.mark[0] = level{Time: event.MinNanos, Index: beforeAll}
	q.queue = make([]uint32, panes)
	q.told, q.hit = beforeAll, beforeAll
	q.start, q.end = 1, 0 // no pane
	q.key = make([]byte, 0, event.KeyMax+8)
	return nil
}

// resume begins at watermark t.
//
// What was lost lies, for each source, between the last that the State before this one
// had and the first that this one gets: in windows up to the panes that may have been
// open, and in those up to each source's first release, which may be much later.
func (q *query) resume(t event.Nanos) {
	q.resuming = true
	if t == event.MinNanos {
		return // there was no event yet
	}
	q.mark[0] = level{Time: t, Index: q.index(t)}
	q.told = q.mark[0].Index
	q.hit = q.mark[0].Index + int64(q.plan.Panes)
}

// Watermark returns the watermark of query number q.
func (s *State) Watermark(q int) event.Nanos { return s.queries[q].mark[0].Time }

// SetCause says when the packet came whose events and marks are applied from here
// on, in nanoseconds of CLOCK_MONOTONIC: windows that its watermark closes carry it
// to the outbox. Never called, as in replay, it is 0: nothing is measured.
func (s *State) SetCause(nanos uint64) { s.cause = nanos }

// Closing reports that partials, or events without a pane, wait for [State.Close].
func (s *State) Closing() bool { return s.closing > 0 || s.waiting > 0 }

func (q *query) windowStart(i int64) event.Nanos {
	return event.WindowStart(i, q.plan.Width, q.plan.Offset)
}

// slotOf returns the pane of window i, or -1.
func (q *query) slotOf(i int64) int {
	at := q.home(i)
	if p := &q.panes[at]; p.Index == i && p.State != paneFree {
		return at
	}
	if q.displaced > 0 {
		for j := range q.panes {
			if p := &q.panes[j]; p.Index == i && p.State != paneFree {
				return j
			}
		}
	}
	return -1
}

// home is the pane where window i belongs.
func (q *query) home(i int64) int { return int(uint64(i) % uint64(len(q.panes))) }

// openPane takes a free pane for window i and returns it, or -1.
func (q *query) openPane(i int64) int {
	at := q.home(i)
	if q.panes[at].State != paneFree {
		if at = slices.IndexFunc(q.panes, func(p pane) bool { return p.State == paneFree }); at < 0 {
			return -1
		}
		q.displaced++
	}
	q.panes[at] = pane{Index: i, State: paneOpen}
	return at
}

func (q *query) index(t event.Nanos) int64 { return t.Index(q.plan.Width, q.plan.Offset) }

// closesAt is the least time that all sources must have reached for the next window
// of q to close.
func (q *query) closesAt() event.Nanos {
	if q.mark[0].Index == beforeAll {
		return event.MinNanos
	}
	return q.windowStart(q.mark[0].Index + 1).Add(q.plan.Delay)
}

// farFrom is the first instant beyond the panes that may be open.
func (q *query) farFrom() event.Nanos {
	if q.mark[0].Index == beforeAll {
		return event.MinNanos
	}
	return q.windowStart(q.mark[0].Index + int64(q.plan.Panes) + 1)
}
