package tcp

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls on the way of a frame. They never wait, so the scheduler need not
// hear of them: that alone is some tenths of a microsecond a call. They hold no memory
// when they return.

const sendFlags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL

// recv reads what is there. b must not be empty.
func recv(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// send writes what there is room for. b must not be empty.
func send(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), sendFlags, 0, 0)
	return int(n), errno
}

// gather is what sendmsg reads its two parts from. It is on the heap.
type gather struct {
	parts  [2]unix.Iovec
	header unix.Msghdr
}

// send writes what there is room for of a, then b. Neither must be empty.
func (g *gather) send(fd int, a, b []byte) (int, syscall.Errno) {
	g.parts[0].Base, g.parts[1].Base = &a[0], &b[0]
	g.parts[0].SetLen(len(a))
	g.parts[1].SetLen(len(b))
	g.header.Iov = &g.parts[0]
	g.header.SetIovlen(2)
	n, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&g.header)), sendFlags)
	g.parts[0].Base, g.parts[1].Base = nil, nil
	return int(n), errno
}

// tcpInfo is what the kernel knows of a connection. It is on the heap.
type tcpInfo struct {
	unix.TCPInfo
	size uint32
}

// of asks it of fd.
func (i *tcpInfo) of(fd int) syscall.Errno {
	i.size = unix.SizeofTCPInfo
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&i.TCPInfo)), uintptr(unsafe.Pointer(&i.size)), 0)
	return errno
}

// yield lets another thread have the core.
func yield() { _, _, _ = syscall.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
