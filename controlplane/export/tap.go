package export

import "github.com/headrace/headrace/dataplane/outbox"

// A Tap takes the records of global queries out of a pump: it is to the group what a
// [Sink] is to a file. The pump's goroutine calls Record and Done; neither may block.
type Tap interface {
	// Record gives the next record of a global query out of worker's outbox, of any
	// kind, in the outbox's order. after is the position behind it. p and what it
	// points to are the pump's again afterwards.
	Record(worker int, p *outbox.Partial, after uint64)
	// Acked returns the position up to which nothing of worker's outbox is needed any
	// more: with it room is given back to the worker. It never shrinks. What it returns
	// has been stored where Resume of the next control process finds it. Any goroutine
	// may call it.
	Acked(worker int) uint64
	// Resume returns, for each outbox, the position up to which a control process
	// before this one needed nothing any more; nil if that is not known. Records up to
	// there are not given again. It is asked once, by NewPump.
	Resume() []uint64
	// Done says that the last record has been given. The pump asks again and again, at
	// least once a millisecond, and goes on with injected rows until the answer is
	// true: then no more rows come for this pump. A tap that can never be done must
	// say so after a while: Run waits for it.
	Done() bool
}

// An InjectedRow is a row that was not made of this box's partials alone.
type InjectedRow struct {
	// Query is the query's number in the plan. The row goes to the query's Sinks.
	Query int
	// Line is the row, ending in its newline.
	Line []byte
	// Cause is what the row's latency is measured from, by the clock of this box; 0:
	// it is not measured. See [outbox.Partial].
	Cause uint64
}
