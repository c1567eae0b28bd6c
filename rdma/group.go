package rdma

import (
	"errors"
	"log/slog"
	"time"

	"github.com/headrace/headrace/rdma/collective"
)

// Why a round did not come about.
var (
	// ErrNoEpoch reports that this peer is in no epoch: too few peers are reached.
	ErrNoEpoch = errors.New("too few peers for an epoch")
	// ErrAgain reports a round that does not count: its epoch ended before it was
	// complete. Contribute anew when the next epoch is there.
	ErrAgain = errors.New("the epoch ended before the round was complete")
	// ErrOp reports an operation that the members do not agree on.
	ErrOp = errors.New("members disagree on the operation")
	// ErrTooLarge reports a contribution beyond the limit.
	ErrTooLarge = errors.New("the contribution is too large")
)

// GroupConfig makes a [Group].
type GroupConfig struct {
	// Names are the configured peers' ids, sorted; a peer's number is its place. Required.
	Names []string
	// Me is our number.
	Me int
	// Quorum says what an epoch needs. Its Peers is len(Names).
	Quorum collective.Quorum
	// Control reaches the peers. Required. The group does not close it.
	Control Control
	// Transports in order of preference; an epoch uses the first that all its members
	// can open and whose probe comes through. Required.
	Transports []Transport
	// Seal encrypts and authenticates frames with keys from Key. Nil: frames are
	// checked but not sealed.
	Seal func(peer int, epoch uint64) (send, receive [32]byte, err error)
	// Period is the group's clock: proposals wait for it, and a transport that failed
	// is tried again after ten times as long. Zero: 1 s.
	Period time.Duration
	// Spin is how long a round polls before it waits in the kernel. Zero: 0, which is
	// right on shared cores; negative: for ever.
	Spin time.Duration
	// ContributionMax bounds the bytes of a contribution to one peer. Zero: 1 GiB.
	ContributionMax int
	Log             *slog.Logger
}

// An Epoch is who is in the group now.
type Epoch struct {
	Number  uint64 // 0: none
	Me      int
	Members collective.Set
	// Carried are the members that were in the epoch before and have seen all its
	// rounds; the others know nothing of it.
	Carried   collective.Set
	Previous  uint64 // the epoch that Carried come from
	Transport string
}

// A Gathered is the outcome of an Exchange: what every member contributed, in the
// order of members. It is valid until the group's next call.
type Gathered struct {
	Epoch Epoch
	Round uint64
	From  []Part // one a member, lowest first, ours included
}

// A Part is what one member contributed.
type Part struct {
	Peer   int
	Header []byte // the same at every receiver
	Body   []byte // for us
}

// A Result is the outcome of an AllReduce.
type Result struct {
	Epoch        Epoch
	Round        uint64
	Contributors collective.Set
}

// News is why [Group.Wait] returned; several bits may be set.
type News uint8

// The bits of a news.
const (
	NewsRound News = 1 << iota // a member has begun a round that we have not
	NewsEpoch                  // the epoch is another one, or none
	NewsWoken                  // Wake was called
)
