package collective

import "errors"

// Kind is the kind of a round.
type Kind uint8

// The kinds.
const (
	Dense  Kind = iota + 1 // AllReduce
	Sparse                 // Exchange
)

// What is wrong with what a member sent. Either leaves the epoch.
var (
	ErrRound = errors.New("a round that cannot be now")
	ErrKind  = errors.New("members disagree on what the round is")
)

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

// Rounds follows the rounds of one epoch. Its methods do not allocate. The zero value
// is wedged.
type Rounds struct {
	// Its fields are the implementation's.
	impl rounds
}

type rounds struct {
	me, members         Set
	round               uint64 // in hand, or the last one that was
	kind                Kind
	open, wedged        bool
	arrived, next, have Set // of round; of round+1; of round
	nextKind            Kind
	completed           uint64
	completedKind       Kind
	committed           uint64
}
