package deliver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// ConsumerConfig says who may send rows and where they go.
type ConsumerConfig struct {
	// Listen is the host:port for producers. Required.
	Listen string
	// Certificate is asked for our key at every handshake. Required.
	Certificate func() (*tls.Certificate, error)
	// Pins is asked at every handshake for the keys of the producers. Required.
	Pins func() []string
	// Ring is where rows go. Required. The consumer does not close it.
	Ring *Ring
	// Transport is auto, tcp or verbs; empty: auto, which is what the producer wants.
	Transport string
	// Device is the RDMA device for verbs; empty: the first.
	Device string
	// Port is where tcp listens for data. Zero: any that is free, one for each producer.
	Port uint16
	// Seal refuses producers that do not seal their frames.
	Seal bool
	// Log is told about producers and refusals. Nil: nobody is.
	Log *slog.Logger
}

// guestsMax bounds the connections that are still in their handshake.
const guestsMax = 32

// A Consumer takes batches of rows from producers and places them in a ring.
type Consumer struct {
	c        ConsumerConfig
	names    []string // of transports
	listener net.Listener
	guests   chan struct{}

	mu       sync.Mutex
	sessions map[uint64]*session
	refused  map[Reason]uint64
	logged   map[Reason]time.Time
	muted    map[Reason]int
	accepted uint64
}

// A session is a producer that is connected.
type session struct {
	key    uint64 // its stream, as the ring knows it
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// NewConsumer listens. Run takes the producers in.
func NewConsumer(c ConsumerConfig) (*Consumer, error) {
	names, err := allowed(c.Transport)
	if err == nil && (c.Certificate == nil || c.Pins == nil || c.Ring == nil) {
		err = errors.New("a key, pins and a ring are needed")
	}
	if err == nil {
		_, err = c.Certificate()
	}
	if err != nil {
		return nil, fmt.Errorf("deliver: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	l, err := lc.Listen(context.Background(), "tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("deliver: %w", err)
	}
	return &Consumer{
		c: c, names: names, listener: l, guests: make(chan struct{}, guestsMax),
		sessions: map[uint64]*session{}, refused: map[Reason]uint64{}, logged: map[Reason]time.Time{}, muted: map[Reason]int{},
	}, nil
}

// Addr returns where the consumer listens.
func (c *Consumer) Addr() net.Addr { return c.listener.Addr() }

// Run serves until ctx ends, and returns after the last producer is let go.
func (c *Consumer) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = c.listener.Close() })()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := c.listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil // as it was told
		}
		if err != nil { // no descriptors, or the other end was faster to go
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("deliver: %w", err)
			}
			time.Sleep(10 * time.Millisecond)
			continue
		}
		select {
		case c.guests <- struct{}{}:
			running.Go(func() { c.serve(ctx, conn) })
		default:
			c.refuse(refuse(Busy, "too many connections that say nothing"), conn.RemoteAddr())
			_ = conn.Close()
		}
	}
}

// Close frees the port of a consumer that was not run.
func (c *Consumer) Close() error { return c.listener.Close() }

// serve is one connection, from its handshake to its end.
func (c *Consumer) serve(ctx context.Context, raw net.Conn) {
	_ = raw.SetDeadline(time.Now().Add(handshakePatience))
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	conn := tls.Server(raw, tlsConfig(c.c.Certificate, c.c.Pins))
	hello, key, err := c.meet(ctx, conn)
	<-c.guests
	if !stop() && err == nil {
		err = refuse(Stopping, "the consumer stops")
	}
	if err != nil {
		c.turnAway(ctx, conn, err)
		return
	}
	s, ctx, err := c.begin(ctx, key)
	if err != nil {
		c.turnAway(ctx, conn, err)
		return
	}
	defer c.finish(s)
	r, err := c.open(conn, hello, key)
	if err != nil {
		c.turnAway(ctx, conn, err)
		return
	}
	log := c.c.Log.With("producer", hello.Name, "remote", conn.RemoteAddr())
	log.Info("a producer is connected", "transport", r.transport.Name(), "why", r.why, "sealed", hello.Seal, "last_batch", r.last)
	err = r.run(ctx)
	var refused *RefusedError
	if errors.As(err, &refused) && !refused.Theirs {
		c.count(refused)
	}
	if ctx.Err() != nil && !errors.As(err, &refused) {
		err = refuse(Stopping, "the consumer stops")
	}
	r.close(err)
	log.Info("a producer is gone", "reason", err, "batch", r.last)
}

// turnAway ends a connection that did not come about.
func (c *Consumer) turnAway(ctx context.Context, conn *tls.Conn, err error) {
	var r *RefusedError
	if !errors.As(err, &r) {
		r = refuse(Garbage, "%v", err)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			r.Text = fmt.Sprintf("no handshake within %v", handshakePatience)
		}
		var t *TransportError
		if errors.As(err, &t) {
			r.Reason = NoTransport
		}
	}
	if ctx.Err() == nil {
		c.refuse(r, conn.RemoteAddr())
	}
	tell(conn, r)
	// The other end must be able to read it: closing with bytes unread would be a reset.
	raw := conn.NetConn()
	if t, ok := raw.(*net.TCPConn); ok {
		_ = t.CloseWrite()
	}
	_ = raw.SetDeadline(time.Now().Add(300 * time.Millisecond))
	_, _ = io.CopyN(io.Discard, raw, 64<<10)
	_ = raw.Close()
}

// meet makes the handshake up to the producer's hello.
func (c *Consumer) meet(ctx context.Context, conn *tls.Conn) (hello *message, key uint64, err error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, 0, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != protocol {
		return nil, 0, refuse(Garbage, "the protocol is not named")
	}
	hello, err = readMessage(conn, kindHello)
	switch {
	case err != nil:
		return nil, 0, err
	case hello.Version != wireVersion:
		return nil, 0, refuse(BadVersion, "the producer speaks version %d, we %d", hello.Version, wireVersion)
	case hello.Stream == 0:
		return nil, 0, refuse(Garbage, "there is no stream")
	case c.c.Seal && !hello.Seal:
		return nil, 0, refuse(Unsealed, "we take sealed frames only: write seal: true")
	}
	return hello, streamKey(boot.Pin(state.PeerCertificates[0]), hello.Stream), nil
}

// streamKey tells streams apart in the ring. The key of the producer is a part of it,
// so that none can speak for the stream of another.
func streamKey(pin string, stream uint64) uint64 {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(pin), stream))
	return binary.BigEndian.Uint64(sum[:]) | 1 // 0 is none
}

// begin makes a new session the one of its stream.
func (c *Consumer) begin(ctx context.Context, key uint64) (*session, context.Context, error) {
	s := &session{key: key, done: make(chan struct{})}
	for {
		c.mu.Lock()
		old := c.sessions[key]
		if old == nil {
			break
		}
		c.mu.Unlock()
		old.cancel(refuse(Replaced, "the same stream has come again"))
		<-old.done
	}
	defer c.mu.Unlock()
	if len(c.sessions) >= StreamsMax {
		return nil, ctx, refuse(Busy, "there are %d producers already", StreamsMax)
	}
	sctx, cancel := context.WithCancelCause(ctx)
	s.cancel = cancel
	c.sessions[key] = s
	c.accepted++
	return s, sctx, nil
}

func (c *Consumer) finish(s *session) {
	c.mu.Lock()
	delete(c.sessions, s.key)
	c.mu.Unlock()
	s.cancel(nil)
	close(s.done)
}

// open chooses a transport and opens the link.
func (c *Consumer) open(conn *tls.Conn, hello *message, key uint64) (*receiver, error) {
	t, why, err := c.choose(conn, hello.Transports)
	if err != nil {
		return nil, err
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	w := &message{
		Kind: kindWelcome, Epoch: le.Uint64(b[:]) | 1, Transport: t.Name(), Why: clip(why),
		Batch: c.c.Ring.Batch(key), BatchMax: c.c.Ring.BatchMax(),
	}
	offers, err := t.Prepare(w.Epoch, members)
	if err != nil {
		return nil, errors.Join(&TransportError{t.Name(), err}, t.Close())
	}
	w.Offer = offers[memberProducer]
	if err = writeMessage(conn, w); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	o, err := readMessage(conn, kindOffer)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	l, err := openLink(conn, t, memberConsumer, w.Epoch, o.Offer, hello.Seal)
	if err != nil {
		return nil, &TransportError{t.Name(), err}
	}
	r := &receiver{link: l, ring: c.c.Ring, key: key, why: why, last: w.Batch}
	r.see = r.take
	return r, nil
}

// choose returns the first transport that the producer wants and we can make.
func (c *Consumer) choose(conn *tls.Conn, wanted []string) (t rdma.Transport, why string, err error) {
	for _, name := range wanted[:min(len(wanted), 8)] {
		if !slices.Contains(c.names, name) {
			why = fmt.Sprintf("%s is not allowed here", clip(name))
			continue
		}
		t, err := transport(name, memberConsumer, conn.LocalAddr(), c.c.Port, c.c.Device, c.c.Log)
		if err == nil {
			return t, why, nil
		}
		why = err.Error()
	}
	return nil, "", refuse(NoTransport, "of %s: %s", clip(strings.Join(wanted, ", ")), why)
}

// refusalsEvery is how often one reason is logged.
const refusalsEvery = 10 * time.Second

func (c *Consumer) count(r *RefusedError) {
	c.mu.Lock()
	c.refused[r.Reason]++
	c.mu.Unlock()
}

// refuse counts and logs a refusal.
func (c *Consumer) refuse(r *RefusedError, remote net.Addr) {
	c.count(r)
	c.mu.Lock()
	now := time.Now()
	if now.Sub(c.logged[r.Reason]) < refusalsEvery {
		c.muted[r.Reason]++
		c.mu.Unlock()
		return
	}
	suppressed := c.muted[r.Reason]
	c.logged[r.Reason], c.muted[r.Reason] = now, 0
	c.mu.Unlock()
	c.c.Log.Warn("a connection is refused", "remote", remote, "reason", string(r.Reason), "text", r.Text, "by_them", r.Theirs, "suppressed", suppressed)
}

// ConsumerStats counts connections.
type ConsumerStats struct {
	Producers int // connected now
	Accepted  uint64
	Refused   map[Reason]uint64
}

// Stats returns counts.
func (c *Consumer) Stats() ConsumerStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ConsumerStats{Producers: len(c.sessions), Accepted: c.accepted, Refused: maps.Clone(c.refused)}
}

// A receiver takes the batches of one producer.
type receiver struct {
	*link
	ring  *Ring
	key   uint64
	why   string // the transport is not a better one
	last  uint64 // batch that is placed
	batch uint64 // being put together in lines, to be total bytes
	total uint64
	lines []byte
	ack   bool // last is to be acknowledged
	ready bool // lines is whole, and not placed
	see   func(*rdma.Event) error
}

// run takes batches until the link or ctx ends.
func (r *receiver) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, r.wake)()
	for {
		if err := r.turn(ctx, r.see); err != nil {
			return err
		}
		if r.ready {
			if err := r.place(ctx); err != nil {
				return err
			}
		}
		if r.ack {
			h := frame.Header{Kind: frame.RowsAck, Round: r.last, Dest: memberProducer}
			r.ack = r.mesh.Send(collective.Of(memberProducer), &h, nil) == 0
		}
	}
}

// take adds a piece to the batch in hand. Frames are checked as frames; here it is
// checked that they make a batch.
func (r *receiver) take(ev *rdma.Event) error {
	h := &ev.Header
	switch {
	case h.Kind != frame.Rows:
		return refuse(Garbage, "a frame of kind %d", h.Kind)
	case r.ready || r.ack:
		return refuse(BadRows, "a piece of batch %d before batch %d is acknowledged", h.Round, r.batch)
	case h.Offset == 0 && len(r.lines) == 0 && h.Total > 0 && h.Total <= r.ring.BatchMax():
		r.batch, r.total = h.Round, h.Total
		r.lines = slices.Grow(r.lines, int(h.Total))[:0]
	case h.Offset == 0 && len(r.lines) == 0:
		return refuse(BadRows, "a batch of %d bytes, limit %d", h.Total, r.ring.BatchMax())
	case h.Offset != uint64(len(r.lines)) || h.Round != r.batch || h.Total != r.total:
		return refuse(BadRows, "a piece at %d of batch %d of %d bytes, with %d bytes of batch %d of %d",
			h.Offset, h.Round, h.Total, len(r.lines), r.batch, r.total)
	}
	if len(ev.Payload) == 0 || uint64(len(r.lines)+len(ev.Payload)) > r.total {
		return refuse(BadRows, "a piece of %d bytes at %d of %d", len(ev.Payload), h.Offset, r.total)
	}
	r.lines = append(r.lines, ev.Payload...)
	r.ready = uint64(len(r.lines)) == r.total
	return nil
}

// place puts the batch in the ring, as soon as there is room.
func (r *receiver) place(ctx context.Context) error {
	var t *time.Timer
	for wait := 20 * time.Microsecond; ; wait = min(2*wait, 2*time.Millisecond) {
		err := r.ring.Place(r.key, r.batch, r.lines)
		switch {
		case err == nil:
			r.last, r.lines, r.ready, r.ack = r.batch, r.lines[:0], false, true
			return nil
		case !errors.Is(err, ErrFull):
			return refuse(BadRows, "batch %d: %v", r.batch, err)
		}
		if err := r.ended(); err != nil {
			return err
		}
		if t == nil {
			t = time.NewTimer(wait)
			defer t.Stop()
		} else {
			t.Reset(wait)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}
