package event

import (
	"encoding/binary"

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

// Group returns the key group of a hash: its top ten bits.
func Group(hash uint64) int { return int(hash >> 54) }
