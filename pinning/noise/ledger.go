package noise

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/headrace/headrace/pinning/topology"
)

// A Ledger is what interrupted some CPUs.
type Ledger struct {
	CPUs topology.CPUSet `json:"cpus"`
	// For is how long was watched.
	For time.Duration `json:"for_ns"`
	// Counts are sorted: by CPU, then the most frequent first.
	Counts []Count `json:"counts"`
	// Lost counts events that the kernel had no room to keep.
	Lost uint64 `json:"lost"`
	// Missing are events that this kernel does not have.
	Missing []string `json:"missing,omitempty"`
}

// A Count is how often one cause came on one CPU.
type Count struct {
	CPU   int    `json:"cpu"`
	Kind  Kind   `json:"kind"`
	Cause string `json:"cause"`
	N     uint64 `json:"n"`
}

// Measure watches cpus for a time, less if ctx ends, and counts. Each, if not nil, is
// called with every event too. The caller should not run on one of the CPUs. tracefs is
// that of [Open].
func Measure(ctx context.Context, tracefs string, cpus topology.CPUSet, length time.Duration, each func(Event)) (l *Ledger, err error) {
	w, err := Open(tracefs, cpus)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	l = &Ledger{CPUs: cpus, Missing: w.Missing}
	counts := map[Count]uint64{}
	take := func(e Event) {
		if e.Kind == "" {
			return
		}
		counts[Count{CPU: e.CPU, Kind: e.Kind, Cause: e.Cause}]++
		if each != nil {
			each(e)
		}
	}
	if err := w.follow(ctx, l, length, take); err != nil {
		return nil, err
	}
	for c, n := range counts {
		c.N = n
		l.Counts = append(l.Counts, c)
	}
	slices.SortFunc(l.Counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.CPU, b.CPU), cmp.Compare(b.N, a.N), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Cause, b.Cause))
	})
	return l, nil
}

// follow reads until the time is over.
func (w *Watch) follow(ctx context.Context, l *Ledger, length time.Duration, take func(Event)) error {
	begin := time.Now()
	end, again := time.NewTimer(length), time.NewTicker(100*time.Millisecond)
	defer end.Stop()
	defer again.Stop()
	for going := true; going; {
		select {
		case <-ctx.Done():
			going = false
		case <-end.C:
			going = false
		case <-again.C:
		}
		if !going {
			l.For = time.Since(begin)
			if err := w.Stop(); err != nil {
				return err
			}
		}
		lost, err := w.Read(take)
		l.Lost += lost
		if err != nil {
			return err
		}
	}
	return nil
}
