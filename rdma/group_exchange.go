package rdma

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// sparseHead is what a contribution to an Exchange begins with: the length of its
// header, u32. The header and the body follow.
const sparseHead = 4

// Exchange gives header to every member and parts[i] to member i, and returns what
// every member gave to us, once it is sure that all members have all of theirs. parts
// may be short; a part for a peer that is no member is an error. Nothing of header and
// parts may be changed before the return; ours are part of the result.
//
// Errors wrap ErrNoEpoch (whether the round counts is open: see Late), ErrAgain (it
// does not count: contribute anew, in the epoch that Wait tells of), ErrOp,
// ErrTooLarge or ErrClosed. If the epoch ended and yet the round counts, what was
// gathered is returned with no error.
func (g *Group) Exchange(header []byte, parts [][]byte) (*Gathered, error) {
	for p, part := range parts {
		if n := sparseHead + len(header) + len(part); n > g.c.ContributionMax {
			return nil, fmt.Errorf("rdma: %d bytes for %s, limit %d: %w", n, g.name(p), g.c.ContributionMax, ErrTooLarge)
		}
	}
	if err := g.enter(); err != nil {
		return nil, err
	}
	defer g.using.Unlock()
	for p, part := range parts {
		if len(part) > 0 && g.epoch.Number != 0 && g.seen == g.epoch.Number && !g.epoch.Members.Has(p) {
			return nil, fmt.Errorf("rdma: %d bytes for peer %d, which is not in epoch %d: %w", len(part), p, g.epoch.Number, ErrAgain)
		}
	}
	progress, err := g.begin(collective.Sparse)
	if err != nil {
		return nil, err
	}
	h := &g.hand
	h.header, h.bodies = header, parts
	if err = g.adopt(); err != nil {
		g.fail(ChangeOp)
	} else {
		g.note(progress)
		err = g.run()
	}
	if err != nil {
		g.leave(err)
		return nil, err
	}
	out := g.gather()
	g.leave(nil)
	return out, nil
}

// bodyFor is the part of member p.
func (h *hand) bodyFor(p int) []byte {
	if p < len(h.bodies) {
		return h.bodies[p]
	}
	return nil
}

// pushSparse sends the next piece to every member that has room.
func (g *Group) pushSparse() (sent bool) {
	h := &g.hand
	for p := range h.todo.All {
		body := h.bodyFor(p)
		front := uint64(sparseHead + len(h.header))
		total := front + uint64(len(body))
		off := h.off[p]
		n := min(total-off, FrameMax)
		var piece []byte
		if off >= front {
			piece = body[off-front : off-front+n]
		} else {
			piece = g.assemble(off, n, body)
		}
		g.head = frame.Header{Kind: frame.Sparse, Round: g.round, Dest: uint8(p), Total: total, Offset: off}
		if g.mesh.Send(collective.Of(p), &g.head, piece) == 0 {
			continue
		}
		sent = true
		g.traffic[p].sent += n
		if h.off[p] += n; h.off[p] == total {
			h.todo = h.todo.Without(p)
		}
	}
	return sent
}

// assemble returns n bytes from off of a contribution, which begin before the body.
func (g *Group) assemble(off, n uint64, body []byte) []byte {
	if g.scratch == nil {
		g.scratch = make([]byte, 0, FrameMax)
	}
	h := &g.hand
	var length [sparseHead]byte
	binary.LittleEndian.PutUint32(length[:], uint32(len(h.header)))
	s := g.scratch[:0]
	for _, part := range [3][]byte{length[:], h.header, body} {
		if off >= uint64(len(part)) {
			off -= uint64(len(part))
			continue
		}
		s = append(s, part[off:min(uint64(len(part)), off+n-uint64(len(s)))]...)
		off = 0
	}
	return s
}

// gather puts together what every member contributed to the round in hand.
func (g *Group) gather() *Gathered {
	h := &g.hand
	from := g.parts[:0]
	for p := range h.epoch.Members.All {
		if p == g.c.Me {
			from = append(from, Part{p, h.header, h.bodyFor(p)})
			continue
		}
		b := g.boxes[p][h.round&1].buf
		n := sparseHead + binary.LittleEndian.Uint32(b)
		from = append(from, Part{p, b[sparseHead:n:n], b[n:]})
	}
	g.gathered = Gathered{Epoch: h.epoch, Round: h.round, From: from}
	return &g.gathered
}

func (o *Gathered) clone() *Gathered {
	c := *o
	c.From = slices.Clone(o.From)
	for i := range c.From {
		c.From[i].Header, c.From[i].Body = slices.Clone(c.From[i].Header), slices.Clone(c.From[i].Body)
	}
	return &c
}
