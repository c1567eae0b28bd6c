package raw

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/value"
)

// SizeMax is the greatest end of a field and the greatest stride, in bytes.
const SizeMax = 1 << 16

var errUnit = errors.New("time needs a unit: rfc3339, s, ms, us, ns or receive")

// Format returns the format raw.
func Format() wire.Format {
	return wire.Format{
		Name: "raw", Doc: "fixed structures, the layout being in the config",
		Place: plan.Placement{Kind: plan.PlaceTuple, Fields: plan.FieldSource | plan.FieldSourcePort},
		New:   newDecoder,
	}
}

// A place is where a field is.
type place struct {
	offset, width int
	kind          event.Type
}

// decoder decodes one feed. It has no state of channels.
type decoder struct {
	places   []place
	time     place
	unit     plan.TimeUnit
	size     int // bytes that a record must have
	stride   int // 0: one record a packet
	little   bool
	identity bool
}

func newDecoder(f *plan.Feed, _ *arena.Region, _ *arena.Undo) (wire.Decoder, error) {
	d := &decoder{unit: f.Time.Unit, little: f.LittleEndian, stride: f.Stride, identity: f.Identity}
	for i := range f.Columns {
		c := &f.Columns[i]
		if !value.CheckColumn(c) {
			return nil, fmt.Errorf("raw: feed %s: column %s cannot be %v(%d)", f.Name, c.Name, c.Type, c.Scale)
		}
		if err := d.check(c, c.Type); err != nil {
			return nil, fmt.Errorf("raw: feed %s: column %s: %w", f.Name, c.Name, err)
		}
		d.places = append(d.places, place{c.Offset, c.Width, c.Type})
	}
	if !value.CheckUnit(d.unit) {
		return nil, fmt.Errorf("raw: feed %s: %w", f.Name, errUnit)
	}
	if d.unit != plan.UnitReceive {
		c := &f.Time.Column
		d.time = place{c.Offset, c.Width, event.Int64}
		if d.unit == plan.UnitRFC3339 {
			d.time.kind = event.Text
		}
		if err := d.check(c, d.time.kind); err != nil {
			return nil, fmt.Errorf("raw: feed %s: time: %w", f.Name, err)
		}
	}
	if d.stride != 0 && (d.stride < max(1, d.size) || d.stride > SizeMax) {
		return nil, fmt.Errorf("raw: feed %s: stride %d, want %d (the end of the last field) to %d", f.Name, d.stride, max(1, d.size), SizeMax)
	}
	return d, nil
}

// check says whether a field of type t can be at c's place.
func (d *decoder) check(c *plan.Column, t event.Type) error {
	w := c.Width
	switch {
	case c.Offset < 0 || c.Offset > SizeMax-8:
		return fmt.Errorf("offset %d, want 0 to %d", c.Offset, SizeMax-8)
	case t == event.Text && (w < 1 || w > event.TextMax):
		return fmt.Errorf("width %d of a text, want 1 to %d", w, event.TextMax)
	case t == event.Float64 && w != 4 && w != 8:
		return fmt.Errorf("width %d of a float64, want 4 or 8", w)
	case (t == event.Int64 || t == event.Decimal) && w != 1 && w != 2 && w != 4 && w != 8:
		return fmt.Errorf("width %d of an integer, want 1, 2, 4 or 8", w)
	}
	d.size = max(d.size, c.Offset+w)
	return nil
}

// Forget does nothing: no event refers to another.
func (d *decoder) Forget(int) {}

// Decode decodes p's records. p.Next is the offset of the next one, p.Done its number.
func (d *decoder) Decode(p *wire.Packet, b *event.Batch) (more bool) {
	if d.stride == 0 {
		if p.Done > 0 {
			return false
		}
		if b.Full() {
			return true
		}
		d.record(p, b, p.Payload, d.size)
		return false
	}
	for p.Next < len(p.Payload) {
		if b.Full() {
			return true
		}
		d.record(p, b, p.Payload[p.Next:], d.stride)
		p.Next = min(p.Next+d.stride, len(p.Payload))
	}
	return false
}

// record decodes the record that m begins with, which must have need bytes.
func (d *decoder) record(p *wire.Packet, b *event.Batch, m []byte, need int) {
	index := p.Done
	p.Done++
	if len(m) < need {
		if p.Cut {
			p.LoseCut()
			return
		}
		p.Lose(event.DropBadMessage)
		return
	}
	t := p.Receive
	if d.unit != plan.UnitReceive {
		var drop event.Drop
		if t, drop = d.instant(m); drop != event.Kept {
			p.Lose(drop)
			return
		}
	}
	heap := len(b.Heap)
	for c := range d.places {
		f := &d.places[c]
		raw := m[f.offset : f.offset+f.width]
		switch f.kind {
		case event.Text:
			b.SetText(c, trim(raw))
		case event.Float64:
			v := d.float(raw)
			if math.IsNaN(v) || math.IsInf(v, 0) {
				b.Heap = b.Heap[:heap]
				p.Lose(event.DropNotFinite)
				return
			}
			b.SetNum(c, int64(math.Float64bits(v)))
		default:
			b.SetNum(c, d.integer(raw))
		}
	}
	p.Keep(b, t, d.identity, index)
}

// instant reads the event time.
func (d *decoder) instant(m []byte) (event.Nanos, event.Drop) {
	raw := m[d.time.offset : d.time.offset+d.time.width]
	if d.time.kind == event.Text {
		return value.RFC3339(trim(raw))
	}
	return value.InstantInt(d.integer(raw), d.unit)
}

// trim removes the padding at the end of a text.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == 0) {
		b = b[:len(b)-1]
	}
	return b
}

func (d *decoder) integer(b []byte) int64 {
	switch len(b) {
	case 1:
		return int64(int8(b[0]))
	case 2:
		if d.little {
			return int64(int16(binary.LittleEndian.Uint16(b)))
		}
		return int64(int16(binary.BigEndian.Uint16(b)))
	case 4:
		if d.little {
			return int64(int32(binary.LittleEndian.Uint32(b)))
		}
		return int64(int32(binary.BigEndian.Uint32(b)))
	}
	if d.little {
		return int64(binary.LittleEndian.Uint64(b))
	}
	return int64(binary.BigEndian.Uint64(b))
}

// float reads a float32 or float64. −0 is 0.
func (d *decoder) float(b []byte) float64 {
	var v float64
	if bits := uint64(d.integer(b)); len(b) == 4 {
		v = float64(math.Float32frombits(uint32(bits)))
	} else {
		v = math.Float64frombits(bits)
	}
	if v == 0 {
		return 0
	}
	return v
}
