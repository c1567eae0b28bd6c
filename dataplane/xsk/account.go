package xsk

import (
	"fmt"
	"sync/atomic"
)

// An Account says where a queue's frames are.
type Account struct {
	Fill    int // in the fill ring, for the kernel to take
	Rings   int // in RX rings, what workers have in hand included
	Parked  int
	Sending int // free for sending, in the TX ring, or sent
	// Kernel are those that are nowhere to be seen: the kernel or the driver has them, or
	// the ring of a worker who has no port in this process.
	Kernel int
}

// Account looks at every place where a frame's address can be read, and returns how many
// lie where, and an error if one lies in two places or is none at all. The queue's
// workers must not be at work; where packets keep coming it tries again for a while,
// since a kernel at work has taken frames that the fill ring still shows.
func (o *Owner) Account() (a Account, err error) {
	o.entered.Lock()
	defer o.entered.Unlock()
	for range 1000 {
		before := o.activity()
		if a, err = o.look(); err == nil && o.activity() == before {
			return a, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("packets keep coming")
	}
	return a, o.config.named(err)
}

// activity is a number that grows with whatever the kernel does.
func (o *Owner) activity() uint64 {
	n := uint64(atomic.LoadUint32(o.refill.fill.consumer)) + uint64(atomic.LoadUint32(o.tx.ring.consumer)) + uint64(atomic.LoadUint32(o.tx.done.producer))
	for _, r := range o.rings {
		n += uint64(atomic.LoadUint32(r.producer))
	}
	return n
}

// A census is where each frame of a queue was seen.
type census struct {
	frame uint64
	seen  []string // by frame
	err   error
}

// mark notes that address was seen in a place.
func (c *census) mark(address uint64, place string) {
	i := address / c.frame
	switch {
	case c.err != nil:
	case i >= uint64(len(c.seen)):
		c.err = fmt.Errorf("the address %#x in %s is of no frame", address, place)
	case c.seen[i] != "":
		c.err = fmt.Errorf("frame %d is in %s and in %s", i, c.seen[i], place)
	default:
		c.seen[i] = place
	}
}

func (o *Owner) look() (a Account, err error) {
	q, s := o.refill, o.config.Sizes
	c := census{frame: uint64(s.FrameSize), seen: make([]string, s.Frames)}
	for w := range q.lots {
		lot := &q.lots[w]
		if lot.Cookie == 0 {
			continue
		}
		name := fmt.Sprintf("the lot of worker %d", w)
		head, tail := lot.Head.Load(), lot.Tail.Load()
		a.Parked += int(lot.held())
		for i := head; int32(tail-i) > 0; i++ {
			c.mark(lot.slots[i&uint32(len(lot.slots)-1)], name)
		}
		if r, ok := o.rings[w]; ok {
			a.Rings += r.list(&c, fmt.Sprintf("the RX ring of worker %d", w))
		}
	}
	fill := &q.fill.ring
	for i, to := atomic.LoadUint32(fill.consumer), atomic.LoadUint32(fill.producer); i != to; i++ {
		c.mark(*fill.address(i), "the fill ring")
		a.Fill++
	}
	t := o.tx
	next, taken, size := atomic.LoadUint32(t.ring.producer), atomic.LoadUint32(t.done.consumer), uint32(s.TxRing)
	for i := next; i != taken+size; i++ {
		c.mark(*t.frame(i), "those free for sending")
		a.Sending++
	}
	a.Sending += t.ring.list(&c, "the TX ring")
	for i, to := taken, atomic.LoadUint32(t.done.producer); i != to; i++ {
		c.mark(*t.done.address(i), "the completion ring")
		a.Sending++
	}
	a.Kernel = s.Frames - a.Fill - a.Rings - a.Parked - a.Sending
	return a, c.err
}

// list marks what lies in a ring of descriptors and returns how much that is.
func (r *ring) list(c *census, place string) int {
	from, to := atomic.LoadUint32(r.consumer), atomic.LoadUint32(r.producer)
	for i := from; i != to; i++ {
		c.mark(r.desc(i).Addr&^(c.frame-1), place)
	}
	return int(to - from)
}
