package gaps

import (
	"sync/atomic"
	"time"
	_ "unsafe" // for the links into the runtime
)

// nanotime is CLOCK_MONOTONIC in nanoseconds, as the trace events' clock is; time.Now
// reads the wall clock too and hides this number.
//
//go:linkname nanotime runtime.nanotime
func nanotime() int64

// procPin keeps the runtime from taking the thread's turn away: a loop without a call
// that yields would otherwise be interrupted a hundred times a second, by the very
// program that counts interruptions.
//
//go:linkname procPin runtime.procPin
func procPin() int

//go:linkname procUnpin runtime.procUnpin
func procUnpin()

// window is the span of which the worst gap is kept.
const window = int64(time.Millisecond)

// gapsMax bounds the gaps of one core that are kept for their causes.
const gapsMax = 1 << 16

// A gap is [from, to) on the monotonic clock.
type gap struct{ from, to int64 }

func (g gap) length() int64 { return g.to - g.from }

// A spinner is the loop of one core. Everything that it writes is there before.
type spinner struct {
	over int64 // gaps from here on are kept
	end  int64 // on the monotonic clock
	stop *atomic.Bool

	tally tally
	kept  []gap // up to its capacity
	count uint64
	lost  int64
	least int64
	begun int64
	ended int64
}

// spin reads the clock until the end. The runtime cannot stop the world meanwhile, so
// the end must be near.
func (s *spinner) spin() {
	procPin()
	last := nanotime()
	s.begun, s.least = last, 1<<62
	edge, worst := last+window, int64(0)
	for last < s.end && !s.stop.Load() {
		now := nanotime()
		g := now - last
		s.least = min(s.least, g)
		worst = max(worst, g)
		if g >= s.over {
			s.count++
			s.lost += g
			if len(s.kept) < cap(s.kept) {
				s.kept = append(s.kept, gap{last, now})
			}
		}
		for now >= edge {
			s.tally.add(worst)
			worst = g // it reaches into the next
			edge += window
		}
		last = now
	}
	s.ended = last
	procUnpin()
}
