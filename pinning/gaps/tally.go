package gaps

import (
	"math/bits"
	"time"
)

// Buckets of a tally: 16 in each power of two, so that a percentile is at most 1/16 too
// high, and never too low.
const (
	stepBits = 4
	steps    = 1 << stepBits
	buckets  = (64 - stepBits) * steps
)

// Edges are the upper ends of the buckets that a [Core.Histogram] shows; the last
// bucket has none.
var Edges = [...]time.Duration{
	time.Microsecond, 2 * time.Microsecond, 5 * time.Microsecond,
	10 * time.Microsecond, 20 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 200 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
}

// A tally counts milliseconds by their worst gap.
type tally struct {
	fine   [buckets]uint64
	coarse [len(Edges) + 1]uint64
	count  uint64
	worst  int64
}

// add counts one; it neither allocates nor calls anything that does.
func (t *tally) add(nanos int64) {
	t.fine[bucket(nanos)]++
	i := 0
	for i < len(Edges) && nanos >= int64(Edges[i]) {
		i++
	}
	t.coarse[i]++
	t.count++
	t.worst = max(t.worst, nanos)
}

func bucket(nanos int64) int {
	v := uint64(max(nanos, 0))
	if v < steps {
		return int(v)
	}
	shift := bits.Len64(v) - 1 - stepBits
	return (shift+1)<<stepBits + int(v>>shift) - steps
}

// top is the greatest value of a bucket.
func top(b int) int64 {
	if b < steps {
		return int64(b)
	}
	shift := b>>stepBits - 1
	return int64(steps+b&(steps-1)+1)<<shift - 1
}

// quantile returns a value that at least num of each den milliseconds do not exceed.
func (t *tally) quantile(num, den uint64) int64 {
	want := (t.count*num + den - 1) / den
	seen := uint64(0)
	for b, n := range t.fine {
		if seen += n; seen >= want && n > 0 {
			return min(top(b), t.worst)
		}
	}
	return t.worst
}
