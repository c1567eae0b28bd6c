package capture

import (
	"errors"
	"io"

	"github.com/headrace/headrace/dataplane/event"
)

const chunkBytes = 32 << 20

// A Memory is captures read into memory, decompressed and merged. One goroutine
// uses it.
type Memory struct {
	chunks [][]byte
	index  []entry
	next   int
	bytes  int64
}

// An entry is 32 bytes and holds no pointer: a large capture is no work for the
// garbage collector.
type entry struct {
	stamp  event.Nanos
	chunk  uint32
	offset uint32
	length uint32
	wire   uint32
	cut    bool
}

// Preload reads captures whole; see [Open] for the arguments. It takes the memory
// of the decompressed packets and 32 bytes a packet.
func Preload(paths []string, stdin io.Reader) (*Memory, error) {
	r, err := Open(paths, stdin)
	if err != nil {
		return nil, err
	}
	m, err := r.Preload()
	return m, errors.Join(err, r.Close())
}

// Preload reads all that is left of r into memory. Progress shows how far it is.
func (r *Reader) Preload() (*Memory, error) {
	m := &Memory{}
	var rec Record
	for {
		err := r.Next(&rec)
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return nil, err
		}
		m.add(&rec)
	}
}

func (m *Memory) add(r *Record) {
	last := len(m.chunks) - 1
	if last < 0 || len(m.chunks[last])+len(r.Data) > cap(m.chunks[last]) {
		m.chunks = append(m.chunks, make([]byte, 0, max(chunkBytes, len(r.Data))))
		last++
	}
	c := m.chunks[last]
	m.index = append(m.index, entry{r.Stamp, uint32(last), uint32(len(c)), uint32(len(r.Data)), uint32(r.WireLength), r.Cut})
	m.chunks[last] = append(c, r.Data...)
	m.bytes += int64(len(r.Data))
}

// Next fills r with the next record, or returns io.EOF at the end. r.Data is valid
// as long as m is, and must not be written to.
func (m *Memory) Next(r *Record) error {
	if m.next == len(m.index) {
		return io.EOF
	}
	e := &m.index[m.next]
	m.next++
	r.Data = m.chunks[e.chunk][e.offset : e.offset+e.length]
	r.WireLength, r.Stamp, r.Cut = int(e.wire), e.stamp, e.cut
	return nil
}

// Rewind goes back to the first record.
func (m *Memory) Rewind() { m.next = 0 }

// Len returns the number of records.
func (m *Memory) Len() int { return len(m.index) }

// Bytes returns the number of bytes of all records.
func (m *Memory) Bytes() int64 { return m.bytes }

// Progress returns how many records were handed out, and how many there are.
func (m *Memory) Progress() (read, total int64) { return int64(m.next), int64(len(m.index)) }
