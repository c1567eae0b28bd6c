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
	// ErrClosed reports a group that was closed.
	ErrClosed = errors.New("the group is closed")
	// ErrConfig reports a configuration that cannot be.
	ErrConfig = errors.New("a group that cannot be")
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
	// Crossover is the length in bytes from which AllReduce goes in two steps, each
	// member reducing a slice. Zero: measured at the start of an epoch; negative:
	// never. The lowest member's counts.
	Crossover int
	// Log is told of what an operator should know. Nil: slog.Default().
	Log *slog.Logger
}

// An Epoch is who is in the group now.
type Epoch struct {
	Number  uint64 // 0: none
	Me      int
	Members collective.Set
	// Carried are the members that have seen the result of every round up to and with
	// the last one that counts, which was in epoch Previous; the others know nothing of
	// it. Both are the same at all members. Empty and 0: there has been no such round.
	Carried   collective.Set
	Previous  uint64
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

// A Late is the outcome of a round whose call ended with ErrNoEpoch, because it could
// not be known then whether it counts. It does.
type Late struct {
	Gathered *Gathered // of an Exchange
	Result   Result    // of an AllReduce, with
	Vector   []byte    // what it came to
}

// A State is what an operator may want to see of a group.
type State struct {
	Epoch Epoch
	Round uint64
	// Hears says of each peer whom that one hears, as far as we know.
	Hears []collective.Set
	// Shunned are the peers that count as not heard for a while because frames do not
	// get through between them and us.
	Shunned collective.Set
}

// A Group is our part in a group of peers. One goroutine uses it; only Wake, Stats,
// State and Close may be called from others. Nothing goes on between the calls of
// Wait, AllReduce and Exchange, so one of them should be running nearly always.
type Group struct {
	c       GroupConfig
	bell    *Bell
	using   sync.Mutex // held by the call that is running
	closed  atomic.Bool
	woken   atomic.Bool
	tally   tally

	agreement
	path
	rounds
}
