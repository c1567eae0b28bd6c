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
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/window"
	"github.com/headrace/headrace/dataplane/xsk"
)

const (
	// regionBytes is the address space that each region may use. It costs nothing
	// until it is touched.
	regionBytes = 1 << 40
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
	lock    int // descriptor that says that we live

	owners   []*xsk.Owner
	zeroCopy []bool
	ports    []*xsk.Port
	lanes    [][]*exchange.Lane
	shared   *window.Shared
	owner    [event.GroupCount]uint16
	clock    func() event.Nanos

	begin   chan struct{} // closed: privileges are gone, workers may run
	running atomic.Int32  // workers that have not ended
	stop    atomic.Bool   // drain, for a reason of our own
	lost    []atomic.Uint64

	signals chan os.Signal
	keeper
}

// Main is the data-plane process. fd is its end of the socket to the control process
// that started it. It returns when every worker has ended and somebody has what they
// put out, or when it cannot go on.
func Main(fd int) error {
	p := &process{conn: handover.New(fd), begin: make(chan struct{}), signals: make(chan os.Signal, 1)}
	unix.CloseOnExec(fd)
	// Whoever stops headrace sends its signals to both processes; control says what is
	// to be done. Only an orphan listens to them.
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	signal.Notify(p.signals, unix.SIGTERM)
	if err := p.prepare(); err != nil {
		// To control, which tells people; it may be gone.
		if told := p.conn.Send(handover.Refused, handover.RefusedBody{Error: err.Error()}, nil); told != nil && !errors.Is(err, io.EOF) {
			return errors.Join(err, told)
		}
		return nil
	}
	close(p.begin)
	if err := p.conn.Send(handover.Ready, nil, nil); err != nil {
		return err
	}
	return p.keep()
}

// prepare does everything that needs privileges or memory.
func (p *process) prepare() error {
	if err := p.receiveStart(); err != nil {
		return err
	}
	// Explicit, so that the runtime does not change it, which would stop the world.
	runtime.GOMAXPROCS(p.plan.Workers + 2)
	p.clock = monotonic()
	members, err := p.openSockets()
	if err != nil {
		return err
	}
	if err := p.buildWorkers(members); err != nil {
		return err
	}
	p.init(p)
	if err := dropPrivileges(); err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	runtime.GC()
	debug.SetGCPercent(-1)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	debug.SetMemoryLimit(int64(m.Sys) + heapFuse)
	return nil
}

func (p *process) receiveStart() error {
	m, err := p.conn.Expect(handover.Start, &p.start)
	if err != nil {
		return err
	}
	if len(m.FDs) != 3 || p.start.Plan == nil {
		m.Close()
		return fmt.Errorf("data plane: %w: a start with %d descriptors", handover.ErrPeer, len(m.FDs))
	}
	p.plan, p.lock = p.start.Plan, m.FDs[2]
	p.segment, err = segment.Open(m.FDs[0], m.FDs[1], segment.Data, p.plan)
	return err
}

// openSockets opens the owners, gives control their descriptors and receives those of
// the members.
func (p *process) openSockets() (members []int, err error) {
	// For the UMEM. Without CAP_SYS_RESOURCE it stays as it is, and CAP_IPC_LOCK or the
	// limit must do; the opening says so if neither does.
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited)
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

// buildWorkers makes ports and workers, each of these on its own thread, which then
// waits for begin.
func (p *process) buildWorkers(members []int) error {
	n := p.plan.Workers
	p.owner = steer.OwnerTable(n)
	p.lost = make([]atomic.Uint64, n)
	for w := range n {
		port, err := xsk.NewPort(p.start.Layout, w, p.owners, members, nil)
		if err != nil {
			return err
		}
		p.ports = append(p.ports, port)
	}
	if n > 1 {
		region, err := arena.New("headrace lanes", regionBytes)
		if err != nil {
			return err
		}
		if p.lanes, err = dataplane.NewLanes(p.plan, region); err != nil {
			return err
		}
		allowance, err := arena.New("headrace allowance", regionBytes)
		if err != nil {
			return err
		}
		if p.shared, err = window.NewShared(allowance, len(p.plan.Queries)); err != nil {
			return err
		}
	}
	built := make(chan error, n)
	p.running.Store(int32(n))
	for w := range n {
		go p.work(w, built)
	}
	var errs []error
	for range n {
		errs = append(errs, <-built)
	}
	return errors.Join(errs...)
}

// work is a worker's thread.
func (p *process) work(w int, built chan<- error) {
	runtime.LockOSThread()
	defer func() {
		// Control reads this after we are gone; the stack goes to standard error.
		if r := recover(); r != nil {
			p.segment.Worker(w).Fail(fmt.Sprint(r))
			panic(r)
		}
	}()
	// Before other threads of the machine, where cores are shared. It is a wish: without
	// CAP_SYS_NICE it is not granted.
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), workerNice)
	worker, err := p.newWorker(w)
	built <- err
	if err != nil {
		return
	}
	<-p.begin
	worker.Live(dataplane.Live{
		Port: p.ports[w], Counters: &p.ports[w].Counters, Mailbox: p.segment, Clock: p.clock,
		Idle: xsk.Idle{Adaptive: p.adaptive()}, Stop: &p.stop, Lost: &p.lost[w],
	})
	p.running.Add(-1)
}

func (p *process) newWorker(w int) (*dataplane.Worker, error) {
	region, err := arena.New(fmt.Sprintf("headrace worker %d", w), regionBytes)
	if err != nil {
		return nil, err
	}
	c := dataplane.Config{
		Plan: p.plan, Worker: w, Receiver: p.ports[w], Segment: p.segment.Worker(w), Region: region,
		Lanes: p.lanes, Owner: &p.owner, Shared: p.shared,
	}
	if w < len(p.start.Resume) {
		if c.Resume = p.start.Resume[w]; len(c.Resume) != len(p.plan.Queries) {
			return nil, fmt.Errorf("data plane: %d watermarks to go on from, the plan has %d queries", len(c.Resume), len(p.plan.Queries))
		}
	}
	return dataplane.NewWorker(c)
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
