package proc

import (
	"errors"
	"fmt"

	"github.com/headrace/headrace/dataplane"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/window"
	"github.com/headrace/headrace/dataplane/xsk"
)

// try finds out whether this binary could go on with the kept memory, which another
// process may be using: it builds the same structures elsewhere and compares how they
// are laid out. Nothing of what is kept is written.
func (p *process) try() error {
	if p.start.Kept == nil {
		return nil
	}
	own, err := segment.Create(p.plan)
	if err != nil {
		return err
	}
	defer own.Close() //nolint:errcheck // nothing is in it
	common, err := arena.New("headrace trial", RegionBytes)
	if err != nil {
		return err
	}
	c := dataplane.Config{Plan: p.plan, Rollback: true, Attach: func([]uint32) (xsk.Receiver, error) { return nothing{}, nil }}
	if p.plan.Workers > 1 {
		if c.Lanes, err = dataplane.NewLanes(p.plan, common); err != nil {
			return err
		}
		if c.Shared, err = window.NewShared(common, len(p.plan.Queries)); err != nil {
			return err
		}
	}
	journal, err := dataplane.NewJournal(common, p.plan)
	if err != nil {
		return err
	}
	c.Owner = journal.Owner()
	if err := errors.Join(common.Complete(dataplane.StateVersion), common.Same(p.parts.shared)); err != nil {
		return fmt.Errorf("what the workers share: %w", err)
	}
	for w := range p.plan.Workers {
		if c.Region, err = arena.New("headrace trial", RegionBytes); err != nil {
			return err
		}
		c.Worker, c.Segment = w, own.Worker(w)
		if _, err := dataplane.NewWorker(c); err != nil {
			return err
		}
		if err := errors.Join(c.Region.Same(p.parts.regions[w]), c.Region.Close()); err != nil {
			return fmt.Errorf("worker %d: %w", w, err)
		}
	}
	return common.Close()
}

// nothing is a receiver of nothing.
type nothing struct{}

func (nothing) Receive([]xsk.Frame) int             { return 0 }
func (nothing) Release()                            {}
func (nothing) Positions([]uint32, []xsk.Frame) int { return 0 }
func (nothing) Spent() bool                         { return false }
