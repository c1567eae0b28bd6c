package segment

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// ErrBusy reports counters that were being written at every try. The caller keeps
// the copy that it had.
var ErrBusy = errors.New("counters are being written")

// State is what a worker is doing.
type State uint64

// The states, in order. Done and Failed are final: nothing more will be put into
// the worker's outbox.
const (
	Starting State = iota
	Running
	Held // nothing is in hand: see [Hold]
	Draining
	Done
	Failed
	stateCount
)

var stateNames = [stateCount]string{"starting", "running", "held", "draining", "done", "failed"}

// String returns the state's name in ledgers.
func (s State) String() string {
	if s < stateCount {
		return stateNames[s]
	}
	return "unknown"
}

// HeldFor returns the number of the hold for which the worker is [Held], or was last.
func (w *Worker) HeldFor() uint64 { return w.lines.Held.Load() }

// SetHeld says that the worker has got to where hold number asks it to be. The worker
// writes it.
func (w *Worker) SetHeld(number uint64) {
	w.lines.Held.Store(number) // before the state: who sees that sees this
	w.SetState(Held)
}

// Final reports that the worker puts nothing more into its outbox.
func (s State) Final() bool { return s == Done || s == Failed }

// NewCounters returns zero counters for p.
func NewCounters(p *plan.Plan) *Counters {
	return &Counters{Feeds: make([]FeedCounters, len(p.Feeds)), Queries: make([]QueryCounters, len(p.Queries))}
}

// Copy returns the counts in memory of their own.
func (c *Counters) Copy() *Counters {
	return &Counters{Worker: c.Worker, Feeds: slices.Clone(c.Feeds), Queries: slices.Clone(c.Queries)}
}

// CountersIn returns counters for p whose feeds and queries are in r, with what they
// count there already, and are saved in undo before they change. The worker's own are the
// caller's to keep.
func CountersIn(r *arena.Region, p *plan.Plan, undo *arena.Undo) (*Counters, error) {
	feeds, err := arena.Slice[FeedCounters](r, "counters", len(p.Feeds))
	if err != nil {
		return nil, err
	}
	queries, err := arena.Slice[QueryCounters](r, "counters", len(p.Queries))
	if err != nil {
		return nil, err
	}
	return &Counters{Feeds: feeds, Queries: queries, undo: undo}, nil
}

// CounterWords is the room in an undo log that a batch's counters may need.
func CounterWords(p *plan.Plan) int {
	return len(p.Feeds)*(sizeOf[FeedCounters]()/8+1) + len(p.Queries)*(sizeOf[QueryCounters]()/8+1)
}

// Add adds every count of src to dst; both are of the same plan.
func Add(dst, src *Counters) {
	sum := func(dst, src []uint64) {
		for i := range dst {
			dst[i] += src[i]
		}
	}
	sum(wordsOf(&dst.Worker), wordsOf(&src.Worker))
	for i := range dst.Feeds {
		sum(wordsOf(&dst.Feeds[i]), wordsOf(&src.Feeds[i]))
	}
	for i := range dst.Queries {
		sum(wordsOf(&dst.Queries[i]), wordsOf(&src.Queries[i]))
	}
}

// TouchFeed says that feed i's counters change: they are part of the next publication,
// and saved, once a batch, if there is an undo log. It comes before the change.
func (c *Counters) TouchFeed(i int) {
	at, bit := uint(i)/64%4, uint64(1)<<(uint(i)%64)
	c.feeds[at] |= bit
	if c.undo != nil && c.feedsSaved[at]&bit == 0 {
		c.feedsSaved[at] |= bit
		arena.Save(c.undo, &c.Feeds[i])
	}
}

// TouchQuery is [Counters.TouchFeed] for query i.
func (c *Counters) TouchQuery(i int) {
	at, bit := uint(i)/64%4, uint64(1)<<(uint(i)%64)
	c.queries[at] |= bit
	if c.undo != nil && c.queriesSaved[at]&bit == 0 {
		c.queriesSaved[at] |= bit
		arena.Save(c.undo, &c.Queries[i])
	}
}

// TouchAll is [Counters.TouchFeed] of every feed and [Counters.TouchQuery] of every query.
func (c *Counters) TouchAll() {
	for i := range c.Feeds {
		c.TouchFeed(i)
	}
	for i := range c.Queries {
		c.TouchQuery(i)
	}
}

// Begin says that a batch begins: what was saved before is not saved any more.
func (c *Counters) Begin() {
	if c.undo != nil {
		c.feedsSaved, c.queriesSaved = [4]uint64{}, [4]uint64{}
	}
}

// A Worker is one worker's part of the segment. Methods that write say so; they
// are called by that worker's thread only, and only on the data side.
type Worker struct {
	lines      *workerLines
	freed      *atomic.Uint64
	worker     []uint64   // the counters, as words
	feeds      [][]uint64 // [feed]
	queries    [][]uint64 // [query]
	watermarks []atomic.Int64
	ring       []byte
}

func newWorker(s *Segment, i int) Worker {
	l := s.Layout
	part := s.data[l.workers+i*l.stride:][:l.stride:l.stride]
	w := Worker{
		lines:      view[workerLines](part, 0),
		freed:      &view[freedLine](s.control, l.freed+i*sizeOf[freedLine]()).Freed,
		watermarks: views[atomic.Int64](part, l.watermarks, l.Queries),
		ring:       part[l.ring:][:l.OutboxBytes:l.OutboxBytes],
	}
	at := l.counters
	w.worker = wordsOf(view[WorkerCounters](part, at))
	at += sizeOf[WorkerCounters]()
	for range l.Feeds {
		w.feeds = append(w.feeds, wordsOf(view[FeedCounters](part, at)))
		at += sizeOf[FeedCounters]()
	}
	for range l.Queries {
		w.queries = append(w.queries, wordsOf(view[QueryCounters](part, at)))
		at += sizeOf[QueryCounters]()
	}
	return w
}

// Ring returns the worker's outbox.
func (w *Worker) Ring() outbox.Ring {
	return outbox.Ring{Bytes: w.ring, Produced: &w.lines.Produced, Freed: w.freed}
}

// State returns what the worker says that it is doing.
func (w *Worker) State() State { return State(w.lines.State.Load()) }

// SetState says what the worker is doing. The worker writes it.
func (w *Worker) SetState(s State) {
	if s != Failed {
		w.lines.Failure.Length.Store(0) // that was in the process before this one
	}
	w.lines.State.Store(uint64(s))
}

// Fail says why the worker cannot go on, cut to what fits, and makes it Failed.
// The worker writes it, once, or whoever outlives it in its process.
func (w *Worker) Fail(text string) {
	n := copy(w.lines.Failure.Text[:], text)
	w.lines.Failure.Length.Store(uint64(n))
	w.SetState(Failed)
}

// Failure returns the text of Fail, or "".
func (w *Worker) Failure() string {
	n := min(w.lines.Failure.Length.Load(), failureText)
	return string(w.lines.Failure.Text[:n])
}

// Watermark returns query q's watermark on this worker; 0 before the first.
func (w *Worker) Watermark(q int) event.Nanos { return event.Nanos(w.watermarks[q].Load()) }

// SetWatermark publishes query q's watermark. The worker writes it.
func (w *Worker) SetWatermark(q int, t event.Nanos) {
	if w.watermarks[q].Load() != int64(t) {
		w.watermarks[q].Store(int64(t))
	}
}

// Publish copies what c says was touched into the segment, as one consistent
// whole, and clears the touches. now is the worker's clock. The worker writes it,
// once a cycle; it does not allocate.
//
// The order is the seqlock's: an odd sequence, the words, an even one. Only words
// that differ are stored, because a sequentially consistent store costs some
// twenty times a load.
func (w *Worker) Publish(now uint64, c *Counters) {
	c.Worker.HeartbeatNanos = now
	seq := w.lines.Sequence.Load() | 1 // a writer that died inside left it odd
	w.lines.Sequence.Store(seq)
	store(w.worker, wordsOf(&c.Worker))
	for b := range c.feeds {
		for set := c.feeds[b]; set != 0; set &= set - 1 {
			i := b*64 + bits.TrailingZeros64(set)
			store(w.feeds[i], wordsOf(&c.Feeds[i]))
		}
		for set := c.queries[b]; set != 0; set &= set - 1 {
			i := b*64 + bits.TrailingZeros64(set)
			store(w.queries[i], wordsOf(&c.Queries[i]))
		}
	}
	c.feeds, c.queries = [4]uint64{}, [4]uint64{}
	w.lines.Sequence.Store(seq + 1)
}

// Beat says that the worker lives and leaves all other counters as they are. The worker
// writes it.
func (w *Worker) Beat(now uint64) { atomic.StoreUint64(&w.worker[heartbeatWord], now) }

func store(dst, src []uint64) {
	src = src[:len(dst)]
	for i, v := range src {
		if atomic.LoadUint64(&dst[i]) != v {
			atomic.StoreUint64(&dst[i], v)
		}
	}
}

func load(dst, src []uint64) {
	src = src[:len(dst)]
	for i := range dst {
		dst[i] = atomic.LoadUint64(&src[i])
	}
}

// readTries bounds how often Read starts again. A writer that publishes without a
// pause leaves the words alone more than half of the time.
const readTries = 1000

// Read copies the counters into dst as one consistent whole. dst must come from
// [NewCounters] of the same plan. On an error wrapping [ErrBusy] dst holds no such
// whole: the worker was writing at every try, or died while it did.
func (w *Worker) Read(dst *Counters) error {
	if len(dst.Feeds) != len(w.feeds) || len(dst.Queries) != len(w.queries) {
		return fmt.Errorf("segment: counters for %d feeds and %d queries, the plan has %d and %d", len(dst.Feeds), len(dst.Queries), len(w.feeds), len(w.queries))
	}
	for range readTries {
		seq := w.lines.Sequence.Load()
		if seq&1 == 0 {
			w.copyOut(dst)
			if w.lines.Sequence.Load() == seq {
				return nil
			}
		}
		runtime.Gosched()
	}
	return fmt.Errorf("segment: %w", ErrBusy)
}

// ReadTorn copies the counters without regard to a writer. It is for the last
// words of a worker that died while it published: each word is right by itself.
func (w *Worker) ReadTorn(dst *Counters) { w.copyOut(dst) }

func (w *Worker) copyOut(dst *Counters) {
	load(wordsOf(&dst.Worker), w.worker)
	for i := range dst.Feeds {
		load(wordsOf(&dst.Feeds[i]), w.feeds[i])
	}
	for i := range dst.Queries {
		load(wordsOf(&dst.Queries[i]), w.queries[i])
	}
}
