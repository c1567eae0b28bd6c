package segment

import (
	"crypto/sha256"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// Version is the version of the segment's meaning. The layout hash catches a
// changed type; Version is for a change that no type shows.
const Version = 3

// QueuesMax bounds the RX queues of an interface.
const QueuesMax = 64

const (
	magic       = 0x6865616472616365 // "headrace"
	line        = 64                 // one writer per line
	page        = 4096               // a worker's part begins on its own page, so that its thread's node gets it
	failureText = 1024 - 8
)

// header begins each file. The creator writes it once.
type header struct {
	Magic, Version, Side, Size, Generation, RecordVersion uint64
	Layout, Plan                                          [32]byte
	_                                                     [16]byte
}

// workerLines is a worker's single words, each on its own line.
type workerLines struct {
	State    atomic.Uint64
	Held     atomic.Uint64 // the hold that State says it is for
	_        [line - 16]byte
	Produced atomic.Uint64
	_        [line - 8]byte
	Sequence atomic.Uint64 // of the counters: odd while they are written
	_        [line - 8]byte
	Failure  failure
}

type failure struct {
	Length atomic.Uint64
	Text   [failureText]byte
}

// SocketCounters is what the data plane reads of one AF_XDP socket. Every word is
// stored by itself: there is no consistent copy, and none is needed.
type SocketCounters struct {
	Bound                                        atomic.Uint64 // 1: the socket exists
	RxDropped, RxInvalid, TxInvalid              atomic.Uint64 // struct xdp_statistics in linux/if_xdp.h
	RxRingFull, RxFillRingEmpty, TxRingEmptyDesc atomic.Uint64
	InRing                                       atomic.Uint64 // frames in the RX ring, not yet received
}

// controlLines is the mailbox.
type controlLines struct {
	Command    atomic.Uint64
	Hold       atomic.Uint64
	Past       atomic.Uint64 // bit w: worker w takes first what lies in its rings
	_          [line - 24]byte
	Heartbeat  atomic.Uint64
	Generation atomic.Uint64
	UTCOffset  atomic.Int64
	_          [line - 24]byte
}

// freedLine is how far one outbox is free.
type freedLine struct {
	Freed atomic.Uint64
	_     [line - 8]byte
}

// sinkLine says how many commits a sink has made. Slot Commits&1 holds the last.
type sinkLine struct {
	Commits atomic.Uint64
	_       [line - 8]byte
}

// slot is a commit without its positions, which follow it.
type slot struct {
	Number, Offset, Device, Inode, Flags, Rows, Bytes, Global, Sum uint64
	_                                                              [2*line - 9*8]byte
}

// layoutTypes are the types whose shape both sides must agree on.
var layoutTypes = []reflect.Type{
	reflect.TypeFor[header](), reflect.TypeFor[workerLines](), reflect.TypeFor[SocketCounters](),
	reflect.TypeFor[WorkerCounters](), reflect.TypeFor[FeedCounters](), reflect.TypeFor[QueryCounters](),
	reflect.TypeFor[controlLines](), reflect.TypeFor[freedLine](), reflect.TypeFor[sinkLine](), reflect.TypeFor[slot](),
}

// layoutHash is made from the names, offsets and sizes of the fields, and from the
// reasons that number the drop counters.
func layoutHash() [32]byte {
	h := sha256.New()
	for _, t := range layoutTypes {
		describe(h, t)
	}
	for d := range event.DropCount {
		fmt.Fprintln(h, d)
	}
	return [32]byte(h.Sum(nil))
}

func describe(w io.Writer, t reflect.Type) {
	fmt.Fprintln(w, t.Name(), t.Kind(), t.Size())
	switch {
	case t.PkgPath() == "sync/atomic": // its inside is the Go release's own business
	case t.Kind() == reflect.Array:
		describe(w, t.Elem())
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			fmt.Fprintln(w, f.Name, f.Offset)
			describe(w, f.Type)
		}
	}
}

// A Layout says where everything of a plan's segment is.
type Layout struct {
	// Workers is plan.WorkersMax, or plan.Workers if that is more.
	Workers, Feeds, Queries, Interfaces int
	// Sinks are the names of the plan's sinks, sorted; see [Sinks].
	Sinks []string
	// OutboxBytes is the size of each worker's ring.
	OutboxBytes int
	// DataBytes and ControlBytes are the sizes of the two files.
	DataBytes, ControlBytes int

	lines      []arena.Line
	workers    int // offsets in the data file: the first worker, and a worker's stride
	stride     int
	counters   int // offsets in a worker's part
	watermarks int
	ring       int
	sockets    int // offset in the data file
	freed      int // offsets in the control file
	sinks      int
	sinkStride int
	levels     int // words of a commit beside its positions
}

// Lines accounts for both files, for `headrace explain`. The sum of the bytes is
// DataBytes + ControlBytes.
func (l *Layout) Lines() []arena.Line { return l.lines }

// GroupSink is the name under which the exchange with the group keeps its commits:
// it takes records as a sink does. No sink of a config can have it.
const GroupSink = ".group"

// Sinks returns the names of p's sinks, sorted: a sink's place is its number. A
// plan with a group has [GroupSink] among them.
func Sinks(p *plan.Plan) []string {
	var names []string
	for i := range p.Queries {
		names = append(append(names, p.Queries[i].Sinks...), p.Queries[i].LocalSinks...)
	}
	if p.Group != nil {
		names = append(names, GroupSink)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// NewLayout computes the layout of p's segment. It is a pure function of p.
func NewLayout(p *plan.Plan) (*Layout, error) {
	l := &Layout{
		Workers: max(p.WorkersMax, p.Workers), Feeds: len(p.Feeds), Queries: len(p.Queries),
		Interfaces: len(p.Interfaces), Sinks: Sinks(p), OutboxBytes: p.OutboxBytes,
	}
	if l.Workers < 1 || l.Workers > event.WorkersMax {
		return nil, fmt.Errorf("segment: %d workers; give 1 to %d", l.Workers, event.WorkersMax)
	}
	if n := l.OutboxBytes; n < page || n&(n-1) != 0 {
		return nil, fmt.Errorf("segment: an outbox of %d bytes; give a power of two of at least %d", n, page)
	}
	c := cursor{}
	c.take("segment: header of the data file", sizeOf[header](), page)
	l.workers = c.at
	w := cursor{}
	w.take("", sizeOf[workerLines](), line)
	l.counters = w.take("", sizeOf[WorkerCounters]()+l.Feeds*sizeOf[FeedCounters]()+l.Queries*sizeOf[QueryCounters](), line)
	l.watermarks = w.take("", 8*l.Queries, page)
	l.ring = w.take("", l.OutboxBytes, page)
	l.stride = w.at
	c.take(fmt.Sprintf("segment: counters, %d workers × (%d feeds, %d queries)", l.Workers, l.Feeds, l.Queries), l.Workers*l.ring, 8)
	c.take(fmt.Sprintf("segment: outboxes, %d workers × %d bytes", l.Workers, l.OutboxBytes), l.Workers*(l.stride-l.ring), 8)
	l.sockets = c.take(fmt.Sprintf("segment: sockets, %d interfaces × %d queues × %d workers", l.Interfaces, QueuesMax, l.Workers),
		l.Interfaces*QueuesMax*l.Workers*sizeOf[SocketCounters](), page)
	l.DataBytes = c.at
	k := cursor{lines: c.lines}
	k.take("segment: header of the control file", sizeOf[header]()+sizeOf[controlLines](), line)
	l.freed = k.take(fmt.Sprintf("segment: freed positions, %d workers", l.Workers), l.Workers*sizeOf[freedLine](), line)
	if p.Group != nil {
		l.levels = 2*l.Queries + 2
	}
	slotBytes := up(sizeOf[slot]()+8*(l.Workers+l.levels), line)
	l.sinkStride = sizeOf[sinkLine]() + 2*slotBytes
	l.sinks = k.take(fmt.Sprintf("segment: commits of %d sinks", len(l.Sinks)), len(l.Sinks)*l.sinkStride, page)
	l.ControlBytes = k.at
	l.lines = k.lines
	return l, nil
}

// cursor lays things out one after another.
type cursor struct {
	at    int
	lines []arena.Line
}

// take reserves size bytes, rounded up to a multiple of align, and returns where
// they begin.
func (c *cursor) take(label string, size, align int) int {
	at := c.at
	c.at = up(at+size, align)
	if label != "" && c.at > at {
		c.lines = append(c.lines, arena.Line{Label: label, Bytes: c.at - at})
	}
	return at
}

func up(n, align int) int { return (n + align - 1) / align * align }

func sizeOf[T any]() int { return int(reflect.TypeFor[T]().Size()) }

// identity is what a header must say for p.
func (l *Layout) identity(p *plan.Plan, side Side, generation uint64) header {
	size := l.DataBytes
	if side == Control {
		size = l.ControlBytes
	}
	return header{
		Magic: magic, Version: Version, Side: uint64(side), Size: uint64(size), Generation: generation,
		RecordVersion: outbox.Version, Layout: layoutHash(), Plan: p.Hash(),
	}
}
