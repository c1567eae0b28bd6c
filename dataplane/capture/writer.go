package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// A Writer writes a classic capture of Ethernet frames: pcap, little-endian,
// nanoseconds. One goroutine uses it.
type Writer struct {
	w       *bufio.Writer
	closers []io.Closer // inner to outer
	header  [pcapRecordHeader]byte
}

// NewWriter writes the file header to w, which Close leaves open.
func NewWriter(w io.Writer) (*Writer, error) {
	out := &Writer{w: bufio.NewWriterSize(w, 256<<10)}
	var h [pcapFileHeader]byte
	o := binary.LittleEndian
	o.PutUint32(h[0:], pcapNanos)
	o.PutUint16(h[4:], 2)
	o.PutUint16(h[6:], 4)
	o.PutUint32(h[16:], recordBytesMax)
	o.PutUint32(h[20:], linkEthernet)
	if _, err := out.w.Write(h[:]); err != nil {
		return nil, fmt.Errorf("capture: write: %w", err)
	}
	return out, nil
}

// Create creates the file and writes its header. A name that ends in .gz or .zst
// makes a compressed file; the same records make the same bytes.
func Create(path string) (*Writer, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	var in io.WriteCloser
	switch {
	case strings.HasSuffix(path, ".gz"):
		in, err = gzip.NewWriterLevel(f, gzip.BestSpeed)
	case strings.HasSuffix(path, ".zst"):
		in, err = zstd.NewWriter(f, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("capture: %s: %w", path, err), f.Close())
	}
	if in == nil {
		w, err := NewWriter(f)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		w.closers = []io.Closer{f}
		return w, nil
	}
	w, err := NewWriter(in)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	w.closers = []io.Closer{in, f}
	return w, nil
}

// Write adds a record of r.Data, r.WireLength (if that is more) and r.Stamp. The
// stamp must lie in the years 1970 to 2106 and the frame be at most 256 KiB: the
// format has no room for others. Cut is not written: it says how a file ends.
func (w *Writer) Write(r *Record) error {
	sec := r.Stamp / 1e9
	if r.Stamp < 0 || sec > 1<<32-1 {
		return fmt.Errorf("capture: write: time stamp %d ns does not fit the pcap format", r.Stamp)
	}
	if len(r.Data) > recordBytesMax {
		return fmt.Errorf("capture: write: a frame of %d bytes; at most %d fit", len(r.Data), recordBytesMax)
	}
	o := binary.LittleEndian
	o.PutUint32(w.header[0:], uint32(sec))
	o.PutUint32(w.header[4:], uint32(r.Stamp%1e9))
	o.PutUint32(w.header[8:], uint32(len(r.Data)))
	o.PutUint32(w.header[12:], uint32(max(r.WireLength, len(r.Data))))
	if _, err := w.w.Write(w.header[:]); err != nil {
		return fmt.Errorf("capture: write: %w", err)
	}
	if _, err := w.w.Write(r.Data); err != nil {
		return fmt.Errorf("capture: write: %w", err)
	}
	return nil
}

// Flush writes out what is buffered.
func (w *Writer) Flush() error {
	if err := w.w.Flush(); err != nil {
		return fmt.Errorf("capture: write: %w", err)
	}
	return nil
}

// Close writes out what is buffered and closes what Create opened. A capture is
// whole only if Close returned nil.
func (w *Writer) Close() error {
	err := w.Flush()
	for _, c := range w.closers {
		if e := c.Close(); e != nil {
			err = errors.Join(err, fmt.Errorf("capture: write: %w", e))
		}
	}
	w.closers = nil
	return err
}
