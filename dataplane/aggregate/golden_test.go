package aggregate_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/headrace/headrace/dataplane/event"
)

// golden is the SHA-256 of the states and texts of a fixed set of events. It is
// the same on every architecture and at every GOAMD64: run this test there
// (GOAMD64=v3, or GOARCH=arm64 with -exec qemu-aarch64-static) to prove it. It
// changes with the layout of a state, which other processes and peers rely on.
const golden = "7d1ee3c382516f51ebe9c640dad8897e4860da71308548dc7f0372ef97a04f93"

func TestStatesAndTextsAreTheSameOnEveryArchitecture(t *testing.T) {
	q := everyAggregate()
	s := newSet(t, q)
	r := rand.New(rand.NewPCG(2026, 11))
	sum := sha256.New()
	const entries = 7
	mem := make([]uint64, entries*s.Words())
	b := newBatch()
	at, sel := make([]uint32, event.BatchMax), make([]uint16, event.BatchMax)
	// Ordinary values, in dollars and metres: nothing overflows.
	one := mix{nulls: 10, floats: func(r *rand.Rand) float64 { return float64(r.IntN(1<<40)-1<<39) / 1024 }}
	// Then whatever 64 bits can be.
	two := mix{nulls: 10, wild: true, floats: func(r *rand.Rand) float64 { return anyFloat(r) }}
	for _, m := range []mix{one, two} {
		for range 40 {
			load(b, tuples(r, event.BatchMax, m))
			for i := range at {
				at[i], sel[i] = uint32(r.IntN(entries-1)*s.Words()), uint16(i)
			}
			s.Fold(mem, at, b, sel)
		}
		for k := range entries {
			state := slices.Clone(mem[k*s.Words() : (k+1)*s.Words()])
			for _, w := range state {
				sum.Write(binary.LittleEndian.AppendUint64(nil, w))
			}
			for i := range q.Aggregates {
				text, reason := s.AppendJSON(nil, i, state)
				sum.Write(append(append(text, ' '), reason+"\n"...))
			}
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != golden {
		t.Errorf("hash = %s, want %s", got, golden)
	}
}
