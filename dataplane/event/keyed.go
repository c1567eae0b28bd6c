package event

import "encoding/binary"

// A Keyed is what one stream adds to a batch: the canonical key and hash of every
// event that some query of the stream wants, and which query wants which events.
// One goroutine owns it.
type Keyed struct {
	Batch *Batch
	// Words is the number of words a key takes: its width, rounded up.
	Words int
	// Key holds event i's canonical key in Key[i*Words : (i+1)*Words], as
	// little-endian words padded with zero bytes; KeyLen is its length in bytes.
	Key    []uint64
	KeyLen [BatchMax]uint8
	Hash   [BatchMax]uint64
	// Select lists, for each query of the stream, the events it wants, ascending.
	Select [][]uint16
	// Position orders the events of all workers: the releasing packet's number << 24
	// and the rank in the release. Only where events of several workers are merged.
	Position []uint64
}

// RankBits is the part of a position that holds the rank in a release.
const RankBits = 24

// NewKeyed returns an empty Keyed for b, for keys of at most width bytes and the
// given number of queries.
func NewKeyed(b *Batch, width, queries int) *Keyed {
	k := &Keyed{Batch: b, Words: (width + 7) / 8, Select: make([][]uint16, queries)}
	k.Key = make([]uint64, BatchMax*k.Words)
	for i := range k.Select {
		k.Select[i] = make([]uint16, 0, BatchMax)
	}
	return k
}

// Reset forgets what every query wants.
func (k *Keyed) Reset() {
	for i := range k.Select {
		k.Select[i] = k.Select[i][:0]
	}
}

// PutKey stores key, at most Words*8 bytes, as the key of event i.
func (k *Keyed) PutKey(i int, key []byte) {
	words := k.Key[i*k.Words : (i+1)*k.Words]
	k.KeyLen[i] = uint8(len(key))
	if len(key) == 8 {
		words[0] = binary.LittleEndian.Uint64(key)
		clear(words[1:])
		return
	}
	for w := range words {
		words[w] = loadPadded(key)
		key = key[min(8, len(key)):]
	}
}

// loadPadded returns the first 8 bytes of b, or all of it padded with zero bytes,
// as a little-endian word.
func loadPadded(b []byte) uint64 {
	if len(b) >= 8 {
		return binary.LittleEndian.Uint64(b)
	}
	var v uint64
	for i, c := range b {
		v |= uint64(c) << (8 * uint(i))
	}
	return v
}

// AppendKey appends the first length bytes of a key held in words to dst.
func AppendKey(dst []byte, words []uint64, length int) []byte {
	for _, w := range words {
		if length < 8 {
			for ; length > 0; length-- {
				dst = append(dst, byte(w))
				w >>= 8
			}
			return dst
		}
		dst = binary.LittleEndian.AppendUint64(dst, w)
		length -= 8
	}
	return dst
}

// CopyEvent appends event i of src to k, whose batch has columns of the same types,
// without its text values (their validity is kept).
func (k *Keyed) CopyEvent(src *Keyed, i int) {
	b, from := k.Batch, src.Batch
	n := b.N
	b.Time[n], b.Chan[n], b.Order[n], b.Seq[n] = from.Time[i], from.Chan[i], from.Order[i], from.Seq[i]
	b.Index[n], b.Source[n], b.Rank[n] = from.Index[i], from.Source[i], from.Rank[i]
	for c := range b.Cols {
		if b.Cols[c].Num != nil {
			b.Cols[c].Num[n] = from.Cols[c].Num[i]
		}
		if from.Cols[c].Valid.Has(i) {
			b.Cols[c].Valid.Set(n)
		}
	}
	copy(k.Key[n*k.Words:(n+1)*k.Words], src.Key[i*k.Words:(i+1)*k.Words])
	k.KeyLen[n], k.Hash[n] = src.KeyLen[i], src.Hash[i]
	if src.Position != nil {
		k.Position[n] = src.Position[i]
	}
	b.N++
}
