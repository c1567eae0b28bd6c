package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/xsk"
)

const (
	lookEvery  = 20 * time.Millisecond  // counters of sockets, with few of them
	lookMany   = 100 * time.Millisecond // with more than socketsFew
	socketsFew = 64
	checkEvery = 200 * time.Millisecond // interfaces
	endWithin  = 5 * time.Second        // a drain that nobody takes the rows of
)

// keeper is the process's memory beside the workers: what the main goroutine looks
// after. Nothing in its steady round allocates.
type keeper struct {
	polls    []unix.PollFd
	every    time.Duration
	checked  event.Nanos
	nics     []nic
	sockets  [][]socket // by worker
	kept     []int      // descriptors held for the next control
	hasKept  bool
	about    []byte      // what they are, in control's words
	listener int         // -1: none
	deadline event.Nanos // of an orphan
	overdue  event.Nanos // when an orphan's drain is given up; 0: it has not begun
	alone    event.Nanos // when an orphan that is held goes on by itself
}

// nic is an interface and one socket to ask about it.
type nic struct {
	name string
	fd   int
	gone bool
}

// socket is one socket of a worker and where its counters go.
type socket struct {
	fd    int
	index int // of the port's rings
	into  *segment.SocketCounters
}

func (k *keeper) init(p *process) {
	k.listener = -1
	k.polls = make([]unix.PollFd, 1)
	for i, s := range p.start.Layout.Owners() {
		if s.Queue == 0 {
			k.nics = append(k.nics, nic{name: s.Name, fd: p.owners[i].FD()})
		}
	}
	n := 0
	for w, port := range p.ports {
		var list []socket
		for i, s := range port.Sockets() {
			c := p.segment.Socket(s.Interface, s.Queue, w)
			c.Bound.Store(1)
			list = append(list, socket{s.FD, i, c})
			n++
		}
		k.sockets = append(k.sockets, list)
	}
	if k.every = lookEvery; n > socketsFew {
		k.every = lookMany
	}
}

// keep is the main goroutine from the start of the workers to the end.
func (p *process) keep() error {
	for {
		ready, err := p.wait()
		if err != nil {
			return err
		}
		if ready {
			if err := p.hear(); err != nil {
				return err
			}
		}
		if p.told() {
			return errEnded
		}
		p.look()
		p.alive()
		p.pins.look(time.Duration(p.clock()))
		if done, err := p.finished(); done || err != nil {
			return err
		}
	}
}

// wait sleeps until somebody says something, or until it is time to look.
func (p *process) wait() (bool, error) {
	fd := p.listener
	if p.conn != nil {
		fd = p.conn.FD()
	}
	p.polls[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	n, err := unix.Poll(p.polls, int(p.every/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("data plane: %w", os.NewSyscallError("poll", err))
	}
	return n > 0, nil
}

// hear takes what control has to say, or a new control.
func (p *process) hear() error {
	if p.conn == nil {
		return p.accept()
	}
	m, err := p.conn.Receive()
	switch {
	case err == nil && m.Kind == handover.Keep:
		return p.holdOn(m)
	case err == nil && m.Kind == handover.End:
		m.Close()
		return errEnded
	case err == nil && m.Kind == handover.Move:
		return p.move(m)
	case err == nil:
		m.Close()
		return nil // nothing else is expected, and nothing depends on it
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, handover.ErrPeer):
		return err
	}
	if err := p.conn.Close(); err != nil {
		return err
	}
	p.conn = nil
	return p.orphaned()
}

// holdOn takes over descriptors for the next control, in place of those before.
func (p *process) holdOn(m *handover.Message) error {
	var k handover.KeepBody
	if err := m.Decode(&k); err != nil {
		m.Close()
		return err
	}
	p.letGo()
	p.kept, p.about, p.hasKept = m.FDs, k.Description, true
	return nil
}

// move gives key groups to another worker. Control has seen to it that all workers are
// held.
func (p *process) move(m *handover.Message) error {
	var b handover.MoveBody
	if err := m.Decode(&b); err != nil {
		m.Close()
		return err
	}
	n, err := p.shared.Journal.Move(p.workers, b.Groups, b.To)
	answer := handover.MovedBody{Moved: n, Owners: p.shared.Journal.Owner()}
	if err != nil {
		answer.Error = err.Error()
	}
	return p.tell(handover.Moved, answer, nil)
}

// tell sends control what it waits for. It may have died meanwhile: that is found out when
// it is listened to, and no error here.
func (p *process) tell(kind handover.Kind, body any, fds []int) error {
	err := p.conn.Send(kind, body, fds)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}

// letGo closes what is held for control. If that has died, the XDP program leaves the
// interface and the groups are left.
func (p *process) letGo() {
	for _, fd := range p.kept {
		_ = unix.Close(fd)
	}
	p.kept, p.hasKept = nil, false
}

// look reads the kernel's counters into the segment and sees whether the interfaces
// are there.
func (p *process) look() {
	for w, list := range p.sockets {
		lost := uint64(0)
		for i := range list {
			s := &list[i]
			if st, err := xsk.Statistics(s.fd); err == nil {
				lost += st.Lost()
				s.into.RxDropped.Store(st.RxDropped)
				s.into.RxRingFull.Store(st.RxRingFull)
				s.into.RxInvalid.Store(st.RxInvalid)
				s.into.TxInvalid.Store(st.TxInvalid)
				s.into.RxFillRingEmpty.Store(st.FillEmpty)
				s.into.TxRingEmptyDesc.Store(st.TxEmpty)
			}
			s.into.InRing.Store(uint64(p.ports[w].Waiting(s.index)))
		}
		p.lost[w].Store(lost)
	}
	if now := p.clock(); now >= p.checked.Add(checkEvery) {
		p.checked = now
		p.check()
	}
}

// check looks at one socket of every interface. One that is down may come back; one
// that was removed does not, and control is told.
func (p *process) check() {
	for i := range p.nics {
		n := &p.nics[i]
		if n.gone {
			continue
		}
		err := xsk.Check(n.fd)
		if !errors.Is(err, xsk.ErrInterfaceGone) {
			continue
		}
		n.gone = true
		if p.conn == nil || p.conn.Send(handover.Lost, handover.LostBody{Interface: n.name, Error: err.Error()}, nil) != nil {
			p.stop.Store(true)
		}
	}
}

// finished reports whether the process is through: every worker has ended, and
// control knows, or nobody is left who wants to.
func (p *process) finished() (bool, error) {
	if p.conn == nil {
		return p.orphan()
	}
	if p.running.Load() > 0 {
		return false, nil
	}
	p.look() // the last figures
	// Control may have died; then this fails, and the next round finds it out.
	return p.conn.Send(handover.Ended, nil, nil) == nil, nil
}
