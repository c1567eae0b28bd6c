package proc

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/segment"
)

// adoptWithin is how long a control that has connected may take to make up its mind.
const adoptWithin = 5 * time.Second

// heldAlone is how long workers stay held without a control where key groups may be on
// their way: the next control can finish that, and we cannot. Frames wait in the rings.
const heldAlone = time.Second

// errAbandoned reports a control that died before the start was complete.
var errAbandoned = errors.New("data plane: the control process ended before the start was complete")

// orphaned is called when control has died: from now on, and only now, whoever knocks at
// the door is let in.
func (p *process) orphaned() error {
	if !p.hasKept {
		return errAbandoned // nothing to hand over, and nothing attached
	}
	if err := handover.Listen(p.door); err != nil {
		return err
	}
	p.listener = p.door
	timeout := p.plan.OrphanTimeout
	p.deadline = p.clock().Add(timeout)
	p.alone = p.clock()
	if p.segment.Command() == segment.HoldPast {
		p.alone = p.alone.Add(heldAlone)
	}
	return nil
}

// release lets workers go on that are held for a control that is no more.
func (p *process) release(now event.Nanos) {
	if now >= p.alone && p.segment.Command().Holds() {
		p.over.Store(p.segment.Hold())
	}
}

// orphan goes on with the life without a control, and reports whether it is over:
// nobody came within the plan's time, and the workers have drained.
func (p *process) orphan() (bool, error) {
	now := p.clock()
	p.release(now)
	if err := p.retire(now); err != nil {
		return true, err
	}
	if p.overdue == 0 {
		select {
		case <-p.signals:
		default:
			if now < p.deadline {
				return false, nil
			}
		}
		p.deafen()
		// First the packets go elsewhere, then what is there is finished. Rows that no
		// control takes are lost with the memory that they are in.
		p.letGo()
		p.stop.Store(true)
		p.overdue = now.Add(endWithin)
	}
	return p.running.Load() == 0 || now >= p.overdue, nil
}

// deafen ends the listening. The door stays: the next orphan may be us.
func (p *process) deafen() { p.listener = -1 }

// accept gives a new control everything, if it wants it.
func (p *process) accept() error {
	admit := handover.Accept
	if p.unit != nil {
		admit = handover.Admit
	}
	c, err := admit(p.listener)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, handover.ErrStranger) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.offer(c); err != nil {
		// It was of another kind, or did not like what it saw: the next may come.
		return c.Close()
	}
	p.deafen()
	p.conn, p.deadline = c, event.MaxNanos
	return nil
}

func (p *process) offer(c *handover.Conn) error {
	if err := c.Limit(adoptWithin); err != nil {
		return err
	}
	data, control := p.segment.FDs()
	body := handover.RunningBody{
		Version: handover.Version, PID: unix.Getpid(), Layout: p.start.Layout, ZeroCopy: p.zeroCopy, Placed: p.ready.Placed,
		Kept: p.start.Kept, Confined: p.denials > 0, Description: p.about,
	}
	fds := append([]int{data, control}, p.parts.all...)
	if body.Confined {
		fds = append(fds, p.denials)
	}
	if err := c.Send(handover.Running, &body, append(fds, p.kept...)); err != nil {
		return err
	}
	if _, err := c.Expect(handover.Adopt, nil); err != nil {
		return err
	}
	return c.Limit(0)
}
