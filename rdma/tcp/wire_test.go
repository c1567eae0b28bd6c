package tcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

func transport(t *testing.T) *Transport {
	t.Helper()
	tr, err := New(Config{Listen: netip.MustParseAddr("127.0.0.1"), Hello: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// rawPeer is peer 1 of an epoch of two, by hand: the test writes its bytes.
type rawPeer struct {
	net.Conn
	mesh  rdma.Mesh // of peer 0
	codec *frame.Codec
	ours  *frame.Codec // peer 1's
}

func newCodec(t *testing.T, me int) *frame.Codec {
	t.Helper()
	c, err := frame.NewCodec(frame.Config{Me: me, Epoch: 7}, 0b11)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newRawPeer(t *testing.T) *rawPeer {
	t.Helper()
	tr := transport(t)
	offers, err := tr.Prepare(7, 0b11)
	if err != nil {
		t.Fatal(err)
	}
	addr, mine, err := parseOffer(offers[1])
	if err != nil || addr != tr.Addr() {
		t.Fatal(err, addr)
	}
	bell, err := rdma.NewBell()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bell.Close() })
	p := &rawPeer{codec: newCodec(t, 0), ours: newCodec(t, 1)}
	theirs := token{1, 2, 3}
	where, _ := netip.MustParseAddrPort("127.0.0.1:9").MarshalBinary()
	opened := make(chan error)
	go func() {
		m, err := tr.Open(rdma.MeshConfig{
			Epoch: 7, Me: 0, Members: 0b11, Patience: patience, Bell: bell, Codec: p.codec,
			Offers: [][]byte{nil, append(append([]byte{offerVersion}, theirs[:]...), where...)},
		})
		p.mesh = m
		opened <- err
	}()
	if p.Conn, err = net.Dial("tcp", addr.String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	if _, err := p.Write(hello(1, 0, 7, mine)); err != nil {
		t.Fatal(err)
	}
	var got [helloBytes]byte
	if _, err := io.ReadFull(p, got[:]); err != nil || !bytes.Equal(got[:], hello(0, 1, 7, theirs)) {
		t.Fatalf("the answer is % x, %v", got, err)
	}
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.mesh.Close() })
	return p
}

// event waits for the next one.
func (p *rawPeer) event(t *testing.T) rdma.Event {
	t.Helper()
	var events [1]rdma.Event
	for end := time.Now().Add(patience); time.Now().Before(end); p.mesh.Park(time.Second) {
		if p.mesh.Poll(events[:]) == 1 {
			return events[0]
		}
	}
	t.Fatal("nothing came")
	return events[0]
}

func TestAStreamMayBeCutAnywhere(t *testing.T) {
	p := newRawPeer(t)
	rng := rand.New(rand.NewPCG(1, 2))
	const frames = 300
	go func() {
		var out []byte
		for i := range frames {
			size := rng.IntN(3000)
			if i%10 == 0 {
				size = rdma.FrameMax - rng.IntN(2)
			}
			payload := make([]byte, size)
			for j := range payload {
				payload[j] = byte(i + j)
			}
			out = p.ours.Seal(out, 0, &frame.Header{Kind: frame.Sparse, Round: uint64(i)}, payload)
			for len(out) > 0 && (i == frames-1 || rng.IntN(3) > 0) {
				n := min(len(out), 1+rng.IntN(1<<rng.IntN(18)))
				if _, err := p.Write(out[:n]); err != nil {
					return // the reader says what is wrong
				}
				out = out[n:]
			}
		}
	}()
	for i := range frames {
		ev := p.event(t)
		if ev.Err != nil || ev.Header.Round != uint64(i) {
			t.Fatalf("frame %d: %+v, %v", i, ev.Header, ev.Err)
		}
		for j, b := range ev.Payload {
			if b != byte(i+j) {
				t.Fatalf("frame %d: byte %d of %d is another", i, j, len(ev.Payload))
			}
		}
	}
}

func TestWhatIsNoFrameFailsThePeerAndIsCounted(t *testing.T) {
	good := func(p *rawPeer) []byte {
		return p.ours.Seal(nil, 0, &frame.Header{Kind: frame.Dense, Round: 1}, []byte("payload"))
	}
	for name, c := range map[string]struct {
		want  error
		bytes func(p *rawPeer) []byte
	}{
		"garbage":         {frame.ErrMagic, func(*rawPeer) []byte { return bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 8) }},
		"another version": {frame.ErrVersion, func(p *rawPeer) []byte { f := good(p); f[4]++; return f }},
		"a wrong sum":     {frame.ErrSum, func(p *rawPeer) []byte { f := good(p); f[len(f)-1]++; return f }},
		"a length beyond": {frame.ErrLength, func(p *rawPeer) []byte {
			f := good(p)
			binary.LittleEndian.PutUint32(f[28:], rdma.FrameMax+1)
			return f
		}},
		"a replay": {frame.ErrReplay, func(p *rawPeer) []byte { f := good(p); return append(f, f...) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newRawPeer(t)
			if _, err := p.Write(c.bytes(p)); err != nil {
				t.Fatal(err)
			}
			ev := p.event(t)
			if errors.Is(c.want, frame.ErrReplay) && ev.Err == nil {
				ev = p.event(t)
			}
			var pe *PeerError
			if !errors.Is(ev.Err, c.want) || !errors.As(ev.Err, &pe) || pe.Peer != 1 || p.codec.Count(c.want) != 1 {
				t.Errorf("%v, counted %d; want peer 1: %v", ev.Err, p.codec.Count(c.want), c.want)
			}
			_ = p.SetReadDeadline(time.Now().Add(patience))
			if _, err := p.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection is still there: %v", err)
			}
		})
	}
}

func TestHalfAFrameThenTheEndIsAFailure(t *testing.T) {
	p := newRawPeer(t)
	f := p.ours.Seal(nil, 0, &frame.Header{Kind: frame.Dense}, make([]byte, 1000))
	if _, err := p.Write(f[:500]); err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
	if ev := p.event(t); !errors.Is(ev.Err, ErrClosed) {
		t.Errorf("%+v, want %v", ev, ErrClosed)
	}
}

func TestAResetIsAFailureAfterWhatCame(t *testing.T) {
	for _, size := range []int{8, rdma.FrameMax} {
		p := newRawPeer(t)
		if _, err := p.Write(p.ours.Seal(nil, 0, &frame.Header{Kind: frame.Dense}, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		_ = p.Conn.(*net.TCPConn).SetLinger(0)
		_ = p.Close()
		// Sending finds out first. That must not hide what has come.
		for range 3 {
			p.mesh.Send(collective.Of(1), &frame.Header{Kind: frame.Dense}, make([]byte, size))
		}
		if ev := p.event(t); ev.Err != nil || string(ev.Payload) != "x" {
			t.Errorf("sending %d bytes: %+v, want what had come", size, ev)
		}
		if ev := p.event(t); !errors.Is(ev.Err, unix.ECONNRESET) && !errors.Is(ev.Err, unix.EPIPE) {
			t.Errorf("sending %d bytes: %v, want a reset", size, ev.Err)
		}
	}
}

// What a socket does not take of a frame follows later, wherever it stopped.
func TestAFullSocketTakesTheRestLater(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	c := &conn{fd: fds[0], out: buffer{b: make([]byte, outBytes)}}
	header, payload := bytes.Repeat([]byte("h"), frame.HeaderBytes), bytes.Repeat([]byte("p"), rdma.FrameMax)
	frames := 0
	var g gather
	for ; c.out.len() == 0; frames++ {
		c.gather(&g, header, payload)
	}
	rest := c.out.len()
	c.flush()
	if c.out.len() != rest || c.sendErr != nil {
		t.Errorf("a full socket took %d bytes, %v", rest-c.out.len(), c.sendErr)
	}
	room := buffer{b: make([]byte, outBytes)}
	again := &conn{fd: fds[0], out: room}
	again.gather(&g, header, payload) // not one byte of it
	if again.out.len() != len(header)+len(payload) {
		t.Errorf("%d bytes wait, want all", again.out.len())
	}
	got, buf := 0, make([]byte, 1<<16)
	whole := len(header) + len(payload)
	for got < (frames+1)*whole {
		n, errno := recv(fds[1], buf)
		if errno != 0 {
			if c.flush(); c.out.len() == 0 {
				again.flush()
			}
			continue
		}
		for _, b := range buf[:n] {
			if want := "hp"[min(1, got%whole/len(header))]; b != want {
				t.Fatalf("byte %d is %q, want %q", got, b, want)
			}
			got++
		}
	}
}

func TestThePortIsForMembersOnly(t *testing.T) {
	tr := transport(t)
	offers, err := tr.Prepare(7, 0b111)
	if err != nil {
		t.Fatal(err)
	}
	_, to1, _ := parseOffer(offers[1])
	refused := uint64(0)
	for _, c := range []struct {
		name string
		say  []byte
	}{
		{"says nothing", nil},
		{"says half of it", hello(1, 0, 7, to1)[:20]},
		{"speaks of other things", bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 10)},
		{"has another peer's token", hello(2, 0, 7, to1)},
		{"has a token with one bit wrong", hello(1, 0, 7, func() token { x := to1; x[15] ^= 1; return x }())},
		{"is of the epoch before", hello(1, 0, 6, to1)},
		{"is no peer", hello(99, 0, 7, to1)},
		{"is no member", hello(3, 0, 7, token{})},
	} {
		conn, err := net.Dial("tcp", tr.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(c.say)
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("who %s is let in: %v", c.name, err)
		}
		_ = conn.Close()
		if refused++; tr.Refused() != refused {
			t.Errorf("who %s: %d refused, want %d", c.name, tr.Refused(), refused)
		}
	}
}

func TestStrangersAreBounded(t *testing.T) {
	tr := transport(t)
	if _, err := tr.Prepare(7, 0b11); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for range strangersMax + 20 {
		c, err := net.Dial("tcp", tr.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns { // all are closed in the end
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection that says nothing is kept")
		}
		_ = c.Close()
	}
	if n := tr.Refused(); n != strangersMax+20 {
		t.Errorf("%d refused, want %d", n, strangersMax+20)
	}
}

// Whoever knocks and says nothing must not keep members out, nor fill the log.
func TestAMemberGetsThroughACrowdOfStrangers(t *testing.T) {
	var log bytes.Buffer
	tr, err := New(Config{Listen: netip.MustParseAddr("127.0.0.1"), Hello: time.Minute, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	offers, err := tr.Prepare(7, 0b11)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * strangersMax {
		c, err := net.Dial("tcp", tr.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	ours := transport(t)
	back, err := ours.Prepare(7, 0b11)
	if err != nil {
		t.Fatal(err)
	}
	bells := [2]*rdma.Bell{}
	opened := make(chan error, 2)
	for me, one := range []*Transport{tr, ours} {
		if bells[me], err = rdma.NewBell(); err != nil {
			t.Fatal(err)
		}
		defer bells[me].Close()
		theirs := [][]byte{nil, back[0]}
		if me == 1 {
			theirs = [][]byte{offers[1], nil}
		}
		go func() {
			m, err := one.Open(rdma.MeshConfig{Epoch: 7, Me: me, Members: 0b11, Offers: theirs, Patience: 2 * time.Second, Bell: bells[me], Codec: newCodec(t, me)})
			if err == nil {
				err = m.Close()
			}
			opened <- err
		}()
	}
	for range 2 {
		if err := <-opened; err != nil {
			t.Error(err)
		}
	}
	_ = tr.Close()
	if n := bytes.Count(log.Bytes(), []byte("\n")); n != 1 || tr.Refused() != 2*strangersMax {
		t.Errorf("%d lines for %d refusals, want 1 for %d: %s", n, tr.Refused(), 2*strangersMax, &log)
	}
}

func TestCloseEndsAnOpen(t *testing.T) {
	tr := transport(t)
	offers, err := tr.Prepare(7, 0b11)
	if err != nil {
		t.Fatal(err)
	}
	bell, err := rdma.NewBell()
	if err != nil {
		t.Fatal(err)
	}
	defer bell.Close()
	done := make(chan error)
	go func() {
		_, err := tr.Open(rdma.MeshConfig{
			Epoch: 7, Members: 0b11, Patience: time.Hour, Bell: bell, Codec: newCodec(t, 0), Offers: [][]byte{nil, offers[1]},
		})
		done <- err
	}()
	time.Sleep(5 * time.Millisecond)
	_ = tr.Close()
	select {
	case err := <-done:
		if !errors.Is(err, ErrNotPrepared) {
			t.Errorf("Open = %v, want %v", err, ErrNotPrepared)
		}
	case <-time.After(patience):
		t.Fatal("Open goes on")
	}
	if _, err := tr.Prepare(8, 0b11); !errors.Is(err, ErrClosed) {
		t.Errorf("Prepare = %v, want %v", err, ErrClosed)
	}
}

func TestListenIsAnAddressOfThisBox(t *testing.T) {
	for _, a := range []string{"0.0.0.0", "::", "224.0.0.1"} {
		if _, err := New(Config{Listen: netip.MustParseAddr(a)}); err == nil {
			t.Errorf("%s: no error", a)
		}
	}
	tr, err := New(Config{Listen: netip.MustParseAddr("192.0.2.1")})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	if _, err := tr.Prepare(1, 0b11); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("Prepare = %v, want %v", err, unix.EADDRNOTAVAIL)
	}
}

func TestASocketIsSetUpForFrames(t *testing.T) {
	p := newRawPeer(t)
	fd := p.mesh.(*Mesh).conns[1].fd
	for _, c := range []struct {
		name       string
		level, opt int
		want       int
	}{
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0}, // see silent.go
	} {
		if n, err := unix.GetsockoptInt(fd, c.level, c.opt); err != nil || n != c.want {
			t.Errorf("%s = %d, %v, want %d", c.name, n, err, c.want)
		}
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %x, %v: it blocks", flags, err)
	}
	if flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %x, %v: a child would have it", flags, err)
	}
}

// FuzzOffer checks that any offer is either refused or says where and who.
func FuzzOffer(f *testing.F) {
	f.Add([]byte{})
	where, _ := netip.MustParseAddrPort("[fe80::1%eth0]:9").MarshalBinary()
	f.Add(append(make([]byte, 17), where...))
	f.Add(append(append([]byte{offerVersion}, make([]byte, 16)...), where...))
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, tok, err := parseOffer(b)
		if err != nil {
			if !errors.Is(err, ErrOffer) {
				t.Errorf("%v, want %v", err, ErrOffer)
			}
			return
		}
		back, err := addr.MarshalBinary()
		if got := append(append([]byte{offerVersion}, tok[:]...), back...); err != nil || !addr.IsValid() || !bytes.Equal(got, b) {
			t.Errorf("% x is %v, which is % x", b, addr, got)
		}
	})
}
