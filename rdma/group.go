package rdma

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
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
	// Stall is how long a round waits for members that are heard and of which nothing
	// comes, if the others are enough without them: they then count as not heard for as
	// long, and for twice as long each time that it happens again. Zero: ten periods, and
	// at least 5 s.
	Stall time.Duration
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
	// Carried are the members that have seen the result of every round that counts so
	// far; the others know nothing of them. It is the same at all members, and empty if
	// no round has counted yet.
	Carried   collective.Set
	Previous  uint64 // the epoch before, as members agree, whether rounds of it count or not
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
	c      GroupConfig
	bell   *Bell
	using  sync.Mutex // held by the call that is running
	closed atomic.Bool
	woken  atomic.Bool
	waking sync.Mutex
	tally  tally

	agreement
	path
	rounds
}

// NewGroup returns a group that is in no epoch yet. It wraps ErrConfig if c cannot be.
// It uses c's Control and Transports but does not close them.
func NewGroup(c GroupConfig) (*Group, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	bell, err := NewBell()
	if err != nil {
		return nil, err
	}
	peers := len(c.Names)
	g := &Group{c: c, bell: bell}
	// Ballots must be beyond those of an earlier life. Milliseconds keep the numbers of
	// epochs within what any reader of JSON takes for a whole number.
	g.machine = collective.New(collective.Config{
		Me: c.Me, Quorum: c.Quorum, Counter: uint64(time.Now().UnixMilli()),
	})
	g.hears, g.told = make([]collective.Set, peers), make([]collective.Set, peers)
	g.unfit, g.prepared = make([]time.Time, len(c.Transports)), make([]bool, len(c.Transports))
	g.epoch.Me = c.Me
	g.tally.begin(&g.c)
	c.Control.Notify(bell)
	bell.Ring() // what was there before is news too
	return g, nil
}

func (c *GroupConfig) check() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("rdma: %w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	switch {
	case len(c.Names) == 0 || len(c.Names) > collective.PeersMax:
		return wrong("%d peers; 1 to %d are possible", len(c.Names), collective.PeersMax)
	case !slices.IsSorted(c.Names) || len(slices.Compact(slices.Clone(c.Names))) != len(c.Names):
		return wrong("peers %v are not sorted or not different", c.Names)
	case c.Me < 0 || c.Me >= len(c.Names):
		return wrong("we are peer %d of %d", c.Me, len(c.Names))
	case c.Quorum.Peers != len(c.Names):
		return wrong("a quorum of %d peers in a group of %d", c.Quorum.Peers, len(c.Names))
	case c.Control == nil:
		return wrong("no control")
	case len(c.Transports) == 0 || len(c.Transports) > transportsMax:
		return wrong("%d transports; 1 to %d are possible", len(c.Transports), transportsMax)
	case c.ContributionMax < 0 || c.Period < 0 || c.Stall < 0:
		return wrong("a negative limit or period")
	}
	for i, t := range c.Transports {
		if t.Name() == "" || len(t.Name()) > nameMax || slices.ContainsFunc(c.Transports[:i], func(u Transport) bool { return u.Name() == t.Name() }) {
			return wrong("transport %q is there twice or has no usable name", t.Name())
		}
	}
	if c.Period == 0 {
		c.Period = time.Second
	}
	if c.Stall == 0 {
		c.Stall = max(10*c.Period, 5*time.Second)
	}
	if c.ContributionMax == 0 {
		c.ContributionMax = 1 << 30
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}

// enter begins a call that uses the group.
func (g *Group) enter() error {
	g.using.Lock()
	if g.closed.Load() {
		g.using.Unlock()
		return fmt.Errorf("rdma: %w", ErrClosed)
	}
	return nil
}

// Wait lets the group work for d at most: it agrees on epochs and takes in what members
// send. It returns early if there is news; NewsRound comes again until the round is
// begun. It returns at once if the group is closed.
func (g *Group) Wait(d time.Duration) News {
	if g.enter() != nil {
		return 0
	}
	defer g.using.Unlock()
	now := time.Now()
	until := now.Add(d)
	g.tick(now)
	var w waiter
	for {
		moved := g.turn()
		if news := g.takeNews(); news != 0 || g.closed.Load() {
			return news
		}
		if moved {
			w = waiter{}
			continue
		}
		if !time.Now().Before(until) {
			return 0
		}
		g.wait(&w, until)
	}
}

func (g *Group) takeNews() News {
	news := g.news
	g.news = 0
	if g.ahead && g.epoch.Number != 0 {
		news |= NewsRound
	}
	if g.woken.Load() && g.woken.Swap(false) {
		news |= NewsWoken
	}
	if news&NewsEpoch != 0 {
		g.seen = g.epoch.Number
	}
	return news
}

// Epoch returns the present epoch; its Number is 0 if there is none. A call that would
// run a round in an epoch that neither Epoch nor Wait has told of is refused with
// ErrAgain.
func (g *Group) Epoch() Epoch {
	g.using.Lock()
	defer g.using.Unlock()
	g.seen = g.epoch.Number
	return g.epoch
}

// Late returns the outcome of a round whose call ended with ErrNoEpoch and which counts
// after all; nil: there is none. Ask when the epoch is another one. What it returns is
// the caller's.
func (g *Group) Late() *Late {
	g.using.Lock()
	defer g.using.Unlock()
	l := g.late
	g.late = nil
	return l
}

// Leave says goodbye to the members, who then go on without us at once. Close comes
// next.
func (g *Group) Leave() {
	if g.enter() != nil {
		return
	}
	defer g.using.Unlock()
	g.reason = ChangeLeave
	g.act(g.machine.Leave(g.effects[:0]))
}

// Wake makes Wait return with NewsWoken, now or when it is called next.
func (g *Group) Wake() {
	g.waking.Lock()
	defer g.waking.Unlock()
	if !g.woken.Swap(true) && !g.closed.Load() {
		g.bell.Ring()
	}
}

// Close ends the call that is running and lets go of everything.
func (g *Group) Close() error {
	if g.closed.Swap(true) {
		return nil
	}
	g.bell.Ring()
	g.using.Lock()
	defer g.using.Unlock()
	g.shut()
	g.c.Control.Notify(nil)
	g.waking.Lock() // nobody may ring a bell whose descriptor is another's by now
	defer g.waking.Unlock()
	return g.bell.Close()
}
