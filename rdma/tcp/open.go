package tcp

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

// The first bytes in each direction of a connection, little-endian: "hrt1", from u8,
// to u8, zero u16, epoch u64, the token that the other side offered to this one.
const (
	helloBytes   = 32
	helloMagic   = "hrt1"
	offerVersion = 1
)

func hello(from, to int, epoch uint64, t token) []byte {
	b := append([]byte(helloMagic), byte(from), byte(to), 0, 0)
	b = binary.LittleEndian.AppendUint64(b, epoch)
	return append(b, t[:]...)
}

// answers reports that got is the hello that it must be, in a time that does not tell
// how much of it is right.
func answers(got []byte, want []byte) bool { return subtle.ConstantTimeCompare(got, want) == 1 }

// parseOffer is the inverse of what Prepare makes.
func parseOffer(b []byte) (addr netip.AddrPort, t token, err error) {
	if len(b) < 1+len(t) || b[0] != offerVersion {
		return addr, t, ErrOffer
	}
	copy(t[:], b[1:])
	if err := addr.UnmarshalBinary(b[1+len(t):]); err != nil || !addr.IsValid() || addr.Port() == 0 {
		return addr, t, ErrOffer
	}
	return addr, t, nil
}

// accept gives every connection to the port a little time to say who it is.
func (t *Transport) accept(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors, or the peer was faster to go
			time.Sleep(10 * time.Millisecond)
			continue
		}
		t.mu.Lock()
		if t.closed {
			_ = c.Close()
			t.mu.Unlock()
			return
		}
		if len(t.strangers) >= strangersMax {
			_ = t.strangers[0].Close() // meet refuses it
			t.strangers = slices.Delete(t.strangers, 0, 1)
		}
		t.strangers = append(t.strangers, c)
		t.running.Go(func() { t.meet(c) })
		t.mu.Unlock()
	}
}

// refuse closes c and counts it. The caller holds mu.
func (t *Transport) refuse(c net.Conn, err error) {
	t.refused.Add(1)
	if now := time.Now(); !now.Before(t.muted) {
		t.muted = now.Add(logEvery)
		t.config.Log.Warn("a connection to the data port was refused", "from", c.RemoteAddr(), "err", err, "refused", t.refused.Load())
	}
	_ = c.Close()
}

// meet reads the hello of a connection and gives it to the epoch that expects it.
func (t *Transport) meet(c *net.TCPConn) {
	var b [helloBytes]byte
	_ = c.SetDeadline(time.Now().Add(t.config.Hello))
	_, err := io.ReadFull(c, b[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.strangers, net.Conn(c)); i >= 0 {
		t.strangers = slices.Delete(t.strangers, i, i+1)
	}
	p := t.prepared
	switch {
	case err != nil:
	case string(b[:4]) != helloMagic:
		err = errors.New("it does not begin as it must")
	case p == nil || binary.LittleEndian.Uint64(b[8:]) != p.epoch:
		err = errors.New("not of an epoch that is being opened")
	default:
		from := int(b[4])
		if from >= collective.PeersMax || !p.members.Has(from) ||
			!answers(b[:], hello(from, int(b[5]), p.epoch, p.tokens[from])) {
			err = fmt.Errorf("peer %d: not the token that it was offered", from)
			break
		}
		select {
		case p.arrived <- arrival{from, c}:
			return
		default:
			err = fmt.Errorf("peer %d: too many connections", from)
		}
	}
	t.refuse(c, err)
}

// opening is one Open under way.
type opening struct {
	*prepared
	t        *Transport
	me       int
	deadline time.Time
	offered  [collective.PeersMax]token // to us
	addrs    [collective.PeersMax]netip.AddrPort
	conns    [collective.PeersMax]*net.TCPConn
	missing  collective.Set
	errs     [collective.PeersMax]error // the last of each that is missing
}

// Open implements rdma.Transport.
func (t *Transport) Open(c rdma.MeshConfig) (rdma.Mesh, error) {
	t.mu.Lock()
	p := t.prepared
	t.mu.Unlock()
	if p == nil || p.epoch != c.Epoch || p.members != c.Members {
		return nil, fmt.Errorf("tcp: epoch %d: %w", c.Epoch, ErrNotPrepared)
	}
	o := &opening{prepared: p, t: t, me: c.Me, deadline: time.Now().Add(c.Patience), missing: c.Members.Without(c.Me)}
	for m := range o.missing.All {
		var err error
		if m >= len(c.Offers) {
			err = ErrOffer
		} else {
			o.addrs[m], o.offered[m], err = parseOffer(c.Offers[m])
		}
		if err != nil {
			return nil, fmt.Errorf("tcp: epoch %d: peer %d: %w", c.Epoch, m, err)
		}
	}
	err := o.connect()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.prepared != p { // closed, or prepared anew: that took back this one
		err = fmt.Errorf("epoch %d: %w", c.Epoch, ErrNotPrepared)
	} else {
		t.takeBack()
	}
	if err == nil {
		var m *Mesh
		if m, err = newMesh(t.config, c, o.conns[:]); err == nil {
			return m, nil
		}
	}
	for _, conn := range o.conns {
		if conn != nil {
			_ = conn.Close()
		}
	}
	return nil, fmt.Errorf("tcp: %w", err)
}

// connect dials the lower members and waits for the higher ones.
func (o *opening) connect() error {
	ctx, cancel := context.WithDeadline(context.Background(), o.deadline)
	defer cancel()
	type dialed struct {
		arrival
		err error
	}
	results := make(chan dialed, collective.PeersMax)
	pending := 0
	for m := range o.missing.All {
		if m < o.me {
			pending++
			go func() {
				c, err := o.dial(ctx, m)
				results <- dialed{arrival{m, c}, err}
			}()
		}
	}
	gone := false
	for o.missing != 0 && !gone && ctx.Err() == nil {
		select {
		case r := <-results:
			pending--
			if o.errs[r.peer] = r.err; r.err == nil {
				o.conns[r.peer], o.missing = r.conn, o.missing.Without(r.peer)
			}
		case a := <-o.arrived:
			o.answer(a)
		case <-o.gone:
			gone = true
		case <-ctx.Done():
		}
	}
	cancel()
	for ; pending > 0; pending-- { // they end at once, and nothing of theirs may be left
		r := <-results
		if o.errs[r.peer] = r.err; r.err == nil {
			o.conns[r.peer] = r.conn
		}
	}
	if o.missing != 0 {
		return o.lacking()
	}
	return nil
}

// lacking names the members that are missing, and why where that is known.
func (o *opening) lacking() error {
	text := ""
	for m := range o.missing.All {
		text += fmt.Sprintf(" peer %d", m)
		if o.errs[m] != nil {
			text += fmt.Sprintf(" (%v)", o.errs[m])
		}
	}
	return &rdma.MissingError{Peers: o.missing, Err: fmt.Errorf("epoch %d:%s: %w", o.epoch, text, ErrMissing)}
}

// answer takes a connection that a higher peer has made. A later one replaces an
// earlier: the peer has given that up.
func (o *opening) answer(a arrival) {
	if a.peer <= o.me {
		o.t.mu.Lock()
		o.t.refuse(a.conn, fmt.Errorf("peer %d: it is ours to dial", a.peer))
		o.t.mu.Unlock()
		return
	}
	_ = a.conn.SetDeadline(o.deadline)
	if _, err := a.conn.Write(hello(o.me, a.peer, o.epoch, o.offered[a.peer])); err != nil {
		o.errs[a.peer] = err
		_ = a.conn.Close()
		return
	}
	if old := o.conns[a.peer]; old != nil {
		_ = old.Close()
	}
	o.conns[a.peer], o.missing = a.conn, o.missing.Without(a.peer)
}

// dial connects to a lower peer, and tries again until the deadline.
func (o *opening) dial(ctx context.Context, peer int) (*net.TCPConn, error) {
	var last error
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		c, err := o.try(ctx, peer)
		if err == nil {
			return c, nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return nil, last
		case <-time.After(wait):
		}
	}
}

func (o *opening) try(ctx context.Context, peer int) (*net.TCPConn, error) {
	d := net.Dialer{Control: o.t.control, KeepAlive: -1}
	if own := o.t.config.Listen; own.Is4() == o.addrs[peer].Addr().Is4() { // else there is none to be had from it
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(own, 0))
	}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", o.addrs[peer].String())
	if err != nil {
		return nil, err
	}
	c := conn.(*net.TCPConn)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var got [helloBytes]byte
	if _, err = c.Write(hello(o.me, peer, o.epoch, o.offered[peer])); err == nil {
		_, err = io.ReadFull(c, got[:])
	}
	if err == nil && !answers(got[:], hello(peer, o.me, o.epoch, o.tokens[peer])) {
		err = errors.New("its answer is not the token that we offered")
	}
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// take gives c's descriptor to us alone: the runtime forgets it.
func take(c *net.TCPConn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	if cerr := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); cerr != nil {
		return -1, cerr
	}
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	_ = c.Close()
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("setsockopt TCP_NODELAY", err)
	}
	return fd, nil
}
