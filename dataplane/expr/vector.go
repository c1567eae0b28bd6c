package expr

import (
	"math"

	"github.com/headrace/headrace/dataplane/event"
)

// A Vector holds the values of an expression for the events of a selection:
// entry j belongs to the j-th selected event. Each entry is a value (its bit in
// Valid is set), an overflow (its bit in Over is set) or null (neither is set);
// never two of these. What Num, Hi and True hold for an entry that is not a value
// is unspecified (Num, Hi) or zero (True).
//
// A Vector belongs to the Kernel that returned it and is good until that kernel
// is used again or the batch is reset. It must not be written to.
type Vector struct {
	Type  event.Type
	Scale uint8 // of integers: the value is Num·10^-Scale

	// Wide says that values are 128-bit two's complement, Hi:Num. It belongs to
	// the expression, not to the batch.
	Wide bool
	// Num holds integers (the low 64 bits if Wide) and floats as math.Float64bits.
	// Its length is the number of events. It is nil for text and bool.
	Num []int64
	// Hi holds the high 64 bits if Wide, else it is nil.
	Hi []int64
	// True holds bool values.
	True event.Bits

	Valid event.Bits
	Over  event.Bits

	num, hi []int64 // memory of this vector, BatchMax long; Num may be a batch's instead
}

// Float returns entry j of a float64 vector.
func (v *Vector) Float(j int) float64 { return math.Float64frombits(uint64(v.Num[j])) }

// words is the number of machine words of event.Bits.
const words = event.BatchMax / 64

// flag turns a condition into the bit at position i of its word. The compiler
// makes a SETcc of it: no branch.
func flag(c bool, i int) uint64 {
	var x uint64
	if c {
		x = 1
	}
	return x << (uint(i) % 64)
}
