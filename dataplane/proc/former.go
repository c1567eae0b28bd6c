package proc

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/window"
)

// former is a data plane of another plan, or of other workers, whose state goes on in
// this process: its workers, to be read.
type former struct {
	workers []*dataplane.Worker // none: there is no such data plane
	regions []*arena.Region
	owner   *[event.GroupCount]uint16
}

// goneWithin is how long the kernel may take over the end of the process before this one.
const goneWithin = 30 * time.Second

// succeed ends the process before this one, if it still runs, now that control has given
// everything: from here on control may die as well, and the state goes on.
func (p *process) succeed() error {
	if !p.start.Former {
		return nil
	}
	m, err := p.conn.Expect(handover.Keep, nil)
	if err != nil {
		return err
	}
	if err := p.holdOn(m); err != nil {
		return err
	}
	defer unix.Close(p.pidfd) //nolint:errcheck // nothing is lost with it
	if err := unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("data plane: end the one before: %w", os.NewSyscallError("pidfd_send_signal", err))
	}
	polls := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	for end := p.clock().Add(goneWithin); ; {
		n, err := unix.Poll(polls, int(goneWithin/time.Millisecond))
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("data plane: %w", os.NewSyscallError("poll", err))
		case p.clock() >= end:
			return fmt.Errorf("data plane: the one before did not end within %v", goneWithin)
		}
	}
}

// descriptors returns how many descriptors go with f.
func descriptors(f *handover.FromBody) int {
	if f == nil {
		return 0
	}
	return f.Regions + 1
}

// openFormer opens what another data plane has left at a hold, without changing it.
func (p *process) openFormer() error {
	from := p.start.From
	if from == nil {
		return nil
	}
	f := &p.former
	if from.Plan == nil || from.Plan.Workers < 1 || from.Regions < from.Plan.Workers || p.start.Kept == nil {
		return fmt.Errorf("data plane: %w: state of %d workers", handover.ErrPeer, from.Regions)
	}
	for _, fd := range p.parts.former {
		r, err := arena.View(fd)
		if err != nil {
			return err
		}
		f.regions = append(f.regions, r)
	}
	common := f.regions[from.Regions]
	shared, err := dataplane.NewCommon(from.Plan, common)
	if err != nil {
		return err
	}
	f.owner = shared.Journal.Owner()
	if err := common.Complete(dataplane.StateVersion); err != nil {
		return fmt.Errorf("data plane: what the workers before shared: %w", err)
	}
	if !shared.Journal.AtRest() {
		return fmt.Errorf("data plane: state of workers between which a key group was on its way: %w", dataplane.ErrNotHeld)
	}
	return f.open(from.Plan, shared.Shared)
}

// open opens the workers, side by side: packets wait meanwhile.
func (f *former) open(p *plan.Plan, shared *window.Shared) error {
	workers, errs := make([]*dataplane.Worker, p.Workers), make([]error, p.Workers)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			workers[w], errs[w] = dataplane.OpenHeld(dataplane.Config{Plan: p, Worker: w, Region: f.regions[w], Shared: shared, Rollback: true})
		})
	}
	all.Wait()
	f.workers = workers
	return errors.Join(errs...)
}

// rings are the positions at which worker w begins, nil if its sockets are new.
func (f *former) rings(w int) []uint32 {
	if w >= len(f.workers) {
		return nil
	}
	return f.workers[w].Rings()
}

// takeOver gives the workers, which have been built and do not run, the former ones'
// state, and lets go of those.
func (p *process) takeOver() error {
	f := &p.former
	if len(f.workers) == 0 {
		return nil
	}
	errs := []error{dataplane.Transfer(dataplane.TransferConfig{
		From: f.workers, To: p.workers, OwnersFrom: f.owner, OwnersTo: p.shared.Journal.Owner(),
		Feeds: p.start.From.Feeds, Queries: p.start.From.Queries,
	})}
	for _, r := range f.regions {
		errs = append(errs, r.Close())
	}
	*f = former{}
	p.ready.Warm = true
	return errors.Join(errs...)
}
