package boot

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

// ErrNotConnected reports a peer without a connection.
var ErrNotConnected = errors.New("there is no connection to the peer")

// Bounds of a queue to or from one peer; what is beyond them, oldest first, is lost.
const (
	queueMessages = 1024
	queueBytes    = 64 << 20
)

// A Mesh connects us with the other peers until it is closed. Its methods may be
// called from any goroutine; Send, Receive and Hears do not block.
type Mesh struct {
	c      Config
	me     int
	sum    [32]byte // of the config
	ledger *ledger
	door   *door
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	peers  []peer
	status []byte // what Say said
	next   int    // peer whose inbox Receive looks into first

	bellMu sync.Mutex // a bell is not rung after Notify has taken it back
	bell   *rdma.Bell
}

var _ rdma.Control = (*Mesh)(nil)

// A peer is what we know of a configured peer, under Mesh.mu.
type peer struct {
	Peer
	session *session
	heard   bool
	since   time.Time      // of heard
	row     collective.Set // whom it hears, by its last beat
	status  []byte         // by its last beat; never changed in place
	inbox   queue
	counts  Counts
	build   string
	trouble string // why there was no connection last
}

// Counts is what went to and came from a peer.
type Counts struct {
	Connections                uint64
	BytesSent, BytesReceived   uint64
	MessagesSent, Received     uint64
	DroppedSend, DroppedInbox  uint64 // queue full
	DroppedClosed, DroppedSize uint64 // no connection, or it ended before; above MessageMax
}

// New listens, and dials the peers that have a lower number, again and again until
// Close.
func New(c Config) (*Mesh, error) {
	me, err := c.check()
	if err != nil {
		return nil, fmt.Errorf("boot: %w", err)
	}
	l, err := c.listen(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("boot: the address of %s must be one of this box, its port free: %w", c.Me, err)
	}
	m := &Mesh{c: c, me: me, sum: c.hash(), ledger: newLedger(c.Log), peers: make([]peer, len(c.Peers))}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	for i, p := range c.Peers {
		m.peers[i].Peer = p
		if i < me {
			m.wg.Go(func() { m.keepDialing(i) })
		}
	}
	m.door = newDoor(l, m.admit)
	m.wg.Go(m.watch)
	m.wg.Go(m.door.serve)
	return m, nil
}

// Send queues msg for peer; it keeps nothing of it. See [rdma.Control].
func (m *Mesh) Send(peer int, msg []byte) {
	if peer == m.me {
		return
	}
	if len(msg) > MessageMax {
		m.mu.Lock()
		m.peers[peer].counts.DroppedSize++
		m.mu.Unlock()
		m.ledger.warn("a message is too large", "", m.c.Peers[peer].ID, "peer", m.c.Peers[peer].ID, "bytes", len(msg), "limit", MessageMax)
		return
	}
	msg = slices.Clone(msg)
	m.mu.Lock()
	p := &m.peers[peer]
	s := p.session
	if s == nil {
		p.counts.DroppedClosed++
		m.mu.Unlock()
		return
	}
	p.counts.DroppedSend += s.out.push(msg)
	m.mu.Unlock()
	s.poke()
}

// Receive takes the next message, going round the peers. See [rdma.Control].
func (m *Mesh) Receive() (peer int, msg []byte, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range m.peers {
		i := m.next
		m.next = (m.next + 1) % len(m.peers)
		if msg, ok := m.peers[i].inbox.pop(); ok {
			return i, msg, true
		}
	}
	return 0, nil, false
}

// Hears fills in who hears whom; hears[i] is empty if we do not hear peer i. See
// [rdma.Control].
func (m *Mesh) Hears(hears []collective.Set) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.peers {
		hears[i] = 0
		if m.peers[i].heard {
			hears[i] = m.peers[i].row
		}
	}
	hears[m.me] = m.row()
}

// row is whom we hear. Callers hold mu.
func (m *Mesh) row() collective.Set {
	s := collective.Of(m.me)
	for i := range m.peers {
		if m.peers[i].heard {
			s = s.With(i)
		}
	}
	return s
}

// Notify sets the bell, or with nil takes it back: after that it is not rung any more.
func (m *Mesh) Notify(b *rdma.Bell) {
	m.bellMu.Lock()
	defer m.bellMu.Unlock()
	m.bell = b
	if b != nil {
		b.Ring() // what came before is new to it
	}
}

func (m *Mesh) ring() {
	m.bellMu.Lock()
	defer m.bellMu.Unlock()
	if m.bell != nil {
		m.bell.Ring()
	}
}

// Say sets what our beats carry, at most 1 KiB; it goes out at once.
func (m *Mesh) Say(status []byte) error {
	if len(status) > statusMax {
		return fmt.Errorf("boot: a status of %d bytes, limit %d", len(status), statusMax)
	}
	m.mu.Lock()
	m.status = slices.Clone(status)
	m.mu.Unlock()
	m.tellAll()
	return nil
}

// Heard returns what peer says in its beats; nil if it is not heard. It must not be
// changed.
func (m *Mesh) Heard(peer int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.peers[peer].heard {
		return nil
	}
	return m.peers[peer].status
}

// Key returns a secret that only we and peer know: an exporter of the present
// connection (RFC 8446 §7.5), the same at both ends. label names the use; a context
// that both ends know makes keys for several. It returns [ErrNotConnected] if there is
// no connection. Ends that ask while the connection is replaced may get different keys.
func (m *Mesh) Key(peer int, label string, context []byte) (key [32]byte, err error) {
	m.mu.Lock()
	s := m.peers[peer].session
	m.mu.Unlock()
	if s == nil {
		return key, fmt.Errorf("boot: peer %s: %w", m.c.Peers[peer].ID, ErrNotConnected)
	}
	b, err := s.state.ExportKeyingMaterial(label, context, len(key))
	if err != nil {
		return key, fmt.Errorf("boot: peer %s: %w", m.c.Peers[peer].ID, err)
	}
	copy(key[:], b)
	return key, nil
}

// Addr returns the other end of the connection to peer; not valid if there is none.
// Its host is where the peer is; its port means nothing if the peer has dialed.
func (m *Mesh) Addr(peer int) netip.AddrPort { return m.end(peer, net.Conn.RemoteAddr) }

// LocalAddr returns our end of the connection to peer; not valid if there is none.
func (m *Mesh) LocalAddr(peer int) netip.AddrPort { return m.end(peer, net.Conn.LocalAddr) }

func (m *Mesh) end(peer int, of func(net.Conn) net.Addr) netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.peers[peer].session
	if s == nil {
		return netip.AddrPort{}
	}
	if a, ok := of(s.raw).(*net.TCPAddr); ok {
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Listening returns where we listen.
func (m *Mesh) Listening() net.Addr { return m.door.listener.Addr() }

// Me returns our number.
func (m *Mesh) Me() int { return m.me }

// Refused returns how many connections were refused, by us or us, by reason; every
// reason is there.
func (m *Mesh) Refused() map[Reason]uint64 { return m.ledger.total() }

// A PeerStatus is what we know of a peer.
type PeerStatus struct {
	ID, Address string
	Me          bool
	Connected   bool
	Heard       bool
	Since       time.Time      // of Heard, or of not being heard; zero: since the start
	Hears       collective.Set // whom it says it hears
	Remote      netip.AddrPort
	Build       string // of its last connection
	// RTT and RTTMin are the last and the shortest round trip of the connection, and
	// Offset by how much the peer's clock is ahead of ours; its error is at most half
	// the shortest of the last eight round trips. Zero: not known yet.
	RTT, RTTMin, Offset time.Duration
	Counts
	Queued, Inbox int // messages that wait to go out; to be received
	// Trouble is why the last connection ended or did not come about. Empty: it is there.
	Trouble string
	Refused map[Reason]uint64
}

// Peers returns what we know of each peer, by number.
func (m *Mesh) Peers() []PeerStatus {
	all := make([]PeerStatus, len(m.peers))
	m.mu.Lock()
	for i := range m.peers {
		p := &m.peers[i]
		s := &all[i]
		*s = PeerStatus{
			ID: p.ID, Address: p.Address, Me: i == m.me, Heard: p.heard, Since: p.since, Hears: p.row,
			Build: p.build, Counts: p.counts, Inbox: p.inbox.len(), Trouble: p.trouble,
		}
		if i == m.me {
			s.Heard, s.Hears, s.Build = true, m.row(), m.c.Identity.Build
		}
		if p.session != nil {
			s.Connected, s.Queued = true, p.session.out.len()
			s.RTT, s.RTTMin, s.Offset, _ = p.session.clock.now()
			s.BytesSent += p.session.sent.Load()
			s.BytesReceived += p.session.received.Load()
		}
	}
	m.mu.Unlock()
	for i := range all {
		all[i].Remote = m.Addr(i)
		all[i].Refused = m.ledger.of(all[i].ID)
	}
	return all
}

// closePatience is how long Close lets queues run empty.
const closePatience = 300 * time.Millisecond

// Close sends what is queued, within bounds, ends all connections and waits for all
// goroutines.
func (m *Mesh) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	var sessions []*session
	for i := range m.peers {
		if s := m.peers[i].session; s != nil {
			sessions = append(sessions, s)
		}
	}
	m.mu.Unlock()
	m.cancel()
	err := m.door.close()
	for _, s := range sessions {
		close(s.leaving)
	}
	patience := time.After(closePatience)
	for _, s := range sessions {
		select {
		case <-s.done:
		case <-patience:
			for _, s := range sessions {
				s.end(net.ErrClosed)
			}
			patience = nil
			<-s.done
		}
	}
	m.wg.Wait()
	m.Notify(nil)
	return err
}

// watch ends the connections on which nothing comes, and those whose key is retired.
func (m *Mesh) watch() {
	t := time.NewTicker(max(m.c.Beat/2, time.Millisecond))
	defer t.Stop()
	const checkKeys = time.Second
	last, checked, forgave := time.Now(), time.Now(), false
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		// If we did not run, nor did our readers: they get one chance to see what has
		// come before somebody else is blamed.
		forgave = !forgave && now.Sub(last) > m.c.Silence/2
		last = now
		if forgave {
			continue
		}
		var silent []*session
		m.mu.Lock()
		for i := range m.peers {
			if s := m.peers[i].session; s != nil && now.Sub(s.start) > time.Duration(s.last.Load())+m.c.Silence {
				silent = append(silent, s)
			}
		}
		m.mu.Unlock()
		for _, s := range silent {
			s.end(errSilent)
		}
		if now.Sub(checked) >= checkKeys {
			checked = now
			m.checkPins()
		}
	}
}

func (m *Mesh) checkPins() {
	for i := range m.peers {
		m.mu.Lock()
		s := m.peers[i].session
		m.mu.Unlock()
		if s != nil && !slices.Contains(m.c.Pins(m.c.Peers[i].ID), s.pin) {
			m.ledger.refused(refuse(BadCertificate, "the pin of the connection's key is retired"), m.c.Peers[i].ID, s.raw.RemoteAddr())
			s.end(errRetired)
		}
	}
}

// tellAll has every connection send a beat now.
func (m *Mesh) tellAll() {
	m.mu.Lock()
	for i := range m.peers {
		if s := m.peers[i].session; s != nil {
			s.soon.Store(true)
			s.poke()
		}
	}
	m.mu.Unlock()
}

// changed spreads that we hear others than before.
func (m *Mesh) changed() {
	m.tellAll()
	m.ring()
}

// begin makes a connection after its handshake the one to its peer.
func (m *Mesh) begin(number int, conn *tls.Conn, h *hello, pin string) (*session, error) {
	s := newSession(m, number, conn, pin)
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, net.ErrClosed
	}
	p := &m.peers[number]
	old := p.session
	wasHeard := p.heard
	if old != nil {
		m.detach(old)
	}
	p.session, p.build, p.trouble = s, h.build, ""
	p.counts.Connections++
	m.wg.Go(s.read)
	m.wg.Go(s.write)
	m.mu.Unlock()
	if old != nil {
		m.ledger.refused(refuse(Duplicate, "a newer connection replaces this one"), p.ID, old.raw.RemoteAddr())
		old.end(errReplaced)
	}
	if wasHeard {
		m.changed()
	}
	m.ledger.say(slog.LevelInfo, "connected", "", p.ID, "peer", p.ID, "remote", s.raw.RemoteAddr(), "build", h.build)
	return s, nil
}

// detach makes s its peer's connection no more. Callers hold mu.
func (m *Mesh) detach(s *session) (heard bool) {
	p := &m.peers[s.number]
	if p.session != s {
		return false
	}
	p.counts.BytesSent += s.sent.Load()
	p.counts.BytesReceived += s.received.Load()
	p.counts.DroppedClosed += uint64(s.out.len())
	heard = p.heard
	p.session, p.row = nil, 0
	if heard {
		p.heard, p.since = false, time.Now()
	}
	return heard
}

// take takes a beat that s received at now.
func (m *Mesh) take(s *session, b *beat, now time.Time) {
	m.mu.Lock()
	p := &m.peers[s.number]
	if p.session != s {
		m.mu.Unlock()
		return
	}
	s.echo, s.echoed = b.sent, now.UnixNano()
	if b.echo != 0 {
		s.clock.take(b.echo, b.echoed, b.sent, now.UnixNano())
	}
	if b.regular && s.beats < 2 {
		s.beats++
	}
	news := p.row != b.hears || string(p.status) != string(b.status)
	p.row = b.hears
	if news {
		p.status = slices.Clone(b.status)
	}
	first := !p.heard && s.beats >= 2
	if first {
		p.heard, p.since = true, now
	}
	heard := p.heard
	m.mu.Unlock()
	if first {
		m.changed()
	} else if news && heard {
		m.ring()
	}
}

// wasHeard reports whether s ever made its peer heard.
func (m *Mesh) wasHeard(s *session) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.beats >= 2
}

// noted keeps why there is no connection to a peer.
func (m *Mesh) noted(number int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := &m.peers[number]; p.session == nil {
		p.trouble = err.Error()
	}
}

// deliver puts a message into its sender's inbox.
func (m *Mesh) deliver(s *session, msg []byte) {
	m.mu.Lock()
	p := &m.peers[s.number]
	if p.session == s {
		p.counts.Received++
		p.counts.DroppedInbox += p.inbox.push(msg)
	}
	m.mu.Unlock()
	m.ring()
}

// ended reports the end of a connection.
func (m *Mesh) ended(s *session, err error) {
	m.mu.Lock()
	if m.peers[s.number].session == s {
		m.peers[s.number].trouble = err.Error()
	}
	heard := m.detach(s)
	closed := m.closed
	m.mu.Unlock()
	if heard {
		m.changed()
	}
	if !closed && !errors.Is(err, errReplaced) {
		id := m.c.Peers[s.number].ID
		m.ledger.warn("a connection has ended", "", id, "peer", id, "remote", s.raw.RemoteAddr(), slog.Any("error", err))
	}
}

// A queue holds messages within bounds.
type queue struct {
	messages [][]byte
	bytes    int
}

// push adds msg and returns how many of the oldest it dropped for that.
func (q *queue) push(msg []byte) (dropped uint64) {
	for len(q.messages) > 0 && (len(q.messages) >= queueMessages || q.bytes+len(msg) > queueBytes) {
		q.pop()
		dropped++
	}
	q.messages = append(q.messages, msg)
	q.bytes += len(msg)
	return dropped
}

func (q *queue) pop() (msg []byte, ok bool) {
	if len(q.messages) == 0 {
		return nil, false
	}
	msg = q.messages[0]
	q.messages[0] = nil
	q.messages = q.messages[1:]
	q.bytes -= len(msg)
	return msg, true
}

func (q *queue) len() int { return len(q.messages) }
