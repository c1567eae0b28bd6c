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
	"github.com/headrace/headrace/systemd/notify"
)

// ErrNoSocket reports a service manager that did not pass the socket which was named.
var ErrNoSocket = errors.New("the service manager passes no such socket: FileDescriptorName= of the socket's unit")

// errEnded reports an end that was asked for: by control, or by the manager. What was
// under way is taken back by the next process.
var errEnded = errors.New("data plane: asked to end")

const (
	// prepareWithin bounds what the watchdog is told blindly.
	prepareWithin = 30 * time.Second
	freshPause    = 100 // milliseconds between looks while nobody has come
)

// A unit is what a process has that a service manager started: the door, at which the
// manager listens, and the watchdog. The nil unit is that of a process of control's.
type unit struct {
	door   int
	socket *notify.Socket // nil: the manager wants to know nothing
	every  time.Duration
	pulse  *notify.Pulse
	counts []uint64
}

// Unit is the data-plane process where a service manager starts it. name is that of the
// socket, among those that the manager passes, at which control is expected. It returns as
// [Main] does, and when it is asked to end.
func Unit(name string) error {
	u, err := openUnit(name)
	if err != nil {
		return err
	}
	p := newProcess()
	p.unit, p.clock = u, monotonic()
	u.watch(0)
	if err := u.socket.Ready("waiting for control"); err != nil {
		return err
	}
	for err == nil && p.start.Plan == nil {
		if err = p.greet(); err != nil {
			break
		}
		if err = p.receiveStart(); errors.Is(err, io.EOF) {
			err = p.hangUp() // it died meanwhile; the next may come
		}
	}
	if !errors.Is(err, errEnded) {
		err = p.live(err)
	}
	if errors.Is(err, errEnded) {
		return nil
	}
	return err
}

func openUnit(name string) (*unit, error) {
	u := &unit{door: -1}
	list, err := notify.Inherited()
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		if d.Name == name && u.door < 0 {
			u.door = d.FD
		} else {
			_ = unix.Close(d.FD) // not for us
		}
	}
	if u.door < 0 {
		return nil, fmt.Errorf("data plane: %q among %d: %w", name, len(list), ErrNoSocket)
	}
	if err := unix.SetNonblock(u.door, true); err != nil {
		return nil, fmt.Errorf("data plane: %w", os.NewSyscallError("fcntl", err))
	}
	if u.every, err = notify.WatchdogEvery(); err != nil {
		return nil, err
	}
	u.socket, err = notify.Open()
	return u, err
}

// watch ties the watchdog to so many workers.
func (u *unit) watch(workers int) {
	if u == nil {
		return
	}
	u.counts = make([]uint64, workers)
	u.pulse = notify.NewPulse(u.socket, u.every, workers)
	if workers > 0 {
		_ = u.socket.Status(fmt.Sprintf("running, workers: %d", workers)) // who hears the watchdog hears this
	}
}

// busy keeps the watchdog content during a start.
func (u *unit) busy() (done func()) {
	if u == nil || u.every == 0 {
		return func() {}
	}
	return u.socket.Busy(prepareWithin)
}

// alive tells the watchdog, if every worker gets on.
func (p *process) alive() {
	u := p.unit
	if u == nil {
		return
	}
	now := time.Duration(p.clock())
	for w := range u.counts {
		x := p.segment.Worker(w)
		if u.counts[w] = x.Heartbeat(); x.State().Final() {
			u.counts[w] = uint64(now) // it has nothing left to do
		}
	}
	_ = u.pulse.Look(now, u.counts) // a manager that does not hear ends us
}

// told reports whether the manager wants this process to end.
func (p *process) told() bool {
	if p.unit == nil {
		return false
	}
	select {
	case <-p.signals:
		return true
	default:
		return false
	}
}

// greet waits for a control and says that it may send its start. It returns when that is
// there, or when control has gone again.
func (p *process) greet() error {
	polls := make([]unix.PollFd, 1)
	for {
		fd := p.unit.door
		if p.conn != nil {
			fd = p.conn.FD()
		}
		polls[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		n, err := unix.Poll(polls, freshPause)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("data plane: %w", os.NewSyscallError("poll", err))
		}
		if p.told() {
			return errEnded
		}
		p.alive()
		if n <= 0 {
			continue
		}
		if p.conn != nil {
			return nil
		}
		c, err := handover.Admit(p.unit.door)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return err
		}
		p.conn = c
		if c.Send(handover.Fresh, handover.FreshBody{Version: handover.Version, PID: os.Getpid()}, nil) != nil {
			if err := p.hangUp(); err != nil {
				return err
			}
		}
	}
}

// hangUp lets go of a control that has gone.
func (p *process) hangUp() error {
	c := p.conn
	p.conn = nil
	return c.Close()
}

// retire is the end of an orphan with a manager: nothing is drained, since nobody takes
// the rows. What the manager kept for control is as good as it is now.
func (p *process) retire(now event.Nanos) error {
	if p.unit != nil && now >= p.deadline {
		return errEnded
	}
	return nil
}
