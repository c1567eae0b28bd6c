package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/change"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/segment"
)

// adoptPatience is how long a data plane that lives may take to notice that its
// control has died.
const adoptPatience = 5 * time.Second

// adopt takes over the data plane of this name that has no control, if there is one.
// It returns nil if none lives.
func (r *control) adopt() (*generation, status.Former, error) {
	if r.DataSocket != "" {
		return r.adoptManaged()
	}
	for end := time.Now().Add(adoptPatience); ; time.Sleep(lockPause) {
		lock, err := r.folder.lock(handover.DataLock, unix.LOCK_EX, 0)
		if err == nil {
			return nil, status.Former{}, lock.Close()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, status.Former{}, err
		}
		g, former, err := r.adoptNow()
		switch {
		case err == nil:
			return g, former, nil
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, io.EOF),
			errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
			// It has not noticed yet, or it is ending.
		default:
			return nil, status.Former{}, err
		}
		if time.Now().After(end) {
			return nil, status.Former{}, fmt.Errorf("a data plane of this name lives and does not answer: end it, or give another --name: %w", err)
		}
	}
}

func (r *control) adoptNow() (*generation, status.Former, error) {
	conn, err := handover.Dial(r.folder.path)
	if err != nil {
		return nil, status.Former{}, err
	}
	g := newGeneration()
	g.conn = conn
	if err := g.conn.Limit(adoptPatience); err != nil {
		return nil, status.Former{}, errors.Join(err, g.close())
	}
	m, err := g.conn.Expect(handover.Running, nil)
	if err != nil {
		return nil, status.Former{}, errors.Join(err, g.close())
	}
	return r.takeAll(g, m)
}

// takeAll is take, and lets go of everything if that fails.
func (r *control) takeAll(g *generation, m *handover.Message) (*generation, status.Former, error) {
	former, err := r.take(g, m)
	if err != nil {
		return nil, former, errors.Join(err, g.close(), r.dropNetwork())
	}
	return g, former, nil
}

// take looks at what the data plane offers and takes it if it is of the same plan and
// build.
func (r *control) take(g *generation, m *handover.Message) (former status.Former, err error) {
	var body handover.RunningBody
	if err := m.Decode(&body); err != nil {
		m.Close()
		return former, err
	}
	if body.Version != handover.Version || len(m.FDs) < 2 {
		m.Close()
		return status.Former{}, r.differs(fmt.Errorf("it speaks version %d, this binary %d", body.Version, handover.Version))
	}
	fds := m.FDs
	var d description
	if err := json.Unmarshal(body.Description, &d); err != nil {
		m.Close()
		return status.Former{}, r.differs(fmt.Errorf("it is described by nonsense: %w", err))
	}
	if err := r.adoptSetup(&d); err != nil {
		m.Close()
		return status.Former{}, r.differs(err)
	}
	if g.segment, err = segment.Open(fds[0], fds[1], segment.Control, r.Plan); err != nil {
		closeAll(fds[2:])
		return status.Former{}, r.differs(err)
	}
	fds = fds[2:]
	if body.Kept != nil {
		if g.stock, fds, err = stockOf(body.Kept, fds); err != nil {
			closeAll(fds)
			return status.Former{}, r.differs(err)
		}
	}
	if body.Confined && len(fds) > 0 {
		r.watchDenials(fds[:1], "")
		fds = fds[1:]
	}
	if r.network, former, err = adoptNetwork(r.Plan, r.Log, &d, fds); err != nil {
		return former, r.differs(err)
	}
	if g.managed {
		g.pid = body.PID // who listens is the manager; the number is for people
	} else if g.pid, err = g.conn.PeerPID(); err != nil {
		return former, err
	}
	g.layout, g.zeroCopy = body.Layout, body.ZeroCopy
	if _, err := r.seats(); err != nil {
		return former, err
	}
	r.placed(g, body.Placed)
	// Now: a call that is under way when a limit ends keeps it, and startPump begins to
	// listen. What is still to be sent has room in the socket.
	if err := g.conn.Limit(0); err != nil {
		return former, err
	}
	if err := r.startPump(g); err != nil {
		return former, err
	}
	if err := g.conn.Send(handover.Adopt, nil, nil); err != nil {
		return former, err
	}
	g.listen()
	g.segment.NextControl()
	g.beat()
	return former, nil
}

// adoptSetup makes the setup of a data plane that runs, or was kept, the one in force. What
// this process was started with comes in its place afterwards, if it is another one that
// can: see [control.catchUp].
func (r *control) adoptSetup(d *description) error {
	if d.Plan == nil {
		return handover.ErrPeer
	}
	old := Setup{Plan: d.Plan, Text: []byte(d.Text), Source: d.Source}
	read, err := r.Compile(old.Text, old.Source)
	if err != nil {
		return fmt.Errorf("its config cannot be read any more: %w", err)
	}
	old.Config = read.Config
	wanted := r.Setup
	wanted.keepWorkers(&old)
	c := change.Between(change.State{Config: old.Config, Plan: old.Plan}, change.State{Config: wanted.Config, Plan: wanted.Plan})
	report := c.Report()
	switch tag := c.Tag(); {
	case len(c.Refused()) > 0 || tag == change.Cold, old.Plan.Group != nil && !alone(report):
		var b strings.Builder
		if err := report.Write(&b); err != nil {
			return err
		}
		return fmt.Errorf("its config is another one:\n%s", b.String())
	case tag != change.None:
		r.wanted = &wanted
	}
	r.Setup, r.paused = old, d.Paused
	return nil
}

// catchUp puts the config in force that this process was started with, if the data plane
// that it took over has another one.
func (r *control) catchUp() {
	if r.wanted == nil || r.stopping {
		return
	}
	text, source := r.wanted.Text, r.wanted.Source
	r.wanted = nil
	if _, err := r.apply(&api.Application{Text: text, Source: source}); err != nil {
		r.Log.Error("the config of the running data plane stays in force", "source", r.Source, "error", err)
	}
}

// differs says what to do about a data plane that is not ours.
func (r *control) differs(err error) error {
	return fmt.Errorf("a data plane without a control runs under the name %s and cannot be taken over: "+
		"start it with its own config and binary, give another --name, or wait: it ends by itself within its orphan_timeout: %w", r.Plan.Name, err)
}

func (r *control) dropNetwork() error {
	if r.network == nil {
		return nil
	}
	n := r.network
	r.network = nil
	return n.close()
}
