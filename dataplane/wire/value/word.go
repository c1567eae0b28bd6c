package value

import (
	"encoding/binary"
	"math/bits"

	"github.com/headrace/headrace/dataplane/event"
)

const spaces = 0x2020202020202020

// SetWord sets text column c of the event being added to the eight bytes of w, in
// memory order of a little-endian load, without the spaces that pad it on the right.
func SetWord(b *event.Batch, c int, w uint64) {
	n := 8 - bits.LeadingZeros64(w^spaces)/8
	at := len(b.Heap)
	b.Heap = b.Heap[:at+8] // a batch has room for TextMax bytes of every text value
	binary.LittleEndian.PutUint64(b.Heap[at:], w)
	b.Heap = b.Heap[:at+n]
	col := &b.Cols[c]
	col.Off[b.N] = uint32(at)
	col.Len[b.N] = uint8(n)
	col.Valid.Set(b.N)
}

// A Name is a constant text of at most [NameMax] bytes, kept so that it is written
// with whole words.
type Name struct {
	words [3]uint64
	n     uint8
}

// NameMax is the greatest length of a [Name].
const NameMax = 24

// NewName returns s as a Name. It panics if s is too long.
func NewName(s string) Name {
	if len(s) > NameMax {
		panic("value: name of more than 24 bytes: " + s)
	}
	var buf [NameMax]byte
	copy(buf[:], s)
	name := Name{n: uint8(len(s))}
	for i := range name.words {
		name.words[i] = binary.LittleEndian.Uint64(buf[8*i:])
	}
	return name
}

// SetName sets text column c of the event being added to n.
func SetName(b *event.Batch, c int, n *Name) {
	at := len(b.Heap)
	b.Heap = b.Heap[:at+NameMax] // a batch has room for TextMax bytes of every text value
	text := b.Heap[at : at+NameMax]
	binary.LittleEndian.PutUint64(text, n.words[0])
	binary.LittleEndian.PutUint64(text[8:], n.words[1])
	binary.LittleEndian.PutUint64(text[16:], n.words[2])
	b.Heap = b.Heap[:at+int(n.n)]
	col := &b.Cols[c]
	col.Off[b.N] = uint32(at)
	col.Len[b.N] = n.n
	col.Valid.Set(b.N)
}
