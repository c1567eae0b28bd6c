package proc

import (
	"errors"
	"fmt"

	"github.com/headrace/headrace/dataplane"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/segment"
)

// try finds out whether this binary could go on with the kept memory, which another
// process may be using: it builds the same structures elsewhere and compares how they
// are laid out. Or, with the state of another plan's workers, which are held, whether that
// could go on here: it does all of it, in memory that is thrown away. Nothing of what is
// kept is written.
func (p *process) try() error {
	if p.start.Kept == nil {
		return nil
	}
	if err := p.openFormer(); err != nil {
		return err
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
	c := dataplane.Config{Plan: p.plan, Rollback: true, Attach: dataplane.Unattached}
	if p.shared, err = dataplane.NewCommon(p.plan, common); err != nil {
		return err
	}
	c.Lanes, c.Shared = p.shared.Lanes, p.shared.Shared
	if c.Owner = p.shared.Journal.Owner(); p.start.Owners != nil {
		*c.Owner = *p.start.Owners
	}
	err = common.Complete(dataplane.StateVersion)
	if p.start.From == nil {
		err = errors.Join(err, common.Same(p.parts.shared))
	}
	if err != nil {
		return fmt.Errorf("what the workers share: %w", err)
	}
	for w := range p.plan.Workers {
		c.Worker, c.Segment = w, own.Worker(w)
		if err := p.tryWorker(c); err != nil {
			return fmt.Errorf("worker %d: %w", w, err)
		}
	}
	return errors.Join(p.takeOver(), common.Close())
}

// tryWorker builds one worker. If another plan's state is to come to it, it stays.
func (p *process) tryWorker(c dataplane.Config) (err error) {
	if c.Region, err = arena.New("headrace trial", RegionBytes); err != nil {
		return err
	}
	worker, err := dataplane.NewWorker(c)
	if err != nil {
		return err
	}
	if p.start.From != nil {
		p.workers = append(p.workers, worker)
		return nil
	}
	return errors.Join(c.Region.Same(p.parts.regions[c.Worker]), c.Region.Close())
}
