package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Load is a bounded number of UDP frames.
type Load struct {
	// Count of frames. Required.
	Count int
	// Rate in frames a second. Zero is as fast as the socket takes them.
	Rate int
	// Flows is the number of source ports that the frames rotate through. The kernel
	// chooses the transmit queue, which is the other end's receive queue, by flow:
	// one flow (also the zero value) stays on one queue, many spread over all.
	Flows int
	// Port is the UDP destination port. Required.
	Port uint16
	// Size of the payload in bytes. Required.
	Size int
	// Fill writes frame i's payload, i counting from 0 within a call of Send. The
	// bytes are those of an earlier frame. Nil leaves the payload zero.
	Fill func(i int, payload []byte)
}

// batch is the number of frames that one system call sends.
const batch = 64

// headers is the length of Ethernet, IPv4 and UDP headers.
const headers = 14 + 20 + 8

// message is struct mmsghdr of linux/socket.h.
type message struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

// A Sender sends raw frames from one end of a pair to the other, by a packet socket
// and sendmmsg. It is used by one goroutine at a time.
type Sender struct {
	fd       int
	from, to *End
	frames   [batch][]byte
	iovecs   [batch]unix.Iovec
	messages [batch]message
	// Refused counts what the interface would not take. It was not sent.
	Refused int
}

// NewSender opens a sender from one end to the other. It is closed with the test.
func NewSender(tb testing.TB, from, to *End) *Sender {
	tb.Helper()
	s := &Sender{fd: -1, from: from, to: to}
	var err error
	from.Do(tb, func() { err = s.open() })
	if err != nil {
		tb.Fatalf("netns: sender on %s: %v", from.Interface, err)
	}
	tb.Cleanup(func() { unix.Close(s.fd) }) //nolint:errcheck // the test is over
	return s
}

func (s *Sender) open() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: receives nothing
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: s.from.Index}); err != nil {
		unix.Close(fd) //nolint:errcheck // the first error is the one to tell
		return os.NewSyscallError("bind", err)
	}
	s.fd = fd
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
}

// Send sends l and returns how many frames the interface took. Frames that it
// refuses for want of room are counted in Refused and not tried again.
func (s *Sender) Send(l Load) (int, error) {
	if l.Count <= 0 || l.Port == 0 || l.Size <= 0 {
		return 0, fmt.Errorf("netns: a load needs count, port and size, got %d, %d, %d", l.Count, l.Port, l.Size)
	}
	s.build(l)
	start := time.Now()
	sent := 0
	for i := 0; i < l.Count; {
		n := min(batch, l.Count-i)
		if l.Rate > 0 {
			n = min(n, max(1, l.Rate/1000)) // bursts of at most a millisecond's worth
			if ahead := time.Duration(float64(i)/float64(l.Rate)*1e9) - time.Since(start); ahead > 0 {
				time.Sleep(ahead)
			}
		}
		for k := range n {
			s.prepare(l, i+k, k)
		}
		taken, err := s.flush(n)
		sent += taken
		if err != nil {
			return sent, fmt.Errorf("netns: send on %s: %w", s.from.Interface, err)
		}
		i += n
	}
	return sent, nil
}

// build makes the 64 frames of a batch; prepare changes what differs between them.
func (s *Sender) build(l Load) {
	for k := range s.frames {
		s.frames[k] = Frame(s.from, s.to, 1, l.Port, make([]byte, l.Size))
		s.iovecs[k].Base = &s.frames[k][0]
		s.iovecs[k].SetLen(len(s.frames[k]))
		s.messages[k].header.Iov = &s.iovecs[k]
		s.messages[k].header.SetIovlen(1)
	}
}

func (s *Sender) prepare(l Load, i, k int) {
	f := s.frames[k]
	binary.BigEndian.PutUint16(f[34:], uint16(1024+i%max(l.Flows, 1)))
	if l.Fill != nil {
		l.Fill(i, f[headers:])
	}
}

// flush sends the first n frames.
func (s *Sender) flush(n int) (taken int, err error) {
	for done := 0; done < n; {
		got, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd),
			uintptr(unsafe.Pointer(&s.messages[done])), uintptr(n-done), unix.MSG_DONTWAIT, 0, 0)
		runtime.KeepAlive(s)
		switch {
		case errno == 0:
			done += int(got)
			taken += int(got)
		case errors.Is(errno, unix.EINTR):
		case errors.Is(errno, unix.ENOBUFS) || errors.Is(errno, unix.EAGAIN):
			s.Refused++
			done++
		default:
			return taken, os.NewSyscallError("sendmmsg", errno)
		}
	}
	return taken, nil
}

// Frame returns an Ethernet frame with an IPv4 UDP packet from one end to the other.
// The IPv4 checksum is right, the UDP checksum is absent.
func Frame(from, to *End, sourcePort, port uint16, payload []byte) []byte {
	return FrameTo(from, to, to.IPv4, sourcePort, port, payload)
}

// FrameTo is Frame with another destination address, a group's for instance.
func FrameTo(from, to *End, destination netip.Addr, sourcePort, port uint16, payload []byte) []byte {
	f := make([]byte, headers+len(payload))
	copy(f, to.MAC)
	copy(f[6:], from.MAC)
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip := f[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(f)-14))
	copy(ip[12:], from.IPv4.AsSlice())
	copy(ip[16:], destination.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	udp := f[34:]
	binary.BigEndian.PutUint16(udp, sourcePort)
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	copy(udp[8:], payload)
	return f
}

// checksum is the Internet checksum (RFC 1071) of b, whose length is even.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
