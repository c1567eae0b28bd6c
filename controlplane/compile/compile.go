package compile

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"strings"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
)

// ErrNoFormats reports options without a table of formats.
var ErrNoFormats = errors.New("no formats were given")

// Options are what a plan needs beside the config. A zero field has the default
// that its comment says; what the command line gives wins over the config.
type Options struct {
	// Formats finds a format by name. Required.
	Formats func(name string) (wire.Format, bool)

	// Name is the run's name; "headrace" by default.
	Name string

	// Workers overrides the config's workers.
	Workers int

	// CPUs is what the host allows; by default runtime.NumCPU.
	CPUs int

	// Batch is the events of a batch; event.BatchMax by default.
	Batch int

	// Replay plans for a capture: interfaces and the group are left out and no worker
	// beyond Workers will ever come.
	Replay bool

	// Interfaces, if any, replace the config's; a name that the config has keeps its
	// settings there.
	Interfaces []string

	// LaneBytes and OutboxBytes are powers of two; by default 1 MiB and 4 MiB.
	LaneBytes, OutboxBytes int
}

const (
	defaultName   = "headrace"
	defaultLane   = 1 << 20
	defaultOutbox = 1 << 22
)

// Check reports to c what compiling finds wrong.
func Check(c *config.Config, o Options) error {
	_, err := Compile(c, o)
	return err
}

// Compile makes the plan of c. The error is a [config.Findings] if c has mistakes,
// those of reading it included.
func Compile(c *config.Config, o Options) (*plan.Plan, error) {
	if o.Formats == nil {
		return nil, fmt.Errorf("compile: %w", ErrNoFormats)
	}
	b := &builder{c: c, o: o, plan: &plan.Plan{Version: plan.Version}}
	b.run()
	for i := range c.Feeds {
		b.feeds = append(b.feeds, b.feed(&c.Feeds[i]))
	}
	for _, q := range b.ordered() {
		b.query(q)
	}
	b.finish()
	if found := c.Findings(); len(found) > 0 {
		return nil, found
	}
	return b.plan, nil
}

// A builder makes one plan.
type builder struct {
	c     *config.Config
	o     Options
	plan  *plan.Plan
	feeds []*feed
}

// run fills in what belongs to the run as a whole.
func (b *builder) run() {
	p, c := b.plan, b.c
	cpus := b.o.CPUs
	if cpus == 0 {
		cpus = runtime.NumCPU()
	}
	cpus = min(cpus, event.WorkersMax)
	p.Name = orDefault(b.o.Name, defaultName)
	p.Workers = orDefault(b.o.Workers, orDefault(c.Workers, max(1, cpus-1)))
	p.WorkersMax = max(orDefault(c.WorkersMax, cpus), p.Workers)
	p.Batch = orDefault(b.o.Batch, event.BatchMax)
	p.Replay = b.o.Replay
	p.LaneBytes = orDefault(b.o.LaneBytes, defaultLane)
	p.OutboxBytes = orDefault(b.o.OutboxBytes, defaultOutbox)
	p.OrphanTimeout = c.OrphanTimeout.D()
	p.Flush = c.OnStop == "flush"
	if p.Replay {
		p.WorkersMax = p.Workers
		return
	}
	b.interfaces()
	p.Crash = plan.Crash(c.Crash)
	if r := c.Recorder; r != nil {
		p.Recorder = plan.Recorder{Frames: r.Frames, Snap: int(r.Snap)}
	}
	if g := c.Group; g != nil {
		p.Group = &plan.Group{Me: g.Me, Peers: g.IDs(), TieBreaker: g.TieBreaker, AllowSolo: g.AllowSolo, Seal: g.Seal}
	}
}

// ordered returns the queries in the order of the plan: that of the file, but global
// ones first, by name. A query's number is part of what peers tell each other, so it
// must not depend on the queries that a box has for itself.
func (b *builder) ordered() []*config.Query {
	var global, local []*config.Query
	for i := range b.c.Queries {
		if q := &b.c.Queries[i]; b.global(q) {
			global = append(global, q)
		} else {
			local = append(local, q)
		}
	}
	slices.SortStableFunc(global, func(x, y *config.Query) int { return strings.Compare(x.Name, y.Name) })
	return append(global, local...)
}

// global reports whether the group makes q's rows. A replay has no group.
func (b *builder) global(q *config.Query) bool { return q.Scope == "global" && !b.o.Replay }

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

func (b *builder) interfaces() {
	list := b.c.Interfaces
	if len(b.o.Interfaces) > 0 {
		list = nil
		for _, name := range b.o.Interfaces {
			x := config.DefaultInterface(name)
			for _, i := range b.c.Interfaces {
				if i.Name == name {
					x = i
				}
			}
			list = append(list, x)
		}
	}
	for _, i := range list {
		b.rings(&i)
		if i.FillRing < i.RxRing {
			b.c.Report(b.c.Pos("interfaces", i.Name, "fill_ring"), fmt.Sprintf("interface %s: fill_ring %d is less than rx_ring %d", i.Name, i.FillRing, i.RxRing),
				"the fill ring must hold what the RX ring gives back", fmt.Sprint(int(i.RxRing)))
		}
		need := b.plan.WorkersMax*int(i.RxRing) + int(i.FillRing) + int(i.TxRing)
		frames := int(i.Frames)
		switch {
		case frames == 0:
			frames = 1 << bits.Len(uint(need-1))
		case frames < need:
			b.c.Report(b.c.Pos("interfaces", i.Name, "frames"), fmt.Sprintf("interface %s: %d frames are too few", i.Name, frames),
				fmt.Sprintf("workers_max × rx_ring + fill_ring + tx_ring is %d: with fewer, one slow worker starves the others", need), fmt.Sprint(1<<bits.Len(uint(need-1))))
		}
		b.plan.Interfaces = append(b.plan.Interfaces, plan.Interface{
			Name: i.Name, Mode: plan.Mode(i.Mode), Queues: int(i.Queues), Idle: plan.Idle(i.Idle),
			RxRing: int(i.RxRing), TxRing: int(i.TxRing), FillRing: int(i.FillRing), Frames: frames,
		})
	}
}

// The greatest and the least RX ring that is chosen without the config's word, and
// the descriptors that a queue's RX rings have together.
const (
	rxRingMost, rxRingLeast = 8192, 2048
	rxRingTogether          = 16384
)

// rings gives the rings their sizes where the config gives none.
func (b *builder) rings(i *config.Interface) {
	if i.RxRing == 0 {
		i.RxRing = rxRingMost
		for i.RxRing > rxRingLeast && int(i.RxRing)*b.plan.WorkersMax > rxRingTogether {
			i.RxRing /= 2
		}
	}
	if i.FillRing == 0 {
		i.FillRing = i.RxRing
	}
}

// finish puts together what feeds and queries together decide.
func (b *builder) finish() {
	for i := range b.feeds {
		b.settle(i)
	}
	for _, f := range b.feeds {
		b.plan.Feeds = append(b.plan.Feeds, f.plan)
	}
}
