package xsk

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/fault"
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
//
// Free frames are a ring: the frame for position p of the TX ring is free[p], and what
// comes back at position c of the completion ring becomes free[c], being the frame for
// the TX ring's position c + size. So how many are free, and which, follows from the two
// rings' own positions, and a process that is killed loses none.
type Tx struct {
	owner *Owner
	ring  producerRing
	done  ring // the completion ring
	taken uint32
	chunk int
	free  []uint64

	reserved int
}

func newTx(o *Owner, r producerRing) *Tx {
	return &Tx{owner: o, ring: r, chunk: o.config.Sizes.FrameSize, free: o.refill.free}
}

// stock makes all frames for sending free, in a queue whose rings were never used.
func (q *queueState) stock(s Sizes) {
	for i := range q.free {
		q.free[i] = uint64((s.Frames - s.TxRing + i) * s.FrameSize)
	}
}

// frame returns the address of the frame for position i of the TX ring.
func (t *Tx) frame(i uint32) *uint64 { return &t.free[i&(uint32(len(t.free))-1)] }

// Reserve fills buffers from the front with frames to write into, each as long as a
// frame can be, and returns how many. What was reserved and not submitted is taken
// back first.
func (t *Tx) Reserve(buffers [][]byte) int {
	n := min(len(buffers), len(t.free)-t.Pending(), int(t.ring.room(uint32(len(buffers)))))
	for i := range n {
		a := *t.frame(t.ring.next + uint32(i))
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
	for _, n := range lengths {
		if n < 0 || n > t.chunk {
			panic(fmt.Sprintf("xsk: frame of %d bytes submitted, of at most %d", n, t.chunk))
		}
	}
	for _, n := range lengths {
		*t.ring.desc(t.ring.next) = unix.XDPDesc{Addr: *t.frame(t.ring.next), Len: uint32(n)}
		t.ring.next++
	}
	t.reserved = 0
	fault.Point()
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
	n := t.done.waiting()
	for i := t.taken; i != t.taken+n; i++ {
		*t.frame(i) = *t.done.address(i)
	}
	t.taken += n
	if n > 0 {
		fault.Point()
		t.done.consume(t.taken)
	}
	return int(n)
}

// Pending returns how many frames were submitted and have not come back.
func (t *Tx) Pending() int { return int(t.ring.next - t.taken) }
