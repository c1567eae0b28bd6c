package xsk

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A Tx sends frames on an owner's queue from the frames of UMEM that are kept for
// that. One thread uses it:
//
//	n := tx.Reserve(buffers)       // where to write
//	tx.Submit(lengths[:n])         // in the order of buffers
//	err := tx.Kick()               // the kernel sends
//	tx.Complete()                  // frames that were sent are free again
//
// None of them allocates, or blocks for longer than the sending takes.
type Tx struct {
	owner *Owner
	ring  producerRing
	done  ring // the completion ring
	taken uint32
	chunk int
	// free is a stack of addresses; reserved ones are those above it, from the top
	// down in the order in which they were handed out.
	free     []uint64
	count    int // free ones
	reserved int
}

func newTx(o *Owner, r producerRing) *Tx {
	s := o.config.Sizes
	t := &Tx{owner: o, ring: r, chunk: s.FrameSize, free: make([]uint64, s.TxRing), count: s.TxRing}
	for i := range t.free {
		t.free[i] = uint64((s.Frames - s.TxRing + i) * s.FrameSize)
	}
	return t
}

// Reserve fills buffers from the front with frames to write into, each as long as a
// frame can be, and returns how many. What was reserved and not submitted is taken
// back first.
func (t *Tx) Reserve(buffers [][]byte) int {
	n := min(len(buffers), t.count, int(t.ring.room(uint32(len(buffers)))))
	for i := range n {
		a := t.free[t.count-1-i]
		buffers[i] = t.owner.umem[a : a+uint64(t.chunk) : a+uint64(t.chunk)]
	}
	t.reserved = n
	return n
}

// Submit puts the first len(lengths) reserved frames into the TX ring, lengths[i]
// being the bytes of the i-th, in one publish. The others are free again. It panics if
// there are more lengths than reserved frames, or one is longer than a frame.
func (t *Tx) Submit(lengths []int) {
	if len(lengths) > t.reserved {
		panic(fmt.Sprintf("xsk: %d frames submitted of %d reserved", len(lengths), t.reserved))
	}
	for i, n := range lengths {
		if n < 0 || n > t.chunk {
			panic(fmt.Sprintf("xsk: frame of %d bytes submitted, of at most %d", n, t.chunk))
		}
		*t.ring.desc(t.ring.next) = unix.XDPDesc{Addr: t.free[t.count-1-i], Len: uint32(n)}
		t.ring.next++
	}
	t.count -= len(lengths)
	t.reserved = 0
	t.ring.publish()
}

// Kick makes the kernel send what was submitted, if it waits to be told. In copy mode
// one call sends 32 frames and asks to be called again, which is done as often as the
// ring's size can need. A driver that has no room is not an error: call again later;
// [Tx.Pending] tells. A link that is down and an interface that was removed are
// errors, wrapping [ErrLinkDown] and [ErrInterfaceGone].
func (t *Tx) Kick() error {
	if !t.ring.needsWakeup() {
		return nil
	}
	for range len(t.free)/16 + 8 {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(t.owner.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0, unix.EBUSY, unix.ENOBUFS:
			return nil
		case unix.EAGAIN, unix.EINTR:
		default:
			return t.failed(errno)
		}
	}
	return nil
}

func (t *Tx) failed(errno unix.Errno) error {
	c := &t.owner.config
	return fmt.Errorf("xsk: %s queue %d: send: %w", c.Interface, c.Queue, meaning(errno))
}

// Complete takes back the frames that were sent and returns how many.
func (t *Tx) Complete() int {
	n := int(t.done.waiting())
	for i := range n {
		t.free[t.count+i] = *t.done.address(t.taken + uint32(i))
	}
	t.count += n
	t.taken += uint32(n)
	if n > 0 {
		t.done.consume(t.taken)
	}
	return n
}

// Pending returns how many frames were submitted and have not come back.
func (t *Tx) Pending() int { return len(t.free) - t.count }
