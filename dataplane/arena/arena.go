package arena

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrFull reports that a region has no room left.
var ErrFull = errors.New("region is full")

// Ref is the offset of a record from its table's start, in units that the table
// chooses. It is 4 bytes where a pointer is 8.
type Ref uint32

// A Line is one entry of a region's account.
type Line struct {
	Label string
	Bytes int
}

// A Region is mapped memory. One goroutine builds structures in it; who uses those
// afterwards is their own matter. The file behind it can be passed to a process.
type Region struct {
	mem   []byte
	fd    int
	used  int
	lines []Line
}

const align = 64 // a cache line: two owners never share one

// New reserves a region of at most limit bytes, backed by an anonymous memory file
// called name. Memory is taken when it is touched.
func New(name string, limit int) (*Region, error) {
	limit = (limit + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("arena: region %s: %w", name, os.NewSyscallError("memfd_create", err))
	}
	if err := unix.Ftruncate(fd, int64(limit)); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("arena: region %s of %d bytes: %w", name, limit, os.NewSyscallError("ftruncate", err))
	}
	mem, err := unix.Mmap(fd, 0, limit, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("arena: region %s of %d bytes: %w", name, limit, os.NewSyscallError("mmap", err))
	}
	return &Region{mem: mem, fd: fd}, nil
}

// Close unmaps the region. Nothing made from it may be used afterwards.
func (r *Region) Close() error {
	err := unix.Munmap(r.mem)
	r.mem = nil
	return errors.Join(err, unix.Close(r.fd))
}

// FD returns the descriptor of the memory file; it stays the region's.
func (r *Region) FD() int { return r.fd }

// Used returns how many bytes have been handed out.
func (r *Region) Used() int { return r.used }

// Lines returns what was handed out, in order.
func (r *Region) Lines() []Line { return r.lines }

// Slice hands out n zeroed values of T, aligned to a cache line, under a label for
// the account. It panics if T holds a pointer, and returns an error wrapping
// [ErrFull] if the region ends.
func Slice[T any](r *Region, label string, n int) ([]T, error) {
	var zero T
	if t := reflect.TypeOf(zero); holdsPointers(t) {
		panic("arena: " + t.String() + " holds pointers")
	}
	size := int(unsafe.Sizeof(zero)) * n
	at := (r.used + align - 1) &^ (align - 1)
	if n < 0 || size < 0 || at+size > len(r.mem) {
		return nil, fmt.Errorf("arena: %s wants %d bytes, %d of %d are used: %w", label, size, r.used, len(r.mem), ErrFull)
	}
	r.lines = append(r.lines, Line{label, at + size - r.used})
	r.used = at + size
	if n == 0 {
		return nil, nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&r.mem[at])), n), nil
}

func holdsPointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64:
		return false
	case reflect.Array:
		return holdsPointers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if holdsPointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	}
	return true
}
