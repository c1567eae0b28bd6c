package cluster

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma/collective"
)

// A shareID names the state of one window and one home.
type shareID struct {
	window windowID
	home   int
}

// A share is the merged states of one window and one home, at its owner and its
// second: the same at both, so that both make the same rows.
type share struct {
	index  map[string]int32
	keys   []string
	states []uint64
	// incomplete: a section that could not be read was left out, at both alike.
	incomplete bool
	// damaged: we have not got what the header tells of. Whatever we made of it might
	// not be what the other holder makes, so we make nothing.
	damaged bool
	// frozen are the lines of firings that are not durable and whose state has changed
	// since.
	frozen []lines
	bytes  int
}

// lines are the rows of one firing of one share, one a key; empty if its state makes
// none.
type lines struct {
	sequence uint64
	text     []byte
	ends     []int
}

// A holder keeps the shares of the homes that this member owns or is second for.
type holder struct {
	s      *shape
	former *rows.Former
	shares map[shareID]*share
	bytes  int
	faults *faults
	part   outbox.Partial
	merged []string
}

func newHolder(s *shape, former *rows.Former, f *faults) *holder {
	return &holder{s: s, former: former, shares: map[shareID]*share{}, faults: f}
}

func (h *holder) clear() { clear(h.shares); h.bytes = 0 }

// share returns the share of id, an empty one if there is none.
func (h *holder) share(id shareID) *share {
	sh := h.shares[id]
	if sh == nil {
		sh = &share{index: map[string]int32{}}
		h.shares[id] = sh
	}
	return sh
}

// rowBytes is what a key costs beside its bytes, more or less.
const rowBytes = 64

// grow counts what a share keeps.
func (h *holder) grow(sh *share, n int) { sh.bytes, h.bytes = sh.bytes+n, h.bytes+n }

func (h *holder) drop(id shareID) {
	if sh := h.shares[id]; sh != nil {
		h.grow(sh, -sh.bytes)
		delete(h.shares, id)
	}
}

// check reads a section and reports what is wrong with it.
func (h *holder) check(id shareID, b []byte) Fault {
	for len(b) > 0 {
		rest, err := outbox.DecodeRecord(&h.part, b, &h.s.limits)
		p := &h.part
		if err != nil || p.Kind != outbox.KindPartial || (windowID{p.Query, p.Start, p.End}) != id.window {
			return FaultRecord
		}
		if h.s.home(p.Key) != id.home {
			return FaultHome
		}
		b = rest
	}
	return FaultNone
}

// merge adds a section of peer from to a share. Owner and second do so in the same
// order with the same bytes, and so leave out the same bad sections.
func (h *holder) merge(id shareID, from int, b []byte) {
	sh := h.share(id)
	if sh.damaged {
		return
	}
	if f := h.check(id, b); f != FaultNone {
		h.faults.note(from, f)
		sh.incomplete = true
		return
	}
	if !h.mergeChecked(id, sh, b) {
		h.faults.note(from, FaultMerge)
		sh.damaged = true
	}
}

// mergeChecked reports false if the states made Merge panic: they are not trusted.
func (h *holder) mergeChecked(id shareID, sh *share, b []byte) (ok bool) {
	defer func() { ok = recover() == nil }()
	set, words := h.s.sets[id.window.query], h.s.limits.Words[id.window.query]
	for len(b) > 0 {
		b, _ = outbox.DecodeRecord(&h.part, b, &h.s.limits)
		at, known := sh.index[string(h.part.Key)]
		if !known {
			key := string(h.part.Key)
			at = int32(len(sh.keys))
			sh.index[key], sh.keys = at, append(sh.keys, key)
			sh.states = append(sh.states, h.part.State...)
			h.grow(sh, len(key)+8*words+rowBytes)
			continue
		}
		set.Merge(sh.states[int(at)*words:][:words], h.part.State)
	}
	return true
}

// freeze makes the lines of e's firings before the state changes that they were of, as
// long as they may be asked for.
func (h *holder) freeze(e *entry, home int, durable uint64) {
	for i := range e.unsaved {
		f := &e.unsaved[i]
		if f.sequence <= durable || f.merged[home] == 0 {
			continue
		}
		sh := h.share(shareID{e.id, home}) // no rows are lines too
		if sh.frozenAt(f.sequence) != nil {
			continue
		}
		l := h.form(e, f, home)
		sh.frozen = append(sh.frozen, l)
		h.grow(sh, len(l.text))
	}
}

func (sh *share) frozenAt(sequence uint64) *lines {
	for i := range sh.frozen {
		if sh.frozen[i].sequence == sequence {
			return &sh.frozen[i]
		}
	}
	return nil
}

// thaw forgets lines that are durable.
func (h *holder) thaw(e *entry, home int, durable uint64) {
	sh := h.shares[shareID{e.id, home}]
	if sh == nil || len(sh.frozen) == 0 {
		return
	}
	sh.frozen = slices.DeleteFunc(sh.frozen, func(l lines) bool {
		if l.sequence > durable {
			return false
		}
		h.grow(sh, -len(l.text))
		return true
	})
}

// form makes the rows of a firing: those that were kept, or new ones of the state,
// which then has not changed since.
func (h *holder) form(e *entry, f *firing, home int) lines {
	sh := h.shares[shareID{e.id, home}]
	if sh == nil || f.merged[home] == 0 {
		return lines{sequence: f.sequence}
	}
	return h.formSome(sh, e.id, f, home, 0, sh.rows(f))
}

// rows returns how many rows f makes of sh, which may be as many less as have a state
// that makes none.
func (sh *share) rows(f *firing) int {
	switch l := sh.frozenAt(f.sequence); {
	case l != nil:
		return len(l.ends)
	case sh.damaged:
		return 0
	}
	return len(sh.keys)
}

// formSome makes rows [from, to) of those of f.
func (h *holder) formSome(sh *share, id windowID, f *firing, home, from, to int) lines {
	if l := sh.frozenAt(f.sequence); l != nil {
		return l.some(from, to)
	}
	out := lines{sequence: f.sequence, ends: make([]int, 0, to-from)}
	g := rows.GroupInfo{Known: h.s.names, Epoch: f.epoch}
	h.merged = h.merged[:0]
	for p := range f.merged[home].All {
		h.merged = append(h.merged, h.s.names[p])
	}
	g.Merged = h.merged
	part := outbox.Partial{
		Kind: outbox.KindPartial, Firing: f.firing, Flags: f.flags, Query: id.query, Revision: f.revision,
		Start: id.start, End: id.end, Missing: f.missing,
	}
	if sh.incomplete {
		part.Flags |= outbox.FlagIncomplete
	}
	words := h.s.limits.Words[id.query]
	for i := from; i < to; i++ {
		part.Key, part.State = append(part.Key[:0], sh.keys[i]...), sh.states[i*words:][:words]
		var err error
		if out.text, err = h.former.AppendGlobal(out.text, &part, &g); err != nil {
			h.faults.note(h.s.me, FaultRow) // the same at both holders: the row is left out
		}
		out.ends = append(out.ends, len(out.text))
		if i == from {
			out.text = slices.Grow(out.text, (to-from)*(len(out.text)+len(out.text)/8))
		}
	}
	return out
}

// some returns lines [from, to) of l.
func (l *lines) some(from, to int) lines {
	base := 0
	if from > 0 {
		base = l.ends[from-1]
	}
	out := lines{sequence: l.sequence, ends: make([]int, 0, to-from)}
	for _, end := range l.ends[from:to] {
		out.ends = append(out.ends, end-base)
	}
	if to > from {
		out.text = l.text[base:l.ends[to-1]]
	}
	return out
}

// encode returns what the next holder of a share needs:
//
//	u8 flags (1: incomplete), 7 zero, u32 number of frozen firings, u32 bytes of records
//	the records
//	each firing: u64 sequence, u32 number of lines, u32 bytes; a u32 end a line; the lines
func (h *holder) encode(id shareID, sh *share) []byte {
	le := binary.LittleEndian
	b := append(make([]byte, 0, sh.bytes), bit(sh.incomplete), 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint32(b, uint32(len(sh.frozen)))
	at := len(b)
	b = le.AppendUint32(b, 0)
	words := h.s.limits.Words[id.window.query]
	for i, key := range sh.keys {
		b = appendState(b, id.window, []byte(key), sh.states[i*words:][:words])
	}
	le.PutUint32(b[at:], uint32(len(b)-at-4))
	for i := range sh.frozen {
		l := &sh.frozen[i]
		b = le.AppendUint32(le.AppendUint32(le.AppendUint64(b, l.sequence), uint32(len(l.ends))), uint32(len(l.text)))
		for _, end := range l.ends {
			b = le.AppendUint32(b, uint32(end))
		}
		b = append(b, l.text...)
	}
	return b
}

// adopt reads what encode wrote. From is a peer: a fault damages the share.
func (h *holder) adopt(id shareID, from int, b []byte) {
	h.drop(id)
	sh := h.share(id)
	if f := h.read(id, sh, b); f != FaultNone {
		h.faults.note(from, f)
		h.drop(id)
		h.share(id).damaged = true
	}
}

func (h *holder) read(id shareID, sh *share, b []byte) Fault {
	c, fault := &cursor{b: b}, FaultNone
	sh.incomplete = c.flag(&fault)
	if !zero(c.take(7)) {
		return FaultContent
	}
	n, records := c.u32(), c.take(int(c.u32()))
	if c.short || fault != FaultNone {
		return FaultLength
	}
	if f := h.check(id, records); f != FaultNone {
		return f
	}
	if !h.mergeChecked(id, sh, records) {
		return FaultMerge
	}
	for range n {
		l := lines{sequence: c.u64()}
		ends, size := c.count(4), 0
		text := int(c.u32())
		for range ends {
			l.ends = append(l.ends, int(c.u32()))
		}
		l.text = bytes.Clone(c.take(text))
		if c.short {
			return FaultLength
		}
		for _, end := range l.ends {
			// A line is one row, whatever else it says.
			if end == size { // it made none
				continue
			}
			if end < size || end > len(l.text) || bytes.IndexByte(l.text[size:end], '\n') != end-size-1 {
				return FaultContent
			}
			size = end
		}
		if size != len(l.text) {
			return FaultContent
		}
		sh.frozen = append(sh.frozen, l)
		h.grow(sh, len(l.text))
	}
	if len(c.b) > 0 {
		return FaultLength
	}
	return FaultNone
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// retain drops the shares of homes other than those.
func (h *holder) retain(homes collective.Set) {
	for id := range h.shares {
		if !homes.Has(id.home) {
			h.drop(id)
		}
	}
}

// appendState appends the record of one key: nothing but its state is in it, since
// the rest belongs to the window.
func appendState(b []byte, w windowID, key []byte, state []uint64) []byte {
	return outbox.AppendRecord(b, &outbox.Partial{
		Kind: outbox.KindPartial, Firing: outbox.OnTime, Query: w.query, Start: w.start, End: w.end, Key: key, State: state,
	})
}
