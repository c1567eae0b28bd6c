package aggregate

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"

	"github.com/headrace/headrace/dataplane/event"
)

// The reasons for which an aggregate is null.
const (
	ReasonEmpty      = "empty"       // it saw no value
	ReasonOverflow   = "overflow"    // a value or the result does not fit
	ReasonZeroVolume = "zero_volume" // vwap: the sizes add up to 0
	ReasonInvalid    = "invalid"     // the state is not one that folding makes
)

// A Value is the result of an aggregate.
type Value struct {
	Reason string // why it is null; "" if it is not
	Type   event.Type
	Scale  uint8 // of a decimal

	// Int64 and Decimal: the 128-bit two's complement number Hi:Lo, times 10^-Scale.
	Lo uint64
	Hi int64
	// Big stands in for Hi:Lo where that is too small: means of 128-bit arguments.
	Big *big.Int

	Float float64 // Float64: finite, not −0
}

func null(reason string) Value { return Value{Reason: reason} }

// integer returns an unsigned number as an int64 or, with a scale, a decimal.
func integer(n uint64, hi int64) Value { return Value{Type: event.Int64, Lo: n, Hi: hi} }

// decimal returns n·10^-scale.
func decimal(n *big.Int, scale uint8) Value {
	v := Value{Type: event.Decimal, Scale: scale}
	if n.BitLen() > 127 {
		v.Big = n
		return v
	}
	m := new(big.Int).Abs(n)
	v.Lo = new(big.Int).And(m, new(big.Int).SetUint64(math.MaxUint64)).Uint64()
	v.Hi = int64(m.Rsh(m, 64).Uint64())
	if n.Sign() < 0 {
		lo, borrow := bits.Sub64(0, v.Lo, 0)
		v.Lo, v.Hi = lo, -v.Hi-int64(borrow)
	}
	return v
}

// Null reports that there is no value; Reason says why.
func (v Value) Null() bool { return v.Reason != "" }

// Float64 returns the float64 nearest to v, NaN if v is null. It is for metrics;
// rows have AppendJSON.
func (v Value) Float64() float64 {
	switch {
	case v.Null():
		return math.NaN()
	case v.Type == event.Float64:
		return v.Float
	}
	n := exact{lo: v.Lo, hi: v.Hi, big: v.Big}.int()
	f, _ := new(big.Rat).SetFrac(n, new(big.Int).SetUint64(powers[v.Scale])).Float64()
	return f
}

// AppendJSON appends v to dst as a JSON number, or as null.
func (v Value) AppendJSON(dst []byte) []byte {
	switch {
	case v.Null():
		return append(dst, "null"...)
	case v.Type == event.Float64:
		return appendFloat(dst, v.Float)
	}
	var digits [48]byte
	var text []byte
	negative := v.Hi < 0
	if v.Big != nil {
		negative = v.Big.Sign() < 0
		text = new(big.Int).Abs(v.Big).Append(digits[:0], 10)
	} else {
		lo, hi := exact{lo: v.Lo, hi: v.Hi}.magnitude()
		text = appendUint128(digits[:0], lo, hi)
	}
	if negative {
		dst = append(dst, '-')
	}
	scale := int(v.Scale)
	if scale == 0 {
		return append(dst, text...)
	}
	point := len(text) - scale
	if point > 0 {
		dst = append(dst, text[:point]...)
		dst = append(dst, '.')
		return append(dst, text[point:]...)
	}
	dst = append(dst, "0."...)
	for ; point < 0; point++ {
		dst = append(dst, '0')
	}
	return append(dst, text...)
}

// appendUint128 appends hi:lo in decimal.
func appendUint128(dst []byte, lo, hi uint64) []byte {
	const chunk = 1e19 // the greatest power of ten in 64 bits
	if hi == 0 {
		return strconv.AppendUint(dst, lo, 10)
	}
	q1, r := hi/chunk, hi%chunk
	q0, rest := bits.Div64(r, lo, chunk)
	dst = appendUint128(dst, q0, q1)
	var b [20]byte
	text := strconv.AppendUint(b[:0], rest, 10)
	for range 19 - len(text) {
		dst = append(dst, '0')
	}
	return append(dst, text...)
}

// appendFloat appends the shortest text that reads back as f, in the form of
// ECMAScript's Number::toString (and of encoding/json).
func appendFloat(dst []byte, f float64) []byte {
	if f == 0 {
		return append(dst, '0')
	}
	if a := math.Abs(f); a >= 1e-6 && a < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	// e-09 becomes e-9.
	if n := len(dst); n >= 4 && dst[n-4] == 'e' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}
