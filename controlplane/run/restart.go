package run

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A policy bounds how often a data plane is started again.
type policy struct {
	most  int
	times []time.Time // of the restarts of the last minute
}

const (
	restartsMax   = 5 // that lose state
	faultsMax     = 2 // by its own fault, state kept
	restartWindow = time.Minute
	restartPause  = 100 * time.Millisecond // before the second; doubled from there
)

// next returns how long to wait before a restart at now, and whether there may be one.
func (p *policy) next(now time.Time) (time.Duration, bool) {
	for len(p.times) > 0 && now.Sub(p.times[0]) >= restartWindow {
		p.times = p.times[1:]
	}
	n := len(p.times)
	if n == p.most {
		return 0, false
	}
	p.times = append(p.times, now)
	if n == 0 {
		return 0, true
	}
	return restartPause << (n - 1), true
}

// restart starts a data plane in the place of one that died. State is cold: windows
// that had closed stay closed, those that were open are incomplete, and the ledger
// says what was lost. If a stop is asked for meanwhile there is none afterwards.
func (r *control) restart(ctx context.Context) error {
	old := r.g
	// Nothing may go to sockets that are gone, and nothing more may be counted as
	// steered to them.
	if err := r.network.clearSockets(); err != nil {
		return err
	}
	former := r.figures.source.Snapshot().Former()
	resume := old.watermarks(r.Plan.Workers, len(r.Plan.Queries))
	old.stock.close() // the queues have to be free
	began := time.Now()
	for {
		pause, may := r.policy.next(time.Now())
		if !may {
			return errors.Join(fmt.Errorf("%w %d times within %v: it is not started again", ErrDied, restartsMax+1, restartWindow), r.network.detach())
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return r.none(old)
		case <-r.signals:
			r.asked++
			return r.none(old)
		}
		g, err := r.start(resume)
		if err != nil {
			r.Log.Error("the data plane could not be started again", "error", err)
			continue
		}
		r.g = g
		r.show(g, former)
		r.handOver(g, former)
		r.Log.Warn("started the data plane again: its state was lost", "data_plane", g.pid, "restarts", former.Restarts, "within", time.Since(began))
		return old.close()
	}
}

// none ends the run between two data planes.
func (r *control) none(old *generation) error {
	r.stopping = true
	r.g = nil
	r.printLedger()
	r.figures.close()
	r.figures.source = nil // its memory goes
	return errors.Join(r.network.detach(), old.close())
}
