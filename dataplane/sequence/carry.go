package sequence

import (
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
)

// A hand is the release in hand at a commit that fell into the middle of it, and what
// Rest needs of its packet besides the payload. It is void unless state.carried.
type hand struct {
	outcome Outcome
	receive event.Nanos
	items   int
	cut     bool
}

func (s *Sequencer) reserveUndo(r *arena.Region, label func(string) string) error {
	if s.undo == nil {
		return nil
	}
	one, err := arena.Slice[hand](r, label("release in hand"), 1)
	if err != nil {
		return err
	}
	s.hand = &one[0]
	s.kept, err = arena.Slice[Item](r, label("release in hand"), cap(s.items))
	s.saved.channels = make([]savedChannel, len(s.channels))
	s.saved.packets = make([]uint64, len(s.packets))
	return err
}

// Body returns the message blocks that sp, a span of the present release, is of: in
// the packet's payload, or in the hold. They are valid as long as the release is.
func (s *Sequencer) Body(sp *Span) []byte {
	if sp.Held {
		return s.bodiesOf(int32(s.rel.Channel))[sp.At:][:sp.Size]
	}
	return s.h.Body
}

// Carry keeps the present release for [Sequencer.Resume]. It is called before the
// commit of a batch that ends while the release is not decoded to its end, or before
// Rest was called where it says More. Where nothing is saved it does nothing.
func (s *Sequencer) Carry() {
	if s.undo == nil || s.st.carried {
		return
	}
	h := s.hand
	arena.Save(s.undo, h)
	arena.SaveSlice(s.undo, s.kept[:h.items])
	s.keepState()
	h.outcome, h.receive, h.cut = s.rel.Outcome, s.receive, s.cut
	fault.Point()
	h.items = copy(s.kept, s.rel.Items)
	fault.Point()
	s.st.carried = true
}

// Resume returns the release that was carried over the last commit, in place of the
// call that returned it; nil if none was. payload is that of its packet, nil if it
// came by time or by the end of input.
func (s *Sequencer) Resume(payload []byte) *Release {
	if !s.st.carried {
		return nil
	}
	h := s.hand
	if payload != nil {
		s.h.parse(s.protocol, payload, h.cut) // what it said is in the outcome
	}
	s.receive, s.cut = h.receive, h.cut
	s.rel.Outcome = h.outcome
	s.rel.Items = s.items[:copy(s.items[:cap(s.items)], s.kept[:h.items])]
	return &s.rel
}
