package drain

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/xsk"
	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/xdptest"
)

// The shape of the measurement, the same for both.
const (
	ringSize = 4096
	frames   = 8192
	batch    = 64
	rounds   = 200
	liveTime = 300 * time.Millisecond
)

// A result is what one drain or one live run did.
type result struct {
	frames   int
	elapsed  time.Duration
	rejected uint64
	checksum uint64 // so that no compiler leaves the reading out
}

// A consumer is one of the two sides, with the interface that feeds it.
type consumer struct {
	name    string
	sender  *netns.Sender
	waiting func() int // descriptors in the RX ring
	drain   func() result
	live    func(time.Duration) result
}

// BenchmarkDrain reports the median nanoseconds a frame of draining a full RX ring, in
// C and in Go, and how fast Go is in terms of C. The number of rounds does not depend
// on the time given.
func BenchmarkDrain(b *testing.B) {
	sides := newSides(b)
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // the data plane collects nothing either
	var nanos [2][]float64
	for round := range max(rounds, b.N) {
		for k := range sides {
			i := (round + k) % len(sides) // who is first takes turns
			fill(b, &sides[i])
			r := sides[i].drain()
			if r.frames != ringSize || r.rejected != 0 {
				b.Fatalf("%s drained %d frames, rejected %d, want %d and 0", sides[i].name, r.frames, r.rejected, ringSize)
			}
			nanos[i] = append(nanos[i], float64(r.elapsed.Nanoseconds())/float64(r.frames))
		}
	}
	for i := range sides {
		slices.Sort(nanos[i])
	}
	median := func(i int) float64 { return nanos[i][len(nanos[i])/2] }
	for i, s := range sides {
		pps := live(b, &s)
		b.Run("consumer="+s.name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // an op would be a whole measurement
			b.ReportMetric(median(i), "ns/frame")
			b.ReportMetric(nanos[i][len(nanos[i])/10], "p10-ns/frame")
			b.ReportMetric(pps, "sender-bound-pps")
			b.ReportMetric(median(0)/median(i), "speed/C")
		})
	}
}

// fill sends until the ring is full and then stops.
func fill(b *testing.B, c *consumer) {
	b.Helper()
	for range 100 {
		missing := ringSize - c.waiting()
		if missing == 0 {
			return
		}
		var err error
		on(0, func() { _, err = c.sender.Send(packets(missing)) })
		if err != nil {
			b.Fatal(err)
		}
	}
	b.Fatalf("the ring of %s holds %d of %d however much is sent", c.name, c.waiting(), ringSize)
}

// live receives while packets are sent as fast as they can be, and returns packets a
// second.
func live(b *testing.B, c *consumer) float64 {
	b.Helper()
	var stop atomic.Bool
	stopped := make(chan error)
	go on(0, func() {
		var err error
		for err == nil && !stop.Load() {
			_, err = c.sender.Send(packets(4096))
		}
		stopped <- err
	})
	r := c.live(liveTime)
	stop.Store(true)
	if err := <-stopped; err != nil {
		b.Fatal(err)
	}
	return float64(r.frames) / r.elapsed.Seconds()
}

func packets(n int) netns.Load {
	return netns.Load{
		Count: n, Port: xdptest.Port, Size: 22, // frames of 64 bytes
		Fill: func(i int, p []byte) { binary.LittleEndian.PutUint64(p, uint64(i)*0x9e3779b97f4a7c15) },
	}
}

// newSides opens both consumers, C first, each on its own veth pair.
func newSides(b *testing.B) [2]consumer {
	b.Helper()
	netns.Need(b)
	if _, err := exec.LookPath("gcc"); err != nil {
		b.Skip("needs gcc for the C side: gcc is missing")
	}
	last := runtime.NumCPU() - 1
	near, far := netns.New(b), netns.New(b)
	var sides [2]consumer
	for i, open := range []func(*testing.B, *netns.End, *xdptest.Program, int) consumer{openC, openGo} {
		p := netns.Join(b, far, near, netns.Options{})
		program := xdptest.Load(b, 1)
		sides[i] = open(b, p.B, program, last)
		near.Do(b, func() { program.Attach(b, p.B.Index, true) })
		sides[i].sender = netns.NewSender(b, p.A, p.B)
	}
	return sides
}

// on calls fn on a thread that is bound to one CPU.
func on(cpu int, fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its affinity
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			panic("drain: affinity: " + err.Error())
		}
		fn()
	}()
	<-done
}

func openGo(b *testing.B, e *netns.End, program *xdptest.Program, cpu int) consumer {
	b.Helper()
	layout := xsk.Layout{
		Interfaces: []xsk.Interface{{Name: e.Interface, Index: e.Index, Queues: 1}},
		Workers:    1,
		Sizes:      xsk.Sizes{FrameSize: 2048, Frames: frames, FillRing: frames, RxRing: ringSize, TxRing: 64},
		Bind:       xsk.Bind{Copy: true},
	}
	var mesh *xsk.Mesh
	var err error
	e.Do(b, func() { mesh, err = xsk.OpenMesh(layout) })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := mesh.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := program.Register(mesh.Sockets[0].Slot, mesh.Sockets[0].FD); err != nil {
		b.Fatal(err)
	}
	p := mesh.Ports[0]
	return consumer{
		name: "go", waiting: p.InRing,
		drain: func() (r result) { on(cpu, func() { r = drainGo(p) }); return r },
		live:  func(d time.Duration) (r result) { on(cpu, func() { r = liveGo(p, d) }); return r },
	}
}

// drainGo empties the ring as a worker does.
func drainGo(p *xsk.Port) (r result) {
	var frames [batch]xsk.Frame
	start := time.Now()
	for {
		n := p.Receive(frames[:])
		if n == 0 {
			break
		}
		for i := range frames[:n] {
			m := &frames[i].Meta
			r.checksum += m.Hash ^ m.ReceiveNanos
		}
		p.Release()
		r.frames += n
	}
	r.elapsed = time.Since(start)
	r.rejected = p.BadMeta + p.BadDescriptor + p.MultiBuffer
	return r
}

func liveGo(p *xsk.Port, d time.Duration) (r result) {
	start := time.Now()
	for time.Since(start) < d {
		r.frames += drainGo(p).frames
	}
	r.elapsed = time.Since(start)
	return r
}

func openC(b *testing.B, e *netns.End, program *xdptest.Program, cpu int) consumer {
	b.Helper()
	binary := filepath.Join(b.TempDir(), "drain")
	if out, err := exec.Command("gcc", "-O2", "-march=native", "-Wall", "-x", "c", "-o", binary, "drain.c").CombinedOutput(); err != nil {
		b.Fatalf("gcc drain.c: %v\n%s", err, out)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "descriptor")
	cmd := exec.Command(binary, fmt.Sprint(e.Index), fmt.Sprint(ringSize), fmt.Sprint(frames), fmt.Sprint(batch), fmt.Sprint(cpu))
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	e.Start(b, cmd)
	theirs.Close()
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	fd := receiveFD(b, pair[0])
	unix.Close(pair[0])
	if err := program.Register(xsk.Slot(0, 0), fd); err != nil {
		b.Fatal(err)
	}
	unix.Close(fd)
	answers := bufio.NewReader(out)
	return consumer{
		name:    "c",
		waiting: func() (n int) { ask(b, in, answers, "n", &n); return n },
		drain:   func() result { return askResult(b, in, answers, "d") },
		live:    func(d time.Duration) result { return askResult(b, in, answers, fmt.Sprintf("l %d", d.Milliseconds())) },
	}
}

func ask(b *testing.B, in io.Writer, out *bufio.Reader, question string, answer ...any) {
	b.Helper()
	if _, err := fmt.Fprintln(in, question); err != nil {
		b.Fatal(err)
	}
	line, err := out.ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(strings.TrimSpace(line), answer...)
	}
	if err != nil {
		b.Fatalf("the C side answers %q to %q: %v", line, question, err)
	}
}

func askResult(b *testing.B, in io.Writer, out *bufio.Reader, question string) (r result) {
	b.Helper()
	ask(b, in, out, question, &r.frames, &r.elapsed, &r.rejected, &r.checksum)
	return r
}

func receiveFD(b *testing.B, from int) int {
	b.Helper()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(from, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		b.Fatalf("the C side sent no descriptor: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		b.Fatalf("the C side sent %d descriptors: %v", len(fds), err)
	}
	return fds[0]
}
