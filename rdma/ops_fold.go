package rdma

import (
	"encoding/binary"
	"math/bits"
)

// The loops below take 64 bytes a turn through pointers to arrays: one length check
// a turn and none an element. Sums of whole vectors are what a round spends its time
// on once messages are fast.

const turn = 64

var word = binary.LittleEndian

func sum64(dst, a, b []byte) {
	for len(a) >= turn && len(b) >= turn && len(dst) >= turn {
		d, x, y := (*[turn]byte)(dst), (*[turn]byte)(a), (*[turn]byte)(b)
		s0 := word.Uint64(x[0:8]) + word.Uint64(y[0:8])
		s1 := word.Uint64(x[8:16]) + word.Uint64(y[8:16])
		s2 := word.Uint64(x[16:24]) + word.Uint64(y[16:24])
		s3 := word.Uint64(x[24:32]) + word.Uint64(y[24:32])
		s4 := word.Uint64(x[32:40]) + word.Uint64(y[32:40])
		s5 := word.Uint64(x[40:48]) + word.Uint64(y[40:48])
		s6 := word.Uint64(x[48:56]) + word.Uint64(y[48:56])
		s7 := word.Uint64(x[56:64]) + word.Uint64(y[56:64])
		word.PutUint64(d[0:8], s0)
		word.PutUint64(d[8:16], s1)
		word.PutUint64(d[16:24], s2)
		word.PutUint64(d[24:32], s3)
		word.PutUint64(d[32:40], s4)
		word.PutUint64(d[40:48], s5)
		word.PutUint64(d[48:56], s6)
		word.PutUint64(d[56:64], s7)
		dst, a, b = dst[turn:], a[turn:], b[turn:]
	}
	for len(a) >= 8 && len(b) >= 8 && len(dst) >= 8 {
		word.PutUint64(dst, word.Uint64(a)+word.Uint64(b))
		dst, a, b = dst[8:], a[8:], b[8:]
	}
}

func minInt64(dst, a, b []byte) {
	for len(a) >= turn && len(b) >= turn && len(dst) >= turn {
		d, x, y := (*[turn]byte)(dst), (*[turn]byte)(a), (*[turn]byte)(b)
		for i := 0; i < turn; i += 8 {
			word.PutUint64(d[i:i+8], uint64(min(int64(word.Uint64(x[i:i+8])), int64(word.Uint64(y[i:i+8])))))
		}
		dst, a, b = dst[turn:], a[turn:], b[turn:]
	}
	for len(a) >= 8 && len(b) >= 8 && len(dst) >= 8 {
		word.PutUint64(dst, uint64(min(int64(word.Uint64(a)), int64(word.Uint64(b)))))
		dst, a, b = dst[8:], a[8:], b[8:]
	}
}

func maxInt64(dst, a, b []byte) {
	for len(a) >= turn && len(b) >= turn && len(dst) >= turn {
		d, x, y := (*[turn]byte)(dst), (*[turn]byte)(a), (*[turn]byte)(b)
		for i := 0; i < turn; i += 8 {
			word.PutUint64(d[i:i+8], uint64(max(int64(word.Uint64(x[i:i+8])), int64(word.Uint64(y[i:i+8])))))
		}
		dst, a, b = dst[turn:], a[turn:], b[turn:]
	}
	for len(a) >= 8 && len(b) >= 8 && len(dst) >= 8 {
		word.PutUint64(dst, uint64(max(int64(word.Uint64(a)), int64(word.Uint64(b)))))
		dst, a, b = dst[8:], a[8:], b[8:]
	}
}

func orBytes(dst, a, b []byte) {
	for len(a) >= turn && len(b) >= turn && len(dst) >= turn {
		d, x, y := (*[turn]byte)(dst), (*[turn]byte)(a), (*[turn]byte)(b)
		for i := 0; i < turn; i += 8 {
			word.PutUint64(d[i:i+8], word.Uint64(x[i:i+8])|word.Uint64(y[i:i+8]))
		}
		dst, a, b = dst[turn:], a[turn:], b[turn:]
	}
	for i := range dst {
		dst[i] = a[i] | b[i]
	}
}

func maxUint8(dst, a, b []byte) {
	for len(a) >= turn && len(b) >= turn && len(dst) >= turn {
		d, x, y := (*[turn]byte)(dst), (*[turn]byte)(a), (*[turn]byte)(b)
		for i := 0; i < turn; i += 8 {
			word.PutUint64(d[i:i+8], maxBytes(word.Uint64(x[i:i+8]), word.Uint64(y[i:i+8])))
		}
		dst, a, b = dst[turn:], a[turn:], b[turn:]
	}
	for i := range dst {
		dst[i] = max(a[i], b[i])
	}
}

// maxBytes returns the greater of each of eight unsigned bytes. In each byte the low
// seven bits are compared by a subtraction that cannot borrow from the next byte, and
// the high bits by hand.
func maxBytes(x, y uint64) uint64 {
	const high = 0x8080808080808080
	low := (x | high) - y&^uint64(high)      // high bit: x's low bits >= y's
	greater := (x&^y | ^(x^y)&low) & high    // high bit: x >= y
	mask := greater | (greater - greater>>7) // 0xff where x >= y
	return x&mask | y&^mask
}

func sum128(dst, a, b []byte) {
	for len(a) >= 16 && len(b) >= 16 && len(dst) >= 16 {
		d, x, y := (*[16]byte)(dst), (*[16]byte)(a), (*[16]byte)(b)
		low, carry := bits.Add64(word.Uint64(x[:8]), word.Uint64(y[:8]), 0)
		high, _ := bits.Add64(word.Uint64(x[8:]), word.Uint64(y[8:]), carry)
		word.PutUint64(d[:8], low)
		word.PutUint64(d[8:], high)
		dst, a, b = dst[16:], a[16:], b[16:]
	}
}

// binsFolds has the sum of integers of n words at n.
var binsFolds = func() (folds [BinsWordsMax + 1]func(dst, a, b []byte)) {
	for n := range folds {
		folds[n] = func(dst, a, b []byte) { sumWide(n, dst, a, b) }
	}
	return folds
}()

func sumWide(words int, dst, a, b []byte) {
	for len(a) >= 8*words && len(b) >= 8*words && len(dst) >= 8*words && words > 0 {
		carry := uint64(0)
		for range words {
			var s uint64
			s, carry = bits.Add64(word.Uint64(a), word.Uint64(b), carry)
			word.PutUint64(dst, s)
			dst, a, b = dst[8:], a[8:], b[8:]
		}
	}
}
