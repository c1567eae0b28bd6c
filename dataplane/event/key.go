package event

import (
	"encoding/binary"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// The canonical key is the concatenation of the key list's values:
//
//	text             the bytes, without the wire format's padding
//	int64            8 bytes, big-endian, sign bit flipped
//	decimal          the scale (one byte), then the integer as int64
//	float64          not a key type
//
// With more than one column in the list each value is preceded by its length as
// a big-endian u16. Hash, key group, row order and row id are made from it.

// AppendInt64 appends the canonical form of v to dst.
func AppendInt64(dst []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(v)^1<<63)
}

// AppendDecimal appends the canonical form of the decimal v·10^-scale to dst.
func AppendDecimal(dst []byte, v int64, scale uint8) []byte {
	return AppendInt64(append(dst, scale), v)
}

// HashKey returns the hash of a canonical key: XXH64 with seed 0.
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
func HashKey(key []byte) uint64 { return xxhash.Sum64(key) }

// HashWord is [HashKey] of an 8-byte key, read as a little-endian word. It is small
// enough to be inlined into a loop, where the hashes of several keys overlap.
func HashWord(key uint64) uint64 {
	const (
		p1 = 0x9e3779b185ebca87
		p2 = 0xc2b2ae3d27d4eb4f
		p3 = 0x165667b19e3779f9
		p4 = 0x85ebca77c2b2ae63
		p5 = 0x27d4eb2f165667c5
	)
	h := (p5 + 8) ^ bits.RotateLeft64(key*p2, 31)*p1
	h = bits.RotateLeft64(h, 27)*p1 + p4
	h = (h ^ h>>33) * p2
	h = (h ^ h>>29) * p3
	return h ^ h>>32
}

// Group returns the key group of a hash: its top ten bits.
func Group(hash uint64) int { return int(hash >> 54) }
