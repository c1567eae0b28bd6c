package plan

import (
	"crypto/sha256"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/headrace/headrace/dataplane/event"
)

// Version is the version of the plan's meaning. Two processes that disagree do
// not work together.
const Version = 1

// A Plan is everything that the workers need to know.
type Plan struct {
	Version    int
	Name       string // of the run: `run --name`
	Workers    int
	WorkersMax int
	Batch      int // events a batch, 1 to event.BatchMax
	// Replay merges by capture position instead of taking what comes (DESIGN: Determinism).
	Replay  bool
	Feeds   []Feed
	Streams []Stream
	Queries []Query
	// OutboxBytes is the size of each worker's ring of partials, a power of two.
	OutboxBytes int
	// LaneBytes is the size of each lane, a power of two.
	LaneBytes int
	// Interfaces, in run only.
	Interfaces []Interface
	// OrphanTimeout is how long the data plane goes on without a control plane.
	OrphanTimeout time.Duration
	// Flush makes a stop fire open windows; otherwise it discards them.
	Flush bool
	// Crash is what becomes of the batch in hand when the data plane dies. Empty in a
	// replay.
	Crash Crash `json:",omitempty"`
	// Recorder bounds the latest frames that each worker keeps.
	Recorder Recorder `json:",omitzero"`
	// Group is the group of boxes that this one belongs to; nil: none.
	Group *Group `json:",omitempty"`
}

// Crash says what a data plane that dies does with the batch in hand.
type Crash string

// What may become of it.
const (
	Rollback Crash = "rollback" // an undo log takes it back, and it is run again
	Cold     Crash = "cold"     // everything starts anew; open windows are incomplete
)

// A Recorder bounds the latest frames that a worker keeps. Zero: none are kept.
type Recorder struct {
	Frames int
	Snap   int // bytes kept of each frame, at most
}

// A Group is boxes whose global queries make one result. How they reach each other
// is no part of the plan.
type Group struct {
	// Me is this box's id, one of Peers.
	Me string
	// Peers are the ids of all boxes, this one included, sorted.
	Peers []string
	// TieBreaker is the peer whose half of an even group goes on; empty: none.
	TieBreaker string `json:",omitempty"`
	// AllowSolo lets a box go on alone.
	AllowSolo bool `json:",omitempty"`
	// Seal encrypts what the boxes exchange.
	Seal bool `json:",omitempty"`
}

// Hash identifies the plan: the SHA-256 of its JSON.
func (p *Plan) Hash() [32]byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic("plan: not plain data: " + err.Error())
	}
	return sha256.Sum256(b)
}

// Idle says what a worker does when there is no work.
type Idle string

// The idle strategies.
const (
	Adaptive Idle = "adaptive" // spin, then yield, then poll
	Spin     Idle = "spin"     // never give up the core
)

// Mode is an XDP attach mode.
type Mode string

// The modes; Auto tries Native and falls back to Generic with a warning.
const (
	Auto    Mode = "auto"
	Native  Mode = "native"
	Generic Mode = "generic"
)

// An Interface is a NIC to receive from.
type Interface struct {
	Name   string
	Mode   Mode
	Queues int // number of RX queues, 0: all
	Idle   Idle
	// Ring sizes in descriptors and the UMEM's frame count a queue; powers of two.
	RxRing, TxRing, FillRing, Frames int
}

// A Rule matches packets of a feed. Zero fields match anything, except that
// Protocol is always given.
type Rule struct {
	Protocol    uint8        // IPPROTO_UDP 17 or IPPROTO_TCP 6
	Destination netip.Prefix // invalid: any address of either family
	Port        uint16       // destination port; 0: any
	VLAN        uint16       // VLAN id of the innermost tag; 0: any or none
	Line        uint8        // 0 for A, 1 for B, …
}

// PlaceKind says from which bytes a packet's placement hash is made.
type PlaceKind uint8

// The placements.
const (
	PlaceBytes   PlaceKind = iota + 1 // payload[Offset : Offset+Length], Trim removes trailing 0x20 and 0x00
	PlaceTuple                        // the chosen Fields, in this order: source, destination, source port, destination port, protocol
	PlaceUntil                        // payload[Offset:] up to, without, the first Delimiter, at most 64 bytes
	PlaceChannel                      // bytes(Offset, Length) of the session in the protocol's header
)

// Fields of a tuple placement.
const (
	FieldSource = 1 << iota
	FieldDestination
	FieldSourcePort
	FieldDestinationPort
	FieldProtocol
)

// A Placement says how a packet's worker is chosen: XXH64 of at most 64 bytes.
type Placement struct {
	Kind      PlaceKind
	Offset    uint16
	Length    uint8
	Trim      bool
	Delimiter byte
	Fields    uint8
	// Symmetric orders (address, port) pairs so that both directions place alike.
	Symmetric bool
}

// Column is a column of a feed's batches.
type Column struct {
	Name  string
	Type  event.Type
	Scale uint8
	// Field is the format's own number of a built-in column (iex, itch, flow).
	Field int
	// Path is the field's path in a JSON object: "telemetry.speed" is two steps.
	Path []string
	// Index is the zero-based CSV field.
	Index int
	// Offset and Width place a raw field.
	Offset, Width int
}

// NewBatch returns an empty batch for columns.
func NewBatch(columns []Column) *event.Batch {
	shape := make([]event.Column, len(columns))
	for i, c := range columns {
		shape[i] = event.Column{Type: c.Type, Scale: c.Scale}
	}
	return event.NewBatch(shape)
}

// TimeUnit says how event time is written.
type TimeUnit string

// The units of an event time column. Own: the format brings its own time.
// Receive: the time of receipt.
const (
	UnitRFC3339 TimeUnit = "rfc3339"
	UnitS       TimeUnit = "s"
	UnitMS      TimeUnit = "ms"
	UnitUS      TimeUnit = "us"
	UnitNS      TimeUnit = "ns"
	UnitOwn     TimeUnit = "own"
	UnitReceive TimeUnit = "receive"
)

// EventTime says where an event's time comes from. The embedded Column's Path,
// Index, Offset and Width say where it is in the data.
type EventTime struct {
	Unit   TimeUnit
	Column Column
}

// Sequence says which framing a sequenced format has.
type Sequence string

// The framings.
const (
	Unsequenced Sequence = ""
	IEXTP       Sequence = "iex-tp"
	MoldUDP64   Sequence = "moldudp64"
)

// A Feed is one of the config's feeds.
type Feed struct {
	Name   string
	Format string // wire's name of the format
	Rules  []Rule
	Place  Placement
	// Columns are the columns that some query needs, at most event.ColumnsMax.
	Columns  []Column
	Time     EventTime
	Sequence Sequence
	// Kinds has bit k set if some query can want messages of kind k (the format's
	// numbering); events of other kinds only advance time and are counted filtered.
	Kinds uint64
	// Identity asks for Batch.Chan, Order, Seq and Index.
	Identity bool

	// Limits. All are taken from memory at start.
	Channels    int           // sequence-number spaces a worker
	HoldPackets int           // packets held a channel
	HoldBytes   int           // bytes held a channel
	HoldFor     time.Duration // how long a gap may wait for its packets
	Orders      int           // itch: orders known at a time, a worker

	// Options of single formats.
	Delimiter    byte   // csv
	LittleEndian bool   // raw
	Stride       int    // raw: bytes a record, 0: one record a packet
	Day          string // itch: "2010-12-24", "": of the first receive stamp
	Zone         string // itch: IANA name

	// Removed says that the feed is no more and only keeps its number from being used
	// again while frames with it may be on their way: no rule leads to it, no query reads it.
	Removed bool `json:",omitempty"`
}

// A Stream is a feed keyed by one list of columns.
type Stream struct {
	Feed int
	Key  []int // columns of the feed, in order
	// Columns are the feed's columns that travel to the owner: aggregates' arguments.
	Columns []int
	Queries []int
	// KeyWidth is the greatest length of a canonical key, in bytes.
	KeyWidth int
	// KernelHash says that the packet's placement hash is the event's hash.
	KernelHash bool
}

// A Query is one windowed aggregation.
type Query struct {
	Name       string
	Feed       int
	Stream     int
	Where      Program // empty: every event
	Width      time.Duration
	Offset     time.Duration
	Delay      time.Duration
	Idle       time.Duration // 0: sources never become idle
	Keys       int           // distinct keys in one pane, on the box
	Panes      int           // panes that may be open
	Aggregates []Aggregate
	// Sinks are where the query's rows go: the group's, if it is global.
	Sinks []string
	// Global says that the group makes the rows, out of every box's partials.
	Global bool `json:",omitempty"`
	// Asked identifies the condition of a global query as the config has it: Where
	// lacks what the decoder sees to, and that depends on the feed's other queries.
	Asked string `json:",omitempty"`
	// LocalSinks are where a global query's rows of this box alone go.
	LocalSinks []string `json:",omitempty"`
}

// Local returns the sinks that take the rows of this box alone. None for a global
// query that asks for none: such rows need not be made.
func (q *Query) Local() []string {
	if q.Global {
		return q.LocalSinks
	}
	return q.Sinks
}

// AggregateKind is an aggregate function.
type AggregateKind uint8

// The aggregates.
const (
	Count       AggregateKind = iota + 1 // events
	CountValues                          // values that are not null
	Sum
	Min
	Max
	First
	Last
	Mean
	Variance // population
	VWAP     // Σ(Args[0]·Args[1]) / Σ Args[1]
)

var aggregateNames = [...]string{Count: "count", CountValues: "count", Sum: "sum", Min: "min", Max: "max", First: "first", Last: "last", Mean: "mean", Variance: "variance", VWAP: "vwap"}

// String returns the function's name in the config.
func (k AggregateKind) String() string { return aggregateNames[k] }

// An Aggregate is one value of a query's select.
type Aggregate struct {
	Name string // in the row
	Kind AggregateKind
	Args []Program // none for Count, two for VWAP, else one
}

// A Program is a checked, typed expression in postfix order. It is evaluated on
// whole batches by package expr.
type Program struct {
	Ops []Op
	// Type and Scale are the result's.
	Type  event.Type
	Scale uint8
}

// Column returns the column that p reads, if p is nothing but that.
func (p *Program) Column() (int, bool) {
	if len(p.Ops) == 1 && p.Ops[0].Code == OpColumn {
		return p.Ops[0].Column, true
	}
	return 0, false
}

// OpCode is one operation of a Program.
type OpCode uint8

// The operations. Operands are on a stack; null in gives null out, except for And
// and Or (three-valued) and Is*.
const (
	OpColumn  OpCode = iota + 1 // push column Op.Column of the feed
	OpInt                       // push Op.Int with Op.Scale (0 for int64)
	OpFloat                     // push Op.Float
	OpText                      // push Op.Text
	OpBool                      // push Op.Int != 0
	OpScale                     // multiply the top, an integer or decimal, by 10^Op.Int: exact, 128-bit
	OpToFloat                   // the top, with scale Op.Scale, becomes float64
	OpAdd                       // + - * on two integers (128-bit, exact) of equal scale (add, sub) or two floats
	OpSub
	OpMul
	OpDiv // two floats
	OpNeg
	OpEq // comparisons of two numbers of equal type and scale, two texts or two bools
	OpNe
	OpLt
	OpLe
	OpGt
	OpGe
	OpAnd
	OpOr
	OpNot
)

// An Op is one step of a Program.
type Op struct {
	Code   OpCode
	Column int     `json:",omitempty"`
	Int    int64   `json:",omitempty"`
	Float  float64 `json:",omitempty"`
	Text   string  `json:",omitempty"`
	// Type and Scale are those of the value that the operation leaves.
	Type  event.Type
	Scale uint8 `json:",omitempty"`
}

// SourceStride separates the source numbers of workers: worker w numbers its
// channels SourceStride·w, SourceStride·w+1, …  An unsequenced feed is source 0
// on every worker.
const SourceStride = 1 << 16
