package wire

import (
	"bytes"

	"github.com/headrace/headrace/dataplane/event"
)

// A LineDecoder decodes payloads whose records are lines, with [DecodeLines].
type LineDecoder interface {
	// Blank reports a line that is nothing, not even a record.
	Blank(line []byte) bool
	// Line appends the event of one line, without its \n, to b, or says why not.
	Line(p *Packet, b *event.Batch, line []byte) event.Drop
}

// DecodeLines is Decode for a [LineDecoder]: p.Next is the offset of the next line,
// p.Done its number, blank ones not counted. A line that the capture cuts is lost
// even if it looks whole.
func DecodeLines(p *Packet, b *event.Batch, d LineDecoder) (more bool) {
	for p.Next < len(p.Payload) {
		line := p.Payload[p.Next:]
		end := bytes.IndexByte(line, '\n')
		next := p.Next + end + 1
		if end < 0 {
			end, next = len(line), len(p.Payload)
		}
		line = line[:end]
		if d.Blank(line) {
			p.Next = next
			continue
		}
		if b.Full() {
			return true
		}
		heap := len(b.Heap)
		if end == len(p.Payload)-p.Next && p.Cut {
			p.LoseCut()
		} else if drop := d.Line(p, b, line); drop != event.Kept {
			b.Heap = b.Heap[:heap]
			p.Lose(drop)
		}
		p.Next = next
		p.Done++
	}
	return false
}
