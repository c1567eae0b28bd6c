package export

import (
	"math/bits"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Latency is how long rows took, from the receipt of the packet that closed their
// window until the sink had committed them. Rows that no packet caused (a replay's,
// a stop's) are not in it. Quantiles are at most 1/32 above the truth.
type Latency struct {
	Rows uint64 `json:"rows"` // that were measured, by this control process
	P50  uint64 `json:"p50_nanos"`
	P99  uint64 `json:"p99_nanos"`
	P999 uint64 `json:"p99_9_nanos"`
	Max  uint64 `json:"max_nanos"`
	Sum  uint64 `json:"sum_nanos"`
	// Below[i] is the number of rows that took less than 2^(LatencyLeast+i)
	// nanoseconds. It is not part of the JSON form.
	Below []uint64 `json:"-"`
}

// The bounds of Latency.Below: 16 µs to 17 s.
const (
	LatencyLeast = 14
	LatencyMost  = 34
)

// A latency falls into one of 32 equal parts of its octave; what is longer than 18
// minutes counts as that long.
const (
	partBits    = 5
	parts       = 1 << partBits
	octaves     = 40 - partBits + 1
	latencyMost = 1<<40 - 1
)

// latencies is a histogram that one goroutine adds to while others read.
type latencies struct {
	counts [octaves * parts]atomic.Uint64
	sum    atomic.Uint64
	max    atomic.Uint64
}

// part returns the number of the bucket of v.
func part(v uint64) int {
	e := max(bits.Len64(v)-partBits-1, 0)
	return e*parts + int(v>>e)
}

// partEnd returns the greatest value in bucket i.
func partEnd(i int) uint64 {
	e := max(i/parts-1, 0)
	return uint64(i-e*parts+1)<<e - 1
}

// add counts one row.
func (l *latencies) add(nanos uint64) {
	nanos = min(nanos, latencyMost)
	l.counts[part(nanos)].Add(1)
	l.sum.Add(nanos)
	if nanos > l.max.Load() {
		l.max.Store(nanos)
	}
}

// read returns what was added so far. What is added meanwhile is in it or not.
func (l *latencies) read() Latency {
	var counts [len(l.counts)]uint64
	r := Latency{Sum: l.sum.Load(), Below: make([]uint64, LatencyMost-LatencyLeast+1)}
	bound := 0
	for i := range counts {
		for bound < len(r.Below) && i == part(1<<(LatencyLeast+bound)) {
			r.Below[bound] = r.Rows
			bound++
		}
		counts[i] = l.counts[i].Load()
		r.Rows += counts[i]
	}
	r.Max = l.max.Load()
	for _, q := range []struct {
		to       *uint64
		perMille uint64
	}{{&r.P50, 500}, {&r.P99, 990}, {&r.P999, 999}} {
		*q.to = min(quantile(&counts, r.Rows, q.perMille), r.Max)
	}
	return r
}

// quantile returns the end of the bucket of the row that perMille of all n rows are
// not slower than.
func quantile(counts *[octaves * parts]uint64, n, perMille uint64) uint64 {
	rank := (n*perMille + 999) / 1000
	for i, c := range counts {
		if c >= rank {
			return partEnd(i)
		}
		rank -= c
	}
	return 0
}

// monotonic reads the clock that the kernel stamps packets with.
func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // this clock is always there
	return uint64(ts.Nano())
}
