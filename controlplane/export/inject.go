package export

import (
	"fmt"
	"sync"
	"sync/atomic"
)

const (
	injectBytes = 4 << 20
	rowCost     = 32 // what a row and a call count beside their bytes
	callCost    = 64
)

// injections are rows on their way from other goroutines to the pump's.
type injections struct {
	mu      sync.Mutex
	waiting injected
	closed  bool
	wake    chan struct{}

	// The pump's own: what it has taken and not yet put into batches.
	taken          injected
	row, call, end int // the next row and call of taken, and where the last row ended
}

// injected is rows and the calls that brought them, in order.
type injected struct {
	lines []byte
	rows  []injectedRow
	calls []injectedCall
}

type injectedRow struct {
	end   int // of the row in lines
	cause uint64
	query uint16
}

type injectedCall struct {
	rows    int // that came with this call and all before it
	written func()
}

func (i *injected) cost() int { return len(i.lines) + rowCost*len(i.rows) + callCost*len(i.calls) }

func (i *injected) reset() {
	clear(i.calls) // what they call may hold much
	i.lines, i.rows, i.calls = i.lines[:0], i.rows[:0], i.calls[:0]
}

// a pending is a call of Inject whose last row is in a batch.
type pending struct {
	written func()
	wants   []bool       // [outlet] takes some row of the call
	left    atomic.Int32 // outlets that want some and have not committed all
}

// Inject queues rows for the sinks of their queries, behind all rows injected before.
// Lines are copied. written, which may be nil, is called once from one of the pump's
// goroutines, and must not block, when every sink that wants any of the rows has
// committed all that it wants; at once if none does. Calls whose rows different sinks
// want may be said to be written in another order. It is not called for rows that are
// not written because Run ended early.
//
// It returns false, and has taken nothing, when too many rows wait: there is room
// again at the latest when written of an earlier call has come. After Run has ended
// it returns false for ever. Any goroutine may call it; it never blocks. Rows without
// end, or of no query of the plan, are a mistake of the caller: it panics.
func (p *Pump) Inject(rows []InjectedRow, written func()) bool {
	cost := callCost
	for i := range rows {
		r := &rows[i]
		if r.Query < 0 || r.Query >= len(p.c.Plan.Queries) || len(r.Line) == 0 || r.Line[len(r.Line)-1] != '\n' {
			panic(fmt.Sprintf("export: row %d of %d is of query %d of %d or no line", i, len(rows), r.Query, len(p.c.Plan.Queries)))
		}
		cost += len(r.Line) + rowCost
	}
	q := &p.injections
	q.mu.Lock()
	defer q.mu.Unlock()
	has := q.waiting.cost()
	if q.closed || has > 0 && has+cost > p.c.InjectBytes { // whatever its size, one call has room
		return false
	}
	for i := range rows {
		q.waiting.lines = append(q.waiting.lines, rows[i].Line...)
		q.waiting.rows = append(q.waiting.rows, injectedRow{len(q.waiting.lines), rows[i].Cause, uint16(rows[i].Query)})
	}
	q.waiting.calls = append(q.waiting.calls, injectedCall{len(q.waiting.rows), written})
	select {
	case q.wake <- struct{}{}:
	default: // it is awake, or will be
	}
	return true
}

// refill takes what waits, if everything taken before is in batches, and reports
// whether there is anything.
func (q *injections) refill() bool {
	if q.row < len(q.taken.rows) || q.call < len(q.taken.calls) {
		return true
	}
	q.taken.reset()
	q.row, q.call, q.end = 0, 0, 0
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken, q.waiting = q.waiting, q.taken
	return len(q.taken.calls) > 0
}

// close refuses what comes from now on, unless something waits.
func (q *injections) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = len(q.waiting.calls) == 0 && q.call == len(q.taken.calls)
	return q.closed
}

// shut refuses everything, whatever waits.
func (q *injections) shut() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// injected moves injected rows into the current batch until that is half full, so
// that the outboxes have their turn, and reports whether there were any.
func (p *Pump) injected() bool {
	q := &p.injections
	got := false
	for len(p.current.lines) < p.c.BatchBytes/2 && q.refill() {
		got = true
		b, call := p.current, &q.taken.calls[q.call]
		for q.row < call.rows && len(b.lines) < p.c.BatchBytes/2 {
			r := &q.taken.rows[q.row]
			b.lines = append(b.lines, q.taken.lines[q.end:r.end]...)
			b.items = append(b.items, item{end: len(b.lines), cause: r.cause, query: r.query, injected: true})
			p.global[r.query].Add(1)
			p.mark(r.query)
			q.row, q.end = q.row+1, r.end
		}
		if q.row == call.rows {
			p.close(call.written)
			q.call++
		}
	}
	return got
}

// mark notes who wants a row of the call in hand.
func (p *Pump) mark(query uint16) {
	for i, o := range p.outlets {
		p.wants[i] = p.wants[i] || o.wantGlobal[query]
	}
}

// close ends the call in hand: its last row is in the current batch.
func (p *Pump) close(written func()) {
	n := 0
	for _, w := range p.wants {
		if w {
			n++
		}
	}
	switch {
	case written == nil:
	case n == 0:
		written()
	default:
		c := p.current.pending()
		c.written, c.wants = written, append(c.wants[:0], p.wants...)
		c.left.Store(int32(n))
	}
	clear(p.wants)
}

// pending returns one more of b's pending calls, an old one if there is.
func (b *batch) pending() *pending {
	if n := len(b.calls); n < cap(b.calls) {
		b.calls = b.calls[:n+1]
		if b.calls[n] == nil {
			b.calls[n] = new(pending)
		}
		return b.calls[n]
	}
	b.calls = append(b.calls, new(pending))
	return b.calls[len(b.calls)-1]
}

// committed says that outlet i has committed b.
func (b *batch) committed(i int) {
	for _, c := range b.calls {
		if c.wants[i] && c.left.Add(-1) == 0 {
			written := c.written
			c.written = nil
			written()
		}
	}
}

// reset empties b.
func (b *batch) reset() {
	b.lines, b.items, b.calls = b.lines[:0], b.items[:0], b.calls[:0]
}

// release gives back the room of what every sink has and the tap does not need.
// Callers hold freeing.
func (p *Pump) release() {
	if p.sorter != nil {
		return
	}
	for w, r := range p.readers {
		least := p.passed[w]
		for _, o := range p.outlets {
			least = min(least, o.acked[w])
		}
		if p.c.Tap != nil {
			// Behind its last record it needs nothing: an outbox in which only local
			// records come must not fill up.
			given := p.given[w].Load()
			if acked := p.c.Tap.Acked(w); acked < given {
				least = min(least, acked)
			}
		}
		if least > p.freed[w] {
			p.freed[w] = least
			r.Free(least)
		}
	}
}

// released gives back room, if there is a tap: what it acknowledges comes on no
// goroutine of ours.
func (p *Pump) released() {
	if p.c.Tap == nil {
		return
	}
	p.freeing.Lock()
	defer p.freeing.Unlock()
	p.release()
}

// tapped gives the record before after to the tap, unless that has it already.
func (p *Pump) tapped(worker int, after uint64) {
	if len(p.tapResume) > 0 && after <= p.tapResume[worker] {
		return
	}
	// First: who sees the batch of this record must see that the tap needs it.
	p.given[worker].Store(after)
	p.c.Tap.Record(worker, &p.part, after)
}
