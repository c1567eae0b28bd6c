package aggregate_test

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"testing"
)

// FuzzValue checks that no state, however it was made, makes Value or Merge
// panic, and that what comes out is null with a reason or a JSON number.
func FuzzValue(f *testing.F) {
	q := everyAggregate()
	s := newSet(f, q)
	r := rand.New(rand.NewPCG(9, 9))
	in := tuples(r, 50, mix{nulls: 9, floats: spread})
	var good []byte
	for _, w := range foldAll(r, s, in, make([]int, len(in)), 1) {
		good = binary.LittleEndian.AppendUint64(good, w)
	}
	f.Add(good)
	f.Add([]byte{})
	seen := make([]byte, 8*s.Words())
	for i := range seen {
		seen[i] = 0x55
	}
	f.Add(seen)
	f.Fuzz(func(t *testing.T, in []byte) {
		state := make([]uint64, s.Words())
		for i := range state {
			if len(in) >= 8 {
				state[i] = binary.LittleEndian.Uint64(in)
				in = in[8:]
			}
		}
		for range 2 {
			for i := range q.Aggregates {
				text, reason := s.AppendJSON(nil, i, state)
				if (string(text) == "null") != (reason != "") || !json.Valid(text) {
					t.Fatalf("%s = %s, reason %q", q.Aggregates[i].Name, text, reason)
				}
				s.Value(i, state).Float64()
				s.Value(i, state[:len(state)/2])
			}
			other := make([]uint64, s.Words())
			for i := range other {
				other[i] = state[len(state)-1-i]
			}
			s.Merge(state, other)
		}
	})
}
