package fold

import "math/bits"

// The stream of events. flat.cpp makes the same.
const (
	step   = 1000 // nanoseconds from an event to the next, before they are put out of order
	jitter = 4096 // events by which one may come late
	delay  = jitter * step

	batchMax = 256
	chunk    = 16 * batchMax
)

// mix is the output function of SplitMix64: a bijection.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// event returns the time, key and value of event n of a stream with that many keys.
func event(n, keys uint64) (t, key, value int64) {
	r := mix(n)
	id, _ := bits.Mul64(r, keys)
	t = int64((jitter + n - r>>16&(jitter-1)) * step)
	return t, int64(id * 0x9e3779b97f4a7c15), int64(r&0xffff) - 30000
}

// rowSum is one row's part of the checksum, which is the sum over all rows.
func rowSum(key, start int64, count, sum uint64) uint64 {
	return mix(uint64(key) + mix(uint64(start)+mix(count+mix(sum))))
}
