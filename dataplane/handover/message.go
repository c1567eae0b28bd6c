package handover

import (
	"fmt"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/recorder"
	"github.com/headrace/headrace/dataplane/xsk"
)

// Version is the version of this conversation. A control of another version cannot
// adopt a data plane.
const Version = 4

// Kind is the kind of a message.
type Kind uint8

// The kinds; package doc says who sends them.
const (
	Start Kind = iota + 1
	Owners
	Members
	Ready
	Keep
	Lost
	Ended
	Refused
	Running
	Adopt
	Poison
	Move
	Moved
	Fresh
	End
)

var kindNames = [...]string{Start: "start", Owners: "owners", Members: "members", Ready: "ready", Keep: "keep", Lost: "lost", Ended: "ended", Refused: "refused", Running: "running", Adopt: "adopt", Poison: "poison", Move: "move", Moved: "moved", Fresh: "fresh", End: "end"}

// String names the kind.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// StartBody goes with the descriptors of the segment's data file, its control file, and
// the lock that says that this data plane lives; then those of Kept, of From, and the
// pidfd of Former.
type StartBody struct {
	Plan   *plan.Plan
	Layout xsk.Layout
	// Dir is the folder for the socket of an orphan.
	Dir string
	// Resume are the watermarks of the data plane before this one, by worker, then
	// query; nil if there was none.
	Resume [][]event.Nanos
	// Kept is what the data plane is made of where that outlives its process; nil: the
	// data plane makes sockets and memory of its own, which end with it.
	Kept *KeptBody
	// Try asks only whether this binary could go on with what is kept: the answer is
	// Ready or Refused, and the process ends. The data plane before it may be running.
	Try bool
	// Owners is the worker of each key group; nil: they are spread evenly.
	Owners *[event.GroupCount]uint16
	// From is another data plane, of another plan, whose state goes on in this one; nil:
	// there is none.
	From *FromBody
	// Former says that the data plane before this one still runs. Once Keep has come, which
	// makes this one independent of control, it is ended: see pidfd_open(2).
	Former bool
	// Fault says that the data plane before this one failed by itself: a frame that a
	// failed worker had in hand is not looked at again.
	Fault bool
	// Places is where the workers belong, in their order; empty: anywhere. Others are the
	// CPUs for all other threads; empty: any. Resident makes the workers' memory be there
	// beforehand, and stay.
	Places   []Place
	Others   []int
	Resident bool
}

// A Place is where a worker belongs.
type Place struct {
	// CPU is the one to run on, -1: any. Node is the memory node, -1: any.
	CPU, Node int
}

// Placed is where a worker is.
type Placed struct {
	// Place is what was asked for.
	Place
	// CPUs are those that the thread may run on.
	CPUs []int
	// Bytes is how large the worker's memory is. Of as many Pages, taken from all of it,
	// Remote are not on the node; Huge is how many bytes are in huge pages.
	Bytes, Pages, Remote, Huge int
	// Resident says that the memory was to be there beforehand, in huge pages if there are
	// any, and to stay; Locked that it stays.
	Resident, Locked bool
	// Why is why something is not as it was asked for; "" if all is.
	Why string
	// Recorder is where in that memory the worker's latest frames are.
	Recorder recorder.Place
}

// KeptBody describes sockets and memory that outlive a data plane. Its descriptors are,
// in this order: the owners' sockets and their memories, each in the order of
// xsk.Layout.Owners; the members' sockets, in the order of xsk.Layout.Members; a region
// for each worker; the region that the workers share; the region of the queues, which
// belongs to the sockets.
type KeptBody struct {
	Owners, Members, Regions int
	// ZeroCopy is what each owner was granted.
	ZeroCopy []bool
	// Fallback is why zero-copy was tried and not granted, "" elsewhere.
	Fallback []string
	// Memory and Granted are what each owner's frames were to be of and are.
	Memory  []xsk.Memory
	Granted []xsk.Granted
}

// Descriptors returns how many descriptors go with k.
func (k *KeptBody) Descriptors() int { return 2*k.Owners + k.Members + k.Regions + 2 }

// FromBody describes a data plane that has ended while it was held. The descriptors of its
// workers' regions and of the region that they shared come behind those of Kept. They are
// only read.
type FromBody struct {
	Plan    *plan.Plan
	Regions int
	// Feeds and Queries have, for each of the new plan, the number in Plan of the one whose
	// state goes on in it, or -1.
	Feeds, Queries []int
}

// PoisonBody is what a worker had in hand when it failed.
type PoisonBody struct {
	Worker  int
	Feed    int
	Stage   string
	Failure string // what went wrong
	// Frame is the frame that it had begun last, from its Ethernet header on; empty if it
	// had none. Received is when that came, CLOCK_MONOTONIC.
	Frame    []byte
	Received event.Nanos
	// Interface is where that came from.
	Interface string
	// Left says that the next data plane leaves that frame out.
	Left bool
}

// ReadyBody says how the start went. If the process is confined, the descriptor comes
// with it that tells of system calls which were denied.
type ReadyBody struct {
	// Warm: state was kept. A batch that was under way has been taken back.
	Warm bool
	// Unconfined says why the process is not confined; "" if it is.
	Unconfined string
	// Placed is where the workers are, in their order.
	Placed []Placed
	// Owners is the worker of each key group: a move of the process before may have been
	// finished, or taken back. Nil where there is one worker.
	Owners *[event.GroupCount]uint16
}

// MoveBody asks for key groups to be given to a worker, while all workers are held.
type MoveBody struct {
	Groups []int
	To     int
}

// MovedBody says how many groups of a MoveBody were moved, from the first on, and what
// was wrong with the next one; "" if all were.
type MovedBody struct {
	Moved int
	Error string
	// Owners is the worker of each key group now.
	Owners *[event.GroupCount]uint16
}

// OwnersBody goes with the owners' descriptors, in the order of xsk.Layout.Owners.
type OwnersBody struct {
	// ZeroCopy is what each owner was granted.
	ZeroCopy []bool
	// Fallback is why zero-copy was tried and not granted, "" elsewhere.
	Fallback []string
}

// KeepBody goes with descriptors that the data plane holds for the next control. It
// does not know what they are; the description says it to who made it.
type KeepBody struct {
	Description []byte
}

// FreshBody is what a data plane says of itself that waits for its start.
type FreshBody struct {
	Version int
	PID     int
}

// LostBody says which interface went away.
type LostBody struct {
	Interface string
	Error     string
}

// RefusedBody says why a start failed.
type RefusedBody struct {
	Error string
}

// RunningBody goes with the descriptors of the segment's data file and control file,
// then those of Kept, then, if Confined, the one of denied system calls, then those of
// Keep.
type RunningBody struct {
	Version     int
	PID         int
	Layout      xsk.Layout
	ZeroCopy    []bool
	Placed      []Placed
	Kept        *KeptBody // as in StartBody
	Confined    bool
	Description []byte
}
