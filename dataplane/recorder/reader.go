package recorder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/event"
)

var (
	// ErrPlace reports a ring that cannot be where it is said to be.
	ErrPlace = errors.New("no such ring can be")
	// ErrOverwritten reports a frame that the worker has put others in the place of.
	ErrOverwritten = errors.New("overwritten")
)

// A Frame is a frame out of a ring.
type Frame struct {
	At      event.Nanos // CLOCK_MONOTONIC, or the card's clock if NICTime
	NICTime bool
	Feed    int
	Ring    int // of the worker's port
	Length  int // on the wire
	Bytes   []byte
}

// A Reader reads the ring of a worker that it does not trust. One goroutine uses it.
type Reader struct {
	fd    int
	place Place
	buf   []byte
}

// NewReader returns a reader of the ring at a place of a region's file, which stays the
// caller's. The error wraps [ErrPlace] if no ring can be there.
func NewReader(fd int, p Place) (*Reader, error) {
	const most = 1 << 24
	switch {
	case p.Frames < 4*BatchMax || p.Frames > most || p.Frames&(p.Frames-1) != 0,
		p.Snap < 8 || p.Snap > 1<<16, p.Feeds < 0 || p.Feeds > most,
		p.Words < 0 || p.Slots < 0 || p.Words > 1<<46 || p.Slots > 1<<46:
		return nil, fmt.Errorf("recorder: %+v: %w", p, ErrPlace)
	}
	return &Reader{fd: fd, place: p, buf: make([]byte, slotHead+p.Snap)}, nil
}

func (r *Reader) word(i int) (uint64, error) {
	var b [8]byte
	n, err := unix.Pread(r.fd, b[:], r.place.Words+int64(8*i))
	if err != nil || n != len(b) {
		return 0, fmt.Errorf("recorder: %w", errors.Join(os.NewSyscallError("pread", err), shorter(n, len(b))))
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// shorter is an error if a file ends where it should not.
func shorter(n, want int) error {
	if n < want {
		return ErrPlace
	}
	return nil
}

// Head returns how many frames were put in, ever.
func (r *Reader) Head() (uint64, error) { return r.word(wordHead) }

// Oldest returns the number of the oldest frame that may still be read, head being that.
func (r *Reader) Oldest(head uint64) uint64 {
	return head - min(head, uint64(r.place.Frames-2*BatchMax))
}

// Want says whether somebody asks for frames.
func (r *Reader) Want(wanted bool) error {
	var b [8]byte
	if wanted {
		b[0] = 1
	}
	if _, err := unix.Pwrite(r.fd, b[:], r.place.Words+8*wordWanted); err != nil {
		return fmt.Errorf("recorder: %w", os.NewSyscallError("pwrite", err))
	}
	return nil
}

// Gap returns the number of the frame at which the latest gap of a feed was found, and when
// that was, in CLOCK_MONOTONIC; 0 if there was none.
func (r *Reader) Gap(feed int) (before uint64, at event.Nanos, err error) {
	if feed < 0 || feed >= r.place.Feeds {
		return 0, 0, nil
	}
	if before, err = r.word(wordGaps + 2*feed); err != nil {
		return 0, 0, err
	}
	t, err := r.word(wordGaps + 2*feed + 1)
	return before, event.Nanos(t), err
}

// Read reads frame number n into f, whose Bytes are good until the next call. The error
// wraps [ErrOverwritten] if it is not there any more.
func (r *Reader) Read(n uint64, f *Frame) error {
	stride := int64(len(r.buf))
	got, err := unix.Pread(r.fd, r.buf, r.place.Slots+int64(n&uint64(r.place.Frames-1))*stride)
	if err != nil || got != len(r.buf) {
		return fmt.Errorf("recorder: %w", errors.Join(os.NewSyscallError("pread", err), shorter(got, len(r.buf))))
	}
	head, err := r.Head()
	if err != nil {
		return err
	}
	o := binary.LittleEndian
	kept := int(o.Uint32(r.buf[20:]))
	if n >= head || n < r.Oldest(head) || o.Uint64(r.buf) != n || kept > r.place.Snap {
		return fmt.Errorf("recorder: frame %d, the ring has %d to %d: %w", n, r.Oldest(head), head, ErrOverwritten)
	}
	*f = Frame{
		At: event.Nanos(o.Uint64(r.buf[8:])), NICTime: o.Uint32(r.buf[28:]) != 0, Length: int(o.Uint32(r.buf[16:])),
		Feed: int(o.Uint16(r.buf[24:])), Ring: int(o.Uint16(r.buf[26:])), Bytes: r.buf[slotHead:][:kept],
	}
	return nil
}
