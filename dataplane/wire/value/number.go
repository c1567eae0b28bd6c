package value

import (
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
)

// NumberMax is the greatest length of a number or instant, in bytes. Longer text
// is dropped as too long: it bounds the work that one value can cause.
const NumberMax = 64

// A number is decimal text taken apart: ±0.d1d2d3… · 10^point, where d1, d2, d3, …
// are the digits of text and d1 is not 0.
type number struct {
	negative bool
	text     []byte // digits and at most one point, which does not count here; empty for zero
	digits   int    // digits in text
	point    int
}

const exponentMax = 1 << 20 // far beyond what any type holds; keeps sums of exponents small

// split takes the number in b apart. It returns false if b is not a number.
func split(b []byte) (n number, ok bool) {
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		n.negative = b[0] == '-'
		b = b[1:]
	}
	first, last := -1, -1 // first digit that is not 0, end of the last one
	whole, seen, points := 0, 0, 0
	lead := 0 // digits before first
	i := 0
scan:
	for ; i < len(b); i++ {
		switch c := b[i]; {
		case c-'0' <= 9:
			seen++
			if points == 0 {
				whole++
			}
			if c != '0' {
				if first < 0 {
					first, lead = i, seen-1
				}
				last = i + 1
				n.digits = seen - lead
			}
		case c == '.' && points == 0:
			points = 1
		default:
			break scan
		}
	}
	if seen == 0 {
		return n, false
	}
	exponent, ok := readExponent(b[i:])
	if !ok {
		return n, false
	}
	if first >= 0 {
		n.text = b[first:last]
		n.point = whole - lead + exponent
	}
	return n, true
}

// readExponent reads e[+-]digits, held at ±exponentMax, or nothing.
func readExponent(b []byte) (int, bool) {
	if len(b) == 0 {
		return 0, true
	}
	if b[0]|0x20 != 'e' {
		return 0, false
	}
	b = b[1:]
	sign := 1
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		if b[0] == '-' {
			sign = -1
		}
		b = b[1:]
	}
	if len(b) == 0 {
		return 0, false
	}
	e := 0
	for _, c := range b {
		if c-'0' > 9 {
			return 0, false
		}
		if e < exponentMax {
			e = e*10 + int(c-'0')
		}
	}
	return sign * min(e, exponentMax), true
}

// Int reads an int64. 1.0 and 1e3 are integers; 1.5 is a bad value, as is what
// does not fit.
func Int(b []byte) (int64, event.Drop) {
	if v, places, ok := plain(b); ok && places == 0 {
		return v, event.Kept
	}
	v, exact, d := fixed(b, 0)
	if d == event.Kept && !exact {
		return 0, event.DropBadValue
	}
	return v, d
}

// Decimal reads a decimal with the given scale, at most [event.ScaleMax]: the result is the value
// times 10^scale. Digits beyond the scale are rounded half-even. What does not fit is
// a bad value.
func Decimal(b []byte, scale uint8) (int64, event.Drop) {
	if v, places, ok := plain(b); ok && places <= int(scale) {
		if v, ok := scaleInt(v, int(scale)-places); ok {
			return v, event.Kept
		}
	}
	v, _, d := fixed(b, int(scale))
	return v, d
}

// plain reads the common case, up to 18 digits with a point at most between two of
// them: the number is v·10^-places.
func plain(b []byte) (v int64, places int, ok bool) {
	negative := len(b) > 1 && b[0] == '-'
	if negative {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 18 {
		return 0, 0, false
	}
	const dot = ('.' - '0') & 0xff
	point := -1
	for i, c := range b {
		c -= '0'
		if c > 9 {
			if c != dot || point >= 0 || i == 0 {
				return 0, 0, false
			}
			point = i
			continue
		}
		v = v*10 + int64(c)
	}
	if point >= 0 {
		places = len(b) - 1 - point
	}
	if negative {
		v = -v
	}
	return v, places, true
}

// fixed returns b's value times 10^scale, rounded half-even, and whether it is exact.
func fixed(b []byte, scale int) (v int64, exact bool, d event.Drop) {
	if len(b) > NumberMax {
		return 0, false, event.DropTooLong
	}
	n, ok := split(b)
	if !ok {
		if notFinite(b) {
			return 0, false, event.DropNotFinite
		}
		return 0, false, event.DropBadValue
	}
	if n.digits == 0 {
		return 0, true, event.Kept
	}
	keep := n.point + scale // digits of the result
	if keep > 19 {
		return 0, false, event.DropBadValue
	}
	if keep < 0 {
		return 0, false, event.Kept
	}
	var m uint64
	taken, half, rest := 0, byte(0), false
	for _, c := range n.text {
		switch {
		case c == '.':
			continue
		case taken < keep:
			m = m*10 + uint64(c-'0') // 19 digits fit
		case taken == keep:
			half = c - '0'
		default:
			rest = rest || c != '0'
		}
		taken++
	}
	for ; taken < keep; taken++ {
		m *= 10
	}
	exact = half == 0 && !rest
	if half > 5 || half == 5 && (rest || m&1 == 1) {
		m++
	}
	limit := uint64(1<<63 - 1)
	if n.negative {
		limit = 1 << 63
	}
	if m > limit {
		return 0, false, event.DropBadValue
	}
	if n.negative {
		return -int64(m), exact, event.Kept
	}
	return int64(m), exact, event.Kept
}

// notFinite says whether b is one of the words for NaN and the infinities, as
// strconv.ParseFloat reads them.
func notFinite(b []byte) bool {
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		b = b[1:]
	}
	return wordIs(b, "nan") || wordIs(b, "inf") || wordIs(b, "infinity")
}

// wordIs compares ASCII letters without regard to case; word is in lower case.
func wordIs(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i := range b {
		if b[i]|0x20 != word[i] {
			return false
		}
	}
	return true
}

// scaleInt returns v·10^n, or false if it overflows.
func scaleInt(v int64, n int) (int64, bool) {
	m := uint64(v)
	if v < 0 {
		m = -m
	}
	hi, lo := bits.Mul64(m, powers[n])
	if hi != 0 || lo > 1<<63-1 {
		return 0, false
	}
	if v < 0 {
		return -int64(lo), true
	}
	return int64(lo), true
}

var powers = [...]uint64{
	1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9,
	1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
}
