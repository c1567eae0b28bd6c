package generate

import (
	"fmt"
	"net/netip"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/internal/packet"
)

// Streams of random numbers of a seed: the messages, the order of the lines, and
// what happens on each line.
const (
	streamMessages = iota
	streamTurns
	streamLine
)

// A parcel is a payload on its way to the lines.
type parcel struct {
	payload []byte
	at      event.Nanos
	port    uint16 // source port
	session string // of a sequenced packet
	seq     uint64
	count   int
	// control packets are never lost, swapped or copied.
	control bool
}

// A maker makes the packets of one kind of stream, in order, as if nothing were
// ever lost.
type maker interface {
	// next makes the next packet in p, whose payload it may reuse, or returns false
	// at the end.
	next(p *parcel) bool
	// end lets the stream end early, in good order.
	end()
	// made returns the number of messages so far.
	made() uint64
}

// A Summary counts what a Source did.
type Summary struct {
	Messages     uint64 `json:"messages"`      // generated
	Packets      uint64 `json:"packets"`       // generated, heartbeats and ends of session among them
	Frames       uint64 `json:"frames"`        // handed out, on all lines
	Lost         uint64 `json:"lost"`          // packets lost, each line counted
	Duplicates   uint64 `json:"duplicates"`    // frames that repeat the one before
	LostMessages uint64 `json:"lost_messages"` // messages that no line delivers
}

// A Source hands out the frames of a stream. One goroutine uses it.
type Source struct {
	c     Config
	m     maker
	lines []line
	turns dice

	// The block: packets that may change places, and where we are in it.
	block    []parcel
	n        int
	held     parcel // a control packet behind the block
	holding  bool
	slot     int // of the block
	turn     int // how many lines have had the slot
	first    int // the line whose turn is first
	again    int // how often the frame is still to be handed out
	frame    []byte
	frameAt  event.Nanos
	finished bool

	sum Summary
}

// A line is one way to the receiver.
type line struct {
	dice  dice
	udp   packet.UDP
	order []int // order[slot] is the packet of the block that is sent there
	fates []int // fates[packet] is how often it is sent: 0, 1 or 2
}

// New returns the source of the stream that c describes, at its beginning. Errors
// are a [FieldError] or about c.Kind.
func New(c Config) (*Source, error) {
	err := c.complete()
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	s := &Source{c: c, turns: newDice(c.Seed, streamTurns), block: make([]parcel, c.Reorder+1)}
	to := []string{"239.1.1.1:9000"}
	from := []string{"10.10.3.1:0"}
	if c.Kind == ITCH {
		to = []string{"239.10.1.1:26400", "239.10.2.1:26400"}
		from = []string{"10.10.1.1:26400", "10.10.2.1:26400"}
		s.m, err = newITCH(&s.c)
	} else {
		s.m = newObjects(&s.c)
	}
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	for i := range c.Lines {
		s.lines = append(s.lines, line{
			dice: newDice(c.Seed, streamLine+uint64(i)),
			udp: packet.UDP{
				Link:     packet.Link{SourceMAC: [6]byte{2, 0x0a, 0x0a, 0, 0, byte(i + 1)}, Pad: true},
				Source:   netip.MustParseAddrPort(from[i]),
				HopLimit: 16, Destination: netip.MustParseAddrPort(to[i]),
			},
			order: make([]int, c.Reorder+1),
			fates: make([]int, c.Reorder+1),
		})
	}
	s.turn = len(s.lines) // before the first slot of the first block
	return s, nil
}

// Next returns the next frame and the time at which it is sent, which never goes
// back; ok is false at the end. The frame is valid until the next call.
func (s *Source) Next() (frame []byte, at event.Nanos, ok bool) {
	for s.again == 0 {
		if !s.step() {
			return nil, 0, false
		}
	}
	s.again--
	s.sum.Frames++
	return s.frame, s.frameAt, true
}

// End lets the stream end here: what is under way and, of ITCH, the end of each
// session are still handed out.
func (s *Source) End() { s.m.end() }

// Summary returns the account so far.
func (s *Source) Summary() Summary {
	s.sum.Messages = s.m.made()
	return s.sum
}

// Config returns what the source was made from, with the defaults filled in.
func (s *Source) Config() Config { return s.c }

// step goes to the next turn of a line and builds its frame, if there is one.
func (s *Source) step() bool {
	if s.turn++; s.turn >= len(s.lines) {
		s.turn = 0
		if s.slot++; s.slot >= s.n && !s.refill() {
			return false
		}
		if len(s.lines) > 1 {
			s.first = int(s.turns.below(uint64(len(s.lines))))
		}
	}
	l := &s.lines[(s.first+s.turn)%len(s.lines)]
	at := l.order[s.slot]
	p := &s.block[at]
	s.again = l.fates[at]
	if s.again == 0 {
		return true
	}
	if p.port != 0 {
		l.udp.Source = netip.AddrPortFrom(l.udp.Source.Addr(), p.port)
	}
	l.udp.ID++
	s.frame = l.udp.Append(s.frame[:0], p.payload)
	// The slot's time, not the packet's: a swapped packet is sent when the other
	// should have been.
	s.frameAt = s.block[s.slot].at
	return true
}

// refill makes the next block and decides what happens to it on each line.
func (s *Source) refill() bool {
	s.slot, s.n = 0, 0
	for s.n < len(s.block) && !s.finished {
		if s.holding {
			s.block[0], s.held = s.held, s.block[0]
			s.holding, s.n = false, 1
			break
		}
		p := &s.block[s.n]
		if !s.m.next(p) {
			s.finished = true
			break
		}
		s.sum.Packets++
		if !p.control {
			s.n++
			continue
		}
		if s.n == 0 {
			s.n = 1
		} else {
			*p, s.held = s.held, *p
			s.holding = true
		}
		break
	}
	if s.n == 0 {
		return false
	}
	for i := range s.lines {
		s.impair(&s.lines[i])
	}
	s.account()
	return true
}

// impair decides order and fates of the block on l.
func (s *Source) impair(l *line) {
	for i := range s.n {
		l.order[i], l.fates[i] = i, 1
	}
	if s.block[0].control {
		return
	}
	if s.n > 1 {
		i, j := l.dice.below(uint64(s.n)), l.dice.below(uint64(s.n))
		l.order[i], l.order[j] = l.order[j], l.order[i]
	}
	for i := range s.n {
		// Both dice are thrown for every packet: a change of one probability leaves
		// the other's victims as they were.
		lost, twice := l.dice.hit(s.c.Loss), l.dice.hit(s.c.Duplicate)
		switch {
		case lost:
			l.fates[i] = 0
			s.sum.Lost++
		case twice:
			l.fates[i] = 2
			s.sum.Duplicates++
		}
	}
}

// account notes the messages of the block that no line delivers.
func (s *Source) account() {
	for i := range s.n {
		sent := 0
		for k := range s.lines {
			sent += s.lines[k].fates[i]
		}
		if p := &s.block[i]; sent == 0 && p.count > 0 {
			s.sum.LostMessages += uint64(p.count)
			s.c.Truth.lost(Lost{p.session, p.seq, p.count, p.at})
		}
	}
}
