package xsk

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What may have happened to a socket's interface.
var (
	// ErrLinkDown reports an interface that is down. Its sockets go on when it is up.
	ErrLinkDown = errors.New("link is down")
	// ErrInterfaceGone reports an interface that no longer exists. Its sockets are
	// dead: close them and open new ones when it is back.
	ErrInterfaceGone = errors.New("interface was removed")
)

// A SocketError is what happened and the kernel's word for it.
type SocketError struct {
	Err   error // ErrLinkDown or ErrInterfaceGone
	Errno unix.Errno
}

// Error tells both.
func (e *SocketError) Error() string { return fmt.Sprintf("%v (%v)", e.Err, e.Errno) }

// Unwrap gives both to errors.Is.
func (e *SocketError) Unwrap() []error { return []error{e.Err, e.Errno} }

// Check returns what is wrong with an AF_XDP socket: nil, or an error wrapping
// [ErrLinkDown] or [ErrInterfaceGone]. It changes nothing, needs no privilege and may
// be called from any thread.
func Check(fd int) error {
	switch errno := probe(fd); errno {
	case 0:
		return nil
	default:
		return fmt.Errorf("xsk: socket %d: %w", fd, meaning(errno))
	}
}

// meaning puts a name to the errors that say that the interface is not there.
func meaning(errno unix.Errno) error {
	switch errno {
	case unix.ENETDOWN:
		return &SocketError{ErrLinkDown, errno}
	case unix.ENXIO, unix.ENODEV:
		return &SocketError{ErrInterfaceGone, errno}
	default:
		return errno
	}
}

// probe asks the kernel for nothing, and learns whether it would do it: a socket whose
// interface is removed is no longer bound (ENXIO), one whose link is down says
// ENETDOWN. poll(2) reports neither (xsk_poll in net/xdp/xsk.c).
func probe(fd int) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	if errno == unix.EAGAIN || errno == unix.EINTR || errno == unix.ENOBUFS {
		return 0
	}
	return errno
}

// Stats are a socket's counters in the kernel (struct xdp_statistics of
// linux/if_xdp.h). They begin at 0 with the socket and never fall.
type Stats struct {
	// RxDropped: no free frame for the packet, or the packet was too large.
	RxDropped uint64
	// RxRingFull: the RX ring was full.
	RxRingFull uint64
	// RxInvalid and TxInvalid: descriptors that the kernel rejected.
	RxInvalid, TxInvalid uint64
	// FillEmpty: times that the queue's fill ring was found empty. It belongs to the
	// queue and is the same in all its sockets; it counts no packet by itself.
	FillEmpty uint64
	// TxEmpty: times that the TX ring was found empty.
	TxEmpty uint64
}

// Lost returns the packets that were steered to the socket and are lost.
func (s Stats) Lost() uint64 { return s.RxDropped + s.RxRingFull }

// Statistics reads a socket's counters. It makes a system call, so it is not for the
// worker's thread; it needs no privilege.
func Statistics(fd int) (Stats, error) {
	var k unix.XDPStatistics
	// Kernels before 5.9 know the first three counters only; the others stay zero.
	if _, err := getOption(fd, unix.XDP_STATISTICS, unsafe.Pointer(&k), unsafe.Sizeof(k)); err != nil {
		return Stats{}, fmt.Errorf("xsk: statistics of socket %d: %w", fd, err)
	}
	return Stats{
		RxDropped: k.Rx_dropped, RxRingFull: k.Rx_ring_full, RxInvalid: k.Rx_invalid_descs,
		TxInvalid: k.Tx_invalid_descs, FillEmpty: k.Rx_fill_ring_empty_descs, TxEmpty: k.Tx_ring_empty_descs,
	}, nil
}
