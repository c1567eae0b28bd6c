package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

var (
	// ErrConfig reports a config that makes no cluster.
	ErrConfig = errors.New("not a config of a cluster")
	// ErrNotDrained reports windows or rows that were not safe when time was up.
	ErrNotDrained = errors.New("stopped before all global rows were written")
)

// An Exchanger is what a cluster needs of [rdma.Group], whose methods these are.
type Exchanger interface {
	Epochs
	Exchange(header []byte, parts [][]byte) (*rdma.Gathered, error)
	Late() *rdma.Late
	Wake()
}

// Epochs tells who is in the group.
type Epochs interface {
	Wait(d time.Duration) rdma.News
	Epoch() rdma.Epoch
}

// Config makes a [Cluster].
type Config struct {
	// Plan has the queries; Values and Sets, one a query, know their aggregates.
	// Required. The sets are the cluster's alone.
	Plan   *plan.Plan
	Values []rows.Values
	Sets   []*aggregate.Set
	// Group carries the rounds. Required. The cluster does not close it.
	Group Exchanger
	// Names are the configured peers' ids, sorted; Me is our number. Required.
	Names []string
	Me    int
	// MaxWait is how long a window waits for a peer that is behind. Zero: 1 s.
	MaxWait time.Duration
	// CorrectFor is how long after its first rows a window can be corrected. Zero: 5 min.
	CorrectFor time.Duration
	// Period is the group's; a round is begun at least four times in it. Zero: 1 s.
	Period time.Duration
	// Keep bounds the bytes of this box's own partials that are kept until their rows
	// are safe. Zero: 256 MiB.
	Keep int
	// Hold bounds the bytes of states, ours and others', that are held so that windows
	// can be corrected; what has no rows yet is held in any case. As much may wait for
	// sinks before rows are dropped. Zero: 1 GiB.
	Hold int
	// Home says to which peer a key group belongs while that is there; all peers must
	// say the same. Nil: group number modulo peers.
	Home func(group int) int
	// Enough reports that peers without us can go on as a group. Nil: they always can.
	Enough func(collective.Set) bool
	// Linger is how long, when everything of this box is in the sinks, it stays for
	// members that could not go on without it: they may be about to end as well. Zero:
	// three periods, and at least 2 s.
	Linger time.Duration
	// Emit gives rows to the sinks, as [export.Pump.Inject] does. Required.
	Emit func(rows []export.InjectedRow, written func()) bool
	// Log may be nil.
	Log *slog.Logger
	// Now is a clock that never goes back. Nil: the time since New.
	Now func() time.Duration
}

func (c *Config) fill() error {
	n := len(c.Plan.Queries)
	switch {
	case len(c.Names) < 1 || len(c.Names) > collective.PeersMax || c.Me < 0 || c.Me >= len(c.Names):
		return fmt.Errorf("cluster: %w: peer %d of %d", ErrConfig, c.Me, len(c.Names))
	case len(c.Values) != n || len(c.Sets) != n:
		return fmt.Errorf("cluster: %w: %d values and %d sets for %d queries", ErrConfig, len(c.Values), len(c.Sets), n)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.MaxWait, time.Second)
	def(&c.CorrectFor, 5*time.Minute)
	def(&c.Period, time.Second)
	def(&c.Linger, max(3*c.Period, 2*time.Second))
	if c.Keep <= 0 {
		c.Keep = 256 << 20
	}
	if c.Hold <= 0 {
		c.Hold = 1 << 30
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		began := time.Now()
		c.Now = func() time.Duration { return time.Since(began) }
	}
	return nil
}

// A Cluster makes the rows of global queries together with the clusters of the other
// peers.
type Cluster struct {
	c      Config
	engine *engine
	sooner atomic.Bool   // rows were written: leaves can go, and others may wait for that
	full   atomic.Bool   // the sinks took no more: as soon as they have room they get the rest
	ending atomic.Bool   // no data plane comes any more
	doubt  atomic.Uint64 // rows that the control process before this one was giving out
	over   chan struct{}

	last       time.Duration // when the last round began
	rounds     uint64
	unclear    uint64 // rounds that did not count
	emitted    []uint64
	more       bool // there are rows to give out, and the sinks take them
	lot, burst int
	reported   time.Duration
	lingers    time.Duration // since when everything of ours is out, and others need us

	mu       sync.Mutex
	tap      *Tap
	source   func(query int) bool
	progress func(query int) uint64
	since    time.Duration // when the present data plane was connected
	stats    Stats
}

// New checks c. Nothing happens before [Cluster.Run].
func New(c Config) (*Cluster, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	k := &Cluster{c: c, engine: newEngine(&c), over: make(chan struct{}), lot: lotRows, burst: burstLots, emitted: make([]uint64, len(c.Plan.Queries)), reported: -time.Hour}
	k.engine.seen, k.engine.progress = k.seen, k.progressOf
	return k, nil
}

func (c *Cluster) seen(query int) (bool, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.source == nil || c.source(query), c.since
}

// progressOf returns what changes when events of a query come, 0 if nothing says so.
func (c *Cluster) progressOf(query int) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.progress == nil {
		return 0
	}
	return c.progress(query)
}

// Run takes part in rounds until ctx ends or [Cluster.Drain] has done its work. It is
// the one goroutine that uses the group. To close the group ends Run too, with the
// group's error, wherever it is: what is not safe by then is left as it is, [Tap.Done]
// says that all is over, and a pump that is still at work may call Wake of a group that
// is closed, which must then do nothing.
func (c *Cluster) Run(ctx context.Context) error {
	defer close(c.over)
	defer context.AfterFunc(ctx, c.c.Group.Wake)()
	for ctx.Err() == nil {
		if c.ending.Load() && c.engine.drained() && c.mayGo() {
			break
		}
		if err := c.turn(); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	c.report(true)
	return nil
}

// mayGo reports that nobody is left behind who could not go on without us. Boxes that
// are told to end together are not told at the same instant: the last of them would be
// alone with its last windows.
func (c *Cluster) mayGo() bool {
	r := c.engine.member.registry
	rest := (r.members &^ r.stopping).Without(c.c.Me)
	if rest == 0 || c.c.Enough == nil || c.c.Enough(rest) {
		return true
	}
	now := c.c.Now()
	if c.lingers == 0 {
		c.lingers = now
	}
	return now-c.lingers >= c.c.Linger
}

// turn waits until there is a reason for a round, and has it.
func (c *Cluster) turn() error {
	c.free() // first: if we die then, the rows are not made once more of the same records
	c.give()
	c.report(false)
	e := c.c.Group.Epoch()
	if wait := c.wait(e); wait > 0 {
		news := c.c.Group.Wait(wait)
		if e = c.c.Group.Epoch(); news&rdma.NewsRound == 0 && c.wait(e) > 0 || e.Number == 0 {
			return nil
		}
	}
	c.late()
	c.last = c.c.Now()
	head, parts := c.engine.contribute(e, c.last)
	g, err := c.c.Group.Exchange(head, parts)
	switch {
	case err == nil:
		c.rounds++
		c.engine.take(g, c.c.Now())
		c.engine.limit = min(2*c.engine.limit, contributionLimit)
	case errors.Is(err, rdma.ErrAgain), errors.Is(err, rdma.ErrNoEpoch), errors.Is(err, rdma.ErrOp):
		// ErrOp is a member's mistake, and ends the epoch: it must not end us.
		c.unclear++
		c.engine.contributor.nudge()
	case errors.Is(err, rdma.ErrTooLarge) && c.engine.member.phase == carrying && c.engine.member.moveMax > 0:
		c.engine.member.tooLarge()
		c.c.Log.Warn("states are too many to move in a round", "next", c.engine.member.moveMax, "error", err)
	case errors.Is(err, rdma.ErrTooLarge):
		// One window at a time, and that one without its records if it is too large.
		if c.engine.limit == 1 {
			c.engine.contributor.shrink()
		}
		c.engine.limit = max(c.engine.limit/16, 1)
		c.engine.contributor.nudge()
	default:
		return err
	}
	return nil
}

// late follows a round that was given up and counts after all. Another member may have
// followed it at once, and given out its rows: who goes on without that member must know
// of them.
func (c *Cluster) late() {
	if l := c.c.Group.Late(); l != nil && l.Gathered != nil {
		c.rounds++
		c.engine.take(l.Gathered, c.c.Now())
	}
}

// wait returns how long there is no reason for a round.
func (c *Cluster) wait(e rdma.Epoch) time.Duration {
	now, quarter := c.c.Now(), max(c.c.Period/4, time.Millisecond)
	m := c.engine.member
	switch {
	case e.Number == 0:
		return quarter
	case m.epoch.Number != e.Number || m.phase != plain || c.engine.contributor.eager():
		return 0
	case c.ending.Load() && c.sooner.Swap(false):
		return 0
	}
	wait := min(c.last+quarter, c.engine.timekeeper.due(m.registry)) - now
	if c.more {
		wait = min(wait, time.Microsecond) // the group agrees on what it must, no more
	}
	return wait
}

func (c *Cluster) namesOf(s collective.Set) (names []string) {
	for p := range s.All {
		names = append(names, c.c.Names[p])
	}
	return names
}

// What is given out at a time: rounds go on between two bursts.
const (
	lotRows   = 1024
	burstLots = 8
)

// give passes rows on to the sinks, as many as a burst. While there is no epoch they
// wait: somebody else may be giving them out.
func (c *Cluster) give() {
	m := c.engine.member
	m.sweep()
	c.more = false
	if c.c.Group.Epoch().Number == 0 {
		return
	}
	c.full.Store(false)
	lots := 0
	for _, l := range m.leaves {
		for made := m.lot(l, c.lot); len(made.ends) > 0; made = m.lot(l, c.lot) {
			if lots++; lots > c.burst {
				c.more = true
				return
			}
			if c.giveLot(l) {
				continue
			}
			c.full.Store(true) // before the last try: what is written after it wakes us
			if !c.giveLot(l) {
				return
			}
			c.full.Store(false)
		}
	}
}

// giveLot offers the rows that l has made.
func (c *Cluster) giveLot(l *leaf) bool {
	out, from := make([]export.InjectedRow, 0, len(l.made.ends)), 0
	var cause uint64
	if l.firing.revision == 0 {
		cause = c.engine.contributor.cause(l.window)
	}
	for _, end := range l.made.ends {
		if end > from {
			out = append(out, export.InjectedRow{Query: int(l.window.query), Line: l.made.text[from:end], Cause: cause})
		}
		from = end
	}
	if !c.c.Emit(out, func() {
		l.written.Add(1)
		c.sooner.Store(true)
		if c.ending.Load() || c.full.Load() {
			c.wake()
		}
	}) {
		return false
	}
	l.made = lines{}
	l.taken++
	c.emitted[l.window.query] += uint64(len(out))
	return true
}

// wake wakes Run, if it has not ended.
func (c *Cluster) wake() {
	select {
	case <-c.over:
	default:
		c.c.Group.Wake()
	}
}

// free gives back room in the outboxes.
func (c *Cluster) free() {
	c.mu.Lock() // so that nobody takes the segment away meanwhile
	defer c.mu.Unlock()
	if c.tap != nil {
		c.tap.free(uint64(c.engine.member.waiting()))
	}
}

// Finish says that no data plane comes any more: what the present one still puts out is
// contributed as it is, and then this box is done. It does not wait.
func (c *Cluster) Finish() {
	c.ending.Store(true)
	c.engine.contributor.end()
	c.wake()
}

// Drain is Finish, and waits until everything of this box is in the sinks, or until ctx
// ends. Run is then to be ended by its own context. The error wraps [ErrNotDrained].
func (c *Cluster) Drain(ctx context.Context) error {
	c.Finish()
	select {
	case <-c.over:
		return nil
	case <-ctx.Done():
	}
	s := c.Stats()
	return fmt.Errorf("cluster: %w: %d windows are kept, %d bytes", ErrNotDrained, s.KeptWindows, s.KeptBytes)
}
