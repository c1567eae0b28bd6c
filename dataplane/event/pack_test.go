package event

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

func TestABatchThatWasPackedComesOutAsItWas(t *testing.T) {
	columns := []Column{{Type: Int64}, {Type: Text}, {Type: Float64}, {Type: Text}, {Type: Decimal, Scale: 3}}
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := NewBatch(columns)
		b.Position = r.Uint64()
		for range r.IntN(BatchMax + 1) {
			i := b.N
			b.Time[i], b.Chan[i], b.Order[i], b.Seq[i] = Nanos(r.Int64()), r.Uint64(), r.Uint64(), r.Uint64()
			b.Index[i], b.Source[i], b.Rank[i] = r.Uint32(), r.Uint32(), r.Uint32()
			for c := range columns {
				switch {
				case r.IntN(4) == 0:
					b.SetNull(c)
				case columns[c].Type == Text:
					text := make([]byte, r.IntN(TextMax+1))
					for j := range text {
						text[j] = byte(r.Uint32())
					}
					b.SetText(c, text)
				default:
					b.SetNum(c, r.Int64())
				}
			}
			b.N++
		}
		for range r.IntN(MarksMax + 1) {
			b.Marks = append(b.Marks, Mark{
				Kind: MarkKind(1 + r.IntN(6)), At: r.Uint32(), Source: r.Uint32(), Gap: r.Uint32(),
				Position: r.Uint64(), Time: Nanos(r.Int64()), Count: r.Uint64(),
			})
		}
		words := make([]uint64, b.PackWords())
		b.Pack(words)
		got := NewBatch(columns)
		got.Unpack(words)
		for _, x := range []*Batch{b, got} { // beyond the end nothing is promised
			clear(x.Marks[len(x.Marks):cap(x.Marks)])
		}
		if !reflect.DeepEqual(got, b) {
			t.Fatalf("seed %d: a batch of %d events and %d marks is another", seed, b.N, len(b.Marks))
		}
	}
}
