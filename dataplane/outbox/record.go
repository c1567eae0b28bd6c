package outbox

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/headrace/headrace/dataplane/event"
)

// Version is the version of the record layout, in the ring and between peers.
const Version = 2

// A record, every number little-endian, 8-byte aligned:
//
//	 0  u32 length of the whole record, a multiple of 8
//	 4  u8  version, u8 kind, u8 firing, u8 flags
//	 8  u16 query, u16 key length, u32 number of state words
//	16  u32 revision, u32 zero
//	24  i64 start, i64 end, u64 missing, u64 cause
//	56  the key, zero-padded to 8 bytes
//	    the state words
//
// A pad record is 8 bytes of header with kind kindPad; its length is the rest of
// the ring.
const (
	headerBytes = 56
	padBytes    = 8

	kindPad Kind = 0xff
)

// A Fault says what is wrong with a record.
type Fault uint8

// The faults.
const (
	FaultLength   Fault = iota + 1 // the length is not one that a record can have
	FaultVersion                   // another version of the layout
	FaultKind                      // an unknown kind
	FaultFiring                    // an unknown firing, or one where none belongs
	FaultFlags                     // unknown flags
	FaultQuery                     // the plan has no such query
	FaultKey                       // the key is longer than the query's keys can be
	FaultWords                     // not the query's number of state words
	FaultPadding                   // bytes that must be zero are not
	FaultWindow                    // the window ends before it starts
	FaultPosition                  // the producer's position is not one that it can have
	FaultContent                   // the reader of the record refused what is in it
	FaultCount
)

var faultNames = [FaultCount]string{
	"none", "length", "version", "kind", "firing", "flags", "query", "key", "words", "padding", "window", "position", "content",
}

// String returns the fault's name in metrics and ledgers.
func (f Fault) String() string {
	if f < FaultCount {
		return faultNames[f]
	}
	return "unknown"
}

// ErrBadRecord reports bytes that are not a record.
var ErrBadRecord = errors.New("not a record")

// A RecordError says which record is bad and how. It wraps [ErrBadRecord].
type RecordError struct {
	Fault    Fault
	Position uint64 // bytes before the record since the outbox began
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("record at %d: %v: %s", e.Position, ErrBadRecord, e.Fault)
}

// Unwrap returns [ErrBadRecord].
func (e *RecordError) Unwrap() error { return ErrBadRecord }

// Limits is what a reader knows about good records.
type Limits struct {
	// Words is the number of state words of each query's partials; its length is
	// the number of queries.
	Words []int
	// KeyWidth is the greatest key length of each query, in bytes. Nil: event.KeyMax.
	KeyWidth []int
}

// RecordBytes returns the length of a record with a key of keyLen bytes and the
// given number of state words.
func RecordBytes(keyLen, words int) int { return headerBytes + (keyLen+7)&^7 + 8*words }

// MinRing returns the smallest ring, a power of two, that takes every record of
// at most that size at any position.
func MinRing(recordBytes int) int {
	n := 64
	for n < 2*recordBytes {
		n *= 2
	}
	return n
}

// encode writes p into dst, which is exactly RecordBytes long.
func encode(dst []byte, p *Partial) {
	le := binary.LittleEndian
	_ = dst[headerBytes-1]
	le.PutUint32(dst, uint32(len(dst)))
	dst[4], dst[5], dst[6], dst[7] = Version, byte(p.Kind), byte(p.Firing), p.Flags
	le.PutUint16(dst[8:], p.Query)
	le.PutUint16(dst[10:], uint16(len(p.Key)))
	le.PutUint32(dst[12:], uint32(len(p.State)))
	le.PutUint32(dst[16:], p.Revision)
	le.PutUint32(dst[20:], 0)
	le.PutUint64(dst[24:], uint64(p.Start))
	le.PutUint64(dst[32:], uint64(p.End))
	le.PutUint64(dst[40:], p.Missing)
	le.PutUint64(dst[48:], p.Cause)
	at := headerBytes
	if len(p.Key) > 0 {
		at += (len(p.Key) + 7) &^ 7
		le.PutUint64(dst[at-8:], 0) // the padding, before the key overwrites the rest
		copy(dst[headerBytes:], p.Key)
	}
	rest := dst[at:]
	for _, w := range p.State {
		le.PutUint64(rest, w)
		rest = rest[8:]
	}
}

// AppendRecord appends p's record to dst: the form that peers exchange.
func AppendRecord(dst []byte, p *Partial) []byte {
	n := RecordBytes(len(p.Key), len(p.State))
	at := len(dst)
	for cap(dst)-at < n {
		dst = append(dst[:cap(dst)], 0)
	}
	dst = dst[:at+n]
	encode(dst[at:], p)
	return dst
}

// DecodeRecord reads the first record of src into p and returns what follows it.
// p.Key points into src; p.State is overwritten in place and grows if it is too
// small. The error is a [*RecordError].
func DecodeRecord(p *Partial, src []byte, lim *Limits) ([]byte, error) {
	n, f := decode(p, src, lim)
	if f != 0 {
		return src, &RecordError{Fault: f}
	}
	return src[n:], nil
}

// recordLength reads the length from the first word of a record and checks it
// against the room that it can have.
func recordLength(word uint64, room uint64) (int, Fault) {
	n := word & 0xffffffff
	if n%8 != 0 || n < padBytes || n > room {
		return 0, FaultLength
	}
	return int(n), 0
}

func decode(p *Partial, src []byte, lim *Limits) (int, Fault) {
	le := binary.LittleEndian
	if len(src) < headerBytes {
		return 0, FaultLength
	}
	n, f := recordLength(le.Uint64(src), uint64(len(src)))
	if f != 0 {
		return 0, f
	}
	p.Kind, p.Firing, p.Flags = Kind(src[5]), Firing(src[6]), src[7]
	p.Query, p.Revision = le.Uint16(src[8:]), le.Uint32(src[16:])
	p.Start, p.End = event.Nanos(le.Uint64(src[24:])), event.Nanos(le.Uint64(src[32:]))
	p.Missing, p.Cause = le.Uint64(src[40:]), le.Uint64(src[48:])
	keyLen, words := int(le.Uint16(src[10:])), int(le.Uint32(src[12:]))
	if f := check(p, src[4], keyLen, words, lim); f != 0 {
		return 0, f
	}
	if le.Uint32(src[20:]) != 0 {
		return 0, FaultPadding
	}
	if n != RecordBytes(keyLen, words) {
		return 0, FaultLength
	}
	at := headerBytes + (keyLen+7)&^7
	for _, b := range src[headerBytes+keyLen : at] {
		if b != 0 {
			return 0, FaultPadding
		}
	}
	p.Key = src[headerBytes : headerBytes+keyLen : headerBytes+keyLen]
	if cap(p.State) < words {
		p.State = make([]uint64, words)
	}
	p.State = p.State[:words]
	for i := range p.State {
		p.State[i] = le.Uint64(src[at+8*i:])
	}
	return n, 0
}

// check judges what the header says, except for the length.
func check(p *Partial, version byte, keyLen, words int, lim *Limits) Fault {
	if version != Version {
		return FaultVersion
	}
	if p.Kind < KindPartial || p.Kind > KindWatermark {
		return FaultKind
	}
	if int(p.Query) >= len(lim.Words) {
		return FaultQuery
	}
	if p.Flags&^(FlagIncomplete|FlagSequenced) != 0 {
		return FaultFlags
	}
	wantWords, width := lim.Words[p.Query], event.KeyMax
	if lim.KeyWidth != nil {
		width = lim.KeyWidth[p.Query]
	}
	if p.Kind != KindPartial {
		wantWords, width = 0, 0
	} else if p.Firing < OnTime || p.Firing > Flush {
		return FaultFiring
	}
	if p.Firing > Flush {
		return FaultFiring
	}
	if keyLen > width {
		return FaultKey
	}
	if words != wantWords {
		return FaultWords
	}
	if p.Kind == KindPartial && p.End < p.Start {
		return FaultWindow
	}
	return 0
}
