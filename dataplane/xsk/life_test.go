package xsk

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/xdptest"
)

// send sends l from the first pair's far end and returns how many were sent.
func (r *rig) send(tb testing.TB, l netns.Load) int {
	tb.Helper()
	n, err := netns.NewSender(tb, r.pairs[0].A, r.pairs[0].B).Send(l)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// eventually waits for is, at most five seconds.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(5 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("after 5 s still not: %s", what)
		}
	}
}

// A worker that does not drain its rings costs the others nothing, also if it is the
// one whose socket owns the queue.
func TestAStalledWorkerLosesOnlyItsOwnFrames(t *testing.T) {
	for name, driver := range modes { // and both kinds of owners
		t.Run(name, func(t *testing.T) {
			for _, stalled := range []int{0, 1} {
				t.Run(fmt.Sprintf("worker %d of 3", stalled), func(t *testing.T) {
					r := newRigOf(t, driver, 1, 1, 3, 1024, driver)
					c := r.work(stalled)
					r.sendAll(t, c, 12000)
					c.end()
					steered, taken, lost, inRing := r.ledger(t)
					for w := range r.mesh.Ports {
						switch l := r.lost(t, w); {
						case w == stalled && (l == 0 || r.mesh.Ports[w].InRing() != 1024):
							t.Errorf("stalled worker lost %d and holds %d: it did not stall", l, r.mesh.Ports[w].InRing())
						case w != stalled && l != 0:
							t.Errorf("worker %d lost %d", w, l)
						}
					}
					t.Logf("steered %d = taken %d + lost %d + in ring %d", steered, taken, lost, inRing)
				})
			}
		})
	}
}

func TestLinkDownAndUpAgainKeepsReceiving(t *testing.T) {
	for name, driver := range modes {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1, 2, 2, 1024, driver)
			c := r.work()
			sent := r.send(t, load(2000, 50000))
			r.pairs[0].SetUp(t, r.pairs[0].B, false)
			eventually(t, "a worker says that the link is down", func() bool { return c.err.Load() != nil })
			if err := *c.err.Load(); !errors.Is(err, ErrLinkDown) || !errors.Is(err, unix.ENETDOWN) {
				t.Errorf("Wait = %v, want %v", err, ErrLinkDown)
			}
			if err := Check(r.mesh.Owners[0].FD()); !errors.Is(err, ErrLinkDown) {
				t.Errorf("Check = %v, want %v", err, ErrLinkDown)
			}
			r.pairs[0].SetUp(t, r.pairs[0].B, true)
			eventually(t, "both ends are up", func() bool { return Check(r.mesh.Owners[0].FD()) == nil })
			sent += r.send(t, load(4000, 50000))
			r.settled(t, c)
			c.end()
			if _, taken, lost, _ := r.ledger(t); taken+lost < uint64(sent)*9/10 {
				t.Errorf("sent %d, taken %d, lost %d", sent, taken, lost)
			}
		})
	}
}

func TestADeletedInterfaceIsAClearErrorAndACleanStop(t *testing.T) {
	for name, driver := range modes {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1, 2, 2, 1024, driver)
			c := r.work()
			r.send(t, load(1000, 50000))
			r.pairs[0].Delete(t)
			c.wg.Wait() // the workers end by themselves
			err := *c.err.Load()
			if !errors.Is(err, ErrInterfaceGone) || !errors.Is(err, unix.ENXIO) || !strings.Contains(err.Error(), r.pairs[0].B.Interface) {
				t.Errorf("Wait = %v, want %v and the interface's name", err, ErrInterfaceGone)
			}
			if err := Check(r.mesh.Owners[0].FD()); !errors.Is(err, ErrInterfaceGone) {
				t.Errorf("Check = %v, want %v", err, ErrInterfaceGone)
			}
			r.ledger(t) // still readable
		})
	}
}

// usage is what a leak would change.
type usage struct{ fds, sockets, mappings, kib int }

func measure(tb testing.TB) usage {
	tb.Helper()
	var u usage
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	for _, fd := range fds { // the runtime's and the test's own come and go
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "/memfd:headrace") {
			u.fds++
		}
	}
	sockets, err := ringMappings()
	if err != nil {
		tb.Fatal(err)
	}
	maps, _ := os.ReadFile("/proc/self/maps")
	status, _ := os.ReadFile("/proc/self/status")
	u.sockets, u.mappings = len(sockets), strings.Count(string(maps), "\n")
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); f[0] == "VmSize:" {
			u.kib, _ = strconv.Atoi(f[1])
		}
	}
	return u
}

func TestOpeningAndClosingLeaksNothing(t *testing.T) {
	for name, raw := range kinds {
		t.Run(name, func(t *testing.T) { testLeaks(t, raw) })
	}
}

func testLeaks(t *testing.T, raw bool) {
	t.Helper()
	p := netns.NewPair(t, netns.Options{})
	l := Layout{
		Interfaces: []Interface{{Name: p.B.Interface, Index: p.B.Index, Queues: 1}},
		Workers:    2, Sizes: small(t, 2, 1024),
		Bind: Bind{Copy: true}, // one attempt a queue, not two
		Raw:  raw,
	}
	cycle := func() {
		m, err := OpenMesh(l)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatalf("second close: %v", err)
		}
	}
	broken := func() {
		bad := l
		bad.Interfaces = []Interface{{Name: p.B.Interface, Index: p.B.Index, Queues: 2}} // the second queue is not there
		if _, err := OpenMesh(bad); !errors.Is(err, unix.EINVAL) {
			t.Fatalf("queue 1 of 1: %v, want %v", err, unix.EINVAL)
		}
	}
	p.B.Do(t, func() {
		cycle()
		before := measure(t)
		for range 25 {
			cycle()
		}
		for range 10 {
			broken()
		}
		after := measure(t)
		if after.fds != before.fds || after.sockets != before.sockets {
			t.Errorf("descriptors %d, then %d; ring mappings %d, then %d", before.fds, after.fds, before.sockets, after.sockets)
		}
		// The Go runtime maps memory of its own, but not as much as one UMEM a cycle.
		if after.mappings > before.mappings+30 || after.kib > before.kib+10*l.Sizes.UMEMBytes()/1024 {
			t.Errorf("mappings %d, then %d; KiB %d, then %d", before.mappings, after.mappings, before.kib, after.kib)
		}
		t.Logf("before %+v, after %+v", before, after)
	})
}

func TestAnOwnerSaysWhatItWasGrantedAndWhyItCannotOpen(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	c := OwnerConfig{Interface: p.B.Interface, Sizes: small(t, 1, 64), BusyWait: 20 * time.Millisecond}
	p.B.Do(t, func() {
		o, err := OpenOwner(c) // by name, zero-copy if possible
		if err != nil {
			t.Fatal(err)
		}
		if o.ZeroCopy() || !errors.Is(o.Fallback(), unix.EOPNOTSUPP) {
			t.Errorf("veth: zero-copy %v, fallback %v", o.ZeroCopy(), o.Fallback())
		}
		if flags, err := unix.FcntlInt(uintptr(o.FD()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("the descriptor is passed on to children: flags %#x, %v", flags, err)
		}
		if _, err := OpenOwner(c); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "another AF_XDP socket") {
			t.Errorf("second owner: %v, want %v and advice", err, unix.EBUSY)
		}
		if _, err := mapRX(o.FD(), c.Sizes.RxRing*64); !errors.Is(err, unix.EINVAL) {
			t.Errorf("a ring mapped 64 times its size: %v", err)
		}
		port, err := NewPort(Layout{Interfaces: []Interface{{Queues: 1}}, Workers: 1}, 0, []*Owner{o}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Close(); err == nil {
			t.Error("an owner was closed under a port")
		}
		if err := errors.Join(port.Close(), o.Close()); err != nil {
			t.Error(err)
		}
		c.Bind.ZeroCopy, c.BusyWait = true, 0 // the kernel gives a closed socket's queue back after a while
		if _, err := OpenOwner(c); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("zero-copy forced on veth: %v, want %v", err, unix.EOPNOTSUPP)
		}
		c.Bind.Copy = true
		if _, err := OpenOwner(c); err == nil {
			t.Error("copy and zero-copy both forced: no error")
		}
	})
	if _, err := OpenOwner(OwnerConfig{Interface: "hr-none", Sizes: c.Sizes}); err == nil || !strings.Contains(err.Error(), "hr-none") {
		t.Errorf("an interface that is not there: %v", err)
	}
}

// A ring mapped smaller than it is would be read with a wrong mask.
func TestARingOfAnotherSizeIsRefused(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	p.B.Do(t, func() {
		o, err := OpenOwner(OwnerConfig{Interface: p.B.Interface, Sizes: small(t, 1, 2048)})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if r, err := mapRX(o.FD(), 1024); err == nil {
			t.Errorf("a ring of 2048 entries was mapped as one of %d", r.mask+1)
		}
	})
}

// In a process of its own the test binary is a data plane (see dataPlane and heir).
func TestMain(m *testing.M) {
	if layout := os.Getenv("HEADRACE_TEST_HEIR"); layout != "" {
		if err := heir(layout); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if layout := os.Getenv("HEADRACE_TEST_LAYOUT"); layout != "" {
		if err := dataPlane(layout); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// dataPlane opens owners, sends their descriptors over descriptor 3, is given the
// members', drops all its capabilities and receives until it is killed.
func dataPlane(layout string) error {
	var l Layout
	if err := json.Unmarshal([]byte(layout), &l); err != nil {
		return err
	}
	owners, err := OpenOwners(l)
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte("owners"), unix.UnixRights(ownerFDs(owners)...), nil, 0); err != nil {
		return err
	}
	members, err := receiveFDs(3)
	if err != nil {
		return err
	}
	var ports []*Port
	for w := range l.Workers {
		p, err := NewPort(l, w, owners, members, nil)
		if err != nil {
			return err
		}
		ports = append(ports, p)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil { // this thread is all that works
		return err
	}
	if _, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0); !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("without capabilities a socket opens, or another error comes: %w", err)
	}
	var frames [64]Frame
	for reported := uint64(0); ; {
		var taken uint64
		for w, p := range ports {
			n := p.Receive(frames[:])
			for i := range frames[:n] {
				if workerOf(binary.LittleEndian.Uint64(frames[i].Data[42:]), len(ports)) != w {
					return errors.New("a frame was misplaced")
				}
			}
			p.Release()
			if err := p.Wait(100 * time.Microsecond); err != nil {
				return err
			}
			taken += p.Taken()
		}
		if taken != reported {
			fmt.Println(taken)
			reported = taken
		}
	}
}

func receiveFDs(from int) ([]int, error) {
	buf, oob := make([]byte, 64), make([]byte, 4096)
	_, n, _, _, err := unix.Recvmsg(from, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages, %w", len(messages), err)
	}
	return unix.ParseUnixRights(&messages[0])
}

// child is a data plane in a process of its own.
type child struct {
	cmd   *exec.Cmd
	taken atomic.Int64
}

// startChild starts a data plane and plays its control plane: it opens the members,
// registers all sockets and closes its own copies.
func startChild(t *testing.T, l Layout, n *netns.Namespace, s steering) *child {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	layout, _ := json.Marshal(l)
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), "HEADRACE_TEST_LAYOUT="+string(layout))
	theirs := os.NewFile(uintptr(pair[1]), "control")
	c.cmd.ExtraFiles = []*os.File{theirs}
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.Start(t, c.cmd)
	theirs.Close()
	go func() {
		for {
			var count int64
			if _, err := fmt.Fscan(out, &count); err != nil {
				return
			}
			c.taken.Store(count)
		}
	}()
	owners, err := receiveFDs(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	var members []int
	n.Do(t, func() { members, err = OpenMembers(l, owners) })
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(pair[0], []byte("members"), unix.UnixRights(members...), nil, 0); err != nil {
		t.Fatal(err)
	}
	sockets, err := l.Assign(owners, members)
	if err != nil {
		t.Fatal(err)
	}
	for _, socket := range sockets {
		if err := s.Register(socket.Slot, socket.FD); err != nil {
			t.Fatal(err)
		}
		unix.Close(socket.FD)
	}
	unix.Close(pair[0])
	return c
}

func TestAKilledDataPlaneLeavesTheInterfacePassingAndTheNextOneStarts(t *testing.T) {
	for name, driver := range modes {
		t.Run(name, func(t *testing.T) {
			p := netns.NewPair(t, netns.Options{Queues: 2})
			l := Layout{
				Interfaces: []Interface{{Name: p.B.Interface, Index: p.B.Index, Queues: 2}},
				Workers:    2, Sizes: small(t, 2, 1024),
			}
			s := attach(t, p.B, l.Workers, driver)
			sender := netns.NewSender(t, p.A, p.B)
			for range 3 {
				c := startChild(t, l, p.B.Namespace, s)
				if _, err := sender.Send(load(2000, 50000)); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the child has all frames", func() bool { return c.taken.Load() >= 1900 })
				if err := c.cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				c.cmd.Wait()
				passes(t, p, sender)
			}
		})
	}
}

// passes fails unless frames that were steered before now reach an ordinary socket.
func passes(t *testing.T, p *netns.Pair, sender *netns.Sender) {
	t.Helper()
	var listener net.PacketConn
	var err error
	p.B.Do(t, func() { listener, err = net.ListenPacket("udp", fmt.Sprintf("%v:%d", p.B.IPv4, xdptest.Port)) })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	buf := make([]byte, 2048)
	eventually(t, "the kernel has given the slots up", func() bool {
		if _, err := sender.Send(load(1, 0)); err != nil {
			t.Fatal(err)
		}
		listener.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		n, _, err := listener.ReadFrom(buf)
		return err == nil && n == 32
	})
}
