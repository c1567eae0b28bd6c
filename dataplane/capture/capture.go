package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/headrace/headrace/dataplane/event"
)

// A Record is one packet of a capture.
type Record struct {
	// Data is what the capture holds of the frame, from the Ethernet header. It is
	// valid until the next call of Next.
	Data []byte
	// WireLength is the frame's length on the wire, at least len(Data). It is more
	// where the capture was taken with a snap length. 0 if Cut took even that.
	WireLength int
	// Stamp is the time of capture, UTC. A record without one (pcapng's simple
	// packets; a record cut inside its header) has the stamp of the one before.
	Stamp event.Nanos
	// Cut says that the file ends inside this record, its last: Data is what there
	// is of it, maybe nothing.
	Cut bool
}

// Records hands out records one after the other: a [Reader], a [Memory].
type Records interface {
	// Next fills r and returns nil, or io.EOF at the end, or the error that ends
	// the reading; from then on it returns the same.
	Next(r *Record) error
}

// A Reader hands out the records of one or more captures. One goroutine uses it;
// Progress may be called from any.
type Reader struct {
	files []*file
	last  *file // whose record was handed out; nil at first
	err   error
	read  atomic.Int64
	total int64 // -1: not known
}

// A file is one capture and its next record.
type file struct {
	path   string
	closer io.Closer
	s      *stream
	parser interface{ next(r *Record) error }
	packet uint64 // number of the next record, from 1
	record Record
	ended  bool
}

// Open opens captures to be read as one, in order of time stamp; of equal stamps
// the earlier path's comes first. The path "-" is stdin, at most once.
//
// It reads every file's header and first record. Errors wrap [ErrEmpty],
// [ErrNotCapture], [ErrLinkType] or [ErrCorrupt], in a [FormatError], or are those
// of the file system.
func Open(paths []string, stdin io.Reader) (*Reader, error) {
	if len(paths) == 0 {
		return nil, errors.New("capture: no file is named")
	}
	r := &Reader{}
	for _, path := range paths {
		if err := r.add(path, stdin); err != nil {
			_ = r.Close()
			return nil, err
		}
		if path == "-" {
			stdin = nil
		}
	}
	return r, nil
}

// OpenReader reads one capture from in, which name stands for in errors.
func OpenReader(in io.Reader, name string) (*Reader, error) {
	r := &Reader{total: -1}
	if err := r.start(in, nil, name); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Reader) add(path string, stdin io.Reader) error {
	if path == "-" {
		if stdin == nil {
			return errors.New("capture: standard input can be read once only")
		}
		r.total = -1
		return r.start(stdin, nil, "standard input")
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("capture: %w", err)
	}
	switch {
	case st.IsDir():
		_ = f.Close()
		return fmt.Errorf("capture: %s is a folder; name the files in it", path)
	case !st.Mode().IsRegular():
		r.total = -1
	case r.total >= 0:
		r.total += st.Size()
	}
	return r.start(f, f, path)
}

// start reads the header and the first record of one more file.
func (r *Reader) start(in io.Reader, closer io.Closer, path string) error {
	f := &file{path: path, closer: closer, packet: 0}
	r.files = append(r.files, f)
	s, err := newStream(counted{in, &r.read})
	if err != nil {
		return f.fail(err)
	}
	f.s = s
	if err := f.sniff(); err != nil {
		return f.fail(err)
	}
	f.packet = 1
	return f.advance()
}

// sniff chooses the parser by the file's first bytes.
func (f *file) sniff() error {
	b := f.s.peek(4)
	if len(b) == 0 {
		if err := f.s.failure(); err != nil {
			return err
		}
		return ErrEmpty
	}
	var err error
	if len(b) == 4 {
		little, big := binary.LittleEndian.Uint32(b), binary.BigEndian.Uint32(b)
		switch {
		case little == ngSection:
			f.parser = &pcapng{s: f.s, order: binary.LittleEndian}
			return nil
		case little == pcapMicros:
			f.parser, err = newPcap(f.s, binary.LittleEndian, 1000)
			return err
		case little == pcapNanos:
			f.parser, err = newPcap(f.s, binary.LittleEndian, 1)
			return err
		case big == pcapMicros:
			f.parser, err = newPcap(f.s, binary.BigEndian, 1000)
			return err
		case big == pcapNanos:
			f.parser, err = newPcap(f.s, binary.BigEndian, 1)
			return err
		}
	}
	if err := f.s.failure(); err != nil {
		return err
	}
	return fmt.Errorf("%w: it begins with % x%s; pcap and pcapng are read, plain or in gzip or zstd", ErrNotCapture, b, looksLike(f.s.peek(64)))
}

// looksLike names what a file seems to be that is no capture.
func looksLike(b []byte) string {
	for _, m := range []struct{ magic, name string }{
		{"\x1f\x8b", "gzip within compressed data: decompress it first"},
		{"\x28\xb5\x2f\xfd", "zstd within compressed data: decompress it first"},
		{"\xfd7zXZ", "xz: decompress it first"},
		{"BZh", "bzip2: decompress it first"},
		{"\x04\x22\x4d\x18", "lz4: decompress it first"},
		{"PK\x03\x04", "zip: unpack it first"},
		{"\xa1\xb2\xcd\x34", "a modified pcap: convert it with editcap"},
		{"\x34\xcd\xb2\xa1", "a modified pcap: convert it with editcap"},
		{"snoop\x00", "snoop: convert it with editcap"},
		{"\x7fELF", "a program"},
	} {
		if bytes.HasPrefix(b, []byte(m.magic)) {
			return " (" + m.name + ")"
		}
	}
	for _, c := range b {
		if c < 0x20 && c != '\n' && c != '\r' && c != '\t' || c > 0x7e {
			return ""
		}
	}
	return " (text: " + strconv.Quote(string(b[:min(len(b), 24)])) + ")"
}

// advance reads the file's next record.
func (f *file) advance() error {
	err := f.parser.next(&f.record)
	if err == nil {
		return nil
	}
	f.ended = true
	if errors.Is(err, io.EOF) {
		return nil
	}
	return f.fail(err)
}

func (f *file) fail(err error) error {
	e := &FormatError{Path: f.path, Packet: f.packet, Err: err}
	if f.s != nil {
		e.Offset, e.Compressed = f.s.offset(), f.s.packed
	}
	return e
}

// Next fills rec with the next record of all files, or returns io.EOF at their
// end, or an error, for the last time. rec.Data is valid until the next call.
func (r *Reader) Next(rec *Record) error {
	if r.err != nil {
		return r.err
	}
	if f := r.last; f != nil {
		f.packet++
		if err := f.advance(); err != nil {
			r.err = err
			return err
		}
	}
	var best *file
	for _, f := range r.files {
		if !f.ended && (best == nil || f.record.Stamp < best.record.Stamp) {
			best = f
		}
	}
	if best == nil {
		r.err = io.EOF
		return io.EOF
	}
	r.last = best
	*rec = best.record
	return nil
}

// Progress returns how many bytes of the files have been read, as they lie on the
// disk, and how many there are; total is -1 where that is not known (pipes).
// It may be called from any goroutine.
func (r *Reader) Progress() (read, total int64) { return r.read.Load(), r.total }

// Close closes the files; the reader of standard input is left open. No record is
// valid afterwards.
func (r *Reader) Close() error {
	var err error
	for _, f := range r.files {
		if f.s != nil {
			f.s.done()
		}
		if f.closer != nil {
			err = errors.Join(err, f.closer.Close())
		}
	}
	r.files, r.last = nil, nil
	if r.err == nil {
		r.err = errors.New("capture: the reader is closed")
	}
	return err
}
