package iex

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/value"
)

// decoder decodes one feed. It has no state of channels.
type decoder struct {
	types    [256]kind
	identity bool
}

// A kind is what to do with messages of one type.
type kind struct {
	size   uint32 // least length; beyond every length where the type is unknown
	known  bool
	wanted bool
	ops    []op
}

// An op fills one column.
type op struct {
	code   opcode
	at     uint8
	column uint8
	name   value.Name
}

// headerSize is the part that all messages have: type, flags, time stamp.
const headerSize = 10

// maker returns the New of the format that has the given types and fields.
func maker(types string, fields []field) func(*plan.Feed, *arena.Region, *arena.Undo) (wire.Decoder, error) {
	return func(f *plan.Feed, _ *arena.Region, _ *arena.Undo) (wire.Decoder, error) {
		for _, c := range f.Columns {
			if c.Field < 0 || c.Field >= len(fields) {
				return nil, fmt.Errorf("iex: feed %s: column %s: the format has no field number %d", f.Name, c.Name, c.Field)
			}
			if x := &fields[c.Field]; c.Type != x.Type || c.Scale != x.Scale {
				return nil, fmt.Errorf("iex: feed %s: column %s is %v(%d), want %v(%d)", f.Name, c.Name, c.Type, c.Scale, x.Type, x.Scale)
			}
		}
		d := &decoder{identity: f.Identity}
		for i := range d.types {
			d.types[i].size = 1 << 16
		}
		for _, l := range layouts {
			if strings.IndexByte(types, l.code) < 0 {
				continue
			}
			k := &d.types[l.code]
			k.size, k.known, k.wanted = uint32(l.size), true, f.Kinds&(1<<l.kind) != 0
			for i, c := range f.Columns {
				k.ops = append(k.ops, fields[c.Field].op(i, l))
			}
		}
		return d, nil
	}
}

// op returns how to fill column number column with the field of a message of type l.
func (f *field) op(column int, l layout) op {
	o := op{code: opNull, column: uint8(column)}
	if f.from == nil {
		o.code, o.name = opName, value.NewName(kinds[l.kind].Name)
	}
	for _, s := range f.from {
		if strings.IndexByte(s.types, l.code) >= 0 {
			o.code, o.at, o.name = s.code, uint8(s.at), value.NewName(s.name)
		}
	}
	return o
}

// Forget does nothing: no message refers to another.
func (d *decoder) Forget(int) {}

// Decode decodes messages [p.Skip, p.Skip+p.Count). Where they stop is kept in
// p.Next (bytes) and p.Done (messages).
func (d *decoder) Decode(p *wire.Packet, b *event.Batch) (more bool) {
	body, at := p.Payload, p.Next
	if p.Done == 0 && at == 0 && p.Skip > 0 {
		at = skip(body, p.Skip)
	}
	done, latest := p.Done, p.Max
	first, filtered := b.N, uint64(0)
	for ; done < p.Count && at+2 <= len(body); done++ {
		n := int(binary.LittleEndian.Uint16(body[at:]))
		end := at + 2 + n
		if end > len(body) {
			break // cut off: the packet ends with the last whole message
		}
		m := body[at+2 : end]
		if len(m) == 0 {
			at = end
			d.refuse(p, m)
			continue
		}
		k := &d.types[m[0]]
		if len(m) < int(k.size) || len(m) < headerSize { // the second is for the compiler
			at = end
			d.refuse(p, m)
			continue
		}
		t := event.Nanos(binary.LittleEndian.Uint64(m[2:headerSize]))
		if uint64(t)-uint64(event.MaxNanos) <= 1 { // MaxNanos or MinNanos: "never", "nothing yet"
			at = end
			p.Lose(event.DropNoTime)
			continue
		}
		if k.wanted {
			if b.Full() {
				more = true
				break
			}
			if d.identity {
				b.Chan[b.N], b.Order[b.N], b.Seq[b.N], b.Index[b.N] = p.Chan, p.Order, p.Seq+uint64(done), 0
			}
			b.Time[b.N] = t
			k.fill(b, m)
			b.N++
		} else {
			filtered++
		}
		latest = max(latest, t)
		at = end
	}
	events := uint64(b.N - first)
	p.Max, p.Done, p.Next = latest, done, at
	p.Filtered += filtered
	p.Events += events
	p.Messages += filtered + events
	return more
}

// skip returns where the block behind the first n begins, or the body's end.
func skip(body []byte, n int) int {
	at := 0
	for ; n > 0; n-- {
		if at+2 > len(body) {
			return len(body)
		}
		at += 2 + int(binary.LittleEndian.Uint16(body[at:]))
	}
	return min(at, len(body))
}

// refuse counts a message that is of no known type or too short for its type.
func (d *decoder) refuse(p *wire.Packet, m []byte) {
	if len(m) > 0 && !d.types[m[0]].known {
		p.Messages++
		p.Drops[event.DropSkippedType]++
		return
	}
	p.Lose(event.DropBadMessage)
}

// fill writes the columns of the event being added from message m, which is at
// least k.size long.
func (k *kind) fill(b *event.Batch, m []byte) {
	n := b.N
	for i := range k.ops {
		o := &k.ops[i]
		c := int(o.column)
		switch o.code {
		case opInt64:
			col := &b.Cols[c]
			col.Num[n] = int64(binary.LittleEndian.Uint64(m[o.at:]))
			col.Valid.Set(n)
		case opUint32:
			col := &b.Cols[c]
			col.Num[n] = int64(binary.LittleEndian.Uint32(m[o.at:]))
			col.Valid.Set(n)
		case opWord:
			value.SetWord(b, c, binary.LittleEndian.Uint64(m[o.at:]))
		case opName:
			value.SetName(b, c, &o.name)
		case opUint8:
			b.SetNum(c, int64(m[o.at]))
		case opText4:
			const pad = 0x20202020 << 32
			value.SetWord(b, c, uint64(binary.LittleEndian.Uint32(m[o.at:]))|pad)
		case opChar:
			const pad = 0x2020202020202000
			value.SetWord(b, c, uint64(m[o.at])|pad)
		case opNull:
			b.SetNull(c)
		}
	}
}
