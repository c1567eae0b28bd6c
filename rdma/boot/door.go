package boot

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// handshakePatience bounds a handshake, Hello and all.
	handshakePatience = 5 * time.Second
	// dialPatience is less than a SYN is repeated in, so that we are there soon after a
	// link is.
	dialPatience = time.Second
	// pendingMax bounds the connections whose handshake is not over.
	pendingMax = 64
	// Waits between tries to connect.
	waitFirst, waitLast = 50 * time.Millisecond, time.Second
)

// Protocols of a connection (ALPN).
const (
	protocolControl = "headrace-control/1"
	protocolJoin    = "headrace-join/1"
)

// A door is a listener whose guests have a bounded number of handshakes going on. If
// another comes, the oldest is sent away: a handshake takes milliseconds, so that one
// has no good intentions.
type door struct {
	listener net.Listener
	admit    func(net.Conn)

	mu      sync.Mutex
	closed  bool
	pending []net.Conn
	wg      sync.WaitGroup
}

func newDoor(l net.Listener, admit func(net.Conn)) *door {
	return &door{listener: l, admit: admit}
}

func (d *door) serve() {
	for {
		conn, err := d.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		d.mu.Lock()
		if d.closed {
			_ = conn.Close()
		} else {
			if len(d.pending) >= pendingMax {
				_ = d.pending[0].Close()
				d.pending = d.pending[1:]
			}
			d.pending = append(d.pending, conn)
			d.wg.Go(func() {
				d.admit(conn)
				d.mu.Lock()
				if i := slices.Index(d.pending, conn); i >= 0 {
					d.pending = slices.Delete(d.pending, i, i+1)
				}
				d.mu.Unlock()
			})
		}
		d.mu.Unlock()
	}
}

// close closes the listener and what is pending, and waits.
func (d *door) close() error {
	err := d.listener.Close()
	d.mu.Lock()
	d.closed = true
	for _, c := range d.pending {
		_ = c.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
	return err
}

// admit makes the handshake with who has dialed us.
func (m *Mesh) admit(raw net.Conn) {
	m.tune(raw)
	_ = raw.SetDeadline(time.Now().Add(handshakePatience))
	conn := tls.Server(raw, m.serverTLS())
	number, h, err := m.welcome(conn)
	if err == nil && h != nil {
		_ = raw.SetDeadline(time.Time{})
		if _, err = m.begin(number, conn, h, Pin(conn.ConnectionState().PeerCertificates[0])); err == nil {
			return
		}
	}
	if err == nil { // a join: it has its answer
		drain(raw)
		return
	}
	if m.ctx.Err() == nil {
		m.turnAway(conn, number, err)
	}
	_ = raw.Close()
}

// turnAway logs and counts why a guest is refused, and tells it.
func (m *Mesh) turnAway(conn *tls.Conn, number int, err error) {
	r := refusal(err, false)
	id := ""
	if number >= 0 {
		id = m.c.Peers[number].ID
		m.noted(number, r)
	}
	m.ledger.refused(r, id, conn.RemoteAddr())
	if !r.Theirs && conn.ConnectionState().HandshakeComplete {
		_, _ = conn.Write(appendFrame(nil, kindRefuse, encodeRefusal(r.Reason, r.Text)))
	}
	drain(conn.NetConn())
}

// drain closes raw in such a way that the other end can read what we said last: closing
// with bytes unread would be a reset.
func drain(raw net.Conn) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	_ = raw.SetDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = io.CopyN(io.Discard, raw, 64<<10)
	_ = raw.Close()
}

// welcome is the listener's part of the handshake. number is -1 until it is proven. h
// is nil after a join.
func (m *Mesh) welcome(conn *tls.Conn) (number int, h *hello, err error) {
	if err := conn.HandshakeContext(m.ctx); err != nil {
		return -1, nil, err
	}
	state := conn.ConnectionState()
	switch state.NegotiatedProtocol {
	case protocolControl:
	case protocolJoin:
		return -1, nil, m.answerJoin(conn)
	default:
		return -1, nil, refuse(Garbage, "the protocol is not named")
	}
	k, body, err := readFrame(conn, helloMax)
	if err != nil {
		return -1, nil, err
	}
	number, h, err = m.checkHello(k, body, &state)
	if err != nil {
		return number, nil, err
	}
	if number < m.me {
		return number, nil, refuse(Duplicate, "of two peers the one with the higher number dials, that is us")
	}
	if err := m.sendHello(conn, &state); err != nil {
		return number, nil, err
	}
	if k, body, err = readFrame(conn, helloMax); err != nil {
		return number, nil, err
	}
	return number, h, started(k, body)
}

// started wants a Start, and makes a Refuse an error.
func started(k kind, body []byte) error {
	switch {
	case k == kindStart && len(body) == 0:
		return nil
	case k == kindRefuse:
		return refusedBy(body)
	}
	return refuse(Garbage, "kind %d is not what a handshake goes on with", k)
}

func refusedBy(body []byte) error {
	reason, text, err := decodeRefusal(body)
	if err != nil {
		return err
	}
	return &RefusedError{Reason: reason, Text: text, Theirs: true}
}

// proof binds what id says to a TLS session.
func proof(state *tls.ConnectionState, id string) (p [32]byte, err error) {
	b, err := state.ExportKeyingMaterial("EXPORTER-headrace-hello", []byte(id), len(p))
	copy(p[:], b)
	return p, err
}

func (m *Mesh) sendHello(conn *tls.Conn, state *tls.ConnectionState) error {
	h := hello{wire: wireVersion, version: m.c.Identity.Version, config: m.sum, id: m.c.Me, build: m.c.Identity.Build}
	var err error
	if h.proof, err = proof(state, h.id); err != nil {
		return err
	}
	_, err = conn.Write(appendFrame(nil, kindHello, h.encode()))
	return err
}

// checkHello finds out whose hello it is, and whether we can work with that peer.
// number is -1 unless its key has proven it.
func (m *Mesh) checkHello(k kind, body []byte, state *tls.ConnectionState) (number int, h *hello, err error) {
	if k == kindRefuse {
		return -1, nil, refusedBy(body)
	}
	if k != kindHello {
		return -1, nil, refuse(Garbage, "kind %d instead of a hello", k)
	}
	d, err := decodeHello(body)
	if err != nil {
		return -1, nil, err
	}
	want, err := proof(state, d.id)
	if err != nil {
		return -1, nil, err
	}
	if d.proof != want {
		return -1, nil, refuse(Replay, "the hello belongs to another connection")
	}
	number = slices.IndexFunc(m.c.Peers, func(p Peer) bool { return p.ID == d.id })
	if number < 0 || number == m.me {
		return -1, nil, refuse(UnknownPeer, "no other peer is called %q", d.id)
	}
	if pin := Pin(state.PeerCertificates[0]); !slices.Contains(m.c.Pins(d.id), pin) {
		return -1, nil, refuse(BadCertificate, "key %s is not pinned for peer %s", pin, d.id)
	}
	switch i := m.c.Identity; {
	case d.wire != wireVersion || d.version != i.Version:
		return number, nil, refuse(Version, "%s speaks version %d.%d, %s %d.%d", d.id, d.wire, d.version, m.c.Me, wireVersion, i.Version)
	case d.build != i.Build:
		return number, nil, refuse(Version, "%s is build %q, %s %q", d.id, d.build, m.c.Me, i.Build)
	case d.config != m.sum:
		return number, nil, refuse(ConfigDiffers, "%s has config %x, %s %x", d.id, d.config[:8], m.c.Me, m.sum[:8])
	}
	return number, &d, nil
}

func (m *Mesh) serverTLS() *tls.Config {
	return PinnedTLS(m.c.Certificate, func(pin, chosen string) error {
		if chosen == protocolJoin {
			return nil // a token must prove it
		}
		for i, p := range m.c.Peers {
			if i != m.me && slices.Contains(m.c.Pins(p.ID), pin) {
				return nil
			}
		}
		return refuse(BadCertificate, "key %s is not pinned for any peer", pin)
	}, protocolControl, protocolJoin)
}

func (m *Mesh) clientTLS(number int) *tls.Config {
	return PinnedTLS(m.c.Certificate, func(pin, _ string) error {
		id := m.c.Peers[number].ID
		if !slices.Contains(m.c.Pins(id), pin) {
			return refuse(BadCertificate, "key %s is not pinned for peer %s", pin, id)
		}
		return nil
	}, protocolControl)
}

// tune has the kernel give up data that nobody acknowledges, some time after we did.
func (m *Mesh) tune(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetNoDelay(true)
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int((4 * m.c.Silence).Milliseconds()))
		})
	}
}

// keepDialing connects to a peer whenever there is no connection.
func (m *Mesh) keepDialing(number int) {
	id := m.c.Peers[number].ID
	for wait := waitFirst; m.ctx.Err() == nil; {
		s, err := m.connect(number)
		if err == nil {
			<-s.done
			if m.wasHeard(s) {
				wait = waitFirst
			}
		} else if m.ctx.Err() == nil {
			m.noted(number, err)
			m.ledger.warn("no connection", "", id, "peer", id, "address", m.c.Peers[number].Address, "error", err)
		}
		select {
		case <-m.ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, waitLast)
	}
}

// connect dials and makes the dialer's part of the handshake.
func (m *Mesh) connect(number int) (*session, error) {
	raw, err := m.c.dial(m.ctx, m.c.Peers[number].Address)
	if err != nil {
		return nil, err
	}
	m.tune(raw)
	_ = raw.SetDeadline(time.Now().Add(handshakePatience))
	stop := context.AfterFunc(m.ctx, func() { _ = raw.SetDeadline(time.Now()) })
	conn := tls.Client(raw, m.clientTLS(number))
	h, err := m.greet(conn, number)
	if !stop() && err == nil {
		err = net.ErrClosed
	}
	if err == nil {
		_ = raw.SetDeadline(time.Time{})
		var s *session
		if s, err = m.begin(number, conn, h, Pin(conn.ConnectionState().PeerCertificates[0])); err == nil {
			return s, nil
		}
	}
	if r := refusal(err, true); r != nil && m.ctx.Err() == nil {
		m.ledger.refused(r, m.c.Peers[number].ID, raw.RemoteAddr())
		if !r.Theirs && conn.ConnectionState().HandshakeComplete {
			_, _ = conn.Write(appendFrame(nil, kindRefuse, encodeRefusal(r.Reason, r.Text)))
			drain(raw)
		}
	}
	_ = raw.Close()
	return nil, err
}

func (m *Mesh) greet(conn *tls.Conn, number int) (*hello, error) {
	if err := conn.HandshakeContext(m.ctx); err != nil {
		return nil, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != protocolControl {
		return nil, refuse(Garbage, "the protocol is not named")
	}
	if err := m.sendHello(conn, &state); err != nil {
		return nil, err
	}
	k, body, err := readFrame(conn, helloMax)
	if err != nil {
		return nil, err
	}
	who, h, err := m.checkHello(k, body, &state)
	if err != nil {
		return nil, err
	}
	if who != number {
		return nil, refuse(UnknownPeer, "%s answers at the address of %s", h.id, m.c.Peers[number].ID)
	}
	_, err = conn.Write(appendFrame(nil, kindStart, nil))
	return h, err
}
