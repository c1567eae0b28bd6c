package aggregate

import (
	"fmt"
	"math/big"
	"math/bits"
)

// Floats are added up as integers, so that no rounding depends on the order.
//
// The binary places that a float64 can have, from 2^-1074 up, are cut at fixed
// borders into bins of 40. A value's sign and magnitude falls into slices, one a
// bin, which depend on nothing but the value. A state keeps three bins: the
// highest that any value has touched, and the two below. Each is the exact sum of
// its slices. Slices below the third bin are not kept, and when a greater value
// moves the bins up, those that drop out at the bottom are forgotten: a bin that is
// kept in the end was kept all along, so it has seen the slices of all values.
//
// The words are the number of the highest bin plus one (0: no value yet), then the
// bins, highest first, each as 128-bit two's complement, low word first. (Sums of
// more than one bin in one number would be smaller, and wrong: carries out of a
// bin that is forgotten later would stay behind in some orders.)
//
// The highest bin holds between 1 and 40 bits of the greatest value, so 80 bits
// below its first one are always exact: what is cut off is less than 2^-80 of the
// greatest magnitude a value, where a plain sum loses 2^-53 at each step.
const (
	binBits   = 40
	binMask   = 1<<binBits - 1
	binWords  = 7
	placesMax = 2046 + 51 // the highest place of a float64
)

// A position counts places from the lowest one: 2^-1074 for values. Products are
// taken of normalized mantissas, so theirs lies 2·1074 lower, and 2·52 for the
// least subnormals.
const (
	valueExp   = -1074
	productExp = -2*1074 - 2*52
	valueTop   = placesMax/binBits + 1
	productTop = (2*placesMax+1+2*52)/binBits + 1
)

// binOf returns position/40 for positions up to 43690: a multiplication instead
// of a division.
func binOf(position uint64) uint64 { return position * 52429 >> 21 }

// raise moves the bins up so that the highest is top-1.
func raise(p *[binWords]uint64, top uint64) {
	switch top - p[0] {
	case 1:
		p[5], p[6] = p[3], p[4]
		p[3], p[4] = p[1], p[2]
		p[1], p[2] = 0, 0
	case 2:
		p[5], p[6] = p[1], p[2]
		p[1], p[2], p[3], p[4] = 0, 0, 0, 0
	default:
		*p = [binWords]uint64{}
	}
	p[0] = top
}

// put adds the three slices of a value whose highest bin is bin, already signed.
// A branch on the distance to the state's highest bin is cheaper than shifting the
// slices there: values of one key mostly have one magnitude.
func put(p *[binWords]uint64, bin, s0, s1, s2 uint64) {
	if bin+1 > p[0] {
		raise(p, bin+1)
	}
	switch p[0] - 1 - bin {
	case 0:
		accumulate(&p[1], &p[2], s0)
		accumulate(&p[3], &p[4], s1)
		accumulate(&p[5], &p[6], s2)
	case 1:
		accumulate(&p[3], &p[4], s0)
		accumulate(&p[5], &p[6], s1)
	case 2:
		accumulate(&p[5], &p[6], s0)
	}
}

// accumulate adds a signed slice to a bin.
func accumulate(lo, hi *uint64, s uint64) {
	l, c := bits.Add64(*lo, s, 0)
	*lo = l
	*hi += uint64(int64(s)>>63) + c
}

// sumBins adds up floats.
type sumBins struct{ program int }

func (sumBins) size() int { return binWords }

func (c sumBins) fold(mem []uint64, off uint, v *view) {
	x := v.num(c.program, 0)
	at := v.at[:len(x)]
	for i, y := range x {
		a := at[i] //gcassert:bce
		p := (*[binWords]uint64)(mem[uint(a)+off:])
		u := uint64(y)
		e := u >> 52 & 0x7ff
		normal := (e + 0x7ff) >> 11 // 0 for zero and subnormals, whose exponent is that of 1
		m := u&(1<<52-1) | normal<<52
		position := e - normal + 52
		bin := binOf(position)
		r := position - binBits*bin // the first bit's place in its bin
		m <<= 11
		s0 := m >> ((63 - r) & 63)
		m <<= (r + 1) & 63
		s1, s2 := m>>24, m<<40>>24
		sign := uint64(y >> 63)
		s0, s1, s2 = s0^sign-sign, s1^sign-sign, s2^sign-sign
		if bin+1 == p[0] { // put, with the common case in line
			accumulate(&p[1], &p[2], s0)
			accumulate(&p[3], &p[4], s1)
			accumulate(&p[5], &p[6], s2)
			continue
		}
		put(p, bin, s0, s1, s2)
	}
}

func (sumBins) merge(dst, src []uint64) { mergeBins(dst, src) }

// sumProductBins adds up the exact products of two floats.
type sumProductBins struct{ a, b int }

func (sumProductBins) size() int { return binWords }

func (c sumProductBins) fold(mem []uint64, off uint, v *view) {
	x := v.num(c.a, 0)
	y := x
	if c.b != c.a {
		y = v.num(c.b, 1)
	}
	y = y[:len(x)]
	at := v.at[:len(x)]
	for i, xi := range x {
		a := at[i] //gcassert:bce
		p := (*[binWords]uint64)(mem[uint(a)+off:])
		yi := y[i] //gcassert:bce
		mx, px := normalize(uint64(xi))
		my, py := normalize(uint64(yi))
		if mx == 0 || my == 0 {
			continue
		}
		h, l := bits.Mul64(mx, my)
		// Bit 63 of mx is place px, of my py; bit 127 of the product is the place
		// above that of bit 63 times bit 63.
		position := px + py + 1
		bin := binOf(position)
		r := position - binBits*bin
		s0 := h >> ((63 - r) & 63)
		h = h<<((r+1)&63) | l>>((63-r)&63)
		l <<= (r + 1) & 63
		s1, s2 := h>>24, h<<40>>24|l>>48
		sign := uint64((xi ^ yi) >> 63)
		put(p, bin, s0^sign-sign, s1^sign-sign, s2^sign-sign)
	}
}

func (sumProductBins) merge(dst, src []uint64) { mergeBins(dst, src) }

// normalize returns the mantissa of a finite float with its first bit at bit 63,
// and that bit's place counted from 2^(-1074-52). It is 0 for 0.
func normalize(u uint64) (m, place uint64) {
	e := u >> 52 & 0x7ff
	m = u << 11 &^ (1 << 63)
	if e != 0 {
		return m | 1<<63, e - 1 + 52 + 52
	}
	z := uint64(bits.LeadingZeros64(m))
	return m << z, 52 + 52 - z
}

// mergeBins adds the bins of src to dst. It gives the words that folding both
// sets of values into one state gives.
func mergeBins(dst, src []uint64) {
	d := (*[binWords]uint64)(dst)
	s := *(*[binWords]uint64)(src)
	switch {
	case d[0] < s[0]:
		raise(d, s[0])
	case d[0] > s[0]:
		raise(&s, d[0])
	}
	for i := 1; i < binWords; i += 2 {
		add(d[i:i+2], s[i:i+2])
	}
}

// bins returns the part with the sum of program n, a float, over v.
func (b *builder) bins(v *view, n int) *part {
	return b.part(fmt.Sprint("bins ", n), v, sumBins{n})
}

// productBins returns the part with the sum of the products of two programs.
func (b *builder) productBins(v *view, n, m int) *part {
	return b.part(fmt.Sprint("product bins ", n, m), v, sumProductBins{n, m})
}

// binsAt reads a sum of floats or of their products from a state.
func binsAt(p *part, state []uint64) binary {
	w := state[p.off : p.off+binWords]
	exp, most := valueExp, uint64(valueTop)
	if _, ok := p.cell.(sumProductBins); ok {
		exp, most = productExp, productTop
	}
	sum := new(big.Int)
	if w[0] > most {
		return binary{mantissa: sum}
	}
	for i := 1; i < binWords; i += 2 {
		sum.Lsh(sum, binBits)
		sum.Add(sum, exact{lo: w[i], hi: int64(w[i+1])}.int())
	}
	return binary{mantissa: sum, exp: exp + binBits*(int(w[0])-3), valid: true}
}
