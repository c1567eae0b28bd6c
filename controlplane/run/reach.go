package run

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/handover"
)

// absent reports an error of a data plane that is not there, or not yet, or not any more.
func absent(err error) bool {
	for _, is := range []error{os.ErrNotExist, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// errRunning reports a data plane that runs where one was expected that waits.
var errRunning = errors.New("a data plane runs there already")

// reach connects to the manager's data plane and returns it when it waits for its start.
// One that runs is given to running with what it says; nil: it is asked to end, and the
// one after it is waited for.
func (r *control) reach(running func(*handover.Conn, *handover.Message)) (*spawned, error) {
	for end := time.Now().Add(startWithin); ; time.Sleep(lockPause) {
		s, err := r.reachNow(time.Until(end), running)
		if err == nil || !absent(err) && (running != nil || !errors.Is(err, errRunning)) {
			return s, err
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no data plane within %v: see whether the manager starts its unit: %w", startWithin, err)
		}
	}
}

func (r *control) reachNow(within time.Duration, running func(*handover.Conn, *handover.Message)) (*spawned, error) {
	conn, err := handover.Reach(r.DataSocket)
	if err != nil {
		return nil, err
	}
	var m *handover.Message
	if err = conn.Limit(max(within, time.Second)); err == nil {
		m, err = conn.Receive()
	}
	var fresh handover.FreshBody
	switch {
	case err != nil:
	case m.Kind == handover.Running && running != nil:
		running(conn, m)
		return nil, nil
	case m.Kind == handover.Running:
		m.Close()
		err = errors.Join(errRunning, conn.Send(handover.Adopt, nil, nil), conn.Send(handover.End, nil, nil))
	case m.Kind != handover.Fresh:
		m.Close()
		err = fmt.Errorf("%s: %w: %v, not %v", r.DataSocket, handover.ErrPeer, m.Kind, handover.Fresh)
	default:
		if err = m.Decode(&fresh); err == nil && fresh.Version != handover.Version {
			err = fmt.Errorf("the data plane at %s is another build: it speaks version %d, this binary %d: restart its unit", r.DataSocket, fresh.Version, handover.Version)
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &spawned{conn: conn, pid: fresh.PID}, nil
}

// adoptManaged takes over the manager's data plane if it runs. If it waits for a start,
// that is not yet given, and there is none to adopt.
func (r *control) adoptManaged() (g *generation, former status.Former, err error) {
	var taken error
	r.spare, err = r.reach(func(c *handover.Conn, m *handover.Message) {
		g = newGeneration()
		g.conn, g.managed = c, true
		if taken = c.Limit(adoptPatience); taken != nil {
			m.Close()
			taken = errors.Join(taken, c.Close())
			return
		}
		g, former, taken = r.takeAll(g, m)
	})
	return g, former, errors.Join(err, taken)
}
