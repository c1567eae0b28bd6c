// Package tcp carries frames over TCP: one connection a pair, no cgo, no lock and no
// allocation on the way of a frame. It is the transport that is always there.
//
//	Transport   listens, makes offers, connects   tcp.go, open.go
//	Mesh        Send, Poll, Park                  mesh.go
//	conn        the two buffers of a connection   conn.go
//	            system calls that do not block    raw.go
//
// An offer is our address and a random token for the one peer that it is made to. The
// higher of two peers dials and shows the token that it was offered; the lower answers
// with its own. So a connection is of two members of the epoch, whoever else reaches
// the port. What goes over it is in clear unless the codec seals it.
//
// A connection is non-blocking. Busy mode is for a goroutine that has a core to itself
// and polls; otherwise Park waits in the kernel for all connections and the bell.
package tcp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma/collective"
)

// Why a mesh did not come about or a peer failed.
var (
	// ErrClosed reports a peer that closed the connection, or our own end that is closed.
	ErrClosed = errors.New("the connection is closed")
	// ErrNotPrepared reports an Open of an epoch that is not prepared, or not any more.
	ErrNotPrepared = errors.New("the epoch is not prepared")
	// ErrOffer reports an offer that was not made by this package.
	ErrOffer = errors.New("not an offer of tcp")
	// ErrMissing reports members that did not connect in time.
	ErrMissing = errors.New("not connected in time")
)

// Config makes a [Transport].
type Config struct {
	// Listen is our address, as peers reach it. Required.
	Listen netip.Addr
	// Port is where we listen. Zero: any that is free; peers learn it from the offer.
	Port uint16
	// Busy is for a goroutine that has a core to itself: Park does not wait in the
	// kernel, it lets others run for a moment when nothing has come for a while.
	Busy bool
	// BufferBytes is asked of the kernel for each direction of a connection, where we
	// may. Zero: 1 MiB.
	BufferBytes int
	// Hello is how long a connection has to say who it is. Zero: 5 s.
	Hello time.Duration
	// Log says what was refused at the port. Nil: nothing.
	Log *slog.Logger
}

// strangersMax bounds the connections that have not said yet who they are. If another
// comes, the oldest is sent away: a member says it at once.
const strangersMax = 64

// logEvery is how often a refusal is logged: anybody may knock as fast as he can.
const logEvery = 10 * time.Second

// A Transport makes meshes over TCP. Its methods may be called from any goroutine.
type Transport struct {
	config  Config
	refused atomic.Uint64

	mu        sync.Mutex
	listener  *net.TCPListener
	prepared  *prepared  // the epoch that is to be opened
	strangers []net.Conn // the oldest first
	muted     time.Time  // until when refusals are counted and not logged
	closed    bool
	running   sync.WaitGroup
}

// prepared is an epoch for which offers were made.
type prepared struct {
	epoch   uint64
	tokens  [collective.PeersMax]token // that each peer was offered
	members collective.Set
	gone    chan struct{} // closed when it was opened, or taken back
	arrived chan arrival  // has room for some from each member
}

type token [16]byte

// arrival is a connection whose peer has shown the token that it was offered.
type arrival struct {
	peer int
	conn *net.TCPConn
}

// New returns a transport. It does not listen before the first Prepare.
func New(c Config) (*Transport, error) {
	if !c.Listen.IsValid() || c.Listen.IsUnspecified() || c.Listen.IsMulticast() {
		return nil, fmt.Errorf("tcp: listen address %q: give one of this box that the peers reach", c.Listen)
	}
	if c.BufferBytes == 0 {
		c.BufferBytes = 1 << 20
	}
	if c.Hello == 0 {
		c.Hello = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Transport{config: c}, nil
}

// Name is tcp.
func (t *Transport) Name() string { return "tcp" }

// Refused returns how many connections to the port were closed because they did not
// come from a member that was expected.
func (t *Transport) Refused() uint64 { return t.refused.Load() }

// Addr returns where the transport listens; it is not valid before the first Prepare.
func (t *Transport) Addr() netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listener == nil {
		return netip.AddrPort{}
	}
	return t.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Prepare implements rdma.Transport.
func (t *Transport) Prepare(epoch uint64, members collective.Set) ([][]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, fmt.Errorf("tcp: %w", ErrClosed)
	}
	if t.listener == nil {
		if err := t.listen(); err != nil {
			return nil, fmt.Errorf("tcp: %w", err)
		}
	}
	t.takeBack()
	p := &prepared{
		epoch: epoch, members: members,
		gone: make(chan struct{}), arrived: make(chan arrival, 4*collective.PeersMax),
	}
	addr, err := t.listener.Addr().(*net.TCPAddr).AddrPort().MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("tcp: %w", err)
	}
	offers := make([][]byte, collective.PeersMax)
	for m := range members.All {
		_, _ = rand.Read(p.tokens[m][:]) // it does not fail
		offers[m] = append(append([]byte{offerVersion}, p.tokens[m][:]...), addr...)
	}
	t.prepared = p
	return offers, nil
}

// takeBack forgets the epoch that was prepared and not opened. The caller holds mu.
func (t *Transport) takeBack() {
	if t.prepared != nil {
		close(t.prepared.gone)
		t.prepared.drop()
		t.prepared = nil
	}
}

// drop closes what has arrived. Nothing arrives any more.
func (p *prepared) drop() {
	for {
		select {
		case a := <-p.arrived:
			_ = a.conn.Close()
		default:
			return
		}
	}
}

// listen opens the port and begins to accept. The caller holds mu.
func (t *Transport) listen() error {
	lc := net.ListenConfig{Control: t.control, KeepAlive: -1}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", netip.AddrPortFrom(t.config.Listen, t.config.Port).String())
	if err != nil {
		return err
	}
	t.listener = l.(*net.TCPListener)
	t.running.Go(func() { t.accept(t.listener) })
	return nil
}

// control asks for buffers before the connection is made: the window's scale depends
// on them. Asking within the system's limit would rather make them smaller than the
// kernel makes them by itself, so it is asked for only where we may exceed it.
func (t *Transport) control(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, t.config.BufferBytes)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, t.config.BufferBytes)
	})
}

// Close closes the port and waits for what still runs. Meshes that are open go on.
func (t *Transport) Close() error {
	t.mu.Lock()
	t.closed = true
	t.takeBack()
	if t.listener != nil {
		_ = t.listener.Close()
	}
	for _, c := range t.strangers {
		_ = c.Close()
	}
	t.mu.Unlock()
	t.running.Wait()
	return nil
}
