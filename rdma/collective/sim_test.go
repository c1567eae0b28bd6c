package collective

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
)

// The simulated world: machines with the part of their owner played for them, control
// links, data links of each epoch, and faults, all from one seed. Times are ticks.
const (
	beat       = 40   // between two looks at who is heard
	deaf       = 110  // not heard for so long: gone
	timeout    = 100  // at least, from Arm to Timeout
	faultsEnd  = 1200 // from here on the network is whole and nobody crashes
	settleTime = 6000 // after which all must be well
)

type event struct {
	at  int
	seq int
	do  func()
}

// A contribution is unique: its node, that one's life and a number that only grows.
type contribution struct {
	peer, life int
	seq        int
	value      uint64
	ledger     *ledger // what its node counts, for those that begin with nothing
}

// part is what a Sparse contribution has for one receiver.
func (c *contribution) part(to int) uint64 { return mix(c.value, uint64(to)) }

type frame struct {
	from, life int
	step       uint64
	have       bool
	round      uint64
	kind       Kind
	c          *contribution
	part       uint64
}

// A ledger is what a node counts, along the whole chain of epochs.
type ledger struct {
	hash  uint64
	count int
	last  [PeersMax][2]int // the last contribution of each peer: life, number
}

// What is worth testing.
const (
	metTake    = iota // a Dense round was handed over
	metStands         // a Sparse round was not known to be committed, and counts
	metAgain          // a round was complete somewhere, and does not count
	metLost           // a round in hand was lost sight of
	metUnsaid         // a step that nobody had opened was gone on from
	metNothing        // an epoch began from nothing, though some had been before
	metCount
)

type roundID struct {
	epoch, round uint64
}

// outcome is what must be the same at all nodes.
type outcome struct {
	fold         uint64
	contributors Set
	ledger       uint64
}

type simulation struct {
	seed   uint64
	rng    *rand.Rand
	quorum Quorum
	flaw   flaw
	zero   bool // the mutant whose ballots begin at zero in every life
	acks   bool // the mutant that takes a round for complete when its own is acknowledged
	now    int
	seq    int
	queue  []event
	nodes  []*node
	calm   bool
	down   [PeersMax][PeersMax]bool // from, to
	last   [PeersMax][PeersMax]int  // control messages are in order
	held   [PeersMax][PeersMax][]func()
	bound  uint64 // the highest counter seen, which is how clocks that agree look

	steps     map[uint64]Step
	opened    map[uint64]bool
	head      uint64
	begun     map[roundID]*[PeersMax]*contribution
	outcomes  map[roundID]outcome
	committed map[uint64]uint64 // by epoch: the last Sparse round that anybody used
	trims     map[uint64]uint64 // by epoch: the trim with which an opened step goes on from it
	rounds    int
	met       [metCount]int // how often what is worth testing has come about
	err       error
	trace     *strings.Builder
}

type node struct {
	s       *simulation
	id      int
	life    int
	alive   bool
	paused  int // until then
	waiting []func()
	fuse    int // effects until it crashes; 0: none
	m       *Machine
	row     Set
	heard   [PeersMax]int
	reset   Set // whose connection was seen to break
	rows    [PeersMax]Set
	timer   int
	entered uint64 // the first epoch of this life

	epoch   Step
	open    bool
	lives   [PeersMax]int
	torn    [PeersMax]uint64 // by receiver: the epoch in which a frame was lost
	early   []frame
	got     [2][PeersMax]*frame
	lost    bool // the last epoch was settled so
	inHand  bool
	round   uint64 // in hand, or the last
	here    uint64 // the last complete
	due     bool   // a Begin is scheduled
	pending *contribution
	seq     int
	used    uint64 // last round of epoch that is counted
	counted int
	ledger  *ledger // nil: comes with round 1

	dense                  []byte
	denseEpoch, denseRound uint64
}

func mix(a, b uint64) uint64 {
	x := a*0x9e3779b97f4a7c15 ^ b + 0x7f4a7c15
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	return x ^ x>>32
}

func newSimulation(seed uint64) *simulation {
	s := &simulation{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 0x5eed)),
		steps: map[uint64]Step{}, opened: map[uint64]bool{}, begun: map[roundID]*[PeersMax]*contribution{},
		outcomes: map[roundID]outcome{}, committed: map[uint64]uint64{}, trims: map[uint64]uint64{},
	}
	peers := 1 + int(seed%9)
	s.quorum = Quorum{Peers: peers, TieBreaker: s.rng.IntN(peers+1) - 1}
	s.quorum.AllowSolo = peers == 2 && s.rng.IntN(4) == 0
	for i := range peers {
		s.nodes = append(s.nodes, &node{s: s, id: i})
	}
	return s
}

func (s *simulation) failf(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("seed %d, time %d: "+format, append([]any{s.seed, s.now}, args...)...)
	}
}

func (s *simulation) tracef(format string, args ...any) {
	if s.trace != nil {
		fmt.Fprintf(s.trace, "%5d "+format+"\n", append([]any{s.now}, args...)...)
	}
}

// between returns a number from a to b, both included.
func (s *simulation) between(a, b int) int { return a + s.rng.IntN(b-a+1) }

func (s *simulation) chance(percent int) bool { return s.rng.IntN(100) < percent }

// at has do done at a time.
func (s *simulation) at(at int, do func()) {
	s.seq++
	q := append(s.queue, event{at, s.seq, do})
	for i := len(q) - 1; i > 0; {
		up := (i - 1) / 2
		if !q[i].before(&q[up]) {
			break
		}
		q[i], q[up] = q[up], q[i]
		i = up
	}
	s.queue = q
}

func (e *event) before(f *event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

func (s *simulation) next() event {
	q := s.queue
	top := q[0]
	n := len(q) - 1
	q[0], q[n] = q[n], event{}
	q = q[:n]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < n; c++ {
			if q[c].before(&q[least]) {
				least = c
			}
		}
		if least == i {
			break
		}
		q[i], q[least] = q[least], q[i]
		i = least
	}
	s.queue = q
	return top
}

// run runs the schedule and returns what was wrong.
func (s *simulation) run() error {
	for _, n := range s.nodes {
		s.at(s.between(0, 60), n.start)
	}
	for range s.between(0, 12) {
		s.at(s.between(0, faultsEnd-1), s.fault)
	}
	s.at(faultsEnd, s.heal)
	for check := faultsEnd + 100; s.err == nil; {
		if len(s.queue) == 0 { // nobody lives
			return nil
		}
		e := s.next()
		for ; e.at > check; check += 50 {
			if s.well() {
				return s.err
			}
		}
		s.now = e.at
		e.do()
		if s.now > faultsEnd+settleTime {
			s.failf("not all well: %v", s.describe())
		}
	}
	return s.err
}

// live are the nodes that run.
func (s *simulation) live() (live Set) {
	for _, n := range s.nodes {
		if n.alive {
			live = live.With(n.id)
		}
	}
	return live
}

// well says that all that live are in one epoch and complete rounds, or that they are
// too few for one.
func (s *simulation) well() bool {
	live := s.live()
	for i := range live.All {
		n := s.nodes[i]
		switch step := n.m.Step(); {
		case !s.quorum.Has(live):
			if step.Epoch != 0 {
				return false
			}
		case step.Members != live, step.Epoch != s.nodes[live.Lowest()].epoch.Epoch, n.used < 4:
			return false
		}
	}
	return true
}

func (s *simulation) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%+v", s.quorum)
	for _, n := range s.nodes {
		if n.alive {
			fmt.Fprintf(&b, "; node %d: epoch %v chosen %b promised %d following %v proposing %v used %d round %d",
				n.id, n.m.Step(), n.m.chosen, n.m.promised, n.m.following, n.m.proposal.on, n.used, n.m.rounds.Round())
		}
	}
	return b.String()
}

// fault does some harm, or undoes some.
func (s *simulation) fault() {
	a, b := s.rng.IntN(len(s.nodes)), s.rng.IntN(len(s.nodes))
	n := s.nodes[a]
	switch s.rng.IntN(10) {
	case 0:
		n.crash()
	case 1:
		n.fuse = s.between(1, 30)
	case 2:
		if n.alive {
			s.tracef("node %d leaves", a)
			n.do(n.m.Leave(nil))
			n.crash()
			for _, other := range s.nodes {
				other.reset = other.reset.With(a)
			}
		}
	case 3:
		n.paused = max(n.paused, s.now+s.between(50, 400))
	case 4:
		s.cut(a, b)
	case 5:
		s.cut(a, b)
		s.cut(b, a)
	case 6, 7:
		side := Set(s.rng.Uint32()) & First(len(s.nodes))
		for i := range s.nodes {
			for j := range s.nodes {
				if side.Has(i) != side.Has(j) {
					s.cut(i, j)
				}
			}
		}
	case 8:
		s.join()
	case 9:
		if n.alive {
			n.do(n.m.Fail(nil))
		}
	}
}

func (s *simulation) cut(from, to int) {
	if from != to {
		s.tracef("cut %d to %d", from, to)
		s.down[from][to] = true
	}
}

// join makes the network whole. What was held back arrives then, and in part again.
func (s *simulation) join() {
	s.tracef("all links are up")
	for i := range s.nodes {
		for j := range s.nodes {
			s.down[i][j] = false
			for _, deliver := range s.held[i][j] {
				s.inOrder(i, j, deliver)
			}
			s.held[i][j] = nil
		}
	}
}

func (s *simulation) heal() {
	s.calm = true
	all := s.chance(60)
	for _, n := range s.nodes {
		n.fuse = 0
		if !n.alive && (all || s.chance(50)) {
			n.start()
		}
	}
	s.join()
}

// inOrder delivers a control message after those sent before it.
func (s *simulation) inOrder(from, to int, deliver func()) {
	at := max(s.now+s.between(1, 15), s.last[from][to])
	s.last[from][to] = at
	s.at(at, deliver)
}

// control sends a control message.
func (s *simulation) control(from, to *node, msg *Message) {
	life, toLife := from.life, to.life
	late := s.chance(30) // reaches the next life of the receiver, if there is one
	var deliver func()
	deliver = func() {
		switch {
		case from.life != life, to.life != toLife && !late:
		case s.down[from.id][to.id]:
			if s.chance(50) {
				s.held[from.id][to.id] = append(s.held[from.id][to.id], deliver)
			}
		default:
			to.soon(0, func() {
				s.tracef("%d to %d %v %s", from.id, to.id, msg.Kind, ballotName(msg.Ballot))
				to.do(to.m.Receive(from.id, msg, nil))
			})
		}
	}
	s.inOrder(from.id, to.id, deliver)
	if !s.calm && s.chance(2) {
		s.at(s.now+s.between(1, 200), deliver)
	}
}

func ballotName(b uint64) string {
	return fmt.Sprintf("%d.%d/%d", b>>peerBits>>lifeBits, b>>peerBits&(1<<lifeBits-1), proposer(b))
}

// soon has do done by the node in its present life. While it is stopped, it waits.
func (n *node) soon(after int, do func()) {
	life := n.life
	n.s.at(n.s.now+after, func() {
		switch {
		case n.life != life || !n.alive:
		case n.paused <= n.s.now && len(n.waiting) == 0:
			do()
		default:
			n.waiting = append(n.waiting, do)
			if len(n.waiting) == 1 {
				n.s.at(n.paused, n.wake(life))
			}
		}
	})
}

// wake does what has waited, in the order in which it came.
func (n *node) wake(life int) func() {
	return func() {
		if n.life == life && n.paused > n.s.now {
			n.s.at(n.paused, n.wake(life))
			return
		}
		for n.life == life && n.alive && len(n.waiting) > 0 {
			do := n.waiting[0]
			n.waiting = n.waiting[1:]
			do()
		}
	}
}

func (n *node) start() {
	if n.alive {
		return
	}
	s := n.s
	*n = node{s: s, id: n.id, life: n.life + 1, alive: true, counted: n.counted}
	if n.life > 1 {
		s.bound++
	}
	// The low bits differ from life to life; the rest is as if clocks agreed.
	counter := s.bound<<lifeBits + uint64(n.life)
	if s.zero {
		counter = 0
	}
	n.m = New(Config{Me: n.id, Quorum: s.quorum, Counter: counter})
	n.m.flaw = s.flaw
	for i := range n.heard {
		n.heard[i] = -deaf - 1
	}
	s.tracef("node %d starts, life %d", n.id, n.life)
	n.look()
	for _, other := range s.nodes {
		if s.chance(50) {
			other.reset = other.reset.With(n.id)
		}
	}
}

// look finds whom it hears and what those say.
func (n *node) look() {
	s := n.s
	for _, other := range s.nodes {
		if other != n && other.alive && other.paused <= s.now && !s.down[other.id][n.id] {
			n.heard[other.id] = s.now
			if s.chance(80) {
				n.rows[other.id] = other.row
			}
		}
	}
	row := Of(n.id)
	for p, at := range n.heard[:len(s.nodes)] {
		if p != n.id && s.now-at <= deaf {
			row = row.With(p)
		}
	}
	broken := n.reset
	n.reset = 0
	if row != n.row {
		n.row = row
		n.do(n.m.Hear(n.id, row, nil))
	}
	for p := range s.nodes {
		if p == n.id || !n.alive {
			continue
		}
		if broken.Has(p) || !row.Has(p) {
			n.do(n.m.Hear(p, 0, nil))
		}
		if n.alive && row.Has(p) {
			n.do(n.m.Hear(p, n.rows[p], nil))
		}
	}
	n.soon(beat+s.between(-5, 5), n.look)
}

func (n *node) crash() {
	if n.alive {
		n.s.tracef("node %d crashes", n.id)
		n.alive = false
		n.fail()
		if n.s.chance(60) {
			n.s.at(n.s.now+n.s.between(5, 600), n.start)
		}
	}
}

// fail lets the other members' meshes notice that this one is gone.
func (n *node) fail() {
	if !n.open {
		return
	}
	n.open = false
	epoch := n.epoch.Epoch
	for p := range n.epoch.Members.Without(n.id).All {
		n.s.nodes[p].broken(epoch)
	}
}

func (n *node) broken(epoch uint64) {
	n.soon(n.s.between(1, 100), func() {
		if n.open && n.epoch.Epoch == epoch {
			n.do(n.m.Fail(nil))
		}
	})
}

// do carries out effects, in order, and perhaps dies of it.
func (n *node) do(effects []Effect) {
	for i := range effects {
		if n.fuse > 0 && !n.s.calm {
			if n.fuse--; n.fuse == 0 {
				n.crash()
			}
		}
		if !n.alive || n.s.err != nil {
			return
		}
		n.one(&effects[i])
	}
}

func (n *node) one(e *Effect) {
	s := n.s
	s.bound = max(s.bound, e.Message.Ballot>>peerBits>>lifeBits, e.Step.Epoch>>peerBits>>lifeBits)
	switch e.Kind {
	case Send:
		for _, step := range e.Message.Steps {
			s.saw(step)
		}
		s.control(n, s.nodes[e.To], &e.Message)
	case Arm:
		n.timer++
		timer := n.timer
		n.soon(timeout+s.between(0, 50), func() {
			if n.timer == timer {
				n.do(n.m.Timeout(nil))
			}
		})
	case Disarm:
		n.timer++
	case Wedge:
		s.tracef("node %d wedges %s", n.id, ballotName(e.Epoch))
		if !n.open || e.Epoch != n.epoch.Epoch {
			s.failf("node %d wedges epoch %d, but is in %d", n.id, e.Epoch, n.epoch.Epoch)
		}
		n.fail()
	case MakeOffers:
		n.soon(s.between(0, 25), func() { n.do(n.m.Offer(e.Step.Epoch, n.offers(e.Step), nil)) })
	case Hand:
		if n.denseEpoch != e.Epoch || n.denseRound != e.Round {
			s.failf("node %d is to hand over round %d of %d and has %d of %d",
				n.id, e.Round, e.Epoch, n.denseRound, n.denseEpoch)
		}
		body, members := n.dense, n.epoch.Members
		n.soon(s.between(0, 10), func() { n.do(n.m.Hand(e.To, e.Epoch, e.Round, body, members, nil)) })
	case Take:
		n.take(e)
	case Settle:
		n.settle(e)
	case Open:
		n.opens(e)
	}
}

// saw checks a step when it is first sent anywhere.
func (s *simulation) saw(step Step) {
	if known, ok := s.steps[step.Epoch]; ok {
		if known != step {
			s.failf("two steps of one number: %+v and %+v", known, step)
		}
		return
	}
	s.steps[step.Epoch] = step
	if step.Prev != 0 {
		if !s.opened[step.Prev] {
			s.met[metUnsaid]++
		}
		return
	}
	if s.head != 0 {
		s.met[metNothing]++
	}
	remember := Set(0)
	for p := range step.Members.All {
		if n := s.nodes[p]; n.alive && n.entered != 0 && n.entered < step.Epoch {
			remember = remember.With(p)
		}
	}
	if s.quorum.meets(remember) {
		s.failf("step %+v begins from nothing, though %b remember", step, remember)
	}
}

func (n *node) offers(step Step) [][]byte {
	offers := make([][]byte, len(n.s.nodes))
	for p := range step.Members.Without(n.id).All {
		offers[p] = fmt.Appendf(nil, "%d %d %d %d", step.Epoch, n.id, p, n.life)
	}
	return offers
}

func (n *node) opens(e *Effect) {
	s, step := n.s, e.Step
	s.tracef("node %d opens %s %+v", n.id, ballotName(step.Epoch), step)
	switch {
	case n.open:
		s.failf("node %d opens %d in %d", n.id, step.Epoch, n.epoch.Epoch)
	case n.m.Step().Epoch != 0 && n.m.Step() != step, !step.Members.Has(n.id):
		s.failf("node %d opens %+v and is in %+v", n.id, step, n.m.Step())
	case !s.quorum.Has(step.Members):
		s.failf("node %d opens %+v, which is a minority", n.id, step)
	case n.lost && step.Carried.Has(n.id):
		s.failf("node %d is carried into %+v, but has lost sight of what came before", n.id, step)
	case n.inHand:
		s.failf("node %d opens %+v with round %d of %d unsettled", n.id, step, n.round, n.epoch.Epoch)
	}
	s.saw(step)
	s.opensFirst(step)
	if n.entered == 0 {
		n.entered = step.Epoch
	}
	n.epoch, n.open, n.used, n.round, n.here = step, true, 0, 0, 0
	n.got, n.due = [2][PeersMax]*frame{}, false
	for p := range step.Members.Without(n.id).All {
		var epoch uint64
		var from, to int
		if _, err := fmt.Sscanf(string(e.Offers[p]), "%d %d %d %d", &epoch, &from, &to, &n.lives[p]); err != nil ||
			epoch != step.Epoch || from != p || to != n.id {
			s.failf("node %d has %q as peer %d's offer for epoch %d", n.id, e.Offers[p], p, step.Epoch)
		}
	}
	switch {
	case step.Carried == 0:
		n.ledger = &ledger{}
	case !step.Carried.Has(n.id):
		n.ledger = nil
	case n.ledger == nil:
		s.failf("node %d is carried into %+v with nothing", n.id, step)
	}
	s.able()
	early := n.early
	n.early = nil
	for _, f := range early {
		n.frame(f)
	}
	n.beginAfter(s.between(0, 60))
}

// opensFirst checks that all epochs that were opened are on one chain.
func (s *simulation) opensFirst(step Step) {
	if s.opened[step.Epoch] || s.quorum.AllowSolo {
		return
	}
	s.opened[step.Epoch] = true
	if step.Prev != 0 {
		if other, ok := s.trims[step.Prev]; ok && other != step.Trim {
			s.failf("epoch %d is trimmed to %d and to %d", step.Prev, other, step.Trim)
		}
	}
	lower, upper := min(s.head, step.Epoch), max(s.head, step.Epoch)
	s.head = upper
	at := s.steps[upper]
	for at.Epoch > lower && at.Prev != 0 {
		s.trims[at.Prev] = at.Trim
		if at.Trim < s.committed[at.Prev] {
			s.failf("round %d of epoch %d was used and does not count in %+v", s.committed[at.Prev], at.Prev, at)
		}
		at = s.steps[at.Prev]
	}
	if at.Epoch < lower {
		s.failf("epoch %d does not go on from %d, which was opened", upper, lower)
	}
}

// able checks that there are no two epochs all of whose members are in it.
func (s *simulation) able() {
	var found uint64
	for _, n := range s.nodes {
		whole := n.alive && n.open
		for p := range n.epoch.Members.All {
			o := s.nodes[p]
			whole = whole && o.alive && o.open && o.epoch.Epoch == n.epoch.Epoch && (o == n || n.lives[p] == o.life)
		}
		if whole && found != 0 && found != n.epoch.Epoch && !s.quorum.AllowSolo {
			s.failf("epochs %d and %d can both go on", found, n.epoch.Epoch)
		}
		if whole {
			found = n.epoch.Epoch
		}
	}
}

// kindOf makes everybody agree on what a round is.
func kindOf(epoch, round uint64) Kind { return Dense + Kind(mix(epoch, round)&1) }

func (n *node) beginAfter(d int) {
	if n.inHand || n.due {
		return
	}
	n.due = true
	epoch := n.epoch.Epoch
	n.soon(d, func() {
		if n.epoch.Epoch == epoch {
			n.due = false
			if n.open && !n.inHand {
				n.begin()
			}
		}
	})
}

func (n *node) begin() {
	s := n.s
	if n.pending == nil {
		n.seq++
		n.pending = &contribution{peer: n.id, life: n.life, seq: n.seq, value: s.rng.Uint64()}
	}
	c := *n.pending
	c.ledger = n.ledger
	kind := kindOf(n.epoch.Epoch, n.m.Rounds().Round()+1)
	round, p, err := n.m.Rounds().Begin(kind)
	if err != nil {
		s.failf("node %d, epoch %d: %w", n.id, n.epoch.Epoch, err)
		return
	}
	n.inHand, n.round = true, round
	id := roundID{n.epoch.Epoch, round}
	if s.begun[id] == nil {
		s.begun[id] = new([PeersMax]*contribution)
	}
	s.begun[id][n.id] = &c
	f := frame{from: n.id, life: n.life, step: n.epoch.Epoch, round: round, kind: kind, c: &c}
	own := f
	own.part = c.part(n.id)
	n.got[round&1][n.id] = &own
	for to := range n.epoch.Members.Without(n.id).All {
		f.part = c.part(to)
		n.data(to, f)
	}
	n.progress(p)
}

// data sends a frame over the mesh of the epoch. A frame that is lost breaks it.
func (n *node) data(to int, f frame) {
	s, other := n.s, n.s.nodes[to]
	life := n.lives[to]
	// In order: a mesh has one queue for each pair, here that of the control messages.
	s.inOrder(n.id, to, func() {
		if other.life != life || !other.alive || s.down[n.id][to] || n.torn[to] == f.step {
			n.torn[to] = f.step
			n.broken(f.step)
			return
		}
		other.soon(0, func() { other.frame(f) })
		if s.acks && !f.have {
			n.soon(s.between(1, 10), func() {
				if n.open && n.epoch.Epoch == f.step {
					n.progress(n.m.rounds.acked(to, f.round))
				}
			})
		}
	})
}

// acked is what a mistaken implementation would do on hearing that src has our
// contribution.
func (r *Rounds) acked(src int, round uint64) Progress {
	if round != r.round {
		return 0
	}
	r.arrived = r.arrived.With(src)
	return r.progress()
}

func (n *node) frame(f frame) {
	switch {
	case f.step > n.epoch.Epoch:
		n.early = append(n.early, f)
		return
	case f.step != n.epoch.Epoch || !n.open || n.lives[f.from] != f.life:
		if from := n.s.nodes[f.from]; from.life == f.life {
			from.broken(f.step) // there is no mesh to take it
		}
		return
	}
	var p Progress
	var err error
	if f.have {
		p, err = n.m.Rounds().Have(f.from, f.round)
	} else {
		n.got[f.round&1][f.from] = &f
		p, err = n.m.Rounds().Arrived(f.from, f.round, f.kind)
	}
	if err != nil && !n.s.acks {
		n.s.failf("node %d, epoch %d: %w", n.id, n.epoch.Epoch, err)
		return
	}
	n.progress(p)
}

func (n *node) progress(p Progress) {
	round, kind := n.m.Rounds().Completed()
	n.here = round
	if p&Complete != 0 && kind == Dense {
		n.dense, n.denseEpoch, n.denseRound = n.result(round), n.epoch.Epoch, round
		n.count(round, n.dense)
		n.over()
	}
	if p&Complete != 0 && kind == Sparse {
		for to := range n.epoch.Members.Without(n.id).All {
			n.data(to, frame{from: n.id, life: n.life, step: n.epoch.Epoch, have: true, round: round, kind: kind})
		}
	}
	if p&Committed != 0 {
		epoch := n.epoch.Epoch
		n.s.committed[epoch] = max(n.s.committed[epoch], round)
		if trim, ok := n.s.trims[epoch]; ok && trim < round {
			n.s.failf("node %d commits round %d of epoch %d, which was trimmed to %d", n.id, round, epoch, trim)
		}
		n.count(round, n.result(round))
		n.over()
	}
	if _, ok := n.m.Rounds().Heard(); ok {
		n.beginAfter(n.s.between(0, 5))
	}
}

func (n *node) over() {
	n.inHand, n.pending = false, nil
	n.due = false
	n.beginAfter(n.s.between(0, 60))
}

// result is what the contributions of a round come to: here, a list of them.
func (n *node) result(round uint64) (body []byte) {
	for p := range n.epoch.Members.All {
		f := n.got[round&1][p]
		if n.s.acks && (f == nil || f.round != round) {
			body = append(body, make([]byte, 24)...) // whatever lies there
			continue
		}
		if f == nil || f.round != round {
			n.s.failf("node %d takes round %d of %d for complete without peer %d", n.id, round, n.epoch.Epoch, p)
			return nil
		}
		if f.kind == Sparse && f.part != f.c.part(n.id) {
			n.s.failf("node %d has a wrong part from peer %d", n.id, p)
		}
		for _, v := range [...]uint64{uint64(f.c.life), uint64(f.c.seq), f.c.value} {
			body = binary.BigEndian.AppendUint64(body, v)
		}
	}
	return body
}

// count counts a round whose result has come here.
func (n *node) count(round uint64, body []byte) {
	s := n.s
	if s.err != nil {
		return
	}
	id := roundID{n.epoch.Epoch, round}
	if round != n.used+1 {
		s.failf("node %d counts round %d of %d after %d", n.id, round, id.epoch, n.used)
	}
	n.used = round
	n.counted++
	s.rounds++
	begun := s.begun[id]
	if round == 1 && n.ledger == nil {
		n.ledger = begun[n.epoch.Carried.Lowest()].ledger
	}
	next := *n.ledger
	var fold, want uint64
	for p := range n.epoch.Members.All {
		life, seq := int(binary.BigEndian.Uint64(body)), int(binary.BigEndian.Uint64(body[8:]))
		fold = mix(fold, binary.BigEndian.Uint64(body[16:]))
		body = body[24:]
		if begun[p] == nil {
			s.failf("node %d counts a contribution of %d that was never made", n.id, p)
			return
		}
		want = mix(want, begun[p].value)
		// Of two sides that both went on alone, one may have counted what the other was
		// told to contribute again.
		if last := next.last[p]; !s.quorum.AllowSolo && (life < last[0] || life == last[0] && seq <= last[1]) {
			s.failf("node %d counts contribution %d.%d of peer %d in round %d of %d after %v",
				n.id, life, seq, p, round, id.epoch, last)
		}
		next.last[p] = [2]int{life, seq}
	}
	if fold != want {
		s.failf("node %d: round %d of %d comes to %x, want %x", n.id, round, id.epoch, fold, want)
	}
	next.hash = mix(mix(next.hash, id.epoch), mix(round, fold))
	next.count++
	n.ledger = &next
	o := outcome{fold, n.epoch.Members, next.hash}
	if known, ok := s.outcomes[id]; ok && known != o {
		s.failf("node %d: round %d of %d is %+v, elsewhere %+v", n.id, round, id.epoch, o, known)
	}
	s.outcomes[id] = o
}

func (n *node) take(e *Effect) {
	n.s.met[metTake]++
	n.s.tracef("node %d takes round %d of %s", n.id, e.Round, ballotName(e.Epoch))
	if !n.inHand || e.Epoch != n.epoch.Epoch || e.Round != n.round || e.Contributors != n.epoch.Members {
		n.s.failf("node %d takes round %d of %d", n.id, e.Round, e.Epoch)
		return
	}
	n.dense, n.denseEpoch, n.denseRound = e.Body, e.Epoch, e.Round
	n.count(e.Round, e.Body)
	n.inHand, n.pending = false, nil
}

func (n *node) settle(e *Effect) {
	s := n.s
	n.lost = e.Lost
	s.tracef("node %d settles %s at %d, lost %v; in hand %v %d", n.id, ballotName(e.Epoch), e.Round, e.Lost, n.inHand, n.round)
	switch round := n.round; {
	case e.Epoch != n.epoch.Epoch || n.open:
		n.s.failf("node %d settles %d and was in %d", n.id, e.Epoch, n.epoch.Epoch)
	case e.Lost:
		if n.inHand {
			s.met[metLost]++
			n.pending = nil // it may count or not: it cannot be made again here
		}
	case n.used > e.Round:
		n.s.failf("node %d has used round %d of %d, which counts up to %d", n.id, n.used, e.Epoch, e.Round)
	case n.inHand && round <= e.Round:
		if n.here != round || kindOf(e.Epoch, round) != Sparse {
			n.s.failf("node %d: round %d of %d stands and is not here", n.id, round, e.Epoch)
			return
		}
		s.met[metStands]++
		n.count(round, n.result(round))
		n.pending = nil
	case n.inHand && n.here == round:
		s.met[metAgain]++
	}
	n.inHand = false
}
