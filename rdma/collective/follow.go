package collective

import "slices"

// install is what we do for the proposer that we follow, or for our own proposal:
// what must be here before we are ready.
type install struct {
	steps    []Step // empty: we have not been told
	fetching bool   // the result of round Trim is missing
	holder   int    // whom we have asked for it
	offered  bool
	offers   [][]byte
	ready    bool // and accepted
}

func (i *install) step() Step { return i.steps[len(i.steps)-1] }

// Receive takes a control message. What no right peer sends is counted and dropped.
func (m *Machine) Receive(from int, msg *Message, out []Effect) []Effect {
	if !m.wellFormed(from, msg) {
		m.malformed++
		return out
	}
	if m.left.Has(m.config.Me) {
		return out
	}
	if msg.Kind != Leave {
		m.left = m.left.Without(from) // it has come back sooner than was noticed
	}
	switch msg.Kind {
	case Prepare:
		return m.prepared(from, msg, out)
	case Promise:
		return m.granted(from, msg, out)
	case Refuse:
		return m.refused(from, msg, out)
	case Install:
		return m.installed(from, msg, out)
	case Fetch:
		if !m.open && msg.Epoch == m.step.Epoch && msg.Round == m.done && m.doneKind == Dense {
			out = append(out, Effect{Kind: Hand, To: from, Epoch: msg.Epoch, Round: msg.Round})
		}
		return out
	case Result:
		return m.fetched(msg, out)
	case Ready:
		return m.readied(from, msg, out)
	case Go:
		if msg.Ballot == m.promised && m.install.ready && m.install.step().Epoch == msg.Ballot {
			return m.apply(m.install.steps, msg.Offers, out)
		}
		if msg.Ballot < m.promised {
			return m.refuse(from, msg.Ballot, out) // or it would wait for us
		}
		return out
	case Complain:
		// Who is a member and in another epoch, or in none, has promised to somebody
		// who then gave up: it cannot come back into this one.
		m.shunned = m.shunned.Without(from)
		m.complained = m.complained || m.open && m.step.Members.Has(from)
		return m.consider(out)
	case Leave:
		m.left = m.left.With(from)
		return m.consider(out)
	}
	return out
}

func (m *Machine) wellFormed(from int, msg *Message) bool {
	peers := m.config.Quorum.Peers
	switch {
	case from < 0 || from >= peers || from == m.config.Me,
		msg.Ballot>>peerBits > counterMax, msg.Promised>>peerBits > counterMax,
		len(msg.Steps) > StepsMax, len(msg.Offers) > peers:
		return false
	}
	for i, s := range msg.Steps {
		if s.Prev >= s.Epoch || (s.Members|s.Carried|s.Holders)&^First(peers) != 0 || i > 0 && s.Epoch <= msg.Steps[i-1].Epoch {
			return false
		}
	}
	switch msg.Kind {
	case Prepare, Go:
		return proposer(msg.Ballot) == from
	case Install:
		if n := len(msg.Steps); n == 0 || proposer(msg.Ballot) != from || len(chain(msg.Steps)) != n {
			return false
		}
		last := msg.Steps[len(msg.Steps)-1]
		return last.Epoch == msg.Ballot && last.Members.Has(m.config.Me) && last.Members.Has(from)
	case Promise, Refuse, Ready:
		return proposer(msg.Ballot) == m.config.Me
	case Fetch, Result, Complain, Leave:
		return true
	}
	return false
}

// prepared is for a Prepare: promise, or refuse.
func (m *Machine) prepared(from int, msg *Message, out []Effect) []Effect {
	m.shunned = m.shunned.Without(from)
	m.chosen = m.choose()
	switch {
	case msg.Ballot < m.promised, msg.Ballot > m.promised && !m.chosen.Has(from):
		return m.refuse(from, msg.Ballot, out)
	case msg.Ballot > m.promised:
		out = m.wedge(out)
		m.promised = msg.Ballot
		m.proposal, m.install = proposal{}, install{}
		m.following, m.silent = true, 0
		out = m.send(from, m.promise(), out)
		return m.rearm(out)
	case msg.Ballot == m.step.Epoch, len(m.install.steps) > 0:
		return out // a repetition
	}
	// The promise was lost, or is late.
	m.following, m.silent = m.chosen.Has(from), 0
	return m.arm(m.send(from, m.promise(), out))
}

func (m *Machine) refuse(from int, ballot uint64, out []Effect) []Effect {
	return m.send(from, Message{Kind: Refuse, Ballot: ballot, Promised: m.promised}, out)
}

func (m *Machine) promise() Message {
	return Message{
		Kind: Promise, Ballot: m.promised,
		Epoch: m.step.Epoch, Round: m.done, RoundKind: m.doneKind, Steps: m.history,
	}
}

// installed is for an Install: find out what is missing, and get ready.
func (m *Machine) installed(from int, msg *Message, out []Effect) []Effect {
	switch {
	case msg.Ballot < m.promised:
		return m.refuse(from, msg.Ballot, out)
	case msg.Ballot > m.promised, msg.Ballot == m.step.Epoch:
		return out // promised in an earlier life, or a repetition
	case len(m.install.steps) > 0:
		m.silent = 0
		return m.remind(out)
	}
	m.following, m.silent = true, 0
	return m.rearm(m.begin(msg.Steps, out))
}

// begin gets ready for steps, of which the last is new.
func (m *Machine) begin(steps []Step, out []Effect) []Effect {
	m.install = install{steps: steps}
	s := m.install.step()
	if s.Prev == m.step.Epoch && s.Carried.Has(m.config.Me) && m.done < s.Trim && s.Holders != 0 {
		m.install.fetching = true
		m.install.holder = s.Holders.Lowest()
		out = m.fetch(out)
	}
	return append(out, Effect{Kind: MakeOffers, Epoch: s.Epoch, Step: s})
}

func (m *Machine) fetch(out []Effect) []Effect {
	s := m.install.step()
	return m.send(m.install.holder, Message{Kind: Fetch, Epoch: s.Prev, Round: s.Trim}, out)
}

// remind repeats what we last asked or told the others, because it may be lost.
func (m *Machine) remind(out []Effect) []Effect {
	switch i := &m.install; {
	case i.ready && proposer(m.promised) != m.config.Me:
		return m.send(proposer(m.promised), m.ready(), out)
	case i.fetching:
		i.holder = i.step().Holders.After(i.holder)
		return m.fetch(out)
	}
	return out
}

func (m *Machine) ready() Message {
	return Message{Kind: Ready, Ballot: m.promised, Offers: m.install.offers}
}

// Hand gives peer to the result that the effect of the same name asked for.
func (m *Machine) Hand(to int, epoch, round uint64, body []byte, contributors Set, out []Effect) []Effect {
	return m.send(to, Message{Kind: Result, Epoch: epoch, Round: round, Body: body, Contributors: contributors}, out)
}

// fetched is for a Result.
func (m *Machine) fetched(msg *Message, out []Effect) []Effect {
	i := &m.install
	if !i.fetching || msg.Epoch != m.step.Epoch || msg.Round != i.step().Trim {
		return out
	}
	i.fetching = false
	// From here on a promise says that we have it: another proposer need not know
	// how we came by it.
	m.done, m.doneKind = msg.Round, Dense
	out = append(out, Effect{
		Kind: Take, Epoch: msg.Epoch, Round: msg.Round, Body: msg.Body, Contributors: msg.Contributors,
	})
	return m.accept(out)
}

// Offer says what we offer to each member of the coming epoch, by peer.
func (m *Machine) Offer(epoch uint64, offers [][]byte, out []Effect) []Effect {
	i := &m.install
	if len(i.steps) == 0 || i.step().Epoch != epoch || i.offered {
		return out
	}
	i.offered, i.offers = true, offers
	return m.accept(out)
}

// accept says Ready once nothing is missing. Only then is the step accepted: so a
// step that all its members have accepted is one that nobody will have to fetch for.
func (m *Machine) accept(out []Effect) []Effect {
	i := &m.install
	if !i.offered || i.fetching || i.ready {
		return out
	}
	i.ready = true
	if m.proposal.on {
		// Our own is accepted last, in conclude: until then it can be taken back.
		return m.conclude(out)
	}
	m.remember(i.steps)
	return m.send(proposer(m.promised), m.ready(), out)
}

// remember puts steps, which we accept, in place of all that we accepted after the first
// of them began. What is older stays even if steps do not go on from it: they may come
// to nothing.
func (m *Machine) remember(steps []Step) {
	older := m.history
	for len(older) > 0 && older[len(older)-1].Epoch >= steps[0].Epoch {
		older = older[:len(older)-1]
	}
	all := append(slices.Clone(older), steps...)
	m.history = all[max(0, len(all)-StepsMax):]
}

// chain returns the last of steps with all those that it goes on from.
func chain(steps []Step) []Step {
	i := len(steps) - 1
	for i > 0 && steps[i].Prev == steps[i-1].Epoch {
		i--
	}
	return steps[max(0, i):]
}

// apply opens the epoch of the last of steps.
func (m *Machine) apply(steps []Step, offers [][]byte, out []Effect) []Effect {
	last := steps[len(steps)-1]
	if old := m.step.Epoch; old != 0 {
		settle := Effect{Kind: Settle, Epoch: old, Lost: true}
		for _, s := range steps {
			// With us among its members, it was made knowing what is complete here. It
			// may still count on a result that we were to fetch when we were cut off.
			if s.Prev == old && s.Members.Has(m.config.Me) && m.done >= s.Trim {
				settle.Round, settle.Lost = s.Trim, false
			}
		}
		out = append(out, settle)
	}
	// Who is a member has answered, whatever we took it for.
	m.shunned, m.left = m.shunned&^last.Members, m.left&^last.Members
	if proposer(last.Epoch) != m.config.Me {
		// Who was not taken did not answer, or was not heard there; it will speak up.
		m.shunned |= m.chosen &^ last.Members
	}
	m.step, m.open, m.complained = last, true, false
	m.done, m.doneKind = 0, 0
	m.rounds.Reset(m.config.Me, last.Members)
	m.following, m.silent = false, 0
	m.install, m.proposal = install{}, proposal{}
	out = append(out, Effect{Kind: Open, Epoch: last.Epoch, Step: last, Offers: offers})
	return m.consider(m.disarm(out))
}
