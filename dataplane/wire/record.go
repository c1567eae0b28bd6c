package wire

import (
	"github.com/headrace/headrace/dataplane/event"
)

// Lose counts a message or event that is dropped, though it belongs to the feed.
func (p *Packet) Lose(reason event.Drop) {
	p.Messages++
	p.Drops[reason]++
	p.Hit = true
}

// LoseCut counts the record that the end of a capture cuts in two. It marks nothing:
// the capture holds less than there was, but nothing went wrong with the feed.
func (p *Packet) LoseCut() {
	p.Messages++
	p.Drops[event.DropTruncated]++
}

// Keep counts the event that was just written as entry b.N, adds it to b and, if
// identity is asked for, says which one it is: number index of the packet.
func (p *Packet) Keep(b *event.Batch, t event.Nanos, identity bool, index int) {
	b.Time[b.N] = t
	p.Max = max(p.Max, t)
	if identity {
		b.Chan[b.N], b.Order[b.N], b.Seq[b.N], b.Index[b.N] = p.Chan, p.Order, p.Seq, uint32(index)
	}
	b.N++
	p.Messages++
	p.Events++
}
