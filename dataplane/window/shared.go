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
	cells []uint64 // query*sharedPanes + window%sharedPanes: window (low 31 bits) << 33 | mark << 32 | keys; atomic
}

// NewShared takes the shared allowance of n queries from r.
func NewShared(r *arena.Region, n int) (*Shared, error) {
	cells, err := arena.Slice[uint64](r, "allowance of keys", n*sharedPanes)
	if err != nil {
		return nil, fmt.Errorf("window: %w", err)
	}
	return &Shared{cells}, nil
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

// putOut notes how many keys q had in a window that is over for it. Others may still
// have it open, and draw on the same allowance.
func (q *query) putOut(window int64, keys uint64) {
	if q.over == nil {
		return
	}
	o := &q.over[uint64(window)%sharedPanes]
	arena.Save(q.undo, o)
	*o = uint64(window)<<33 | keys
	fault.Point()
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
				if c := &s.cells[n*sharedPanes+i]; q.over != nil && q.over[i]>>33 == *c>>33 {
					*c += q.over[i] & cellKeys
				}
			}
		}
	}
}

// CopyMarks takes over which windows of the queries have lost something, for the States
// of another plan. Nobody uses either of the two; numbers come with [Shared.Recount].
func (s *Shared) CopyMarks(from *Shared, queries []Pair) {
	for _, p := range queries {
		for i, c := range from.cells[p.Src*sharedPanes:][:sharedPanes] {
			if c&cellMark != 0 {
				s.cells[p.Dst*sharedPanes+i] = c &^ cellKeys
				fault.Point()
			}
		}
	}
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
