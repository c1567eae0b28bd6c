package xsk

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Counters count what a port did, exactly, as plain fields: only the worker's thread
// may read them while it runs.
//
//	entries of packets taken = Received + BadDescriptor + BadMeta + MultiBuffer
//
// where a packet of several entries is one.
type Counters struct {
	Received      uint64 // frames handed to the worker
	BadDescriptor uint64 // a descriptor that points outside UMEM
	BadMeta       uint64 // no metadata before the frame, or metadata that does not fit it
	MultiBuffer   uint64 // packets larger than one frame
	Parked        uint64 // frames given back while another worker was refilling
	Kicks         uint64 // times the driver had to be woken
}

// Taken returns how many packets were taken from the rings, good or not: the
// "received" of steered = received + lost + in ring.
func (c *Counters) Taken() uint64 {
	return c.Received + c.BadDescriptor + c.BadMeta + c.MultiBuffer
}

// A Port is a worker's receiver: its RX ring of every queue of every interface. But
// for [Port.InRing] and [Port.Close] it is used by the worker's thread only.
type Port struct {
	Counters
	worker int
	rings  []rxRing
	turn   int // the ring to begin with
	// stuck says that a Release left something in a ring.
	stuck bool
	// keeps says that nothing is released but by the worker, who has committed it.
	keeps bool

	sockets []Socket
	members []int // descriptors to close
	owners  []*Owner
	polls   []unix.PollFd
	patient unix.Timespec // Wait's timeout; here since a variable would escape
	checked int           // the socket that Wait looks at next
	down    []error       // by socket, made beforehand: Wait does not allocate
	gone    []error
}

var _ Receiver = (*Port)(nil)

// NewPort makes worker's port of the owners' queues and its members' descriptors.
// owners are in the order of [Layout.Owners], members in that of [Layout.Members],
// all workers' members; those of other workers are not looked at. The port takes its
// own worker's members and closes them; the UMEM and the rings of the owners must
// outlive it.
//
// resume is nil, or for each ring the position that the worker before this one
// committed last ([Port.Positions]): the port goes on there, and gives back at once
// what was committed and not yet given back. Without it, everything is received that
// was not given back.
func NewPort(l Layout, worker int, owners []*Owner, members []int, resume []uint32) (*Port, error) {
	sockets, err := l.Assign(ownerFDs(owners), members)
	if err != nil {
		return nil, fmt.Errorf("xsk: port of worker %d: %w", worker, err)
	}
	p := &Port{worker: worker, keeps: l.Raw}
	for _, s := range sockets {
		if s.Worker != worker {
			continue
		}
		if err := p.add(s, owners[s.OwnerIndex]); err != nil {
			return nil, errors.Join(fmt.Errorf("xsk: port of worker %d: %v: %w", worker, s, err), p.Close())
		}
	}
	if len(p.rings) == 0 {
		return nil, fmt.Errorf("xsk: port of worker %d: the layout has %d workers", worker, l.Workers)
	}
	if resume != nil {
		if err := p.resume(resume); err != nil {
			return nil, errors.Join(fmt.Errorf("xsk: port of worker %d: %w", worker, err), p.Close())
		}
	}
	return p, nil
}

func (p *Port) resume(positions []uint32) error {
	if len(positions) != len(p.rings) {
		return fmt.Errorf("%d positions for %d rings: %w", len(positions), len(p.rings), ErrState)
	}
	for i := range p.rings {
		if err := p.rings[i].resume(positions[i]); err != nil {
			return fmt.Errorf("%v: %w", p.sockets[i], err)
		}
	}
	p.Release()
	return nil
}

func (p *Port) add(s Socket, o *Owner) error {
	p.sockets = append(p.sockets, s)
	p.polls = append(p.polls, unix.PollFd{Fd: int32(s.FD), Events: unix.POLLIN})
	p.down = append(p.down, fmt.Errorf("xsk: %v: %w", s, &SocketError{ErrLinkDown, unix.ENETDOWN}))
	p.gone = append(p.gone, fmt.Errorf("xsk: %v: %w", s, &SocketError{ErrInterfaceGone, unix.ENXIO}))
	if !s.Owner {
		p.members = append(p.members, s.FD)
	}
	r, err := mapRX(s.FD, o.config.Sizes.RxRing)
	if err != nil {
		return err
	}
	cookie, err := cookieOf(s.FD)
	if err == nil {
		err = o.refill.join(s.Worker, &r, cookie)
	}
	if err != nil {
		return errors.Join(err, r.unmap())
	}
	o.enter(s.Worker, r)
	p.owners = append(p.owners, o)
	p.rings = append(p.rings, newRXRing(r, len(p.rings), o.umem, o.refill))
	return nil
}

// mapRX maps the RX ring of a socket of which nothing but the descriptor and the
// ring's size is known.
func mapRX(fd, entries int) (ring, error) {
	off, err := mapOffsets(fd)
	if err != nil {
		return ring{}, err
	}
	return mapRing(fd, unix.XDP_PGOFF_RX_RING, off.Rx, uint32(entries), descBytes)
}

// Receive fills frames from the front, fairly over the rings, and returns how many.
// Each ring first gives at most its share of len(frames); what room is left is filled
// from the ring whose turn it is. Frames are good until Release. It neither blocks nor
// allocates. Frames that cannot be used are counted and given back with the others; see
// [Port.Spent].
func (p *Port) Receive(frames []Frame) int {
	share := (len(frames) + len(p.rings) - 1) / len(p.rings)
	n, entries := p.round(frames, share)
	if entries == 0 {
		p.settle()
		return 0
	}
	if n < len(frames) && len(p.rings) > 1 {
		more, _ := p.round(frames[n:], len(frames))
		n += more
	}
	if p.turn++; p.turn == len(p.rings) {
		p.turn = 0
	}
	if n == 0 && !p.keeps {
		p.Release() // nothing is in the worker's hands, which may not call it then
	}
	return n
}

// round takes at most share entries from each ring, beginning with the one whose turn
// it is, and returns how many frames and how many entries it took.
func (p *Port) round(frames []Frame, share int) (n, entries int) {
	at := p.turn
	for range p.rings {
		took, kept := p.rings[at].take(frames[n:min(n+share, len(frames))], &p.Counters)
		n += kept
		entries += took
		if at++; at == len(p.rings) {
			at = 0
		}
	}
	return n, entries
}

// Release gives back all frames that were received since the last Release: only now
// does the kernel see that they left the RX rings. It neither blocks nor allocates,
// but for a system call where a zero-copy driver asks to be woken.
func (p *Port) Release() {
	p.stuck = false
	for i := range p.rings {
		r := &p.rings[i]
		r.released = r.whole
		if r.pending() != 0 {
			r.queue.give(p.worker, r, &p.Counters)
			p.stuck = p.stuck || r.pending() != 0
		}
	}
}

// settle is called when no frame came: it tries again to give back what found no room
// before, of this worker and of others, lest a queue runs dry with frames parked.
func (p *Port) settle() {
	for i := range p.rings {
		r := &p.rings[i]
		if p.stuck && r.pending() != 0 {
			r.queue.give(p.worker, r, &p.Counters)
		}
		r.queue.sweep(&p.Counters)
	}
}

// Spent reports that something waits for a Release. With raw owners ([Layout.Raw])
// nothing is given back that was not committed: also where Receive returned no frame,
// since none could be used, the worker commits and calls Release.
func (p *Port) Spent() bool {
	for i := range p.rings {
		if r := &p.rings[i]; r.whole != r.released {
			return true
		}
	}
	return false
}

// Positions writes, for each ring, the position up to which frames are done, to be
// committed with a batch before it is released; rest are those of the last Receive
// that are not done, at its end, and will be received again if the process ends now.
// It returns the number of rings, which is that of [Port.Sockets]; into must be at
// least as long.
func (p *Port) Positions(into []uint32, rest []Frame) int {
	into = into[:len(p.rings)]
	for i := range p.rings {
		into[i] = p.rings[i].whole
	}
	for i := len(rest) - 1; i >= 0; i-- { // a ring's first is its last to be written
		ring, position := rest[i].Place()
		into[ring] = position
	}
	return len(p.rings)
}

// Committed returns the counters as they are to be committed with [Port.Positions] of
// the same rest: without what will be taken, and counted, again.
func (p *Port) Committed(rest []Frame) Counters {
	c := p.Counters
	var seen uint64 // by ring modulo 64: two that share a bit are looked at one by one
	for i := range rest {
		ring, position := rest[i].Place()
		if bit := uint64(1) << (ring % 64); seen&bit == 0 || !listed(rest[:i], ring) {
			seen |= bit
			p.rings[ring].recount(position, &c)
		}
	}
	return c
}

// listed reports whether one of frames is of ring.
func listed(frames []Frame, ring int) bool {
	for i := range frames {
		if at, _ := frames[i].Place(); at == ring {
			return true
		}
	}
	return false
}

// Peek returns the frame at a position of a ring, as [Frame.Place] told it in the process
// before this one. It is called before the first Receive and changes nothing of what that
// will give.
func (p *Port) Peek(ring int, position uint32) (Frame, error) {
	if ring < 0 || ring >= len(p.rings) {
		return Frame{}, fmt.Errorf("xsk: worker %d: a frame to look at in ring %d of %d", p.worker, ring, len(p.rings))
	}
	r := &p.rings[ring]
	if r.seen = atomic.LoadUint32(r.producer); position-r.next >= r.seen-r.next {
		return Frame{}, fmt.Errorf("xsk: %v: the frame at position %d: the ring has %d to %d", p.sockets[ring], position, r.next, r.seen)
	}
	again := *r
	again.next, again.whole, again.contd = position, position, false
	var frame [1]Frame
	if _, n := again.take(frame[:], &Counters{}); n == 0 {
		return Frame{}, fmt.Errorf("xsk: %v: the frame at position %d: none there was handed out", p.sockets[ring], position)
	}
	return frame[0], nil
}

// InRing returns how many entries lie in the port's RX rings, those included that
// were received and not yet released. It may be called from any thread until Close.
func (p *Port) InRing() int {
	n := 0
	for i := range p.rings {
		n += int(p.rings[i].waiting())
	}
	return n
}

// Waiting is [Port.InRing] of one ring: that of socket i of [Port.Sockets].
func (p *Port) Waiting(i int) int { return int(p.rings[i].waiting()) }

// Sockets returns the port's sockets with their descriptors, for [Statistics] and
// [Check]. They are good until Close.
func (p *Port) Sockets() []Socket { return p.sockets }

// Wait sleeps until a frame is there, the timeout has passed or a socket has an error.
// It is for a worker that has nothing to do and has released everything. A wait also
// wakes a driver that needs it.
//
// When nothing came, it looks at one socket, another each time, and returns an error
// wrapping [ErrLinkDown], after which the worker goes on since the link may come back,
// or [ErrInterfaceGone], after which there is nothing more to come.
func (p *Port) Wait(timeout time.Duration) error {
	p.patient = unix.NsecToTimespec(int64(max(timeout, 0)))
	n, err := unix.Ppoll(p.polls, &p.patient, nil)
	if err != nil {
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			return nil
		}
		return fmt.Errorf("xsk: worker %d: %w", p.worker, os.NewSyscallError("ppoll", err))
	}
	if n != 0 {
		for i := range p.polls {
			if p.polls[i].Revents&^unix.POLLIN != 0 {
				return p.look(i)
			}
		}
		return nil
	}
	if p.checked++; p.checked >= len(p.polls) {
		p.checked = 0
	}
	return p.look(p.checked)
}

// look returns what is wrong with socket i.
func (p *Port) look(i int) error {
	switch errno := probe(int(p.polls[i].Fd)); errno {
	case 0:
		return nil
	case unix.ENETDOWN:
		return p.down[i]
	case unix.ENXIO:
		return p.gone[i]
	default:
		return fmt.Errorf("xsk: %v: %w", p.sockets[i], errno)
	}
}

// Close unmaps the rings and closes the member sockets. The worker must have stopped,
// and the sockets should be out of the XSKMAP. Frames become invalid. What a member's
// ring holds is lost to the UMEM if nobody else has the socket: a worker who leaves
// others at work drains first.
func (p *Port) Close() error {
	var errs []error
	for i := range p.rings {
		p.owners[i].leave(p.sockets[i].Worker)
		errs = append(errs, p.rings[i].unmap())
	}
	for _, fd := range p.members {
		errs = append(errs, os.NewSyscallError("close", unix.Close(fd)))
	}
	p.rings, p.owners, p.members, p.sockets, p.polls = nil, nil, nil, nil, nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("xsk: port of worker %d: %w", p.worker, err)
	}
	return nil
}
