package window

import (
	"fmt"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/fault"
)

// sharedPanes is how many windows of a query the shared allowance tells apart at a
// time; more than may be open together share a cell's tag in turn.
const sharedPanes = 256

// Shared is what the workers of a running data plane share about the limits: how
// many keys each open window has, and which windows have lost something to a limit.
// It is used from all workers' threads, only for new keys and drops.
//
// It is no part of any worker's batch: over a warm region [Shared.Recount] makes the
// numbers right, and marks of what was lost stay.
type Shared struct {
	queries int
	// over are the keys of windows that a worker has put out and others may still have
	// open, as in cells, worker by worker.
	over  []uint64
	cells []uint64 // query*sharedPanes + window%sharedPanes: window (low 31 bits) << 33 | mark << 32 | keys; atomic
}

// NewShared takes the shared allowance of so many workers and queries from r.
func NewShared(r *arena.Region, workers, queries int) (s *Shared, err error) {
	s = &Shared{queries: queries}
	if s.cells, err = arena.Slice[uint64](r, "allowance of keys", queries*sharedPanes); err != nil {
		return nil, fmt.Errorf("window: %w", err)
	}
	if s.over, err = arena.Slice[uint64](r, "keys put out", workers*queries*sharedPanes); err != nil {
		return nil, fmt.Errorf("window: %w", err)
	}
	return s, nil
}

const (
	cellMark = 1 << 32
	cellKeys = cellMark - 1
)

func (s *Shared) cell(query int, window int64) (*uint64, uint64) {
	return &s.cells[query*sharedPanes+int(uint64(window)%sharedPanes)], uint64(window) << 33
}

// draw takes one key of the window's allowance, or reports that it is used up.
func (s *Shared) draw(query int, window int64, limit uint64) bool {
	c, tag := s.cell(query, window)
	for {
		old := atomic.LoadUint64(c)
		if old&^(cellMark|cellKeys) != tag {
			if atomic.CompareAndSwapUint64(c, old, tag|1) {
				return true
			}
			continue
		}
		if old&cellKeys >= limit {
			return false
		}
		if atomic.CompareAndSwapUint64(c, old, old+1) {
			return true
		}
	}
}

// mark notes that the window lost something.
func (s *Shared) mark(query int, window int64) {
	c, tag := s.cell(query, window)
	for {
		old := atomic.LoadUint64(c)
		next := old | cellMark
		if old&^(cellMark|cellKeys) != tag {
			next = tag | cellMark
		}
		if atomic.CompareAndSwapUint64(c, old, next) {
			return
		}
	}
}

func (s *Shared) marked(query int, window int64) bool {
	c, tag := s.cell(query, window)
	old := atomic.LoadUint64(c)
	return old&^(cellMark|cellKeys) == tag && old&cellMark != 0
}

// putOut notes how many keys a worker had in a window that is over for it. Said again
// it changes nothing.
func (s *Shared) putOut(worker, query int, window int64, keys uint64) {
	_, tag := s.cell(query, window)
	s.over[(worker*s.queries+query)*sharedPanes+int(uint64(window)%sharedPanes)] = tag | keys
}

// Recount counts the keys of every window anew, in the panes of all workers: after a
// start over warm memory, where what was drawn for keys that were taken back would be
// lost, and after keys have come from another plan's States. No State is in use.
func (s *Shared) Recount(states []*State) {
	for i := range s.cells {
		s.cells[i] &^= cellKeys
		fault.Point()
	}
	for _, state := range states {
		for n := range state.queries {
			q := &state.queries[n]
			for i := range q.panes {
				if p := &q.panes[i]; p.State == paneOpen || p.State == paneClosing {
					s.add(n, p.Index, p.Count)
				}
			}
			for i := range sharedPanes {
				window := s.cells[n*sharedPanes+i] >> 33
				over := s.over[(state.config.Worker*s.queries+n)*sharedPanes+i]
				if over>>33 == window && q.over(window) {
					s.cells[n*sharedPanes+i] += over & cellKeys
				}
			}
		}
	}
}

// over reports whether the window whose number ends in those 31 bits is behind q's
// watermark and has no pane: what a batch that was taken back put out is not.
func (q *query) over(window uint64) bool {
	const bits = 31
	for i := range q.panes {
		if p := &q.panes[i]; uint64(p.Index)<<(64-bits)>>(64-bits) == window && p.holds(p.Index) {
			return false
		}
	}
	return int64(window-uint64(q.mark[0].Index))<<(64-bits) < 0
}

// add adds keys to a window, unless its cell is another open window's.
func (s *Shared) add(query int, window int64, keys uint64) {
	c, tag := s.cell(query, window)
	switch old := *c; {
	case old&^(cellMark|cellKeys) == tag:
		*c = old + keys
	case old&cellKeys == 0:
		*c = tag | keys
	}
	fault.Point()
}
