package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/segment"
)

// errCold reports that a data plane's state cannot be gone on with.
var errCold = errors.New("state cannot be kept")

// fruitlessMax is how many data planes in a row may die without a frame received
// between them before it is tried without their state.
const fruitlessMax = 20

// lives is what is known of the processes that a generation has had.
type lives struct {
	warm      uint64        // times that one took over from another
	frames    uint64        // received when the last one began
	fruitless int           // in a row
	pause     time.Duration // of the last time
	since     time.Time     // when the last one began
}

// revive starts a process over what g's dead one was made of, which goes on where that
// was: nothing is lost but what finds no room in the rings meanwhile. The segment, and
// so the pump, do not notice.
func (r *control) revive(g *generation) error {
	began := time.Now()
	if g.stock == nil {
		return errCold
	}
	state, fault := g.deathOf(r.Plan.Workers)
	fault = fault || r.folder.hasWords()
	g.process = nil // it has been waited for, or is
	text := g.failures(r.Plan.Workers)
	if fault {
		r.Log.Error("the data plane failed", "pid", g.pid, "state", state, "failure", text)
		if _, may := r.faults.next(time.Now()); !may {
			r.down = fmt.Errorf("%w by its own fault %d times within %v, the last time: %s", ErrDied, faultsMax+1, restartWindow, cmp.Or(strings.Join(text, "; "), state))
			return r.down
		}
	} else {
		r.Log.Warn("the data plane was ended from outside", "pid", g.pid, "state", state)
	}
	frames := g.received(r.Plan.Workers)
	if g.lives.fruitless++; frames > g.lives.frames {
		g.lives.fruitless = 0
	}
	g.lives.frames = frames
	if g.lives.fruitless >= fruitlessMax {
		return fmt.Errorf("%w: %d data planes in a row ended before they received a frame", errCold, g.lives.fruitless+1)
	}
	if err := r.takeOver(g, launch{fault: fault}, began); err != nil {
		return err
	}
	r.handOver(g, r.figures.source.Takeover())
	return nil
}

// launchesMax is how often in a row the start of a process may be cut short.
const launchesMax = 4

// takeOver starts a process in the place of g's last one, which has ended or is l.after's.
func (r *control) takeOver(g *generation, l launch, began time.Time) error {
	if g.conn != nil { // else what was kept goes on
		if err := g.conn.Close(); err != nil {
			return err
		}
	}
	ready, err := r.launch(g, l)
	for tries := 1; err != nil && absent(err) && tries < launchesMax; tries++ {
		r.Log.Warn("the data plane ended while it was started, and is started again", "error", err)
		_ = g.conn.Close()
		ready, err = r.launch(g, l)
	}
	if err == nil && !ready.Warm {
		err = errors.New("the data plane found no state")
	}
	if err != nil {
		if g.pid > 0 {
			g.kill()
			_ = g.reap()
		}
		return fmt.Errorf("%w: %w", errCold, err)
	}
	g.listen()
	g.lives.warm++
	g.lives.since = time.Now()
	g.lives.pause = g.lives.since.Sub(began)
	r.Log.Info("the data plane goes on where it was", "data_plane", g.pid, "takeovers", g.lives.warm, "within", g.lives.pause)
	return nil
}

// handOver lets the data plane, and the service manager, keep everything for who comes
// after us.
func (r *control) handOver(g *generation, former status.Former) {
	text, fds, err := r.keepFor(g, former)
	if err != nil {
		r.Log.Error("the data plane took nothing to keep", "error", err)
		return
	}
	if err := r.store.put(g, text, fds); err != nil {
		r.Log.Error("the service manager keeps nothing: if both processes end, state is lost", "error", err)
	}
}

// keepFor has g's process keep what the next control needs, and returns what that is.
func (r *control) keepFor(g *generation, former status.Former) (text []byte, fds []int, err error) {
	if text, fds, err = r.network.describe(former, &r.Setup, r.paused); err != nil {
		return nil, nil, err
	}
	return text, fds, g.conn.Send(handover.Keep, handover.KeepBody{Description: text}, fds)
}

// statusWithin is how long the kernel may take to say how a process ended that has closed
// everything: no thread of it runs any more, so that nothing else has to wait.
const statusWithin = 20 * time.Millisecond

// deathOf says how g's process ended, as far as that is known already, and whether it was
// by its own fault.
func (g *generation) deathOf(workers int) (state string, fault bool) {
	for w := range workers {
		fault = fault || g.segment.Worker(w).State() == segment.Failed
	}
	process := g.process
	if process == nil {
		return "ended", fault // nobody but its parent knows more
	}
	done := make(chan struct{})
	go func() {
		_ = process.Wait() // its state says more than the error
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(statusWithin):
		return "ended", fault
	}
	status, ok := process.ProcessState.Sys().(syscall.WaitStatus)
	outside := ok && status.Signaled() && (status.Signal() == unix.SIGKILL || status.Signal() == unix.SIGTERM)
	return process.ProcessState.String(), fault || !outside
}

// received is how many frames the workers have had.
func (g *generation) received(workers int) (n uint64) {
	for w := range workers {
		n += g.segment.Worker(w).Frames()
	}
	return n
}

// binaryOf checks that path can be executed.
func binaryOf(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is no executable file", path)
	}
	return nil
}

// upgrade puts a process of another binary, or of this one as it is now, in the place of
// the running one. State and windows go on. It is refused, and nothing is done, if that
// binary could not go on with the state, or if the rings cannot hold what comes meanwhile.
func (r *control) upgrade(u api.Upgrade) (up api.Upgraded, err error) {
	g := r.g
	switch {
	case g.stock == nil:
		return up, api.Refuse("stop and start it", "with `crash: cold` nothing outlives the data plane")
	case r.stopping:
		return up, errEnding
	}
	binary := u.Binary
	if binary != "" && r.DataSocket != "" {
		return up, api.Refuse("put the new binary in the place of the old one, and name none", "the data plane is started by the service manager, from what its unit names")
	}
	if binary == "" {
		if binary, err = os.Executable(); err != nil {
			return up, fmt.Errorf("upgrade: %w", err)
		}
		binary = strings.TrimSuffix(binary, " (deleted)") // it may have been replaced
	}
	if err := binaryOf(binary); err != nil {
		return up, fmt.Errorf("%w: %w", api.ErrUnknown, err)
	}
	up.From, up.To = versionOf(cmp.Or(r.binary, "/proc/self/exe")), versionOf(binary)
	trial := &generation{segment: g.segment, layout: g.layout, stock: g.stock}
	_, err = r.launch(trial, launch{binary: binary, try: true})
	if err != nil {
		trial.kill() // it may be anything, and stay
	}
	_ = trial.reap()
	if trial.conn != nil {
		err = errors.Join(err, trial.conn.Close())
	}
	if err != nil {
		return up, api.Refuse("drain headrace and start the new binary: windows that are open are then fired or discarded, as on_stop says",
			"%s cannot go on with the state of the running data plane: %v", binary, err)
	}
	up.BudgetNanos = r.budget.holds().Nanoseconds()
	if err := r.affordable(); err != nil && !u.Anyway {
		return up, fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	began, old := time.Now(), *g
	g.conn, g.process, g.pid = nil, nil, 0
	if err := r.takeOver(g, launch{after: &old, binary: binary}, began); err != nil {
		if old.pid > 0 { // it goes on
			if g.conn != nil {
				err = errors.Join(err, g.conn.Close())
			}
			g.conn, g.process, g.pid = old.conn, old.process, old.pid
		}
		return up, err
	}
	r.binary = binary
	r.spare.discard()
	r.spare = nil
	r.handOver(g, r.figures.source.Takeover())
	up.Warm, up.PauseNanos = true, g.lives.pause.Nanoseconds()
	return up, nil
}

// versionOf asks a binary for its version.
func versionOf(binary string) string {
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "version").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// stayDown leaves the packets to the network stack and everything else as it is, so that
// people can see what happened, until the run is asked to end.
func (r *control) stayDown(ctx context.Context) error {
	r.Log.Error("the data plane is not started again; packets go to the network stack", "error", r.down)
	err := r.network.detach()
	r.stopping = true
	r.showContinuity(r.g)
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		select {
		case <-beat.C:
			r.store.alive()
		case <-ctx.Done():
			return errors.Join(r.down, err)
		case s := <-r.signals:
			if s == unix.SIGHUP {
				r.Log.Error("the config stays as it was", "error", r.down)
				break
			}
			return errors.Join(r.down, err)
		case a := <-r.asks:
			a.answer <- fmt.Errorf("the data plane is down: %w", r.down)
		}
	}
}

// stallAfter is how long a worker may give no sign of life before its process is ended,
// to be started again where it was.
const stallAfter = 10 * time.Second

// endStalled ends a data plane of which a worker has stood still for too long.
func (r *control) endStalled(g *generation) {
	if g.stock == nil {
		return // what is ended is lost
	}
	now, _ := clocks()
	for w := range r.Plan.Workers {
		beat := g.segment.Worker(w).Heartbeat()
		if beat == 0 || g.segment.Worker(w).State().Final() {
			continue
		}
		if stood := time.Duration(now) - time.Duration(beat); stood > stallAfter && time.Since(g.lives.since) > stallAfter {
			r.Log.Error("a worker stands still: its process is ended and started again", "worker", w, "for", stood)
			g.kill()
			return
		}
	}
}
