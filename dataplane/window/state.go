package window

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
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
	// Over a warm region it says nothing: there the State before this one goes on.
	Resume []event.Nanos
	// Undo saves what a batch changes of the region, for the next process to take back
	// what was not committed; nil: nothing is saved. Replay has none: what it sets aside
	// is not in the region. Counters are saved by who owns them.
	Undo *arena.Undo
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
	spent            int // panes in state paneSpent
	undo             *arena.Undo
	cause            uint64
	log              setAside
}

// stream is the fold-side view of one plan.Stream.
type stream struct {
	feed    int
	queries []int
}

// query is one query's state. The slices are in the arena; what is not is scratch, or
// derived from them ([State.Derive]).
type query struct {
	plan   *plan.Query
	number int
	undo   *arena.Undo
	// lost are windows that lost keys to the limit on some worker, whether or not this
	// one has anything in them (replay only).
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
	saved     uint64   // the round in which mark was saved
	displaced int      // panes that are elsewhere
	spent     int      // panes in state paneSpent
	queue     []uint32 // panes that are closing, oldest first: a ring
	over      []uint64 // SharedLimit: the keys of the last windows put out, as Shared has them
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

	key []byte
}

// level is a query's watermark, and what else is known of all its windows.
type level struct {
	Time  event.Nanos
	Index int64 // windows before this one are closed
	// Hit is the last window that something was dropped beside: windows up to it that
	// close from now on are incomplete.
	Hit      int64
	Told     int64  // window number up to which the outbox has been told
	Resuming uint32 // 1: Hit grows with each source's first release
	First    uint32 // of the queue
	Closing  uint32 // of the queue
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
	undo     *arena.Undo
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
	saved uint64 // the round in which gaps were saved
	// released is the source that was saved last because it released something.
	released released
	// passed: windows have begun to close since gaps were last forgotten.
	passed bool

	keyed []*event.Keyed // by stream of the feed
	// Position in the batch being applied.
	mark, from int
}

// released is a source in one round of the undo log.
type released struct {
	round  uint64
	source uint32
}

type feedCounts struct {
	Active, Gaps uint32
	Greatest     event.Nanos // greatest event time of any source
}

// New takes the memory of all queries of c.Plan from r. If r is warm it goes on with
// what is there; what the last batch left undone must have been rolled back, or
// [State.Derive] has to be called when it is.
func New(c Config, r *arena.Region) (*State, error) {
	if c.Undo != nil && (c.Wait || c.Limit == Settled) {
		return nil, errors.New("window: an undo log, where events are set aside in memory that it does not save: only a State that never waits may have one")
	}
	s := &State{config: c, undo: c.Undo}
	p := c.Plan
	for i := range p.Streams {
		s.streams = append(s.streams, stream{feed: p.Streams[i].Feed, queries: p.Streams[i].Queries})
	}
	s.feeds = make([]feed, len(p.Feeds))
	for i := range p.Feeds {
		if err := s.feeds[i].init(p, i, r); err != nil {
			return nil, fmt.Errorf("window: feed %s: %w", p.Feeds[i].Name, err)
		}
		s.feeds[i].undo = c.Undo
	}
	s.queries = make([]query, len(p.Queries))
	for i := range p.Queries {
		if err := s.queries[i].init(p, i, &c.Counters[i], r); err != nil {
			return nil, fmt.Errorf("window: query %s: %w", p.Queries[i].Name, err)
		}
		if c.Limit == SharedLimit {
			var err error
			if s.queries[i].over, err = arena.Slice[uint64](r, "query "+p.Queries[i].Name+": keys put out", sharedPanes); err != nil {
				return nil, fmt.Errorf("window: query %s: %w", p.Queries[i].Name, err)
			}
		}
		s.queries[i].undo = c.Undo
		if c.Resume != nil && !r.Warm() {
			s.queries[i].resume(c.Resume[i])
		}
	}
	s.log.init(p)
	if r.Warm() {
		s.Derive()
	}
	for i := range s.feeds {
		s.findQuiet(&s.feeds[i])
	}
	return s, nil
}

// Derive finds out from the region what is not kept there. It is called after a
// rollback that came after [New], before anything else.
func (s *State) Derive() {
	s.closing, s.spent = 0, 0
	for i := range s.queries {
		q := &s.queries[i]
		q.derive()
		s.closing += int(q.mark[0].Closing)
		s.spent += q.spent
	}
	for i := range s.feeds {
		s.findQuiet(&s.feeds[i])
	}
}

// derive counts panes, and entries by the maps of occupied slots: those are saved for
// every new entry, the numbers are not.
func (q *query) derive() {
	q.displaced, q.spent, q.start, q.end = 0, 0, 1, 0
	for slot := range q.panes {
		p := &q.panes[slot]
		if p.State == paneFree {
			clear(q.groups[slot*event.GroupCount:][:event.GroupCount])
			continue
		}
		if slot != q.home(p.Index) {
			q.displaced++
		}
		if p.State == paneSpent {
			q.spent++
		}
		p.Count = 0
		for group := range event.GroupCount {
			entries := 0
			for _, w := range q.usedOf(slot, group) {
				entries += bits.OnesCount64(w)
			}
			q.groups[slot*event.GroupCount+group] = uint32(entries)
			p.Count += uint64(entries)
		}
	}
}

// save saves what is known of all of q's windows, once a batch.
func (q *query) save() {
	if r := q.undo.Round(); q.saved != r {
		arena.Save(q.undo, &q.mark[0])
		q.saved = r
	}
}

// saveGaps saves f's gaps, once a batch: there are few, and few batches have any.
func (f *feed) saveGaps() {
	if r := f.undo.Round(); f.saved != r {
		arena.PutSlice(f.undo, f.gaps)
		arena.Put(f.undo, &f.counts[0])
		f.undo.Publish()
		f.saved = r
	}
}

// usedOf is the map of occupied slots of a group in a pane.
func (q *query) usedOf(slot, group int) []uint64 {
	return q.used[(slot*event.GroupCount+group)*q.usedWords:][:q.usedWords]
}

// findQuiet finds below which time a release changes nothing but its source's time.
func (s *State) findQuiet(f *feed) {
	f.quiet = event.MaxNanos
	for _, n := range f.queries {
		q := &s.queries[n]
		f.quiet = min(f.quiet, q.closesAt(), q.farFrom())
	}
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
	if !r.Warm() {
		f.counts[0].Greatest = event.MinNanos
	}
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
	if q.queue, err = arena.Slice[uint32](r, label+": panes", panes); err != nil {
		return err
	}
	q.start, q.end = 1, 0 // no pane
	if !r.Warm() {
		q.mark[0] = level{Time: event.MinNanos, Index: beforeAll, Hit: beforeAll, Told: beforeAll}
	}
	q.key = make([]byte, 0, event.KeyMax+8)
	return nil
}

// resume begins at watermark t.
//
// What was lost lies, for each source, between the last that the State before this one
// had and the first that this one gets: in windows up to the panes that may have been
// open, and in those up to each source's first release, which may be much later.
func (q *query) resume(t event.Nanos) {
	l := &q.mark[0]
	l.Resuming = 1
	if t == event.MinNanos {
		return // there was no event yet
	}
	l.Time, l.Index = t, q.index(t)
	l.Told, l.Hit = l.Index, l.Index+int64(q.plan.Panes)
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
	if q.panes[at].holds(i) {
		return at
	}
	if q.displaced > 0 {
		for j := range q.panes {
			if q.panes[j].holds(i) {
				return j
			}
		}
	}
	return -1
}

// home is the pane where window i belongs.
func (q *query) home(i int64) int { return int(uint64(i) % uint64(len(q.panes))) }

// openPane takes a free pane for window i and returns it, or -1.
func (q *query) openPane(undo *arena.Undo, i int64) int {
	at := q.home(i)
	if q.panes[at].State != paneFree {
		if at = slices.IndexFunc(q.panes, func(p pane) bool { return p.State == paneFree }); at < 0 {
			return -1
		}
		q.displaced++
	}
	p := &q.panes[at]
	arena.Save(undo, p)
	// The state last: without an undo log, a pane that is half opened is a free one.
	*p = pane{Index: i}
	fault.Point()
	atomic.StoreUint32(&p.State, paneOpen)
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
