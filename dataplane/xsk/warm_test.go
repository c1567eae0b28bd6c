package xsk

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/internal/netns"
)

// A book is what the workers of these tests have to remember, in a region as real ones'.
type book struct {
	workers []entry
	logs    [][]uint64 // by worker: keys of the frames that were done
	stop    []uint32   // 1: end when nothing comes
}

// An entry is one worker's commit record: the lowest bit of Commit names the copy.
type entry struct {
	Commit uint64
	Copies [2]struct {
		Done      uint64 // entries of the log
		Positions [8]uint32
	}
	Parked, Lives uint64
	_             [64]byte
}

const logMax = 1 << 20

func openBook(r *arena.Region, workers int) (*book, error) {
	b := &book{}
	var errs [3]error
	b.workers, errs[0] = arena.Slice[entry](r, "entries", workers)
	b.stop, errs[1] = arena.Slice[uint32](r, "stop", 1)
	for range workers {
		log, err := arena.Slice[uint64](r, "log", logMax)
		b.logs, errs[2] = append(b.logs, log), errors.Join(errs[2], err)
	}
	return b, errors.Join(append(errs[:], r.Complete(1))...)
}

// done returns how many frames worker has committed.
func (e *entry) done() uint64 {
	return atomic.LoadUint64(&e.Copies[atomic.LoadUint64(&e.Commit)&1].Done)
}

// resume returns where the worker goes on.
func (e *entry) resume(rings int) []uint32 {
	if e.Commit == 0 {
		return nil
	}
	return e.Copies[e.Commit&1].Positions[:rings]
}

// commit says that the worker has done n frames, and has rest in hand.
func (e *entry) commit(p *Port, n uint64, rest []Frame) {
	next := &e.Copies[(e.Commit+1)&1]
	p.Positions(next.Positions[:], rest)
	atomic.StoreUint64(&next.Done, n)
	fault.Point()
	atomic.StoreUint64(&e.Commit, e.Commit+1)
	fault.Point()
}

// heir is a data plane that was never given any privilege: it adopts everything and
// receives until it is killed or told to stop.
func heir(layout string) error {
	fault.ArmFromEnvironment()
	var l Layout
	if err := json.Unmarshal([]byte(layout), &l); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || !strings.Contains(string(status), "CapEff:\t0000000000000000\n") {
		return fmt.Errorf("there are capabilities left: %w\n%s", err, status)
	}
	if _, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("without capabilities a socket opens, or another error comes: %w", err)
	}
	const first = 4 // 3 is this binary
	e, err := adopt(l, func(i int) int { return first + i })
	if err != nil {
		return err
	}
	for _, o := range e.owners {
		if _, err := o.Account(); err != nil {
			return err
		}
	}
	runtime.GOMAXPROCS(l.Workers + 2)
	var wg sync.WaitGroup
	failed := make(chan error, l.Workers)
	for w := range l.Workers {
		wg.Go(func() { failed <- e.work(w) })
	}
	wg.Wait()
	for range l.Workers {
		err = errors.Join(err, <-failed)
	}
	for _, o := range e.owners {
		_, wrong := o.Account()
		err = errors.Join(err, wrong)
	}
	return err
}

// An estate is what processes leave each other.
type estate struct {
	book   *book
	owners []*Owner
	ports  []*Port
}

// adopt takes an estate over from its descriptors, by number: the region of the queues,
// the book, then owners, memory files and members.
func adopt(l Layout, fd func(int) int) (*estate, error) {
	e := &estate{}
	region, err := arena.Open(fd(0))
	if err != nil {
		return nil, err
	}
	n := len(l.Owners())
	var fds, files, members []int
	for i := range n {
		fds, files = append(fds, fd(2+i)), append(files, fd(2+n+i))
	}
	for i := range l.Members() {
		members = append(members, fd(2+2*n+i))
	}
	if e.owners, err = AdoptOwners(l, fds, files, region); err != nil {
		return nil, err
	}
	if err := region.Complete(StateVersion); err != nil {
		return nil, err
	}
	records, err := arena.Open(fd(1))
	if err != nil {
		return nil, err
	}
	if e.book, err = openBook(records, l.Workers); err != nil {
		return nil, err
	}
	for w := range l.Workers {
		p, err := NewPort(l, w, e.owners, members, e.book.workers[w].resume(n))
		if err != nil {
			return nil, err
		}
		e.ports = append(e.ports, p)
	}
	return e, nil
}

// work does what a worker does: some frames, a commit, the rest, a commit, a release.
func (e *estate) work(w int) error {
	runtime.LockOSThread()
	p, record, log := e.ports[w], &e.book.workers[w], e.book.logs[w]
	record.Lives++
	done, parked := record.done(), record.Parked
	var frames [64]Frame
	for idle := 0; ; {
		n := p.Receive(frames[:])
		if n == 0 {
			if p.Spent() {
				return fmt.Errorf("worker %d: unusable frames: %+v", w, p.Counters)
			}
			if atomic.LoadUint32(&e.book.stop[0]) != 0 {
				return nil
			}
			if idle++; idle > 100 {
				if err := p.Wait(100 * time.Microsecond); err != nil {
					return err
				}
			}
			continue
		}
		idle = 0
		for at := 0; at < n; {
			to := min(n, at+1+n/2)
			for _, f := range frames[at:to] {
				key := binary.LittleEndian.Uint64(f.Data[f.Meta.PayloadOffset:])
				if workerOf(key, len(e.ports)) != w || key != f.Meta.Hash {
					return fmt.Errorf("worker %d has a frame that is not its own", w)
				}
				log[done] = key
				done++
			}
			at = to
			record.commit(p, done, frames[at:n])
		}
		p.Release()
		record.Parked = parked + p.Parked
	}
}

// A legacy is a rig whose data planes are processes that come and go.
type legacy struct {
	layout  Layout
	pair    *netns.Pair
	program steering
	owners  []*RawOwner
	members []int
	region  *arena.Region
	book    *book
	files   []*os.File // for a child, the binary aside
	sockets []Socket
}

func newLegacy(t *testing.T, queues, workers int, driver bool) *legacy {
	t.Helper()
	g := &legacy{pair: netns.NewPair(t, netns.Options{Queues: queues})}
	g.layout = Layout{
		Interfaces: []Interface{{
			Name: g.pair.B.Interface, Index: g.pair.B.Index, Queues: queues, Memory: Memory{Huge: true, OnNode: true},
		}},
		Workers: workers, Sizes: small(t, workers, 2048), Raw: true,
	}
	var err error
	g.pair.B.Do(t, func() {
		if g.owners, err = OpenRawOwners(g.layout); err == nil {
			g.members, err = OpenMembers(g.layout, g.fds())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, o := range g.owners {
			if err := o.Close(); err != nil {
				t.Error(err)
			}
		}
		closeAll(g.members)
	})
	g.program = attach(t, g.pair.B, workers, driver)
	if g.sockets, err = g.layout.Assign(g.fds(), g.members); err != nil {
		t.Fatal(err)
	}
	for _, s := range g.sockets {
		if err := g.program.Register(s.Slot, s.FD); err != nil {
			t.Fatal(err)
		}
	}
	g.keep(t)
	return g
}

// keep makes the regions, and files of all descriptors.
func (g *legacy) keep(t *testing.T) {
	t.Helper()
	var err error
	if g.region, err = arena.New("test queues", 1<<32); err != nil {
		t.Fatal(err)
	}
	records, err := arena.New("test book", 1<<32)
	if err == nil {
		g.book, err = openBook(records, g.layout.Workers)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.region.Close(); records.Close() })
	all := []int{g.region.FD(), records.FD()}
	all = append(all, g.fds()...)
	for _, o := range g.owners {
		all = append(all, o.File)
	}
	for _, fd := range append(all, g.members...) {
		// A file of its own, which may be closed when it is collected.
		fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "kept")
		t.Cleanup(func() { f.Close() })
		g.files = append(g.files, f)
	}
}

func (g *legacy) fds() []int {
	var fds []int
	for _, o := range g.owners {
		fds = append(fds, o.FD)
	}
	return fds
}

// start starts the next data plane, as nobody and with no capability from its first
// instruction on.
func (g *legacy) start(t *testing.T, binary string, killAfter int64) *exec.Cmd {
	t.Helper()
	program, err := os.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	layout, _ := json.Marshal(g.layout)
	c := exec.Command("/proc/self/fd/3")
	c.ExtraFiles = append([]*os.File{program}, g.files...)
	c.Env = append(os.Environ(), "HEADRACE_TEST_HEIR="+string(layout))
	if killAfter > 0 {
		c.Env = append(c.Env, fmt.Sprintf("HEADRACE_KILL_AFTER=%d", killAfter))
	}
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// done returns how many frames all workers have committed.
func (g *legacy) done() (n uint64) {
	for w := range g.book.workers {
		n += g.book.workers[w].done()
	}
	return n
}

func (g *legacy) steered(t *testing.T) (n uint64) {
	t.Helper()
	for _, s := range g.sockets {
		n += g.program.Steered(t, s.Slot)
	}
	return n
}

// flow sends until stop, never more than any ring has room for, and returns how many
// were sent.
func (g *legacy) flow(t *testing.T, stop *atomic.Bool) (sent int) {
	t.Helper()
	const step = 64
	sender := netns.NewSender(t, g.pair.A, g.pair.B)
	for !stop.Load() {
		if uint64(sent) > g.done()+uint64(g.layout.Sizes.RxRing)-2*step {
			time.Sleep(100 * time.Microsecond)
			continue
		}
		l := load(step, 0)
		fill := l.Fill
		from := sent
		l.Fill = func(k int, payload []byte) { fill(from+k, payload) }
		n, err := sender.Send(l)
		if err != nil {
			t.Error(err)
			return sent
		}
		sent += n
		time.Sleep(200 * time.Microsecond)
	}
	return sent
}

// lifeOrDeath is a way to kill data planes.
type lifeOrDeath struct {
	name   string
	binary string
	points int64 // kill after at most so many fault points; 0: at random times
}

// ways returns the ways of killing that there are: at random times, and at every fault
// point, for which a binary is built if this one has none and there is time for it.
func ways(t *testing.T) []lifeOrDeath {
	t.Helper()
	out := []lifeOrDeath{{name: "at any time", binary: os.Args[0]}}
	pointed := os.Args[0]
	if !fault.On {
		if os.Getenv("HEADRACE_LONG") == "" {
			return out
		}
		pointed = filepath.Join(t.TempDir(), "xsk.test")
		if text, err := exec.Command("go", "test", "-c", "-tags", "faults", "-o", pointed, ".").CombinedOutput(); err != nil {
			t.Fatalf("build with fault points: %v\n%s", err, text)
		}
	}
	return append(out, lifeOrDeath{name: "at a fault point", binary: pointed, points: 600})
}

// Data planes without any privilege are killed and the next one goes on: every frame
// that was steered is done once, and no frame of UMEM is lost or in two places.
func TestTheNextDataPlaneGoesOnWhereAKilledOneWas(t *testing.T) {
	kills := 10
	if os.Getenv("HEADRACE_LONG") != "" {
		kills = 60
	}
	for _, way := range ways(t) {
		for _, s := range []struct {
			queues, workers int
			mode            string
		}{{1, 1, "skb mode"}, {2, 3, "driver mode"}, {1, 4, "driver mode"}} {
			t.Run(fmt.Sprintf("%s, %d queues, %d workers", way.name, s.queues, s.workers), func(t *testing.T) {
				g := newLegacy(t, s.queues, s.workers, modes[s.mode])
				var stop atomic.Bool
				sent := make(chan int)
				go func() { sent <- g.flow(t, &stop) }()
				random := rand.New(rand.NewPCG(uint64(s.workers), 5))
				for range kills {
					g.die(t, way, random)
				}
				stop.Store(true)
				g.settle(t, way.binary, <-sent)
			})
		}
	}
}

// die starts a data plane and has it killed.
func (g *legacy) die(t *testing.T, way lifeOrDeath, random *rand.Rand) {
	t.Helper()
	var points int64
	if way.points > 0 {
		points = 1 + random.Int64N(way.points)
	}
	c := g.start(t, way.binary, points)
	gone := make(chan error, 1)
	go func() { gone <- c.Wait() }()
	patience := 5 * time.Second
	if points == 0 {
		patience = time.Duration(random.Int64N(int64(40 * time.Millisecond)))
	}
	var err error
	select {
	case err = <-gone:
	case <-time.After(patience):
		if points > 0 {
			t.Errorf("after %v still not at fault point %d", patience, points)
		}
		c.Process.Kill()
		err = <-gone
	}
	if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != unix.SIGKILL {
		t.Fatalf("a data plane ended by itself: %v", err)
	}
}

// settle lets the last data plane do what is left, and looks whether it all adds up.
func (g *legacy) settle(t *testing.T, binary string, sent int) {
	t.Helper()
	c := g.start(t, binary, 0)
	eventually(t, "all steered frames are done", func() bool { return g.done() >= g.steered(t) })
	atomic.StoreUint32(&g.book.stop[0], 1)
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	steered, done := g.steered(t), g.done()
	seen := map[uint64]bool{}
	var parked, lives, lost uint64
	for w := range g.book.workers {
		for _, key := range g.book.logs[w][:g.book.workers[w].done()] {
			if seen[key] {
				t.Fatalf("the frame with key %#x was done twice", key)
			}
			seen[key] = true
		}
		parked += g.book.workers[w].Parked
		lives += g.book.workers[w].Lives
	}
	for i := range sent {
		delete(seen, mix(uint64(i)+1))
	}
	if len(seen) != 0 {
		t.Errorf("%d frames were done that nobody sent", len(seen))
	}
	for _, s := range g.sockets {
		stats, err := Statistics(s.FD)
		if err != nil {
			t.Fatal(err)
		}
		lost += stats.Lost()
	}
	if done != steered || lost != 0 || steered < uint64(sent)*9/10 {
		t.Errorf("sent %d, steered %d, done %d, lost %d", sent, steered, done, lost)
	}
	t.Logf("sent %d, steered and done %d, parked %d, workers' lives %d", sent, steered, parked, lives)
	g.audit(t)
}

// audit adopts everything itself and counts the frames.
func (g *legacy) audit(t *testing.T) {
	t.Helper()
	e, err := adopt(g.layout, func(i int) int {
		fd, err := unix.FcntlInt(g.files[i].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range e.owners {
		a, err := o.Account()
		if err != nil {
			t.Error(err)
		}
		if s := g.layout.Sizes; a.Rings != 0 || a.Parked != 0 || a.Kernel != 0 || a.Sending != s.TxRing || a.Fill != s.Frames-s.TxRing {
			t.Errorf("at rest: %+v of %d frames", a, s.Frames)
		}
	}
	for _, p := range e.ports {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := closeOwners(e.owners); err != nil {
		t.Error(err)
	}
}
