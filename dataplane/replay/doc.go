// Package replay gives workers the frames of a capture instead of those of a NIC.
//
// A [Source] reads records, steers them as the XDP program would (package steer) and
// numbers them: the packet's number in the capture is its position, by which replay
// is deterministic. With one worker the [Source] is its receiver. With several, a
// [Spreader] deals the frames out, and each worker's receiver knows which packet it
// may see next, so that lanes can be merged by position.
package replay
