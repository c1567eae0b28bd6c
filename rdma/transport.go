package rdma

import (
	"time"

	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// A Transport makes meshes: one for each epoch that chooses it.
type Transport interface {
	// Name is the transport's name in metrics: tcp, verbs, loop.
	Name() string
	// Prepare gets ready for an epoch with the given members and returns what each of
	// them must know of us, by peer; entries of other peers are nil. An error means
	// that the transport cannot be used now. A later Prepare takes an earlier one back
	// unless it was opened.
	Prepare(epoch uint64, members collective.Set) (offers [][]byte, err error)
	// Open connects to the members with what they offered to us, by peer. The epoch
	// was prepared. It returns within c.Patience.
	Open(c MeshConfig) (Mesh, error)
	Close() error
}

// A MissingError is the error of an Open that did not come about because of some
// members alone.
type MissingError struct {
	Peers collective.Set
	Err   error
}

// Error is the reason's text.
func (e *MissingError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *MissingError) Unwrap() error { return e.Err }

// MeshConfig says what to open.
type MeshConfig struct {
	Epoch    uint64
	Me       int
	Members  collective.Set
	Offers   [][]byte // by peer, opaque
	Patience time.Duration
	// Bell wakes a Park from outside. Required.
	Bell *Bell
	// Codec encodes and checks every frame. Required.
	Codec *frame.Codec
}

// A Mesh carries frames among the members of one epoch. Between two members frames
// arrive in the order sent, whole, or not at all once the pair has failed. One
// goroutine uses it. Send and Poll do not allocate.
type Mesh interface {
	// Send gives the frame to every peer in to and returns those for which it was
	// taken. The others have no room now: send to them again after a Poll. payload
	// is at most FrameMax long and is the caller's again when Send returns.
	// Send fills in the header's Length, Source and Epoch.
	Send(to collective.Set, h *frame.Header, payload []byte) (taken collective.Set)
	// Poll fills in what has come, without blocking, and returns how many. Payloads
	// are valid until the next Poll. Every frame has been checked by the codec: a bad
	// one is counted there and, unless only its epoch is old, fails its peer.
	Poll(events []Event) int
	// Park returns when Poll may have something, when the bell rings, or after d.
	// It may return early.
	Park(d time.Duration)
	// Close lets go of everything, at once. Frames taken but not sent may be lost.
	Close() error
}

// FrameMax is the greatest payload of a frame.
const FrameMax = 64 << 10

// An Event is a frame that has come or, with Err, the failure of a peer, which is told
// once.
type Event struct {
	Peer    int
	Header  frame.Header
	Payload []byte
	Err     error
}

// Control is what peers use to agree: connections that are there whether or not an
// epoch is. Its methods may be called from any goroutine and do not block.
type Control interface {
	// Send queues msg for peer. If that is not connected or its queue is full, msg is
	// lost: whoever needs an answer asks again.
	Send(peer int, msg []byte)
	// Receive takes the next message, if there is one. msg is the caller's.
	Receive() (peer int, msg []byte, ok bool)
	// Hears fills in, for every peer that we hear, whom that one said that it hears,
	// and for ourselves whom we hear (ourselves included). hears has an entry a peer.
	Hears(hears []collective.Set)
	// Notify sets the bell that rings when Receive or Hears has something new.
	Notify(*Bell)
}
