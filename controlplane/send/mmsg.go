package send

import (
	"runtime"
	"unsafe" // sendmmsg takes pointers, and golang.org/x/sys/unix does not wrap it

	"golang.org/x/sys/unix"
)

// batchFrames is the number of frames in one system call.
const batchFrames = 64

// message is struct mmsghdr of linux/socket.h.
type message struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

// A batch is frames on their way into one call of sendmmsg. It does not move: the
// kernel is given pointers into it.
type batch struct {
	n        int
	frames   [batchFrames][]byte
	iovecs   [batchFrames]unix.Iovec
	messages [batchFrames]message
}

func newBatch() *batch {
	b := &batch{}
	for i := range b.messages {
		b.messages[i].header.Iov = &b.iovecs[i]
		b.messages[i].header.SetIovlen(1)
	}
	return b
}

// add copies a frame, which must not be empty, into b, which must not be full.
func (b *batch) add(frame []byte) {
	f := append(b.frames[b.n][:0], frame...)
	b.frames[b.n] = f
	b.iovecs[b.n].Base = &f[0]
	b.iovecs[b.n].SetLen(len(f))
	b.n++
}

// sendmmsg sends frames [from, b.n) and returns how many of them, from the first
// on, were taken. An error is that of the first one that was not.
func (b *batch) sendmmsg(fd, from int) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(&b.messages[from])), uintptr(b.n-from), 0, 0, 0)
	runtime.KeepAlive(b)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
