package rows

import (
	"bytes"
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"slices"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// ErrClosed reports a row of a window whose rows were all said to be there, so
// that its place in the order has gone by.
var ErrClosed = errors.New("a row after its window was done")

// A Sorter puts rows in order: by window end, then by the query's name (bytewise),
// then by canonical key (bytewise), then by window start and revision. The order
// holds over everything that it ever gives out.
//
// It holds rows until every worker has said of every query that its windows up to
// theirs are done, so it needs memory for the windows that are being closed, not
// for the whole output. One goroutine uses it.
type Sorter struct {
	rank    []int           // [query] place of its name
	through [][]event.Nanos // [worker][query] windows up to here are done
	given   event.Nanos     // rows up to here have been given out
	open    map[event.Nanos]*bucket
	ends    endHeap // the keys of open
	spare   []*bucket
}

// bucket is the rows of the windows that end at one instant.
type bucket struct {
	rows  []heldRow
	bytes []byte // keys and rows
}

type heldRow struct {
	query         uint16
	revision      uint32
	start         event.Nanos
	key, row, end int // bytes[key:row] is the key, bytes[row:end] the row
}

// NewSorter returns a sorter for the rows of p.Workers workers.
func NewSorter(p *plan.Plan) *Sorter {
	s := &Sorter{
		rank: make([]int, len(p.Queries)), through: make([][]event.Nanos, max(p.Workers, 1)),
		given: event.MinNanos, open: map[event.Nanos]*bucket{},
	}
	names := make([]string, len(p.Queries))
	for i := range names {
		names[i] = p.Queries[i].Name
	}
	slices.Sort(names)
	for i := range p.Queries {
		s.rank[i], _ = slices.BinarySearch(names, p.Queries[i].Name)
	}
	for w := range s.through {
		s.through[w] = slices.Repeat([]event.Nanos{event.MinNanos}, len(p.Queries))
	}
	return s
}

// Add takes part's row. It copies both. The error wraps [ErrClosed].
func (s *Sorter) Add(part *outbox.Partial, row []byte) error {
	if part.End <= s.given && s.given != event.MinNanos {
		return fmt.Errorf("rows: query %d, window end %d, rows up to %d are out: %w", part.Query, part.End, s.given, ErrClosed)
	}
	b := s.open[part.End]
	if b == nil {
		if n := len(s.spare); n > 0 {
			b, s.spare = s.spare[n-1], s.spare[:n-1]
		} else {
			b = &bucket{}
		}
		s.open[part.End] = b
		heap.Push(&s.ends, part.End)
	}
	at := len(b.bytes)
	b.bytes = append(append(b.bytes, part.Key...), row...)
	b.rows = append(b.rows, heldRow{part.Query, part.Revision, part.Start, at, at + len(part.Key), len(b.bytes)})
	return nil
}

// Done says that worker has put out every window of query that ends at or before
// through (outbox.KindWatermark).
func (s *Sorter) Done(worker int, query uint16, through event.Nanos) {
	t := &s.through[worker][query]
	*t = max(*t, through)
}

// Finished says that nothing more comes from worker.
func (s *Sorter) Finished(worker int) {
	for q := range s.through[worker] {
		s.through[worker][q] = event.MaxNanos
	}
}

// Held returns the number of rows and bytes that wait.
func (s *Sorter) Held() (rows, size int) {
	for _, b := range s.open {
		rows, size = rows+len(b.rows), size+len(b.bytes)
	}
	return rows, size
}

// Flush gives out, in order, every row whose window all workers have said is
// done. row is valid during the call. An error of give stops it; the rows of the
// window at which it stopped are lost.
func (s *Sorter) Flush(give func(query uint16, row []byte) error) error {
	through := event.MaxNanos
	for _, queries := range s.through {
		for _, t := range queries {
			through = min(through, t)
		}
	}
	for len(s.ends) > 0 && s.ends[0] <= through {
		end := heap.Pop(&s.ends).(event.Nanos)
		b := s.open[end]
		delete(s.open, end)
		s.sort(b)
		for _, r := range b.rows {
			if err := give(r.query, b.bytes[r.row:r.end]); err != nil {
				return err
			}
		}
		b.rows, b.bytes = b.rows[:0], b.bytes[:0]
		if len(s.spare) < spareMax {
			s.spare = append(s.spare, b)
		}
	}
	s.given = max(s.given, through)
	return nil
}

// spareMax bounds the emptied buckets that are kept for their memory.
const spareMax = 8

func (s *Sorter) sort(b *bucket) {
	slices.SortFunc(b.rows, func(x, y heldRow) int {
		return cmp.Or(
			cmp.Compare(s.rank[x.query], s.rank[y.query]),
			bytes.Compare(b.bytes[x.key:x.row], b.bytes[y.key:y.row]),
			cmp.Compare(x.start, y.start),
			cmp.Compare(x.revision, y.revision),
		)
	})
}

// endHeap is a heap of window ends, the least first.
type endHeap []event.Nanos

func (h *endHeap) Len() int           { return len(*h) }
func (h *endHeap) Less(i, j int) bool { return (*h)[i] < (*h)[j] }
func (h *endHeap) Swap(i, j int)      { (*h)[i], (*h)[j] = (*h)[j], (*h)[i] }

// Push appends an event.Nanos, for package heap.
func (h *endHeap) Push(x any) { *h = append(*h, x.(event.Nanos)) }

// Pop removes the last element, for package heap.
func (h *endHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
