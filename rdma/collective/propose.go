package collective

import "slices"

// StepsMax is how many steps a peer remembers and a message carries.
const StepsMax = 16

// proposal is what we propose.
type proposal struct {
	on       bool
	ballot   uint64
	want     Set // who was asked to promise; from Install on, the members
	tries    int // timeouts since the last progress
	promised Set
	promises [PeersMax]Message
	steps    []Step // from Install on
	ready    Set
	offers   [PeersMax][][]byte // offers[p][q]: what p offers to q
}

func (p *proposal) installing() bool { return len(p.steps) > 0 }

// propose asks the chosen for their promises, with a ballot that is new.
func (m *Machine) propose(out []Effect) []Effect {
	out = m.wedge(out)
	m.counter = max(m.counter, m.promised>>peerBits)
	m.counter = (m.counter>>lifeBits+1)<<lifeBits | m.config.Counter&(1<<lifeBits-1)
	m.promised = m.counter<<peerBits | uint64(m.config.Me)
	m.following, m.silent, m.install = false, 0, install{}
	m.proposal = proposal{on: true, ballot: m.promised, want: m.chosen, promised: Of(m.config.Me)}
	m.proposal.promises[m.config.Me] = m.promise()
	out = m.ask(m.chosen, out)
	if m.proposal.promised == m.chosen {
		return m.decide(out)
	}
	return m.rearm(out)
}

func (m *Machine) ask(to Set, out []Effect) []Effect {
	for p := range to.Without(m.config.Me).All {
		out = m.send(p, Message{Kind: Prepare, Ballot: m.proposal.ballot, Members: m.proposal.want}, out)
	}
	return out
}

// granted is for a Promise.
func (m *Machine) granted(from int, msg *Message, out []Effect) []Effect {
	p := &m.proposal
	if !p.on || p.installing() || msg.Ballot != p.ballot || !p.want.Has(from) || p.promised.Has(from) {
		return out
	}
	p.promises[from] = *msg
	p.promised = p.promised.With(from)
	if p.promised != p.want {
		return out
	}
	return m.decide(out)
}

// refused is for a Refuse.
func (m *Machine) refused(from int, msg *Message, out []Effect) []Effect {
	p := &m.proposal
	if m.open && msg.Ballot == m.step.Epoch && m.step.Members.Has(from) {
		m.complained = true // it had promised to another before our Go came
		return m.consider(out)
	}
	if !p.on || msg.Ballot != p.ballot || !p.want.Has(from) {
		return out
	}
	if msg.Promised <= p.ballot {
		return out // we are not among its chosen yet; the timeout sees to it
	}
	m.counter = max(m.counter, msg.Promised>>peerBits)
	other := proposer(msg.Promised)
	// If it did not answer us it was because it proposes itself. Two that each do
	// without the other would outbid each other for ever.
	m.shunned, m.left = m.shunned.Without(other), m.left.Without(other)
	m.chosen = m.choose()
	if other < m.config.Me && m.chosen.Has(other) {
		// A lower one proposes: let it.
		m.abandon()
		m.silent = 0
		return m.rearm(out)
	}
	return m.propose(out)
}

// again is for a Timeout: what we asked for did not come. It is asked for once more,
// then we do without those that do not answer, if we can.
func (m *Machine) again(out []Effect) []Effect {
	p := &m.proposal
	p.tries++
	if !p.installing() {
		missing := p.want &^ p.promised
		if p.tries < 2 || !m.config.Quorum.Has(p.promised) {
			return m.arm(m.ask(missing, out))
		}
		m.shunned |= missing
		m.chosen = m.choose()
		return m.decide(out)
	}
	missing := p.want &^ p.ready
	if p.tries < 2 {
		for to := range missing.Without(m.config.Me).All {
			out = m.send(to, Message{Kind: Install, Ballot: p.ballot, Steps: p.steps}, out)
		}
		return m.arm(m.remind(out))
	}
	m.shunned |= missing.Without(m.config.Me)
	m.chosen = m.choose()
	return m.propose(out)
}

// decide makes the step of those that have promised.
func (m *Machine) decide(out []Effect) []Effect {
	p := &m.proposal
	p.want, p.tries = p.promised, 0
	steps := m.base()
	next := Step{Epoch: p.ballot, Members: p.want}
	if len(steps) > 0 {
		m.trim(steps, &next)
	}
	steps = append(slices.Clone(steps), next)
	p.steps = steps[max(0, len(steps)-StepsMax):]
	for to := range p.want.Without(m.config.Me).All {
		out = m.send(to, Message{Kind: Install, Ballot: p.ballot, Steps: p.steps}, out)
	}
	return m.rearm(m.begin(p.steps, out))
}

// base returns the steps to go on from, oldest first; none if we cannot know what has
// been agreed before, or nothing has.
//
// Of the steps that the promising peers have accepted it is the highest that may have
// been opened anywhere. One that a member has not accepted was not: Go comes after
// all have, and that member has now promised not to. Taking such a step for done would
// do harm, for who was to fetch a result for it may find nobody who has it.
//
// A peer that has just started has no steps and so knows nothing of what it accepted
// before. It is counted as a member, but not among those that remember; and these must
// be so many that nothing can have been agreed without them.
func (m *Machine) base() []Step {
	p := &m.proposal
	var known [PeersMax][]Step // the steps of a peer that are not ruled out
	for peer := range p.promised.All {
		known[peer] = p.promises[peer].Steps
		if m.flaw&flawForget != 0 {
			known[peer] = opened(known[peer], p.promises[peer].Epoch)
		}
	}
	for {
		best := -1
		var top Step
		remember := Set(0)
		for peer := range p.promised.All {
			if n := len(known[peer]); n > 0 {
				remember = remember.With(peer)
				if s := known[peer][n-1]; s.Epoch > top.Epoch {
					best, top = peer, s
				}
			}
		}
		if best < 0 || !m.config.Quorum.meets(remember) && m.flaw&flawTrust == 0 {
			return nil
		}
		know := remember
		if m.ours(top.Epoch) {
			know = know.With(m.config.Me) // we have forgotten nothing of this life
		}
		if m.flaw&flawForget != 0 || accepted(&known, know&top.Members, top.Epoch) {
			return chain(known[best])
		}
		for peer := range remember.All {
			if s := known[peer]; s[len(s)-1].Epoch == top.Epoch {
				known[peer] = s[:len(s)-1]
			}
		}
	}
}

// ours reports that we have proposed the given epoch, in this life. The clock, from which
// a life's counters begin, may have been set back: their low bits tell it too.
func (m *Machine) ours(epoch uint64) bool {
	counter, mask := epoch>>peerBits, uint64(1<<lifeBits-1)
	return proposer(epoch) == m.config.Me && counter > m.config.Counter && counter&mask == m.config.Counter&mask
}

// accepted reports that the given epoch is the last that each of peers has accepted.
func accepted(known *[PeersMax][]Step, peers Set, epoch uint64) bool {
	for p := range peers.All {
		if n := len(known[p]); n == 0 || known[p][n-1].Epoch != epoch {
			return false
		}
	}
	return true
}

// opened returns the steps up to the given epoch.
func opened(steps []Step, epoch uint64) []Step {
	for i, s := range steps {
		if s.Epoch == epoch {
			return steps[:i+1]
		}
	}
	return nil
}

// trim fills in how next goes on from the last of steps.
//
// Where somebody has completed a round of that epoch, all members have been in it; a
// member that is not said to be in it now has either been started anew or not opened
// it, and in the latter case nobody has completed anything.
func (m *Machine) trim(steps []Step, next *Step) {
	p := &m.proposal
	last := steps[len(steps)-1]
	next.Prev = last.Epoch
	var in, all, most Set // members in that epoch; with the highest round complete
	var kind Kind
	for peer := range (p.promised & last.Members).All {
		msg := &p.promises[peer]
		if carries(steps, peer, msg.Epoch) {
			all = all.With(peer)
		}
		if msg.Epoch != last.Epoch {
			continue
		}
		in = in.With(peer)
		switch {
		case msg.Round > next.Trim:
			next.Trim, kind, most = msg.Round, msg.RoundKind, Of(peer)
		case msg.Round == next.Trim && msg.Round > 0:
			most = most.With(peer)
		}
	}
	switch {
	case next.Trim == 0:
		// Who came to that epoch with nothing has been given nothing there.
		next.Carried = all & last.Carried
		return
	case kind == Dense:
		next.Holders = most
	case most != in && m.flaw&flawTrimMax == 0:
		next.Trim--
	}
	next.Carried = in
	if next.Trim == 0 {
		next.Carried = in & last.Carried
	}
}

// carries reports that a peer that is or was in the given epoch has come to the last
// of steps with all that counts before it.
func carries(steps []Step, peer int, epoch uint64) bool {
	if epoch == 0 {
		return false
	}
	for _, s := range steps {
		if s.Prev == epoch && s.Carried.Has(peer) {
			epoch = s.Epoch
		}
	}
	return epoch == steps[len(steps)-1].Epoch
}

// readied is for a Ready.
func (m *Machine) readied(from int, msg *Message, out []Effect) []Effect {
	p := &m.proposal
	switch {
	case p.on && p.installing() && msg.Ballot == p.ballot && p.want.Has(from):
		p.ready = p.ready.With(from)
		p.offers[from] = msg.Offers
		return m.conclude(out)
	case m.open && msg.Ballot == m.step.Epoch && m.gone.ballot == msg.Ballot && m.gone.want.Has(from):
		return m.send(from, m.goes(from), out) // the Go was lost
	}
	return out
}

// conclude says Go when all are ready, ourselves included.
func (m *Machine) conclude(out []Effect) []Effect {
	p, me := &m.proposal, m.config.Me
	if !m.install.ready || p.ready.With(me) != p.want {
		return out
	}
	p.ready = p.want
	p.offers[me] = m.install.offers
	m.remember(p.steps)
	m.gone = *p
	for to := range p.want.Without(me).All {
		out = m.send(to, m.goes(to), out)
	}
	return m.apply(m.gone.steps, m.goes(me).Offers, out)
}

// goes is the Go for one member of the epoch that we proposed last.
func (m *Machine) goes(to int) Message {
	offers := make([][]byte, m.config.Quorum.Peers)
	for from := range m.gone.want.Without(to).All {
		if to < len(m.gone.offers[from]) {
			offers[from] = m.gone.offers[from][to]
		}
	}
	return Message{Kind: Go, Ballot: m.gone.ballot, Offers: offers}
}

// abandon gives up what we propose. Nobody has opened it, and now nobody will.
func (m *Machine) abandon() {
	if m.proposal.on {
		m.proposal, m.install = proposal{}, install{}
	}
}
