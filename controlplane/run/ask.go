package run

import (
	"context"
	"errors"
)

// errEnding reports something asked of a run that is ending.
var errEnding = errors.New("the run is ending")

// An ask is something that is to be done by the control's own goroutine, between two
// things that it does.
type ask struct {
	do     func() error
	answer chan error
}

// ask lets the control's goroutine do something and returns what came of it.
func (r *control) ask(ctx context.Context, do func() error) error {
	a := ask{do: do, answer: make(chan error, 1)}
	select {
	case r.asks <- a:
	case <-r.over:
		return errEnding
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-a.answer:
		return err
	case <-r.over:
		return errEnding
	}
}
