// Package apifake is a run without packets, for tests of the API and of the commands
// that use it: a config is read, compiled, compared and kept as in a run, and what
// would be done to workers and interfaces is only remembered.
package apifake

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/change"
	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/explain"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire/formats"
)

// Text is the config that a fake begins with.
const Text = `workers: 2
workers_max: 4
interfaces: [eth1]
feeds:
  cars: {match: {port: 9000}, format: json, columns: {id: text, speed: int64}, time: {column: at, unit: ms}}
  talk: {match: {port: 9001}, format: flow}
queries:
  fast: {from: cars, key: [id], window: {tumbling: 1m}, select: {top: max(speed)}, sinks: [rows]}
  pairs: {from: talk, key: [source], window: {tumbling: 1m}, select: {n: count()}, sinks: [rows]}
sinks: {rows: {jsonl: {path: rows.jsonl}}}
`

// A Run is the fake.
type Run struct {
	Name  string
	Level slog.LevelVar

	mu      sync.Mutex
	now     change.State
	running api.Running
	paused  []string
	workers int
	auto    bool
	did     []string // what was asked of it, in order
	ended   chan struct{}

	// Sick is what Healthy and Ready answer, Panics makes Status panic.
	Sick   error
	Panics bool
	// Endless makes captures go on until they are stopped, Cut makes them fail after the
	// first frame.
	Endless, Cut atomic.Bool
}

// New returns a run with the config Text.
func New(name string) *Run {
	r := &Run{Name: name, ended: make(chan struct{}), workers: 2}
	s, err := r.read("start.yaml", []byte(Text))
	if err != nil {
		panic("apifake: " + err.Error())
	}
	r.now = s
	r.running = api.Running{Name: name, Revision: api.Revision([]byte(Text)), Source: "start.yaml", Applied: time.Unix(1_700_000_000, 0).UTC(), Text: Text}
	return r
}

// Parts returns everything that a run offers.
func (r *Run) Parts() api.Parts {
	return api.Parts{Reader: r, Prober: r, Changer: r, Operator: r, Mover: r, Upgrader: r, Capturer: r, Level: &r.Level}
}

// Did returns what was asked of the run, in order.
func (r *Run) Did() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.did)
}

// Ended is closed when the run was drained or detached.
func (r *Run) Ended() <-chan struct{} { return r.ended }

func (r *Run) read(source string, text []byte) (change.State, error) {
	c, p, err := compile.Text(text, source, compile.Options{Formats: formats.Lookup, CPUs: 4, Name: r.Name})
	return change.State{Config: c, Plan: p}, err
}

// Status returns a report with names and no counts.
func (r *Run) Status() *status.Report {
	if r.Panics {
		panic("apifake: as asked")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &status.Snapshot{Name: r.Name, At: time.Now().UTC()}
	for w := range r.workers {
		s.Workers = append(s.Workers, status.Worker{Worker: w, State: "running"})
	}
	for i := range r.now.Plan.Feeds {
		s.Feeds = append(s.Feeds, status.Feed{Name: r.now.Plan.Feeds[i].Name})
	}
	return status.NewReport(nil, s)
}

// Running returns the config in force.
func (r *Run) Running() api.Running {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running
}

// Plan returns its plan.
func (r *Run) Plan() *plan.Plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now.Plan
}

// Explain explains it.
func (r *Run) Explain(w io.Writer) error {
	r.mu.Lock()
	s := r.now
	r.mu.Unlock()
	return explain.Explain(w, s.Config, s.Plan, explain.Options{Formats: formats.Lookup, Memory: replay.Memory, State: replay.StateBytes})
}

// Healthy returns Sick.
func (r *Run) Healthy() error { return r.Sick }

// Ready returns Sick.
func (r *Run) Ready() error { return r.Sick }

// Apply puts a config in force, as a run does.
func (r *Run) Apply(ctx context.Context, a api.Application) (*change.Report, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	next, err := r.read(a.Source, a.Text)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(a.Match) > 0 && !slices.Contains(a.Match, r.running.Revision) {
		return nil, fmt.Errorf("%w: %s is in force", api.ErrStale, r.running.Revision)
	}
	c := change.Between(r.now, next)
	report := c.Report()
	report.DryRun, report.Revision = a.DryRun, r.running.Revision
	if n := report.Refused(); n > 0 {
		return report, fmt.Errorf("%w: %d of %d changes cannot be made while headrace runs", api.ErrRefused, n, len(report.Items))
	}
	if a.DryRun {
		return report, nil
	}
	next.Plan = c.Plan
	r.now, r.workers = next, next.Plan.Workers
	r.running = api.Running{Name: r.Name, Revision: api.Revision(a.Text), Source: a.Source, Applied: time.Now().UTC(), Text: string(a.Text)}
	report.Applied, report.Revision = true, r.running.Revision
	r.did = append(r.did, "apply "+a.Source)
	return report, nil
}

func (r *Run) feed(name string) error {
	var names []string
	for i := range r.now.Plan.Feeds {
		if f := &r.now.Plan.Feeds[i]; !f.Removed {
			names = append(names, f.Name)
		}
	}
	if name != "" && !slices.Contains(names, name) {
		return api.Unknown("the feeds are "+strings.Join(names, ", "), "there is no feed %q", name)
	}
	return nil
}

// Pause remembers that a feed is paused.
func (r *Run) Pause(_ context.Context, feed string) error { return r.pause(feed, true) }

// Resume remembers that it is not.
func (r *Run) Resume(_ context.Context, feed string) error { return r.pause(feed, false) }

func (r *Run) pause(feed string, yes bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.feed(feed); err != nil {
		return err
	}
	for i := range r.now.Plan.Feeds {
		f := &r.now.Plan.Feeds[i]
		if f.Removed || feed != "" && f.Name != feed {
			continue
		}
		r.paused = slices.DeleteFunc(r.paused, func(s string) bool { return s == f.Name })
		if yes {
			r.paused = append(r.paused, f.Name)
		}
	}
	slices.Sort(r.paused)
	r.did = append(r.did, fmt.Sprintf("pause %q %t", feed, yes))
	return nil
}

// Paused returns what is paused.
func (r *Run) Paused() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.paused)
}

func (r *Run) end(how string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.ended:
	default:
		close(r.ended)
	}
	r.did = append(r.did, how)
	return nil
}

// Drain ends the run.
func (r *Run) Drain(context.Context) error { return r.end("drain") }

// Detach ends the run.
func (r *Run) Detach(context.Context) error { return r.end("detach") }

// Rebalance moves seven groups.
func (r *Run) Rebalance(_ context.Context, mode api.RebalanceMode) (api.Moved, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auto = mode == api.Auto
	r.did = append(r.did, "rebalance "+string(mode))
	return api.Moved{Groups: 7, Workers: r.workers, Auto: r.auto}, nil
}

// Move remembers the groups.
func (r *Run) Move(_ context.Context, groups []int, to int) (api.Moved, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if to >= r.workers {
		return api.Moved{}, api.Refuse(fmt.Sprintf("workers are 0 to %d", r.workers-1), "there is no worker %d", to)
	}
	r.did = append(r.did, fmt.Sprintf("move %d groups to %d", len(groups), to))
	return api.Moved{Groups: len(groups), Workers: r.workers, Auto: r.auto}, nil
}

// SetWorkers remembers the number.
func (r *Run) SetWorkers(_ context.Context, n int) (api.Moved, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if most := r.now.Plan.WorkersMax; n > most {
		return api.Moved{}, api.Refuse("change workers_max and start again", "%d workers are more than workers_max %d", n, most)
	}
	r.workers = n
	r.did = append(r.did, fmt.Sprintf("workers %d", n))
	return api.Moved{Groups: 512, Workers: n, Auto: r.auto}, nil
}

// Upgrade knows two binaries: the one that is there, and "slow", which is refused.
func (r *Run) Upgrade(_ context.Context, u api.Upgrade) (api.Upgraded, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case u.Binary != "" && !strings.HasPrefix(u.Binary, "/"):
		return api.Upgraded{}, api.Unknown("write a path that begins with /", "there is no binary %q", u.Binary)
	case u.Binary == "/slow" && !u.Anyway:
		return api.Upgraded{}, api.Refuse("wait for less traffic, or say that frames may be lost", "a hand-over takes about 50ms, and the rings hold 20ms of what comes")
	}
	r.did = append(r.did, fmt.Sprintf("upgrade %q %t", u.Binary, u.Anyway))
	return api.Upgraded{Warm: true, From: "v1", To: "v2", PauseNanos: 4_000_000, BudgetNanos: 90_000_000}, nil
}

// Capture writes a pcapng file of empty frames.
func (r *Run) Capture(ctx context.Context, c api.Capture, w io.Writer) error {
	r.mu.Lock()
	err := r.feed(c.Feed)
	if err == nil && c.BeforeGap && r.now.Plan.Recorder.Frames == 0 {
		err = api.Unknown("give it in the config: recorder: {frames: 10000}", "there is no recorder")
	}
	r.did = append(r.did, fmt.Sprintf("capture %q %d %t", c.Feed, c.Count, c.BeforeGap))
	r.mu.Unlock()
	if err != nil {
		return err
	}
	head := binary.LittleEndian.AppendUint32(nil, 0x0a0d0d0a) // section header
	for _, x := range []uint32{28, 0x1a2b3c4d, 1, 0xffffffff, 0xffffffff, 28, 1, 20, 1, 0, 20} {
		head = binary.LittleEndian.AppendUint32(head, x)
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for n := 0; n < c.Count || r.Endless.Load(); n++ {
		if r.Endless.Load() || ctx.Err() != nil {
			<-ctx.Done()
			return ctx.Err()
		}
		if r.Cut.Load() && n == 1 {
			return errors.New("apifake: as asked")
		}
		block := binary.LittleEndian.AppendUint32(nil, 6) // enhanced packet
		for _, x := range []uint32{32, 0, 0, 0, 0, 0, 32} {
			block = binary.LittleEndian.AppendUint32(block, x)
		}
		if n < 3 || n == c.Count-1 { // enough to be a file
			if _, err := w.Write(block); err != nil {
				return err
			}
		}
	}
	return nil
}
