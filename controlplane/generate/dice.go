package generate

import (
	"math/bits"
	"math/rand/v2"
)

// Dice are a stream of random numbers. The generator behind them, PCG-DXSM, is
// fixed; what is made of its numbers is our own, so that no release of the
// standard library can change what a seed means.
type dice struct{ pcg rand.PCG }

func newDice(seed, stream uint64) dice { return dice{*rand.NewPCG(seed, stream)} }

// below returns a number in [0, n). n must be positive.
func (d *dice) below(n uint64) uint64 {
	hi, _ := bits.Mul64(d.pcg.Uint64(), n)
	return hi
}

// low returns a number in [0, n) that is rather small: the least of three.
func (d *dice) low(n uint64) uint64 { return min(d.below(n), d.below(n), d.below(n)) }

// hit returns true with probability p.
func (d *dice) hit(p float64) bool {
	const one = 1 << 53
	return float64(d.pcg.Uint64()>>11) < p*one
}
