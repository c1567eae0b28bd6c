package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/headrace/headrace/dataplane/arena"
)

// ErrNotHeld reports memory whose worker was not at a hold when it ended: something was
// under way in it, and only a worker of the same plan can go on there.
var ErrNotHeld = errors.New("the worker was not held")

// OpenHeld opens what a worker has left at a hold, for [Transfer] to read. Of c it takes
// Plan, Worker, Region, Shared and Rollback. Nothing is received or shown. Give it the
// region by [arena.View]: building derives some words anew.
//
// An error wraps [ErrNotHeld] if something is under way there, or [arena.ErrLayout].
func OpenHeld(c Config) (*Worker, error) {
	w := &Worker{plan: c.Plan, id: c.Worker}
	if err := w.openHeld(c); err != nil {
		return nil, fmt.Errorf("dataplane: state of worker %d: %w", c.Worker, err)
	}
	return w, nil
}

func (w *Worker) openHeld(c Config) error {
	if !c.Region.Warm() {
		return fmt.Errorf("the region is empty: %w", arena.ErrLayout)
	}
	if err := fits(c); err != nil {
		return err
	}
	if err := w.build(c); err != nil {
		return err
	}
	if err := c.Region.Complete(StateVersion); err != nil {
		return err
	}
	s, err := w.recall()
	switch {
	case err != nil:
		return err
	case w.number == 0:
		return fmt.Errorf("it has committed nothing: %w", ErrNotHeld)
	case w.undone:
		return fmt.Errorf("it ended in a batch: %w", ErrNotHeld)
	case w.ending != flowing:
		return fmt.Errorf("it was draining: %w", ErrNotHeld)
	case w.stopped == 0:
		return fmt.Errorf("no hold had been asked for, or it had not got there: %w", ErrNotHeld)
	case w.closing != nil || s.here.Bag != 0:
		return fmt.Errorf("it had a release in hand: %w", ErrNotHeld)
	case !w.windows.Quiescent():
		return fmt.Errorf("windows were closing: %w", ErrNotHeld)
	}
	return nil
}

// Rings returns the positions up to which everything was taken of the worker's rings: who
// takes up its sockets goes on there ([Config.Rings]).
func (w *Worker) Rings() []uint32 {
	s := w.memory.standing(w.memory.head.Commit)
	return slices.Clone(s.rings[:s.here.Rings])
}

// lanesEmpty reports whether everything that the workers have sent each other was taken.
func lanesEmpty(workers []*Worker) bool {
	for to, reader := range workers {
		place := 0 // the reader's own lane is none
		for from, writer := range workers {
			if from == to {
				continue
			}
			sent := writer.memory.standing(writer.number).sent[to]
			if reader.memory.standing(reader.number).places[place].Taken != sent {
				return false
			}
			place++
		}
	}
	return true
}
