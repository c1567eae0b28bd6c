package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/confine"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/xsk"
)

const (
	// RegionBytes is the address space that each region may use. It costs nothing
	// until it is touched.
	RegionBytes = 1 << 40
	// workerNice is the workers' nice value.
	workerNice = -10
	// heapFuse is how far the Go heap may grow beyond what the start needs before the
	// collector, off otherwise, comes back.
	heapFuse = 256 << 20
)

// process is the data plane.
type process struct {
	conn    *handover.Conn // nil: no control
	start   handover.StartBody
	plan    *plan.Plan
	segment *segment.Segment
	lock    int           // descriptor that says that we live
	pidfd   int           // of the process before this one, which still runs; 0: it does not
	door    int           // a socket to be found by, for the time without a control
	denials int           // where the kernel tells of denied system calls; 0: nowhere
	parts   parts         // what outlives us; nothing with `crash: cold`
	former  former        // another data plane whose state goes on here
	common  *arena.Region // of all workers
	ready   handover.ReadyBody

	owners   []*xsk.Owner
	zeroCopy []bool
	ports    []*xsk.Port
	workers  []*dataplane.Worker
	shared   dataplane.Common
	clock    func() event.Nanos

	begin   chan struct{} // closed: privileges are gone, workers may run
	running atomic.Int32  // workers that have not ended
	stop    atomic.Bool   // drain, for a reason of our own
	over    atomic.Uint64 // holds up to this one have ended with who asked for them
	lost    []atomic.Uint64

	signals chan os.Signal
	unit    *unit // nil: control started us
	pins    pins
	placing
	words string // the last ones of the process before this one
	keeper
}

// Main is the data-plane process. fd is its end of the socket to the control process
// that started it. It returns when every worker has ended and somebody has what they
// put out, or when it cannot go on.
func Main(fd int) error {
	p := newProcess()
	p.conn = handover.New(fd)
	unix.CloseOnExec(fd)
	return p.live(p.receiveStart())
}

func newProcess() *process {
	p := &process{begin: make(chan struct{}), signals: make(chan os.Signal, 1)}
	// Whoever stops headrace sends its signals to both processes; control says what is
	// to be done. Only an orphan listens to them, and a unit, which has a manager.
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	signal.Notify(p.signals, unix.SIGTERM)
	return p
}

// live is the life after the start has come, or has not for some reason.
func (p *process) live(err error) error {
	if err == nil {
		err = p.prepare()
	}
	if err != nil {
		// To control, which tells people; it may be gone.
		if told := p.conn.Send(handover.Refused, handover.RefusedBody{Error: err.Error()}, nil); told != nil && !errors.Is(err, io.EOF) {
			return errors.Join(err, told)
		}
		return nil
	}
	if p.start.Try {
		return p.conn.Send(handover.Ready, p.ready, nil)
	}
	// Confined from here on: what control hears of it comes with the answer.
	p.unit.watch(p.plan.Workers)
	listener, err := confine.Apply(confine.Options{})
	var fds []int
	if err != nil {
		p.ready.Unconfined = err.Error()
	} else {
		p.denials, fds = listener, []int{listener}
	}
	// If control is gone and has given us all that there is to keep, we go on.
	if err := p.tell(handover.Ready, p.ready, fds); err != nil {
		return err
	}
	p.accuse()
	p.provoke()
	close(p.begin)
	return p.keep()
}

// prepare does everything that needs privileges or memory.
func (p *process) prepare() error {
	defer p.unit.busy()()
	// Explicit, so that the runtime does not change it, which would stop the world.
	runtime.GOMAXPROCS(p.plan.Workers + 2)
	p.clock = monotonic()
	if p.start.Try {
		return p.try()
	}
	err := p.succeed()
	if err != nil {
		return err
	}
	if p.common, err = p.sharedRegion(); err != nil {
		return err
	}
	members, err := p.takeSockets()
	if err != nil {
		return err
	}
	if err := p.buildWorkers(members); err != nil {
		return err
	}
	p.settle()
	if err := p.keepLastWords(); err != nil {
		return err
	}
	p.init(p)
	p.ready.Warm = p.ready.Warm || p.common.Warm()
	// Now: later nothing can be opened any more.
	if p.unit != nil {
		p.door = p.unit.door
	} else if p.door, err = handover.Bind(p.start.Dir); err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	if err := dropPrivileges(); err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	p.pins.arm(p.plan.Workers, !p.adaptive(), heapFuse)
	return nil
}

func (p *process) receiveStart() error {
	m, err := p.conn.Expect(handover.Start, &p.start)
	if err != nil {
		return err
	}
	want := 3
	if p.start.Kept != nil {
		want += p.start.Kept.Descriptors() + descriptors(p.start.From)
	}
	if p.start.Former {
		want++
	}
	if len(m.FDs) != want || p.start.Plan == nil || p.start.Kept != nil && p.start.Kept.Regions < p.start.Plan.Workers {
		m.Close()
		return fmt.Errorf("data plane: %w: a start with %d descriptors", handover.ErrPeer, len(m.FDs))
	}
	p.plan, p.lock = p.start.Plan, m.FDs[2]
	if p.start.Former {
		p.pidfd, m.FDs = m.FDs[want-1], m.FDs[:want-1]
	}
	if p.start.Kept != nil {
		n := 3 + p.start.Kept.Descriptors()
		p.parts.take(p.start.Kept, m.FDs[3:n:n])
		p.parts.former = m.FDs[n:]
	}
	p.segment, err = segment.Open(m.FDs[0], m.FDs[1], segment.Data, p.plan)
	return err
}

// takeSockets opens the owners, or takes up those that are there, and returns the members'
// descriptors.
func (p *process) takeSockets() (members []int, err error) {
	// For the UMEM. Without CAP_SYS_RESOURCE it stays as it is, and CAP_IPC_LOCK or the
	// limit must do; the opening says so if neither does.
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited)
	if k := p.start.Kept; k != nil {
		p.zeroCopy = k.ZeroCopy
		p.owners, err = p.adoptOwners()
		return p.parts.members, err
	}
	return p.openSockets()
}

// openSockets opens the owners, gives control their descriptors and receives those of
// the members.
func (p *process) openSockets() (members []int, err error) {
	if p.owners, err = xsk.OpenOwners(p.start.Layout); err != nil {
		return nil, err
	}
	body := handover.OwnersBody{}
	var fds []int
	for _, o := range p.owners {
		why := ""
		if err := o.Fallback(); err != nil {
			why = err.Error()
		}
		body.ZeroCopy, body.Fallback = append(body.ZeroCopy, o.ZeroCopy()), append(body.Fallback, why)
		fds = append(fds, o.FD())
	}
	p.zeroCopy = body.ZeroCopy
	if err := p.conn.Send(handover.Owners, &body, fds); err != nil {
		return nil, err
	}
	m, err := p.conn.Expect(handover.Members, nil)
	if err != nil {
		return nil, err
	}
	return m.FDs, nil
}

// buildWorkers makes workers, each on its own thread, which then waits for begin.
func (p *process) buildWorkers(members []int) error {
	n := p.plan.Workers
	if err := p.openFormer(); err != nil {
		return err
	}
	p.initPlacing()
	p.lost = make([]atomic.Uint64, n)
	p.ports, p.workers = make([]*xsk.Port, n), make([]*dataplane.Worker, n)
	var err error
	if p.shared, err = dataplane.NewCommon(p.plan, p.common); err != nil {
		return err
	}
	if p.start.Owners != nil && !p.common.Warm() {
		*p.shared.Journal.Owner() = *p.start.Owners
	}
	if err := p.common.Complete(dataplane.StateVersion); err != nil {
		return fmt.Errorf("data plane: what the workers share: %w", err)
	}
	built := make(chan error, n)
	p.running.Store(int32(n))
	for w := range n {
		go p.work(w, members, built)
	}
	var errs []error
	for range n {
		errs = append(errs, <-built)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if p.common.Warm() {
		if err := p.shared.Journal.Recover(p.workers); err != nil {
			return err
		}
		if p.shared.Shared != nil {
			dataplane.Recount(p.shared.Shared, p.workers)
		}
	}
	if n > 1 {
		p.ready.Owners = p.shared.Journal.Owner()
	}
	return p.takeOver()
}

// work is a worker's thread.
func (p *process) work(w int, members []int, built chan<- error) {
	runtime.LockOSThread()
	defer func() {
		// Control reads this after we are gone; the stack goes to standard error.
		if r := recover(); r != nil {
			p.fail(w, r)
			panic(r)
		}
	}()
	// A fault of memory is a panic too: it is told, and undone by the next process.
	debug.SetPanicOnFault(true)
	// Before other threads of the machine, where cores are shared. It is a wish: without
	// CAP_SYS_NICE it is not granted.
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), workerNice)
	name(w)
	p.takePlace(w)
	worker, err := p.newWorker(w, members)
	p.workers[w] = worker
	built <- err
	if err != nil {
		return
	}
	<-p.begin
	worker.Live(dataplane.Live{
		Port: p.ports[w], Counters: &p.ports[w].Counters, Mailbox: p.segment, Clock: p.clock,
		Committed: p.ports[w].Committed, Pin: p.pins.of(w), Idle: xsk.Idle{Adaptive: p.adaptive()}, Stop: &p.stop, Over: &p.over, Lost: &p.lost[w],
	})
	p.running.Add(-1)
}

// name names the calling thread, for who looks at the process from outside.
func name(w int) {
	_ = os.WriteFile("/proc/thread-self/comm", fmt.Appendf(nil, "worker %d", w), 0) // without proc it has none
}

func (p *process) newWorker(w int, members []int) (*dataplane.Worker, error) {
	region, err := p.region(w)
	if err != nil {
		return nil, err
	}
	p.readyRegion(w, region)
	c := dataplane.Config{
		Plan: p.plan, Worker: w, Segment: p.segment.Worker(w), Region: region,
		Lanes: p.shared.Lanes, Owner: p.shared.Journal.Owner(), Shared: p.shared.Shared, Rollback: p.start.Kept != nil, Rings: p.former.rings(w),
		Attach: func(rings []uint32) (xsk.Receiver, error) {
			port, err := xsk.NewPort(p.start.Layout, w, p.owners, members, rings)
			p.ports[w] = port
			return port, err
		},
	}
	if w < len(p.start.Resume) {
		if c.Resume = p.start.Resume[w]; len(c.Resume) != len(p.plan.Queries) {
			return nil, fmt.Errorf("data plane: %d watermarks to go on from, the plan has %d queries", len(c.Resume), len(p.plan.Queries))
		}
	}
	worker, err := dataplane.NewWorker(c)
	if err == nil && p.start.Fault && p.segment.Worker(w).State() == segment.Failed {
		worker.LeaveOut()
	}
	return worker, err
}

// adaptive reports whether workers give up their core without work: every worker
// serves every interface, so one that asks for it is enough.
func (p *process) adaptive() bool {
	for i := range p.plan.Interfaces {
		if p.plan.Interfaces[i].Idle != plan.Spin {
			return true
		}
	}
	return false
}

// monotonic returns a reader of CLOCK_MONOTONIC, the clock of the frames' stamps,
// that makes no system call: the runtime's own reading of that clock is the vDSO's,
// and counts from an instant which is found out here, to about a microsecond.
func monotonic() func() event.Nanos {
	var base event.Nanos
	var since time.Time
	best := time.Hour
	for range 16 {
		var ts unix.Timespec
		before := time.Now() //nolint:forbidigo // the process's main brings the clock
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
		if took := time.Since(before); took < best { //nolint:forbidigo // as above
			best, since = took, before
			base = event.Nanos(ts.Nano()).Add(-took / 2)
		}
	}
	return func() event.Nanos { return base.Add(time.Since(since)) } //nolint:forbidigo // as above
}
