package deliver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// ProducerConfig says where rows go.
type ProducerConfig struct {
	// Address is the consumer's host:port. Required.
	Address string
	// Pins are the keys by which the consumer is known. Required.
	Pins []string
	// Certificate is asked for our key. Required.
	Certificate func() (*tls.Certificate, error)
	// Stream tells our rows from those of other producers, and us from what we were
	// before. Not 0. Required.
	Stream uint64
	// Name says who we are, in the consumer's log.
	Name string
	// Transport is auto, tcp or verbs; empty: auto.
	Transport string
	// Device is the RDMA device for verbs; empty: the first.
	Device string
	// Seal encrypts and authenticates the frames too.
	Seal bool
	// Log is told what was refused at the data port. Nil: nobody is.
	Log *slog.Logger
}

// A TransportError reports a transport that both ends wanted and that did not come
// about: the next attempt may be with another.
type TransportError struct {
	Transport string
	Err       error
}

func (e *TransportError) Error() string { return fmt.Sprintf("transport %s: %v", e.Transport, e.Err) }

// Unwrap returns the reason.
func (e *TransportError) Unwrap() error { return e.Err }

// A Producer is one connection to a consumer. One goroutine uses it.
type Producer struct {
	*link
	name     string // of the transport
	why      string
	last     uint64 // batch that the consumer has
	sent     uint64
	batchMax uint64
	see      func(*rdma.Event) error
}

// Dial connects. An error wraps a [*RefusedError] if one end does not want the other,
// and a [*TransportError] if the rows cannot get through.
func Dial(ctx context.Context, c ProducerConfig) (*Producer, error) {
	p, err := dial(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("deliver: %s: %w", c.Address, err)
	}
	return p, nil
}

func dial(ctx context.Context, c ProducerConfig) (*Producer, error) {
	names, err := allowed(c.Transport)
	if err != nil {
		return nil, err
	}
	if c.Stream == 0 || c.Certificate == nil {
		return nil, errors.New("a stream and a key are needed")
	}
	d := net.Dialer{Timeout: openPatience, KeepAliveConfig: keepAlive}
	raw, err := d.DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = raw.SetDeadline(time.Now().Add(handshakePatience))
	conn := tls.Client(raw, tlsConfig(c.Certificate, func() []string { return c.Pins }))
	p, err := c.greet(ctx, conn, names)
	if err != nil {
		tell(conn, err)
		_ = conn.Close()
		return nil, c.explain(err)
	}
	p.see = p.acknowledged
	return p, nil
}

// explain makes the alert of a consumer that does not know our key a refusal that says
// what to do.
func (c *ProducerConfig) explain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" && op.Err.Error() == tls.AlertError(alertBadCertificate).Error() {
		own, _ := c.Certificate()
		pin, _ := boot.PinOf(own)
		return &RefusedError{Reason: BadKey, Text: "our key " + pin + " is not pinned there", Theirs: true}
	}
	return err
}

// alertBadCertificate is bad_certificate of RFC 8446 §6.
const alertBadCertificate = 42

// greet makes the producer's part of the handshake.
func (c *ProducerConfig) greet(ctx context.Context, conn *tls.Conn, names []string) (*Producer, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if conn.ConnectionState().NegotiatedProtocol != protocol {
		return nil, refuse(Garbage, "who answers is no consumer of rows")
	}
	made := map[string]rdma.Transport{}
	defer func() {
		for _, t := range made { // those that were not chosen
			_ = t.Close()
		}
	}()
	why := ""
	var have []string
	for _, name := range names {
		t, err := transport(name, memberProducer, conn.LocalAddr(), 0, c.Device, c.Log)
		if err != nil {
			why = err.Error()
			continue
		}
		made[name], have = t, append(have, name)
	}
	if len(have) == 0 {
		return nil, refuse(NoTransport, "%s", why)
	}
	hello := &message{Kind: kindHello, Version: wireVersion, Stream: c.Stream, Name: clip(c.Name), Transports: have, Seal: c.Seal}
	if err := writeMessage(conn, hello); err != nil {
		return nil, err
	}
	w, err := readMessage(conn, kindWelcome)
	if err != nil {
		return nil, err
	}
	t := made[w.Transport]
	if t == nil || w.Epoch == 0 || w.BatchMax < recordBytes {
		return nil, refuse(Garbage, "a welcome with transport %q, epoch %d, batches of %d bytes", clip(w.Transport), w.Epoch, w.BatchMax)
	}
	delete(made, w.Transport)
	if why == "" {
		why = w.Why
	}
	p := &Producer{name: w.Transport, why: why, last: w.Batch, sent: w.Batch, batchMax: w.BatchMax}
	if err := p.connect(conn, t, w, c.Seal); err != nil {
		return nil, &TransportError{w.Transport, err}
	}
	return p, nil
}

// connect opens the link. It takes the transport over.
func (p *Producer) connect(conn *tls.Conn, t rdma.Transport, w *message, seal bool) error {
	offers, err := t.Prepare(w.Epoch, members)
	if err == nil {
		err = writeMessage(conn, &message{Kind: kindOffer, Offer: offers[memberConsumer]})
	}
	if err != nil {
		return errors.Join(err, t.Close())
	}
	p.link, err = openLink(conn, t, memberProducer, w.Epoch, w.Offer, seal)
	return err
}

// Transport returns the name of the transport, and why it is not a better one, if one
// was wanted.
func (p *Producer) Transport() (name, why string) { return p.name, p.why }

// Last returns the number of the last batch of our stream that the consumer has.
func (p *Producer) Last() uint64 { return p.last }

// Fit returns as many of the first lines as go in one batch. The error wraps
// [ErrTooLarge] if the first alone does not, and is [ErrNotLines] if they do not end in
// a newline.
func (p *Producer) Fit(lines []byte) ([]byte, error) {
	n, total := 0, uint64(0)
	for rest := lines; len(rest) > 0; rest = lines[n:] {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			return nil, ErrNotLines
		}
		if total += recordSize(end); total > p.batchMax {
			if n == 0 {
				return nil, fmt.Errorf("%w: a row of %d bytes, the consumer's ring takes %d", ErrTooLarge, end, p.batchMax-recordBytes)
			}
			break
		}
		n += end + 1
	}
	return lines[:n], nil
}

// Send sends a batch and returns when the consumer has it in its ring, when ctx ends,
// or when the connection has ended. Its number is above that of every batch before it.
func (p *Producer) Send(ctx context.Context, batch uint64, lines []byte) error {
	stop := context.AfterFunc(ctx, p.wake)
	defer stop()
	h := frame.Header{Kind: frame.Rows, Round: batch, Total: uint64(len(lines)), Dest: memberConsumer}
	p.sent = batch
	to := collective.Of(memberConsumer)
	for at := 0; at < len(lines); {
		piece := lines[at:min(len(lines), at+rdma.FrameMax)]
		h.Offset = uint64(at)
		if p.mesh.Send(to, &h, piece) == to {
			at += len(piece)
		} else if err := p.turn(ctx, p.see); err != nil {
			return err
		}
	}
	for p.last < batch {
		if err := p.turn(ctx, p.see); err != nil {
			return err
		}
	}
	return nil
}

// acknowledged takes in what comes from the consumer.
func (p *Producer) acknowledged(ev *rdma.Event) error {
	h := &ev.Header
	if h.Kind != frame.RowsAck || h.Round <= p.last || h.Round > p.sent {
		return refuse(Garbage, "a frame of kind %d for batch %d, between %d and %d", h.Kind, h.Round, p.last, p.sent)
	}
	p.last = h.Round
	return nil
}

// Ended returns why the connection has ended, or nil as long as nothing is known.
func (p *Producer) Ended() error { return p.ended() }

// Close ends the connection.
func (p *Producer) Close() error {
	p.close()
	return nil
}
