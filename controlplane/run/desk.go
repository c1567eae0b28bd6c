package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/change"
	"github.com/headrace/headrace/controlplane/explain"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire/formats"
)

// A desk answers the API. What changes something is done by the control's own goroutine;
// what only asks looks at what that has published.
type desk struct{ r *control }

// force is a setup that is in force.
type force struct {
	Setup
	running api.Running
	paused  []string // names of feeds, sorted
}

// enforce publishes r.Setup as the one in force.
func (r *control) enforce() {
	f := &force{Setup: r.Setup, paused: slices.Clone(r.paused)}
	f.running = api.Running{
		Name: r.Plan.Name, Revision: api.Revision(r.Text), Source: r.Source, Applied: r.applied.UTC(), Text: string(r.Text),
	}
	r.force.Store(f)
}

// parts are what the API offers.
func (r *control) parts() api.Parts {
	d := desk{r}
	p := api.Parts{Reader: d, Prober: d, Changer: d, Operator: d, Mover: d, Upgrader: d, Level: r.Level}
	if r.Plan.Crash == plan.Rollback {
		p.Capturer = capturer{r}
	}
	return p
}

// Status returns the figures of now.
func (d desk) Status() *status.Report {
	return d.r.figures.reporter.Report()
}

// Running returns the config in force.
func (d desk) Running() api.Running { return d.r.force.Load().running }

// Plan returns the plan in force.
func (d desk) Plan() *plan.Plan { return d.r.force.Load().Plan }

// Explain explains it.
func (d desk) Explain(w io.Writer) error {
	f := d.r.force.Load()
	return explain.Explain(w, f.Config, f.Plan, explain.Options{Formats: formats.Lookup, Memory: replay.Memory, State: replay.StateBytes})
}

// Healthy reports a data plane that stays down.
func (d desk) Healthy() error {
	if c := d.r.shown.Load(); c != nil && c.State != "" {
		return errors.New(c.State)
	}
	return nil
}

// Ready reports workers that do not receive.
func (d desk) Ready() error {
	if err := d.Healthy(); err != nil {
		return err
	}
	for _, w := range d.r.figures.source.Snapshot().Workers {
		if w.State != "running" && w.State != "held" {
			return fmt.Errorf("worker %d is %s", w.Worker, w.State)
		}
	}
	return nil
}

// Apply puts another config in force.
func (d desk) Apply(ctx context.Context, a api.Application) (report *change.Report, err error) {
	err = d.r.ask(ctx, func() error {
		report, err = d.r.apply(&a)
		return err
	})
	return report, err
}

// Drain begins the stop.
func (d desk) Drain(ctx context.Context) error {
	return d.r.ask(ctx, func() error {
		d.r.stop("asked to drain")
		return nil
	})
}

// Detach gives the interfaces back and ends the run.
func (d desk) Detach(ctx context.Context) error {
	return d.r.ask(ctx, func() error {
		d.r.stop("asked to detach")
		return d.r.store.forget()
	})
}

// Pause lets the packets of a feed pass to the network stack.
func (d desk) Pause(ctx context.Context, feed string) error {
	return d.r.ask(ctx, func() error { return d.r.pause(feed, true) })
}

// Resume takes them again.
func (d desk) Resume(ctx context.Context, feed string) error {
	return d.r.ask(ctx, func() error { return d.r.pause(feed, false) })
}

// Paused returns the names of paused feeds.
func (d desk) Paused() []string { return d.r.force.Load().paused }

// Rebalance moves key groups so that workers have about as much to do.
func (d desk) Rebalance(ctx context.Context, mode api.RebalanceMode) (m api.Moved, err error) {
	err = d.r.ask(ctx, func() error {
		d.r.auto = mode == api.Auto
		if mode != api.Off {
			m.Groups, err = d.r.rebalance()
		}
		m.Workers, m.Auto = d.r.Plan.Workers, d.r.auto
		return err
	})
	return m, err
}

// Move gives key groups to a worker.
func (d desk) Move(ctx context.Context, groups []int, to int) (m api.Moved, err error) {
	err = d.r.ask(ctx, func() error {
		m.Groups, err = d.r.moveTo(groups, to)
		m.Workers, m.Auto = d.r.Plan.Workers, d.r.auto
		return err
	})
	return m, err
}

// SetWorkers adds or removes workers.
func (d desk) SetWorkers(ctx context.Context, n int) (m api.Moved, err error) {
	err = d.r.ask(ctx, func() error {
		m.Groups, err = d.r.setWorkers(n)
		m.Workers, m.Auto = d.r.Plan.Workers, d.r.auto
		return err
	})
	return m, err
}

// Upgrade replaces the data plane.
func (d desk) Upgrade(ctx context.Context, u api.Upgrade) (up api.Upgraded, err error) {
	err = d.r.ask(ctx, func() error {
		up, err = d.r.upgrade(u)
		return err
	})
	return up, err
}

// apply puts another config in force, whole or not at all.
func (r *control) apply(a *api.Application) (*change.Report, error) {
	now := r.force.Load().running.Revision
	if len(a.Match) > 0 && !slices.Contains(a.Match, now) {
		return nil, fmt.Errorf("%w: %s is in force", api.ErrStale, now)
	}
	next, err := r.Compile(a.Text, a.Source)
	if err != nil {
		return nil, err
	}
	next.keepWorkers(&r.Setup)
	c := change.Between(change.State{Config: r.Setup.Config, Plan: r.Plan}, change.State{Config: next.Config, Plan: next.Plan})
	next.Plan = c.Plan
	report := c.Report()
	report.DryRun, report.Revision = a.DryRun, now
	if n := report.Refused(); n > 0 {
		return report, fmt.Errorf("%w: %d of %d changes cannot be made while headrace runs", api.ErrRefused, n, len(report.Items))
	}
	if report.Tag == change.Cold {
		for i := range report.Items {
			if x := &report.Items[i]; x.Tag == change.Cold {
				x.Refused = "sockets or memory are made anew for it: drain headrace and start it with this config"
			}
		}
		return report, fmt.Errorf("%w: some changes need a cold start", api.ErrRefused)
	}
	if r.Plan.Group != nil && !alone(report) {
		return report, fmt.Errorf("%w: a box of a group keeps its feeds, queries and sinks while it runs: stop it, change its config, and start it; the other boxes go on meanwhile", api.ErrRefused)
	}
	if a.DryRun {
		return report, nil
	}
	if r.stopping {
		return report, errEnding
	}
	before := r.Setup
	if next.Plan.Hash() != r.Plan.Hash() {
		pause, err := r.hand(&warm{next: next, feeds: c.Feeds, queries: c.Queries})
		if err != nil {
			return report, err
		}
		report.PauseNanos = pause.Nanoseconds()
	} else if !alone(report) {
		r.Setup = next
		if err := r.changeSinks(); err != nil {
			r.Setup = before
			return report, errors.Join(err, r.changeSinks())
		}
	}
	r.Setup, r.applied = next, time.Now()
	r.changeLive(&before)
	r.enforce()
	report.Applied, report.Revision = true, api.Revision(r.Text)
	r.Log.Info("another config is in force", "source", a.Source, "revision", report.Revision, "changes", len(report.Items), "pause", time.Duration(report.PauseNanos))
	return report, nil
}

// alone reports whether nothing changes but what has nothing to do with packets and rows.
func alone(report *change.Report) bool {
	return !slices.ContainsFunc(report.Items, func(x change.Item) bool {
		return x.Object != change.Metrics && x.Object != change.API && x.Object != change.Log
	})
}

// pause takes the packets of a feed, or of all, from the workers, or gives them back.
func (r *control) pause(feed string, yes bool) error {
	names := feedNames(r.Plan)
	if feed != "" && !slices.Contains(names, feed) {
		return unknownFeed(r.Plan, feed)
	}
	if r.stopping {
		return errEnding
	}
	before := slices.Clone(r.paused)
	for _, name := range names {
		if feed != "" && name != feed {
			continue
		}
		r.paused = slices.DeleteFunc(r.paused, func(s string) bool { return s == name })
		if yes {
			r.paused = append(r.paused, name)
		}
	}
	slices.Sort(r.paused)
	if err := r.network.tables.SetFeeds(r.steered(r.Plan)); err != nil {
		r.paused = before
		return err
	}
	r.enforce()
	r.Log.Info("feeds whose packets pass by", "paused", r.paused)
	return nil
}

func feedNames(p *plan.Plan) (names []string) {
	for i := range p.Feeds {
		if f := &p.Feeds[i]; !f.Removed {
			names = append(names, f.Name)
		}
	}
	return names
}

func unknownFeed(p *plan.Plan, name string) error {
	return api.Unknown("the feeds are "+strings.Join(feedNames(p), ", "), "there is no feed %q", name)
}

// steered are the feeds of p as the XDP program is told of them: those that are paused
// have no rules.
func (r *control) steered(p *plan.Plan) []plan.Feed {
	feeds := slices.Clone(p.Feeds)
	for i := range feeds {
		if slices.Contains(r.paused, feeds[i].Name) {
			feeds[i].Rules = nil
		}
	}
	return feeds
}

// setWorkers adds or removes workers and returns how many key groups have another one.
func (r *control) setWorkers(n int) (int, error) {
	switch most := max(r.Plan.WorkersMax, r.Plan.Workers); {
	case n < 1 || n > event.WorkersMax:
		return 0, api.Refuse(fmt.Sprintf("ask for 1 to %d", most), "%d workers", n)
	case n > most:
		return 0, api.Refuse("raise workers_max in the config and start again", "%d workers are more than workers_max %d: sockets and memory are made for no more", n, most)
	case n == r.Plan.Workers:
		return r.counted(r.occupy)
	}
	p := *r.Plan
	p.Workers = n
	next := r.Setup
	next.Plan = &p
	return r.counted(func() error {
		_, err := r.hand(&warm{next: next, feeds: identity(len(p.Feeds)), queries: identity(len(p.Queries))})
		return err
	})
}

// occupy gives key groups to workers that have none: they came, and before they got any,
// control ended.
func (r *control) occupy() error {
	table, err := r.network.tables.Owners()
	if err != nil {
		return err
	}
	for w := range r.Plan.Workers {
		if !slices.Contains(table[:], uint16(w)) {
			want := spread(&table, r.Plan.Workers)
			return r.move(&want)
		}
	}
	return nil
}

// rebalance moves key groups from workers that have much to do to those that have little.
func (r *control) rebalance() (int, error) {
	table, err := r.network.tables.Owners()
	if err != nil {
		return 0, err
	}
	want := r.load.balance(&table, r.Plan.Workers)
	if want == table {
		return 0, nil
	}
	return r.counted(func() error { return r.move(&want) })
}

// moveTo gives key groups to worker to and returns how many have another one then.
func (r *control) moveTo(groups []int, to int) (int, error) {
	if to < 0 || to >= r.Plan.Workers {
		return 0, api.Refuse(fmt.Sprintf("workers are 0 to %d", r.Plan.Workers-1), "there is no worker %d", to)
	}
	want, err := r.network.tables.Owners()
	if err != nil {
		return 0, err
	}
	for _, g := range groups {
		want[g] = uint16(to)
	}
	return r.counted(func() error { return r.move(&want) })
}

// counted makes a change and returns how many key groups have another worker then.
func (r *control) counted(change func() error) (int, error) {
	before, err := r.network.tables.Owners()
	if err != nil {
		return 0, err
	}
	if err := change(); err != nil {
		return 0, err
	}
	r.enforce()
	after, err := r.network.tables.Owners()
	moved := 0
	for g := range after {
		if after[g] != before[g] {
			moved++
		}
	}
	return moved, err
}
