package expr

import (
	"math"
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
)

// powers holds 10^0 to 10^ScaleMax.
var powers = func() (p [event.ScaleMax + 1]uint64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = 10 * p[i-1]
	}
	return p
}()

func float(v int64) float64 { return math.Float64frombits(uint64(v)) }
func word(f float64) int64  { return int64(math.Float64bits(f)) }

// Each float operation stores its result before the next one reads it, and the
// product is converted besides: the compiler may fuse a*b+c otherwise, and does
// on arm64 and at GOAMD64=v3.

func addFloat(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	num, _ := s.to.room(in.n)
	a, b := s.a.Num[:len(num)], s.b.Num[:len(num)]
	for i := range num {
		num[i] = word(float(a[i]) + float(b[i])) //gcassert:bce
	}
}

func subFloat(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	num, _ := s.to.room(in.n)
	a, b := s.a.Num[:len(num)], s.b.Num[:len(num)]
	for i := range num {
		num[i] = word(float(a[i]) - float(b[i])) //gcassert:bce
	}
}

func mulFloat(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	num, _ := s.to.room(in.n)
	a, b := s.a.Num[:len(num)], s.b.Num[:len(num)]
	for i := range num {
		num[i] = word(float64(float(a[i]) * float(b[i]))) //gcassert:bce
	}
}

func divFloat(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	num, _ := s.to.room(in.n)
	a, b := s.a.Num[:len(num)], s.b.Num[:len(num)]
	for i := range num {
		d := b[i]
		if d == math.MinInt64 { // the bits of −0
			d = 0
		}
		num[i] = word(float(a[i]) / float(d)) //gcassert:bce
	}
}

func negateFloat(s *step, in *frame) {
	s.to.Valid, s.to.Over = s.a.Valid, s.a.Over
	num, _ := s.to.room(in.n)
	a := s.a.Num[:len(num)]
	for i := range num {
		num[i] = a[i] ^ math.MinInt64 //gcassert:bce
	}
}

// toFloat is the float64 nearest to a·10^-scale, ties to even.
func toFloat(s *step, in *frame) {
	s.to.Valid, s.to.Over = s.a.Valid, s.a.Over
	num, _ := s.to.room(in.n)
	p := powers[s.constant]
	a := s.a.Num[:len(num)]
	if s.a.Wide {
		ah := s.a.Hi[:len(num)]
		for i := range num {
			num[i] = word(nearest(a[i], ah[i], p))
		}
		return
	}
	const exact = 1 << 53
	f := float64(p)
	for i := range num {
		x := a[i]
		// Both operands are exact, so the division rounds once. 10^18 is exact
		// too: it is 5^18·2^18 and 5^18 has 42 bits.
		if uint64(x+exact) <= 2*exact {
			num[i] = word(float64(x) / f)
			continue
		}
		num[i] = word(nearest(x, x>>63, p))
	}
}

// nearest returns the float64 nearest to v/p, ties to even; v is a 128-bit
// integer and p is at most 10^18.
func nearest(lo, hi int64, p uint64) float64 {
	l, h := magnitude(lo, hi)
	if l|h == 0 {
		return 0
	}
	// Bring the numerator's top bit to bit 126 and the divisor's to bit 63: the
	// quotient then has 63 or 64 bits and its floor, with a bit for the
	// remainder, is enough to round.
	up := bits.LeadingZeros64(h)
	if h == 0 {
		up = 64 + bits.LeadingZeros64(l)
	}
	shift := up - 1
	sticky := uint64(0)
	switch {
	case shift < 0:
		sticky = l & 1
		l, h = l>>1|h<<63, h>>1
	case shift >= 64:
		h, l = l<<(shift-64), 0
	default:
		h, l = h<<shift|l>>(64-shift), l<<shift
	}
	down := bits.LeadingZeros64(p)
	q, r := bits.Div64(h, l, p<<down)
	if r != 0 {
		sticky = 1
	}
	// v/p = q·2^(down−shift), and a little more if sticky.
	return round(q, sticky, down-shift, hi < 0)
}

// round returns ±(q + a fraction)·2^exp rounded to the nearest float64, ties to
// even; q has at least 55 bits, and the result is known to be normal.
func round(q, sticky uint64, exp int, negative bool) float64 {
	drop := bits.Len64(q) - 53
	rest := q & (1<<drop - 1)
	m := q >> drop
	half := uint64(1) << (drop - 1)
	if rest > half || rest == half && (sticky != 0 || m&1 != 0) {
		m++
	}
	f := math.Ldexp(float64(m), exp+drop)
	if negative {
		return -f
	}
	return f
}
