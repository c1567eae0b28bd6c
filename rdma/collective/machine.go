package collective

// Config makes a [Machine].
type Config struct {
	Me     int
	Quorum Quorum
	// Counter is where this life's ballots begin. It must be beyond every ballot that
	// an earlier life of this peer has seen, which nobody here remembers: the wall
	// clock will do, if no box's is set back by more than the time
	// that a restart takes. Its low ten bits are in each of this life's ballots, so
	// that a wrong clock does not make it take an earlier life's for its own. Zero is right for a
	// peer that has had no earlier life.
	Counter uint64
	// Patience is how many timeouts a peer waits for a lower one to propose. Zero: 3.
	// A proposer needs two to do without a peer that does not answer.
	Patience int
}

// A ballot is counter<<peerBits | peer; a counter is a multiple of 1<<lifeBits and a
// number that tells a peer's lives apart.
const (
	peerBits   = 4
	lifeBits   = 10
	counterMax = 1 << 58 // beyond it a peer talks nonsense
)

// proposer returns the peer whose ballot, or epoch, it is.
func proposer(ballot uint64) int { return int(ballot & (1<<peerBits - 1)) }

// A Machine is one peer's part in the agreement. Every method appends to out what is to
// be done, in order, and returns it.
//
// A peer is in one of four states. It is open: in an epoch whose rounds it may run. Or
// it follows: it has promised a ballot to a peer that it would have among the members,
// and waits for its Install and Go. Or it proposes. Or it is idle: in no epoch, because
// it has no quorum or until the lowest of the chosen proposes.
type Machine struct {
	config Config

	// Who is there.
	hears   [PeersMax]Set
	left    Set // peers that have said Leave, and perhaps ourselves
	shunned Set // peers that are heard but did not answer a proposer
	chosen  Set

	// The epoch.
	rounds     Rounds
	step       Step // the epoch that we are or were in last
	open       bool // and that is not wedged
	complained bool // but a member cannot go on
	done       uint64
	doneKind   Kind // the last round of step that is complete here, once it is wedged

	// What we have told proposers.
	promised  uint64
	following bool
	history   []Step // accepted, oldest first; never written to once it is there
	install   install

	// What we propose.
	counter  uint64
	proposal proposal
	gone     proposal // the last one for which we said Go

	armed     bool
	silent    int // timeouts since we last had reason to hope
	malformed uint64
	flaw      flaw
}

// A flaw is a mistake that tests make the machine make, to see that they would find it.
type flaw uint8

const (
	flawTrimMax flaw = 1 << iota // a Sparse round counts if anybody has it
	flawForget                   // a proposer looks at opened epochs only, not at accepted steps
	flawTrust                    // a proposer goes on from what few remember
)

// New returns the machine of a peer that has just started: it hears nobody, not even
// itself, and is in no epoch.
func New(c Config) *Machine {
	if c.Patience == 0 {
		c.Patience = 3
	}
	return &Machine{config: c, counter: c.Counter, promised: c.Counter << peerBits}
}

// Rounds returns the rounds of the present epoch; they are wedged when there is none.
func (m *Machine) Rounds() *Rounds { return &m.rounds }

// Step returns the present epoch. Its Epoch is zero if there is none.
func (m *Machine) Step() Step {
	if !m.open {
		return Step{}
	}
	return m.step
}

// Chosen returns the members that we would have now.
func (m *Machine) Chosen() Set { return m.chosen }

// Malformed counts the messages that no right peer sends.
func (m *Machine) Malformed() uint64 { return m.malformed }

// Hear says that peer row hears the given peers, or, if row is our own, that we do. A
// peer that is not heard hears nobody.
//
// Whatever changes whom we would have as members ends the epoch.
func (m *Machine) Hear(row int, hears Set, out []Effect) []Effect {
	if row < 0 || row >= m.config.Quorum.Peers || m.hears[row] == hears {
		return out
	}
	if row != m.config.Me && (hears == 0 || m.hears[row] == 0) {
		m.left = m.left.Without(row) // its Leave may come when it is not heard any more
	}
	m.hears[row] = hears
	m.shunned = m.shunned.Without(row)
	return m.consider(out)
}

// Fail says that the data path of the present epoch is broken.
func (m *Machine) Fail(out []Effect) []Effect {
	if !m.open {
		return out
	}
	out = m.complain(m.step.Members|m.chosen, out)
	return m.consider(m.wedge(out))
}

// Leave says that this peer goes away for good. Nothing happens after that.
func (m *Machine) Leave(out []Effect) []Effect {
	if m.left.Has(m.config.Me) {
		return out
	}
	for p := range m.hears[m.config.Me].Without(m.config.Me).All {
		out = m.send(p, Message{Kind: Leave}, out)
	}
	m.left = m.left.With(m.config.Me)
	m.abandon()
	m.following = false
	return m.disarm(m.wedge(out))
}

// Timeout says that the time asked for by the last Arm has passed.
func (m *Machine) Timeout(out []Effect) []Effect {
	if !m.armed {
		return out
	}
	m.armed = false
	m.silent++
	switch {
	case m.proposal.on:
		return m.again(out)
	case m.following && m.silent <= m.config.Patience:
		return m.arm(m.remind(out))
	case m.following:
		m.following, m.silent = false, 0
		return m.consider(out)
	case !m.config.Quorum.Has(m.chosen) || m.content():
		return m.consider(out)
	}
	lower := (m.chosen & First(m.config.Me)).Len()
	if m.silent > m.config.Patience*lower {
		return m.propose(out)
	}
	if !m.open && m.silent > 1 {
		// The lowest may not know, or may have given us up.
		out = m.complain(Of(m.chosen.Lowest()), out)
	}
	return m.arm(out)
}

// content reports that the epoch is what it should be.
func (m *Machine) content() bool {
	return m.open && !m.complained && m.chosen == m.step.Members
}

// consider does what is due after anything has changed.
func (m *Machine) consider(out []Effect) []Effect {
	if m.left.Has(m.config.Me) {
		return out
	}
	if chosen := m.choose(); chosen != m.chosen {
		m.chosen, m.silent = chosen, 0
	}
	if !m.config.Quorum.Has(m.chosen) {
		return m.alone(out)
	}
	m.following = m.following && m.chosen.Has(proposer(m.promised))
	switch {
	case m.content():
		m.silent = 0
		return m.disarm(out)
	case m.proposal.on && m.proposal.want&^m.chosen == 0, m.following:
		// Who has come to be heard meanwhile is for the next epoch.
		return m.arm(out)
	case m.chosen.Lowest() == m.config.Me:
		return m.propose(out)
	}
	m.abandon()
	return m.arm(out)
}

// choose returns the members that we would have, of those who are there to stay and
// answer; only if these are too few, also those who do not answer.
func (m *Machine) choose() Set {
	hears := m.hears
	pick := func(without Set) Set {
		for p := range without.Without(m.config.Me).All {
			hears[p] = 0
		}
		return choose(m.config.Me, hears[:m.config.Quorum.Peers], m.step.Members, m.config.Quorum)
	}
	all := pick(m.left)
	if m.shunned == 0 {
		return all
	}
	some := pick(m.shunned)
	if m.config.Quorum.Has(all) && !m.config.Quorum.Has(some) {
		m.shunned = 0
		return all
	}
	return some
}

// alone ends what there is of an epoch: too few peers are there for one.
func (m *Machine) alone(out []Effect) []Effect {
	m.abandon()
	m.following = false
	if m.open {
		out = m.complain(m.step.Members, out)
	}
	return m.disarm(m.wedge(out))
}

// wedge ends the epoch and freezes what is complete.
func (m *Machine) wedge(out []Effect) []Effect {
	if !m.open {
		return out
	}
	m.open, m.complained = false, false
	m.rounds.Wedge()
	m.done, m.doneKind = m.rounds.Completed()
	return append(out, Effect{Kind: Wedge, Epoch: m.step.Epoch})
}

func (m *Machine) complain(to Set, out []Effect) []Effect {
	for p := range to.Without(m.config.Me).All {
		out = m.send(p, Message{Kind: Complain, Epoch: m.step.Epoch}, out)
	}
	return out
}

func (*Machine) send(to int, msg Message, out []Effect) []Effect {
	return append(out, Effect{Kind: Send, To: to, Message: msg})
}

// arm sees to it that a Timeout is due.
func (m *Machine) arm(out []Effect) []Effect {
	if m.armed {
		return out
	}
	m.armed = true
	return append(out, Effect{Kind: Arm})
}

// rearm begins the wait for a Timeout anew.
func (m *Machine) rearm(out []Effect) []Effect {
	m.armed = false
	return m.arm(out)
}

func (m *Machine) disarm(out []Effect) []Effect {
	if !m.armed {
		return out
	}
	m.armed = false
	return append(out, Effect{Kind: Disarm})
}
