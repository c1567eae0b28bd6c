package deliver

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var (
	// ErrFull reports a ring without room for a batch, until its reader goes on.
	ErrFull = errors.New("the ring is full")
	// ErrTooLarge reports a batch that never fits.
	ErrTooLarge = errors.New("the batch is too large for the ring")
	// ErrNotLines reports a batch that does not end in a newline.
	ErrNotLines = errors.New("the batch does not consist of whole lines")
	// ErrDamaged reports a ring in which somebody else has written.
	ErrDamaged = errors.New("the ring is damaged")
)

// StreamsMax bounds the streams whose last batch a ring remembers. Of more, the one
// that was silent longest is forgotten: its next batch could be there twice.
const StreamsMax = 16

// A Ring is the receiver's end of a ring in shared memory. Its methods may be called
// from any goroutine.
//
// A batch is there as a whole or not at all, with the note that it is, even if the
// program is killed at any instruction: the rows and a note are written behind the
// head, and then the head makes both count.
type Ring struct {
	path string
	file *os.File

	mu   sync.Mutex
	mem  []byte
	size uint64
	note note
	// placed, batches and duplicates count what this process did.
	rows, bytes, batches, duplicates, full uint64

	head, tail   *atomic.Uint64
	bell, sleeps *atomic.Uint32
}

// A note says what was placed up to a head.
type note struct {
	number   uint64 // counts the notes; its lowest bit is its place
	head     uint64
	sequence uint64 // of the last record
	streams  [StreamsMax]streamNote
}

type streamNote struct {
	stream uint64 // 0: none
	batch  uint64
	head   uint64 // after it
}

// noteLength is that of an encoded note, with its checksum.
const noteLength = 3*8 + StreamsMax*3*8 + 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (n *note) put(b []byte) {
	le.PutUint64(b, n.number)
	le.PutUint64(b[8:], n.head)
	le.PutUint64(b[16:], n.sequence)
	for i := range n.streams {
		s, at := &n.streams[i], b[24+24*i:]
		le.PutUint64(at, s.stream)
		le.PutUint64(at[8:], s.batch)
		le.PutUint64(at[16:], s.head)
	}
	le.PutUint64(b[noteLength-8:], uint64(crc32.Update(0, castagnoli, b[:noteLength-8])))
}

// get reports whether b has a note.
func (n *note) get(b []byte) bool {
	if le.Uint64(b[noteLength-8:]) != uint64(crc32.Update(0, castagnoli, b[:noteLength-8])) {
		return false
	}
	n.number, n.head, n.sequence = le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:])
	for i := range n.streams {
		at := b[24+24*i:]
		n.streams[i] = streamNote{le.Uint64(at), le.Uint64(at[8:]), le.Uint64(at[16:])}
	}
	return true
}

// OpenRing opens the ring at path for its receiver, or makes it with room for size
// bytes, a power of two. A ring that is there goes on where it was, if it has that
// size; zero takes any. The error wraps [ErrNotRing] if the file is something else and
// [ErrInUse] if another receiver has it.
func OpenRing(path string, size uint64) (*Ring, error) {
	r, err := openRing(path, size)
	if err != nil {
		return nil, fmt.Errorf("deliver: ring %s: %w", path, err)
	}
	return r, nil
}

func openRing(path string, size uint64) (*Ring, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) && size != 0 {
		if err := makeRing(path, size); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, err
	}
	r := &Ring{path: path, file: f}
	if err := r.open(size); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// makeRing puts a whole, empty ring under the path, unless something is there.
func makeRing(path string, size uint64) error {
	if err := checkSize(size); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it has its second name, or is not wanted
	head := make([]byte, atNotes+noteLength)
	le.PutUint64(head, ringMagic)
	le.PutUint32(head[atVersion:], ringVersion)
	le.PutUint32(head[atStart:], atRecords)
	le.PutUint64(head[atSize:], size)
	new(note).put(head[atNotes:])
	_, err = f.Write(head)
	if err == nil {
		// Now, not when the memory is used: a full file system would be a bus error.
		err = os.NewSyscallError("fallocate", unix.Fallocate(int(f.Fd()), 0, 0, atRecords+int64(size)))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil // another receiver was faster
}

func (r *Ring) open(size uint64) error {
	if err := lockByte(r.file, 0); err != nil {
		return fmt.Errorf("a receiver: %w", err)
	}
	var err error
	if r.size, err = ringSize(r.file); err != nil {
		return err
	}
	if size != 0 && size != r.size {
		return fmt.Errorf("it is there, with a size of %d bytes and not %d: remove it, or give its size", r.size, size)
	}
	if r.mem, err = mapFile(r.file, 0, atRecords+int(r.size), unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	r.head, r.tail = word64(r.mem, atHead), word64(r.mem, atTail)
	r.bell, r.sleeps = word32(r.mem, atBell), word32(r.mem, atSleeps)
	var n note
	for i := range 2 {
		if n.get(r.mem[atNotes+i*noteBytes:]) && n.head == r.head.Load() && n.number&1 == uint64(i) {
			r.note = n
			_, err := r.room()
			return err
		}
	}
	return fmt.Errorf("%w: no note belongs to its head %d; remove it", ErrDamaged, r.head.Load())
}

// room returns how many bytes the reader is done with. Callers hold mu, or are alone.
func (r *Ring) room() (uint64, error) {
	head, tail := r.note.head, r.tail.Load()
	if used := head - tail; tail > head || used > r.size || tail%8 != 0 {
		return 0, fmt.Errorf("%w: head %d, tail %d, size %d", ErrDamaged, head, tail, r.size)
	}
	return r.size - (head - tail), nil
}

// Size returns how many bytes of records there is room for.
func (r *Ring) Size() uint64 { return r.size }

// BatchMax returns how large a batch may be, counted by [Footprint]. Half of the ring
// would always fit; a quarter lets a reader work on one while the next comes.
func (r *Ring) BatchMax() uint64 { return min(r.size/4, batchBytesMax) }

// Footprint returns how many bytes of a ring the rows take that are whole lines.
func Footprint(lines []byte) (n uint64) {
	for len(lines) > 0 {
		end := bytes.IndexByte(lines, '\n')
		if end < 0 {
			return n + recordSize(len(lines))
		}
		n += recordSize(end)
		lines = lines[end+1:]
	}
	return n
}

// Batch returns the number of the last batch of a stream that is placed, or 0.
func (r *Ring) Batch(stream uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.note.find(stream); s != nil {
		return s.batch
	}
	return 0
}

func (n *note) find(stream uint64) *streamNote {
	for i := range n.streams {
		if n.streams[i].stream == stream {
			return &n.streams[i]
		}
	}
	return nil
}

// Place puts the rows of a batch in the ring, each without its newline, or returns an
// error wrapping [ErrFull]. A batch whose number is not above the last one of its
// stream is there already. stream is not 0. Place does not allocate.
func (r *Ring) Place(stream, batch uint64, lines []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.note.find(stream)
	if s != nil && batch <= s.batch {
		r.duplicates++
		return nil
	}
	if len(lines) == 0 || lines[len(lines)-1] != '\n' {
		return ErrNotLines
	}
	room, err := r.room()
	if err != nil {
		return err
	}
	if n := Footprint(lines); n > r.BatchMax() {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, n, r.BatchMax())
	}
	if r.span(lines) > room {
		r.full++
		return ErrFull
	}
	if s == nil {
		s = r.note.oldest()
	}
	rows := r.write(lines)
	*s = streamNote{stream, batch, r.note.head}
	r.note.number++
	r.note.put(r.mem[atNotes+int(r.note.number&1)*noteBytes:])
	r.head.Store(r.note.head)
	r.bell.Add(1)
	if r.sleeps.Load() != 0 {
		wake(r.bell)
	}
	r.rows += rows
	r.bytes += uint64(len(lines))
	r.batches++
	return nil
}

// oldest returns the entry that was used longest ago.
func (n *note) oldest() *streamNote {
	o := &n.streams[0]
	for i := range n.streams {
		s := &n.streams[i]
		if s.stream == 0 {
			return s
		}
		if s.head < o.head {
			o = s
		}
	}
	return o
}

// span returns by how much the head moves for lines: their records, and the pad where
// one does not fit before the end.
func (r *Ring) span(lines []byte) uint64 {
	at := r.note.head
	for len(lines) > 0 {
		end := bytes.IndexByte(lines, '\n')
		n := recordSize(end)
		if left := r.size - at&(r.size-1); n > left {
			at += left
		}
		at += n
		lines = lines[end+1:]
	}
	return at - r.note.head
}

// write writes the records behind the head and moves the note's head. There is room.
func (r *Ring) write(lines []byte) (rows uint64) {
	records := r.mem[atRecords:]
	for len(lines) > 0 {
		row := lines[:bytes.IndexByte(lines, '\n')]
		n := recordSize(len(row))
		at := r.note.head & (r.size - 1)
		if left := r.size - at; n > left {
			le.PutUint64(records[at:], uint64(padLength))
			r.note.head += left
			at = 0
		}
		r.note.sequence++
		rec := records[at : at+n]
		le.PutUint64(rec[8:], r.note.sequence)
		copy(rec[recordBytes:], row)
		sum := crc32.Update(0, castagnoli, rec[8:recordBytes+len(row)])
		le.PutUint64(rec, uint64(sum)<<32|uint64(len(row)))
		r.note.head += n
		rows++
		lines = lines[len(row)+1:]
	}
	return rows
}

// RingStats is what a receiver did with its ring.
type RingStats struct {
	Size, Used uint64 // bytes
	Sequence   uint64 // of the last row, over all receivers
	// By this receiver:
	Rows, Bytes, Batches uint64
	Duplicates           uint64 // batches that were there already
	Full                 uint64 // times that a batch found no room
}

// Stats returns counts.
func (r *Ring) Stats() RingStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := RingStats{
		Size: r.size, Sequence: r.note.sequence,
		Rows: r.rows, Bytes: r.bytes, Batches: r.batches, Duplicates: r.duplicates, Full: r.full,
	}
	if r.mem != nil {
		s.Used = r.note.head - min(r.tail.Load(), r.note.head)
	}
	return s
}

// Close lets go of the ring. The file stays, for readers and the next receiver.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if r.mem != nil {
		err = os.NewSyscallError("munmap", unix.Munmap(r.mem))
		r.mem = nil
	}
	return errors.Join(err, r.file.Close())
}
