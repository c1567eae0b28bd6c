package dataplane

import (
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/exchange"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/window"
	"github.com/headrace/headrace/dataplane/xsk"
)

// Common is what the workers of a plan share.
type Common struct {
	// Lanes are by sender, then receiver; nil if there is one worker. Shared likewise, and
	// in replay.
	Lanes  [][]*exchange.Lane
	Shared *window.Shared
	// Journal is nil in replay.
	Journal *Journal
}

// NewCommon takes what p's workers share from r, a region of its own. Whose region is
// complete afterwards, or the same as another: see [arena.Region], is the caller's to say.
func NewCommon(p *plan.Plan, r *arena.Region) (c Common, err error) {
	if p.Workers > 1 {
		if c.Lanes, err = NewLanes(p, r); err != nil {
			return c, err
		}
	}
	if p.Replay {
		return c, nil
	}
	if p.Workers > 1 {
		if c.Shared, err = window.NewShared(r, len(p.Queries)); err != nil {
			return c, err
		}
	}
	c.Journal, err = NewJournal(r, p)
	return c, err
}

// Unattached is a [Config.Attach] for workers that are built to be looked at: nothing ever
// comes.
func Unattached([]uint32) (xsk.Receiver, error) { return Nothing{}, nil }

// Nothing is a receiver of nothing.
type Nothing struct{}

// Receive returns 0.
func (Nothing) Receive([]xsk.Frame) int { return 0 }

// Release has nothing to give back.
func (Nothing) Release() {}

// Positions returns 0.
func (Nothing) Positions([]uint32, []xsk.Frame) int { return 0 }

// Spent returns false.
func (Nothing) Spent() bool { return false }
