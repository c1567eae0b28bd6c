package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/cluster"
	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/xsk"
)

const (
	// dataCommand is the name of the hidden subcommand.
	dataCommand = "dataplane"
	// startWithin bounds each step of a data plane's start. Opening waits up to two
	// seconds for every queue that is still bound.
	startWithin = 30 * time.Second
)

// A generation is one data plane: its process, the segment shared with it, and the
// pump that carries its rows.
type generation struct {
	segment  *segment.Segment
	conn     *handover.Conn
	process  *exec.Cmd // nil: the child of a control before this one, or of a manager
	pid      int
	managed  bool // a service manager's: another user's, and not ours to kill
	layout   xsk.Layout
	zeroCopy []bool // by queue
	stock    *stock // nil: nothing outlives the process
	lives    lives
	done     chan struct{} // closed: nobody listens to the process any more
	opened   []int         // members that were opened for a handover
	pump     *export.Pump
	tap      *cluster.Tap // nil: no group

	cancel context.CancelFunc
	heard  chan *handover.Message // closed when the data plane is gone
	pumped chan error             // one value, when every row is written or nothing more can be
	ended  bool                   // it said that every worker has ended
}

func newGeneration() *generation { return &generation{done: make(chan struct{})} }

// start starts a data plane, whose workers go on from the watermarks in resume, and
// its pump. When it returns, packets could come.
func (r *control) start(resume [][]event.Nanos) (*generation, error) {
	g := newGeneration()
	err := r.startProcess(g, resume)
	if err == nil {
		err = r.startPump(g)
	}
	if err == nil {
		g.listen()
	}
	if err != nil {
		return nil, errors.Join(err, g.abandon())
	}
	return g, nil
}

func (r *control) startProcess(g *generation, resume [][]event.Nanos) (err error) {
	if g.layout, err = layout(r.Plan); err != nil {
		return err
	}
	g.layout.Bind.Copy = g.layout.Bind.Copy || r.network.copies
	if err := g.makeSegment(r.Plan); err != nil {
		return err
	}
	if r.Plan.Crash == plan.Rollback {
		if err := r.stockUp(g); err != nil {
			return err
		}
	}
	_, err = r.launch(g, launch{resume: resume})
	return err
}

// makeSegment makes g's segment, of which this is the first control.
func (g *generation) makeSegment(p *plan.Plan) (err error) {
	if g.segment, err = segment.Create(p); err != nil {
		return err
	}
	if err := g.segment.Restrict(segment.Control); err != nil {
		return err
	}
	g.segment.NextControl()
	g.beat()
	return nil
}

// launch says what is particular about a data plane's start.
type launch struct {
	binary string // "": this one
	resume [][]event.Nanos
	from   *handover.FromBody // another data plane's state, which is in old
	old    *stock
	owners *owners        // nil: by the number of workers
	former *status.Former // the account to keep with the rest; nil: the one that is shown
	fault  bool           // the process before failed: what it had in hand is left out
	try    bool
	after  *generation // whose process runs, and ends as soon as the new one can do without us; nil, or one without a process: none does
}

// launch starts a process for g and returns when its workers run.
func (r *control) launch(g *generation, l launch) (ready handover.ReadyBody, err error) {
	fds := make([]int, 2, 3)
	fds[0], fds[1] = g.segment.FDs()
	beside := l.after != nil && l.after.pid > 0
	if beside && l.after.managed {
		l.after.endProcess() // then the manager starts the next one, and has kept everything
		beside = false
	}
	if !l.try {
		lock, err := r.lockData(beside)
		if err != nil {
			return ready, fmt.Errorf("a data plane of this name lives and answers to nobody: end it, or give another --name: %w", err)
		}
		defer lock.Close() //nolint:errcheck // the data plane has it
		fds = append(fds, int(lock.Fd()))
	} else {
		fds = append(fds, fds[0]) // it holds no lock, and there must be something in its place
	}
	defer r.store.busy()()
	if err := r.spawn(g, l); err != nil {
		return ready, err
	}
	body := handover.StartBody{Plan: r.Plan, Layout: g.layout, Dir: r.folder.path, Resume: l.resume, Former: beside, Fault: l.fault, Try: l.try, From: l.from, Owners: l.owners}
	if err := r.place(&body); err != nil {
		return ready, err
	}
	if g.stock != nil {
		body.Kept = &g.stock.body
		fds = append(fds, g.stock.descriptors()...)
	}
	if l.from != nil {
		fds = append(append(fds, l.old.regions...), l.old.shared)
	}
	if beside {
		fd, err := unix.PidfdOpen(l.after.pid, 0)
		if err != nil {
			return ready, fmt.Errorf("the data plane that runs: %w", os.NewSyscallError("pidfd_open", err))
		}
		defer unix.Close(fd) //nolint:errcheck // the data plane has it
		fds = append(fds, fd)
	}
	if err := g.conn.Send(handover.Start, &body, fds); err != nil {
		return ready, g.explain(err)
	}
	if g.stock != nil && !l.try { // at once: without it, it would end with us
		if _, _, err := r.keepFor(g, r.account(l.former)); err != nil {
			return ready, g.explain(err)
		}
	}
	if beside {
		l.after.endProcess() // the new one does so too, in case that we die here
	}
	if g.stock == nil {
		if err := r.meshSockets(g); err != nil {
			return ready, g.explain(err)
		}
	}
	m, err := g.conn.Expect(handover.Ready, &ready)
	if err != nil {
		return ready, g.explain(err)
	}
	if ready.Owners != nil {
		if err := r.network.setOwners(ready.Owners); err != nil {
			return ready, err
		}
	}
	if !l.try {
		r.watchDenials(m.FDs, ready.Unconfined)
		r.placed(g, ready.Placed)
	}
	return ready, g.conn.Limit(0)
}

// lockData takes the lock of data planes for the next one: where none may live, or beside
// one that does.
func (r *control) lockData(beside bool) (*os.File, error) {
	if beside {
		return r.folder.lock(handover.DataLock, unix.LOCK_SH, lockPatience)
	}
	lock, err := r.folder.lock(handover.DataLock, unix.LOCK_EX, lockPatience)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH); err != nil {
		return nil, errors.Join(os.NewSyscallError("flock", err), lock.Close())
	}
	return lock, nil
}

// account returns the account to hand over: former, if there is one.
func (r *control) account(former *status.Former) status.Former {
	switch {
	case former != nil:
		return *former
	case r.figures.source != nil:
		return r.figures.source.Account()
	}
	return status.Former{}
}

// stockUp opens g's sockets and memory and puts the sockets where the programs find
// them.
func (r *control) stockUp(g *generation) (err error) {
	if g.stock, err = openStock(g.layout); err != nil {
		return err
	}
	if err := r.network.setSockets(g.layout, g.stock.owners, g.stock.members); err != nil {
		return err
	}
	r.granted(g, g.stock.body.ZeroCopy, g.stock.body.Fallback)
	return nil
}

// granted notes how the sockets were bound.
func (r *control) granted(g *generation, zeroCopy []bool, fallback []string) {
	g.zeroCopy = zeroCopy
	if !r.network.copies && !slices.Contains(zeroCopy, true) {
		r.network.copies = true
		r.Log.Info("frames are copied: the driver grants no zero-copy", "reason", fallback[0])
	}
}

// A spawned is a data-plane process that waits for its start.
type spawned struct {
	conn    *handover.Conn
	process *exec.Cmd // nil: a service manager's
	pid     int
}

// spawn starts a binary, this same one if none is named, as a data plane, in a session
// of its own: signals of the terminal are not for it, and it outlives us.
func spawn(binary string) (*spawned, error) {
	conn, end, err := handover.Pair()
	if err != nil {
		return nil, err
	}
	defer end.Close() //nolint:errcheck // the child has it
	const first = 3   // descriptor of the first of ExtraFiles
	c := exec.Command(cmp.Or(binary, "/proc/self/exe"), dataCommand, strconv.Itoa(first))
	c.Args[0] = os.Args[0]
	c.ExtraFiles = []*os.File{end}
	c.Stderr = os.Stderr
	// Nobody is to be interrupted by a signal of the Go runtime: workers that spin must
	// not, and the others reach a function's begin often enough.
	c.Env = append(os.Environ(), "GODEBUG="+strings.TrimPrefix(os.Getenv("GODEBUG")+",asyncpreemptoff=1", ","))
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the data plane: %w", err), conn.Close())
	}
	return &spawned{conn, c, c.Process.Pid}, nil
}

// discard ends a process that was not needed.
func (s *spawned) discard() {
	if s == nil {
		return
	}
	_ = s.conn.Close()
	if s.process == nil {
		return // it waits for another control
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

// spawn gives g a process: the manager's, or one of a binary that is named, else the spare
// one, if there is one that lives. A trial is always a child.
func (r *control) spawn(g *generation, l launch) (err error) {
	s, binary := r.spare, l.binary
	if r.DataSocket != "" && !l.try {
		if r.spare = nil; s == nil {
			if s, err = r.reach(nil); err != nil {
				return err
			}
		}
	} else if binary != "" || s == nil || s.process.Process.Signal(syscall.Signal(0)) != nil {
		if s, err = spawn(cmp.Or(binary, r.binary)); err != nil {
			return err
		}
	} else {
		r.spare = nil
	}
	g.conn, g.process, g.pid, g.managed = s.conn, s.process, s.pid, s.process == nil
	return g.conn.Limit(startWithin)
}

// prepareSpare has a process ready for when the data plane dies: it takes the rings less
// time to fill than a busy machine to start a program.
func (r *control) prepareSpare(g *generation) {
	if r.spare != nil || g.stock == nil || r.DataSocket != "" {
		return
	}
	s, err := spawn(r.binary)
	if err != nil {
		r.Log.Warn("no spare process for the data plane", "error", err)
		return
	}
	r.spare = s
}

// meshSockets takes the owners' sockets from the data plane, opens the members, puts
// all where the programs find them and gives the members to the data plane. It keeps
// none of them: a socket that is open here would keep its queue bound after the data
// plane has died.
func (r *control) meshSockets(g *generation) error {
	var body handover.OwnersBody
	m, err := g.conn.Expect(handover.Owners, &body)
	if err != nil {
		return err
	}
	defer m.Close()
	if len(body.ZeroCopy) != len(m.FDs) || len(body.Fallback) != len(m.FDs) {
		return handover.ErrPeer
	}
	members, err := xsk.OpenMembers(g.layout, m.FDs)
	if err != nil {
		return err
	}
	defer closeAll(members)
	if err := r.network.setSockets(g.layout, m.FDs, members); err != nil {
		return err
	}
	r.granted(g, body.ZeroCopy, body.Fallback)
	return g.conn.Send(handover.Members, nil, members)
}

// explain adds to an error of the start how the process ended, if it did.
func (g *generation) explain(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	if state := g.reap(); state != "" {
		return fmt.Errorf("the data plane ended during its start: %s: %w", state, err)
	}
	return fmt.Errorf("the data plane ended during its start: %w", err)
}

// reap waits for the process, whose end is certain, and says how it ended.
func (g *generation) reap() string {
	if g.process == nil {
		return ""
	}
	if g.process.ProcessState == nil {
		_ = g.process.Wait() // its state says more than the error
	}
	return g.process.ProcessState.String()
}

// startPump opens the sinks and lets rows flow.
func (r *control) startPump(g *generation) error {
	values, err := replay.Values(r.Plan)
	if err != nil {
		return err
	}
	sinks, err := r.OpenSinks(&r.Setup, g.segment)
	if err != nil {
		return err
	}
	c := export.Config{Plan: r.Plan, Segment: g.segment, Values: values, Sinks: sinks, Log: r.Log}
	if r.peers != nil {
		g.tap = r.peers.cluster.Tap(cluster.GenerationOf(r.Plan, g.segment))
		c.Tap = g.tap
	}
	if g.pump, err = export.NewPump(c); err != nil {
		return err
	}
	if r.peers != nil {
		r.peers.pump.Store(g.pump)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	pump, pumped := g.pump, make(chan error, 1)
	g.pumped = pumped
	go func() {
		defer close(pumped)
		pumped <- pump.Run(ctx)
	}()
	return nil
}

// endPump ends the pump where it is: another one goes on from there.
func (g *generation) endPump() {
	if g.cancel == nil {
		return
	}
	g.cancel()
	for range g.pumped {
	}
	g.cancel = nil
}

// listen begins to pass on what the process says, until it is gone.
func (g *generation) listen() {
	heard, conn := make(chan *handover.Message), g.conn
	g.heard = heard
	go func() {
		defer close(heard)
		for {
			m, err := conn.Receive()
			if err != nil {
				return
			}
			m.Close() // nothing that it says from now on comes with descriptors
			select {
			case heard <- m:
			case <-g.done:
				return
			}
		}
	}()
}

// beat tells the data plane the time, and that we live.
func (g *generation) beat() {
	now, offset := clocks()
	g.segment.SetHeartbeat(uint64(now))
	if d := offset - g.segment.UTCOffset(); d > offsetStep || d < -offsetStep {
		g.segment.SetUTCOffset(offset)
	}
}

// offsetStep is the error of the offset to UTC that is not worth a change of it.
const offsetStep = 20 * time.Microsecond

// clocks returns CLOCK_MONOTONIC and what to add to it to get UTC.
func clocks() (now event.Nanos, offset time.Duration) {
	best := int64(time.Hour)
	for range 8 {
		var before, utc, after unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &before) // these clocks are always there
		_ = unix.ClockGettime(unix.CLOCK_REALTIME, &utc)
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &after)
		if took := after.Nano() - before.Nano(); took < best {
			best, now = took, event.Nanos(after.Nano())
			offset = time.Duration(utc.Nano() - before.Nano() - took/2)
		}
	}
	return now, offset
}

// kill ends the process, now. It asks nothing of the workers by the segment: the next
// process's would hear it too.
func (g *generation) kill() {
	if g.managed {
		_ = g.conn.Send(handover.End, nil, nil) // likewise
	} else if g.pid > 0 {
		_ = unix.Kill(g.pid, unix.SIGKILL) // it may have ended
	}
}

// abandon ends a generation that did not get going.
func (g *generation) abandon() error {
	if g.pid > 0 {
		g.kill()
		_ = g.reap()
	}
	return g.close()
}

// close lets go of a generation whose process has ended, and of everything that is
// mapped of it.
func (g *generation) close() error {
	var errs []error
	close(g.done)
	g.endPump()
	if g.conn != nil {
		g.conn.Shutdown()
		if g.heard != nil {
			for range g.heard {
			}
		}
		errs = append(errs, g.conn.Close())
	}
	if g.tap != nil {
		g.tap.End() // it reads the segment no more
	}
	if g.segment != nil {
		errs = append(errs, g.segment.Close())
	}
	g.stock.close()
	return errors.Join(errs...)
}

// watermarks returns how far each worker's queries had come.
func (g *generation) watermarks(workers, queries int) [][]event.Nanos {
	all := make([][]event.Nanos, workers)
	for w := range all {
		for q := range queries {
			t := g.segment.Worker(w).Watermark(q)
			if t == 0 {
				t = event.MinNanos // it had none
			}
			all[w] = append(all[w], t)
		}
	}
	return all
}

// failures returns what workers said when they failed.
func (g *generation) failures(workers int) (texts []string) {
	for w := range workers {
		if text := g.segment.Worker(w).Failure(); text != "" {
			texts = append(texts, fmt.Sprintf("worker %d: %s", w, text))
		}
	}
	return texts
}
