package xsk

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
)

// Bind says how an owner is bound to its queue. The zero value tries zero-copy and
// falls back to copying, with need_wakeup.
type Bind struct {
	// Copy and ZeroCopy force one or the other.
	Copy, ZeroCopy bool
	// NoNeedWakeup leaves need_wakeup off: drivers then look at the rings unasked.
	NoNeedWakeup bool
	// ScatterGather accepts packets of several frames, which are counted and dropped
	// here, where otherwise the kernel drops and counts them.
	ScatterGather bool
}

// OwnerConfig says which queue an owner is for.
type OwnerConfig struct {
	Interface string
	Index     int // looked up by name if zero
	Queue     int
	Sizes     Sizes
	Bind      Bind
	// Raw makes a raw socket over a memory file, whose memory is as Memory says.
	Raw    bool
	Memory Memory
	// BusyWait is how long to try while the queue is bound: the kernel frees a closed
	// socket's queue only some 40 ms later. Zero means two seconds.
	BusyWait time.Duration
}

// An Owner is a queue's first socket: it brings the UMEM and the fill, completion, RX
// and TX rings. All frames but those for sending are in the fill ring from the start.
type Owner struct {
	config   OwnerConfig
	fd       int
	umem     []byte
	zeroCopy bool
	fallback error // why it is not zero-copy, if that was tried
	refill   *refill
	tx       *Tx
	release  func() error // closes the socket and frees the UMEM

	entered sync.Mutex
	rings   map[int]ring // by worker: the RX rings of the ports that use the UMEM
}

// A base is a bound socket with its UMEM, however it was made.
type base struct {
	fd      int
	umem    []byte
	release func() error
}

// OpenOwner opens the owner of one queue for use in this process: by asavie/xdp, or
// raw if c says so. It needs CAP_NET_RAW, and CAP_IPC_LOCK or a memlock limit for the
// UMEM. That of asavie/xdp is touched first by this thread: who wants it on a NUMA
// node calls from there.
//
// A raw owner that is to outlive the process that receives is opened by [OpenRaw] in
// one process and taken by [AdoptOwner] in the other. These three are the only places
// that know how the socket is made; everything else uses its descriptor and its memory.
func OpenOwner(c OwnerConfig) (*Owner, error) {
	if c.Raw {
		return openRawHere(c)
	}
	if err := c.complete(); err != nil {
		return nil, c.named(err)
	}
	b, fallback, err := bindBest(c, func(flags int) (base, error) { return openAsavie(c, uint16(flags)) })
	if err != nil {
		return nil, c.named(advise(err))
	}
	o := &Owner{config: c, fd: b.fd, umem: b.umem, fallback: fallback, release: b.release}
	if err := o.start(nil); err != nil {
		return nil, errors.Join(c.named(err), o.Close())
	}
	return o, nil
}

// named says whose err is.
func (c *OwnerConfig) named(err error) error {
	return fmt.Errorf("xsk: %s queue %d: %w", c.Interface, c.Queue, err)
}

func (c *OwnerConfig) complete() error {
	if err := c.Sizes.check(); err != nil {
		return err
	}
	if c.Bind.Copy && c.Bind.ZeroCopy {
		return errors.New("copy and zero-copy are both forced: choose one")
	}
	if c.BusyWait == 0 {
		c.BusyWait = 2 * time.Second
	}
	if c.Index == 0 {
		nic, err := net.InterfaceByName(c.Interface)
		if err != nil {
			return err
		}
		c.Index = nic.Index
	}
	return nil
}

// bindBest opens a bound socket, with zero-copy if possible. fallback is why it was not.
func bindBest[T any](c OwnerConfig, open func(flags int) (T, error)) (made T, fallback, err error) {
	flags := 0
	if !c.Bind.NoNeedWakeup {
		flags |= unix.XDP_USE_NEED_WAKEUP
	}
	if c.Bind.ScatterGather {
		flags |= unix.XDP_USE_SG
	}
	if !c.Bind.Copy {
		made, err = patiently(c, flags|unix.XDP_ZEROCOPY, open)
		if err == nil || c.Bind.ZeroCopy || !noZeroCopy(err) {
			return made, nil, err
		}
		fallback = err
	}
	made, err = patiently(c, flags|unix.XDP_COPY, open)
	return made, fallback, err
}

// noZeroCopy reports whether err may mean that the driver cannot do zero-copy here.
func noZeroCopy(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS)
}

// patiently opens, again and again while the queue is bound.
func patiently[T any](c OwnerConfig, flags int, open func(flags int) (T, error)) (T, error) {
	const first, last = time.Millisecond, 10 * time.Millisecond
	deadline := time.Now().Add(c.BusyWait) //nolint:forbidigo // opening is not on the data path
	for pause := first; ; pause = min(2*pause, last) {
		made, err := open(flags)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) { //nolint:forbidigo // as above
			return made, err
		}
		time.Sleep(pause) //nolint:forbidigo // as above
	}
}

// advise adds what to do about an error of opening.
func advise(err error) error {
	for _, a := range []struct {
		is     unix.Errno
		advice string
	}{
		{unix.EBUSY, "another AF_XDP socket has this queue; stop its program"},
		{unix.EPERM, "CAP_NET_RAW is missing"},
		{unix.ENOBUFS, "memlock limit too small for the UMEM: raise it or give CAP_IPC_LOCK"},
		{unix.ENODEV, "no such interface in this network namespace"},
		{unix.EOPNOTSUPP, "the driver cannot do this; leave zero-copy to be chosen"},
	} {
		if errors.Is(err, a.is) {
			return fmt.Errorf("%w: %s", err, a.advice)
		}
	}
	return err
}

// start maps the rings and reads back what was granted. With a region, which is that of
// an adopted owner, it goes on where the process before this one was; without, it fills
// the fill ring.
func (o *Owner) start(r *arena.Region) (err error) {
	if o.zeroCopy, err = grantedZeroCopy(o.fd); err != nil {
		return err
	}
	off, err := mapOffsets(o.fd)
	if err != nil {
		return err
	}
	s := o.config.Sizes
	state, err := newQueueState(r, s)
	if err != nil {
		return err
	}
	fill, err := mapRing(o.fd, unix.XDP_UMEM_PGOFF_FILL_RING, off.Fr, uint32(s.FillRing), addressBytes)
	if err != nil {
		return err
	}
	o.refill = newRefill(state, newProducerRing(fill), s.FrameSize, o.fd)
	tx, err := mapRing(o.fd, unix.XDP_PGOFF_TX_RING, off.Tx, uint32(s.TxRing), descBytes)
	if err != nil {
		return err
	}
	o.tx = newTx(o, newProducerRing(tx))
	if o.tx.done, err = mapRing(o.fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, off.Cr, uint32(s.TxRing), addressBytes); err != nil {
		return err
	}
	o.tx.taken = atomic.LoadUint32(o.tx.done.consumer)
	if r != nil {
		return o.resume()
	}
	o.refill.stock(s)
	fillUp(&o.refill.fill, s)
	o.wake()
	return nil
}

// grantedZeroCopy asks the kernel how a socket was bound.
func grantedZeroCopy(fd int) (bool, error) {
	options, err := unix.GetsockoptInt(fd, unix.SOL_XDP, unix.XDP_OPTIONS)
	return options&unix.XDP_OPTIONS_ZEROCOPY != 0, os.NewSyscallError("getsockopt", err)
}

// fillUp gives the kernel all frames but those for sending, for the first and only time.
func fillUp(f *producerRing, s Sizes) {
	for i := range s.Frames - s.TxRing {
		*f.address(f.next) = uint64(i * s.FrameSize)
		f.next++
	}
	f.publish()
}

// wake tells a driver that found the fill ring empty that it no longer is.
func (o *Owner) wake() {
	if o.refill.fill.needsWakeup() {
		kickRX(o.fd)
	}
}

// enter notes the RX ring of a worker's port.
func (o *Owner) enter(worker int, r ring) {
	o.entered.Lock()
	defer o.entered.Unlock()
	if o.rings == nil {
		o.rings = map[int]ring{}
	}
	o.rings[worker] = r
}

// leave forgets it.
func (o *Owner) leave(worker int) {
	o.entered.Lock()
	defer o.entered.Unlock()
	delete(o.rings, worker)
}

// FD returns the owner's descriptor, by which members are opened and rings mapped.
func (o *Owner) FD() int { return o.fd }

// ZeroCopy reports whether the kernel granted zero-copy, as read back from it.
func (o *Owner) ZeroCopy() bool { return o.zeroCopy }

// Fallback returns why zero-copy was tried and not granted, or nil.
func (o *Owner) Fallback() error { return o.fallback }

// Tx returns the queue's sender.
func (o *Owner) Tx() *Tx { return o.tx }

// Close unmaps the rings, closes the socket and frees the UMEM, in this order: a ring
// that stays mapped keeps the socket, the queue and the UMEM. All ports must have
// been closed, else nothing is done and an error returned. A second call does nothing.
func (o *Owner) Close() error {
	if o.release == nil {
		return nil
	}
	o.entered.Lock()
	defer o.entered.Unlock()
	if n := len(o.rings); n > 0 {
		return fmt.Errorf("xsk: %s queue %d: %d ports still use it: close them first", o.config.Interface, o.config.Queue, n)
	}
	var errs []error
	if o.refill != nil {
		errs = append(errs, o.refill.fill.unmap())
	}
	if o.tx != nil {
		errs = append(errs, o.tx.ring.unmap(), o.tx.done.unmap())
	}
	errs = append(errs, o.release())
	o.release, o.umem = nil, nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("xsk: %s queue %d: %w", o.config.Interface, o.config.Queue, err)
	}
	return nil
}
