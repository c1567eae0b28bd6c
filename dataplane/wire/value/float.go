package value

import (
	"math"
	"math/bits"
	"strconv"

	"github.com/headrace/headrace/dataplane/event"
)

// Float reads a float64, rounded to nearest even as strconv.ParseFloat does. NaN,
// the infinities and what overflows are [event.DropNotFinite]. −0 is 0.
func Float(b []byte) (float64, event.Drop) {
	if len(b) > NumberMax {
		return 0, event.DropTooLong
	}
	n, ok := split(b)
	if !ok {
		if notFinite(b) {
			return 0, event.DropNotFinite
		}
		return 0, event.DropBadValue
	}
	f := n.magnitude()
	if math.IsInf(f, 0) {
		return 0, event.DropNotFinite
	}
	if n.negative && f != 0 {
		f = -f
	}
	return f, event.Kept
}

// maxWhole is the first 19 digits of the least decimal that rounds to infinity:
// 1.797693134862315807937…e308, half a unit above the greatest float64.
const maxWhole = 1797693134862315807

// magnitude returns the float64 nearest to |n|, which may be +Inf.
func (n *number) magnitude() float64 {
	if n.digits == 0 || n.point < -330 {
		return 0
	}
	if n.point > 310 {
		return math.Inf(1)
	}
	// The first 19 digits, as an integer; more says that others follow.
	var m uint64
	taken, more := 0, false
	for _, c := range n.text {
		if c == '.' {
			continue
		}
		if taken == 19 {
			more = true
			break
		}
		m = m*10 + uint64(c-'0')
		taken++
	}
	exponent := n.point - taken
	if m < 1<<53 && !more && -22 <= exponent && exponent <= 22 {
		// Both are exact float64s, so one operation rounds once.
		if exponent < 0 {
			return float64(m) / tens[-exponent]
		}
		return float64(m) * tens[exponent]
	}
	if n.point > 309 || n.point == 309 && taken == 19 && m > maxWhole {
		return math.Inf(1)
	}
	low := parse(m, exponent)
	if !more {
		return low
	}
	high := math.Inf(1)
	if n.point < 309 || m < maxWhole {
		high = parse(m+1, exponent)
	}
	if low == high || n.below(low) {
		return low
	}
	return math.Nextafter(low, math.Inf(1))
}

// parse returns the float64 nearest to m·10^exponent, which must not overflow. The
// text is at most 32 bytes, which the compiler converts on the stack.
func parse(m uint64, exponent int) float64 {
	var buf [32]byte
	text := strconv.AppendUint(buf[:0], m, 10)
	text = append(text, 'e')
	text = strconv.AppendInt(text, int64(exponent), 10)
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		panic("value: BUG: " + err.Error()) // digits, e, digits, in range
	}
	return f
}

var tens = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10,
	1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// below says that |n|, which is not below low, rounds to low and not to the next
// float64: it is under the midpoint of the two, or on it and low is even. Both
// sides are compared as exact integers:
//
//	digits · 10^e  against  (2·mantissa + 1) · 2^(b−1)
func (n *number) below(low float64) bool {
	u := math.Float64bits(low)
	mantissa, binary := u&(1<<52-1), int(u>>52)
	if binary > 0 {
		mantissa |= 1 << 52
		binary--
	}
	binary -= 1074 + 1
	var value, middle wide
	for _, c := range n.text {
		if c != '.' {
			value.mulAdd(10, uint64(c-'0'))
		}
	}
	middle.mulAdd(1, 2*mantissa+1)
	e := n.point - n.digits
	for ; e > 0; e-- {
		value.mulAdd(10, 0)
	}
	for ; e < 0; e++ {
		middle.mulAdd(10, 0)
	}
	for ; binary > 0; binary-- {
		middle.mulAdd(2, 0)
	}
	for ; binary < 0; binary++ {
		value.mulAdd(2, 0)
	}
	c := value.compare(&middle)
	return c < 0 || c == 0 && mantissa&1 == 0
}

// wide is an unsigned integer of 2048 bits, lowest word first: room for 64 digits
// times 2^1075 (1,288 bits) and for 54 bits times 10^394 (1,363 bits).
type wide struct {
	words [32]uint64
	used  int
}

// mulAdd sets w to w·m + a.
func (w *wide) mulAdd(m, a uint64) {
	for i := range w.words[:w.used] {
		hi, lo := bits.Mul64(w.words[i], m)
		var carry uint64
		w.words[i], carry = bits.Add64(lo, a, 0)
		a = hi + carry
	}
	if a != 0 {
		w.words[w.used] = a
		w.used++
	}
}

func (w *wide) compare(v *wide) int {
	if w.used != v.used {
		return w.used - v.used
	}
	for i := w.used - 1; i >= 0; i-- {
		switch {
		case w.words[i] < v.words[i]:
			return -1
		case w.words[i] > v.words[i]:
			return 1
		}
	}
	return 0
}
