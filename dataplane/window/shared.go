package window

import (
	"sync/atomic"
)

// sharedPanes is how many windows of a query the shared allowance tells apart at a
// time; more than may be open together share a cell's tag in turn.
const sharedPanes = 256

// Shared is what the workers of a running data plane share about the limits: how
// many keys each open window has, and which windows have lost something to a limit.
// It is used from all workers' threads, only for new keys and drops.
type Shared struct {
	cells []atomic.Uint64 // query*sharedPanes + window%sharedPanes: window (low 31 bits) << 33 | mark << 32 | keys
}

// NewShared returns the shared allowance of n queries.
func NewShared(n int) *Shared {
	return &Shared{cells: make([]atomic.Uint64, n*sharedPanes)}
}

const (
	cellMark = 1 << 32
	cellKeys = cellMark - 1
)

func (s *Shared) cell(query int, window int64) (*atomic.Uint64, uint64) {
	return &s.cells[query*sharedPanes+int(uint64(window)%sharedPanes)], uint64(window) << 33
}

// draw takes one key of the window's allowance, or reports that it is used up.
func (s *Shared) draw(query int, window int64, limit uint64) bool {
	c, mark := s.cell(query, window)
	for {
		old := c.Load()
		if old&^(cellMark|cellKeys) != mark {
			if c.CompareAndSwap(old, mark|1) {
				return true
			}
			continue
		}
		if old&cellKeys >= limit {
			return false
		}
		if c.CompareAndSwap(old, old+1) {
			return true
		}
	}
}

// mark notes that the window lost something.
func (s *Shared) mark(query int, window int64) {
	c, tag := s.cell(query, window)
	for {
		old := c.Load()
		next := old | cellMark
		if old&^(cellMark|cellKeys) != tag {
			next = tag | cellMark
		}
		if c.CompareAndSwap(old, next) {
			return
		}
	}
}

func (s *Shared) marked(query int, window int64) bool {
	c, tag := s.cell(query, window)
	old := c.Load()
	return old&^(cellMark|cellKeys) == tag && old&cellMark != 0
}
