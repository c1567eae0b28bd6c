package rdma

import (
	"fmt"

	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// VectorMax bounds the vectors of an AllReduce: a member that lacks the result of a
// round that counts gets it in one control message.
const VectorMax = 15 << 20

// AllReduce combines the members' vectors, element by element, and leaves the result in
// v. Every member must call it with the same op and length, as its next round. All get
// the same bits. After an error v is as it was.
//
// Short vectors go whole to every member, which reduces them itself: one step. From the
// epoch's crossover on each member reduces one slice of all vectors and sends it to the
// others: two steps, but each byte is sent and reduced once.
//
// Errors wrap ErrNoEpoch, ErrAgain (call again, in the epoch that Wait tells of),
// ErrOp, ErrOpUnknown, ErrTooLarge or ErrClosed. It does not allocate once rounds of
// that length have been run.
func (g *Group) AllReduce(op Op, v []byte) (Result, error) {
	o, err := op.operation()
	if err != nil {
		return Result{}, err
	}
	if len(v)%o.element != 0 {
		return Result{}, fmt.Errorf("rdma: %d bytes are no elements of %d, as %s wants: %w", len(v), o.element, op, ErrOp)
	}
	if most := min(g.c.ContributionMax, VectorMax); len(v) > most {
		return Result{}, fmt.Errorf("rdma: %d bytes, limit %d: %w", len(v), most, ErrTooLarge)
	}
	if err := g.enter(); err != nil {
		return Result{}, err
	}
	defer g.using.Unlock()
	progress, err := g.begin(collective.Dense)
	if err != nil {
		return Result{}, err
	}
	g.prepare(op, o, v)
	if err = g.adopt(); err != nil {
		g.fail(ChangeOp)
	} else {
		g.note(progress)
		err = g.run()
	}
	h := &g.hand
	if err == nil && h.epoch.Members.Len() > 1 {
		copy(v, h.acc)
	}
	g.leave(err)
	if err != nil {
		return Result{}, err
	}
	return Result{h.epoch, h.round, h.contributors}, nil
}

// prepare says what the round in hand is to do with v.
func (g *Group) prepare(op Op, o operation, v []byte) {
	h, kept := &g.hand, &g.results[g.round&1]
	kept.epoch = 0
	if cap(kept.buf) < len(v) {
		kept.buf = make([]byte, len(v))
	}
	kept.buf = kept.buf[:len(v)]
	h.op, h.o, h.v, h.acc, h.length = op, o, v, kept.buf, len(v)
	if h.todo == 0 {
		return
	}
	h.split = uint64(len(v)) >= g.crossover
	if h.split {
		h.missing = h.todo
		for p := range h.todo.All {
			h.off[p], _ = g.sliceOf(p, uint64(len(v)), o.element)
		}
		h.filled, _ = g.sliceOf(g.c.Me, uint64(len(v)), o.element)
		for p := range g.steps.Members.All {
			h.roff[p], _ = g.sliceOf(g.c.Me, uint64(len(v)), o.element)
			h.rgot[p], _ = g.sliceOf(p, uint64(len(v)), o.element)
		}
	}
}

// fold takes a piece of another's vector into acc, which begins as ours.
func (g *Group) fold(offset uint64, piece []byte) {
	h := &g.hand
	end := offset + uint64(len(piece))
	if offset < h.filled {
		n := min(end, h.filled) - offset
		at := h.acc[offset : offset+n]
		h.o.into(at, at, piece[:n])
		offset, piece = offset+n, piece[n:]
	}
	if len(piece) > 0 {
		h.o.into(h.acc[offset:end], h.v[offset:end], piece)
		h.filled = end
	}
}

// foldInOrder reduces acc's [low, high), of which every box has all, in the order of
// members.
func (g *Group) foldInOrder(low, high uint64) {
	h := &g.hand
	at, first := h.acc[low:high], true
	for p := range g.steps.Members.All {
		from := h.v[low:high]
		if p != g.c.Me {
			from = g.boxes[p][g.round&1].buf[:high-low]
		}
		if first {
			copy(at, from)
			first = false
		} else {
			h.o.into(at, at, from)
		}
	}
}

// reduce is called when all of our slice is here.
func (g *Group) reduce() {
	h := &g.hand
	if h.o.ordered {
		g.foldInOrder(g.sliceOf(g.c.Me, uint64(len(h.v)), h.o.element))
	}
	h.reduced = g.others()
}

// keep makes acc the result of a round that is complete, and keeps it for others.
func (g *Group) keep() {
	h := &g.hand
	if h.o.ordered && !h.split && g.others() != 0 {
		g.foldInOrder(0, uint64(len(h.v)))
	}
	kept := &g.results[g.round&1]
	kept.epoch, kept.round, kept.members = g.steps.Epoch, g.round, g.steps.Members
}

// result returns the result of a round that another member lacks.
func (g *Group) result(epoch, round uint64) (body []byte, contributors collective.Set, ok bool) {
	kept := &g.results[round&1]
	if kept.epoch != epoch || kept.round != round {
		g.c.Log.Error("a member asks for a result that is not here", "epoch", epoch, "round", round)
		return nil, 0, false
	}
	return kept.buf, kept.members, true
}

// reducedBy takes a piece of the slice that a member has reduced.
func (g *Group) reducedBy(e *Event) error {
	h, head := &g.hand, &e.Header
	b := &g.boxes[e.Peer][head.Round&1]
	if !h.dense || !h.split || !b.whole || b.round != head.Round || Op(head.Op) != h.op || head.Total != b.total {
		return fmt.Errorf("%w: a reduced slice before its members' own", collective.ErrRound)
	}
	_, high := g.sliceOf(e.Peer, b.total, h.o.element)
	at, n := h.rgot[e.Peer], uint64(len(e.Payload))
	if head.Offset != at || n > high-at || n == 0 && high > at {
		return fmt.Errorf("%w: reduced bytes %d + %d do not follow %d of %d", collective.ErrRound, head.Offset, n, at, high)
	}
	copy(h.acc[at:], e.Payload)
	if h.rgot[e.Peer] += n; at+n < high {
		return nil
	}
	h.last = e.Peer
	p, err := g.machine.Rounds().Arrived(e.Peer, head.Round, collective.Dense)
	g.note(p)
	return err
}

// pieceOf bounds the payload of a dense frame: whole elements.
func pieceOf(element int) uint64 { return uint64(FrameMax / element * element) }

// pushDense sends the next piece to every member that has room.
func (g *Group) pushDense() (sent bool) {
	h := &g.hand
	for rest := h.todo; rest != 0; {
		p := rest.Lowest()
		to, end := collective.Of(p), uint64(len(h.v))
		if h.split {
			_, end = g.sliceOf(p, end, h.o.element)
		} else {
			to = abreast(rest, &h.off)
		}
		rest &^= to
		taken, n := g.sendPiece(to, frame.Dense, h.v, h.off[p], end)
		for q := range taken.All {
			g.traffic[q].sent += n
			if h.off[q] += n; h.off[q] == end {
				h.todo = h.todo.Without(q)
			}
		}
		sent = sent || taken != 0
	}
	return sent
}

// pushReduced sends the next piece of our slice to every member that has room and all
// of our contribution.
func (g *Group) pushReduced() (sent bool) {
	h := &g.hand
	_, end := g.sliceOf(g.c.Me, uint64(len(h.v)), h.o.element)
	for rest := h.reduced &^ h.todo; rest != 0; {
		to := abreast(rest, &h.roff)
		rest &^= to
		taken, n := g.sendPiece(to, frame.Reduced, h.acc, h.roff[to.Lowest()], end)
		for q := range taken.All {
			g.traffic[q].sent += n
			if h.roff[q] += n; h.roff[q] == end {
				h.reduced = h.reduced.Without(q)
			}
		}
		sent = sent || taken != 0
	}
	return sent
}

// abreast returns the lowest of rest and all who have as much as it: the same bytes go
// to them.
func abreast(rest collective.Set, off *[collective.PeersMax]uint64) (to collective.Set) {
	p := rest.Lowest()
	for q := range rest.All {
		if off[q] == off[p] {
			to = to.With(q)
		}
	}
	return to
}

// sendPiece sends what fits into a frame of the bytes from off to end.
func (g *Group) sendPiece(to collective.Set, kind frame.Kind, from []byte, off, end uint64) (taken collective.Set, n uint64) {
	h := &g.hand
	n = min(end-off, pieceOf(h.o.element))
	g.head = frame.Header{
		Kind: kind, Op: uint8(h.op), Round: g.round, Dest: frame.AnyDest,
		Total: uint64(len(h.v)), Offset: off,
	}
	return g.mesh.Send(to, &g.head, from[off:off+n]), n
}
