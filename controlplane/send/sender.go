package send

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Problems with the interface, found with errors.Is.
var (
	// ErrDown reports an interface that is down, or went down.
	ErrDown = errors.New("the interface is down: bring it up with 'ip link set dev NAME up'")
	// ErrGone reports an interface that is not there, or was removed.
	ErrGone = errors.New("the interface is gone")
	// ErrNotAllowed reports a process without the right to send raw frames.
	ErrNotAllowed = errors.New("raw frames need CAP_NET_RAW: run as root, or 'setcap cap_net_raw+ep' the binary")
)

const (
	ethernetHeader  = 14
	vlanTag         = 4
	sendBufferBytes = 4 << 20
	// waitMax is the longest sleep between two looks at the context.
	waitMax = 20 * time.Millisecond
)

// Counts says what became of the frames so far.
type Counts struct {
	Sent  uint64 `json:"sent"`
	Bytes uint64 `json:"bytes"` // of the frames sent, from the Ethernet header
	// Refused frames were not sent: by the reason that the kernel gave, the
	// interface's ring or the socket's memory being full, or another.
	Refused      uint64 `json:"refused"`
	NoBuffers    uint64 `json:"refused_no_buffers"`
	Again        uint64 `json:"refused_try_again"`
	RefusedOther uint64 `json:"refused_other"`
	// TooLong frames exceed the interface's MTU, TooShort ones have no Ethernet
	// header. Neither was offered to the kernel.
	TooLong  uint64 `json:"too_long"`
	TooShort uint64 `json:"too_short"`
}

// counts are Counts that another goroutine may read while they grow.
type counts struct {
	sent, bytes, noBuffers, again, other, long, short atomic.Uint64
}

// A Sender sends frames on one interface. One goroutine uses it; Counts may be
// called from any.
type Sender struct {
	name   string
	fd     int
	mtu    int
	queues int // transmit queues
	batch  *batch
	room   int // frames in a batch, at most batchFrames
	counts counts
	// late is the most by which a frame missed its time.
	late time.Duration
}

// Open opens a sender on the interface, in the network namespace of the calling
// thread. Errors wrap [ErrGone], [ErrDown] or [ErrNotAllowed] where those fit.
func Open(name string) (*Sender, error) {
	face, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("send: %s: %w (%w)", name, ErrGone, err)
	}
	if face.Flags&net.FlagUp == 0 {
		return nil, fmt.Errorf("send: %s: %w", name, ErrDown)
	}
	// Protocol 0: the socket receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("send: %s: %w", name, ErrNotAllowed)
	}
	if err != nil {
		return nil, fmt.Errorf("send: %s: %w", name, os.NewSyscallError("socket", err))
	}
	s := &Sender{name: name, fd: fd, mtu: face.MTU, queues: transmitQueues(face.Index), batch: newBatch(), room: batchFrames}
	if err := s.setUp(face.Index); err != nil {
		return nil, errors.Join(fmt.Errorf("send: %s: %w", name, err), s.Close())
	}
	return s, nil
}

func (s *Sender) setUp(index int) error {
	if err := unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	// Without the queueing discipline a full ring refuses a frame, and says so, in
	// place of dropping it later.
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return os.NewSyscallError("setsockopt PACKET_QDISC_BYPASS", err)
	}
	// More than net.core.wmem_max needs privilege; less is no error.
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBufferBytes) != nil {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBufferBytes); err != nil {
			return os.NewSyscallError("setsockopt SO_SNDBUF", err)
		}
	}
	return nil
}

// transmitQueues returns how many transmit queues an interface has; 1 if nobody says.
func transmitQueues(index int) int {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return 1
	}
	return l.Attrs().NumTxQueues
}

// Eager makes the sender offer each frame to the interface by itself: for streams
// whose next frame may be long in coming.
func (s *Sender) Eager() { s.room = 1 }

// Close closes the socket.
func (s *Sender) Close() error {
	return os.NewSyscallError("close", unix.Close(s.fd))
}

// Counts returns the account so far. It may be called from any goroutine.
func (s *Sender) Counts() Counts {
	c := Counts{
		Sent: s.counts.sent.Load(), Bytes: s.counts.bytes.Load(),
		NoBuffers: s.counts.noBuffers.Load(), Again: s.counts.again.Load(), RefusedOther: s.counts.other.Load(),
		TooLong: s.counts.long.Load(), TooShort: s.counts.short.Load(),
	}
	c.Refused = c.NoBuffers + c.Again + c.RefusedOther
	return c
}

// Late returns the most by which a frame missed its time, so far.
func (s *Sender) Late() time.Duration { return s.late }

// Frames gives the frames of a stream one by one, each with its time since the
// stream's start; 0 is "at once". A frame is used before the next call. At the end
// it returns io.EOF, which Stream does not pass on.
type Frames func() (frame []byte, due time.Duration, err error)

// Stream sends all frames that next gives, each when it is due, counted from the
// call. It returns nil at the end of the stream, next's error after sending what
// came before it, ctx's error when ctx is done, or an error that wraps [ErrDown] or
// [ErrGone]. It keeps its thread to itself while it runs.
func (s *Sender) Stream(ctx context.Context, next Frames) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A wait ends within a microsecond or so of its time, not fifty.
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err == nil && unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) == nil {
		defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) //nolint:errcheck // restoring what was
	}
	if s.queues > 1 {
		// The kernel takes the transmit queue of the CPU: a thread that moves would
		// overtake its own frames.
		defer stay()()
	}
	var stop atomic.Bool
	defer context.AfterFunc(ctx, func() { stop.Store(true) })()
	return s.stream(ctx, &stop, next)
}

// stay keeps the calling thread on the CPU that it is on, and returns what lets it go
// again. Where that is not allowed nothing happens.
func stay() func() {
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return func() {}
	}
	cpu := 0
	for !before.IsSet(cpu) {
		cpu++
	}
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return func() {}
	}
	return func() { _ = unix.SchedSetaffinity(0, &before) }
}

func (s *Sender) stream(ctx context.Context, stop *atomic.Bool, next Frames) error {
	start := time.Now()
	var now time.Duration
	for {
		frame, due, err := next()
		if err != nil {
			if e := s.flush(); e != nil {
				return e
			}
			return endless(err)
		}
		if due > now {
			now = time.Since(start)
		}
		if due > now {
			if err := s.flush(); err != nil {
				return err
			}
			now = wait(start, due, stop)
		}
		if due > 0 {
			s.late = max(s.late, now-due)
		}
		s.take(frame)
		if s.batch.n == s.room {
			if err := s.flush(); err != nil {
				return err
			}
			now = time.Since(start)
		}
		if stop.Load() {
			if err := s.flush(); err != nil {
				return err
			}
			return ctx.Err()
		}
	}
}

// wait sleeps until due after start, or until stop, and returns the time since start.
func wait(start time.Time, due time.Duration, stop *atomic.Bool) time.Duration {
	for {
		now := time.Since(start)
		if now >= due || stop.Load() {
			return now
		}
		t := unix.NsecToTimespec(int64(min(due-now, waitMax)))
		_ = unix.Nanosleep(&t, nil) // woken early: the loop sleeps again
	}
}

// take adds a frame to the batch, or counts why not.
func (s *Sender) take(frame []byte) {
	if len(frame) < ethernetHeader {
		s.counts.short.Add(1)
		return
	}
	limit := s.mtu + ethernetHeader
	if kind := binary.BigEndian.Uint16(frame[12:]); kind == unix.ETH_P_8021Q || kind == unix.ETH_P_8021AD {
		limit += vlanTag
	}
	if len(frame) > limit {
		s.counts.long.Add(1)
		return
	}
	s.batch.add(frame)
}

// flush sends the batch. A frame that is refused is counted and passed over.
func (s *Sender) flush() error {
	b := s.batch
	for at := 0; at < b.n; {
		n, err := b.sendmmsg(s.fd, at)
		bytes := 0
		for _, f := range b.frames[at : at+n] {
			bytes += len(f)
		}
		s.counts.sent.Add(uint64(n))
		s.counts.bytes.Add(uint64(bytes))
		at += n
		switch {
		case err == nil, errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			s.counts.noBuffers.Add(1)
		case errors.Is(err, unix.EAGAIN):
			s.counts.again.Add(1)
		case errors.Is(err, unix.EMSGSIZE):
			s.counts.long.Add(1)
		case errors.Is(err, unix.ENETDOWN):
			return fmt.Errorf("send: %s: %w", s.name, ErrDown)
		case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
			return fmt.Errorf("send: %s: %w", s.name, ErrGone)
		case errors.Is(err, unix.EBADF), errors.Is(err, unix.EFAULT):
			return fmt.Errorf("send: %s: %w", s.name, os.NewSyscallError("sendmmsg", err))
		default:
			s.counts.other.Add(1)
		}
		at++
	}
	b.n = 0
	return nil
}
