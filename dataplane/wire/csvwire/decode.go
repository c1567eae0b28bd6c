package csvwire

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/value"
)

const (
	// LineMax is the greatest length of a line, in bytes. A UDP payload is shorter.
	LineMax = 1 << 16
	// IndexMax is the greatest index of a field that a column may have.
	IndexMax = 1023
)

var (
	errUnit      = errors.New("time needs a unit: rfc3339, s, ms, us, ns or receive")
	errDelimiter = errors.New("delimiter must not be a quote, \\r or \\n")
)

// Format returns the format csv.
func Format() wire.Format {
	return wire.Format{
		Name: "csv", Doc: "comma-separated values, one record a line",
		Place: plan.Placement{Kind: plan.PlaceTuple, Fields: plan.FieldSource | plan.FieldSourcePort},
		New:   newDecoder,
	}
}

// A want is a slot that takes the field with the given index.
type want struct {
	index int
	slot  uint8
}

// A field is the text found for a column, without its outer quotes. The zero field is
// null.
type field struct {
	raw     []byte
	doubled bool // it has doubled quotes
}

// decoder decodes one feed. It has no state of channels.
type decoder struct {
	wants     []want // by index
	fields    []field
	columns   []plan.Column
	unit      plan.TimeUnit
	delimiter byte
	identity  bool
	buf       [value.NumberMax]byte // a field with its quotes single again
}

func newDecoder(f *plan.Feed, _ *arena.Region, _ *arena.Undo) (wire.Decoder, error) {
	d := &decoder{columns: f.Columns, unit: f.Time.Unit, identity: f.Identity, delimiter: f.Delimiter}
	switch d.delimiter {
	case 0:
		d.delimiter = ','
	case '"', '\r', '\n':
		return nil, fmt.Errorf("csv: feed %s: %w", f.Name, errDelimiter)
	}
	if !value.CheckUnit(f.Time.Unit) {
		return nil, fmt.Errorf("csv: feed %s: %w", f.Name, errUnit)
	}
	d.fields = make([]field, len(f.Columns)+1)
	for i := range f.Columns {
		c := &f.Columns[i]
		if !value.CheckColumn(c) {
			return nil, fmt.Errorf("csv: feed %s: column %s cannot be %v(%d)", f.Name, c.Name, c.Type, c.Scale)
		}
		d.wants = append(d.wants, want{c.Index, uint8(i)})
	}
	if d.unit != plan.UnitReceive {
		d.wants = append(d.wants, want{f.Time.Column.Index, uint8(len(f.Columns))})
	}
	for _, w := range d.wants {
		if w.index < 0 || w.index > IndexMax {
			return nil, fmt.Errorf("csv: feed %s: field index %d, want 0 to %d", f.Name, w.index, IndexMax)
		}
	}
	slices.SortFunc(d.wants, func(a, b want) int { return a.index - b.index })
	return d, nil
}

// Forget does nothing: no event refers to another.
func (d *decoder) Forget(int) {}

// Decode implements [wire.Decoder].
func (d *decoder) Decode(p *wire.Packet, b *event.Batch) (more bool) {
	more = wire.DecodeLines(p, b, d)
	clear(d.fields) // keep no hold of the frame
	return more
}

// Blank implements [wire.LineDecoder]: only the empty line is nothing.
func (d *decoder) Blank(line []byte) bool { return len(bare(line)) == 0 }

// bare is a line without the \r of its end.
func bare(line []byte) []byte { return bytes.TrimSuffix(line, carriageReturn) }

var carriageReturn = []byte{'\r'}

// Line implements [wire.LineDecoder].
func (d *decoder) Line(p *wire.Packet, b *event.Batch, line []byte) event.Drop {
	line = bare(line)
	if len(line) > LineMax {
		return event.DropTooLong
	}
	if !d.split(line) {
		return event.DropSyntax
	}
	t := p.Receive
	if d.unit != plan.UnitReceive {
		raw, ok := d.plain(&d.fields[len(d.columns)])
		if !ok {
			return event.DropNoTime
		}
		var drop event.Drop
		if t, drop = value.Instant(raw, d.unit); drop != event.Kept {
			return drop
		}
	}
	for c := range d.columns {
		if drop := d.set(b, c, &d.fields[c]); drop != event.Kept {
			return drop
		}
	}
	p.Keep(b, t, d.identity, p.Done)
	return event.Kept
}

// split finds the fields that are wanted. It returns false if the line is no record.
func (d *decoder) split(line []byte) bool {
	clear(d.fields)
	wants := d.wants
	at := 0
	for index := 0; ; index++ {
		var f field
		start := at
		if at < len(line) && line[at] == '"' {
			start++
			end, ok := closing(line, start, &f)
			if !ok || end+1 < len(line) && line[end+1] != d.delimiter {
				return false
			}
			f.raw, at = line[start:end], end+1
		} else {
			for at < len(line) && line[at] != d.delimiter {
				if line[at] == '"' {
					return false
				}
				at++
			}
			f.raw = line[start:at]
		}
		for len(wants) > 0 && wants[0].index == index {
			d.fields[wants[0].slot] = f
			wants = wants[1:]
		}
		if at == len(line) {
			return true
		}
		at++ // the delimiter
	}
}

// closing returns where the quote is that ends a field beginning at start.
func closing(line []byte, start int, f *field) (end int, ok bool) {
	for i := start; i < len(line); i++ {
		if line[i] != '"' {
			continue
		}
		if i+1 == len(line) || line[i+1] != '"' {
			return i, true
		}
		f.doubled = true
		i++
	}
	return 0, false
}

// plain returns the field with its quotes single, if it is at most 64 bytes long.
func (d *decoder) plain(f *field) ([]byte, bool) {
	if !f.doubled {
		return f.raw, len(f.raw) <= len(d.buf)
	}
	out := d.buf[:0]
	for i := 0; i < len(f.raw); i++ {
		if len(out) == len(d.buf) {
			return nil, false
		}
		out = append(out, f.raw[i])
		if f.raw[i] == '"' {
			i++
		}
	}
	return out, true
}

// set writes column c of the event being added.
func (d *decoder) set(b *event.Batch, c int, f *field) event.Drop {
	if len(f.raw) == 0 {
		b.SetNull(c)
		return event.Kept
	}
	raw, ok := d.plain(f) // a text is at most as long as a number
	if !ok {
		return event.DropTooLong
	}
	if d.columns[c].Type == event.Text {
		b.SetText(c, raw)
		return event.Kept
	}
	return value.SetNumber(b, c, raw)
}

// A text and a number share the buffer for quotes.
var _ [value.NumberMax]byte = [event.TextMax]byte{}
