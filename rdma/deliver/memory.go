package deliver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ring's file, little-endian. Who changes it makes another version.
//
//	     0  magic u64 "hr-ring1"   8 version u32   12 start of the records u32   16 size u64
//	   128  head u64: what is before it may be read            written by the receiver
//	   192  bell u32: counts up with the head; readers sleep on it
//	 65536  tail u64: what is before it may be written over    written by the reader
//	 65600  sleeps u32: 1 while the reader sleeps on the bell
//	131072  two notes in turn, 1024 bytes apart: what was placed up to a head
//	196608  the records: size bytes
//
// A record is length u32, CRC-32C u32 of what follows, sequence u64, and the row,
// padded to 8 bytes. It does not go over the end: a length of ^0 says that the next
// one is at the start. Head and tail count bytes and never go back; their place is
// their remainder by size, a power of two. What the receiver, the reader and only the
// receiver write is in pages of its own, whatever a page is, so that a reader maps all
// but its own page read-only.
const (
	ringMagic   = 0x31676e69722d7268 // "hr-ring1"
	ringVersion = 1

	atVersion = 8
	atStart   = 12
	atSize    = 16
	atHead    = 128
	atBell    = 192
	ownBytes  = 64 << 10
	atOwn     = ownBytes // what the reader writes
	atTail    = atOwn
	atSleeps  = atOwn + 64
	atNotes   = 2 * ownBytes
	noteBytes = 1024
	atRecords = 3 * ownBytes

	recordBytes = 16 // before the row
	padLength   = ^uint32(0)
)

// Bounds of a ring.
const (
	SizeMin = 64 << 10
	SizeMax = 1 << 36
)

var le = binary.LittleEndian

// recordSize returns the bytes of a record with a row of n bytes.
func recordSize(n int) uint64 { return (recordBytes + uint64(n) + 7) &^ 7 }

// word64 is the word at an offset of mapped memory, a multiple of 8.
func word64(mem []byte, at int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&mem[at : at+8][0]))
}

// word32 is the word at an offset of mapped memory, a multiple of 4.
func word32(mem []byte, at int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&mem[at : at+4][0]))
}

// futex operations of linux/futex.h, for memory that processes share.
const (
	futexWait = 0
	futexWake = 1
)

// sleepOn sleeps while w is still v, at most for d. It may return early.
func sleepOn(w *atomic.Uint32, v uint32, d time.Duration, t *unix.Timespec) {
	*t = unix.NsecToTimespec(int64(d))
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), futexWait, uintptr(v), uintptr(unsafe.Pointer(t)), 0, 0)
}

// wake wakes who sleeps on w.
func wake(w *atomic.Uint32) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), futexWake, 1<<30, 0, 0, 0)
}

// ErrNotRing reports a file that is no ring, or one of another version.
var ErrNotRing = errors.New("not a ring of rows")

// ErrInUse reports a ring that already has a receiver, or a reader.
var ErrInUse = errors.New("in use by another process")

// lockByte locks one byte of the file for as long as it is open: the receiver's is the
// first, the reader's is the first of its own page.
func lockByte(f *os.File, at int64) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0, Start: at, Len: 1}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrInUse
	}
	return os.NewSyscallError("fcntl", err)
}

// ringSize reads the head of a ring's file and says how long its records are.
func ringSize(f *os.File) (uint64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, fmt.Errorf("%w: no regular file", ErrNotRing)
	}
	var b [atSize + 8]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return 0, fmt.Errorf("%w: it has %d bytes", ErrNotRing, st.Size())
	}
	size := le.Uint64(b[atSize:])
	switch {
	case le.Uint64(b[:]) != ringMagic:
		return 0, fmt.Errorf("%w: it begins with %q", ErrNotRing, b[:8])
	case le.Uint32(b[atVersion:]) != ringVersion:
		return 0, fmt.Errorf("%w of version %d: its version is %d", ErrNotRing, ringVersion, le.Uint32(b[atVersion:]))
	case le.Uint32(b[atStart:]) != atRecords:
		return 0, fmt.Errorf("%w: its records start at %d, not %d", ErrNotRing, le.Uint32(b[atStart:]), atRecords)
	case checkSize(size) != nil:
		return 0, fmt.Errorf("%w: %w", ErrNotRing, checkSize(size))
	case st.Size() != atRecords+int64(size):
		return 0, fmt.Errorf("%w: the file has %d bytes, not %d", ErrNotRing, st.Size(), atRecords+size)
	}
	return size, nil
}

func checkSize(size uint64) error {
	if size < SizeMin || size > SizeMax || size&(size-1) != 0 {
		return fmt.Errorf("a size of %d bytes is no power of two from %d to %d", size, SizeMin, uint64(SizeMax))
	}
	return nil
}

func mapFile(f *os.File, at int64, length, protection int) ([]byte, error) {
	mem, err := unix.Mmap(int(f.Fd()), at, length, protection, unix.MAP_SHARED)
	return mem, os.NewSyscallError("mmap", err)
}
