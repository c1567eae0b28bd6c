package cluster

import (
	"encoding/binary"
	"slices"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma/collective"
)

// A snapshot of a registry, every number little-endian:
//
//	u64 lineage, u64 sequence, u32 members, u32 final
//	u64 durable            for each home
//	i64 mark               for each peer and query
//	i64 since              for each peer and query
//	i64 floor              for each query
//	u32 number of windows, then each in order:
//	  24 bytes window; u32 contributors, merged, firings, unsure; u64 missing
//	  u8 flags, firing, forced, zero; u32 number of firings that are not durable
//	  u32 lack, u32 out    for each home
//	  each firing: u64 sequence, epoch, missing; u32 revision; u8 flags, firing, zero, zero
//	               u32 merged for each home

const (
	entryBytes  = 24 + 16 + 8 + 8
	firingBytes = 32
)

// snapshot returns the bytes of r.
func (r *registry) snapshot() []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(le.AppendUint64(nil, r.lineage), r.sequence)
	b = le.AppendUint32(le.AppendUint32(b, uint32(r.members)), uint32(r.final))
	for _, d := range r.durable {
		b = le.AppendUint64(b, d)
	}
	for _, all := range [2][][]event.Nanos{r.marks, r.since} {
		for _, marks := range all {
			for _, m := range marks {
				b = le.AppendUint64(b, uint64(m))
			}
		}
	}
	for _, f := range r.floors {
		b = le.AppendUint64(b, uint64(f))
	}
	b = le.AppendUint32(b, uint32(len(r.windows)))
	for _, queue := range r.queues {
		for _, e := range queue {
			b = e.append(b)
		}
	}
	return b
}

func (e *entry) append(b []byte) []byte {
	le := binary.LittleEndian
	b = appendWindow(b, e.id)
	for _, v := range []uint32{uint32(e.contributors), uint32(e.merged), e.firings, uint32(e.unsure)} {
		b = le.AppendUint32(b, v)
	}
	b = append(le.AppendUint64(b, e.missing), e.flags, byte(e.firing), bit(e.forced), 0)
	b = le.AppendUint32(b, uint32(len(e.unsaved)))
	for h := range e.lack {
		b = le.AppendUint32(le.AppendUint32(b, uint32(e.lack[h])), uint32(e.out[h]))
	}
	for i := range e.unsaved {
		f := &e.unsaved[i]
		for _, v := range []uint64{f.sequence, f.epoch, f.missing} {
			b = le.AppendUint64(b, v)
		}
		b = append(le.AppendUint32(b, f.revision), f.flags, byte(f.firing), 0, 0)
		for _, m := range f.merged {
			b = le.AppendUint32(b, uint32(m))
		}
	}
	return b
}

// decodeSnapshot reads a registry, or returns nil if b is none.
func decodeSnapshot(s *shape, b []byte) *registry {
	c, fault := &cursor{b: b}, FaultNone
	r := newRegistry(s, c.u64())
	r.sequence = c.u64()
	r.members, r.final = c.peers(s, &fault), c.peers(s, &fault)
	for h := range r.durable {
		r.durable[h] = c.u64()
	}
	for _, all := range [2][][]event.Nanos{r.marks, r.since} {
		for _, marks := range all {
			for q := range marks {
				marks[q] = event.Nanos(c.u64())
			}
		}
	}
	for q := range r.floors {
		r.floors[q] = event.Nanos(c.u64())
	}
	last := windowID{end: event.MinNanos}
	for range c.count(entryBytes + 8*s.peers()) {
		e := decodeEntry(s, c, &fault)
		if c.short || fault != FaultNone || e.id.compare(last) <= 0 || slices.Max(append(r.durable, 0)) > r.sequence {
			return nil
		}
		last = e.id
		r.windows[e.id] = e
		r.queues[e.id.query] = append(r.queues[e.id.query], e)
		if e.firings == 0 {
			r.open = append(r.open, e)
		}
		if len(e.unsaved) > 0 {
			r.unsaved = append(r.unsaved, e)
		}
	}
	if c.short || len(c.b) > 0 || fault != FaultNone {
		return nil
	}
	return r
}

func (c *cursor) peers(s *shape, fault *Fault) collective.Set {
	set := collective.Set(c.u32())
	if set&^s.all() != 0 {
		*fault = FaultContent
	}
	return set
}

func decodeEntry(s *shape, c *cursor, fault *Fault) *entry {
	e := &entry{id: c.window(s, fault), lack: make([]collective.Set, s.peers()), out: make([]collective.Set, s.peers())}
	e.contributors, e.merged, e.firings, e.unsure = c.peers(s, fault), c.peers(s, fault), c.u32(), c.peers(s, fault)
	e.missing, e.flags, e.firing, e.forced = c.u64(), c.u8(), outbox.Firing(c.u8()), c.flag(fault)
	if c.u8() != 0 || !good(e.flags, e.firing) || e.contributors == 0 {
		*fault = FaultContent
	}
	n := c.count(firingBytes + 4*s.peers())
	for h := range e.lack {
		e.lack[h], e.out[h] = c.peers(s, fault), c.peers(s, fault)
		if e.lack[h]&^e.contributors != 0 {
			*fault = FaultContent
		}
	}
	for range n {
		f := firing{sequence: c.u64(), epoch: c.u64(), missing: c.u64(), revision: c.u32(), flags: c.u8(), firing: outbox.Firing(c.u8()), merged: make([]collective.Set, s.peers())}
		if !zero(c.take(2)) || !good(f.flags, f.firing) || f.revision >= e.firings {
			*fault = FaultContent
		}
		for h := range f.merged {
			f.merged[h] = c.peers(s, fault)
		}
		e.unsaved = append(e.unsaved, f)
	}
	return e
}

// good reports that a row can have such flags and such a firing.
func good(flags uint8, f outbox.Firing) bool {
	return flags&^(outbox.FlagIncomplete|outbox.FlagSequenced) == 0 && f >= outbox.OnTime && f <= outbox.Flush
}
