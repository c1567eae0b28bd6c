package rdma

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// rounds is the part of a Group that runs the rounds of the present epoch.
type rounds struct {
	round    uint64 // the last one that we began
	ahead    bool   // a member has begun the next one
	hand     hand
	head     frame.Header                // of the frame that is being sent
	boxes    [collective.PeersMax][2]box // by member and the parity of the round
	results  [2]result                   // by parity
	scratch  []byte                      // of FrameMax
	gathered Gathered
	parts    [collective.PeersMax]Part
	pending  Late // what will be late if the round that we gave up stands
	late     *Late
	traffic  [collective.PeersMax]struct{ sent, received uint64 } // not yet in the tally
}

// A box takes in what one member contributes to one round. A member may be one round
// ahead, so there are two a member.
type box struct {
	round   uint64 // 0: empty
	sparse  bool
	split   bool // dense, in slices
	op      Op
	element uint64 // of op; 1 if sparse
	total   uint64
	base    uint64 // the part for us is total's [base, base+want)
	want    uint64
	got     uint64
	stored  uint64 // of got, the bytes that are in buf; the others were folded at once
	whole   bool
	small   int // rounds in a row for which buf was much too large
	buf     []byte
}

// A result is kept until the round after the next, for members that lack it.
type result struct {
	epoch, round uint64
	members      collective.Set
	buf          []byte
}

// hand is the round that a call is at work on.
type hand struct {
	epoch    Epoch
	round    uint64
	open     bool // a call is at work
	given    bool // a call has given it up, not knowing whether it counts
	dense    bool
	complete bool
	commit   bool // a sparse one is committed
	settled  bool // its epoch is over, and stands says what became of it
	stands   bool
	taken    bool // v is the result, which another member had
	err      error

	todo         collective.Set              // members who have not all of our contribution
	off          [collective.PeersMax]uint64 // how much they have
	haves        collective.Set              // members who are to be told Have
	last         int                         // whose contribution was the last to come
	contributors collective.Set

	// Dense.
	op      Op
	o       operation
	v, acc  []byte
	length  int    // of v
	filled  uint64 // acc has something up to here
	split   bool
	missing collective.Set // members whose slice for us is not all here
	reduced collective.Set // members who have not all of what we reduced
	roff    [collective.PeersMax]uint64
	rgot    [collective.PeersMax]uint64

	// Sparse.
	header []byte
	bodies [][]byte

	began, posted, completed time.Time
}

func (g *Group) resetRounds(step collective.Step) {
	g.round, g.ahead, g.crossover = 0, false, never
	for p := range step.Members.All {
		for i := range g.boxes[p] {
			g.boxes[p][i].round = 0
		}
	}
}

// sliceOf returns which part of a vector member p reduces: [low, high).
func (g *Group) sliceOf(p int, total uint64, element int) (low, high uint64) {
	members := g.steps.Members
	place := uint64((members & collective.First(p)).Len())
	n, elements := uint64(members.Len()), total/uint64(element)
	return elements * place / n * uint64(element), elements * (place + 1) / n * uint64(element)
}

// begin starts a round of our own.
func (g *Group) begin(kind collective.Kind) (collective.Progress, error) {
	if g.epoch.Number == 0 {
		return 0, fmt.Errorf("rdma: %w", ErrNoEpoch)
	}
	if g.seen != g.epoch.Number {
		return 0, fmt.Errorf("rdma: epoch %d is new: %w", g.epoch.Number, ErrAgain)
	}
	round, progress, err := g.machine.Rounds().Begin(kind)
	if errors.Is(err, collective.ErrKind) {
		err = fmt.Errorf("rdma: round %d of epoch %d: %w: %w", g.round+1, g.epoch.Number, ErrOp, err)
		g.fail(ChangeOp)
	}
	if err != nil {
		return 0, err
	}
	g.round, g.ahead = round, false
	g.hand = hand{
		epoch: g.epoch, round: round,
		open: true, dense: kind == collective.Dense, todo: g.others(), last: g.c.Me,
		contributors: g.steps.Members, began: time.Now(),
	}
	return progress, nil
}

// note takes in what an arrival has brought about.
func (g *Group) note(p collective.Progress) {
	h := &g.hand
	if p&collective.Complete != 0 {
		h.complete, h.completed = true, time.Now()
		if h.dense {
			g.keep()
		} else {
			h.haves = g.others()
		}
	}
	h.commit = h.commit || p&collective.Committed != 0
}

// arrived takes a frame of a round.
func (g *Group) arrived(e *Event) {
	current := g.hand.open && g.hand.epoch.Number == g.steps.Epoch && e.Header.Round == g.round
	if !current && e.Header.Round != g.round+1 || e.Header.Round == 0 {
		g.refuse(e, collective.ErrRound)
		return
	}
	g.traffic[e.Peer].received += uint64(len(e.Payload))
	var err error
	switch e.Header.Kind {
	case frame.Dense, frame.Sparse:
		g.ahead = g.ahead || !current
		err = g.contribution(e, current)
	case frame.Reduced:
		err = collective.ErrRound
		if current {
			err = g.reducedBy(e)
		}
	case frame.Have:
		err = collective.ErrRound
		if current && !g.hand.dense {
			var p collective.Progress
			p, err = g.machine.Rounds().Have(e.Peer, e.Header.Round)
			g.note(p)
		}
	default:
		err = collective.ErrKind
	}
	switch {
	case err == nil:
	case g.hand.open && g.hand.err != nil:
		g.fail(ChangeOp)
	default:
		g.refuse(e, err)
	}
}

// contribution takes a piece of what a member contributes.
func (g *Group) contribution(e *Event, current bool) error {
	h := &e.Header
	b := &g.boxes[e.Peer][h.Round&1]
	if b.round != h.Round {
		if err := g.start(b, h); err != nil {
			return err
		}
		if h.Round > 2 {
			g.stalls[e.Peer] = 0
		}
		if current {
			if err := g.agrees(e.Peer, b); err != nil {
				return err
			}
		}
	}
	n := uint64(len(e.Payload))
	if b.whole || b.sparse != (h.Kind == frame.Sparse) || b.op != Op(h.Op) || b.total != h.Total ||
		h.Offset != b.base+b.got || n > b.want-b.got || n == 0 && b.want > 0 || n%b.element != 0 {
		return fmt.Errorf("%w: bytes %d + %d of %d do not follow %d + %d of %d", collective.ErrRound,
			h.Offset, n, h.Total, b.base, b.got, b.total)
	}
	if current && g.hand.dense && !g.hand.o.ordered {
		g.fold(h.Offset, e.Payload)
	} else {
		b.store(e.Payload)
	}
	if b.got += n; b.got < b.want {
		return nil
	}
	b.whole = true
	return g.whole(e.Peer, b, current)
}

// start empties a box for the contribution that begins with h.
func (g *Group) start(b *box, h *frame.Header) error {
	if h.Total > uint64(g.c.ContributionMax) {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, h.Total, g.c.ContributionMax)
	}
	buf, small := b.buf, b.small
	*b = box{
		round: h.Round, sparse: h.Kind == frame.Sparse, op: Op(h.Op), total: h.Total,
		want: h.Total, buf: buf, element: 1,
	}
	if b.sparse {
		if h.Total < sparseHead {
			return fmt.Errorf("%w: a contribution of %d bytes", collective.ErrRound, h.Total)
		}
	} else {
		if h.Total > VectorMax {
			return fmt.Errorf("%w: a vector of %d bytes, limit %d", ErrTooLarge, h.Total, VectorMax)
		}
		o, err := b.op.operation()
		if err != nil {
			return err
		}
		if b.element = uint64(o.element); h.Total%b.element != 0 {
			return fmt.Errorf("%w: %d bytes are no elements of %d", collective.ErrRound, h.Total, o.element)
		}
		if b.split = h.Total >= g.crossover; b.split {
			low, high := g.sliceOf(g.c.Me, h.Total, o.element)
			b.base, b.want = low, high-low
		}
	}
	// A buffer that was large once is not kept for ever.
	if uint64(cap(buf)) > 1<<20 && b.want < uint64(cap(buf))/8 {
		if b.small = small + 1; b.small > 64 {
			b.buf, b.small = nil, 0
		}
	}
	return nil
}

// storeLeast is what a box has room for from the beginning.
const storeLeast = 1 << 20

func (b *box) store(payload []byte) {
	end := b.got + uint64(len(payload))
	if uint64(cap(b.buf)) < end {
		// What a member says that it will send costs nothing before it comes.
		buf := make([]byte, b.got, min(b.want, max(2*end, storeLeast)))
		copy(buf, b.buf[:b.stored])
		b.buf = buf
	}
	b.buf = b.buf[:end]
	copy(b.buf[b.got:], payload)
	b.stored = end
}

// agrees checks what a member contributes to the round in hand against what we do.
func (g *Group) agrees(peer int, b *box) error {
	h := &g.hand
	switch {
	case b.sparse == h.dense:
		h.err = fmt.Errorf("rdma: round %d of epoch %d: %s: %w: %w", g.round, g.steps.Epoch, g.name(peer), ErrOp, collective.ErrKind)
	case h.dense && (b.op != h.op || b.total != uint64(len(h.v))):
		h.err = fmt.Errorf("rdma: round %d of epoch %d: %s of %d bytes here, %s of %d at %s: %w",
			g.round, g.steps.Epoch, h.op, len(h.v), b.op, b.total, g.name(peer), ErrOp)
	}
	return h.err
}

// whole is called when all of a member's contribution, as far as it is for us, is here.
func (g *Group) whole(peer int, b *box, current bool) error {
	h := &g.hand
	if current {
		h.last = peer
	}
	kind := collective.Sparse
	switch {
	case b.sparse:
		if n := binary.LittleEndian.Uint32(b.buf); uint64(n) > b.total-sparseHead {
			return fmt.Errorf("%w: a header of %d bytes in %d", collective.ErrRound, n, b.total)
		}
	case b.split:
		if !current {
			return nil // it counts when what this member reduces is here too
		}
		h.missing = h.missing.Without(peer)
		if h.missing == 0 {
			g.reduce()
		}
		return nil
	default:
		kind = collective.Dense
	}
	p, err := g.machine.Rounds().Arrived(peer, b.round, kind)
	if current {
		g.note(p)
	}
	return err
}

// adopt takes what has come of the round that we begin.
func (g *Group) adopt() error {
	h := &g.hand
	for p := range g.others().All {
		b := &g.boxes[p][g.round&1]
		if b.round != g.round {
			continue
		}
		if err := g.agrees(p, b); err != nil {
			return err
		}
		if h.dense && !h.o.ordered && b.stored > 0 {
			g.fold(b.base, b.buf[:b.stored])
		}
		if h.split && b.whole {
			h.missing = h.missing.Without(p)
			h.last = p
		}
	}
	if h.split && h.missing == 0 {
		g.reduce()
	}
	return nil
}

// push sends what there is room for and reports whether anything was sent.
func (g *Group) push() (moved bool) {
	h := &g.hand
	if g.mesh == nil || h.todo|h.reduced|h.haves == 0 {
		return false
	}
	for turns := 0; turns < pushTurns; turns++ {
		sent := false
		if h.todo != 0 {
			if h.dense {
				sent = g.pushDense()
			} else {
				sent = g.pushSparse()
			}
			if h.todo == 0 {
				h.posted = time.Now()
			}
		}
		if h.reduced != 0 {
			sent = g.pushReduced() || sent
		}
		// Have is told after our own contribution: frames keep their order.
		if ready := h.haves &^ h.todo; ready != 0 {
			g.head = frame.Header{Kind: frame.Have, Round: g.round, Dest: frame.AnyDest}
			taken := g.mesh.Send(ready, &g.head, nil)
			h.haves &^= taken
			sent = sent || taken != 0
		}
		if !sent {
			break
		}
		moved = true
	}
	return moved
}

// pushTurns bounds the frames to each member between two polls.
const pushTurns = 8

// over reports that there is nothing more to wait for.
func (g *Group) over() bool {
	h := &g.hand
	if h.err != nil || h.settled {
		return true
	}
	if h.dense {
		return h.complete && (h.todo|h.reduced == 0 || g.mesh == nil)
	}
	return h.commit && (h.todo|h.haves == 0 || g.mesh == nil)
}

// run sees the round in hand through.
func (g *Group) run() error {
	var w waiter
	g.push()
	for !g.over() {
		moved := g.turn()
		if g.push() || moved {
			w = waiter{}
			continue
		}
		if g.over() {
			break
		}
		g.wait(&w, time.Time{})
		if g.closed.Load() {
			g.giveUp()
			return fmt.Errorf("rdma: %w", ErrClosed)
		}
		if !g.wedgedAt.IsZero() && g.hopeless(time.Now()) {
			g.giveUp()
			return fmt.Errorf("rdma: whether round %d of epoch %d counts is open: %w", g.round, g.steps.Epoch, ErrNoEpoch)
		}
	}
	return g.outcome()
}

// outcome says what became of a round that is over.
func (g *Group) outcome() error {
	h := &g.hand
	switch {
	case h.err != nil:
		return h.err
	case !h.settled || h.dense && h.complete || h.commit || h.stands && (h.taken || !h.dense && h.complete):
		return nil
	case h.stands:
		g.c.Log.Error("a round counts whose result is not here", "epoch", h.epoch.Number, "round", h.round)
	}
	return fmt.Errorf("rdma: round %d of epoch %d: %w", h.round, h.epoch.Number, ErrAgain)
}

// settle is told which rounds of the epoch that is over count.
func (g *Group) settle(e collective.Effect) {
	h := &g.hand
	if h.epoch.Number != e.Epoch {
		return
	}
	stands := !e.Lost && e.Round >= h.round
	switch {
	case h.open:
		h.settled, h.stands = true, stands
	case h.given:
		h.given = false
		if stands && (g.pending.Gathered != nil || g.pending.Vector != nil) {
			late := g.pending
			g.late = &late
			g.news |= NewsEpoch
		}
		g.pending = Late{}
	}
}

// take is given the result of the round in hand, which other members had.
func (g *Group) take(e collective.Effect) {
	h := &g.hand
	if e.Epoch != h.epoch.Number || e.Round != h.round || !h.dense || len(e.Body) != h.length {
		g.c.Log.Error("a result that we lack is none of our round's", "epoch", e.Epoch, "round", e.Round, "bytes", len(e.Body))
		return
	}
	kept := &g.results[e.Round&1] // others may lack it too
	kept.epoch, kept.round, kept.members = e.Epoch, e.Round, e.Contributors
	kept.buf = append(kept.buf[:0], e.Body...)
	if h.open { // h.acc is kept's memory; the caller's vector stays until it is known that the round counts
		h.taken, h.contributors = true, e.Contributors
		g.tally.took()
	} else if h.given {
		g.pending.Result = Result{h.epoch, e.Round, e.Contributors}
		g.pending.Vector = e.Body
	}
}

// giveUp leaves the round in hand behind, not knowing whether it counts.
func (g *Group) giveUp() {
	h := &g.hand
	h.given = true
	if !h.dense && h.complete {
		g.pending.Gathered = g.gather().clone()
	}
}

// leave ends the call's work on the round in hand.
func (g *Group) leave(err error) {
	h := &g.hand
	h.open = false
	op := opExchange
	if h.dense {
		op = h.op
	}
	g.tally.round(op, h, g.traffic[:], err)
	clear(g.traffic[:])
	h.v, h.header, h.bodies = nil, nil, nil // they are the caller's again
}
