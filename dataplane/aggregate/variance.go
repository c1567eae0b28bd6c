package aggregate

import (
	"fmt"
	"math/big"
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// squaresNarrow adds up the squares of 64-bit integers: 126 bits each, 190 bits
// for 2^64 of them, so three words.
type squaresNarrow struct{ program int }

func (squaresNarrow) size() int { return 3 }

func (c squaresNarrow) fold(mem []uint64, off uint, v *view) {
	x := v.num(c.program, 0)
	at := v.at[:len(x)]
	for i, y := range x {
		sign := y >> 63
		m := uint64(y ^ sign - sign)
		h, l := bits.Mul64(m, m)
		a := at[i] //gcassert:bce
		p := (*[3]uint64)(mem[uint(a)+off:])
		lo, carry := bits.Add64(p[0], l, 0)
		mid, carry := bits.Add64(p[1], h, carry)
		p[0], p[1] = lo, mid
		p[2] += carry
	}
}

func (squaresNarrow) merge(dst, src []uint64) { add(dst, src) }

// squaresWide adds up the squares of 128-bit integers: five words.
type squaresWide struct{ program int }

func (squaresWide) size() int { return 5 }

func (c squaresWide) fold(mem []uint64, off uint, v *view) {
	x, hi := v.num(c.program, 0), v.hi(c.program)
	at, hi := v.at[:len(x)], hi[:len(x)]
	for i, y := range x {
		s := square(uint64(y), hi[i]) //gcassert:bce
		a := at[i]                    //gcassert:bce
		p := (*[5]uint64)(mem[uint(a)+off:])
		var carry uint64
		p[0], carry = bits.Add64(p[0], s[0], 0)
		p[1], carry = bits.Add64(p[1], s[1], carry)
		p[2], carry = bits.Add64(p[2], s[2], carry)
		p[3], carry = bits.Add64(p[3], s[3], carry)
		p[4] += carry
	}
}

func (squaresWide) merge(dst, src []uint64) { add(dst, src) }

// square returns (hi:lo)² of a two's complement number, low word first.
func square(lo uint64, hi int64) (s [4]uint64) {
	sign := uint64(hi >> 63)
	l, carry := bits.Add64(lo^sign, sign&1, 0)
	h := uint64(hi) ^ sign + carry
	ll1, ll0 := bits.Mul64(l, l)
	lh1, lh0 := bits.Mul64(l, h)
	hh1, hh0 := bits.Mul64(h, h)
	// 2·l·h·2^64 may have 129 bits.
	twice0, twice1, twice2 := lh0<<1, lh1<<1|lh0>>63, lh1>>63
	s[0] = ll0
	s[1], carry = bits.Add64(ll1, twice0, 0)
	s[2], carry = bits.Add64(hh0, twice1, carry)
	s[3], _ = bits.Add64(hh1, twice2, carry)
	return s
}

// buildVariance is (n·Σx² − (Σx)²)/n², computed exactly from exact sums (of
// floats: from bins, which hold at least the leading 80 bits) and rounded once.
func buildVariance(b *builder, args []plan.Program) (finish, error) {
	n, err := b.numeric(&args[0])
	if err != nil {
		return nil, err
	}
	v := b.view(false, n)
	count := b.part("count", v, counter{})
	if args[0].Type == event.Float64 {
		sum, squares := b.bins(v, n), b.productBins(v, n, n)
		return func(state []uint64) Value {
			if r := v.reason(state); r != "" {
				return null(r)
			}
			return variance(state[count.off], binsAt(sum, state), binsAt(squares, state))
		}, nil
	}
	var c cell = squaresNarrow{n}
	if b.wide(n) {
		c = squaresWide{n}
	}
	sum, squares := b.sum(v, n), b.part(fmt.Sprint("squares ", n), v, c)
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(args[0].Scale)), nil)
	return func(state []uint64) Value {
		if r := v.reason(state); r != "" {
			return null(r)
		}
		s := binary{mantissa: exactAt(sum, state).int(), valid: true}
		q := binary{mantissa: unsigned(state[squares.off : squares.off+squares.size()]), valid: true}
		if new(big.Int).Mul(s.mantissa, s.mantissa).Cmp(new(big.Int).Mul(q.mantissa, whole64(state[count.off]).mantissa)) > 0 {
			return null(ReasonInvalid) // n·Σx² < (Σx)² holds for no numbers
		}
		return varianceOver(unit, state[count.off], s, q)
	}, nil
}

func variance(n uint64, sum, squares binary) Value {
	return varianceOver(big.NewInt(1), n, sum, squares)
}

// varianceOver returns the variance of numbers that were multiplied by unit.
func varianceOver(unit *big.Int, n uint64, sum, squares binary) Value {
	if n == 0 || !sum.valid || !squares.valid {
		return null(ReasonInvalid)
	}
	count := new(big.Int).SetUint64(n)
	first := binary{mantissa: new(big.Int).Mul(squares.mantissa, count), exp: squares.exp}
	second := binary{mantissa: new(big.Int).Mul(sum.mantissa, sum.mantissa), exp: 2 * sum.exp}
	exp := min(first.exp, second.exp)
	d := new(big.Int).Sub(first.at(exp), second.at(exp))
	if d.Sign() <= 0 {
		// Bins cut off what lies 80 bits below the greatest value, and a square
		// has up to 106: for equal values the difference may be a hair negative.
		return float(0)
	}
	count.Mul(count, unit)
	count.Mul(count, count)
	return binary{mantissa: d, exp: exp, valid: true}.over(count)
}

// unsigned returns the number in some words, low word first.
func unsigned(words []uint64) *big.Int {
	x := new(big.Int)
	for i := len(words) - 1; i >= 0; i-- {
		x.Lsh(x, 64)
		x.Or(x, new(big.Int).SetUint64(words[i]))
	}
	return x
}
