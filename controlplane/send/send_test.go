package send

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/internal/netns"
)

// marked is an Ethernet type that nothing else on the test's cable uses.
const marked = 0x88b5 // for local experiments, IEEE 802

// frame makes frame number i, of n bytes.
func frame(i, n int) []byte {
	f := bytes.Repeat([]byte{byte(i)}, max(n, 18))
	copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1})
	binary.BigEndian.PutUint16(f[12:], marked)
	binary.BigEndian.PutUint32(f[14:], uint32(i))
	return f
}

// frames makes n frames of different lengths.
func frames(n int) [][]byte {
	var out [][]byte
	for i := range n {
		out = append(out, frame(i, 18+i*131%1400))
	}
	return out
}

// file writes a capture, its records apart by step, and returns its path.
func file(tb testing.TB, step time.Duration, in ...[]byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "test.pcap")
	w, err := capture.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	for i, f := range in {
		if err := w.Write(&capture.Record{Data: f, Stamp: event.Nanos(1e18).Add(time.Duration(i) * step)}); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return path
}

// A tap receives the marked frames at the other end of the cable.
type tap struct {
	fd   int
	mu   sync.Mutex
	got  [][]byte
	done chan struct{}
}

func listen(tb testing.TB, e *netns.End) *tap {
	tb.Helper()
	p := &tap{done: make(chan struct{})}
	var err error
	e.Do(tb, func() {
		p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(marked>>8|marked&0xff<<8))
		if err == nil {
			err = unix.Bind(p.fd, &unix.SockaddrLinklayer{Ifindex: e.Index, Protocol: marked>>8 | marked&0xff<<8})
		}
	})
	if err == nil {
		err = unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	}
	if err == nil {
		err = unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000})
	}
	if err != nil {
		tb.Fatal(err)
	}
	stop := make(chan struct{})
	go func() {
		defer close(p.done)
		buf := make([]byte, 1<<16)
		for {
			n, err := unix.Read(p.fd, buf)
			if err != nil {
				select {
				case <-stop:
					return
				default:
					continue
				}
			}
			p.mu.Lock()
			p.got = append(p.got, slices.Clone(buf[:n]))
			p.mu.Unlock()
		}
	}()
	tb.Cleanup(func() { close(stop); <-p.done; unix.Close(p.fd) })
	return p
}

// wait returns what arrived, once it is n frames or nothing has come for long.
func (p *tap) wait(n int) [][]byte {
	for range 200 {
		p.mu.Lock()
		got := len(p.got)
		p.mu.Unlock()
		if got >= n {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got
}

// in runs fn on a thread inside the sending end's namespace.
func in(e *netns.End, fn func()) { <-e.Go(fn) }

func run(e *netns.End, ctx context.Context, c Config) (sum Summary, err error) { //nolint:revive // the namespace is the subject
	c.Interface = e.Interface
	in(e, func() { sum, err = Run(ctx, c) })
	return sum, err
}

func TestFramesArriveWholeAndInOrder(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	want := frames(5000)
	path := file(t, 10*time.Microsecond, want...)
	for _, c := range []struct {
		name   string
		config Config
		rounds int
	}{
		{"flat out", Config{Mode: FlatOut}, 1},
		{"at a rate", Config{Mode: Rate, PPS: 50_000}, 1},
		{"at the capture's pace", Config{Mode: Pace}, 1},
		{"three rounds", Config{Mode: FlatOut, Rounds: 3}, 3},
		{"three rounds of standard input", Config{Mode: FlatOut, Rounds: 3, Paths: []string{"-"}}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			tap := listen(t, p.B)
			if c.config.Paths == nil {
				c.config.Paths = []string{path}
			} else {
				f, err := os.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				c.config.Stdin = f
			}
			sum, err := run(p.A, t.Context(), c.config)
			if err != nil {
				t.Fatal(err)
			}
			all := len(want) * c.rounds
			if sum.Sent != uint64(all) || sum.Records != uint64(all) || sum.Rounds != c.rounds {
				t.Fatalf("%+v, want %d sent in %d rounds", sum, all, c.rounds)
			}
			got := tap.wait(all)
			if len(got) != all {
				t.Fatalf("%d frames arrived, want %d", len(got), all)
			}
			for i, f := range got {
				if !bytes.Equal(f, want[i%len(want)]) {
					t.Fatalf("frame %d of %d is not the one sent", i, all)
				}
			}
		})
	}
}

func TestTheScheduleIsKept(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	path := file(t, time.Millisecond, frames(301)...)
	for _, c := range []Config{{Mode: Pace}, {Mode: Rate, PPS: 1000}, {Mode: Pace, Rounds: 2}} {
		c.Paths = []string{path}
		want := 0.3 * float64(max(c.Rounds, 1))
		sum, err := run(p.A, t.Context(), c)
		// No earlier, ever; later only as far as a busy machine makes it.
		if err != nil || sum.Seconds < want || sum.Seconds > want+2 {
			t.Errorf("mode %d, %d rounds: %.4f s, %v; want %.1f s", c.Mode, c.Rounds, sum.Seconds, err, want)
		}
	}
}

// A frame is due at its own time: after a stall those that were missed go out at
// once, and the stream ends when it should have.
func TestAStallIsCaughtUp(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	tap := listen(t, p.B)
	var err error
	var late, took time.Duration
	in(p.A, func() {
		var s *Sender
		if s, err = Open(p.A.Interface); err != nil {
			return
		}
		defer s.Close()
		i := -1
		begin := time.Now()
		err = s.Stream(t.Context(), func() ([]byte, time.Duration, error) {
			if i++; i == 100 {
				time.Sleep(700 * time.Millisecond)
			}
			if i > 600 {
				return nil, 0, io.EOF
			}
			return frame(i, 64), time.Duration(i) * time.Millisecond, nil
		})
		took, late = time.Since(begin), s.Late()
	})
	if err != nil || took < 800*time.Millisecond || took > 1200*time.Millisecond {
		t.Errorf("the stream took %v, %v; want 800 ms: the first tenth of a second, the stall, and all the rest at once", took, err)
	}
	if late < 690*time.Millisecond {
		t.Errorf("a stall of 700 ms is told as %v", late)
	}
	if got := tap.wait(601); len(got) != 601 {
		t.Errorf("%d frames arrived, want 601", len(got))
	}
}

// Whatever is not sent is counted under its reason, and the sum is right.
func TestEveryRecordIsAccountedFor(t *testing.T) {
	p := netns.NewPair(t, netns.Options{MTU: 1000})
	tagged := frame(1, 1018)
	copy(tagged[12:], []byte{0x81, 0, 0, 7, 0x88, 0xb5})
	path := filepath.Join(t.TempDir(), "odd.pcap")
	w, err := capture.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range []capture.Record{
		{Data: frame(0, 100)},
		{Data: frame(1, 100), WireLength: 101}, // shortened by a snap length
		{Data: frame(2, 1014)},                 // as long as the MTU
		{Data: frame(3, 1015)},                 // longer
		{Data: tagged},                         // as long, with a tag
		{Data: frame(4, 60)[:13]},              // no Ethernet header
		{Data: nil},
		{Data: frame(5, 100)},
	} {
		r.Stamp = event.Nanos(i)
		if err := w.Write(&r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b[:len(b)-40], 0o600); err != nil { // the last one is cut
		t.Fatal(err)
	}
	tap := listen(t, p.B)
	sum, err := run(p.A, t.Context(), Config{Paths: []string{path}, Mode: FlatOut})
	if err != nil {
		t.Fatal(err)
	}
	if sum.Records != 8 || sum.Sent != 3 || sum.Snapped != 1 || sum.Cut != 1 || sum.TooLong != 1 || sum.TooShort != 2 || sum.Refused != 0 {
		t.Errorf("got %+v", sum)
	}
	if got := tap.wait(3); len(got) != 3 || len(got[1]) != 1014 {
		t.Errorf("%d frames arrived, want 3", len(got))
	}
	for _, want := range []string{"sent 3 of 8", "1 skipped: cut off by the end of the file", "1 skipped: the capture holds only a part", "1 not sent: longer", "2 not sent: shorter"} {
		if s := sum.String(); !strings.Contains(s, want) {
			t.Errorf("%q lacks %q", s, want)
		}
	}
}

func TestWhatTheInterfaceRefusesIsCountedApart(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	p.SetUp(t, p.B, false) // a cable without a carrier takes nothing
	sum, err := run(p.A, t.Context(), Config{Paths: []string{file(t, 0, frames(200)...)}, Mode: FlatOut})
	if err != nil || sum.Sent != 0 || sum.Refused != 200 || sum.NoBuffers != 200 {
		t.Errorf("%+v, %v; want 200 refused for want of buffers", sum, err)
	}
}

func TestTroubleWithTheInterfaceIsNamed(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	path := file(t, time.Millisecond, frames(2000)...)
	var err error
	in(p.A, func() { _, err = Open("no-such-if") })
	if !errors.Is(err, ErrGone) {
		t.Errorf("absent: %v, want %v", err, ErrGone)
	}
	p.SetUp(t, p.A, false)
	if _, err := run(p.A, t.Context(), Config{Paths: []string{path}}); !errors.Is(err, ErrDown) {
		t.Errorf("down: %v, want %v", err, ErrDown)
	}
	p.SetUp(t, p.A, true)
	deleted := make(chan struct{})
	go func() {
		defer close(deleted)
		time.Sleep(100 * time.Millisecond)
		p.Delete(t)
	}()
	defer func() { <-deleted }()
	sum, err := run(p.A, t.Context(), Config{Paths: []string{path}, Rounds: -1})
	if !errors.Is(err, ErrGone) && !errors.Is(err, ErrDown) || sum.Sent == 0 {
		t.Errorf("removed while sending: %v after %d frames, want %v", err, sum.Sent, ErrGone)
	}
}

func TestAStopIsNoFailure(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	path := file(t, time.Hour, frames(2)...) // the second frame is due in an hour
	for _, c := range []Config{{}, {Mode: FlatOut, Rounds: -1}} {
		c.Paths = []string{path}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		begin := time.Now()
		sum, err := run(p.A, ctx, c)
		cancel()
		if took := time.Since(begin); err != nil || sum.Sent == 0 || took > 3*time.Second {
			t.Errorf("mode %d: %v, %d frames, after %v; want an end without error in 100 ms", c.Mode, err, sum.Sent, took)
		}
	}
}

func TestABadCaptureIsAnErrorBehindItsGoodFrames(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	path := file(t, 0, frames(10)...)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0)
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err := run(p.A, t.Context(), Config{Paths: []string{path}, Mode: FlatOut})
	if !errors.Is(err, capture.ErrCorrupt) || sum.Sent != 10 {
		t.Errorf("%d sent, %v; want 10 and %v", sum.Sent, err, capture.ErrCorrupt)
	}
	empty := file(t, 0)
	if _, err := run(p.A, t.Context(), Config{Paths: []string{empty}, Rounds: -1}); !errors.Is(err, ErrNothing) {
		t.Errorf("rounds of nothing: %v, want %v", err, ErrNothing)
	}
}

func TestFlagsAreChecked(t *testing.T) {
	for args, want := range map[string]string{
		"":                                     "which capture",
		"x.pcap":                               "--interface is missing",
		"-i lo --pps 5 --flat-out x.pcap":      "--pps and --flat-out exclude each other",
		"-i lo --pps 0 x.pcap":                 "--pps: 0 is not a rate",
		"-i lo --loop -1 x.pcap":               "--loop: -1",
		"-i lo --colour x.pcap":                "unknown flag",
		"-i lo --pps fast x.pcap":              "invalid argument",
		"-i lo --pace --flat-out --pps 5 a b ": "exclude each other",
	} {
		cmd := Command()
		cmd.SetArgs(strings.Fields(args))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		err := cmd.ExecuteContext(t.Context())
		var u *usage.Error
		if !errors.As(err, &u) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--help") {
			t.Errorf("send %s: %v, want a usage error with %q", args, err, want)
		}
	}
}

func TestTheCommandSendsAndEndsWithItsSummary(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	path := file(t, 0, frames(50)...)
	for flag, want := range map[string]string{"--json": `"sent":50,`, "--quiet": "sent 50 of 50 frames"} {
		var errs bytes.Buffer
		var err error
		in(p.A, func() {
			cmd := Command()
			cmd.SetArgs([]string{"--interface", p.A.Interface, "--flat-out", flag, path})
			cmd.SetErr(&errs)
			err = cmd.ExecuteContext(t.Context())
		})
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		if err != nil || !strings.Contains(lines[len(lines)-1], want) {
			t.Errorf("%s: %v, %q; want %q in the last line", flag, err, errs.String(), want)
		}
	}
}

func TestTheMeterWritesPlainLinesWhereThereIsNoTerminal(t *testing.T) {
	var out bytes.Buffer
	m := &Meter{w: &out, status: func() Status { return Status{0.5, Counts{Sent: 1234567, Refused: 3}} }}
	m.begin = time.Now().Add(-time.Second)
	m.lastAt = m.begin
	m.show(m.begin.Add(time.Second))
	if want := "50 %  1,234,567 sent, 1,234,567/s, 3 refused, 1s left\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	m.terminal = true
	m.show(m.begin.Add(2 * time.Second))
	if want := "\r[############............]  50 %  1,234,567 sent, 0/s, 3 refused, 2s left\x1b[K"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	NewMeter(nil, nil).Stop() // shows nothing and ends
}

// BenchmarkSend sends flat out through a veth pair whose other end has no reader.
func BenchmarkSend(b *testing.B) {
	p := netns.NewPair(b, netns.Options{})
	for _, size := range []int{64, 300, 1400} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			f := frame(1, size)
			var err error
			in(p.A, func() {
				var s *Sender
				if s, err = Open(p.A.Interface); err != nil {
					return
				}
				defer s.Close()
				n := 0
				b.ResetTimer()
				err = s.Stream(b.Context(), func() ([]byte, time.Duration, error) {
					if n++; n > b.N {
						return nil, 0, io.EOF
					}
					return f, 0, nil
				})
				b.StopTimer()
				b.ReportMetric(float64(s.Counts().Sent)/b.Elapsed().Seconds(), "frames/s")
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}
