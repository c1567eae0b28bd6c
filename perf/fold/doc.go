// Package fold measures the keyed windowed fold: tumbling windows, count and sum of
// an int64 for each 8-byte key. Three do the same to the same events, in turns:
//
//	headrace  [exchange.Keyer] and [window.State]: canonical key, XXH64, pane, table, aggregates
//	map       a Go program's way: one map a window, from key to a slot of sums
//	flat      C++: flat.cpp, an open-addressed table a window, XXH64, prefetch by batch
//
// A round is a whole window's worth of events. They are made in chunks of 4,096,
// outside the time taken, so that they are in the cache as decode leaves them; they
// are out of order over 4,096 events and two windows are open at a time. What is
// timed as fold, on all three: choosing the window, making and hashing the key,
// finding or adding its entry, adding to count and 128-bit sum, and following the
// watermark. Putting the rows of a passed window out and emptying its table is timed
// apart, as close. Rows are compared after each round by an order-free checksum.
//
// Times are processor time of the thread: on a shared machine what a neighbor takes
// of the core is not counted, what it does to the caches is.
package fold
