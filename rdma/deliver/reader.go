package deliver

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Reader takes rows out of a ring. One goroutine uses it. It needs no receiver: the
// ring outlives that, and there may be none yet.
type Reader struct {
	file     *os.File
	mem, own []byte // all of it, read-only, and our page
	size     uint64
	next     uint64 // where the next record is
	seen     uint64 // the head, as we saw it last
	sequence uint64 // of the last row; 0: none yet
	err      error
	timeout  unix.Timespec

	head, tail   *atomic.Uint64
	bell, sleeps *atomic.Uint32
}

// Open opens the ring at path for its one reader, which goes on after what was
// released last. The error wraps [ErrNotRing] if the file is something else and
// [ErrInUse] if another reader has it.
func Open(path string) (*Reader, error) {
	r, err := openReader(path)
	if err != nil {
		return nil, fmt.Errorf("deliver: ring %s: %w", path, err)
	}
	return r, nil
}

func openReader(path string) (*Reader, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	r := &Reader{file: f}
	if err := r.open(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Reader) open() (err error) {
	if r.size, err = ringSize(r.file); err != nil {
		return err
	}
	if err := lockByte(r.file, atOwn); err != nil {
		return fmt.Errorf("a reader: %w", err)
	}
	if r.mem, err = mapFile(r.file, 0, atRecords+int(r.size), unix.PROT_READ); err != nil {
		return err
	}
	if r.own, err = mapFile(r.file, atOwn, ownBytes, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return err
	}
	r.head, r.tail = word64(r.mem, atHead), word64(r.own, atTail-atOwn)
	r.bell, r.sleeps = word32(r.mem, atBell), word32(r.own, atSleeps-atOwn)
	r.next = r.tail.Load()
	r.seen = r.next
	if !r.look() && r.err != nil {
		return r.err
	}
	return nil
}

// look reads the head and reports that there is something to read.
func (r *Reader) look() bool {
	if r.err != nil {
		return false
	}
	head := r.head.Load()
	if head < r.seen || head-r.next > r.size || (head|r.next)%8 != 0 {
		r.err = fmt.Errorf("%w: head %d, reading at %d, size %d", ErrDamaged, head, r.next, r.size)
		return false
	}
	r.seen = head
	return head != r.next
}

// Next returns the next row, without its newline, or false if there is none now. The
// row is in the ring: it may be read until Release, and not be written to. Next does
// not allocate.
func (r *Reader) Next() (row []byte, ok bool) {
	for {
		if r.next == r.seen && !r.look() {
			return nil, false
		}
		at, left := r.next&(r.size-1), r.seen-r.next
		end := r.size - at
		word := le.Uint64(r.mem[atRecords+at:])
		length := uint32(word)
		if length == padLength && word>>32 == 0 && end <= left {
			r.next += end
			continue
		}
		n := recordSize(int(length))
		if length > uint32(min(r.size, batchBytesMax)) || n > left || n > end {
			return r.damaged("a row of %d bytes at %d, which has %d", length, r.next, min(left, end))
		}
		rec := r.mem[atRecords+at : atRecords+at+n]
		sequence := le.Uint64(rec[8:])
		if crc32.Update(0, castagnoli, rec[8:recordBytes+length]) != uint32(word>>32) {
			return r.damaged("the row at %d has a wrong checksum", r.next)
		}
		if r.sequence != 0 && sequence != r.sequence+1 {
			return r.damaged("row %d follows row %d", sequence, r.sequence)
		}
		r.sequence = sequence
		r.next += n
		return rec[recordBytes : recordBytes+length : recordBytes+length], true
	}
}

func (r *Reader) damaged(format string, args ...any) ([]byte, bool) {
	r.err = fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
	return nil, false
}

// Sequence returns the number of the last row that Next returned; rows of a ring are
// numbered from 1 on.
func (r *Reader) Sequence() uint64 { return r.sequence }

// Err returns why there will be no more rows, or nil. It wraps [ErrDamaged].
func (r *Reader) Err() error { return r.err }

// Release gives the room of all rows that Next returned back to the receiver. A reader
// that ends before it gets them again when it comes back.
func (r *Reader) Release() { r.tail.Store(r.next) }

// Wait waits until there is a row or the deadline has passed, and reports whether
// there is one. It may return early.
func (r *Reader) Wait(deadline time.Time) bool {
	if r.next != r.seen || r.look() {
		return true
	}
	d := time.Until(deadline)
	if d <= 0 || r.err != nil {
		return false
	}
	// The receiver first moves the head, then the bell, then looks whether we sleep: it
	// sees that, or we see the new head, or the bell is not what it was.
	r.sleeps.Store(1)
	v := r.bell.Load()
	if !r.look() && r.err == nil {
		sleepOn(r.bell, v, d, &r.timeout)
	}
	r.sleeps.Store(0)
	return r.look()
}

// Close lets go of the ring. What was not released stays in it.
func (r *Reader) Close() error {
	var errs []error
	for _, mem := range []*[]byte{&r.mem, &r.own} {
		if *mem != nil {
			errs = append(errs, os.NewSyscallError("munmap", unix.Munmap(*mem)))
			*mem = nil
		}
	}
	return errors.Join(append(errs, r.file.Close())...)
}
