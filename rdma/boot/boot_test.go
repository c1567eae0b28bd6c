package boot

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

func TestMain(m *testing.M) {
	if config := os.Getenv(childEnv); config != "" {
		beChild(config)
	}
	goleak.VerifyTestMain(m)
}

// A box is a peer of a test's group.
type box struct {
	Config
	mu   sync.Mutex
	key  *tls.Certificate
	pins map[string][]string
	log  *logs
}

// logs keeps what is logged.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newKey(tb testing.TB) (*tls.Certificate, string) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	pin, err := PinOf(c)
	if err != nil {
		tb.Fatal(err)
	}
	return c, pin
}

// boxes makes n boxes, a, b, …, that know each other, at loopback addresses of their own.
func boxes(tb testing.TB, n int) []*box {
	tb.Helper()
	net1, net2 := mrand.N(250)+2, mrand.N(256)
	var peers []Peer
	all := make([]*box, n)
	for i := range all {
		key, pin := newKey(tb)
		id := string(rune('a' + i))
		all[i] = &box{key: key, log: &logs{}, pins: map[string][]string{}}
		peers = append(peers, Peer{ID: id, Address: fmt.Sprintf("127.%d.%d.%d:9200", net1, net2, i+1), Pins: []string{pin}})
	}
	for i, b := range all {
		for _, p := range peers {
			b.pins[p.ID] = p.Pins
		}
		b.Config = Config{
			Me: peers[i].ID, Peers: peers, Identity: Identity{Version: 7, ConfigHash: [32]byte{1}, Build: "test"},
			Beat: 40 * time.Millisecond, Silence: time.Second,
			Log: slog.New(slog.NewTextHandler(b.log, nil)),
			Certificate: func() (*tls.Certificate, error) {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.key, nil
			},
			Pins: func(id string) []string {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.pins[id]
			},
		}
	}
	return all
}

func (b *box) setKey(key *tls.Certificate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.key = key
}

func (b *box) setPins(id string, pins ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pins[id] = pins
}

func (b *box) start(tb testing.TB) *Mesh {
	tb.Helper()
	m, err := New(b.Config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.Close() })
	return m
}

func start(tb testing.TB, all []*box) []*Mesh {
	tb.Helper()
	var ms []*Mesh
	for _, b := range all {
		ms = append(ms, b.start(tb))
	}
	return ms
}

// within waits until ok.
func within(tb testing.TB, d time.Duration, what string, ok func() bool) time.Duration {
	tb.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > d {
			tb.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

func rows(m *Mesh) []collective.Set {
	h := make([]collective.Set, len(m.peers))
	m.Hears(h)
	return h
}

func all(ms []*Mesh) func() bool {
	return func() bool {
		for _, m := range ms {
			for _, row := range rows(m) {
				if row != collective.First(len(m.peers)) {
					return false
				}
			}
		}
		return true
	}
}

func descriptors(tb testing.TB) int {
	tb.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(d)
}

func TestPeersHearEachOtherAndShareKeys(t *testing.T) {
	for n := 1; n <= 5; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			before := descriptors(t)
			bs := boxes(t, n)
			ms := start(t, bs)
			within(t, 10*time.Second, "everybody hears everybody", all(ms))
			keys := map[[32]byte]string{}
			for i, m := range ms {
				for j, p := range ms {
					if i == j {
						continue
					}
					m.Send(j, fmt.Appendf(nil, "%d to %d", i, j))
					ours, err := m.Key(j, "EXPORTER-x", []byte("c"))
					theirs, err2 := p.Key(i, "EXPORTER-x", []byte("c"))
					if err != nil || err2 != nil || ours != theirs {
						t.Errorf("%d and %d: keys %x, %x, %v, %v", i, j, ours, theirs, err, err2)
					}
					pair := fmt.Sprint(min(i, j), max(i, j))
					if other, ok := keys[ours]; ok && other != pair {
						t.Errorf("pairs %s and %s share a key", other, pair)
					}
					keys[ours] = pair
					for label, context := range map[string]string{"EXPORTER-x": "d", "EXPORTER-y": "c"} {
						if k, _ := m.Key(j, label, []byte(context)); k == ours {
							t.Errorf("label %s, context %s: the same key", label, context)
						}
					}
					if a := m.Addr(j).Addr().String(); i > j && a+":9200" != bs[j].Peers[j].Address {
						t.Errorf("Addr(%d) = %s", j, a)
					}
					if !m.LocalAddr(j).IsValid() {
						t.Errorf("LocalAddr(%d) is not valid", j)
					}
				}
			}
			for j, m := range ms {
				got := map[int]string{}
				within(t, 5*time.Second, "messages arrive", func() bool {
					if from, msg, ok := m.Receive(); ok {
						got[from] = string(msg)
					}
					return len(got) == n-1
				})
				for i, msg := range got {
					if msg != fmt.Sprintf("%d to %d", i, j) {
						t.Errorf("%d received %q from %d", j, msg, i)
					}
				}
				for r, c := range m.Refused() {
					if c != 0 {
						t.Errorf("refused by %s: %d", r, c)
					}
				}
			}
			within(t, 5*time.Second, "clocks are known", func() bool {
				for i, m := range ms {
					for j, p := range m.Peers() {
						if i != j && (p.RTT == 0 || p.Offset.Abs() > p.RTT || !p.Heard || p.Build != "test" || p.Connections != 1) {
							return false
						}
					}
				}
				return true
			})
			for _, m := range ms {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			}
			within(t, 5*time.Second, "descriptors are closed", func() bool { return descriptors(t) <= before+2 })
		})
	}
}

func TestWhatIsSentBeforeCloseArrives(t *testing.T) {
	ms := start(t, boxes(t, 2))
	within(t, 10*time.Second, "both hear", all(ms))
	big := bytes.Repeat([]byte("x"), 3<<20)
	ms[0].Send(1, big)
	ms[0].Send(1, []byte("bye"))
	ms[0].Close()
	var got [][]byte
	within(t, 5*time.Second, "both messages arrive", func() bool {
		if from, msg, ok := ms[1].Receive(); ok && from == 0 {
			got = append(got, msg)
		}
		return len(got) == 2
	})
	if !bytes.Equal(got[0], big) || string(got[1]) != "bye" {
		t.Errorf("received %d bytes and %q", len(got[0]), got[1])
	}
}

func TestAPeerThatClosesIsNotHeardAtOnceAndComesBackAfterTwoBeats(t *testing.T) {
	bs := boxes(t, 3)
	for _, b := range bs { // far longer than it may take
		b.Beat, b.Silence = 200*time.Millisecond, 20*time.Second
	}
	ms := start(t, bs)
	within(t, 10*time.Second, "everybody hears everybody", all(ms))
	bell, err := rdma.NewBell()
	if err != nil {
		t.Fatal(err)
	}
	defer bell.Close()
	ms[0].Notify(bell)
	bell.Clear()
	ms[1].door.listener.Close() // it is not there for a while
	ms[1].mu.Lock()
	var ends []net.Conn
	for i := range ms[1].peers {
		if s := ms[1].peers[i].session; s != nil {
			ends = append(ends, s.raw)
		}
	}
	ms[1].mu.Unlock()
	for _, c := range ends { // as the kernel does for a process that was killed
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	took := within(t, 2*time.Second, "b is not heard, and everybody knows", func() bool {
		r, q := rows(ms[0]), rows(ms[2])
		return !r[0].Has(1) && r[1] == 0 && !q[2].Has(1) && !r[2].Has(1) && !q[0].Has(1)
	})
	t.Logf("seen and told after %v", took)
	if !bell.Rung() {
		t.Error("the bell did not ring")
	}
	ms[0].Notify(nil)
	ms[1].Close()
	back := bs[1].start(t)
	began := time.Now()
	within(t, 10*time.Second, "b is heard again", all([]*Mesh{ms[0], back, ms[2]}))
	if took := time.Since(began); took < bs[1].Beat {
		t.Errorf("b was heard after %v, less than a beat", took)
	}
}

func TestRestartsLeaveNothingBehind(t *testing.T) {
	bs := boxes(t, 3)
	for _, b := range bs {
		b.Beat = 10 * time.Millisecond
	}
	a, c := bs[0].start(t), bs[2].start(t)
	var before int
	for i := range 12 {
		b := bs[1].start(t)
		within(t, 10*time.Second, "everybody hears everybody", all([]*Mesh{a, b, c}))
		b.Close()
		within(t, 5*time.Second, "b is not heard", func() bool { return !a.Peers()[1].Connected && !c.Peers()[1].Connected })
		if i == 1 {
			before = descriptors(t)
		}
	}
	within(t, 5*time.Second, "descriptors are closed", func() bool { return descriptors(t) <= before+1 }) // c may be dialing
	if n := a.Peers()[1].Connections; n != 12 {
		t.Errorf("%d connections", n)
	}
	if p := c.Peers()[0]; p.Connections != 1 || !p.Heard {
		t.Errorf("the others lost each other: %+v", p)
	}
}

// Both ends count and log why; nobody is connected.
func TestWhoDoesNotFitIsRefusedWithAReasonAtBothEnds(t *testing.T) {
	other, otherPin := newKey(t)
	for _, c := range []struct {
		name   string
		reason Reason
		change func(a, b *box)
	}{
		{"the dialer's key is nobody's", BadCertificate, func(_, b *box) { b.setKey(other); b.setPins("b", otherPin) }},
		{"the listener's key is nobody's", BadCertificate, func(a, _ *box) { a.setKey(other); a.setPins("a", otherPin) }},
		{"the listener has no pin for the dialer", BadCertificate, func(a, _ *box) { a.setPins("b") }},
		{"the dialer has another's key", BadCertificate, func(a, b *box) {
			b.setKey(other)
			b.setPins("b", otherPin)
			a.setPins("c", otherPin)
		}},
		{"another version", Version, func(_, b *box) { b.Identity.Version++ }},
		{"another build", Version, func(_, b *box) { b.Identity.Build += "+" }},
		{"another config", ConfigDiffers, func(_, b *box) { b.Identity.ConfigHash[31]++ }},
		{"other peers", ConfigDiffers, func(_, b *box) { b.Peers = b.Peers[:2] }},
		{"an id that is not configured", UnknownPeer, func(_, b *box) {
			b.Me = "x"
			b.Peers = slices.Clone(b.Peers)
			b.Peers[1].ID = "x"
			b.setPins("x", b.pins["b"]...)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bs := boxes(t, 3)
			c.change(bs[0], bs[1])
			a, b := bs[0].start(t), bs[1].start(t)
			within(t, 10*time.Second, fmt.Sprintf("both count %s", c.reason), func() bool {
				return a.Refused()[c.reason] > 0 && b.Refused()[c.reason] > 0
			})
			for _, m := range []*Mesh{a, b} {
				for _, p := range m.Peers() {
					if p.Connected || p.Heard && !p.Me {
						t.Errorf("%s is connected", p.ID)
					}
				}
				for r, n := range m.Refused() {
					if n > 0 && r != c.reason {
						t.Errorf("%s counts %d by %s", m.c.Me, n, r)
					}
				}
			}
			want := "reason=" + string(c.reason)
			within(t, time.Second, "both log it", func() bool {
				return strings.Contains(bs[0].log.String(), want) && strings.Contains(bs[1].log.String(), want)
			})
			within(t, 5*time.Second, "it is tried again", func() bool { return b.Refused()[c.reason] >= 3 })
			if n := strings.Count(bs[0].log.String(), want); n != 1 {
				t.Errorf("logged %d times:\n%s", n, bs[0].log)
			}
		})
	}
}

// stranger dials m with the key of b.
func stranger(tb testing.TB, m *Mesh, key *tls.Certificate, protocols ...string) (*tls.Conn, error) {
	tb.Helper()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: protocols, Certificates: []tls.Certificate{*key}}}
	ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Second)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", m.Listening().String())
	if err != nil {
		return nil, err
	}
	tb.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*tls.Conn), nil
}

// meet makes the whole handshake as b.
func meet(tb testing.TB, m *Mesh, b *box, change func(*hello)) *tls.Conn {
	tb.Helper()
	c, err := stranger(tb, m, b.key, protocolControl)
	if err != nil {
		tb.Fatal(err)
	}
	state := c.ConnectionState()
	h := hello{wire: wireVersion, version: b.Identity.Version, config: b.hash(), id: b.Me, build: b.Identity.Build}
	h.proof, _ = proof(&state, b.Me)
	if change != nil {
		change(&h)
	}
	c.Write(appendFrame(nil, kindHello, h.encode()))
	return c
}

func establish(tb testing.TB, m *Mesh, b *box) *tls.Conn {
	tb.Helper()
	c := meet(tb, m, b, nil)
	if k, _, err := readFrame(c, helloMax); err != nil || k != kindHello {
		tb.Fatalf("kind %d, %v instead of a hello", k, err)
	}
	c.Write(appendFrame(nil, kindStart, nil))
	return c
}

func refusedWith(tb testing.TB, c *tls.Conn) Reason {
	tb.Helper()
	for {
		k, body, err := readFrame(c, frameMax)
		if err != nil {
			return ""
		}
		if k == kindRefuse {
			r, _, err := decodeRefusal(body)
			if err != nil {
				tb.Error(err)
			}
			return r
		}
	}
}

func TestAReplayedHelloIsRefused(t *testing.T) {
	bs := boxes(t, 2)
	a := bs[0].start(t)
	var old [32]byte
	meet(t, a, bs[1], func(h *hello) { old = h.proof }).Close()
	c := meet(t, a, bs[1], func(h *hello) { h.proof = old })
	if r := refusedWith(t, c); r != Replay {
		t.Errorf("refused by %q", r)
	}
	if n := a.Refused()[Replay]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestAPeerWithALowerNumberDoesNotDial(t *testing.T) {
	bs := boxes(t, 2)
	b := bs[1].start(t)
	if r := refusedWith(t, meet(t, b, bs[0], nil)); r != Duplicate {
		t.Errorf("refused by %q", r)
	}
}

func TestGarbageIsCountedAndHarmsNobody(t *testing.T) {
	bs := boxes(t, 2)
	a := bs[0].start(t)
	for i, send := range []func(){
		func() { // no TLS
			c, err := net.Dial("tcp", a.Listening().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 100))
			c.SetDeadline(time.Now().Add(5 * time.Second))
			c.Read(make([]byte, 1))
		},
		func() { // nothing at all
			c, err := net.Dial("tcp", a.Listening().String())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		},
		func() { stranger(t, a, bs[1].key) },                   // no protocol
		func() { stranger(t, a, bs[1].key, "http/1.1", "h2") }, // others
		func() { // a frame that is too large
			c, _ := stranger(t, a, bs[1].key, protocolControl)
			c.Write([]byte{0xff, 0xff, 0xff, 0x7f, 1})
			refusedWith(t, c)
		},
		func() { // a hello that ends early
			c, _ := stranger(t, a, bs[1].key, protocolControl)
			c.Write(appendFrame(nil, kindHello, []byte("hrc\x00")))
			refusedWith(t, c)
		},
		func() { // a beat instead of a hello
			c, _ := stranger(t, a, bs[1].key, protocolControl)
			c.Write(appendFrame(nil, kindBeat, nil))
			refusedWith(t, c)
		},
		func() { // a hello again instead of a start
			c := meet(t, a, bs[1], nil)
			c.Write(appendFrame(nil, kindHello, nil))
			refusedWith(t, c)
		},
		func() { // then, a frame that is too large
			c := establish(t, a, bs[1])
			c.Write([]byte{0, 0, 0, 2, byte(kindMessage)})
			refusedWith(t, c)
		},
		func() { // a bad beat
			c := establish(t, a, bs[1])
			c.Write(appendFrame(nil, kindBeat, make([]byte, 5)))
			refusedWith(t, c)
		},
		func() { // an unknown kind
			c := establish(t, a, bs[1])
			c.Write(appendFrame(nil, 99, nil))
			refusedWith(t, c)
		},
	} {
		send()
		within(t, 5*time.Second, fmt.Sprintf("garbage %d is counted", i), func() bool { return a.Refused()[Garbage] == uint64(i+1) })
	}
	b := bs[1].start(t)
	within(t, 10*time.Second, "b is welcome", all([]*Mesh{a, b}))
}

func TestManyWhoSayNothingKeepNobodyOut(t *testing.T) {
	bs := boxes(t, 2)
	a := bs[0].start(t)
	for range pendingMax + 36 {
		c, err := net.Dial("tcp", a.Listening().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	within(t, 4*time.Second, "the oldest are sent away", func() bool { return a.Refused()[Garbage] >= 36 })
	a.door.mu.Lock()
	pending := len(a.door.pending)
	a.door.mu.Unlock()
	if pending > pendingMax {
		t.Errorf("%d pending", pending)
	}
	b := bs[1].start(t)
	within(t, 4*time.Second, "b is welcome", all([]*Mesh{a, b}))
}

func TestTheNewerConnectionOfAPeerStays(t *testing.T) {
	bs := boxes(t, 2)
	a := bs[0].start(t)
	first := establish(t, a, bs[1])
	within(t, 5*time.Second, "the first is there", func() bool { return a.Peers()[1].Connected })
	second := establish(t, a, bs[1])
	if r := refusedWith(t, first); r != "" {
		t.Errorf("the first: %q", r)
	}
	if n := a.Refused()[Duplicate]; n != 1 {
		t.Errorf("counted %d", n)
	}
	a.Send(1, []byte("to the second"))
	for {
		k, body, err := readFrame(second, frameMax)
		if err != nil {
			t.Fatal(err)
		}
		if k == kindMessage && string(body) == "to the second" {
			return
		}
	}
}

// Who has a key may come again and again as fast as it can.
func TestConnectionsThatReplaceEachOtherDoNotFillTheLog(t *testing.T) {
	bs := boxes(t, 2)
	a := bs[0].start(t)
	const times = 40
	for range times {
		defer establish(t, a, bs[1]).Close()
	}
	within(t, 5*time.Second, "all have come", func() bool { return a.Peers()[1].Connections == times })
	if lines := strings.Count(bs[0].log.String(), "\n"); lines > 4 {
		t.Errorf("%d lines for %d connections: %s", lines, times, bs[0].log)
	}
}

func TestASilentPeerIsResetAndOneWhoIsSlowIsNot(t *testing.T) {
	bs := boxes(t, 2)
	bs[0].Silence = 300 * time.Millisecond
	a := bs[0].start(t)
	c := establish(t, a, bs[1])
	go func() { // read all, so that nothing is in the way
		for {
			if _, _, err := readFrame(c, frameMax); err != nil {
				return
			}
		}
	}()
	one := beat{regular: true, hears: 3}
	c.Write(appendFrame(nil, kindBeat, one.encode()))
	time.Sleep(50 * time.Millisecond)
	if rows(a)[0] != 1 {
		t.Error("heard after one beat")
	}
	again := one
	again.regular = false
	c.Write(appendFrame(nil, kindBeat, again.encode()))
	time.Sleep(50 * time.Millisecond)
	if rows(a)[0] != 1 {
		t.Error("an irregular beat counts")
	}
	c.Write(appendFrame(nil, kindBeat, one.encode()))
	within(t, time.Second, "heard after two", func() bool { r := rows(a); return r[0] == 3 && r[1] == 3 })
	// A large message, a piece at a time.
	msg := appendFrame(nil, kindMessage, make([]byte, 1000))
	for i := range 10 {
		time.Sleep(100 * time.Millisecond)
		c.Write(msg[i*100 : (i+1)*100])
		if rows(a)[0] != 3 {
			t.Fatal("pieces of a message are no sign of life")
		}
	}
	took := within(t, 2*time.Second, "silence is noticed", func() bool { return rows(a)[0] == 1 })
	if took < 200*time.Millisecond || took > 300*time.Millisecond+2*bs[0].Beat+100*time.Millisecond {
		t.Errorf("silence was noticed after %v", took)
	}
}

// A peer that reads nothing is heard all the same; what it does not take is dropped.
func TestSendingAndHearingDoNotDependOnEachOther(t *testing.T) {
	bs := boxes(t, 2)
	bs[0].Silence = 400 * time.Millisecond
	a := bs[0].start(t)
	c := establish(t, a, bs[1])
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		one := beat{regular: true, hears: 2}
		for {
			if _, err := c.Write(appendFrame(nil, kindBeat, one.encode())); err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(40 * time.Millisecond):
			}
		}
	})
	within(t, 5*time.Second, "b is heard", func() bool { return rows(a)[0] == 3 })
	msg := make([]byte, 1<<20)
	for range 100 {
		a.Send(1, msg)
	}
	for range 80 {
		time.Sleep(10 * time.Millisecond)
		if r := rows(a); r[0] != 3 || r[1] != 2 {
			t.Fatalf("rows are %b", r)
		}
	}
	if p := a.Peers()[1]; p.DroppedSend == 0 || p.Queued > 64 {
		t.Errorf("%d dropped, %d wait", p.DroppedSend, p.Queued)
	}
	began := time.Now()
	a.Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	close(stop)
	wg.Wait()
}

func TestKeysChangeWithoutARestart(t *testing.T) {
	bs := boxes(t, 2)
	ms := start(t, bs)
	within(t, 10*time.Second, "both hear", all(ms))
	old := bs[1].pins["b"][0]
	oldKey := bs[1].key
	key, pin := newKey(t)
	for _, b := range bs {
		b.setPins("b", old, pin)
	}
	bs[1].setKey(key)
	time.Sleep(1200 * time.Millisecond) // pins are checked each second
	if p := ms[0].Peers()[1]; p.Connections != 1 || !p.Heard {
		t.Fatalf("the connection did not go on: %+v", p)
	}
	bs[0].setPins("b", pin)
	within(t, 5*time.Second, "the old pin's connection is replaced", func() bool {
		return ms[0].Peers()[1].Connections == 2 && all(ms)()
	})
	ms[0].mu.Lock()
	got := ms[0].peers[1].session.pin
	ms[0].mu.Unlock()
	if got != pin {
		t.Errorf("connected with %s, not the new key %s", got, pin)
	}
	// The old key is worth nothing now.
	before := ms[0].Refused()[BadCertificate]
	c, err := stranger(t, ms[0], oldKey, protocolControl)
	if err == nil {
		refusedWith(t, c)
	}
	within(t, 5*time.Second, "the old key is refused", func() bool { return ms[0].Refused()[BadCertificate] > before })
}

func TestAFullInboxDropsTheOldestAndCounts(t *testing.T) {
	ms := start(t, boxes(t, 2))
	within(t, 10*time.Second, "both hear", all(ms))
	const total = queueMessages + 500
	for i := range total {
		ms[1].Send(0, fmt.Append(nil, i))
		if i%200 == 0 { // slower than the writer
			within(t, 5*time.Second, "it is written", func() bool { return ms[1].Peers()[0].Queued == 0 })
		}
	}
	within(t, 10*time.Second, "all have come", func() bool { return ms[0].Peers()[1].Received == total })
	p := ms[0].Peers()[1]
	if p.Inbox != queueMessages || p.DroppedInbox != 500 {
		t.Errorf("%d in the inbox, %d dropped", p.Inbox, p.DroppedInbox)
	}
	if _, msg, _ := ms[0].Receive(); string(msg) != "500" {
		t.Errorf("the oldest is %s", msg)
	}
	ms[1].Send(0, make([]byte, MessageMax+1))
	if n := ms[1].Peers()[0].DroppedSize; n != 1 {
		t.Errorf("%d are too large", n)
	}
	ms[0].Close()
	within(t, 5*time.Second, "a is gone", func() bool { return !ms[1].Peers()[0].Connected })
	ms[1].Send(0, []byte("x"))
	if n := ms[1].Peers()[0].DroppedClosed; n != 1 {
		t.Errorf("%d had no connection", n)
	}
	if _, err := ms[1].Key(0, "x", nil); !errors.Is(err, ErrNotConnected) {
		t.Errorf("Key: %v", err)
	}
}

func TestAQueueKeepsItsBounds(t *testing.T) {
	var q queue
	for range 5 {
		q.push(make([]byte, 16<<20))
	}
	if q.bytes != queueBytes || q.len() != 4 {
		t.Errorf("%d bytes in %d messages", q.bytes, q.len())
	}
	if n := q.push(make([]byte, 16<<20)); n != 1 {
		t.Errorf("dropped %d", n)
	}
	for q.len() > 0 {
		q.pop()
	}
	if _, ok := q.pop(); ok || q.bytes != 0 {
		t.Errorf("%d bytes in an empty queue", q.bytes)
	}
}

func TestWhatBeatsSayIsHeard(t *testing.T) {
	bs := boxes(t, 2)
	ms := start(t, bs)
	within(t, 10*time.Second, "both hear", all(ms))
	if err := ms[0].Say([]byte("round 7")); err != nil {
		t.Fatal(err)
	}
	within(t, time.Second, "b hears it", func() bool { return string(ms[1].Heard(0)) == "round 7" })
	if err := ms[0].Say(make([]byte, statusMax+1)); err == nil {
		t.Error("a status beyond its limit is taken")
	}
}

func TestAConfigThatCannotWorkIsRefused(t *testing.T) {
	other, _ := newKey(t)
	for name, change := range map[string]func(*box){
		"is not among the peers": func(b *box) { b.Me = "z" },
		"configured twice":       func(b *box) { b.Peers = append(slices.Clone(b.Peers), b.Peers[0]) },
		"the same pin": func(b *box) {
			b.Peers = slices.Clone(b.Peers)
			b.Peers[1].Pins = b.Peers[0].Pins
		},
		"is not host:port":          func(b *box) { b.Peers = []Peer{{ID: "a", Address: "10.0.0.1"}} },
		"44 digits of base64":       func(b *box) { b.Peers = []Peer{{ID: "a", Address: "h:1", Pins: []string{"sha256:xyz"}}} },
		"other characters":          func(b *box) { b.Peers = append(slices.Clone(b.Peers), Peer{ID: "b/c", Address: "h:1"}) },
		"Certificate is missing":    func(b *box) { b.Certificate = nil },
		"is not among those of a":   func(b *box) { b.setKey(other) },
		"is shorter than two beats": func(b *box) { b.Beat = b.Silence },
	} {
		b := boxes(t, 2)[0]
		change(b)
		m, err := New(b.Config)
		if err == nil {
			m.Close()
		}
		if err == nil || !strings.Contains(err.Error(), name) || !strings.HasPrefix(err.Error(), "boot: ") {
			t.Errorf("New = %v, want an error that says %q", err, name)
		}
	}
}

func TestANewcomerJoinsOnlyWhereItIsInvited(t *testing.T) {
	bs := boxes(t, 2)
	key, pin := newKey(t)
	ask := Request{ID: "n", Address: "10.0.0.9:9200", Token: "sesame"}
	address := bs[0].Peers[0].Address
	alone := bs[0].start(t)
	var r *RefusedError
	if _, err := Join(t.Context(), address, bs[0].pins["a"][0], key, ask); !errors.As(err, &r) || r.Reason != Token || !r.Theirs {
		t.Errorf("where nobody can join: %v", err)
	}
	alone.Close()
	bs[0].Join = func(r Request) ([]Peer, error) {
		if r.Token != "sesame" {
			return nil, errors.New("not that word")
		}
		if r.ID != "n" || r.Address != "10.0.0.9:9200" || r.Pin != pin {
			return nil, fmt.Errorf("%+v", r)
		}
		return bs[0].Peers, nil
	}
	a := bs[0].start(t)
	if _, err := Join(t.Context(), address, bs[1].pins["b"][0], key, ask); !errors.As(err, &r) || r.Reason != BadCertificate || r.Theirs {
		t.Errorf("another box answers: %v", err)
	}
	peers, err := Join(t.Context(), address, bs[0].pins["a"][0], key, ask)
	if err != nil || len(peers) != 2 || peers[1].Pins[0] != bs[1].pins["b"][0] {
		t.Errorf("%v, %v", peers, err)
	}
	ask.Token = "other"
	if _, err := Join(t.Context(), address, bs[0].pins["a"][0], key, ask); !errors.As(err, &r) || r.Reason != Token || r.Text != "not that word" {
		t.Errorf("a wrong word: %v", err)
	}
	if n := a.Refused()[Token]; n != 1 {
		t.Errorf("%d tokens refused", n)
	}
	// The key of a newcomer opens no control connection.
	c, err := stranger(t, a, key, protocolControl)
	if err == nil {
		refusedWith(t, c)
	}
	within(t, 5*time.Second, "it is refused", func() bool { return a.Refused()[BadCertificate] > 0 })
}

func TestWhyThereIsNoConnectionIsKnown(t *testing.T) {
	all := boxes(t, 2)
	b := all[1].start(t)
	within(t, 5*time.Second, "nobody listens", func() bool { return strings.Contains(b.Peers()[0].Trouble, "refused") })
	all[0].Identity.ConfigHash[31]++
	a := all[0].start(t)
	within(t, 5*time.Second, "the config differs", func() bool {
		return strings.Contains(a.Peers()[1].Trouble, "config") && strings.Contains(b.Peers()[0].Trouble, "config")
	})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	all[0].Identity = all[1].Identity
	a = all[0].start(t)
	within(t, 5*time.Second, "it is there", func() bool { return b.Peers()[0].Trouble == "" && a.Peers()[1].Trouble == "" })
	if _, err := New(all[0].Config); err == nil || !strings.Contains(err.Error(), "the address of a") {
		t.Errorf("an address in use: %v", err)
	}
}
