package tcp

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/frame"
)

const (
	frameMax = frame.HeaderBytes + rdma.FrameMax + frame.SealBytes
	// inBytes and outBytes are the room of a connection: some whole frames in each
	// direction, so that a move to the front is rare.
	inBytes  = 4 * frameMax
	outBytes = 3 * frameMax
	// copyMax is up to where a payload is copied behind its header and sent in one
	// piece: cheaper than a gathering call.
	copyMax = 4 << 10
)

// buffer is bytes [start, end) of b.
type buffer struct {
	b          []byte
	start, end int
}

func (b *buffer) len() int { return b.end - b.start }

// room makes n bytes free at the end, or reports false.
func (b *buffer) room(n int) bool {
	if b.start == b.end {
		b.start, b.end = 0, 0
	}
	if len(b.b)-b.end >= n {
		return true
	}
	if len(b.b)-b.len() < n {
		return false
	}
	b.end = copy(b.b, b.b[b.start:b.end])
	b.start = 0
	return true
}

// conn is the connection to one peer.
type conn struct {
	peer int
	fd   int // -1: it has failed, and that was told
	in   buffer
	out  buffer // taken, and not yet with the kernel
	next int    // length of the frame at the start of in, 0: not known
	// sendErr is why nothing can be sent any more. What has come is still shown.
	sendErr error
	// err is why nothing comes any more after what is in in.
	err error
	// since is from when on the peer's kernel owes us an answer. Zero: it does not.
	since time.Time
}

func sysErr(call string, errno syscall.Errno) error { return os.NewSyscallError(call, errno) }

// flush gives the kernel what it takes of out.
func (c *conn) flush() {
	for c.out.len() > 0 && c.sendErr == nil {
		n, errno := send(c.fd, c.out.b[c.out.start:c.out.end])
		switch errno {
		case 0:
			c.out.start += n
		case unix.EINTR:
		case unix.EAGAIN:
			return
		default:
			c.sendErr = sysErr("send", errno)
		}
	}
}

// gather sends header and payload where they are, and copies what is left over to
// out, which is empty.
func (c *conn) gather(g *gather, header, payload []byte) {
	n, errno := g.send(c.fd, header, payload)
	if errno != 0 {
		n = 0
		if errno != unix.EAGAIN && errno != unix.EINTR {
			c.sendErr = sysErr("sendmsg", errno)
			return
		}
	}
	if n == len(header)+len(payload) {
		return
	}
	c.out.start, c.out.end = 0, 0
	if n < len(header) {
		c.out.end = copy(c.out.b, header[n:])
		n = len(header)
	}
	c.out.end += copy(c.out.b[c.out.end:], payload[n-len(header):])
}

// whole returns the frame at the start of in, or nil if it is not all there.
func (c *conn) whole(codec *frame.Codec) []byte {
	if c.next == 0 {
		if c.in.len() < frame.HeaderBytes || c.bad() {
			return nil
		}
		n, err := codec.Peek(c.in.b[c.in.start : c.in.start+frame.HeaderBytes])
		if err != nil {
			c.err = err
			return nil
		}
		c.next = n
	}
	if c.in.len() < c.next {
		return nil
	}
	f := c.in.b[c.in.start : c.in.start+c.next : c.in.start+c.next]
	c.in.start += c.next
	c.next = 0
	return f
}

// bad reports that the peer has sent what it must not: nothing after that counts.
func (c *conn) bad() bool { return frame.ReasonName(c.err) != "" }

// fill reads once, and reports whether there may be more. shown says that the payloads
// of this Poll are in the buffer, which must then stay where it is.
func (c *conn) fill(shown bool) (more bool) {
	if need := max(c.next, frame.HeaderBytes) - c.in.len(); shown {
		if len(c.in.b)-c.in.end < need {
			return false
		}
	} else if !c.in.room(need) {
		panic("tcp: a frame is larger than the buffer") // Peek bounds it
	}
	free := c.in.b[c.in.end:]
	n, errno := recv(c.fd, free)
	switch {
	case errno == unix.EINTR:
		return true
	case errno == unix.EAGAIN:
		c.err = c.sendErr // what had come before it was torn has been read
	case errno != 0:
		c.err = sysErr("recv", errno)
	case n == 0:
		c.err = ErrClosed
		if c.sendErr != nil && !errors.Is(c.sendErr, unix.EPIPE) {
			c.err = c.sendErr
		}
	default:
		c.in.end += n
		return n == len(free)
	}
	return false
}

// receive shows the frames that have come, and the failure after the last. It reads
// only if read says so. more tells of what is in the buffer and has not been shown.
func (c *conn) receive(codec *frame.Codec, events []rdma.Event, read bool) (got int, more bool) {
	for got < len(events) {
		f := c.whole(codec)
		if f == nil {
			if c.err != nil {
				return c.tell(events, got), false
			}
			if !read {
				return got, false
			}
			read = c.fill(got > 0)
			continue
		}
		ev := &events[got]
		payload, err := codec.Open(c.peer, &ev.Header, f)
		switch {
		case err == nil:
			ev.Peer, ev.Payload, ev.Err = c.peer, payload, nil
			got++
		case errors.Is(err, frame.ErrEpoch): // late: dropped, and counted by the codec
		default:
			c.err, c.in.end, c.in.start = err, 0, 0
		}
	}
	return got, c.err != nil || c.in.len() >= frame.HeaderBytes
}

// tell shows the failure, once, and lets go of the connection: the peer sees that.
func (c *conn) tell(events []rdma.Event, got int) int {
	events[got] = rdma.Event{Peer: c.peer, Err: &PeerError{Peer: c.peer, Err: c.err}}
	c.close()
	return got + 1
}

func (c *conn) close() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		c.fd = -1
	}
}
