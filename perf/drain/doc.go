// Package drain measures how fast a worker empties a full RX ring, in Go by
// [github.com/headrace/headrace/dataplane/xsk] and in C by a small program that uses
// the kernel's interface directly (drain.c), over the same XDP program, in one run:
//
//	go test -bench Drain ./perf/drain
//
// Each round fills a ring of 4,096 descriptors, stops the sender, and takes the time
// from the first descriptor to the last, with the metadata of every frame read and
// checked and every frame given back through the fill ring, in batches of 64. The
// rounds of the two take turns; the figure is the median over at least 200 of each.
// What live traffic reached is reported beside it: there the sender is the limit on
// every machine whose packets are made by software, so it says nothing of the worker.
//
// Where the time goes: the kernel wrote every frame's metadata on another core and
// frames lie 2 KiB apart, so each is a cache miss and every second one a miss of the
// TLB. What a receiver can do is to have many of these misses under way at once. C's
// loop is short enough for the processor to see a dozen frames ahead; Go's copies the
// metadata out and checks more, so it first reads one word of each frame of the batch
// in a loop that does nothing else. BenchmarkPort of dataplane/xsk is the same path
// with everything in the cache: the difference is memory.
//
// It needs root and gcc. Run it on a quiet machine: the ring is filled from CPU 0 and
// drained on the last CPU.
package drain
