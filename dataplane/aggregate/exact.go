package aggregate

import (
	"math"
	"math/big"
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
)

// meanScale is the number of decimals of an exact mean.
const meanScale = 8

// powers holds 10^0 to 10^ScaleMax.
var powers = func() (p [event.ScaleMax + 1]uint64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = 10 * p[i-1]
	}
	return p
}()

// exact is an integer: hi:lo in two's complement, or big if that is not nil.
type exact struct {
	lo  uint64
	hi  int64
	big *big.Int
}

// exactAt reads a sum of integers from a state.
func exactAt(p *part, state []uint64) exact {
	w := state[p.off : p.off+p.size()]
	e := exact{lo: w[0], hi: int64(w[1])}
	if len(w) == 3 && int64(w[2]) != e.hi>>63 {
		e.big = unsigned(w)
		if int64(w[2]) < 0 {
			e.big.Sub(e.big, new(big.Int).Lsh(big.NewInt(1), 192))
		}
	}
	return e
}

// int returns e as a big integer, which must not be written to.
func (e exact) int() *big.Int {
	if e.big != nil {
		return e.big
	}
	x := big.NewInt(e.hi)
	x.Lsh(x, 64)
	return x.Add(x, new(big.Int).SetUint64(e.lo))
}

// magnitude returns |e|, which must not be big.
func (e exact) magnitude() (lo, hi uint64) {
	sign := uint64(e.hi >> 63)
	lo, c := bits.Add64(e.lo^sign, sign&1, 0)
	return lo, uint64(e.hi) ^ sign + c
}

// ratio returns num/(den·10^scale) as a decimal with meanScale decimals, ties to
// even, or null with the reason zero if den is 0.
func ratio(num, den exact, scale int, zero string) Value {
	if den.big == nil && den.lo == 0 && den.hi == 0 {
		return null(zero)
	}
	if v, ok := quickRatio(num, den, scale); ok {
		return v
	}
	n, d := new(big.Int).Set(num.int()), new(big.Int).Set(den.int())
	if scale <= meanScale {
		n.Mul(n, new(big.Int).SetUint64(powers[meanScale-scale]))
	} else {
		d.Mul(d, new(big.Int).SetUint64(powers[scale-meanScale]))
	}
	if d.Sign() < 0 {
		n.Neg(n)
		d.Neg(d)
	}
	negative := n.Sign() < 0
	q, r := new(big.Int).QuoRem(n.Abs(n), d, new(big.Int))
	if c := r.Lsh(r, 1).Cmp(d); c > 0 || c == 0 && q.Bit(0) != 0 {
		q.Add(q, big.NewInt(1))
	}
	if negative {
		q.Neg(q)
	}
	return decimal(q, meanScale)
}

// quickRatio is ratio without big numbers, if it can do without.
func quickRatio(num, den exact, scale int) (v Value, ok bool) {
	if num.big != nil || den.big != nil {
		return v, false
	}
	l, h := num.magnitude()
	d, dh := den.magnitude()
	up, down := uint64(1), uint64(1)
	if scale <= meanScale {
		up = powers[meanScale-scale]
	} else {
		down = powers[scale-meanScale]
	}
	c, l := bits.Mul64(l, up)
	over, h := bits.Mul64(h, up)
	h, c = bits.Add64(h, c, 0)
	dOver, d := bits.Mul64(d, down)
	if over|c|dh|dOver != 0 {
		return v, false
	}
	qh, rest := h/d, h%d
	ql, rest := bits.Div64(rest, l, d)
	if other := d - rest; rest > other || rest == other && ql&1 != 0 {
		ql, c = bits.Add64(ql, 1, 0)
		qh += c
	}
	if qh >= 1<<63 {
		return v, false
	}
	sign := uint64((num.hi ^ den.hi) >> 63)
	ql, c = bits.Add64(ql^sign, sign&1, 0)
	return Value{Type: event.Decimal, Scale: meanScale, Lo: ql, Hi: int64(qh ^ sign + c)}, true
}

// binary is mantissa·2^exp, if valid. The mantissa is never written to.
type binary struct {
	mantissa *big.Int
	exp      int
	valid    bool
}

// whole64 returns n.
func whole64(n uint64) binary { return binary{mantissa: new(big.Int).SetUint64(n), valid: true} }

// at returns the mantissa that b has at an exponent not greater than its own.
func (b binary) at(exp int) *big.Int { return new(big.Int).Lsh(b.mantissa, uint(b.exp-exp)) }

// float returns the nearest float64.
func (b binary) float() Value {
	if !b.valid {
		return null(ReasonInvalid)
	}
	f, _ := new(big.Float).SetMantExp(new(big.Float).SetInt(b.mantissa), b.exp).Float64()
	return float(f)
}

// over returns the float64 nearest to b/d; d is positive.
func (b binary) over(d *big.Int) Value {
	return divide(b, binary{mantissa: d, valid: true}, ReasonInvalid)
}

// divide returns the float64 nearest to a/b, or null with the reason zero if b is 0.
func divide(a, b binary, zero string) Value {
	if !a.valid || !b.valid {
		return null(ReasonInvalid)
	}
	if b.mantissa.Sign() == 0 {
		return null(zero)
	}
	exp := min(a.exp, b.exp)
	f, _ := new(big.Rat).SetFrac(a.at(exp), b.at(exp)).Float64()
	return float(f)
}

// float returns a finite float as a value, an infinite one as an overflow.
func float(f float64) Value {
	if math.IsInf(f, 0) {
		return null(ReasonOverflow)
	}
	return Value{Type: event.Float64, Float: f + 0} // −0 + 0 is 0
}
