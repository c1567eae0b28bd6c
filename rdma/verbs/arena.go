//go:build linux && cgo && rdma

package verbs

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugeBytes = 2 << 20

// An arena is memory outside Go's heap: the collector does not move it, and cgo's
// rules do not ask about it. All of it is there before it is registered. Starting a
// program does not copy it: Go's child shares our memory until it executes.
type arena struct {
	mem  []byte
	huge bool
}

// newArena maps bytes near the memory node, in huge pages where they are granted.
func newArena(bytes, node int) (*arena, error) {
	size := (bytes + hugeBytes - 1) &^ (hugeBytes - 1)
	if a, err := mapArena(size, node, unix.MAP_HUGETLB|21<<unix.MAP_HUGE_SHIFT); err == nil {
		a.huge = true
		return a, nil
	}
	return mapArena(size, node, 0)
}

func mapArena(size, node, flags int) (*arena, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|flags)
	if err != nil {
		return nil, fmt.Errorf("arena of %d bytes: %w", size, os.NewSyscallError("mmap", err))
	}
	prefer(mem, node)
	// Not MAP_POPULATE: that would choose the node before we can. And not by touching:
	// a huge page that the cgroup does not grant after all is a signal then.
	err = unix.Madvise(mem, unix.MADV_POPULATE_WRITE)
	if err == unix.EINVAL && flags == 0 { // Linux before 5.14
		for i := 0; i < size; i += 4096 {
			mem[i] = 0
		}
		err = nil
	}
	if err != nil {
		_ = unix.Munmap(mem)
		return nil, fmt.Errorf("arena of %d bytes: %w", size, os.NewSyscallError("madvise", err))
	}
	return &arena{mem: mem}, nil
}

// prefer asks for the node's memory. A node that has no more gives way to another:
// slower memory is better than none.
func prefer(mem []byte, node int) {
	if node < 0 || node > 63 {
		return
	}
	const mpolPreferred = 1
	mask := uint64(1) << node
	_, _, _ = unix.Syscall6(unix.SYS_MBIND, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)),
		mpolPreferred, uintptr(unsafe.Pointer(&mask)), 65, 0)
}

func (a *arena) close() { _ = unix.Munmap(a.mem) }
