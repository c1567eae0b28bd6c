package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
)

// A Setup is a config and what was made of it.
type Setup struct {
	// Config is nil where only a plan is known.
	Config *config.Config
	// Plan is the work. It names at least one interface.
	Plan *plan.Plan
	// Text is the config as it was written, Source where.
	Text   []byte
	Source string
}

// keepWorkers gives s the number of workers that there are, where its config asks for no
// other than that of the setup in force: some may have been added since.
func (s *Setup) keepWorkers(old *Setup) {
	if s.Config.Workers == old.Config.Workers && s.Plan.WorkersMax == old.Plan.WorkersMax {
		p := *s.Plan
		p.Workers = old.Plan.Workers
		s.Plan = &p
	}
}

// Config says what to run.
type Config struct {
	// Setup is what to begin with. Required.
	Setup
	// Compile makes a setup of another config, with everything that the command line adds.
	// Required.
	Compile func(text []byte, source string) (Setup, error)
	// OpenSinks opens the sinks of a setup for the data plane whose segment is given.
	// Required.
	OpenSinks func(*Setup, *segment.Segment) ([]export.Sink, error)
	// DataSocket is where a service manager listens for the data plane, which it starts,
	// and starts again; "": it is a child of this process.
	DataSocket string
	// Level is the least that Log logs; nil: it cannot be changed.
	Level *slog.LevelVar
	Log   *slog.Logger
	// Ledger gets the ledger at the end.
	Ledger io.Writer
}

// What ends a run in an error.
var (
	// ErrKilled reports a run that a second signal ended at once.
	ErrKilled = errors.New("stopped at once: windows that were open and rows that were not written are lost")
	// ErrDied reports a data plane that died too often, or while it drained.
	ErrDied = errors.New("the data plane died")
)

const beatEvery = time.Second

// control is the control process.
type control struct {
	Config
	folder  *folder
	network *network
	figures figures
	g       *generation
	policy  policy // restarts that lose state
	faults  policy // data planes that failed by themselves
	budget  budget
	store   *store
	spare   *spawned // a data plane in waiting
	binary  string   // what data planes are started from; "": this one
	peers   *peers   // nil: no group
	asks    chan ask
	api     *api.Server
	applied time.Time // when Setup was put in force
	force   atomic.Pointer[force]
	paused  []string // feeds
	load    load
	noSinks bool          // rows wait, and this has been said
	auto    bool          // groups are moved when it is worth it
	over    chan struct{} // closed: nothing more can be asked
	shown   atomic.Pointer[status.Continuity]

	signals   chan os.Signal
	asked     int    // signals so far
	wanted    *Setup // what this process was started with, if another one is in force
	adopted   bool   // the first data plane was there before us
	left      bool   // the data plane goes on without us
	stopping  bool   // packets go elsewhere, workers drain
	failure   error
	down      error    // why the data plane is not started again
	seated    *seating // nil: nobody has asked yet
	seatedFor string
	recorders atomic.Pointer[recorders]
	placement atomic.Pointer[status.Placement]
	poison    string // file of the last frame that a worker failed at
}

// Run starts or adopts the data plane of the plan's name and stays until it has
// ended: because ctx ends or a signal asks for it, or because something failed. Every
// row has been written when it returns nil.
//
// The error wraps [status.ErrRunning] if another control process has the name.
func Run(ctx context.Context, c Config) error {
	r := &control{
		Config: c, signals: make(chan os.Signal, 4), asks: make(chan ask), over: make(chan struct{}),
		policy: policy{most: restartsMax}, faults: policy{most: faultsMax}, applied: time.Now(),
	}
	signal.Notify(r.signals, unix.SIGINT, unix.SIGTERM, unix.SIGUSR2)
	if !signal.Ignored(unix.SIGHUP) { // as nohup has it
		signal.Notify(r.signals, unix.SIGHUP)
	}
	defer signal.Stop(r.signals)
	// A reader of standard output that has gone is an error of that sink.
	signal.Ignore(unix.SIGPIPE)
	defer signal.Reset(unix.SIGPIPE)
	err := checkPrivileges()
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	if r.folder, err = openFolder(c.Plan.Name); err != nil {
		return err
	}
	defer r.folder.close()
	if r.store, err = openStore(); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	defer r.store.close()
	if c.Plan.Group != nil {
		if r.peers, err = joinGroup(c.Config.Group, c.Plan, c.Log); err != nil {
			return fmt.Errorf("run: %w", err)
		}
	}
	if err = r.begin(); err == nil {
		if err = r.live(ctx); !errors.Is(err, ErrKilled) && !r.left {
			r.printLedger()
		}
		if !r.left { // nothing is open any more
			err = errors.Join(err, r.store.forget())
		}
	}
	close(r.over)
	err = errors.Join(err, r.end())
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}

// begin gets a data plane, adopted or new, and lets packets come.
func (r *control) begin() error {
	asked := r.Setup
	g, former, err := r.adopt()
	if err == nil && g == nil {
		if g, former, err = r.resume(); errors.Is(err, errCold) {
			r.Log.Error("what the service manager kept is dropped: windows that were open are lost", "error", err)
			g, former, err = nil, status.Former{}, r.store.forget()
		}
		if g != nil {
			former.Takeovers++
		}
	}
	if err != nil {
		return err
	}
	r.store.drop()
	if g != nil {
		r.Log.Info("took over the running data plane", "pid", g.pid, "name", r.Plan.Name)
		// A stop that the control before us began is carried through; a hold ends.
		r.stopping, r.adopted = g.segment.Command() > segment.HoldPast, true
	} else {
		// What was found and not taken has changed nothing.
		r.Setup, r.wanted, r.paused = asked, nil, nil
		if _, err := layout(r.Plan); err != nil {
			return err // before anything is made
		}
		if r.network, err = openNetwork(r.Plan, r.Log); err != nil {
			return err
		}
		if g, err = r.start(nil); err != nil {
			return err
		}
	}
	r.g = g
	if err := r.open(former); err != nil {
		if r.adopted {
			return err // the data plane goes on, and may be better off with the next control
		}
		return errors.Join(err, r.giveUp())
	}
	if r.adopted {
		r.mend(g)
	}
	if !r.stopping {
		r.network.watchLinks()
		r.catchUp()
		r.store.ready("receiving")
		r.Log.Info("receiving", "name", r.Plan.Name, "workers", r.Plan.Workers, "data_plane", g.pid)
	}
	return nil
}

// open lets packets come and figures be asked for.
func (r *control) open(former status.Former) error {
	if !r.stopping {
		if err := r.network.attach(); err != nil {
			return err
		}
	}
	r.show(r.g, former)
	r.handOver(r.g, former)
	return r.serve()
}

// live watches data planes, one after the other, until the run is over.
func (r *control) live(ctx context.Context) error {
	for {
		died, err := r.watch(ctx)
		if err != nil || !died {
			return errors.Join(r.failure, err)
		}
		if r.down != nil {
			return r.stayDown(ctx)
		}
		if err := r.restart(ctx); err != nil {
			return errors.Join(r.failure, err)
		}
		if r.g == nil {
			return r.failure // stopped between two data planes
		}
	}
}

// watch stays with the data plane until its process is gone and its rows are written.
// It reports whether it died.
func (r *control) watch(ctx context.Context) (died bool, err error) {
	g := r.g
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	stop, heard, pumped := ctx.Done(), g.heard, g.pumped
	var failed chan error // nil: no group
	if r.peers != nil {
		failed = r.peers.failed
	}
	follow := func() { // there may be another process, and another pump
		if g != r.g || heard != nil {
			g = r.g
			heard, pumped = g.heard, g.pumped
		}
	}
	for heard != nil || pumped != nil {
		select {
		case <-stop:
			stop = nil
			r.stop("asked to stop")
		case s := <-r.signals:
			if over, err := r.heed(s); over {
				return false, err
			}
			follow()
		case m, ok := <-heard:
			if !ok {
				heard = r.gone(g)
				break
			}
			r.hear(m)
		case a := <-r.asks:
			done := r.store.busy()
			a.answer <- a.do()
			done()
			follow()
		case err := <-pumped:
			pumped = nil
			if err != nil {
				// A sink that can never go on: nobody takes the rows.
				return false, errors.Join(err, r.giveUp())
			}
		case err := <-failed: // there would be no global rows any more
			r.failure = cmp.Or(r.failure, fmt.Errorf("group: %w", err))
			r.stop(err.Error())
		case <-beat.C:
			r.tick(g)
			if heard != nil {
				r.lookAtLoad(g)
				follow()
			}
		}
	}
	state := g.reap()
	switch {
	case g.ended && r.stopping && g.cancel == nil:
		return false, errors.New("the last rows are lost: no sink could be opened that takes them")
	case g.ended && r.stopping:
		return false, nil
	case g.ended:
		return false, fmt.Errorf("%w: it ended unasked", ErrDied)
	}
	text := strings.Join(g.failures(r.Plan.Workers), "; ")
	if g.stock == nil { // else it has been said
		r.Log.Error("the data plane died", "pid", g.pid, "state", state, "failure", text)
	}
	if r.stopping {
		return false, fmt.Errorf("%w while it drained: rows of open windows are lost %s", ErrDied, text)
	}
	return true, nil
}

// tick is what is done every second.
func (r *control) tick(g *generation) {
	g.beat()
	r.store.alive()
	r.budget.look(g, r.Plan.Workers)
	r.showContinuity(g)
	r.reopenSinks(g)
	r.endStalled(g)
	r.prepareSpare(g)
	if r.peers != nil {
		r.peers.beat(time.Now())
	}
	if !r.stopping {
		r.network.watchLinks()
	}
}

// heed does what a signal asks for, and reports whether this process ends at once.
func (r *control) heed(s os.Signal) (over bool, err error) {
	switch {
	case s == unix.SIGHUP:
		done := r.store.busy()
		r.reload()
		done()
		return false, nil
	case s == unix.SIGUSR2 && r.stopping:
		return false, nil // what is open is being finished
	case s == unix.SIGUSR2 && r.leave(r.g):
		return true, nil
	}
	if r.asked++; r.asked > 1 {
		return true, errors.Join(ErrKilled, r.giveUp())
	}
	r.stop(s.String())
	return false, nil
}

// gone is called when g's process has gone, and returns where the next one is heard; nil
// if there is none, and then the pump takes what is left.
func (r *control) gone(g *generation) chan *handover.Message {
	if !g.ended {
		err := r.revive(g)
		if err == nil {
			return g.heard
		}
		if g.stock != nil {
			r.Log.Error("the data plane cannot go on where it was", "error", err)
		}
	}
	g.pump.Finish()
	return nil
}

// hear acts on what the data plane says.
func (r *control) hear(m *handover.Message) {
	switch m.Kind {
	case handover.Ended:
		r.g.ended = true
	case handover.Poison:
		var b handover.PoisonBody
		if m.Decode(&b) == nil {
			r.poisoned(&b)
		}
	case handover.Lost:
		var b handover.LostBody
		if m.Decode(&b) == nil && r.failure == nil {
			r.failure = fmt.Errorf("interface %q went away: %q; start again when it is back", b.Interface, b.Error)
			r.stop(r.failure.Error())
		}
	}
}

// reload puts the config file in force as it is now.
func (r *control) reload() {
	text, err := os.ReadFile(r.Source)
	if err == nil {
		err = r.store.reloading()
	}
	if err == nil {
		_, err = r.apply(&api.Application{Text: text, Source: r.Source})
	}
	if err != nil {
		r.Log.Error("the config stays as it was", "source", r.Source, "error", err)
	}
	r.store.ready("receiving")
}

// leave reports whether this process can end alone.
func (r *control) leave(g *generation) bool {
	if g.stock == nil {
		return false
	}
	r.Log.Info("leaving: the data plane goes on without a control", "for", r.Plan.OrphanTimeout)
	r.left = true
	return true
}

// stop lets packets go elsewhere and then asks the workers to finish. A second call
// does nothing.
func (r *control) stop(why string) {
	if r.stopping {
		return
	}
	r.stopping = true
	r.store.stopping("finishing what is open")
	r.Log.Info("stopping: what is open is finished first; another signal stops at once", "reason", why)
	if err := r.network.detach(); err != nil {
		r.Log.Warn("packets may still be taken from the interface", "error", err)
	}
	command := segment.Drain
	if !r.Plan.Flush {
		command = segment.Discard
	}
	r.g.segment.SetCommand(command)
	if r.peers != nil {
		r.peers.drain()
	}
}

// giveUp ends the data plane at once.
func (r *control) giveUp() error {
	r.stopping = true
	err := r.network.detach()
	if r.g != nil {
		r.g.kill()
		_ = r.g.reap()
	}
	return err
}

// printLedger shows what became of everything.
func (r *control) printLedger() {
	if r.Ledger == nil || r.figures.source == nil {
		return
	}
	report := status.NewReport(nil, r.figures.source.Snapshot())
	if err := report.Write(r.Ledger); err != nil {
		r.Log.Warn("the ledger could not be printed", "error", err)
	}
}

// end lets go of everything.
func (r *control) end() error {
	r.figures.close()
	r.spare.discard()
	if x := r.recorders.Swap(nil); x != nil {
		x.leave(true)
	}
	var errs []error
	if r.g != nil {
		errs = append(errs, r.g.close())
	}
	if r.peers != nil {
		errs = append(errs, r.peers.close())
	}
	return errors.Join(append(errs, r.dropNetwork())...)
}
