package tcp

import (
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// A PeerError says why a peer failed.
type PeerError struct {
	Peer int
	Err  error
}

func (e *PeerError) Error() string { return fmt.Sprintf("tcp: peer %d: %v", e.Peer, e.Err) }

// Unwrap returns the reason.
func (e *PeerError) Unwrap() error { return e.Err }

const (
	// spinsMax is for how many Polls that find nothing a busy Park returns at once;
	// then it lets another thread have the core, which matters where there are more of
	// us than cores, and every gosched times other goroutines too.
	spinsMax = 64
	gosched  = 64
)

// A Mesh is the connections of one epoch.
type Mesh struct {
	busy   bool
	bell   *rdma.Bell
	codec  *frame.Codec
	sealed bool
	peers  collective.Set // that have not failed
	conns  [collective.PeersMax]*conn
	turn   int // the peer that is looked at first, so that none is starved

	idle  int            // Polls since something came
	more  bool           // the last Poll has left something
	ready collective.Set // that Park has found; empty: not known

	patience time.Duration
	polls    uint64
	nextLook time.Time // at whether the peers still answer
	info     tcpInfo

	sum     uint32 // of the payload that is being sent
	summed  bool
	header  [frame.HeaderBytes]byte
	gather  gather
	fds     [collective.PeersMax + 1]unix.PollFd
	who     [collective.PeersMax + 1]int // whose each of fds is
	timeout unix.Timespec
}

// newMesh takes over the connections. On an error it has closed them.
func newMesh(c Config, mc rdma.MeshConfig, conns []*net.TCPConn) (*Mesh, error) {
	m := &Mesh{
		busy: c.Busy, bell: mc.Bell, codec: mc.Codec, sealed: mc.Codec.Sealed(),
		turn: mc.Me, patience: max(mc.Patience, time.Millisecond),
	}
	for p, nc := range conns {
		if nc == nil {
			continue
		}
		fd, err := take(nc)
		if err != nil {
			_ = m.Close()
			return nil, fmt.Errorf("peer %d: %w", p, err)
		}
		m.conns[p] = &conn{
			peer: p, fd: fd,
			in:  buffer{b: make([]byte, inBytes)},
			out: buffer{b: make([]byte, outBytes)},
		}
		m.peers = m.peers.With(p)
	}
	return m, nil
}

// Send implements rdma.Mesh.
func (m *Mesh) Send(to collective.Set, h *frame.Header, payload []byte) (taken collective.Set) {
	to &= m.peers
	if to == 0 {
		return 0
	}
	m.summed = m.sealed // a seal needs no sum
	size := m.codec.FrameBytes(len(payload))
	high := to >> m.turn << m.turn // not everybody begins with the lowest
	for _, part := range [2]collective.Set{high, to &^ high} {
		for ; part != 0; part &= part - 1 {
			if c := m.conns[part.Lowest()]; m.send(c, h, payload, size) {
				taken = taken.With(c.peer)
			}
		}
	}
	return taken
}

func (m *Mesh) send(c *conn, h *frame.Header, payload []byte, size int) bool {
	c.flush()
	if c.sendErr != nil || c.err != nil || !c.out.room(size) {
		return false
	}
	if !m.summed { // once for all peers, and not at all if none has room
		m.sum, m.summed = frame.Sum(payload), true
	}
	waiting := c.out.len() > 0
	switch {
	case m.sealed:
		c.out.end = len(m.codec.Seal(c.out.b[:c.out.end], c.peer, h, payload))
	case len(payload) > copyMax && !waiting:
		m.codec.HeaderSum(&m.header, c.peer, h, len(payload), m.sum)
		c.gather(&m.gather, m.header[:], payload)
		return true
	default:
		at := (*[frame.HeaderBytes]byte)(c.out.b[c.out.end:])
		m.codec.HeaderSum(at, c.peer, h, len(payload), m.sum)
		c.out.end += frame.HeaderBytes
		c.out.end += copy(c.out.b[c.out.end:], payload)
	}
	if !waiting {
		c.flush()
	}
	return true
}

// Poll implements rdma.Mesh.
func (m *Mesh) Poll(events []rdma.Event) (got int) {
	read := m.ready
	if read == 0 {
		read = m.peers
	}
	if m.polls++; m.polls%lookEvery == 0 {
		m.look()
	}
	m.ready, m.more = 0, false
	m.turn = (m.turn + 1) % collective.PeersMax
	high := m.peers >> m.turn << m.turn
	for _, part := range [2]collective.Set{high, m.peers &^ high} {
		for ; part != 0; part &= part - 1 {
			c := m.conns[part.Lowest()]
			c.flush()
			n, more := c.receive(m.codec, events[got:], read.Has(c.peer))
			got += n
			m.more = m.more || more
			if c.fd < 0 {
				m.peers = m.peers.Without(c.peer)
			}
		}
	}
	if m.idle++; got > 0 {
		m.idle = 0
	}
	return got
}

// Park implements rdma.Mesh.
func (m *Mesh) Park(d time.Duration) {
	switch {
	case d <= 0 || m.more || m.bell.Rung():
	case !m.busy:
		m.wait(d)
	case m.idle > spinsMax:
		yield()
		if m.idle%gosched == 0 {
			runtime.Gosched()
		}
	}
}

// wait waits in the kernel for the connections and the bell.
func (m *Mesh) wait(d time.Duration) {
	m.fds[0] = unix.PollFd{Fd: int32(m.bell.FD()), Events: unix.POLLIN}
	n := 1
	for part := m.peers; part != 0; part &= part - 1 {
		c := m.conns[part.Lowest()]
		m.fds[n] = unix.PollFd{Fd: int32(c.fd), Events: unix.POLLIN}
		if c.out.len() > 0 {
			m.fds[n].Events |= unix.POLLOUT
		}
		m.who[n] = c.peer
		n++
	}
	m.look()
	m.timeout = unix.NsecToTimespec(int64(min(d, m.patience/4)))
	if _, err := unix.Ppoll(m.fds[:n], &m.timeout, nil); err != nil {
		return // interrupted: as good as early
	}
	for i := 1; i < n; i++ {
		if m.fds[i].Revents&^unix.POLLOUT != 0 {
			m.ready = m.ready.With(m.who[i])
		}
	}
}

// Close implements rdma.Mesh.
func (m *Mesh) Close() error {
	for _, c := range m.conns {
		if c != nil {
			c.close()
		}
	}
	m.peers = 0
	return nil
}
