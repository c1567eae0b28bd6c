package event

import "time"

// Nanos is an instant in event time, in nanoseconds since the Unix epoch, UTC.
// Lengths of time are [time.Duration]; the methods below are the only places
// where the two meet.
type Nanos int64

// MinNanos and MaxNanos are the ends of time: "nothing seen yet" and "never".
const (
	MinNanos Nanos = -1 << 63
	MaxNanos Nanos = 1<<63 - 1
)

// Add returns t+d, held at [MinNanos] and [MaxNanos] instead of wrapping.
func (t Nanos) Add(d time.Duration) Nanos {
	s := t + Nanos(d)
	switch {
	case d > 0 && s < t:
		return MaxNanos
	case d < 0 && s > t:
		return MinNanos
	}
	return s
}

// Index returns the number of the width-long window that holds t, windows being
// counted from the epoch plus offset; instants before that have negative
// numbers. width must be positive.
func (t Nanos) Index(width, offset time.Duration) int64 {
	x := int64(t.Add(-offset))
	i := x / int64(width)
	if x%int64(width) < 0 {
		i--
	}
	return i
}

// WindowStart returns the first instant of window number i, the inverse of
// [Nanos.Index], held at [MinNanos] and [MaxNanos]. width must be positive.
func WindowStart(i int64, width, offset time.Duration) Nanos {
	switch {
	case i > int64(MaxNanos)/int64(width):
		return MaxNanos
	case i < int64(MinNanos)/int64(width):
		return MinNanos
	}
	return Nanos(i * int64(width)).Add(offset)
}

// Type is the type of a column or of an expression's value.
type Type uint8

// The column types. A decimal is an int64 with a scale that belongs to the
// column. Text holds at most [TextMax] bytes, of any value.
const (
	Int64 Type = iota + 1
	Decimal
	Float64
	Text
	Bool // only as an expression's result
)

var typeNames = [...]string{Int64: "int64", Decimal: "decimal", Float64: "float64", Text: "text", Bool: "bool"}

// String returns the word that the config uses for t.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return "unknown"
}

// Limits of the data plane that layouts depend on.
const (
	BatchMax   = 256 // events of a batch
	MarksMax   = 256 // marks of a batch
	ColumnsMax = 16  // columns of a feed
	TextMax    = 64  // bytes of a text value
	KeyMax     = 64  // bytes of a canonical key
	FeedsMax   = 256
	QueriesMax = 256
	WorkersMax = 64
	ScaleMax   = 18   // digits after the point of a decimal
	GroupCount = 1024 // key groups: Group(hash) < GroupCount
)
