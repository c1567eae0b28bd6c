package xsk

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of one entry: struct xdp_desc, and a UMEM address, of linux/if_xdp.h.
const (
	descBytes    = uint32(unsafe.Sizeof(unix.XDPDesc{}))
	addressBytes = 8
)

// A ring is one of a socket's rings, mapped from its descriptor. The kernel lets a
// ring be mapped more than once and all mappings are the same memory, so it does not
// matter who made the socket, or in which process.
//
// The two indices run freely and are taken modulo the size. Each has one writer. It
// stores with release semantics and the other side loads with acquire semantics,
// which is what sync/atomic gives at least.
type ring struct {
	producer, consumer *uint32
	flags              *uint32
	entries            unsafe.Pointer
	mask               uint32
	mem                []byte // the mapping
}

// mapRing maps the ring of fd that lies at offset page. entries must be the number
// that the ring was made with.
func mapRing(fd int, page int64, off unix.XDPRingOffset, entries, entryBytes uint32) (ring, error) {
	length := func(n uint32) int { return int(off.Desc) + int(n)*int(entryBytes) }
	mem, err := unix.Mmap(fd, page, length(entries), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if errors.Is(err, unix.EBUSY) {
		// Before 6.4 the rings of a socket could not be mapped once it was bound.
		return ring{}, fmt.Errorf("map a ring of %d entries: this kernel is older than Linux 6.4, which is needed: %w", entries, os.NewSyscallError("mmap", err))
	}
	if err != nil {
		return ring{}, fmt.Errorf("map a ring of %d entries: %w", entries, os.NewSyscallError("mmap", err))
	}
	// The kernel refuses a mapping longer than the ring, but takes a shorter one, whose
	// mask would then be wrong. That shows where twice as much can be mapped too.
	pages := func(n int) int { return (n + os.Getpagesize() - 1) / os.Getpagesize() }
	if twice := length(2 * entries); pages(twice) > pages(length(entries)) {
		if more, err := unix.Mmap(fd, page, twice, unix.PROT_READ, unix.MAP_SHARED); err == nil {
			_ = unix.Munmap(more)
			_ = unix.Munmap(mem)
			return ring{}, fmt.Errorf("map a ring of %d entries: it has more; both processes must use the same sizes", entries)
		}
	}
	return ringOver(mem, off, entries), nil
}

// ringOver lays a ring over memory.
func ringOver(mem []byte, off unix.XDPRingOffset, entries uint32) ring {
	base := unsafe.Pointer(unsafe.SliceData(mem))
	return ring{
		producer: (*uint32)(unsafe.Add(base, off.Producer)),
		consumer: (*uint32)(unsafe.Add(base, off.Consumer)),
		flags:    (*uint32)(unsafe.Add(base, off.Flags)),
		entries:  unsafe.Add(base, off.Desc),
		mask:     entries - 1,
		mem:      mem,
	}
}

// unmap ends the use of r. A second call does nothing.
func (r *ring) unmap() error {
	if r.mem == nil {
		return nil
	}
	mem := r.mem
	*r = ring{}
	return os.NewSyscallError("munmap", unix.Munmap(mem))
}

// needsWakeup reports whether the kernel waits for a system call before it goes on
// with this ring.
func (r *ring) needsWakeup() bool {
	return atomic.LoadUint32(r.flags)&unix.XDP_RING_NEED_WAKEUP != 0
}

// address returns entry i of a fill or completion ring.
func (r *ring) address(i uint32) *uint64 {
	return (*uint64)(unsafe.Add(r.entries, uintptr(i&r.mask)*addressBytes))
}

// desc returns entry i of an RX or TX ring.
func (r *ring) desc(i uint32) *unix.XDPDesc {
	return descAt(r.entries, i&r.mask)
}

// descAt returns entry i, less than the ring's size.
func descAt(entries unsafe.Pointer, i uint32) *unix.XDPDesc {
	return (*unix.XDPDesc)(unsafe.Add(entries, uintptr(i)*uintptr(descBytes)))
}

// waiting returns how many entries were produced and not yet consumed, as far as
// both sides have published. It may be called from any thread.
func (r *ring) waiting() uint32 {
	consumer := atomic.LoadUint32(r.consumer) // first: it never passes the producer
	return atomic.LoadUint32(r.producer) - consumer
}

// consume tells the producer that everything before position is free.
func (r *ring) consume(position uint32) { atomic.StoreUint32(r.consumer, position) }

// A producerRing is a ring that this side fills: the fill ring and the TX ring. What
// is put into it shows at publish.
type producerRing struct {
	ring
	next  uint32 // where the next entry goes
	taken uint32 // the consumer's position when last read
}

func newProducerRing(r ring) producerRing {
	return producerRing{ring: r, next: atomic.LoadUint32(r.producer), taken: atomic.LoadUint32(r.consumer)}
}

// room returns how many entries can be put, at least want if there are that many.
func (r *producerRing) room(want uint32) uint32 {
	free := r.mask + 1 - (r.next - r.taken)
	if free < want {
		r.taken = atomic.LoadUint32(r.consumer)
		free = r.mask + 1 - (r.next - r.taken)
	}
	return free
}

// publish shows the kernel what was put.
func (r *producerRing) publish() { atomic.StoreUint32(r.producer, r.next) }

// mapOffsets returns where in its mappings a socket's rings have their fields.
func mapOffsets(fd int) (unix.XDPMmapOffsets, error) {
	var o unix.XDPMmapOffsets
	n, err := getOption(fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&o), unsafe.Sizeof(o))
	if err == nil && n != unsafe.Sizeof(o) {
		// Kernels before 5.4 have no flags field.
		err = fmt.Errorf("ring offsets of %d bytes, want %d: the kernel is older than 5.4", n, unsafe.Sizeof(o))
	}
	return o, err
}

// getOption reads a SOL_XDP option of at most size bytes into value and returns its
// length.
func getOption(fd, option int, value unsafe.Pointer, size uintptr) (uintptr, error) {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option),
		uintptr(value), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("getsockopt", errno)
	}
	return uintptr(length), nil
}
