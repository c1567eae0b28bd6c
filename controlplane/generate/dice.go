package generate

import (
	"math/bits"
	"math/rand/v2"
)

// Dice are a stream of random numbers. The generator behind them, PCG-DXSM, is
// fixed; what is made of its numbers is our own, so that no release of the
// standard library can change what a seed means.
type dice struct{ pcg rand.PCG }

// newDice returns one of the streams of a seed.
func newDice(seed, stream uint64) dice {
	const golden = 0x9e3779b97f4a7c15
	at := seed + 2*stream*golden
	return dice{*rand.NewPCG(mix(at), mix(at+golden))}
}

// mix is the output function of SplitMix64: neighboring seeds become distant states.
func mix(v uint64) uint64 {
	v = (v ^ v>>30) * 0xbf58476d1ce4e5b9
	v = (v ^ v>>27) * 0x94d049bb133111eb
	return v ^ v>>31
}

// below returns a number in [0, n). n must be positive.
func (d *dice) below(n uint64) uint64 {
	hi, _ := bits.Mul64(d.pcg.Uint64(), n)
	return hi
}

// low returns a number in [0, n) that is rather small: the least of three.
func (d *dice) low(n uint64) uint64 { return min(d.below(n), d.below(n), d.below(n)) }

// key returns a number in [0, n): half of the time any, else a rather small one, so
// that some keys are busy and none is forgotten.
func (d *dice) key(n uint64) uint64 {
	if d.below(2) == 0 {
		return d.below(n)
	}
	return d.low(n)
}

// hit returns true with probability p.
func (d *dice) hit(p float64) bool {
	const one = 1 << 53
	return float64(d.pcg.Uint64()>>11) < p*one
}
