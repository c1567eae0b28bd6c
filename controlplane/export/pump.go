package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

// A Sink takes rows. Each has its own goroutine, which alone calls Write and Close.
type Sink interface {
	// Resume returns, for each outbox, the position up to which the sink has
	// everything; nil if it has nothing.
	Resume() []uint64
	// Write puts out whole lines (n of them; perhaps none) and then commits
	// positions. It returns only when that is done, when ctx ends, or when the sink
	// can never go on. lines and positions are the caller's again afterwards.
	Write(ctx context.Context, lines []byte, n RowCount, positions []uint64) error
	// Close ends the sink. What was committed stays.
	Close() error
	// Stats may be called from any goroutine.
	Stats() Stats
}

// Stats counts what a sink did.
type Stats struct {
	Name      string `json:"name"`
	Target    string `json:"target"`                // the path, or "-"
	Rows      uint64 `json:"rows"`                  // committed since the segment was made
	Global    uint64 `json:"global_rows,omitempty"` // of Rows, those that a group made
	Bytes     uint64 `json:"bytes"`
	Writes    uint64 `json:"writes"`   // system calls that wrote rows
	Retries   uint64 `json:"retries"`  // writes that failed and were tried again
	Reopened  uint64 `json:"reopened"` // times that another file was found under the path
	Cut       uint64 `json:"cut"`      // times that the file was found shorter than written
	LastError string `json:"last_error,omitempty"`
	// Of a sink on another box: connections after the first, the transport of the
	// present one, and how often it is not the one that was wanted.
	Reconnects uint64 `json:"reconnects,omitempty"`
	Transport  string `json:"transport,omitempty"`
	Fallbacks  uint64 `json:"fallbacks,omitempty"`
	// Latency is the pump's measure, not the sink's own.
	Latency Latency `json:"row_latency"`
}

// What makes no pump.
var (
	// ErrNoTap reports a plan with a global query, and nobody to take its records.
	ErrNoTap = errors.New("the plan has a global query, and there is no tap for it")
	// ErrSortedTap reports a tap of a pump that sorts: there is no group in a replay.
	ErrSortedTap = errors.New("a tap and sorted rows do not go together")
)

// A RowCount is how many rows a write has.
type RowCount struct {
	Rows   int
	Global int // of Rows, those that a group made
}

// Config says what a pump connects.
type Config struct {
	// Plan and Segment are those of the data plane. Required.
	Plan    *plan.Plan
	Segment *segment.Segment
	// Values has one entry for each query of the plan. Required.
	Values []rows.Values
	// Sinks are written to. A query's rows go to those whose Stats().Name is among
	// its sinks. The pump closes them.
	Sinks []Sink
	// Sort puts all rows in order, as replay's file has them. Positions are then
	// freed when rows are in memory, and no sink resumes.
	Sort bool
	// BatchBytes is how much is collected for one write. Zero: 256 KiB.
	BatchBytes int
	// Log is told of outboxes that are not read any more. Nil: nobody is.
	Log *slog.Logger
	// Tap takes the records of global queries. Required if the plan has one; not with
	// Sort.
	Tap Tap
	// InjectBytes bounds the rows that wait to be taken by the pump. Zero: 4 MiB.
	InjectBytes int
	// Clock is what latencies are read from, in nanoseconds. Nil: CLOCK_MONOTONIC,
	// which stamps the packets.
	Clock func() uint64
}

const (
	batchBytes   = 256 << 10
	batchCount   = 4                    // batches in flight; each sink's queue has room for all of them
	recordsATurn = 256                  // records of one outbox before the next has its turn
	linger       = 2 * time.Millisecond // how long a row waits for others to be written with
	idleLeast    = 50 * time.Microsecond
	idleMost     = time.Millisecond
)

// A Pump carries rows from the outboxes to the sinks.
type Pump struct {
	c       Config
	former  *rows.Former
	sorter  *rows.Sorter // nil unless sorting
	readers []*outbox.Reader
	outlets []*outlet
	free    chan *batch // emptied batches: taking one is what waits for slow sinks
	first   int         // the outbox with which the last round began
	current *batch
	sent    []uint64 // the positions of the last batch sent
	row     []byte
	part    outbox.Partial
	finish  atomic.Bool
	formed  []atomic.Uint64 // [query] rows made by this process
	global  []atomic.Uint64 // [query] rows injected
	faults  [outbox.FaultCount]atomic.Uint64

	injections injections
	wants      []bool // [outlet] takes rows of the call that is being taken

	taps      []bool          // [query] its records go to the tap
	forms     []bool          // [query] its records become rows here
	tapResume []uint64        // nil: the tap takes every record
	given     []atomic.Uint64 // [worker] the position behind the tap's last record

	freeing sync.Mutex // guards the outlets' acked, and:
	passed  []uint64   // the positions of the last batch sent
	freed   []uint64
}

// outlet is one sink and its queue.
type outlet struct {
	sink       Sink
	number     int    // in Pump.outlets
	want       []bool // [query] its rows of this box
	wantGlobal []bool // [query] its injected rows
	all        bool   // wants every row that there can be
	resume     []uint64
	queue      chan *batch
	acked      []uint64
	lines      []byte
	causes     []uint64 // of the rows in hand
	at         []uint64
	took       latencies
}

// batch is rows in the order of their outboxes.
type batch struct {
	lines     []byte
	items     []item
	positions []uint64 // of all outboxes, after the batch
	calls     []*pending
	refs      atomic.Int32
}

type item struct {
	end      int // of the row in lines
	position uint64
	cause    uint64
	query    uint16
	worker   uint16
	injected bool
}

// NewPump makes a pump over c. It takes the sinks over, also on error.
//
// It begins at the least position that some sink has not committed, or the tap not
// acknowledged; it is an error if the segment does not hold that any more.
func NewPump(c Config) (*Pump, error) {
	queries := len(c.Plan.Queries)
	p := &Pump{c: c, former: rows.New(c.Plan, c.Values), formed: make([]atomic.Uint64, queries), global: make([]atomic.Uint64, queries)}
	if p.c.BatchBytes <= 0 {
		p.c.BatchBytes = batchBytes
	}
	if p.c.InjectBytes <= 0 {
		p.c.InjectBytes = injectBytes
	}
	p.injections.wake = make(chan struct{}, 1)
	if p.c.Log == nil {
		p.c.Log = slog.New(slog.DiscardHandler)
	}
	if p.c.Clock == nil {
		p.c.Clock = monotonic
	}
	if c.Sort {
		p.sorter = rows.NewSorter(c.Plan)
	}
	lim := segment.Limits(c.Plan, p.former.Words())
	for w := range max(c.Plan.Workers, 1) {
		p.readers = append(p.readers, outbox.NewReader(c.Segment.Worker(w).Ring(), lim))
	}
	for _, s := range c.Sinks {
		p.outlets = append(p.outlets, p.newOutlet(s))
	}
	p.wants = make([]bool, len(p.outlets))
	err := p.connectTap()
	if err == nil {
		err = p.seek()
	}
	if err != nil {
		return nil, errors.Join(err, p.closeSinks())
	}
	p.sent = make([]uint64, c.Segment.Layout.Workers)
	p.freed = make([]uint64, len(p.readers))
	for w, r := range p.readers {
		p.sent[w] = r.Position()
		p.freed[w] = c.Segment.Worker(w).Ring().Freed.Load()
	}
	p.passed = slices.Clone(p.sent)
	p.free = make(chan *batch, batchCount)
	for range batchCount {
		p.free <- &batch{positions: make([]uint64, c.Segment.Layout.Workers)}
	}
	return p, nil
}

// connectTap works out what goes to the tap and what becomes rows here.
func (p *Pump) connectTap() error {
	global := false
	for i := range p.c.Plan.Queries {
		q := &p.c.Plan.Queries[i]
		global = global || q.Global
		p.taps = append(p.taps, q.Global)
		p.forms = append(p.forms, !q.Global || len(q.LocalSinks) > 0)
	}
	switch {
	case global && p.c.Tap == nil:
		return fmt.Errorf("export: %w", ErrNoTap)
	case p.c.Tap == nil:
		return nil
	case p.c.Sort:
		return fmt.Errorf("export: %w", ErrSortedTap)
	}
	p.given = make([]atomic.Uint64, len(p.readers))
	p.tapResume = slices.Clone(p.c.Tap.Resume())
	return nil
}

func (p *Pump) newOutlet(s Sink) *outlet {
	o := &outlet{sink: s, number: len(p.outlets), all: true, queue: make(chan *batch, batchCount), at: make([]uint64, p.c.Segment.Layout.Workers)}
	name := s.Stats().Name
	for i := range p.c.Plan.Queries {
		q := &p.c.Plan.Queries[i]
		want, global := slices.Contains(q.Local(), name), slices.Contains(q.Sinks, name)
		o.want, o.wantGlobal = append(o.want, want), append(o.wantGlobal, global)
		// What is not made here is injected, and the other way round, unless both are.
		o.all = o.all && (global || !q.Global) && (want || q.Global && len(q.LocalSinks) == 0)
	}
	if !p.c.Sort {
		o.resume = slices.Clone(s.Resume())
	}
	o.acked = slices.Clone(o.resume)
	if o.acked == nil {
		o.acked = make([]uint64, p.c.Segment.Layout.Workers)
	}
	return o
}

// seek moves each reader to the least position over the sinks and the tap.
func (p *Pump) seek() error {
	for w, r := range p.readers {
		from, known := uint64(0), false
		if p.tapResume != nil {
			// What was freed behind it held nothing for the tap.
			from, known = max(p.tapResume[w], r.Position()), true
		} else if p.c.Tap != nil {
			continue
		}
		for _, o := range p.outlets {
			if o.resume != nil && (!known || o.resume[w] < from) {
				from, known = o.resume[w], true
			}
			if o.resume == nil {
				from, known = 0, false
				break
			}
		}
		if !known {
			continue // a sink that has nothing takes what is still there
		}
		if err := r.Seek(from); err != nil {
			return fmt.Errorf("export: worker %d: %w", w, err)
		}
	}
	return nil
}

// Finish says that the workers put out nothing more, though they do not say so
// themselves: their process is gone. Run ends when the outboxes are empty.
func (p *Pump) Finish() { p.finish.Store(true) }

// Rows returns how many rows of query q this process has made of this box's partials.
func (p *Pump) Rows(q int) uint64 { return p.formed[q].Load() }

// GlobalRows returns how many injected rows of query q are on their way to the sinks
// or there.
func (p *Pump) GlobalRows(q int) uint64 { return p.global[q].Load() }

// Faults returns how many outboxes were quarantined for fault f.
func (p *Pump) Faults(f outbox.Fault) uint64 { return p.faults[f].Load() }

// Sinks returns the counts of every sink, in the order of the config.
func (p *Pump) Sinks() []Stats {
	stats := make([]Stats, len(p.outlets))
	for i, o := range p.outlets {
		stats[i] = o.sink.Stats()
		stats[i].Latency = o.took.read()
	}
	return stats
}

// Run carries rows until every worker is done or failed, the tap is done and all is
// written, until ctx ends (its error is returned), or until a sink cannot go on. It
// closes the sinks and returns after the last goroutine.
func (p *Pump) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var sinks sync.WaitGroup
	for _, o := range p.outlets {
		sinks.Go(func() {
			if err := p.drain(ctx, o); err != nil {
				cancel(err)
			}
		})
	}
	err := p.pump(ctx)
	p.injections.shut()
	for _, o := range p.outlets {
		close(o.queue)
	}
	if err != nil {
		cancel(err)
	}
	sinks.Wait()
	p.released()
	return errors.Join(context.Cause(ctx), p.closeSinks())
}

func (p *Pump) closeSinks() error {
	var errs []error
	for _, s := range p.c.Sinks {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// pump reads the outboxes until there is nothing more to come.
func (p *Pump) pump(ctx context.Context) error {
	wait := idleLeast
	timer := time.NewTimer(wait)
	defer timer.Stop()
	if err := p.take(ctx); err != nil {
		return err
	}
	for since := time.Now(); ; since = time.Now() {
		final, got, err := p.fill(ctx, since)
		if err != nil {
			return err
		}
		if err := p.send(ctx); err != nil {
			return err
		}
		if got {
			wait = idleLeast
			continue
		}
		if final && (p.c.Tap == nil || p.c.Tap.Done()) && p.injections.close() {
			return p.last(ctx)
		}
		p.released()
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.injections.wake:
		case <-timer.C:
		}
		wait = min(2*wait, idleMost)
	}
}

// fill goes round the outboxes until the batch is full, has waited long enough,
// or there is nothing more. It reports whether a round has found anything, and
// whether, before the round that found nothing, all workers had said their last.
func (p *Pump) fill(ctx context.Context, since time.Time) (final, got bool, err error) {
	for {
		final = p.finish.Load() || p.final() // before the look: what is put later is not missed
		more, err := p.round(ctx)
		if err != nil || !more {
			return final, got, err
		}
		got = true
		if len(p.current.lines) >= p.c.BatchBytes || time.Since(since) > linger {
			return false, true, nil
		}
	}
}

// last gives out what the sorter still holds.
func (p *Pump) last(ctx context.Context) error {
	if p.sorter == nil {
		return nil
	}
	for w := range p.readers {
		p.sorter.Finished(w)
	}
	if err := p.flush(ctx); err != nil {
		return err
	}
	return p.send(ctx)
}

// final reports that every worker has said its last word. One that failed live has not:
// the next process may go on where it was, and whoever knows that none does calls
// [Pump.Finish].
func (p *Pump) final() bool {
	for w := range p.readers {
		s := p.c.Segment.Worker(w).State()
		if !s.Final() || s == segment.Failed && !p.c.Plan.Replay {
			return false
		}
	}
	return true
}

// round gives every outbox its turn and reports whether one had anything.
func (p *Pump) round(ctx context.Context) (bool, error) {
	got := p.injected()
	// Each round begins with another outbox: where the first ones fill every batch, the
	// last would never have its turn.
	p.first = (p.first + 1) % len(p.readers)
	for i := range p.readers {
		w := (p.first + i) % len(p.readers)
		r := p.readers[w]
		before := r.Position()
		for range recordsATurn {
			if len(p.current.lines) >= p.c.BatchBytes || !p.record(w, r) {
				break
			}
		}
		if r.Position() != before {
			got = true
			p.current.positions[w] = r.Position()
		}
		if p.sorter != nil {
			r.Free(r.Position()) // the rows are in the sorter
		}
	}
	if got && p.sorter != nil {
		return true, p.flush(ctx)
	}
	return got, nil
}

// record takes the next record of worker w's outbox.
func (p *Pump) record(w int, r *outbox.Reader) bool {
	start := r.Position()
	ok, err := r.Next(&p.part)
	if err != nil {
		p.quarantined(w, err)
	}
	if !ok {
		return false
	}
	if p.part.Kind != outbox.KindPartial || !p.forms[p.part.Query] {
		if p.part.Kind == outbox.KindWatermark && p.sorter != nil {
			p.sorter.Done(w, p.part.Query, p.part.End)
		}
		if p.taps[p.part.Query] {
			p.tapped(w, r.Position())
		}
		return true
	}
	b := p.current
	if p.sorter != nil {
		if p.row, err = p.former.Append(p.row[:0], &p.part); err == nil {
			err = p.sorter.Add(&p.part, p.row)
		}
	} else if b.lines, err = p.former.Append(b.lines, &p.part); err == nil {
		b.items = append(b.items, item{end: len(b.lines), position: r.Position(), cause: p.part.Cause, query: p.part.Query, worker: uint16(w)})
	}
	if err != nil {
		r.Quarantine(outbox.FaultContent)
		p.quarantined(w, fmt.Errorf("record before %d, after %d: %w", r.Position(), start, err))
		return false
	}
	p.formed[p.part.Query].Add(1)
	if p.taps[p.part.Query] {
		p.tapped(w, r.Position())
	}
	return true
}

func (p *Pump) quarantined(w int, err error) {
	f := outbox.FaultContent
	if bad, ok := errors.AsType[*outbox.RecordError](err); ok {
		f = bad.Fault
	}
	p.faults[f].Add(1)
	p.c.Log.Error("outbox is not read any more: restart the data plane", "worker", w, "error", err)
}

// flush moves rows whose windows are done from the sorter to the batch.
func (p *Pump) flush(ctx context.Context) error {
	return p.sorter.Flush(func(query uint16, row []byte) error {
		if len(p.current.lines) >= p.c.BatchBytes {
			if err := p.send(ctx); err != nil {
				return err
			}
		}
		b := p.current
		b.lines = append(b.lines, row...)
		b.items = append(b.items, item{end: len(b.lines), query: query})
		return nil
	})
}

// take waits for an empty batch.
func (p *Pump) take(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case p.current = <-p.free:
	}
	for w, r := range p.readers {
		p.current.positions[w] = r.Position()
	}
	return nil
}

// send queues the current batch for every sink, if there is anything new in it,
// and takes an empty one.
func (p *Pump) send(ctx context.Context) error {
	b := p.current
	if len(b.lines) == 0 && slices.Equal(b.positions, p.sent) {
		return nil
	}
	copy(p.sent, b.positions)
	p.pass(b.positions)
	if len(p.outlets) == 0 {
		b.reset()
		return nil
	}
	b.refs.Store(int32(len(p.outlets)))
	for _, o := range p.outlets {
		o.queue <- b // has room for every batch that there is
	}
	return p.take(ctx)
}

// drain writes o's batches until the queue is closed.
func (p *Pump) drain(ctx context.Context, o *outlet) error {
	for b := range o.queue {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // Run says why; what is queued is not committed, so not lost
		}
		lines, n := o.choose(b)
		if err := o.sink.Write(ctx, lines, n, o.at); err != nil {
			return fmt.Errorf("export: sink %s: %w", o.sink.Stats().Name, err)
		}
		p.measure(o)
		p.ack(o)
		b.committed(o.number)
		if b.refs.Add(-1) == 0 {
			b.reset()
			p.free <- b
		}
	}
	return nil
}

// measure notes how long the rows took that o has just committed.
func (p *Pump) measure(o *outlet) {
	if len(o.causes) == 0 {
		return
	}
	now := p.c.Clock()
	for _, cause := range o.causes {
		if now >= cause { // a cause to come is a worker's mistake
			o.took.add(now - cause)
		}
	}
}

// choose returns the rows of b that o wants and does not have yet, and sets o.at
// to the positions that it will then have and o.causes to what the rows are measured
// from.
func (o *outlet) choose(b *batch) (lines []byte, n RowCount) {
	copy(o.at, b.positions)
	ahead := false
	for w, has := range o.resume {
		if o.at[w] < has {
			o.at[w], ahead = has, true
		}
	}
	if o.resume != nil && !ahead {
		// This batch passes everything that was there at the start; it is the last
		// in which a row can be known already.
		defer func() { o.resume = nil }()
	}
	whole := o.all && o.resume == nil
	o.lines, o.causes = o.lines[:0], o.causes[:0]
	from := 0
	for _, it := range b.items {
		if o.wants(&it) {
			if !whole {
				o.lines = append(o.lines, b.lines[from:it.end]...)
			}
			if it.cause != 0 {
				o.causes = append(o.causes, it.cause)
			}
			if it.injected {
				n.Global++
			}
			n.Rows++
		}
		from = it.end
	}
	if whole {
		return b.lines, n
	}
	return o.lines, n
}

// wants reports whether o takes the row of it: rows that were injected are new, the
// others it may have.
func (o *outlet) wants(it *item) bool {
	if it.injected {
		return o.wantGlobal[it.query]
	}
	return o.want[it.query] && (o.resume == nil || it.position > o.resume[it.worker])
}

// pass notes that a batch up to positions is on its way to all sinks.
func (p *Pump) pass(positions []uint64) {
	p.freeing.Lock()
	defer p.freeing.Unlock()
	copy(p.passed, positions)
	if len(p.outlets) == 0 {
		p.release()
	}
}

// ack notes what o has committed and frees what every sink has.
func (p *Pump) ack(o *outlet) {
	p.freeing.Lock()
	defer p.freeing.Unlock()
	copy(o.acked, o.at)
	p.release()
}
