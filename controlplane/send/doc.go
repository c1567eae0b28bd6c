// Package send puts frames onto an interface: captures, at a rate, at the pace at
// which they were taken, or as fast as the interface takes them ([Run]), and any
// other frames with a schedule ([Sender.Stream]).
//
// A [Sender] is a packet socket that bypasses the queueing discipline and hands the
// kernel up to 64 frames in one call. It is an open loop: a frame is due at its own
// time, however late the one before it was. What the interface refuses is counted
// and not sent again, so that sent + refused + skipped is the number of frames asked for.
package send
