package rdma

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
)

// naive is each op's definition, one element at a time, in big integers.
func naive(op Op, a, b []byte) []byte {
	signed := func(p []byte) *big.Int {
		r := make([]byte, len(p))
		for i := range p {
			r[len(p)-1-i] = p[i]
		}
		n := new(big.Int).SetBytes(r)
		if n.Bit(8*len(p)-1) != 0 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(p))))
		}
		return n
	}
	put := func(n *big.Int, size int) []byte {
		n = new(big.Int).Mod(n, new(big.Int).Lsh(big.NewInt(1), uint(8*size)))
		r := n.FillBytes(make([]byte, size))
		for i, j := 0, size-1; i < j; i, j = i+1, j-1 {
			r[i], r[j] = r[j], r[i]
		}
		return r
	}
	o, err := op.operation()
	if err != nil {
		panic(err)
	}
	var out []byte
	for at := 0; at < len(a); at += o.element {
		x, y := a[at:at+o.element], b[at:at+o.element]
		switch op {
		case MinInt64, MaxInt64:
			if (signed(x).Cmp(signed(y)) < 0) == (op == MinInt64) {
				out = append(out, x...)
			} else {
				out = append(out, y...)
			}
		case MaxUint8:
			out = append(out, max(x[0], y[0]))
		case Or:
			out = append(out, x[0]|y[0])
		default:
			out = append(out, put(new(big.Int).Add(signed(x), signed(y)), o.element)...)
		}
	}
	return out
}

var allOps = []Op{SumInt64, SumUint64, MinInt64, MaxInt64, MaxUint8, Or, Sum128, SumBins(1), SumBins(3), SumBins(BinsWordsMax)}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for at := 0; at < n; at += 8 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], r.Uint64())
		switch how := r.Uint32(); how & 3 { // carries and equal words are rare among uniform ones
		case 0:
			clear(w[how>>4&7:])
		case 1:
			for i := range w[how>>4&7:] {
				w[i] = 0xff
			}
		}
		copy(b[at:], w[:])
	}
	return b
}

func TestOpsDoWhatTheyAreDefinedToDo(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, op := range allOps {
		o, err := op.operation()
		if err != nil {
			t.Fatal(err)
		}
		for _, elements := range []int{0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 200} {
			a, b := randomBytes(r, elements*o.element), randomBytes(r, elements*o.element)
			want := naive(op, a, b)
			got := make([]byte, len(a))
			o.into(got, a, b)
			if !bytes.Equal(got, want) {
				t.Fatalf("%v of %d elements: %x and %x = %x, want %x", op, elements, a, b, got, want)
			}
			o.into(a, a, b)
			if !bytes.Equal(a, want) {
				t.Fatalf("%v of %d elements in place differs", op, elements)
			}
		}
	}
}

func TestMaxOfBytesOfEveryPair(t *testing.T) {
	for x := range 256 {
		for y := range 256 {
			a := uint64(x)<<56 | uint64(y)<<32 | uint64(x)<<8 | uint64(y)
			b := uint64(y)<<56 | uint64(x)<<32 | uint64(y)<<8 | uint64(x)
			m := uint64(max(x, y))
			if got, want := maxBytes(a, b), m<<56|m<<32|m<<8|m; got != want {
				t.Fatalf("maxBytes(%x, %x) = %x, want %x", a, b, got, want)
			}
		}
	}
}

// affine is not commutative: elements are maps x -> mx + c, and the fold composes them.
func affine(dst, src []byte) {
	for i := 0; i+16 <= len(dst); i += 16 {
		m, c := binary.LittleEndian.Uint64(dst[i:]), binary.LittleEndian.Uint64(dst[i+8:])
		n, d := binary.LittleEndian.Uint64(src[i:]), binary.LittleEndian.Uint64(src[i+8:])
		binary.LittleEndian.PutUint64(dst[i:], m*n)
		binary.LittleEndian.PutUint64(dst[i+8:], n*c+d)
	}
}

var affineOp = func() Op {
	op, err := RegisterOp("affine", 1, affine, 16)
	if err != nil {
		panic(err)
	}
	return op
}()

func TestOpsAreRegisteredOnce(t *testing.T) {
	for _, c := range []struct {
		name            string
		number, element int
	}{{"affine", 2, 8}, {"other", 1, 8}, {"", 3, 8}, {"x", -1, 8}, {"x", UserOpMax + 1, 8}, {"x", 3, 0}, {"x", 3, FrameMax + 1}} {
		if _, err := RegisterOp(c.name, c.number, affine, c.element); !errors.Is(err, ErrOpUnknown) {
			t.Errorf("RegisterOp(%q, %d, %d) = %v, want ErrOpUnknown", c.name, c.number, c.element, err)
		}
	}
	for _, op := range []Op{0, opBuiltin, binsOps, userOps + 77} {
		if _, err := op.operation(); !errors.Is(err, ErrOpUnknown) {
			t.Errorf("op %d: %v, want ErrOpUnknown", op, err)
		}
	}
	if got := affineOp.String() + " " + SumBins(3).String() + " " + SumInt64.String(); got != "affine sum_bins_3 sum_int64" {
		t.Errorf("names: %s", got)
	}
}

func BenchmarkFold(b *testing.B) {
	for _, op := range []Op{SumInt64, MaxInt64, MaxUint8, Or, Sum128, SumBins(3)} {
		b.Run(fmt.Sprintf("op=%v/bytes=65536", op), func(b *testing.B) {
			o, err := op.operation()
			if err != nil {
				b.Fatal(err)
			}
			n := 65536 / o.element * o.element
			x, y := make([]byte, n), make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				o.into(x, x, y)
			}
		})
	}
}
