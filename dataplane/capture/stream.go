package capture

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	streamBytes = 256 << 10 // first size of a stream's buffer; it grows to hold one record
	emptyReads  = 100       // reads of nothing before a reader is given up
	// A window as large as zstd --ultra -22 --long=29 makes. More would let a few
	// hostile bytes take gigabytes.
	zstdWindowBytes = 512 << 20
)

// A stream is a file's bytes, decompressed, behind a buffer that is read by
// looking ahead. What peek returns stays in place until the next peek or discard.
type stream struct {
	src    io.Reader
	buf    []byte
	r, w   int   // buf[r:w] is read ahead
	base   int64 // offset of buf[0] in the decompressed bytes
	end    error // why src ended; nil while it goes on
	packed bool
	done   func() // ends the decompressor
}

// counted counts the bytes that come out of a file, for a progress display.
type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

var (
	magicGzip = []byte{0x1f, 0x8b}
	magicZstd = []byte{0x28, 0xb5, 0x2f, 0xfd}
	// A zstd file may begin with a frame to be skipped: 0x184D2A5?, little-endian.
	magicSkip = []byte{0x2a, 0x4d, 0x18}
)

func isGzip(b []byte) bool { return bytes.HasPrefix(b, magicGzip) }

func isZstd(b []byte) bool {
	return bytes.HasPrefix(b, magicZstd) || len(b) >= 4 && b[0]&0xf0 == 0x50 && bytes.Equal(b[1:4], magicSkip)
}

// newStream looks at r's first bytes and decompresses where they ask for it.
func newStream(r io.Reader) (*stream, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	first, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	s := &stream{src: in, buf: make([]byte, streamBytes), done: func() {}}
	switch {
	case len(first) == 0:
		return nil, ErrEmpty
	case isGzip(first):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", atEnd(err))
		}
		s.src, s.packed = z, true
	case isZstd(first):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindowBytes))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		s.src, s.packed, s.done = z, true, z.Close
	}
	return s, nil
}

// atEnd words an end of file that comes too early.
func atEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the file ends inside its header")
	}
	return err
}

// offset returns the place of the next byte in the decompressed stream.
func (s *stream) offset() int64 { return s.base + int64(s.r) }

// peek returns the next n bytes, or fewer if the stream ends before them. They
// stay in place until the next peek or discard.
func (s *stream) peek(n int) []byte {
	if s.w-s.r < n {
		s.fill(n)
	}
	return s.buf[s.r:min(s.w, s.r+n)]
}

// skip passes over n bytes that peek returned.
func (s *stream) skip(n int) { s.r += n }

// fill reads until n bytes are there or the stream ends.
func (s *stream) fill(n int) {
	if s.end != nil {
		return
	}
	if n > len(s.buf) {
		grown := make([]byte, max(n, 2*len(s.buf)))
		copy(grown, s.buf[s.r:s.w])
		s.rebase(grown)
	} else if s.r > 0 {
		copy(s.buf, s.buf[s.r:s.w])
		s.rebase(s.buf)
	}
	for empty := 0; s.w < n && s.end == nil; {
		m, err := s.src.Read(s.buf[s.w:])
		s.w += m
		switch {
		case err != nil:
			s.end = err
		case m > 0:
			empty = 0
		default:
			if empty++; empty == emptyReads {
				s.end = io.ErrNoProgress
			}
		}
	}
}

func (s *stream) rebase(buf []byte) {
	s.base += int64(s.r)
	s.buf, s.r, s.w = buf, 0, s.w-s.r
}

// discard passes over n bytes, read ahead or not, and reports whether all were there.
func (s *stream) discard(n int64) bool {
	for n > 0 {
		m := int(min(n, int64(len(s.buf))))
		m = len(s.peek(m))
		if m == 0 {
			return false
		}
		s.skip(m)
		n -= int64(m)
	}
	return true
}

// failure returns the error that ended the stream, or nil if it ended because the
// file did, be it early.
func (s *stream) failure() error {
	if s.end == nil || errors.Is(s.end, io.EOF) || errors.Is(s.end, io.ErrUnexpectedEOF) {
		return nil
	}
	return s.end
}

// short says what it means that the stream ended with have bytes of an item that
// begins here: nil for a cut, io.EOF for an end between items, or the reader's error.
func (s *stream) short(have int) error {
	if err := s.failure(); err != nil {
		return err
	}
	if have == 0 && errors.Is(s.end, io.EOF) {
		return io.EOF
	}
	return nil
}
