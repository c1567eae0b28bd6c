//go:build linux && cgo && rdma

package verbs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
	"github.com/headrace/headrace/rdma/meshtest"
)

// These tests need devices: peer i uses the i-th that HEADRACE_RDMA_DEVICES lists, soft
// ones included, on the interfaces v1, v2 … (TestGuest has them). They assert results and orders; limits of
// time are far off, as a guest without hardware help is slow.
func devices(t *testing.T) []string {
	t.Helper()
	list := os.Getenv("HEADRACE_RDMA_DEVICES")
	if list == "" {
		t.Skip("HEADRACE_RDMA_DEVICES names no RDMA devices")
	}
	return strings.Split(list, ",")
}

// patient is for tests that are not about time: a guest may be stopped for long.
var patient = Config{RetryCount: 6, Timeout: 18}

// A cluster is the transports of one process's peers.
type cluster struct {
	transports []*Transport
	bells      []*rdma.Bell
	epoch      uint64
	sealed     bool
	late       map[int]time.Duration // how long a peer waits before it opens
}

func newCluster(t *testing.T, c Config) *cluster {
	t.Helper()
	cl := &cluster{late: map[int]time.Duration{}}
	for i, d := range devices(t) {
		c.Me, c.Device, c.GIDIndex = i, d, -1
		tr, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		bell, err := rdma.NewBell()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tr.Close(); bell.Close() })
		cl.transports = append(cl.transports, tr)
		cl.bells = append(cl.bells, bell)
	}
	return cl
}

func (cl *cluster) all() collective.Set { return collective.First(len(cl.transports)) }

// open makes the meshes of the next epoch, one a member, nil for others.
func (cl *cluster) open(t *testing.T, members collective.Set) []*mesh {
	t.Helper()
	meshes, errs := cl.tryOpen(t, members, 60*time.Second)
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return meshes
}

func (cl *cluster) tryOpen(t *testing.T, members collective.Set, patience time.Duration) ([]*mesh, []error) {
	t.Helper()
	cl.epoch++
	n := len(cl.transports)
	offers := make([][][]byte, n)
	for i := range members.All {
		o, err := cl.transports[i].Prepare(cl.epoch, members)
		if err != nil {
			t.Fatal(err)
		}
		offers[i] = o
	}
	meshes, errs := make([]*mesh, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range members.All {
		c := rdma.MeshConfig{
			Epoch: cl.epoch, Me: i, Members: members, Offers: make([][]byte, n),
			Patience: patience, Bell: cl.bells[i], Codec: cl.codec(t, i, members),
		}
		for p := range members.All {
			c.Offers[p] = offers[p][i]
		}
		wg.Go(func() {
			time.Sleep(cl.late[i])
			m, err := cl.transports[i].Open(c)
			if errs[i] = err; err == nil {
				meshes[i] = m.(*mesh)
			}
		})
	}
	wg.Wait()
	return meshes, errs
}

func (cl *cluster) codec(t *testing.T, me int, members collective.Set) *frame.Codec {
	t.Helper()
	c := frame.Config{Me: me, Epoch: cl.epoch}
	if cl.sealed {
		c.Keys = func(peer int) (send, receive [32]byte, err error) {
			copy(send[:], fmt.Sprintf("%d %d to %d", cl.epoch, me, peer))
			copy(receive[:], fmt.Sprintf("%d %d to %d", cl.epoch, peer, me))
			return send, receive, nil
		}
	}
	k, err := frame.NewCodec(c, uint32(members))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func closeAll(meshes []*mesh) {
	for _, m := range meshes {
		if m != nil {
			m.Close()
		}
	}
}

// content is what peer sends in a round: its bytes are different everywhere.
func content(peer int, round uint64, n int) []byte {
	b := make([]byte, n)
	x := uint64(peer)<<32 ^ round*0x9e3779b97f4a7c15
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	return b
}

// rounds lets one member do rounds first…last with all others: every member sends its
// content and waits for that of all others, which may be a round ahead.
func rounds(m *mesh, members collective.Set, first, last uint64, size int, limit time.Duration) error {
	others := members.Without(m.me)
	var got [collective.PeersMax]uint64
	for i := range got {
		got[i] = first - 1
	}
	var events [8]rdma.Event
	start := time.Now()
	for r := first; r <= last; r++ {
		mine := content(m.me, r, size)
		h := frame.Header{Kind: frame.Dense, Dest: frame.AnyDest, Round: r, Total: uint64(size)}
		for left, missing := others, others; left|missing != 0; {
			left &^= m.Send(left, &h, mine)
			n := m.Poll(events[:])
			for i := range events[:n] {
				ev := &events[i]
				if ev.Err != nil {
					return fmt.Errorf("%d: round %d: %w", m.me, r, ev.Err)
				}
				if ev.Header.Round != got[ev.Peer]+1 {
					return fmt.Errorf("%d: peer %d: round %d after %d", m.me, ev.Peer, ev.Header.Round, got[ev.Peer])
				}
				got[ev.Peer]++
				if !bytes.Equal(ev.Payload, content(ev.Peer, ev.Header.Round, size)) {
					return fmt.Errorf("%d: peer %d: round %d has other bytes", m.me, ev.Peer, ev.Header.Round)
				}
			}
			for p := range missing.All {
				if got[p] >= r {
					missing = missing.Without(p)
				}
			}
			if time.Since(start) > limit {
				return fmt.Errorf("%d: round %d: nothing from %b, not sent to %b", m.me, r, missing, left)
			}
			if left|missing != 0 && n == 0 {
				m.Park(100 * time.Millisecond)
			}
		}
	}
	return nil
}

// together runs f for every mesh at once and returns the errors.
func together(meshes []*mesh, f func(m *mesh) error) []error {
	errs := make([]error, len(meshes))
	var wg sync.WaitGroup
	for i, m := range meshes {
		if m != nil {
			wg.Go(func() { errs[i] = f(m) })
		}
	}
	wg.Wait()
	return errs
}

func allRight(t *testing.T, errs []error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestDeviceConformance is what every transport must do.
func TestDeviceConformance(t *testing.T) {
	list := devices(t)
	for _, both := range []bool{false, true} {
		t.Run(fmt.Sprintf("busy=%v/sealed=%v", both, both), func(t *testing.T) {
			meshtest.Run(t, meshtest.Config{
				PeersMax: len(list), Sealed: both, Scale: 10, Bytes: 1 << 20,
				Make: func(tb testing.TB, n int) []rdma.Transport {
					tb.Helper()
					ts := make([]rdma.Transport, n)
					for p := range ts {
						tr, err := New(Config{Me: p, Device: list[p], GIDIndex: -1, RetryCount: 6, Timeout: 15, Busy: both})
						if err != nil {
							tb.Fatal(err)
						}
						ts[p] = tr
					}
					return ts
				},
			})
		})
	}
}

func TestDeviceRounds(t *testing.T) {
	for _, busy := range []bool{false, true} {
		for _, sealed := range []bool{false, true} {
			t.Run(fmt.Sprintf("busy=%v/sealed=%v", busy, sealed), func(t *testing.T) {
				c := patient
				c.Busy = busy
				cl := newCluster(t, c)
				cl.sealed = sealed
				meshes := cl.open(t, cl.all())
				defer closeAll(meshes)
				first := uint64(1)
				for _, step := range []struct {
					size int
					n    uint64
				}{{0, 20}, {8, 20}, {1000, 20}, {rdma.FrameMax, 3}} {
					start := time.Now()
					allRight(t, together(meshes, func(m *mesh) error {
						return rounds(m, cl.all(), first, first+step.n-1, step.size, time.Minute)
					}))
					t.Logf("%d members, %5d bytes: %v a round", len(meshes), step.size, time.Since(start)/time.Duration(step.n))
					first += step.n
				}
			})
		}
	}
}

// TestDeviceSlowReader overruns a peer that does not poll: it takes as many frames as
// its ring has slots, then none, then all the rest in order.
func TestDeviceSlowReader(t *testing.T) {
	c := patient
	c.Slots = 4
	cl := newCluster(t, c)
	pair := collective.Of(0, 1)
	meshes := cl.open(t, pair)
	defer closeAll(meshes)
	from, to := meshes[0], meshes[1]
	h := frame.Header{Kind: frame.Sparse}
	sent, got := uint64(0), uint64(0)
	send := func() bool {
		h.Round = sent + 1
		if from.Send(pair.Without(0), &h, content(0, sent+1, 5000)) == 0 {
			return false
		}
		sent++
		return true
	}
	var events [3]rdma.Event
	for send() {
	}
	for range 20 { // completions come, credits do not
		from.Park(10 * time.Millisecond)
		if n := from.Poll(events[:]); n != 0 || send() {
			t.Fatalf("a frame beyond the ring was taken, or %d events", n)
		}
	}
	if sent != 4 {
		t.Fatalf("%d frames taken, want 4", sent)
	}
	if n := cl.transports[0].Stats().CreditsMin; n != 0 {
		t.Errorf("CreditsMin = %d, want 0", n)
	}
	for start := time.Now(); got < 300; {
		n := to.Poll(events[:])
		for i := range events[:n] {
			got++
			if ev := &events[i]; ev.Err != nil || ev.Header.Round != got || !bytes.Equal(ev.Payload, content(0, got, 5000)) {
				t.Fatalf("frame %d: %+v", got, ev.Header)
			}
		}
		if n == 0 {
			to.Park(time.Millisecond)
		}
		from.Poll(events[:])
		for sent < 300 && send() {
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("%d sent, %d have come", sent, got)
		}
	}
}

// TestDeviceLateOpen has peers that open long after the others' first packets were given
// up.
func TestDeviceLateOpen(t *testing.T) {
	c := Config{RetryCount: 6, Timeout: 15}
	for _, who := range []int{0, len(devices(t)) - 1} {
		cl := newCluster(t, c)
		cl.late[who] = 4 * c.Silence()
		meshes := cl.open(t, cl.all())
		allRight(t, together(meshes, func(m *mesh) error { return rounds(m, cl.all(), 1, 5, 100, time.Minute) }))
		failed := cl.transports[len(meshes)-1].Stats().Completions[12]
		t.Logf("peer %d late by %v: %d tries of the highest peer were given up", who, cl.late[who], failed)
		if who == 0 && failed == 0 {
			t.Error("nothing was given up: this shows nothing")
		}
		closeAll(meshes)
	}
}

// TestDeviceAbsent has a peer that does not open at all.
func TestDeviceAbsent(t *testing.T) {
	cl := newCluster(t, Config{RetryCount: 6, Timeout: 15})
	last := len(cl.transports) - 1
	cl.late[last] = 6 * time.Second
	meshes, errs := cl.tryOpen(t, cl.all(), 2*time.Second)
	defer closeAll(meshes)
	for i, err := range errs {
		if i != last && (err == nil || !strings.Contains(err.Error(), fmt.Sprintf("peer %d does not answer", last))) {
			t.Errorf("peer %d: %v", i, err)
		}
	}
	if errs[last] == nil {
		t.Error("the late peer found the others, which were gone")
	}
	cl.late[last] = 0
	meshes = cl.open(t, cl.all())
	allRight(t, together(meshes, func(m *mesh) error { return rounds(m, cl.all(), 1, 2, 100, time.Minute) }))
	closeAll(meshes)
}

func tc(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("tc", args...).CombinedOutput(); err != nil {
		t.Fatalf("tc %v: %v: %s", args, err, out)
	}
}

// netem spoils what leaves an interface until the test is over or the returned
// function is called.
func netem(t *testing.T, dev string, how ...string) (undo func()) {
	t.Helper()
	tc(t, append([]string{"qdisc", "add", "dev", dev, "root", "netem"}, how...)...)
	undo = sync.OnceFunc(func() { tc(t, "qdisc", "del", "dev", dev, "root") })
	t.Cleanup(undo)
	return undo
}

// TestDeviceSilentCut lets nothing out of peer 0, which still hears the others: every
// peer is told in time, and the others go on in a new epoch without it.
func TestDeviceSilentCut(t *testing.T) {
	c := Config{RetryCount: 6, Timeout: 15}
	cl := newCluster(t, c)
	meshes := cl.open(t, cl.all())
	allRight(t, together(meshes, func(m *mesh) error { return rounds(m, cl.all(), 1, 3, 100, time.Minute) }))
	mend := netem(t, "v1", "loss", "100%")
	start := time.Now()
	limit := 20 * c.Silence()
	errs := together(meshes, func(m *mesh) error { return rounds(m, cl.all(), 4, 6, 100, 4*limit) })
	t.Logf("told after %v, the formula says %v", time.Since(start), c.Silence())
	for i, err := range errs {
		var ce *CompletionError
		if !errors.As(err, &ce) || ce.Status.String() != "retries_exceeded" {
			t.Errorf("peer %d: %v, want retries_exceeded", i, err)
		}
	}
	if d := time.Since(start); d > limit {
		t.Errorf("told after %v, want %v at most", d, limit)
	}
	var events [8]rdma.Event
	for i, m := range meshes { // flushed requests are not told again
		for range 5 {
			m.Park(20 * time.Millisecond)
			for k := range m.Poll(events[:]) {
				if ev := &events[k]; ev.Err != nil && i != 0 && ev.Peer == 0 {
					t.Errorf("peer %d hears again that 0 failed: %v", i, ev.Err)
				}
			}
		}
	}
	closeAll(meshes)
	mend()
	rest := cl.all().Without(0)
	meshes = cl.open(t, rest)
	allRight(t, together(meshes, func(m *mesh) error { return rounds(m, rest, 1, 5, 1000, time.Minute) }))
	closeAll(meshes)
	meshes = cl.open(t, cl.all())
	allRight(t, together(meshes, func(m *mesh) error { return rounds(m, cl.all(), 1, 5, 1000, time.Minute) }))
	closeAll(meshes)
}

// TestDevicePortDown takes the other end of peer 0's cable away: its port is down, so it
// cannot prepare an epoch until it is up again.
func TestDevicePortDown(t *testing.T) {
	cl := newCluster(t, Config{RetryCount: 6, Timeout: 15})
	meshes := cl.open(t, cl.all())
	link := func(state string) {
		t.Helper()
		if out, err := exec.Command("ip", "link", "set", "p1", state).CombinedOutput(); err != nil {
			t.Fatalf("ip link set p1 %s: %v: %s", state, err, out)
		}
	}
	link("down")
	t.Cleanup(func() { link("up") })
	for i, err := range together(meshes, func(m *mesh) error { return rounds(m, cl.all(), 1, 2, 100, time.Minute) }) {
		if err == nil {
			t.Errorf("peer %d: no failure with peer 0's port down", i)
		}
	}
	closeAll(meshes)
	prepare := func() error { _, err := cl.transports[0].Prepare(99, cl.all()); return err }
	until := func(what string, done func() bool) {
		t.Helper()
		for start := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
			if time.Since(start) > time.Minute {
				t.Fatalf("%s: Prepare = %v", what, prepare())
			}
		}
	}
	until("down", func() bool { err := prepare(); return err != nil && strings.Contains(err.Error(), "not active") })
	link("up")
	until("up", func() bool { return prepare() == nil })
	meshes = cl.open(t, cl.all())
	allRight(t, together(meshes, func(m *mesh) error { return rounds(m, cl.all(), 1, 5, 1000, time.Minute) }))
	closeAll(meshes)
}

// TestDeviceLoss loses, repeats and reorders packets on every wire: all payloads are
// right all the same. A soft device can take what is out of turn for a dead peer; then
// the members go on in a new epoch, as they would elsewhere.
func TestDeviceLoss(t *testing.T) {
	cl := newCluster(t, Config{RetryCount: 6, Timeout: 16})
	for i := range cl.transports {
		netem(t, fmt.Sprintf("v%d", i+1), "delay", "200us", "loss", "1%", "duplicate", "1%", "reorder", "5%")
	}
	start, given := time.Now(), 0
	leg := func(n uint64, size int) (errs []error) {
		meshes := cl.open(t, cl.all())
		defer closeAll(meshes)
		errs = together(meshes, func(m *mesh) error { return rounds(m, cl.all(), 1, n, size, 20*time.Second) })
		for _, m := range meshes {
			if n := m.codec.Count(frame.ErrSum); n != 0 {
				t.Errorf("%d spoiled frames came through to %d", n, m.me)
			}
		}
		return errs
	}
	for _, l := range []struct {
		n    uint64
		size int
	}{{50, 8}, {5, 20000}, {50, 8}, {5, 20000}} {
		errs := leg(l.n, l.size)
		for dead := new(CompletionError); errors.As(errors.Join(errs...), &dead) && dead.Status == 12 && given < 3; given++ {
			errs = leg(l.n, l.size)
		}
		allRight(t, errs)
	}
	again := uint64(0)
	for _, tr := range cl.transports {
		s := tr.Stats()
		again += s.Counters["completer_retry_err"] + s.Counters["out_of_seq_request"] + s.Counters["duplicate_request"]
	}
	if again == 0 {
		t.Error("no packet was sent again: the wires lost nothing")
	}
	t.Logf("110 rounds in %v; %d packets out of turn or sent again; a peer was taken for dead %d times", time.Since(start), again, given)
}

// TestDeviceKill ends one peer's queue pairs behind its back.
func TestDeviceKill(t *testing.T) {
	c := Config{}
	cl := newCluster(t, c)
	meshes := cl.open(t, cl.all())
	allRight(t, together(meshes, func(m *mesh) error { return rounds(m, cl.all(), 1, 3, 100, time.Minute) }))
	for _, p := range meshes[1].peers {
		meshes[1].link.kill(p.id)
	}
	errs := together(meshes, func(m *mesh) error { return rounds(m, cl.all(), 4, 4, 100, time.Minute) })
	for i, err := range errs {
		var ce *CompletionError
		if !errors.As(err, &ce) {
			t.Errorf("peer %d: %v, want a failed completion", i, err)
		}
		if i != 1 && err != nil && !strings.Contains(err.Error(), "peer 1:") {
			t.Errorf("peer %d: %v, want it to name peer 1", i, err)
		}
	}
	closeAll(meshes)
}

// TestDeviceBadFrame writes a frame with one bit wrong.
func TestDeviceBadFrame(t *testing.T) {
	cl := newCluster(t, patient)
	pair := collective.Of(0, 1)
	meshes := cl.open(t, pair)
	defer closeAll(meshes)
	from, to := meshes[0], meshes[1]
	p := from.by[1]
	slot, w := p.send()
	f := from.codec.Seal(p.out[slot*slotBytes:][:0], 1, &frame.Header{Kind: frame.Dense, Total: 300}, content(0, 1, 300))
	f[100] ^= 4
	from.link.requests[0] = request{from: addr(f), to: p.to, peer: 1, kind: kindFrame, len: uint32(len(f)), imm: uint32(w)}
	from.post(1)
	var events [4]rdma.Event
	for start := time.Now(); ; to.Park(10 * time.Millisecond) {
		if n := to.Poll(events[:]); n == 1 && errors.Is(events[0].Err, frame.ErrSum) && events[0].Peer == 0 {
			break
		} else if n != 0 || time.Since(start) > time.Minute {
			t.Fatalf("%d events, first %+v, want ErrSum", n, events[0])
		}
	}
	if n := to.codec.Count(frame.ErrSum); n != 1 {
		t.Errorf("ErrSum was counted %d times", n)
	}
	if got := to.Send(collective.Of(0), &frame.Header{Kind: frame.Dense}, nil); got != 0 {
		t.Error("a peer that has failed took a frame")
	}
}

// TestDeviceEpochs opens one epoch after the other, some prepared in vain: nothing of
// one is seen in the next, and no descriptor is left behind.
func TestDeviceEpochs(t *testing.T) {
	cl := newCluster(t, patient)
	files := func() int { l, _ := os.ReadDir("/proc/self/fd"); return len(l) }
	closeAll(cl.open(t, cl.all()))
	before := files()
	seen := map[uint32]bool{}
	for e := range 6 {
		members := cl.all()
		if e%2 == 1 {
			members = members.Without(e % len(cl.transports))
		}
		if _, err := cl.transports[0].Prepare(1000, members.With(0)); err != nil { // taken back
			t.Fatal(err)
		}
		meshes := cl.open(t, members)
		for _, m := range meshes {
			for p := range members.All {
				if m == nil || p == m.me {
					continue
				}
				if psn := m.by[p].path.psn; seen[psn] {
					t.Errorf("packet number %#x was used before", psn)
				} else {
					seen[psn] = true
				}
			}
		}
		allRight(t, together(meshes, func(m *mesh) error { return rounds(m, members, 1, 5, 1000, time.Minute) }))
		closeAll(meshes)
	}
	alone := cl.open(t, collective.Of(0))
	alone[0].Park(time.Millisecond)
	if n := alone[0].Poll(make([]rdma.Event, 1)) + alone[0].Send(1, &frame.Header{}, nil).Len(); n != 0 {
		t.Errorf("a member alone has %d events or takers", n)
	}
	closeAll(alone)
	for _, tr := range cl.transports {
		if tr.prepared != nil {
			tr.release(tr.prepared)
		}
	}
	if after := files(); after > before {
		t.Errorf("%d open files, %d before", after, before)
	}
}

// TestDeviceListener sends nothing and loses its peer; before that it is probed many
// times and nothing happens.
func TestDeviceListener(t *testing.T) {
	for _, busy := range []bool{false, true} {
		c := Config{Busy: busy}
		cl := newCluster(t, c)
		meshes := cl.open(t, collective.Of(0, 1))
		var events [4]rdma.Event
		for start := time.Now(); time.Since(start) < 6*probeEvery; meshes[0].Park(time.Minute) {
			if n := meshes[0].Poll(events[:]); n != 0 {
				t.Fatalf("busy %v: %+v", busy, events[0])
			}
		}
		before := cl.transports[0].Stats().Completions[0]
		if before < 3 {
			t.Errorf("busy %v: %d probes in %v", busy, before, 6*probeEvery)
		}
		meshes[1].Close()
		start := time.Now()
		for meshes[0].Poll(events[:]) == 0 {
			meshes[0].Park(time.Minute)
			if limit := 20 * (c.Silence() + probeEvery); time.Since(start) > limit {
				t.Fatalf("busy %v: nothing told within %v", busy, limit)
			}
		}
		if err := events[0].Err; err == nil || events[0].Peer != 1 {
			t.Errorf("busy %v: %+v", busy, events[0])
		}
		closeAll(meshes)
	}
}

// TestDeviceAllocs sends, polls, parks until something comes and until nothing does,
// and probes, all without Go memory.
func TestDeviceAllocs(t *testing.T) {
	for _, busy := range []bool{false, true} {
		c := patient
		c.Busy = busy
		cl := newCluster(t, c)
		cl.sealed = busy
		pair := collective.Of(0, 1)
		meshes := cl.open(t, pair)
		var events [2][4]rdma.Event
		payload := content(0, 0, 1000)
		h := frame.Header{Kind: frame.Dense, Total: 1000}
		trip := func() {
			for i, m := range meshes[:2] {
				for left := pair.Without(i); left != 0; {
					left &^= m.Send(left, &h, payload)
				}
			}
			for i, m := range meshes[:2] {
				for m.Poll(events[i][:]) == 0 {
					m.Park(20 * time.Microsecond)
				}
				m.probed = time.Time{}
				m.Park(time.Microsecond)
			}
		}
		trip()
		if n := testing.AllocsPerRun(100, trip); n != 0 {
			t.Errorf("busy %v: %v allocations a round", busy, n)
		}
		closeAll(meshes)
	}
}

func TestDeviceStats(t *testing.T) {
	c := patient
	c.Busy = true
	cl := newCluster(t, c)
	pair := collective.Of(0, 1)
	meshes := cl.open(t, pair)
	defer closeAll(meshes)
	const trips = 200
	start := time.Now()
	allRight(t, together(meshes[:2], func(m *mesh) error { return rounds(m, pair, 1, trips, 8, time.Minute) }))
	t.Logf("%v a round of two with 8 bytes", time.Since(start)/trips)
	s := cl.transports[0].Stats()
	t.Logf("%+v", s)
	if s.Device != devices(t)[0] || !s.GID.Is4In6() || s.MTU < 1024 || s.Inline < frame.HeaderBytes || s.Slots != 16 {
		t.Errorf("Stats = %+v", s)
	}
	if s.Completions[0] < 2*trips || len(s.Counters) == 0 {
		t.Errorf("%d completions, %d counters of the device", s.Completions[0], len(s.Counters))
	}
	if s.CreditsMin < 1 || s.CreditsMin > 16 {
		t.Errorf("CreditsMin = %d", s.CreditsMin)
	}
	if n := cl.transports[0].Stats().CreditsMin; n != 16 {
		t.Errorf("CreditsMin after a pause = %d, want 16", n)
	}
}

// TestDeviceArena looks where the pages of an arena are.
func TestDeviceArena(t *testing.T) {
	devices(t)
	const node = 1
	reserve := func(pages string) {
		t.Helper()
		file := "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"
		if err := os.WriteFile(file, []byte(pages), 0o644); err != nil {
			t.Fatalf("this test needs two memory nodes: %v", err)
		}
	}
	for _, tt := range []struct {
		pages string
		huge  bool
	}{{"4", true}, {"0", false}} {
		reserve(tt.pages)
		a, err := newArena(5<<20, node)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.mem) != 6<<20 || a.huge != tt.huge {
			t.Errorf("%s huge pages: %d bytes, huge %v", tt.pages, len(a.mem), a.huge)
		}
		for at := 0; at < len(a.mem); at += 64 << 10 {
			if n := pageNode(t, &a.mem[at]); n != node {
				t.Fatalf("%s huge pages: byte %d is on node %d, want %d", tt.pages, at, n, node)
			}
		}
		a.close()
	}
}

// pageNode returns the memory node of the page at p.
func pageNode(t *testing.T, p *byte) int {
	t.Helper()
	status := int32(-1)
	if _, _, e := unix.Syscall6(unix.SYS_MOVE_PAGES, 0, 1, uintptr(unsafe.Pointer(&p)), 0, uintptr(unsafe.Pointer(&status)), 0); e != 0 {
		t.Fatal(e)
	}
	return int(status)
}

func TestDeviceRefuses(t *testing.T) {
	list := devices(t)
	for want, c := range map[string]Config{
		"no device nosuch":      {Device: "nosuch", GIDIndex: -1},
		"no port 9":             {Device: list[0], Port: 9, GIDIndex: -1},
		"GID 99 is not of Ro":   {Device: list[0], GIDIndex: 99},
		"7 is for ever on some": {Device: list[0], GIDIndex: -1, RetryCount: 7},
	} {
		tr, err := New(c)
		if err == nil {
			tr.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v) = %v, want %q", c, err, want)
		}
		if err != nil && !errors.Is(err, ErrConfig) && !errors.Is(err, ErrNoVerbs) {
			t.Errorf("New(%+v) = %v, neither ErrConfig nor ErrNoVerbs", c, err)
		}
	}
}
