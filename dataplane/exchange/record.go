package exchange

import (
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// Kinds of lane record, in the low byte of a record's first word.
const (
	kindBegin = iota + 1
	kindEvent
	kindRelease // begin, and the mark that ends the release
	kindMark
)

const (
	beginWords   = 2
	releaseWords = 3
	markWords    = 3
)

// A Shape is the layout of one stream's event records:
//
//	kind | key length << 8 | stream << 16 | index in message << 24 | rank in release << 40
//	time · hash · key words · query mask words · validity bits · columns
//	and, where the feed keeps identity: chan · order · seq
type Shape struct {
	stream    int
	feed      int
	keyWords  int
	maskWords int
	columns   []int
	text      []bool // columns of which only validity travels
	identity  bool
	words     int
}

// NewShape returns the layout of stream number s of p.
func NewShape(p *plan.Plan, s int) Shape {
	stream := &p.Streams[s]
	feed := &p.Feeds[stream.Feed]
	h := Shape{
		stream: s, feed: stream.Feed, keyWords: (stream.KeyWidth + 7) / 8,
		maskWords: (len(stream.Queries) + 63) / 64, columns: stream.Columns, identity: feed.Identity,
	}
	numbers := 0
	for _, c := range stream.Columns {
		text := feed.Columns[c].Type == event.Text
		h.text = append(h.text, text)
		if !text {
			numbers++
		}
	}
	h.words = 1 + 2 + h.keyWords + h.maskWords + 1 + numbers
	if h.identity {
		h.words += 3
	}
	return h
}

// Words is the size of an event record.
func (h *Shape) Words() int { return h.words }

// put writes event i of k.
func put(h *Shape, to *Lane, k *event.Keyed, i int, mask []uint64) {
	b := k.Batch
	to.Put(kindEvent | uint64(k.KeyLen[i])<<8 | uint64(h.stream)<<16 | uint64(uint16(b.Index[i]))<<24 | uint64(min(b.Rank[i], 1<<event.RankBits-1))<<40)
	to.Put(uint64(b.Time[i]))
	to.Put(k.Hash[i])
	for _, w := range k.Key[i*h.keyWords : (i+1)*h.keyWords] {
		to.Put(w)
	}
	for _, w := range mask {
		to.Put(w)
	}
	var valid uint64
	for j, c := range h.columns {
		if b.Cols[c].Valid.Has(i) {
			valid |= 1 << uint(j)
		}
	}
	to.Put(valid)
	for j, c := range h.columns {
		if !h.text[j] {
			to.Put(uint64(b.Cols[c].Num[i]))
		}
	}
	if h.identity {
		to.Put(b.Chan[i])
		to.Put(b.Order[i])
		to.Put(b.Seq[i])
	}
}

// take appends the event record at l's head to k and returns nothing of it to the
// writer yet.
func take(h *Shape, k *event.Keyed, l *Lane) {
	at := l.head
	first := l.ring[at&l.mask]
	next := func() uint64 {
		at++
		return l.ring[at&l.mask]
	}
	b := k.Batch
	i := b.N
	k.KeyLen[i] = uint8(first >> 8)
	b.Index[i] = uint32(first >> 24 & 0xffff)
	b.Rank[i] = uint32(first >> 40)
	b.Time[i] = event.Nanos(next())
	k.Hash[i] = next()
	for w := range h.keyWords {
		k.Key[i*h.keyWords+w] = next()
	}
	query := 0
	for range h.maskWords {
		mask := next()
		for j := query; mask != 0; j, mask = j+1, mask>>1 {
			if mask&1 != 0 {
				k.Select[j] = append(k.Select[j], uint16(i))
			}
		}
		query += 64
	}
	valid := next()
	for j, c := range h.columns {
		col := &b.Cols[c]
		if !h.text[j] {
			col.Num[i] = int64(next())
		}
		if valid>>uint(j)&1 != 0 {
			col.Valid.Set(i)
		}
	}
	if h.identity {
		b.Chan[i], b.Order[i], b.Seq[i] = next(), next(), next()
	}
	b.N++
}

// putMark writes a mark of the release that has begun.
func putMark(l *Lane, feed int, m *event.Mark) {
	l.Put(kindMark | uint64(m.Kind)<<8 | uint64(feed)<<16 | uint64(m.Gap)<<32)
	l.Put(uint64(m.Time))
	l.Put(m.Count)
}

func putRelease(l *Lane, feed int, m *event.Mark) {
	l.Put(kindRelease | uint64(feed)<<16 | uint64(m.Source)<<32)
	l.Put(m.Position)
	l.Put(uint64(m.Time))
}
