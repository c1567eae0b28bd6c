// Package gaps measures what takes a core away from a thread that never gives it up.
//
// One thread a core reads the clock over and over; a gap is the time between two
// readings. Of each millisecond the worst gap is kept, so that a percentile says how
// many milliseconds were as good: p99.9 of 12 µs means that in 999 of 1000
// milliseconds nothing took the core for longer than that. A packet that comes at any
// moment waits longer than p99.9 with a chance of less than one in a thousand; a
// percentile over all readings would say nothing, since most of them are the loop's
// own 30 ns. A gap that reaches into several milliseconds counts in each.
//
// Gaps above a threshold are kept with their times and matched with the kernel's
// trace events of that CPU: who ran, which interrupt came. What no event accounts for
// is "unexplained": the firmware (SMI) or the hypervisor.
//
//	Measure    measure.go    threads, affinity, what the kernel counted meanwhile
//	join       group.go      into a partition that has the cores
//	spinner    spin.go       the loop
//	tally      tally.go      milliseconds by their worst gap
//	readEvents trace.go      the lines of a trace
//	explain    cause.go      gaps and events -> causes
//
// It needs no privilege but for the trace events; without them causes are unknown,
// and [Report.CausesUnknown] says why. The threads take their cores whole: do not
// measure cores on which workers run.
package gaps
