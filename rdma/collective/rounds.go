package collective

import (
	"errors"
	"fmt"
)

// Kind is the kind of a round.
type Kind uint8

// The kinds.
const (
	Dense  Kind = iota + 1 // AllReduce
	Sparse                 // Exchange
)

func (k Kind) String() string {
	switch k {
	case Dense:
		return "dense"
	case Sparse:
		return "sparse"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// What is wrong with what a member sent. Either leaves the epoch.
var (
	ErrRound = errors.New("a round that cannot be now")
	ErrKind  = errors.New("members disagree on what the round is")
)

// ErrWedged reports that the epoch is over, or that there is none.
var ErrWedged = errors.New("no epoch")

// Progress is what an arrival has brought about.
type Progress uint8

// The bits of a progress.
const (
	// Complete: the contributions of all members to the round in hand are here. Of
	// a Sparse round, say Have to all other members.
	Complete Progress = 1 << iota
	// Committed: all members have said that the Sparse round in hand is complete.
	Committed
	// Heard: a member has begun a round that we have not begun.
	Heard
)

// Rounds follows the rounds of one epoch. Its methods do not allocate, unless what a
// member sent is wrong. The zero value is wedged. Once wedged it ignores what arrives,
// and what was complete stays as it is.
//
// It relies on what a mesh promises: what a member sends arrives in order, and once.
type Rounds struct {
	me            int
	members       Set
	open          bool
	round         uint64 // in hand, or the last one that was
	kind          Kind   // of round
	nextKind      Kind   // of round+1, if next is not empty
	arrived       Set    // whose contribution to round is here
	have          Set    // who has said that round is complete
	next          Set    // whose contribution to round+1 is here
	completed     uint64 // round or round-1
	completedKind Kind
	committed     bool // round, a Sparse one, is complete at all members
}

// NewRounds returns the rounds of an epoch with the given members, of whom peer me is
// one. None has begun.
func NewRounds(me int, members Set) *Rounds {
	r := new(Rounds)
	r.Reset(me, members)
	return r
}

// Reset begins anew, for another epoch.
func (r *Rounds) Reset(me int, members Set) {
	*r = Rounds{me: me, members: members, open: true}
}

// Begin begins the next round: our contribution is on its way to all others, and
// counts as arrived here. It returns the round's number and, in a group of one or if
// all others have been quicker, that it is complete. The error wraps [ErrWedged], or
// [ErrRound] while the round in hand is not over (a Dense one is over when it is
// complete, a Sparse one when it is committed), or [ErrKind] if a member has begun it
// as the other kind.
func (r *Rounds) Begin(kind Kind) (round uint64, p Progress, err error) {
	switch {
	case !r.open:
		return 0, 0, ErrWedged
	case !r.over():
		return 0, 0, fmt.Errorf("%w: round %d is not over", ErrRound, r.round)
	case r.next != 0 && r.nextKind != kind:
		return 0, 0, fmt.Errorf("%w: round %d is begun as %v and was begun as %v by peer %d",
			ErrKind, r.round+1, kind, r.nextKind, r.next.Lowest())
	}
	r.round++
	r.kind = kind
	r.arrived, r.next, r.have = r.next.With(r.me), 0, 0
	r.committed = false
	return r.round, r.progress(), nil
}

// over reports that the next round may begin.
func (r *Rounds) over() bool {
	return r.completed == r.round && (r.round == 0 || r.kind == Dense || r.committed)
}

// progress finds what has come about since the last call.
func (r *Rounds) progress() (p Progress) {
	if r.completed < r.round && r.arrived == r.members {
		r.completed, r.completedKind = r.round, r.kind
		r.have = r.have.With(r.me)
		p = Complete
	}
	if r.kind == Sparse && !r.committed && r.completed == r.round && r.have == r.members {
		r.committed = true
		p |= Committed
	}
	return p
}

// Arrived says that all of src's contribution to a round is here. The error wraps
// [ErrRound] or [ErrKind] and names src.
func (r *Rounds) Arrived(src int, round uint64, kind Kind) (Progress, error) {
	if !r.open {
		return 0, nil
	}
	if src == r.me || !r.members.Has(src) {
		return 0, r.wrong(src, round)
	}
	switch {
	case round == r.round && round > 0 && !r.arrived.Has(src):
		if kind != r.kind {
			return 0, fmt.Errorf("%w: round %d is %v and peer %d contributes %v", ErrKind, round, r.kind, src, kind)
		}
		r.arrived = r.arrived.With(src)
		return r.progress(), nil
	case round == r.round+1 && !r.next.Has(src) && r.mayBegin(src):
		if r.next != 0 && kind != r.nextKind {
			return 0, fmt.Errorf("%w: round %d is %v at peer %d and %v at peer %d",
				ErrKind, round, r.nextKind, r.next.Lowest(), kind, src)
		}
		r.next, r.nextKind = r.next.With(src), kind
		if r.round > 0 {
			r.have = r.have.With(src) // or it had not begun the next one
		}
		return r.progress() | Heard, nil
	}
	return 0, r.wrong(src, round)
}

// mayBegin reports that src may have begun the round after ours: it has contributed to
// ours, and if that is Sparse, it has heard from us that it is complete here.
func (r *Rounds) mayBegin(src int) bool {
	return r.round == 0 || r.arrived.Has(src) && (r.kind == Dense || r.completed == r.round)
}

// Have says that a Sparse round is complete at src. To hear it again does no harm.
func (r *Rounds) Have(src int, round uint64) (Progress, error) {
	if !r.open {
		return 0, nil
	}
	if src == r.me || !r.members.Has(src) || round == 0 || round > r.round {
		return 0, r.wrong(src, round)
	}
	if round < r.round {
		return 0, nil
	}
	if r.kind != Sparse {
		return 0, fmt.Errorf("%w: round %d is %v and peer %d has it as %v", ErrKind, round, r.kind, src, Sparse)
	}
	if !r.arrived.Has(src) {
		return 0, r.wrong(src, round)
	}
	r.have = r.have.With(src)
	return r.progress(), nil
}

func (r *Rounds) wrong(src int, round uint64) error {
	return fmt.Errorf("%w: round %d from peer %d, while round %d is in hand", ErrRound, round, src, r.round)
}

// Heard reports that a member has begun the round after ours, and its kind.
func (r *Rounds) Heard() (kind Kind, ok bool) {
	if !r.open || r.next == 0 {
		return 0, false
	}
	return r.nextKind, true
}

// Waiting returns the members that the round in hand waits for: those whose
// contribution is missing, or, when there are none, those that have not said that
// the Sparse round is complete.
func (r *Rounds) Waiting() Set {
	switch {
	case r.over():
		return 0
	case r.completed < r.round:
		return r.members &^ r.arrived
	}
	return r.members &^ r.have
}

// Round returns the number of the round in hand, or of the last one; 0: none has begun.
func (r *Rounds) Round() uint64 { return r.round }

// Wedge ends the epoch's rounds: whatever arrives from now on changes nothing.
func (r *Rounds) Wedge() { r.open = false }

// Completed returns the last round that is complete here, and its kind; 0: none.
func (r *Rounds) Completed() (round uint64, kind Kind) { return r.completed, r.completedKind }
