package xsk

import "github.com/headrace/headrace/dataplane/steer"

// A Frame is one received frame. Data begins at the Ethernet header. It is valid
// until the receiver's Release.
type Frame struct {
	Data []byte
	Meta steer.Meta
	// Packet is the packet's number in the capture (replay only), from 1.
	Packet uint64
}

// A Receiver gives a worker its frames. It is used by the worker's thread only.
type Receiver interface {
	// Receive fills frames from the front and returns how many. It does not block.
	Receive(frames []Frame) int
	// Release gives back all frames that the last Receive returned.
	Release()
}
