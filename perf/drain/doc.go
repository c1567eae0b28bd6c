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
// It needs root and gcc. Run it on a quiet machine: the ring is filled from CPU 0 and
// drained on the last CPU.
package drain
