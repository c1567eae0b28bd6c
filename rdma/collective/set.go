package collective

import "math/bits"

// PeersMax bounds the configured peers of a group.
const PeersMax = 16

// A Set is a set of peers: bit i is peer i.
type Set uint32

// Of returns the set of the given peers.
func Of(peers ...int) (s Set) {
	for _, p := range peers {
		s |= 1 << p
	}
	return s
}

// First returns the set of the n lowest peers.
func First(n int) Set { return 1<<n - 1 }

// Has reports that peer p is in s.
func (s Set) Has(p int) bool { return s>>p&1 != 0 }

// With returns s and peer p.
func (s Set) With(p int) Set { return s | 1<<p }

// Without returns s without peer p.
func (s Set) Without(p int) Set { return s &^ (1 << p) }

// Len returns the number of peers in s.
func (s Set) Len() int { return bits.OnesCount32(uint32(s)) }

// Lowest returns the lowest peer of s, which must not be empty.
func (s Set) Lowest() int { return bits.TrailingZeros32(uint32(s)) }

// All yields the peers of s, lowest first.
func (s Set) All(yield func(int) bool) {
	for ; s != 0; s &= s - 1 {
		if !yield(bits.TrailingZeros32(uint32(s))) {
			return
		}
	}
}

// After returns the next peer of s after p, going round: the peer that stands in for
// p. It is p itself if s has no other. s must not be empty.
func (s Set) After(p int) int {
	if up := s >> (p + 1) << (p + 1); up != 0 {
		return up.Lowest()
	}
	return s.Lowest()
}
