package arena

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"reflect"
	"sync/atomic"
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
// afterwards is their own matter. The file behind it can be passed to a process, which
// builds the same structures over what it holds: a warm region.
type Region struct {
	mem    []byte
	fd     int
	used   int
	lines  []Line
	warm   bool
	layout uint64 // hash of everything handed out
	view   bool
}

// header is the begin of a region.
type header struct {
	Magic    uint64
	Version  uint64 // of what is kept there, as the builder said
	Layout   uint64
	Complete uint64 // 1: the structures have been built
}

const (
	align       = 64 // a cache line: two owners never share one
	headerBytes = 64
	magic       = 0x6865616472616365
)

// ErrLayout reports a region whose memory was laid out by another plan or another
// build: what it holds cannot be gone on with.
var ErrLayout = errors.New("memory is laid out in another way")

// Create makes the memory file of a region of at most limit bytes, called name, and
// returns its descriptor. Memory is taken when it is touched.
func Create(name string, limit int) (fd int, err error) {
	limit = (limit + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
	if fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING); err != nil {
		return -1, fmt.Errorf("arena: region %s: %w", name, os.NewSyscallError("memfd_create", err))
	}
	if err := unix.Ftruncate(fd, int64(limit)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("arena: region %s of %d bytes: %w", name, limit, os.NewSyscallError("ftruncate", err))
	}
	return fd, nil
}

// New creates a region of at most limit bytes, called name, and maps it.
func New(name string, limit int) (*Region, error) {
	fd, err := Create(name, limit)
	if err != nil {
		return nil, err
	}
	r, err := Open(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("arena: region %s of %d bytes: %w", name, limit, err)
	}
	return r, nil
}

// Open maps the region behind a descriptor, which it takes over unless it fails. The
// region is warm if its structures have been built before, perhaps by another process.
func Open(fd int) (*Region, error) { return open(fd, unix.MAP_SHARED) }

// View maps the region behind a descriptor, as [Open] does, but what is written there
// stays in this mapping: others, and who comes later, do not see it.
func View(fd int) (*Region, error) { return open(fd, unix.MAP_PRIVATE) }

func open(fd, sharing int) (*Region, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("arena: %w", os.NewSyscallError("fstat", err))
	}
	if st.Size < headerBytes || st.Size > 1<<46 {
		return nil, fmt.Errorf("arena: a region of %d bytes", st.Size)
	}
	mem, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, sharing|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("arena: %w", os.NewSyscallError("mmap", err))
	}
	r := &Region{mem: mem, fd: fd, used: headerBytes, view: sharing == unix.MAP_PRIVATE}
	h := r.header()
	switch {
	case h.Complete == 0: // fresh, or its builder died: build again, over what must be zero
	case h.Magic != magic:
		return nil, errors.Join(fmt.Errorf("arena: a region that begins with %#x: %w", h.Magic, ErrLayout), unix.Munmap(mem))
	default:
		r.warm = true
	}
	return r, nil
}

func (r *Region) header() *header { return (*header)(unsafe.Pointer(unsafe.SliceData(r.mem))) }

// Warm reports that what is handed out holds what it held when its last user ended,
// and must not be set up anew.
func (r *Region) Warm() bool { return r.warm }

// Complete says that everything has been handed out, and what version the contents
// are of: a number that changes whenever the meaning of memory changes and its layout
// does not. In a warm region it checks that both are as its first builder left them,
// and returns an error wrapping [ErrLayout] if not; then nothing may be used.
func (r *Region) Complete(version uint64) error {
	h := r.header()
	if !r.warm {
		h.Magic, h.Version, h.Layout = magic, version, r.layout
		atomic.StoreUint64(&h.Complete, 1)
		return nil
	}
	return r.Fits(version, r.layout)
}

// Layout is the hash of everything that has been handed out.
func (r *Region) Layout() uint64 { return r.layout }

// Fits returns an error wrapping [ErrLayout] unless the region holds, complete, what a
// builder of that version and layout has left: so it is found out before anything there
// is looked at, by building the same in another region first.
func (r *Region) Fits(version, layout uint64) error {
	if h := r.header(); h.Complete == 0 || h.Version != version || h.Layout != layout {
		return fmt.Errorf("arena: memory of version %d and layout %#x, wanted are %d and %#x: %w", h.Version, h.Layout, version, layout, ErrLayout)
	}
	return nil
}

// Same returns an error wrapping [ErrLayout] unless the region behind a descriptor has
// been built with the same structures and version as r, which is complete. It reads
// there and keeps nothing.
func (r *Region) Same(fd int) error {
	other, err := Open(fd)
	if err != nil {
		return err
	}
	return errors.Join(other.Fits(r.header().Version, r.layout), unix.Munmap(other.mem))
}

// Close unmaps the region. Nothing made from it may be used afterwards.
func (r *Region) Close() error {
	err := unix.Munmap(r.mem)
	r.mem = nil
	return errors.Join(err, unix.Close(r.fd))
}

// FD returns the descriptor of the memory file; it stays the region's.
func (r *Region) FD() int { return r.fd }

// Used returns how many bytes have been handed out, the region's own header included.
func (r *Region) Used() int { return r.used }

// Lines returns what was handed out, in order.
func (r *Region) Lines() []Line { return r.lines }

// Slice hands out n values of T, aligned to a cache line, under a label for the
// account. They are zero, but in a warm region. It panics if T holds a pointer, and
// returns an error wrapping [ErrFull] if the region ends.
func Slice[T any](r *Region, label string, n int) ([]T, error) {
	var zero T
	t := reflect.TypeOf(zero)
	if holdsPointers(t) {
		panic("arena: " + t.String() + " holds pointers")
	}
	size := int(unsafe.Sizeof(zero)) * n
	at := (r.used + align - 1) &^ (align - 1)
	if n < 0 || size < 0 || at+size > len(r.mem) {
		return nil, fmt.Errorf("arena: %s wants %d bytes, %d of %d are used: %w", label, size, r.used, len(r.mem), ErrFull)
	}
	r.lines = append(r.lines, Line{label, at + size - r.used})
	r.used = at + size
	r.note(label, t, n)
	if n == 0 {
		return nil, nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&r.mem[at])), n), nil
}

// Touched returns the next elements of s, which r has handed out, from element from on
// that may hold something; none if begin is len(s). In a [View] it leaves out what nobody
// has ever touched: to read there would take memory, and time.
func Touched[T any](r *Region, s []T, from int) (begin, end int) {
	if !r.view || from >= len(s) {
		return min(from, len(s)), len(s)
	}
	size := int64(unsafe.Sizeof(s[0]))
	start := int64(uintptr(unsafe.Pointer(&s[0])) - uintptr(unsafe.Pointer(unsafe.SliceData(r.mem))))
	at, err := unix.Seek(r.fd, start+int64(from)*size, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return len(s), len(s)
	}
	hole, err2 := unix.Seek(r.fd, at, unix.SEEK_HOLE)
	if err != nil || err2 != nil {
		return from, len(s)
	}
	return min(len(s), max(from, int((at-start)/size))), min(len(s), int((hole-start+size-1)/size))
}

// note takes one more slice into the layout's hash.
func (r *Region) note(label string, t reflect.Type, n int) {
	h := fnv.New64a()
	_ = binary.Write(h, binary.LittleEndian, r.layout)
	_, _ = fmt.Fprintf(h, "%s %d ", label, n)
	describe(h, t)
	r.layout = h.Sum64()
}

// describe writes what decides where the parts of a value lie.
func describe(w io.Writer, t reflect.Type) {
	switch t.Kind() {
	case reflect.Array:
		_, _ = fmt.Fprintf(w, "[%d]", t.Len())
		describe(w, t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			_, _ = fmt.Fprintf(w, "%s@%d ", f.Name, f.Offset)
			describe(w, f.Type)
		}
	default:
		_, _ = fmt.Fprintf(w, "%s;", t.Kind())
	}
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
