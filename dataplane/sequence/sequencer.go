package sequence

import (
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/plan"
)

// ErrConfig reports a feed that cannot be sequenced as it is described.
var ErrConfig = errors.New("feed cannot be sequenced")

// Limits of a feed's settings.
const (
	holdPacketsMax = 1 << 20
	holdBytesMax   = 1 << 30
)

// A Sequencer is the sequence stage of one feed on one worker. It is used by the
// worker's thread only.
type Sequencer struct {
	name        string // of the feed
	protocol    plan.Sequence
	ids         [3]bool // IEX-TP protocol ids that the format decodes, from protocolTOPS15 on
	restarts    bool    // the protocol has send times, and numbering that restarts
	holdPackets int32
	holdBytes   uint32
	bodyBytes   uint32 // of memory for held bodies, a channel
	holdFor     time.Duration

	// In the arena.
	st       *state
	channels []channel
	table    []int32 // slot+1 by hash of the key, open-addressed, a power of two
	pieces   []piece
	packets  []packet
	lower    []run
	lapsed   []run
	bodies   []byte
	hand     *hand  // see carry.go
	kept     []Item // of the release there

	undo  *arena.Undo // nil: nothing is saved
	saved saved

	// The packet in hand, and its release. Nothing here outlives the next call.
	h       Header
	receive event.Nanos
	cut     bool // the capture holds only the packet's beginning
	rel     Release
	items   []Item
}

// state is what belongs to all channels together.
type state struct {
	last                  int32 // slot of the last packet
	used                  int32 // slots that were ever taken
	firstEnded, lastEnded int32 // slot+1: retired channels, longest retired first
	packets               int64 // held now
	messages              uint64
	soonest               event.Nanos // no deadline is before it
	firstFree             int32       // slot+1: forgotten channels
	carried               bool        // the release in hand is kept in the arena
}

// New takes the memory for f's channels from r: f.Channels of them, each with a
// hold of f.HoldPackets packets and f.HoldBytes bytes of message blocks. With no
// hold, or none of HoldFor, a packet beyond a hole is let through at once and the
// hole is a gap. What a batch changes there is saved in undo before; nil saves
// nothing. In a warm region New goes on with what is there.
//
// It returns an error wrapping [ErrConfig] if f is not sequenced or a limit is out
// of range, and [arena.ErrFull] if r has no room.
func New(f *plan.Feed, r *arena.Region, undo *arena.Undo) (*Sequencer, error) {
	if err := check(f); err != nil {
		return nil, fmt.Errorf("sequence: feed %s: %w", f.Name, err)
	}
	s := &Sequencer{
		name: f.Name, protocol: f.Sequence, restarts: f.Sequence == plan.IEXTP, ids: [3]bool{true, true, true},
		holdPackets: int32(f.HoldPackets), holdBytes: uint32(f.HoldBytes), holdFor: f.HoldFor,
		bodyBytes: uint32(f.HoldBytes) + payloadMax + 1,
		undo:      undo,
	}
	switch f.Format {
	case "iex-deep":
		s.ids = [3]bool{2: true}
	case "iex-tops":
		s.ids = [3]bool{0: true, 1: true}
	}
	// Spans: the pieces of HoldPackets+1 packets, the runs that one packet can have
	// among the lower list's, and the packet that begins an epoch. At most one gap
	// before each span and one behind the last, in each of two epochs.
	spans := 2*(f.HoldPackets+1) + lowerMax + 2
	s.items = make([]Item, 0, 2*spans+2)
	if err := s.reserve(f, r); err != nil {
		return nil, fmt.Errorf("sequence: feed %s: %w", f.Name, err)
	}
	if !r.Warm() {
		s.st.soonest = event.MaxNanos
	}
	return s, nil
}

func check(f *plan.Feed) error {
	switch {
	case f.Sequence != plan.IEXTP && f.Sequence != plan.MoldUDP64:
		return fmt.Errorf("framing %q is not %q or %q: %w", f.Sequence, plan.IEXTP, plan.MoldUDP64, ErrConfig)
	case f.Channels < 1 || f.Channels > plan.SourceStride:
		return fmt.Errorf("channels is %d, want 1 to %d: %w", f.Channels, plan.SourceStride, ErrConfig)
	case f.HoldPackets < 0 || f.HoldPackets > holdPacketsMax:
		return fmt.Errorf("hold packets is %d, want 0 to %d: %w", f.HoldPackets, holdPacketsMax, ErrConfig)
	case f.HoldBytes < 0 || f.HoldBytes > holdBytesMax:
		return fmt.Errorf("hold bytes is %d, want 0 to %d: %w", f.HoldBytes, holdBytesMax, ErrConfig)
	case f.HoldFor < 0:
		return fmt.Errorf("hold time is %v, want 0 or more: %w", f.HoldFor, ErrConfig)
	}
	return nil
}

func (s *Sequencer) reserve(f *plan.Feed, r *arena.Region) error {
	var errs [8]error
	var st []state
	buckets := 2
	for buckets < 2*f.Channels {
		buckets *= 2
	}
	label := func(what string) string { return "feed " + f.Name + ": " + what }
	st, errs[0] = arena.Slice[state](r, label("sequence"), 1)
	s.channels, errs[1] = arena.Slice[channel](r, label("channels"), f.Channels)
	s.table, errs[2] = arena.Slice[int32](r, label("channel table"), buckets)
	s.pieces, errs[3] = arena.Slice[piece](r, label("held pieces"), f.Channels*s.pieceRoom())
	s.packets, errs[4] = arena.Slice[packet](r, label("held packets"), f.Channels*(f.HoldPackets+1))
	s.lower, errs[5] = arena.Slice[run](r, label("early runs"), f.Channels*(lowerMax+1))
	s.lapsed, errs[6] = arena.Slice[run](r, label("gaps given up"), f.Channels*lapsedMax)
	s.bodies, errs[7] = arena.Slice[byte](r, label("held bytes"), f.Channels*int(s.bodyBytes))
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	s.st = &st[0]
	return s.reserveUndo(r, label)
}

// Push takes the next packet's payload, received on line at receive. truncated
// says that a capture holds less of it than was on the wire: what is whole counts.
// If the release says More, Rest must be called before the next Push.
func (s *Sequencer) Push(payload []byte, line uint8, receive event.Nanos, truncated bool) *Release {
	s.mustRest()
	h := &s.h
	drop := h.parse(s.protocol, payload, truncated)
	if drop == event.Kept && s.restarts && !s.ids[h.Protocol-protocolTOPS15] {
		drop = event.DropVersion
	}
	s.receive, s.cut = receive, truncated
	s.clear(line)
	if drop != event.Kept {
		s.rel.Drop = drop
		return &s.rel
	}
	s.account(h)
	if c := &s.channels[s.st.last]; c.continues(h) {
		s.inOrder(c, h)
		return &s.rel
	}
	s.admit(h)
	return &s.rel
}

// continues reports a packet in order of channel c, of which nothing is outstanding.
func (c *channel) continues(h *Header) bool {
	return c.next == h.Seq && c.high == h.Seq && c.session == h.Session && c.state == live &&
		h.Whole > 0 && h.Sent >= c.bornSent
}

// inOrder lets the whole packet through.
func (s *Sequencer) inOrder(c *channel, h *Header) {
	r := &s.rel
	s.keepFlow(s.st.last, c)
	r.Channel, r.Session, r.Epoch, r.Fresh = int(s.st.last), c.session, c.epoch, uint64(h.Whole)
	r.Items = s.items[:1]
	it := &r.Items[0]
	it.Gap.Count = 0
	sp := &it.Span
	sp.Skip, sp.Count, sp.Seq = 0, h.Whole, h.Seq
	sp.Epoch, sp.NewEpoch, sp.Receive, sp.Held = c.epoch, c.silent, s.receive, false
	c.silent = false
	fault.Point()
	c.next += uint64(h.Whole)
	fault.Point()
	c.high = c.next
	fault.Point()
	c.highSent = max(c.highSent, h.Sent)
	c.clock = max(c.clock, s.receive)
}

// Rest returns the second part of the last packet, or nil if its release did not
// say More.
func (s *Sequencer) Rest() *Release {
	if !s.rel.More {
		return nil
	}
	i := s.rel.Channel
	s.clear(s.rel.Line)
	s.account(&s.h)
	s.join(int32(i), &s.h)
	s.accept(int32(i), &s.h)
	return &s.rel
}

// Expire gives up the gaps of the next channel whose deadline has passed at now,
// and returns what that lets through; nil when there is none. It is for live use:
// a replay judges deadlines by the capture's stamps alone.
func (s *Sequencer) Expire(now event.Nanos) *Release {
	if now < s.st.soonest {
		return nil
	}
	soonest := event.MaxNanos
	for i := range s.channels[:s.st.used] {
		c := &s.channels[i]
		at, waiting := s.deadline(int32(i), c)
		if !waiting {
			continue
		}
		if at > now {
			soonest = min(soonest, at)
			continue
		}
		s.open(int32(i))
		s.judge(int32(i), c, now)
		s.settle(int32(i), c)
		return &s.rel
	}
	if soonest != s.st.soonest {
		s.keepState()
		s.st.soonest = soonest
	}
	return nil
}

// Finish ends the input: each call gives up the gaps of one channel and returns
// what that lets through; nil when nothing is outstanding any more.
func (s *Sequencer) Finish() *Release {
	for i := range s.channels[:s.st.used] {
		c := &s.channels[i]
		if c.count == 0 && c.next == c.high {
			continue
		}
		s.open(int32(i))
		s.flush(int32(i), c)
		s.settle(int32(i), c)
		return &s.rel
	}
	return nil
}

// Next returns the messages that a channel waits for first, for a request to send
// them again; false if nothing is outstanding. 0 <= channel < Feed.Channels.
func (s *Sequencer) Next(channel int) (Request, bool) {
	c := &s.channels[channel]
	if c.count == 0 && c.next == c.high {
		return Request{}, false
	}
	return Request{Session: c.session, Epoch: c.epoch, Seq: c.next, Count: s.hole(int32(channel), c) - c.next}, true
}

// HeldPackets returns how many packets wait for a hole to be filled.
func (s *Sequencer) HeldPackets() int { return int(s.st.packets) }

// HeldMessages returns how many messages wait for a hole to be filled.
func (s *Sequencer) HeldMessages() uint64 { return s.st.messages }

// mustRest stops a caller who would lose the second part of a packet.
func (s *Sequencer) mustRest() {
	if s.rel.More {
		panic("sequence: the release said More: Rest comes next")
	}
}

// account notes what the packet brings.
func (s *Sequencer) account(h *Header) {
	r := &s.rel
	r.Messages, r.Cut, r.Heartbeat = uint64(h.Whole), uint64(h.Count-h.Whole), h.Kind != Data
}

// clear empties the release for a packet of line.
func (s *Sequencer) clear(line uint8) {
	// Field by field: the assignment of a whole struct that holds pointers costs more
	// than the rest of Push.
	r := &s.rel
	r.Channel, r.Retired, r.Line = -1, -1, line
	r.Session, r.Epoch = Session{}, 0
	r.New, r.Began, r.More, r.Heartbeat, r.Drop = false, false, false, false, event.Kept
	r.Items = s.items[:0]
	if s.st.carried {
		s.keepState()
		s.st.carried = false
	}
	r.Messages, r.Cut, r.Fresh, r.Duplicate, r.Held, r.Ancient, r.Missing, r.Unheld = 0, 0, 0, 0, 0, 0, 0, 0
}

// open empties the release for something that happens to channel i without a packet.
func (s *Sequencer) open(i int32) {
	s.mustRest()
	s.clear(0)
	c := &s.channels[i]
	s.keepState()
	s.keep(i, c)
	s.rel.Channel, s.rel.Session, s.rel.Epoch = int(i), c.session, c.epoch
}

// emit lets sp through, whose epoch it fills in.
func (s *Sequencer) emit(c *channel, sp Span) {
	sp.Epoch, sp.NewEpoch = c.epoch, c.silent
	it := s.item()
	it.Gap.Count = 0
	it.Span = sp
	c.silent = false
	fault.Point()
}

// item returns the next item of the release, with its former contents.
func (s *Sequencer) item() *Item {
	n := len(s.rel.Items)
	if n == cap(s.items) {
		panic("sequence: a release has more items than can be")
	}
	s.rel.Items = s.items[:n+1]
	return &s.rel.Items[n]
}

// miss declares that [c.next, to) will not come.
func (s *Sequencer) miss(i int32, c *channel, to uint64) {
	r, from := &s.rel, c.next
	r.Missing += to - from
	c.next = to
	fault.Point()
	s.lapse(i, c, run{from, to})
	if n := len(r.Items); n > 0 {
		g := &r.Items[n-1].Gap
		if g.Count > 0 && g.Epoch == c.epoch && g.Seq+g.Count == from {
			g.Count += to - from
			return
		}
	}
	it := s.item()
	it.Gap = Gap{Seq: from, Count: to - from, Epoch: c.epoch}
}
