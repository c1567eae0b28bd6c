package frame

import (
	"encoding/binary"
	"hash/crc32"
)

// The header on the wire, little-endian. A change is another version.
//
//	 0 magic u32 "hrx1"   4 version u8   5 kind u8   6 op u8   7 flags u8
//	 8 epoch u64
//	16 round u64
//	24 source u8   25 dest u8   26 zero u16   28 length u32
//	32 offset u64
//	40 total u64
//	48 sequence u64   counts from one peer to another in an epoch: lane<<48 + 1, 2, 3 …
//	56 crc32c u32     over the payload, then the header with zero here; zero if sealed
//	60 zero u32
//
// A sealed frame is the header, the payload encrypted by AES-256-GCM and its tag. The
// header is the additional data; the nonce is the low 4 bytes of the epoch, then the
// sequence. The checksum begins with the payload so that one which goes to several
// peers, with headers that differ, is read once.
const (
	atVersion  = 4
	atKind     = 5
	atOp       = 6
	atFlags    = 7
	atEpoch    = 8
	atRound    = 16
	atSource   = 24
	atDest     = 25
	atZero     = 26
	atLength   = 28
	atOffset   = 32
	atTotal    = 40
	atSequence = 48
	atSum      = 56
	atZeroEnd  = 60

	magic      = 0x31787268 // "hrx1"
	version    = 1
	flagSealed = 1
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      [HeaderBytes]byte // never written
)

func put(dst *[HeaderBytes]byte, h *Header, flags byte, sequence uint64) {
	le.PutUint32(dst[:], magic)
	dst[atVersion], dst[atKind], dst[atOp], dst[atFlags] = version, byte(h.Kind), h.Op, flags
	le.PutUint64(dst[atEpoch:], h.Epoch)
	le.PutUint64(dst[atRound:], h.Round)
	dst[atSource], dst[atDest] = h.Source, h.Dest
	le.PutUint16(dst[atZero:], 0)
	le.PutUint32(dst[atLength:], h.Length)
	le.PutUint64(dst[atOffset:], h.Offset)
	le.PutUint64(dst[atTotal:], h.Total)
	le.PutUint64(dst[atSequence:], sequence)
	le.PutUint64(dst[atSum:], 0) // and what follows it
}

// get is put's inverse. header is HeaderBytes long.
func get(header []byte, h *Header) (sequence uint64) {
	_ = header[HeaderBytes-1]
	*h = Header{
		Kind:   Kind(header[atKind]),
		Op:     header[atOp],
		Source: header[atSource],
		Dest:   header[atDest],
		Epoch:  le.Uint64(header[atEpoch:]),
		Round:  le.Uint64(header[atRound:]),
		Total:  le.Uint64(header[atTotal:]),
		Offset: le.Uint64(header[atOffset:]),
		Length: le.Uint32(header[atLength:]),
	}
	return le.Uint64(header[atSequence:])
}

// sumIsRight leaves the header as it is.
func sumIsRight(header, payload []byte) bool {
	sum := Sum(payload)
	sum = crc32.Update(sum, castagnoli, header[:atSum])
	sum = crc32.Update(sum, castagnoli, zeros[:4])
	sum = crc32.Update(sum, castagnoli, header[atZeroEnd:HeaderBytes])
	return sum == le.Uint32(header[atSum:])
}

// Peek returns the length of a whole frame, payload and tag included, from its first
// HeaderBytes. It checks magic, version and that the length is within PayloadMax.
func Peek(frame []byte) (total int, err error) {
	switch {
	case len(frame) < HeaderBytes:
		return 0, ErrShort
	case le.Uint32(frame) != magic:
		return 0, ErrMagic
	case frame[atVersion] != version, frame[atFlags]&^flagSealed != 0,
		le.Uint16(frame[atZero:]) != 0, le.Uint32(frame[atZeroEnd:]) != 0:
		return 0, ErrVersion
	case frame[atFlags] == flagSealed && le.Uint32(frame[atSum:]) != 0:
		return 0, ErrSum
	}
	n := le.Uint32(frame[atLength:])
	if n > PayloadMax {
		return 0, ErrLength
	}
	total = HeaderBytes + int(n)
	if frame[atFlags] == flagSealed {
		total += SealBytes
	}
	return total, nil
}
