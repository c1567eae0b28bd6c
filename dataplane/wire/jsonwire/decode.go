package jsonwire

import (
	"errors"
	"fmt"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/value"
)

// LineMax is the greatest length of a line, in bytes. A UDP payload is shorter.
const LineMax = 1 << 16

var errUnit = errors.New("time needs a unit: rfc3339, s, ms, us, ns or receive")

// Format returns the format json.
func Format() wire.Format {
	return wire.Format{
		Name: "json", Doc: "JSON objects, one a line",
		Place: plan.Placement{Kind: plan.PlaceTuple, Fields: plan.FieldSource | plan.FieldSourcePort},
		New:   newDecoder,
	}
}

// decoder decodes one feed. It has no state of channels.
type decoder struct {
	root     node
	scan     scanner
	columns  []plan.Column
	unit     plan.TimeUnit
	identity bool
	buf      [value.NumberMax]byte // a number's or instant's text without its escapes
}

func newDecoder(f *plan.Feed, _ *arena.Region, _ *arena.Undo) (wire.Decoder, error) {
	d := &decoder{columns: f.Columns, unit: f.Time.Unit, identity: f.Identity}
	d.scan.slots = make([]slot, len(f.Columns)+1)
	for i := range f.Columns {
		c := &f.Columns[i]
		if !value.CheckColumn(c) {
			return nil, fmt.Errorf("json: feed %s: column %s cannot be %v(%d)", f.Name, c.Name, c.Type, c.Scale)
		}
		path := c.Path
		if len(path) == 0 {
			path = []string{c.Name}
		}
		d.root.add(path, uint8(i))
	}
	if !value.CheckUnit(f.Time.Unit) {
		return nil, fmt.Errorf("json: feed %s: %w", f.Name, errUnit)
	}
	if d.unit != plan.UnitReceive {
		path := f.Time.Column.Path
		if len(path) == 0 {
			path = []string{f.Time.Column.Name}
		}
		d.root.add(path, uint8(len(f.Columns)))
	}
	return d, nil
}

// add makes the node at path, below n, fill a slot.
func (n *node) add(path []string, slot uint8) {
	n.under = append(n.under, slot)
	if len(path) == 0 {
		n.slots = append(n.slots, slot)
		return
	}
	for i := range n.children {
		if n.children[i].key == path[0] {
			n.children[i].add(path[1:], slot)
			return
		}
	}
	n.children = append(n.children, node{key: path[0]})
	n.children[len(n.children)-1].add(path[1:], slot)
}

// Forget does nothing: no event refers to another.
func (d *decoder) Forget(int) {}

// Decode implements [wire.Decoder].
func (d *decoder) Decode(p *wire.Packet, b *event.Batch) (more bool) {
	more = wire.DecodeLines(p, b, d)
	d.scan.b = nil // keep no hold of the frame
	clear(d.scan.slots)
	return more
}

// Blank implements [wire.LineDecoder]: white space is nothing.
func (d *decoder) Blank(line []byte) bool {
	for _, c := range line {
		if !isSpace(c) {
			return false
		}
	}
	return true
}

// Line implements [wire.LineDecoder].
func (d *decoder) Line(p *wire.Packet, b *event.Batch, line []byte) event.Drop {
	if len(line) > LineMax {
		return event.DropTooLong
	}
	if drop := d.scan.object(line, &d.root); drop != event.Kept {
		return drop
	}
	t := p.Receive
	if d.unit != plan.UnitReceive {
		var drop event.Drop
		if t, drop = d.instant(&d.scan.slots[len(d.columns)]); drop != event.Kept {
			return drop
		}
	}
	for c := range d.columns {
		if drop := d.set(b, c, &d.scan.slots[c]); drop != event.Kept {
			return drop
		}
	}
	p.Keep(b, t, d.identity, p.Done)
	return event.Kept
}

// instant reads the event time.
func (d *decoder) instant(s *slot) (event.Nanos, event.Drop) {
	switch {
	case s.form == number && d.unit != plan.UnitRFC3339, s.form == text:
		return value.Instant(s.raw, d.unit)
	case s.form == escaped:
		if raw, ok := d.plain(s.raw); ok {
			return value.Instant(raw, d.unit)
		}
	}
	return 0, event.DropNoTime
}

// plain returns a string without its escapes, if it is short enough for a number.
func (d *decoder) plain(raw []byte) ([]byte, bool) {
	out := d.buf[:0]
	for len(raw) > 0 {
		c, n, rest := unescape(raw)
		if len(out)+n > len(d.buf) {
			return nil, false
		}
		out, raw = append(out, c[:n]...), rest
	}
	return out, true
}

// set writes column c of the event being added.
func (d *decoder) set(b *event.Batch, c int, s *slot) event.Drop {
	isText := d.columns[c].Type == event.Text
	switch s.form {
	case absent, null:
		b.SetNull(c)
		return event.Kept
	case number:
		if !isText {
			return value.SetNumber(b, c, s.raw)
		}
	case text:
		if !isText {
			return value.SetNumber(b, c, s.raw)
		}
		if len(s.raw) > event.TextMax {
			return event.DropTooLong
		}
		b.SetText(c, s.raw)
		return event.Kept
	case escaped:
		raw, ok := d.plain(s.raw) // a text is at most as long as a number
		if !ok {
			return event.DropTooLong
		}
		if !isText {
			return value.SetNumber(b, c, raw)
		}
		b.SetText(c, raw)
		return event.Kept
	}
	return event.DropBadValue
}

// A text and a number share the buffer for unescaping.
var _ [value.NumberMax]byte = [event.TextMax]byte{}
