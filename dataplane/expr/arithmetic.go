package expr

import (
	"math/bits"
)

// strict gives the result of a binary operation its validity: a value where both
// operands are, an overflow where an operand is and the other is not null.
func strict(to, a, b *Vector) {
	for w := range to.Valid {
		av, ao, bv, bo := a.Valid[w], a.Over[w], b.Valid[w], b.Over[w]
		to.Valid[w] = av & bv
		to.Over[w] = (av | ao) & (bv | bo) & (ao | bo)
	}
}

// overflowed turns the values of word w whose bit is set in over into overflows.
func (v *Vector) overflowed(w int, over uint64) {
	over &= v.Valid[w]
	v.Valid[w] &^= over
	v.Over[w] |= over
}

// room gives to its length and, for wide ones, its high words.
func (v *Vector) room(n int) (num, hi []int64) {
	v.Num = v.num[:n]
	if v.Wide {
		v.Hi = v.hi[:n]
	}
	return v.Num, v.Hi
}

// widen gives a vector of 64-bit integers its high words, in place.
func widen(s *step, in *frame) {
	hi := s.to.hi[:in.n]
	num := s.to.Num[:len(hi)]
	for i := range hi {
		hi[i] = num[i] >> 63 //gcassert:bce
	}
	s.to.Hi = hi
}

// addNarrow and subNarrow are a+b and a−b of 64-bit integers.
func addNarrow(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	num, hi := s.to.room(in.n)
	hi = hi[:len(num)]
	a, b := s.a.Num[:len(num)], s.b.Num[:len(num)]
	for i := range num {
		x, y := a[i], b[i]
		lo, c := bits.Add64(uint64(x), uint64(y), 0)
		num[i] = int64(lo)
		hi[i] = x>>63 + y>>63 + int64(c) //gcassert:bce
	}
}

func subNarrow(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	num, hi := s.to.room(in.n)
	hi = hi[:len(num)]
	a, b := s.a.Num[:len(num)], s.b.Num[:len(num)]
	for i := range num {
		x, y := a[i], b[i]
		lo, c := bits.Sub64(uint64(x), uint64(y), 0)
		num[i] = int64(lo)
		hi[i] = x>>63 - y>>63 - int64(c) //gcassert:bce
	}
}

// mulNarrow is a·b of 64-bit integers, which always fits 128 bits.
func mulNarrow(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	num, hi := s.to.room(in.n)
	hi = hi[:len(num)]
	a, b := s.a.Num[:len(num)], s.b.Num[:len(num)]
	for i := range num {
		x, y := a[i], b[i]
		h, l := bits.Mul64(uint64(x), uint64(y))
		num[i] = int64(l)
		hi[i] = int64(h) - x>>63&y - y>>63&x //gcassert:bce
	}
}

// addWide and subWide are checked: a sum has overflowed if its sign differs from
// the sign that both operands have.
func addWide(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	num, hi := s.to.room(in.n)
	hi = hi[:len(num)]
	al, ah := s.a.Num[:len(num)], s.a.Hi[:len(num)]
	bl, bh := s.b.Num[:len(num)], s.b.Hi[:len(num)]
	var over [words]uint64
	for i := range num {
		x, y := ah[i], bh[i]
		lo, c := bits.Add64(uint64(al[i]), uint64(bl[i]), 0)
		h := x + y + int64(c)
		num[i], hi[i] = int64(lo), h
		over[uint8(i)/64] |= uint64((x^h)&(y^h)) >> 63 << (uint(i) % 64) //gcassert:bce
	}
	for w := range over {
		s.to.overflowed(w, over[w])
	}
}

func subWide(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	num, hi := s.to.room(in.n)
	hi = hi[:len(num)]
	al, ah := s.a.Num[:len(num)], s.a.Hi[:len(num)]
	bl, bh := s.b.Num[:len(num)], s.b.Hi[:len(num)]
	var over [words]uint64
	for i := range num {
		x, y := ah[i], bh[i]
		lo, c := bits.Sub64(uint64(al[i]), uint64(bl[i]), 0)
		h := x - y - int64(c)
		num[i], hi[i] = int64(lo), h
		over[uint8(i)/64] |= uint64((x^y)&(x^h)) >> 63 << (uint(i) % 64) //gcassert:bce
	}
	for w := range over {
		s.to.overflowed(w, over[w])
	}
}

func mulWide(s *step, in *frame) {
	strict(s.to, s.a, s.b)
	num, hi := s.to.room(in.n)
	hi = hi[:len(num)]
	al, ah := s.a.Num[:len(num)], s.a.Hi[:len(num)]
	bl, bh := s.b.Num[:len(num)], s.b.Hi[:len(num)]
	var over [words]uint64
	for i := range num {
		l, h, o := mul128(al[i], ah[i], bl[i], bh[i])
		num[i], hi[i] = l, h
		over[uint8(i)/64] |= flag(o, i)
	}
	for w := range over {
		s.to.overflowed(w, over[w])
	}
}

// scale is a·constant, the constant being a power of ten.
func scale(s *step, in *frame) {
	s.to.Valid, s.to.Over = s.a.Valid, s.a.Over
	num, hi := s.to.room(in.n)
	hi = hi[:len(num)]
	f := uint64(s.constant)
	a := s.a.Num[:len(num)]
	if !s.a.Wide {
		for i := range num {
			x := a[i]
			h, l := bits.Mul64(uint64(x), f)
			num[i] = int64(l)
			hi[i] = int64(h) - x>>63&int64(f) //gcassert:bce
		}
		return
	}
	ah := s.a.Hi[:len(num)]
	var over [words]uint64
	for i := range num {
		l, h, o := mul128(a[i], ah[i], s.constant, 0)
		num[i], hi[i] = l, h
		over[uint8(i)/64] |= flag(o, i)
	}
	for w := range over {
		s.to.overflowed(w, over[w])
	}
}

// negate is −a; −(−2^127) is an overflow.
func negate(s *step, in *frame) {
	s.to.Valid, s.to.Over = s.a.Valid, s.a.Over
	num, hi := s.to.room(in.n)
	hi = hi[:len(num)]
	al, ah := s.a.Num[:len(num)], s.a.Hi[:len(num)]
	var over [words]uint64
	for i := range num {
		x := ah[i]
		lo, c := bits.Sub64(0, uint64(al[i]), 0)
		h := -x - int64(c)
		num[i], hi[i] = int64(lo), h
		over[uint8(i)/64] |= uint64(x&h) >> 63 << (uint(i) % 64) //gcassert:bce
	}
	for w := range over {
		s.to.overflowed(w, over[w])
	}
}

// mul128 multiplies two 128-bit integers and says whether 128 bits hold the product.
func mul128(al, ah, bl, bh int64) (lo, hi int64, over bool) {
	aLo, aHi := magnitude(al, ah)
	bLo, bHi := magnitude(bl, bh)
	h, l := bits.Mul64(aLo, bLo)
	h1, m1 := bits.Mul64(aHi, bLo)
	h2, m2 := bits.Mul64(aLo, bHi)
	h, c1 := bits.Add64(h, m1, 0)
	h, c2 := bits.Add64(h, m2, 0)
	over = h1|h2|c1|c2 != 0 || aHi != 0 && bHi != 0
	sign := ah>>63 ^ bh>>63
	// The magnitude may be 2^127 if the product is negative, else 2^127 − 1.
	if h > 1<<63-1 && (sign == 0 || h != 1<<63 || l != 0) {
		over = true
	}
	l, c := bits.Add64(l^uint64(sign), uint64(sign)&1, 0)
	return int64(l), int64(h^uint64(sign)) + int64(c), over
}

// magnitude returns the absolute value of a 128-bit integer.
func magnitude(lo, hi int64) (mlo, mhi uint64) {
	sign := uint64(hi >> 63)
	mlo, c := bits.Add64(uint64(lo)^sign, sign&1, 0)
	return mlo, uint64(hi) ^ sign + c
}
