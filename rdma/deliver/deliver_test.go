package deliver

import (
	"bufio"
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
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// TestMain is also the processes that the tests kill.
func TestMain(m *testing.M) {
	switch os.Getenv("HEADRACE_DELIVER_TEST") {
	case "consumer":
		consumerProcess()
		return
	case "producer":
		producerProcess()
		return
	}
	goleak.VerifyTestMain(m)
}

// must ends a process of a test.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// An identity is a key that a file holds, for processes.
type identity struct {
	certificate tls.Certificate
	pin         string
}

func (i *identity) get() (*tls.Certificate, error) { return &i.certificate, nil }

// newIdentity derives nothing from who: every call makes another key.
func newIdentity(t *testing.T) *identity {
	t.Helper()
	i, err := makeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func makeIdentity() (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return identityOf(key)
}

func identityOf(key *ecdsa.PrivateKey) (*identity, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	i := &identity{certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
	i.pin, err = boot.PinOf(&i.certificate)
	return i, err
}

// save puts the key where a process finds it.
func (i *identity) save(t *testing.T) string {
	t.Helper()
	b, err := x509.MarshalECPrivateKey(i.certificate.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func loadIdentity(path string) *identity {
	b, err := os.ReadFile(path)
	must(err)
	key, err := x509.ParseECPrivateKey(b)
	must(err)
	i, err := identityOf(key)
	must(err)
	return i
}

func consumerProcess() {
	ring, err := OpenRing(os.Getenv("RING"), SizeMin)
	must(err)
	c, err := NewConsumer(ConsumerConfig{
		Listen: os.Getenv("LISTEN"), Certificate: loadIdentity(os.Getenv("KEY")).get, Ring: ring, Transport: TCP,
		Pins: func() []string { return []string{os.Getenv("PIN")} },
	})
	must(err)
	fmt.Println(c.Addr())
	must(c.Run(context.Background()))
}

// batchOf is what batch n holds: rows that say their place.
func batchOf(n uint64) []byte {
	var b []byte
	for k := range 1 + n%7 {
		b = fmt.Appendf(b, `{"batch":%d,"k":%d,"pad":"%s"}`+"\n", n, k, strings.Repeat("p", int(n*13%500)))
	}
	return b
}

// push sends the batches up to last, over connections that may end, beginning after
// the one that the consumer has.
func push(ctx context.Context, c ProducerConfig, last uint64) error {
	for ctx.Err() == nil {
		p, err := Dial(ctx, c)
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		for n := p.Last() + 1; n <= last && err == nil; n++ {
			err = p.Send(ctx, n, batchOf(n))
		}
		p.Close()
		if err == nil {
			return nil
		}
	}
	return ctx.Err()
}

func producerProcess() {
	last, err := strconv.ParseUint(os.Getenv("LAST"), 10, 64)
	must(err)
	must(push(context.Background(), ProducerConfig{
		Address: os.Getenv("ADDRESS"), Pins: []string{os.Getenv("PIN")}, Certificate: loadIdentity(os.Getenv("KEY")).get,
		Stream: 77, Transport: TCP,
	}, last))
}

// start runs a process of this test; stop kills it.
func start(t *testing.T, role string, env ...string) (first func() string, stop func()) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(append(os.Environ(), "HEADRACE_DELIVER_TEST="+role), env...)
	c.Stderr = t.Output()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { c.Process.Kill(); c.Wait() })
	t.Cleanup(stop)
	return func() string {
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		return strings.TrimSpace(line)
	}, stop
}

// expectRows reads all batches up to last from a ring, each row once and in order.
func expectRows(t *testing.T, r *Reader, last uint64, after func(n uint64)) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for n := uint64(1); n <= last; n++ {
		for want := range bytes.Lines(batchOf(n)) {
			row, ok := r.Next()
			for ; !ok; row, ok = r.Next() {
				if r.Err() != nil || time.Now().After(deadline) {
					t.Fatalf("in batch %d of %d: %v", n, last, r.Err())
				}
				r.Wait(deadline)
			}
			if !bytes.Equal(row, want[:len(want)-1]) {
				t.Fatalf("in batch %d: %.60q, want %.60q", n, row, want)
			}
		}
		r.Release()
		if after != nil {
			after(n)
		}
	}
	if row, ok := r.Next(); ok {
		t.Fatalf("after the last batch: %.60q", row)
	}
}

// Producer and consumer are killed, each many times, while a reader that is slow now
// and then goes on: every row is there, once, and in order.
func TestKillsLoseAndRepeatNothing(t *testing.T) {
	consumer, producer := newIdentity(t), newIdentity(t)
	consumerKey, producerKey := consumer.save(t), producer.save(t)
	path := filepath.Join(shm(t), "rows")
	listen := "127.0.0.1:0"
	begin := func() func() {
		first, stop := start(t, "consumer", "RING="+path, "LISTEN="+listen, "KEY="+consumerKey, "PIN="+producer.pin)
		listen = first()
		return stop
	}
	const last = 1500
	send := func() func() {
		_, stop := start(t, "producer", "ADDRESS="+listen, "KEY="+producerKey, "PIN="+consumer.pin, "LAST="+strconv.Itoa(last))
		return stop
	}
	killConsumer := begin()
	killProducer := send()
	r := openReaderOf(t, path)
	defer r.Close()
	expectRows(t, r, last, func(n uint64) {
		switch {
		case n%400 == 100: // within a batch or between, as it comes
			killConsumer()
			killConsumer = begin()
		case n%400 == 300:
			killProducer()
			killProducer = send()
		case n%500 == 50: // the ring fills
			for end := time.Now().Add(30 * time.Second); r.head.Load()-r.next < SizeMin*3/4; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("after batch %d: %d bytes wait for a slow reader", n, r.head.Load()-r.next)
				}
			}
		}
	})
}

// serve runs a consumer until the test's end.
func serve(t *testing.T, c ConsumerConfig) (*Consumer, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	c.Log = slog.New(slog.NewTextHandler(&lockedWriter{w: log}, nil))
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	s, err := NewConsumer(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, log
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// pair is a consumer and what a producer needs to reach it.
func pair(t *testing.T, c ConsumerConfig) (*Consumer, ProducerConfig) {
	t.Helper()
	consumer, producer := newIdentity(t), newIdentity(t)
	c.Certificate, c.Pins = consumer.get, func() []string { return []string{producer.pin} }
	s, _ := serve(t, c)
	return s, ProducerConfig{
		Address: s.Addr().String(), Pins: []string{consumer.pin}, Certificate: producer.get,
		Stream: 5, Name: "test", Transport: c.Transport, Device: c.Device,
	}
}

func dialed(t *testing.T, c ProducerConfig) *Producer {
	t.Helper()
	p, err := Dial(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestRowsArriveOverEachTransportSealedOrNot(t *testing.T) {
	for _, seal := range []bool{false, true} {
		ring, path := newRing(t, 1<<20)
		_, c := pair(t, ConsumerConfig{Ring: ring, Seal: seal})
		c.Seal = seal
		p := dialed(t, c)
		if name, why := p.Transport(); name != TCP || !strings.Contains(why, "no RDMA verbs") {
			t.Errorf("transport %s, %q: want tcp, and why it is not verbs", name, why)
		}
		big := bytes.Repeat([]byte(strings.Repeat("r", 999)+"\n"), 200) // in pieces
		if err := p.Send(t.Context(), 1, big); err != nil {
			t.Fatal(err)
		}
		if err := p.Send(t.Context(), 2, []byte("the end\n")); err != nil {
			t.Fatal(err)
		}
		r := openReaderOf(t, path)
		var got []byte
		for row, ok := r.Next(); ok; row, ok = r.Next() {
			got = append(append(got, row...), '\n')
		}
		r.Close()
		if want := append(big, "the end\n"...); !bytes.Equal(got, want) {
			t.Errorf("sealed %v: %d bytes, want %d", seal, len(got), len(want))
		}
		if p.Last() != 2 || ring.Batch(streamKey(pinOf(t, c), 5)) != 2 {
			t.Errorf("last %d", p.Last())
		}
	}
}

func pinOf(t *testing.T, c ProducerConfig) string {
	t.Helper()
	own, err := c.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	pin, err := boot.PinOf(own)
	if err != nil {
		t.Fatal(err)
	}
	return pin
}

// A full ring holds up Send, and nothing else; when the reader goes on, so does Send.
func TestAFullRingHoldsUpTheProducer(t *testing.T) {
	ring, path := newRing(t, SizeMin)
	_, c := pair(t, ConsumerConfig{Ring: ring, Transport: TCP})
	p := dialed(t, c)
	r := openReaderOf(t, path)
	defer r.Close()
	row := []byte(strings.Repeat("x", 4000) + "\n")
	n := uint64(0)
	for ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond); ; {
		err := p.Send(ctx, n+1, row)
		if errors.Is(err, context.DeadlineExceeded) {
			cancel()
			break
		}
		if err != nil || n > 100 {
			t.Fatalf("after %d batches: %v", n, err)
		}
		n++
	}
	if n < 10 || n > 16 {
		t.Errorf("%d rows of 4000 bytes are in a ring of 65536", n)
	}
	done := make(chan error, 1)
	go func() { // the same batch, over another connection
		q, err := Dial(context.Background(), c)
		if err == nil {
			err = q.Send(context.Background(), n+1, row)
			q.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("it is full: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	for got := uint64(0); got <= n; {
		if _, ok := r.Next(); ok {
			got++
		} else if r.Release(); r.Err() != nil {
			t.Fatal(r.Err())
		} else {
			r.Wait(time.Now().Add(time.Second))
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, ok := r.Next(); ok {
		t.Error("a batch is there twice")
	}
}

func TestSeveralProducersShareARing(t *testing.T) {
	ring, path := newRing(t, SizeMin)
	_, c := pair(t, ConsumerConfig{Ring: ring, Transport: TCP})
	const producers, batches = 3, 40
	var sending sync.WaitGroup
	for i := range producers {
		c := c
		c.Stream = uint64(100 + i)
		sending.Go(func() {
			p, err := Dial(context.Background(), c)
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			for n := range uint64(batches) {
				if err := p.Send(context.Background(), n+1, fmt.Appendf(nil, "%d %d\n", i, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	r := openReaderOf(t, path)
	defer r.Close()
	next := [producers]int{}
	for range producers * batches {
		row, ok := r.Next()
		for deadline := time.Now().Add(10 * time.Second); !ok; row, ok = r.Next() {
			if !r.Wait(deadline) && time.Now().After(deadline) {
				t.Fatal("rows are missing")
			}
		}
		var i, n int
		if _, err := fmt.Sscan(string(row), &i, &n); err != nil || n != next[i] {
			t.Fatalf("%q, want %d of %d", row, next[i], i)
		}
		next[i]++
		r.Release()
	}
	sending.Wait()
}

func TestWhoIsNotPinnedIsRefusedWithTheReason(t *testing.T) {
	ring, _ := newRing(t, SizeMin)
	s, c := pair(t, ConsumerConfig{Ring: ring, Transport: TCP})
	stranger := newIdentity(t)

	wrong := c
	wrong.Certificate = stranger.get
	_, err := Dial(t.Context(), wrong)
	var r *RefusedError
	if !errors.As(err, &r) || r.Reason != BadKey || !r.Theirs || !strings.Contains(err.Error(), "our key "+stranger.pin+" is not pinned there") {
		t.Errorf("a producer that is not known: %v", err)
	}

	wrong = c
	wrong.Pins = []string{stranger.pin}
	if _, err = Dial(t.Context(), wrong); !errors.As(err, &r) || r.Reason != BadKey || r.Theirs || !strings.Contains(err.Error(), "is not pinned here") {
		t.Errorf("a consumer that is not known: %v", err)
	}
	for deadline := time.Now().Add(5 * time.Second); s.Stats().Refused[BadKey] != 1 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := s.Stats().Refused[BadKey]; n != 1 {
		t.Errorf("%d keys refused, want 1: %v", n, s.Stats().Refused)
	}
}

func TestAHandshakeThatIsNoneIsRefusedWithTheReason(t *testing.T) {
	ring, _ := newRing(t, SizeMin)
	s, c := pair(t, ConsumerConfig{Ring: ring, Transport: TCP, Seal: true})
	if _, err := Dial(t.Context(), c); err == nil || !strings.Contains(err.Error(), "sealed frames only") {
		t.Errorf("frames that are not sealed: %v", err)
	}
	c.Seal, c.Transport = true, Verbs
	if _, err := Dial(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no RDMA verbs") {
		t.Errorf("verbs in a build without: %v", err)
	}
	for _, g := range []struct {
		name, want string
		say        func(*tls.Conn) error
	}{
		{"another version", "the producer speaks version 9, we 1", func(c *tls.Conn) error {
			return writeMessage(c, &message{Kind: kindHello, Version: 9, Stream: 1})
		}},
		{"no stream", "there is no stream", func(c *tls.Conn) error {
			return writeMessage(c, &message{Kind: kindHello, Version: 1})
		}},
		{"an offer first", `a message "offer" instead of "hello"`, func(c *tls.Conn) error {
			return writeMessage(c, &message{Kind: kindOffer})
		}},
		{"a length beyond the limit", "a message of 4294967295 bytes", func(c *tls.Conn) error {
			_, err := c.Write([]byte{255, 255, 255, 255})
			return err
		}},
		{"a transport that nobody has", "of pigeon: pigeon is not allowed here", func(c *tls.Conn) error {
			return writeMessage(c, &message{Kind: kindHello, Version: 1, Stream: 1, Seal: true, Transports: []string{"pigeon"}})
		}},
		{"an offer that is none", "", func(c *tls.Conn) error {
			err := writeMessage(c, &message{Kind: kindHello, Version: 1, Stream: 1, Seal: true, Transports: []string{TCP}})
			if err == nil {
				_, err = readMessage(c, kindWelcome)
			}
			return errors.Join(err, writeMessage(c, &message{Kind: kindOffer, Offer: []byte("nonsense")}))
		}},
	} {
		conn, err := tls.Dial("tcp", s.Addr().String(), tlsConfig(c.Certificate, func() []string { return c.Pins }))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if err := g.say(conn); err != nil {
			t.Errorf("%s: %v", g.name, err)
		}
		_, err = readMessage(conn, kindWelcome)
		if err == nil || !strings.Contains(err.Error(), g.want) {
			t.Errorf("%s: %v, want %q", g.name, err, g.want)
		}
		conn.Close()
	}
	if s := ring.Stats(); s.Rows != 0 {
		t.Errorf("%+v", s)
	}
}

// raw opens a connection over which a test sends frames of its own making.
func raw(t *testing.T, c ProducerConfig) *Producer {
	t.Helper()
	p := dialed(t, c)
	p.see = func(ev *rdma.Event) error { return nil }
	return p
}

func TestFramesThatMakeNoBatchEndTheConnectionWithTheReason(t *testing.T) {
	ring, _ := newRing(t, SizeMin)
	s, c := pair(t, ConsumerConfig{Ring: ring, Transport: TCP})
	row := []byte("a row\n")
	for _, g := range []struct {
		name, want string
		frames     []frame.Header
	}{
		{"another kind", "a frame of kind 3", []frame.Header{{Kind: frame.Sparse, Round: 1, Total: 6}}},
		{"a batch beyond the limit", "a batch of 1099511627776 bytes, limit 16384", []frame.Header{{Kind: frame.Rows, Round: 1, Total: 1 << 40}}},
		{"a batch of nothing", "a batch of 0 bytes", []frame.Header{{Kind: frame.Rows, Round: 1}}},
		{"a piece from the middle", "a piece at 6 of batch 1", []frame.Header{{Kind: frame.Rows, Round: 1, Total: 12, Offset: 6}}},
		{"a piece beyond the end", "a piece of 6 bytes at 0 of 5", []frame.Header{{Kind: frame.Rows, Round: 1, Total: 5}}},
		{"another batch between", "a piece at 0 of batch 2", []frame.Header{{Kind: frame.Rows, Round: 1, Total: 12}, {Kind: frame.Rows, Round: 2, Total: 12}}},
		{"another total", "a piece at 6 of batch 1 of 18 bytes", []frame.Header{{Kind: frame.Rows, Round: 1, Total: 12}, {Kind: frame.Rows, Round: 1, Total: 18, Offset: 6}}},
		{"an acknowledgment", "a frame of kind 7", []frame.Header{{Kind: frame.RowsAck, Round: 1}}},
	} {
		p := raw(t, c)
		for _, h := range g.frames {
			for p.mesh.Send(collective.Of(memberConsumer), &h, row) == 0 {
				t.Fatal("no room")
			}
		}
		var err error
		for end := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(end); {
			err = p.turn(t.Context(), p.see)
		}
		var r *RefusedError
		if err == nil || !errors.As(errors.Join(err, p.settled()), &r) || !r.Theirs || !strings.Contains(r.Text, g.want) {
			t.Errorf("%s: %v, %v; want %q", g.name, err, p.settled(), g.want)
		}
		p.Close()
	}
	if s := ring.Stats(); s.Rows != 0 {
		t.Errorf("%+v", s)
	}
	if n := s.Stats().Refused; n[BadRows]+n[Garbage] < 8 {
		t.Errorf("refused: %v", n)
	}
}

// settled waits until the other end's word is there.
func (l *link) settled() error {
	for range 1000 {
		if err := l.ended(); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// The same stream over another connection takes the place of the old one, which may be
// one of a producer that is gone without a word.
func TestTheNewerConnectionOfAStreamStays(t *testing.T) {
	ring, _ := newRing(t, SizeMin)
	_, c := pair(t, ConsumerConfig{Ring: ring, Transport: TCP})
	old := dialed(t, c)
	if err := old.Send(t.Context(), 1, []byte("1\n")); err != nil {
		t.Fatal(err)
	}
	young := dialed(t, c)
	if young.Last() != 1 {
		t.Errorf("last %d, want 1", young.Last())
	}
	if err := young.Send(t.Context(), 2, []byte("2\n")); err != nil {
		t.Fatal(err)
	}
	var r *RefusedError
	if err := old.Send(t.Context(), 2, []byte("2\n")); err == nil || !errors.As(old.settled(), &r) || r.Reason != Replaced {
		t.Errorf("the old connection: %v, %v", err, old.settled())
	}
}

// Who knows another producer's stream cannot speak for it.
func TestAStreamBelongsToItsKey(t *testing.T) {
	if streamKey("sha256:a", 1) == streamKey("sha256:b", 1) || streamKey("sha256:a", 1) == streamKey("sha256:a", 2) {
		t.Error("two streams have one key")
	}
}

func TestFitTakesWholeRowsUpToTheLimit(t *testing.T) {
	p := &Producer{batchMax: 64}
	for _, c := range []struct{ lines, want, err string }{
		{"a\nb\n", "a\nb\n", ""},
		{"12345678\n12345678\n12345678\n", "12345678\n12345678\n", ""}, // 24 bytes each
		{strings.Repeat("x", 48) + "\n", strings.Repeat("x", 48) + "\n", ""},
		{strings.Repeat("x", 49) + "\n", "", "a row of 49 bytes, the consumer's ring takes 48"},
		{"a\nb", "", "whole lines"},
	} {
		got, err := p.Fit([]byte(c.lines))
		if string(got) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("Fit(%q) = %q, %v", c.lines, got, err)
		}
	}
}

func TestAStopIsSaidToTheProducer(t *testing.T) {
	ring, _ := newRing(t, SizeMin)
	consumer, producer := newIdentity(t), newIdentity(t)
	s, err := NewConsumer(ConsumerConfig{
		Listen: "127.0.0.1:0", Certificate: consumer.get, Ring: ring, Transport: TCP,
		Pins: func() []string { return []string{producer.pin} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	p := dialed(t, ProducerConfig{Address: s.Addr().String(), Pins: []string{consumer.pin}, Certificate: producer.get, Stream: 1, Transport: TCP})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var r *RefusedError
	if err := p.settled(); !errors.As(err, &r) || r.Reason != Stopping {
		t.Errorf("%v, want %s", err, Stopping)
	}
	if _, err := net.DialTimeout("tcp", s.Addr().String(), time.Second); err == nil {
		t.Error("it listens still")
	}
}

// What a batch costs: to the ring, acknowledged, read. It is a test with a figure, for
// two ends of one process share the cores.
func TestTheTimeOfABatch(t *testing.T) {
	ring, path := newRing(t, 1<<22)
	_, c := pair(t, ConsumerConfig{Ring: ring, Transport: TCP})
	p := dialed(t, c)
	r := openReaderOf(t, path)
	defer r.Close()
	n := uint64(0)
	for _, rows := range []int{1, 640} {
		lines := bytes.Repeat([]byte(strings.Repeat("x", 399)+"\n"), rows)
		const batches = 200
		start := time.Now()
		for range batches {
			n++
			if err := p.Send(t.Context(), n, lines); err != nil {
				t.Fatal(err)
			}
			got := 0
			for _, ok := r.Next(); ok; _, ok = r.Next() {
				got++
			}
			if r.Release(); got != rows {
				t.Fatalf("%d rows of %d are there when they are acknowledged", got, rows)
			}
		}
		t.Logf("%d rows of 400 bytes: %v a batch", rows, time.Since(start)/batches)
	}
}

// FuzzMessage checks that what is read is within the limits, and that what is written
// reads back.
func FuzzMessage(f *testing.F) {
	for _, m := range []*message{
		{Kind: kindHello, Version: 1, Stream: 7, Name: "a", Transports: []string{Verbs, TCP}},
		{Kind: kindWelcome, Epoch: 1 << 63, Offer: []byte{1, 2}},
		{Kind: kindRefuse, Reason: Busy, Text: "too many"},
	} {
		var b bytes.Buffer
		if err := writeMessage(&b, m); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readMessage(bytes.NewReader(b), "")
		var r *RefusedError
		if errors.As(err, &r) && len(r.Text) > messageMax+100 {
			t.Fatalf("%d bytes of text", len(r.Text))
		}
		if err != nil {
			return
		}
		if len(m.Name) > textMax || len(m.Offer) > messageMax {
			t.Fatalf("%+v", m)
		}
		var again bytes.Buffer
		if err := writeMessage(&again, m); err != nil {
			return // escapes made it too long
		}
		n, err := readMessage(&again, "")
		if err != nil || n.Stream != m.Stream || n.Kind != m.Kind || !bytes.Equal(n.Offer, m.Offer) {
			t.Fatalf("%+v, %v; want %+v", n, err, m)
		}
	})
}
