package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrPeer reports a message that no process of this build would send.
var ErrPeer = errors.New("the other process sent nonsense")

// Bounds of a message.
const (
	pieceBytes = 32 << 10
	pieceFDs   = 128
	bodyMax    = 16 << 20
	fdsMax     = 1 << 14
	headBytes  = 2 // kind, and whether more pieces follow
)

// A Conn is one end of the socket: SOCK_SEQPACKET, so that either side sees the other's
// end at once and messages keep their borders. One goroutine sends and one receives.
type Conn struct {
	fd  int
	buf []byte
	oob []byte
}

// New makes a Conn of a connected socket, which it takes over.
func New(fd int) *Conn {
	return &Conn{fd: fd, buf: make([]byte, headBytes+pieceBytes), oob: make([]byte, unix.CmsgSpace(4*pieceFDs))}
}

// Pair returns the two ends of a new socket. The second is for a child process.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("handover: %w", os.NewSyscallError("socketpair", err))
	}
	return New(fds[0]), os.NewFile(uintptr(fds[1]), "control"), nil
}

// FD returns the descriptor, to poll; it stays the Conn's.
func (c *Conn) FD() int { return c.fd }

// Limit bounds how long a send or receive may take from now on; 0 is for ever.
func (c *Conn) Limit(d time.Duration) error {
	tv := unix.NsecToTimeval(int64(d))
	return errors.Join(
		os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)),
		os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)),
	)
}

// Shutdown ends the conversation: the other side, and a Receive under way here, see
// the end.
func (c *Conn) Shutdown() { _ = unix.Shutdown(c.fd, unix.SHUT_RDWR) }

// Close closes the socket. No Receive may be under way.
func (c *Conn) Close() error {
	if c.fd < 0 {
		return nil
	}
	err := unix.Close(c.fd)
	c.fd = -1
	return os.NewSyscallError("close", err)
}

// Send sends a message: its kind, its body as JSON (nil for none) and descriptors,
// which stay the caller's.
func (c *Conn) Send(kind Kind, body any, fds []int) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return fmt.Errorf("handover: send %v: %w", kind, err)
		}
	}
	if len(text) > bodyMax || len(fds) > fdsMax {
		return fmt.Errorf("handover: send %v: %d bytes and %d descriptors: at most %d and %d", kind, len(text), len(fds), bodyMax, fdsMax)
	}
	for more := byte(1); more != 0; {
		n, k := min(len(text), pieceBytes), min(len(fds), pieceFDs)
		if n == len(text) && k == len(fds) {
			more = 0
		}
		var rights []byte
		if k > 0 {
			rights = unix.UnixRights(fds[:k]...)
		}
		if err := c.piece(append([]byte{byte(kind), more}, text[:n]...), rights); err != nil {
			return fmt.Errorf("handover: send %v: %w", kind, err)
		}
		text, fds = text[n:], fds[k:]
	}
	return nil
}

func (c *Conn) piece(b, rights []byte) error {
	for {
		err := unix.Sendmsg(c.fd, b, rights, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// A Message is what was received. Its descriptors are the receiver's.
type Message struct {
	Kind Kind
	body []byte
	FDs  []int
}

// Decode reads the body into v.
func (m *Message) Decode(v any) error {
	if err := json.Unmarshal(m.body, v); err != nil {
		return fmt.Errorf("handover: %v: %w: %w", m.Kind, ErrPeer, err)
	}
	return nil
}

// Close closes the descriptors.
func (m *Message) Close() {
	for _, fd := range m.FDs {
		_ = unix.Close(fd)
	}
	m.FDs = nil
}

// Receive waits for a message. The error is or wraps [io.EOF] if the other side is
// gone.
func (c *Conn) Receive() (*Message, error) {
	m := &Message{}
	for more := true; more; {
		var err error
		if more, err = c.receivePiece(m); err != nil {
			m.Close()
			return nil, fmt.Errorf("handover: %w", err)
		}
	}
	return m, nil
}

// Expect receives a message of one kind and decodes its body into v, unless v is
// nil. What the other side refuses comes back as its words.
func (c *Conn) Expect(kind Kind, v any) (*Message, error) {
	m, err := c.Receive()
	if err != nil {
		return nil, err
	}
	if m.Kind == Refused {
		var r RefusedBody
		if err = m.Decode(&r); err == nil {
			err = errors.New(r.Error)
		}
	} else if m.Kind != kind {
		err = fmt.Errorf("handover: %w: %v, not %v", ErrPeer, m.Kind, kind)
	} else if v != nil {
		err = m.Decode(v)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (c *Conn) receivePiece(m *Message) (more bool, err error) {
	n, oobn, flags, _, err := unix.Recvmsg(c.fd, c.buf, c.oob, unix.MSG_CMSG_CLOEXEC)
	if errors.Is(err, unix.EINTR) {
		return true, nil
	}
	if errors.Is(err, unix.ECONNRESET) {
		return false, io.EOF
	}
	if err != nil {
		return false, os.NewSyscallError("recvmsg", err)
	}
	if err := m.rights(c.oob[:oobn]); err != nil {
		return false, err
	}
	switch {
	case n == 0 && m.Kind == 0:
		return false, io.EOF
	case n == 0:
		return false, io.ErrUnexpectedEOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || n < headBytes || m.Kind != 0 && m.Kind != Kind(c.buf[0]):
		return false, ErrPeer
	}
	m.Kind = Kind(c.buf[0])
	m.body = append(m.body, c.buf[headBytes:n]...)
	if m.Kind == 0 || len(m.body) > bodyMax || len(m.FDs) > fdsMax {
		return false, ErrPeer
	}
	return c.buf[1] != 0, nil
}

func (m *Message) rights(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	parts, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPeer, err)
	}
	for i := range parts {
		fds, err := unix.ParseUnixRights(&parts[i])
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPeer, err)
		}
		m.FDs = append(m.FDs, fds...)
	}
	return nil
}
