package xsk

import "github.com/headrace/headrace/dataplane/steer"

// A Frame is one received frame. Data begins at the Ethernet header. It is valid
// until the receiver's Release.
type Frame struct {
	Data []byte
	Meta steer.Meta
	// Packet says which packet it is: in replay its number in the capture, from 1; of a
	// Port the place that [Frame.Place] tells.
	Packet uint64
}

// Place returns where a Port found the frame: the ring, an index of [Port.Sockets],
// and the position in it. The next process finds it there too, until it is released.
func (f *Frame) Place() (ring int, position uint32) {
	return int(f.Packet >> 32), uint32(f.Packet)
}

// A Receiver gives a worker its frames. It is used by the worker's thread only.
type Receiver interface {
	// Receive fills frames from the front and returns how many. It does not block.
	Receive(frames []Frame) int
	// Release gives back all frames that the last Receive returned.
	Release()
}
