package deliver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
	"github.com/headrace/headrace/rdma/tcp"
	"github.com/headrace/headrace/rdma/verbs"
)

// The members of a mesh. The producer, as the higher one, dials.
const (
	memberConsumer = 0
	memberProducer = 1
)

var members = collective.First(2)

const (
	handshakePatience = 10 * time.Second
	openPatience      = 5 * time.Second
	// parkMost is how long an end sleeps in its mesh at once; a bell ends it sooner.
	parkMost = time.Second
)

// Transports in the order of preference.
const (
	Auto  = "auto"
	Verbs = "verbs"
	TCP   = "tcp"
)

var errGone = errors.New("the other end is gone")

// keepAlive ends a connection whose other end is gone without a word, within 12 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 3 * time.Second, Interval: 3 * time.Second, Count: 3}

// transport makes one of the transports for a connection with our end at local.
func transport(name string, me int, local net.Addr, port uint16, device string, log *slog.Logger) (rdma.Transport, error) {
	if name == Verbs {
		return verbs.New(verbs.Config{Me: me, Device: device, GIDIndex: -1})
	}
	a, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return nil, err
	}
	return tcp.New(tcp.Config{Listen: a.Addr().Unmap(), Port: port, Log: log})
}

// allowed returns the transports that a setting allows.
func allowed(setting string) ([]string, error) {
	switch setting {
	case "", Auto:
		return []string{Verbs, TCP}, nil
	case Verbs, TCP:
		return []string{setting}, nil
	}
	return nil, fmt.Errorf("transport %q is not auto, tcp or verbs", setting)
}

// tlsConfig is that of either end: the other end's key must have one of the pins.
func tlsConfig(certificate func() (*tls.Certificate, error), pins func() []string) *tls.Config {
	return boot.PinnedTLS(certificate, func(pin, _ string) error {
		if !slices.Contains(pins(), pin) {
			return refuse(BadKey, "key %s is not pinned here", pin)
		}
		return nil
	}, protocol)
}

// A link is one connection, opened.
type link struct {
	me, peer  int
	epoch     uint64
	conn      *tls.Conn
	transport rdma.Transport
	mesh      rdma.Mesh
	codec     *frame.Codec
	events    [8]rdma.Event
	watching  sync.WaitGroup

	mu   sync.Mutex // a bell that is closed must not be rung
	bell *rdma.Bell
	err  error // why the link has ended
}

// openLink opens the mesh with what the other end has offered. The transport was
// prepared. It takes over the connection and the transport, also on error.
func openLink(conn *tls.Conn, t rdma.Transport, me int, epoch uint64, offer []byte, seal bool) (*link, error) {
	l := &link{me: me, peer: 1 - me, epoch: epoch, conn: conn, transport: t}
	err := l.open(offer, seal)
	if err != nil {
		l.close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	l.watching.Go(l.watch)
	return l, nil
}

func (l *link) open(offer []byte, seal bool) (err error) {
	if l.bell, err = rdma.NewBell(); err != nil {
		return err
	}
	c := frame.Config{Me: l.me, Epoch: l.epoch, Max: rdma.FrameMax}
	if seal {
		c.Keys = l.keys
	}
	if l.codec, err = frame.NewCodec(c, uint32(members)); err != nil {
		return err
	}
	offers := make([][]byte, 2)
	offers[l.peer] = offer
	l.mesh, err = l.transport.Open(rdma.MeshConfig{
		Epoch: l.epoch, Me: l.me, Members: members, Offers: offers,
		Patience: openPatience, Bell: l.bell, Codec: l.codec,
	})
	return err
}

// keys are exported from the connection's TLS session (RFC 8446 §7.5), one a direction.
func (l *link) keys(int) (send, receive [32]byte, err error) {
	state := l.conn.ConnectionState()
	for to, key := range map[int]*[32]byte{l.peer: &send, l.me: &receive} {
		b, e := state.ExportKeyingMaterial("EXPORTER-headrace-deliver", append(binary.BigEndian.AppendUint64(nil, l.epoch), byte(to)), len(key))
		err = errors.Join(err, e)
		copy(key[:], b)
	}
	return send, receive, err
}

// watch learns of the other end's end from the TLS connection: at once if its process
// died, whatever the transport.
func (l *link) watch() {
	_, err := readMessage(l.conn, "")
	var r *RefusedError
	if !errors.As(err, &r) {
		err = errGone
	}
	l.end(err)
}

// end makes err the link's end, if it has none yet, and wakes its user.
func (l *link) end(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	if l.bell != nil {
		l.bell.Ring()
	}
	l.mu.Unlock()
}

// wake has the user look up from its mesh.
func (l *link) wake() {
	l.mu.Lock()
	if l.bell != nil {
		l.bell.Ring()
	}
	l.mu.Unlock()
}

// ended returns why the link has ended, or nil.
func (l *link) ended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// turn gives what has come to see, or sleeps until something comes. It returns why
// nothing comes any more.
func (l *link) turn(ctx context.Context, see func(*rdma.Event) error) error {
	l.bell.Clear()
	n := l.mesh.Poll(l.events[:])
	for i := range l.events[:n] {
		ev := &l.events[i]
		if ev.Err != nil {
			// The reason that the other end gave, if it did, says more.
			return errors.Join(l.ended(), ev.Err)
		}
		if err := see(ev); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if n > 0 {
		return nil
	}
	if err := l.ended(); err != nil {
		return err
	}
	l.mesh.Park(parkMost)
	return nil
}

// close lets go of everything. A refusal among errs is told to the other end.
func (l *link) close(errs ...error) {
	l.end(net.ErrClosed)
	tell(l.conn, errors.Join(errs...))
	_ = l.conn.Close()
	l.watching.Wait()
	if l.mesh != nil {
		_ = l.mesh.Close()
	}
	_ = l.transport.Close()
	l.mu.Lock()
	if l.bell != nil {
		_ = l.bell.Close()
		l.bell = nil
	}
	l.mu.Unlock()
}

// tell says a refusal of ours to the other end.
func tell(conn *tls.Conn, err error) {
	var r *RefusedError
	if errors.As(err, &r) && !r.Theirs && conn.ConnectionState().HandshakeComplete {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_ = writeMessage(conn, &message{Kind: kindRefuse, Reason: r.Reason, Text: clip(r.Text)})
		_ = conn.CloseWrite()
	}
}
