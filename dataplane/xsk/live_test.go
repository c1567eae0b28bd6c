package xsk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/xdptest"
)

func TestReceivingAllocatesNothing(t *testing.T) {
	for name, raw := range kinds {
		t.Run(name, func(t *testing.T) { testAllocations(t, raw) })
	}
}

func testAllocations(t *testing.T, raw bool) {
	t.Helper()
	r := newRigOf(t, raw, 1, 2, 1, 2048, true)
	p := r.mesh.Ports[0]
	r.send(t, load(3000, 100000))
	eventually(t, "frames are in the rings", func() bool { return p.InRing() > 2000 })
	var frames [16]Frame
	var positions [2]uint32
	if n := testing.AllocsPerRun(100, func() {
		if p.Receive(frames[:]) != len(frames) {
			t.Fatal("the rings ran dry")
		}
		p.Positions(positions[:], frames[5:])
		if c := p.Committed(frames[5:]); c.Received != p.Received-11 {
			t.Fatalf("of %d frames received 11 are not done, and %d are", p.Received, c.Received)
		}
		if p.Positions(positions[:], nil); !p.Spent() {
			t.Fatal("frames are in hand and nothing is spent")
		}
		p.Release()
	}); n != 0 {
		t.Errorf("Receive and Release allocate %v times", n)
	}
	for p.Receive(frames[:]) > 0 {
		p.Release()
	}
	idle := Idle{Adaptive: true, Spins: 1, Yields: 1, Timeout: time.Microsecond}
	if n := testing.AllocsPerRun(100, func() {
		if err := idle.Rest(p.Receive(frames[:]), p); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("an idle worker allocates %v times", n)
	}
	r.pairs[0].SetUp(t, r.pairs[0].B, false)
	eventually(t, "the loss of the link is found", func() bool { return p.Wait(0) != nil })
	if n := testing.AllocsPerRun(100, func() {
		if p.Wait(0) == nil {
			t.Fatal("Wait found nothing wrong")
		}
	}); n != 0 {
		t.Errorf("a worker whose link is down allocates %v times", n)
	}
}

// A program that lies about the payload's length is not believed.
func TestMetadataThatDoesNotFitTheFrameIsCounted(t *testing.T) {
	r := newRig(t, 1, 1, 1, 64, true)
	raw, err := unixSocket(t, r.pairs[0].A)
	if err != nil {
		t.Fatal(err)
	}
	f := netns.Frame(r.pairs[0].A, r.pairs[0].B, 1, xdptest.Port, make([]byte, 32))
	binary.BigEndian.PutUint16(f[38:], 1000) // the UDP header's length
	p := r.mesh.Ports[0]
	var frames [16]Frame
	eventually(t, "ten frames counted", func() bool {
		// One at a time, until enough have come: a driver that has just been given a
		// program may lose the first.
		if _, err := unix.Write(raw, f); err != nil {
			t.Fatal(err)
		}
		if n := p.Receive(frames[:]); n != 0 {
			t.Fatalf("%d frames were handed out", n)
		}
		return p.BadMeta >= 10
	})
	eventually(t, "the ring emptied", func() bool { return p.Receive(frames[:]) == 0 && p.InRing() == 0 })
}

// Packets of several frames are dropped and counted one each; others get through
// between them.
func TestPacketsOfSeveralFramesAreCountedAndDropped(t *testing.T) {
	a, b := netns.New(t), netns.New(t)
	pair := netns.Join(t, a, b, netns.Options{MTU: 9000})
	r := &rig{pairs: []*netns.Pair{pair}, layout: Layout{
		Interfaces: []Interface{{Name: pair.B.Interface, Index: pair.B.Index, Queues: 1}},
		Workers:    1, Sizes: small(t, 1, 1024), Bind: Bind{ScatterGather: true},
	}}
	r.open(t, b)
	r.programs = []steering{attach(t, pair.B, 1, true)}
	r.register(t)
	p := r.mesh.Ports[0]
	var frames [64]Frame
	for round := range 20 {
		large := load(5, 0)
		large.Size = 6000
		r.send(t, large)
		r.send(t, load(5, 0))
		eventually(t, "all ten were taken", func() bool {
			p.Receive(frames[:])
			p.Release()
			return p.Taken() == uint64(10*(round+1))
		})
	}
	if p.MultiBuffer != 100 || p.Received != 100 || r.lost(t, 0) != 0 {
		t.Errorf("%+v, lost %d; want 100 of each", p.Counters, r.lost(t, 0))
	}
}

// unixSocket opens a packet socket on e, closed with the test.
func unixSocket(tb testing.TB, e *netns.End) (fd int, err error) {
	tb.Helper()
	e.Do(tb, func() { fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) })
	if err == nil {
		tb.Cleanup(func() { unix.Close(fd) })
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: e.Index})
	}
	return fd, err
}

func TestTxSendsEveryFrameAndGetsItBack(t *testing.T) {
	for name, driver := range modes {
		t.Run(name, func(t *testing.T) {
			r := newRigOf(t, driver, 1, 1, 1, 64, driver)
			pair := r.pairs[0]
			listener := listen(t, pair.A, 9100)
			tx := r.mesh.Owners[0].Tx()
			payload := bytes.Repeat([]byte("headrace"), 8)
			const rounds, each = 20, 40 // 40 needs two calls of the kernel's 32
			var buffers [each][]byte
			var lengths [each]int
			buf := make([]byte, 2048)
			f := netns.Frame(pair.B, pair.A, 9100, 9100, payload)
			allocs := testing.AllocsPerRun(rounds, func() {
				if n := tx.Reserve(buffers[:]); n != each {
					t.Fatalf("Reserve = %d with %d pending", n, tx.Pending())
				}
				for i := range buffers {
					lengths[i] = copy(buffers[i], f)
				}
				tx.Submit(lengths[:])
				for tx.Pending() > 0 {
					if err := tx.Kick(); err != nil {
						t.Fatal(err)
					}
					tx.Complete()
				}
				for i := range each { // at once, lest the socket's buffer overflows
					if n, err := unix.Read(listener, buf); err != nil || !bytes.Equal(buf[:n], payload) {
						t.Fatalf("frame %d of %d: %d bytes, %v", i, each, n, err)
					}
				}
			})
			if allocs != 0 {
				t.Errorf("sending %d frames allocates %v times", each, allocs)
			}
			pair.SetUp(t, pair.B, false)
			tx.Reserve(buffers[:1])
			tx.Submit(lengths[:1])
			if err := tx.Kick(); !errors.Is(err, ErrLinkDown) || !errors.Is(err, unix.ENETDOWN) {
				t.Errorf("link down: Kick = %v, want %v", err, ErrLinkDown)
			}
			pair.Delete(t)
			if err := tx.Kick(); !errors.Is(err, ErrInterfaceGone) {
				t.Errorf("interface deleted: Kick = %v, want %v", err, ErrInterfaceGone)
			}
		})
	}
}

// listen opens a UDP socket on e's address that waits five seconds for a packet.
func listen(tb testing.TB, e *netns.End, port int) (fd int) {
	tb.Helper()
	var err error
	e.Do(tb, func() { fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) })
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: e.IPv4.As4()}); err != nil {
		tb.Fatal(err)
	}
	return fd
}
