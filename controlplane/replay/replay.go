package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane"
	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/replay"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/xsk"
)

// Config says what to replay.
type Config struct {
	// Plan is the work; its Replay must be set. Required.
	Plan *plan.Plan
	// Records are the capture. Required.
	Records capture.Records
	// OpenSinks makes the sinks that get the rows; the replay closes them. Required.
	OpenSinks func() ([]export.Sink, error)
	// Log is told of trouble with sinks. Nil: nobody is.
	Log *slog.Logger
}

// Summary is what a replay did.
//
// Drops counts messages and events by reason, and packets of which nothing could be
// counted: an unreadable one is one. With one query, and one event to a message,
//
//	Messages = Duplicates + Applied + Filtered + Σ Drops of messages and events
type Summary struct {
	Packets           uint64            `json:"packets"`
	Truncated         uint64            `json:"truncated"`
	Messages          uint64            `json:"messages"`
	Events            uint64            `json:"events"`
	Rows              uint64            `json:"rows"`
	Passed            map[string]uint64 `json:"passed"`
	Drops             map[string]uint64 `json:"drops"`
	Filtered          uint64            `json:"filtered"`
	Applied           uint64            `json:"applied"`
	Duplicates        uint64            `json:"duplicates"`
	Epochs            uint64            `json:"epochs"`
	Gaps              uint64            `json:"gaps"`
	Missing           uint64            `json:"missing"`
	Seconds           float64           `json:"seconds"`
	MessagesPerSecond float64           `json:"messages_per_second"`
	// Ledger is the account of every layer, as `headrace status` has it of a run.
	Ledger status.Ledger `json:"ledger"`

	// Counters are the workers' own, for ledgers.
	Counters []*segment.Counters `json:"-"`
}

// A region's address space costs nothing until it is touched, but not everywhere: an
// emulated processor keeps account of every page. So it begins small, and is made
// again, four times as large, as long as what it is for does not fit.
const (
	regionLeast = 1 << 28
	regionBytes = 1 << 40
)

// Run replays the capture to its end or until ctx is canceled, and returns what it
// did. Rows are complete when it returns.
func Run(ctx context.Context, c Config) (s Summary, err error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	seg, err := segment.Create(c.Plan)
	if err != nil {
		return Summary{}, fmt.Errorf("replay: %w", err)
	}
	defer func() { err = errors.Join(err, seg.Close()) }()
	values, err := Values(c.Plan)
	if err != nil {
		return Summary{}, fmt.Errorf("replay: %w", err)
	}
	steerer, err := steer.New(c.Plan.Feeds)
	if err != nil {
		return Summary{}, fmt.Errorf("replay: %w", err)
	}
	r := &run{Config: c, segment: seg, source: replay.NewSource(c.Records, steerer)}
	defer r.close()
	if err := r.build(); err != nil {
		return Summary{}, fmt.Errorf("replay: %w", err)
	}
	sinks, err := c.OpenSinks()
	if err != nil {
		return Summary{}, fmt.Errorf("replay: %w", err)
	}
	pump, err := export.NewPump(export.Config{Plan: c.Plan, Segment: seg, Values: values, Sinks: sinks, Sort: true, Log: c.Log})
	if err != nil {
		return Summary{}, fmt.Errorf("replay: %w", err)
	}
	return r.run(ctx, pump)
}

// Sets returns every query's aggregates. One goroutine uses them at a time.
func Sets(p *plan.Plan) ([]*aggregate.Set, error) {
	sets := make([]*aggregate.Set, len(p.Queries))
	for i := range p.Queries {
		q := &p.Queries[i]
		set, err := aggregate.NewSet(q, p.Feeds[q.Feed].Columns)
		if err != nil {
			return nil, fmt.Errorf("query %s: %w", q.Name, err)
		}
		sets[i] = set
	}
	return sets, nil
}

// Values returns the readers of every query's aggregates, for the control half.
func Values(p *plan.Plan) ([]rows.Values, error) {
	sets, err := Sets(p)
	if err != nil {
		return nil, err
	}
	return ValuesOf(sets), nil
}

// ValuesOf returns the readers that sets are.
func ValuesOf(sets []*aggregate.Set) []rows.Values {
	values := make([]rows.Values, len(sets))
	for i, s := range sets {
		values[i] = s
	}
	return values
}

type run struct {
	Config
	segment  *segment.Segment
	source   *replay.Source
	spreader *replay.Spreader
	regions  []*arena.Region
	workers  []*dataplane.Worker
	gate     *dataplane.Gate
	owner    [event.GroupCount]uint16
	stop     atomic.Bool
}

// region calls fill with a region that is large enough for it. A fill that fails for
// want of room is called again.
func (r *run) region(name string, fill func(*arena.Region) error) error {
	for limit := regionLeast; ; limit *= 4 {
		region, err := arena.New(name, limit)
		if err != nil {
			return err
		}
		if err = fill(region); errors.Is(err, arena.ErrFull) && limit < regionBytes {
			if err := region.Close(); err != nil {
				return err
			}
			continue
		}
		r.regions = append(r.regions, region)
		return err
	}
}

// build makes the workers and what is between them.
func (r *run) build() error {
	n := r.Plan.Workers
	r.owner = steer.OwnerTable(n)
	var lanes [][]*exchange.Lane
	receivers := []xsk.Receiver{r.source}
	if n > 1 {
		r.gate = dataplane.NewGate()
		r.spreader = replay.NewSpreader(r.source, n, &r.owner, r.gate.Wake)
		receivers = nil
		for w := range n {
			receivers = append(receivers, r.spreader.Port(w))
		}
		err := r.region("headrace lanes", func(region *arena.Region) (err error) {
			lanes, err = dataplane.NewLanes(r.Plan, region)
			return err
		})
		if err != nil {
			return err
		}
	}
	for w := range n {
		err := r.region(fmt.Sprintf("headrace worker %d", w), func(region *arena.Region) error {
			worker, err := dataplane.NewWorker(dataplane.Config{
				Plan: r.Plan, Worker: w, Receiver: receivers[w], Segment: r.segment.Worker(w),
				Region: region, Lanes: lanes, Owner: &r.owner, Gate: r.gate,
			})
			if err == nil {
				r.workers = append(r.workers, worker)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) close() {
	for _, region := range r.regions {
		_ = region.Close()
	}
}

// run starts everything and waits for its end.
func (r *run) run(ctx context.Context, pump *export.Pump) (Summary, error) {
	begin := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	unwatch := context.AfterFunc(ctx, func() {
		r.stop.Store(true)
		if r.spreader != nil {
			r.spreader.Stop()
			r.gate.Wake()
		}
	})
	defer unwatch()
	var workers, rest sync.WaitGroup
	var pumped error
	rest.Go(func() {
		if pumped = pump.Run(ctx); pumped != nil {
			cancel(pumped)
		}
	})
	if r.spreader != nil {
		rest.Go(r.spreader.Run)
	}
	for i, w := range r.workers {
		workers.Go(func() { r.work(i, w, cancel) })
	}
	workers.Wait()
	pump.Finish()
	rest.Wait()
	s := r.summary(pump, time.Since(begin))
	source := status.Source{Plan: r.Plan, Segment: r.segment, Rows: pump}
	s.Ledger = status.NewLedger(source.Snapshot())
	err := errors.Join(r.source.Err(), pumped)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return s, fmt.Errorf("replay: %w", err)
	}
	return s, nil
}

func (r *run) work(i int, w *dataplane.Worker, cancel context.CancelCauseFunc) {
	defer func() {
		if p := recover(); p != nil {
			r.segment.Worker(i).Fail(fmt.Sprint(p))
			cancel(fmt.Errorf("worker %d: %v", i, p))
			panic(p)
		}
	}()
	w.Replay(&r.stop)
}

// summary adds the workers' counters up.
func (r *run) summary(pump *export.Pump, took time.Duration) Summary {
	s := Summary{Passed: map[string]uint64{}, Drops: map[string]uint64{}, Seconds: took.Seconds()}
	s.Packets, _ = r.source.Packets()
	counts := r.source.Counts()
	for v := steer.Verdict(1); v < steer.VerdictCount; v++ {
		if counts[v] > 0 {
			s.Passed[v.String()] = counts[v]
		}
	}
	for _, w := range r.workers {
		c := w.Counters().Copy() // the worker's own go with its memory
		s.Counters = append(s.Counters, c)
		for i := range c.Feeds {
			s.add(&c.Feeds[i])
		}
		for i := range c.Queries {
			q := &c.Queries[i]
			s.Applied += q.Applied
			s.Filtered += q.Drops[event.DropFiltered]
			for d := event.Kept + 1; d < event.DropCount; d++ {
				if d != event.DropFiltered && q.Drops[d] > 0 {
					s.Drops[d.String()] += q.Drops[d]
				}
			}
		}
	}
	for _, sink := range pump.Sinks() {
		s.Rows = max(s.Rows, sink.Rows)
	}
	s.MessagesPerSecond = float64(s.Messages) / s.Seconds
	return s
}

func (s *Summary) add(f *segment.FeedCounters) {
	s.Truncated += f.Truncated
	s.Messages += f.Messages
	s.Events += f.Events
	s.Duplicates += f.Duplicate
	s.Epochs += f.Epochs
	s.Gaps += f.Gaps
	s.Missing += f.Missing
	for d := event.Kept + 1; d < event.DropCount; d++ {
		// A packet that was dropped with messages in it is counted by these alone.
		n := f.MessageDrops[d]
		if n == 0 {
			n = f.FrameDrops[d]
		}
		if n > 0 {
			s.Drops[d.String()] += n
		}
	}
}
