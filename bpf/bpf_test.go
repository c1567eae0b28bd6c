package bpf

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/internal/packet"
)

var update = flag.Bool("update", false, "rewrite golden files")

// Actions of an XDP program, enum xdp_action in linux/bpf.h.
const (
	xdpPass     = 2
	xdpRedirect = 4
)

// context is struct xdp_md of linux/bpf.h.
type context struct {
	Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32
}

// needCapabilities skips a test that the process has not the capabilities for.
func needCapabilities(tb testing.TB) {
	tb.Helper()
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		tb.Fatal(err)
	}
	m := regexp.MustCompile(`CapEff:\s+([0-9a-f]+)`).FindSubmatch(status)
	if m == nil {
		tb.Fatal("the kernel does not say which capabilities there are")
	}
	have, err := strconv.ParseUint(string(m[1]), 16, 64)
	if err != nil {
		tb.Fatal(err)
	}
	var missing []string
	for name, bit := range map[string]int{
		"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_NET_RAW": unix.CAP_NET_RAW, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN,
		"CAP_PERFMON": unix.CAP_PERFMON, "CAP_BPF": unix.CAP_BPF,
	} {
		if have>>bit&1 == 0 {
			missing = append(missing, name)
		}
	}
	if slices.Sort(missing); missing != nil {
		tb.Skipf("missing %s", strings.Join(missing, ", "))
	}
}

// load returns tables that are closed after the test.
func load(tb testing.TB, workers int) *Tables {
	tb.Helper()
	needCapabilities(tb)
	tables, err := Load(Config{Workers: workers})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := tables.Close(); err != nil {
			tb.Error(err)
		}
	})
	return tables
}

// enterNamespace puts the rest of the test into a network namespace of its own, which
// ends with it. Subtests would run outside.
func enterNamespace(tb testing.TB) {
	tb.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatal(err)
	}
}

// ip runs the ip command in the thread's namespace.
func ip(tb testing.TB, arguments ...string) {
	tb.Helper()
	if out, err := exec.Command("ip", arguments...).CombinedOutput(); err != nil {
		tb.Fatalf("ip %v: %v: %s", arguments, err, out)
	}
}

// addVeth makes two joined interfaces with eight queues in a namespace of their own.
func addVeth(tb testing.TB) (near, far string) {
	tb.Helper()
	enterNamespace(tb)
	suffix := make([]byte, 3)
	_, _ = rand.Read(suffix)
	near, far = "hr"+hex.EncodeToString(suffix)+"a", "hr"+hex.EncodeToString(suffix)+"b"
	ip(tb, "link", "add", near, "numrxqueues", "8", "numtxqueues", "8", "type", "veth", "peer", "name", far, "numrxqueues", "8", "numtxqueues", "8")
	for _, name := range []string{near, far} {
		ip(tb, "link", "set", name, "up")
	}
	return near, far
}

// xskSocket returns a bare AF_XDP socket: enough for a redirect to be decided.
func xskSocket(tb testing.TB) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatalf("AF_XDP socket: %v", err)
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// A bench runs the program on frames and compares it with the Go twin.
type bench struct {
	testing.TB
	tables   *Tables
	instance *Instance
	twin     *steer.Steerer
	workers  int
	socket   int
	ran      uint64
}

// newBench loads the program for one end of a veth in a namespace.
func newBench(tb testing.TB, workers int, aligned bool) *bench {
	tb.Helper()
	b := &bench{TB: tb, tables: load(tb, workers), workers: workers}
	near, _ := addVeth(tb)
	var err error
	if b.instance, err = b.tables.Program(Interface{Name: near, Aligned: aligned}); err != nil {
		tb.Fatal(err)
	}
	b.socket = xskSocket(tb)
	return b
}

func (b *bench) setFeeds(feeds []plan.Feed) {
	b.Helper()
	if err := b.tables.SetFeeds(feeds); err != nil {
		b.Fatal(err)
	}
	var err error
	if b.twin, err = steer.New(feeds); err != nil {
		b.Fatal(err)
	}
}

// run runs the program once on a frame from a queue and returns its action, what it
// put before the frame and the frame.
func (b *bench) run(frame []byte, queue int) (action uint32, meta, out []byte) {
	b.Helper()
	buf := make([]byte, len(frame)+256)
	var after context
	o := ebpf.RunOptions{
		Data: frame, DataOut: buf, Repeat: 1,
		Context:    &context{DataEnd: uint32(len(frame)), IngressIfindex: uint32(b.instance.index), RxQueueIndex: uint32(queue)},
		ContextOut: &after,
	}
	action, err := b.instance.program.Run(&o)
	if err != nil {
		b.Fatalf("run the program on %d bytes %x: %v", len(frame), frame, err)
	}
	b.ran++
	return action, o.DataOut[:after.Data], o.DataOut[after.Data:]
}

func (b *bench) counts(row uint32) FeedCounters {
	b.Helper()
	var c FeedCounters
	if err := b.tables.row(row, &c); err != nil {
		b.Fatal(err)
	}
	return c
}

// steer runs the program on a frame whose worker, by the twin, has a socket and
// checks action, counters, metadata and worker against the twin. It returns what
// the twin says.
func (b *bench) steer(frame []byte, queue int) (steer.Verdict, steer.Meta) {
	b.Helper()
	var want steer.Meta
	verdict := b.twin.Steer(frame, len(frame), false, 0, &want)
	worker := int(want.Group) * b.workers / event.GroupCount
	if verdict == steer.Steered {
		if err := b.instance.SetSocket(queue, worker, b.socket); err != nil {
			b.Fatal(err)
		}
	}
	before := b.counts(uint32(want.Feed))
	start := monotonic()
	action, meta, out := b.run(frame, queue)
	end := monotonic()
	after := b.counts(uint32(want.Feed))
	if verdict == steer.Steered {
		if err := b.instance.ClearSocket(queue, worker); err != nil {
			b.Fatal(err)
		}
	}

	before.Frames[verdict]++
	if verdict == steer.Steered {
		before.SteeredBytes += uint64(len(frame))
	}
	if before != after {
		b.Fatalf("frame %x: counters of feed %d are %v, want %v (the twin says %v)", frame, want.Feed, after, before, verdict)
	}
	if string(out) != string(frame) {
		b.Fatalf("frame %x came out as %x", frame, out)
	}
	if verdict != steer.Steered {
		if action != xdpPass || len(meta) != 0 {
			b.Fatalf("frame %x: action %d with metadata %x, want it passed without", frame, action, meta)
		}
		return verdict, want
	}
	if action != xdpRedirect {
		b.Fatalf("frame %x: action %d, want a redirect to worker %d", frame, action, worker)
	}
	var got steer.Meta
	if n, err := binary.Decode(meta, binary.LittleEndian, &got); err != nil || n != len(meta) {
		b.Fatalf("frame %x: metadata %x of %d bytes, want %d: %v", frame, meta, len(meta), steer.MetaSize, err)
	}
	if got.ReceiveNanos < start || got.ReceiveNanos > end {
		b.Fatalf("received at %d, want between %d and %d", got.ReceiveNanos, start, end)
	}
	want.ReceiveNanos = got.ReceiveNanos
	if got != want {
		b.Fatalf("frame %x: metadata\n%+v, want\n%+v", frame, got, want)
	}
	return verdict, got
}

// balance checks that every run was counted exactly once.
func (b *bench) balance() {
	b.Helper()
	feeds := make([]FeedCounters, event.FeedsMax)
	other, err := b.tables.Counters(feeds)
	if err != nil {
		b.Fatal(err)
	}
	n := other.Received()
	for i := range feeds {
		n += feeds[i].Received()
	}
	if n != b.ran {
		b.Errorf("%d frames are counted, %d were given", n, b.ran)
	}
}

func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano())
}

// udp returns a UDP frame; addresses are "address:port".
func udp(from, to, payload string, tags ...packet.Tag) []byte {
	u := packet.UDP{Link: packet.Link{Tags: tags}, Source: netip.MustParseAddrPort(from), Destination: netip.MustParseAddrPort(to)}
	return u.Append(nil, []byte(payload))
}

func tcp(from, to, payload string) []byte {
	s := packet.TCP{Source: netip.MustParseAddrPort(from), Destination: netip.MustParseAddrPort(to), Flags: 0x18, TCPOptions: []byte{1, 1, 8, 10, 11: 0}}
	return s.Append(nil, []byte(payload))
}

func rule(protocol uint8, destination string, port, vlan uint16, line uint8) plan.Rule {
	r := plan.Rule{Protocol: protocol, Port: port, VLAN: vlan, Line: line}
	if destination != "" {
		r.Destination = netip.MustParsePrefix(destination)
	}
	return r
}

// send returns a function that puts frames onto an interface.
func sender(tb testing.TB, name string) func(frame []byte) error {
	tb.Helper()
	nic, err := net.InterfaceByName(name)
	if err != nil {
		tb.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	to := &unix.SockaddrLinklayer{Ifindex: nic.Index, Halen: 6}
	return func(frame []byte) error { return unix.Sendto(fd, frame, 0, to) }
}
