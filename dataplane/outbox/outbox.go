package outbox

import "github.com/headrace/headrace/dataplane/event"

// Kind is the kind of a record.
type Kind uint8

// The kinds.
const (
	KindPartial Kind = iota + 1
	// KindDone says that this worker has put all partials of (Query, window).
	KindDone
	// KindWatermark says that every window of Query that ends at or before End is
	// done on this worker.
	KindWatermark
)

// Firing says why a window fired.
type Firing uint8

// The firings.
const (
	OnTime Firing = iota + 1
	Flush
)

// Flags of a record.
const (
	// FlagIncomplete: something was lost in the window's interval.
	FlagIncomplete = 1 << iota
	// FlagSequenced: the feed has sequence numbers, so that "nothing missing" is known.
	FlagSequenced
)

// A Partial is one record, decoded. Key and State point into the writer's or the
// reader's own memory.
type Partial struct {
	Kind       Kind
	Firing     Firing
	Flags      uint8
	Query      uint16
	Revision   uint32
	Start, End event.Nanos
	Missing    uint64
	// Cause is when the packet came whose watermark closed the window, in nanoseconds
	// of CLOCK_MONOTONIC; the worker's clock where no packet is known, 0 if nothing
	// live caused it. It is for measuring only: no row may depend on it.
	Cause uint64
	Key   []byte
	State []uint64
}
