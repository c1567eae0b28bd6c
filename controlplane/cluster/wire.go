package cluster

import (
	"encoding/binary"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma/collective"
)

// version is that of everything in this file.
const version = 1

// A phase says what a round of an epoch is for.
type phase uint8

const (
	rollCall phase = iota + 1 // round 1: who knows what has happened so far
	carrying                  // round 2: the others are told, and states move
	plain                     // all later rounds: windows
)

// A position is the last committed round that a member has followed: of two, the
// later one knows more; those that have the same know the same.
type position struct{ epoch, round uint64 }

func (p position) before(q position) bool {
	return p.epoch < q.epoch || p.epoch == q.epoch && p.round < q.round
}

// Idle says why nobody waits for a peer's watermark of a query.
type idle uint8

const (
	waited  idle = iota // it is waited for
	silent              // no event for as long as the query's idle says; open windows may hold some
	without             // it has never seen an event of the query
)

// A header is what a member says to all members in a round.
type header struct {
	phase    phase
	stopping bool // it will end, and needs us until its last rows are out
	final    bool // it will never contribute anything more
	forgot   bool // the sender has followed position in an earlier life, and knows nothing of it
	position position
	marks    []mark   // [query]
	durable  []uint64 // [home] firings up to there are in the sender's sinks, if it is the owner
	closes   []closing
	forced   []windowID // the lowest member's word counts
	moves    []move
	snapshot []byte // of the registry; empty: none
}

// A mark is how far a member is with a query.
type mark struct {
	watermark event.Nanos // its partials of every window up to there have been contributed with this round
	// floor says that windows up to there can be corrected no more; the lowest member's
	// word counts. In the first two rounds it is up to where the sender knows that
	// windows may be out.
	floor event.Nanos
	// since is up to where the sender may have given up windows without a word: that its
	// watermark is past them does not say that it had nothing.
	since event.Nanos
	idle  idle
}

// A closing is one window of which this contribution holds all that the sender has.
type closing struct {
	window  windowID
	again   bool // only of the homes whose holders lost what they had of the sender
	firing  outbox.Firing
	flags   uint8
	missing uint64
	homes   collective.Set
	parts   []section // one a home, lowest first
}

// A section is the records of one window and one home. Owner and second get the same
// bytes, so that they judge them alike: sum tells each of them whether it has them.
type section struct {
	bytes uint32
	sum   uint64
}

// A move is the state of one window and one home, for those who hold it from now on.
type move struct {
	window  windowID
	home    uint8
	damaged bool // there is a state but it cannot be trusted
	section
}

const (
	markBytes    = 32
	closingBytes = 40
	partBytes    = 12
	windowBytes  = 24
	moveBytes    = 40
)

func appendWindow(b []byte, w windowID) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(w.query))
	return le.AppendUint64(le.AppendUint64(b, uint64(w.start)), uint64(w.end))
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// append appends h's bytes. What decodes from them is h again.
func (h *header) append(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, version, byte(h.phase), bit(h.forgot)<<2|bit(h.final)<<1|bit(h.stopping), byte(len(h.durable)))
	b = le.AppendUint32(b, uint32(len(h.marks)))
	b = le.AppendUint64(le.AppendUint64(b, h.position.epoch), h.position.round)
	b = le.AppendUint32(le.AppendUint32(b, uint32(len(h.closes))), uint32(len(h.forced)))
	b = le.AppendUint32(le.AppendUint32(b, uint32(len(h.moves))), uint32(len(h.snapshot)))
	for _, m := range h.marks {
		b = le.AppendUint64(le.AppendUint64(b, uint64(m.watermark)), uint64(m.floor))
		b = le.AppendUint64(le.AppendUint64(b, uint64(m.since)), uint64(m.idle))
	}
	for _, d := range h.durable {
		b = le.AppendUint64(b, d)
	}
	for i := range h.closes {
		c := &h.closes[i]
		b = appendWindow(b, c.window)
		b = append(b, bit(c.again), byte(c.firing), c.flags, 0)
		b = le.AppendUint64(le.AppendUint32(b, uint32(c.homes)), c.missing)
		for _, p := range c.parts {
			b = le.AppendUint64(le.AppendUint32(b, p.bytes), p.sum)
		}
	}
	for _, w := range h.forced {
		b = appendWindow(b, w)
	}
	for _, m := range h.moves {
		b = appendWindow(b, m.window)
		b = append(b, m.home, bit(m.damaged), 0, 0)
		b = le.AppendUint64(le.AppendUint32(b, m.bytes), m.sum)
	}
	return append(b, h.snapshot...)
}

// A cursor reads numbers off the front of bytes that are not trusted. After the first
// that is not there it gives zeros.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.short, c.b = true, nil
		return nil
	}
	out := c.b[:n:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) u8() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// count reads a number of things that have at least so many bytes each.
func (c *cursor) count(each int) int {
	n := c.u32()
	if uint64(n)*uint64(each) > uint64(len(c.b)) {
		c.short, c.b = true, nil
		return 0
	}
	return int(n)
}

func (c *cursor) flag(f *Fault) bool {
	b := c.u8()
	if b > 1 {
		*f = FaultContent
	}
	return b == 1
}

func (c *cursor) window(s *shape, f *Fault) windowID {
	q := c.u64()
	w := windowID{uint16(q), event.Nanos(c.u64()), event.Nanos(c.u64())}
	if !c.short && (q > 1<<16-1 || !s.valid(w)) {
		*f = FaultWindow
	}
	return w
}

// decodeHeader reads what a peer says. It is the same bytes at every member, so that a
// fault is the same at all of them.
func decodeHeader(s *shape, b []byte, want phase) (*header, Fault) {
	h := &header{}
	c := &cursor{b: b}
	fault := FaultNone
	if v := c.u8(); v != version && !c.short {
		return nil, FaultVersion
	}
	h.phase = phase(c.u8())
	ends := c.u8()
	if h.stopping, h.final, h.forgot = ends&1 != 0, ends&2 != 0, ends&4 != 0; ends > 7 {
		fault = FaultContent
	}
	if peers := int(c.u8()); peers != s.peers() && !c.short {
		return nil, FaultShape
	}
	if h.phase != want && !c.short {
		return nil, FaultPhase
	}
	if queries := int(c.u32()); queries != len(s.queries) && !c.short {
		return nil, FaultShape
	}
	h.position = position{c.u64(), c.u64()}
	closes, forced, moves, snapshot := c.count(closingBytes), c.count(windowBytes), c.count(moveBytes), c.count(1)
	if c.short {
		return nil, FaultLength
	}
	h.decodeMarks(s, c, &fault)
	h.decodeCloses(s, c, closes, &fault)
	for range forced {
		h.forced = append(h.forced, c.window(s, &fault))
	}
	for range moves {
		m := move{window: c.window(s, &fault), home: c.u8(), damaged: c.flag(&fault)}
		if !zero(c.take(2)) || int(m.home) >= s.peers() {
			fault = FaultContent
		}
		m.section = section{c.u32(), c.u64()}
		h.moves = append(h.moves, m)
	}
	h.snapshot = c.take(snapshot)
	switch {
	case c.short || len(c.b) > 0:
		return nil, FaultLength
	case fault != FaultNone:
		return nil, fault
	}
	return h, FaultNone
}

func (h *header) decodeMarks(s *shape, c *cursor, fault *Fault) {
	h.marks, h.durable = make([]mark, len(s.queries)), make([]uint64, s.peers())
	for i := range h.marks {
		h.marks[i].watermark, h.marks[i].floor = event.Nanos(c.u64()), event.Nanos(c.u64())
		h.marks[i].since = event.Nanos(c.u64())
		i64 := c.u64()
		if i64 > uint64(without) {
			*fault = FaultContent
		}
		h.marks[i].idle = idle(i64)
	}
	for i := range h.durable {
		h.durable[i] = c.u64()
	}
}

func (h *header) decodeCloses(s *shape, c *cursor, n int, fault *Fault) {
	for range n {
		w := closing{window: c.window(s, fault), again: c.flag(fault), firing: outbox.Firing(c.u8()), flags: c.u8()}
		if pad := c.u8(); pad != 0 || w.firing < outbox.OnTime || w.firing > outbox.Flush || w.flags&^(outbox.FlagIncomplete|outbox.FlagSequenced) != 0 {
			*fault = FaultContent
		}
		w.homes, w.missing = collective.Set(c.u32()), c.u64()
		if w.homes&^s.all() != 0 {
			*fault, w.homes = FaultContent, 0
		}
		if n := w.homes.Len(); n > 0 && !c.short {
			w.parts = make([]section, n)
			for i := range w.parts {
				w.parts[i] = section{c.u32(), c.u64()}
			}
		}
		if c.short {
			return
		}
		h.closes = append(h.closes, w)
	}
}

// sumOf is a section's sum.
func sumOf(b []byte) uint64 { return event.HashKey(b) }

// Fault says what is wrong with a contribution.
type Fault uint8

// The faults. The first ones are of headers, which all members ignore alike; the
// others are of bodies, and leave out one section.
const (
	FaultNone     Fault = iota
	FaultVersion        // another version of the layout
	FaultShape          // another number of peers or queries
	FaultPhase          // not what this round is for
	FaultLength         // it ends too early or goes on too long
	FaultContent        // a number that cannot be
	FaultWindow         // no window of the plan
	FaultSnapshot       // what has happened so far cannot be read
	FaultBody           // the body is not the one that the header tells of
	FaultRecord         // not a record of the section's window
	FaultHome           // a record of a key that is at home elsewhere
	FaultMerge          // a state that does not merge
	FaultRow            // a state that makes no row
	FaultCount
)

var faultNames = [FaultCount]string{
	"none", "version", "shape", "phase", "length", "content", "window", "snapshot", "body", "record", "home", "merge", "row",
}

// String returns the fault's name in metrics.
func (f Fault) String() string {
	if f < FaultCount {
		return faultNames[f]
	}
	return "unknown"
}
