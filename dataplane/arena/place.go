package arena

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	nodesMax = 1024 // bounds the mask of nodes
	// samplesMax bounds how many pages of a region are asked for where they are.
	samplesMax = 4096
)

// Prefer makes the region's memory come from a node, whoever touches it first, as long as
// there is some left there. What has been touched before stays where it is. Call it before
// anything is handed out.
func (r *Region) Prefer(node int) error {
	// Preferred and not bound: a worker that waits for memory of one node, or is killed for
	// it, is worse off than one whose memory is far away.
	if err := Policy(r.mem, node, unix.MPOL_PREFERRED); err != nil {
		return fmt.Errorf("arena: %w", err)
	}
	return nil
}

// Policy says from which node pages of mem that are not there yet are to come; mode is one
// of unix.MPOL_*.
func Policy(mem []byte, node, mode int) error {
	if node < 0 || node >= nodesMax {
		return fmt.Errorf("node %d: 0 to %d are possible", node, nodesMax-1)
	}
	var mask [nodesMax/64 + 1]uint64 // the kernel looks at one bit less than it is told of
	mask[node/64] = 1 << (node % 64)
	_, _, errno := unix.Syscall6(unix.SYS_MBIND, uintptr(unsafe.Pointer(unsafe.SliceData(mem))), uintptr(len(mem)),
		uintptr(mode), uintptr(unsafe.Pointer(&mask[0])), nodesMax+1, 0)
	if errno != 0 {
		return fmt.Errorf("memory of node %d: %w", node, os.NewSyscallError("mbind", errno))
	}
	return nil
}

// Nodes returns the node of each step-th page of mem; negative where this process has not
// come to it yet.
func Nodes(mem []byte, page, step int) ([]int32, error) {
	var pages []uintptr
	for i := 0; i < len(mem)/page; i += step {
		pages = append(pages, uintptr(unsafe.Pointer(&mem[i*page])))
	}
	status := make([]int32, len(pages))
	// Without nodes to move them to, it tells where they are.
	_, _, errno := unix.Syscall6(unix.SYS_MOVE_PAGES, 0, uintptr(len(pages)), uintptr(unsafe.Pointer(unsafe.SliceData(pages))), 0, uintptr(unsafe.Pointer(unsafe.SliceData(status))), 0)
	if errno != 0 {
		return nil, fmt.Errorf("node of the pages: %w", os.NewSyscallError("move_pages", errno))
	}
	return status, nil
}

// Huge asks for huge pages, which the kernel gives where its settings and its memory allow.
// Call it before anything is handed out.
func (r *Region) Huge() error {
	if err := unix.Madvise(r.mem, unix.MADV_HUGEPAGE); err != nil {
		return fmt.Errorf("arena: huge pages: %w", os.NewSyscallError("madvise", err))
	}
	return nil
}

// Settle makes all that was handed out be there, and stay: no page is waited for when a
// worker comes to it first. Memory that may not be locked is there all the same, and the
// error says so.
func (r *Region) Settle() (locked bool, err error) {
	mem := r.touched()
	if err := unix.Madvise(mem, unix.MADV_POPULATE_WRITE); err != nil {
		return false, fmt.Errorf("arena: %d bytes beforehand: %w", len(mem), os.NewSyscallError("madvise", err))
	}
	if err := unix.Mlock(mem); err != nil {
		return false, fmt.Errorf("arena: lock %d bytes: %w; CAP_IPC_LOCK or a larger RLIMIT_MEMLOCK lets it", len(mem), os.NewSyscallError("mlock", err))
	}
	return true, nil
}

// touched is what was handed out, in whole pages.
func (r *Region) touched() []byte {
	page := os.Getpagesize()
	return r.mem[:min(len(r.mem), (r.used+page-1)&^(page-1))]
}

// Where is where a region's memory is.
type Where struct {
	// Pages is how many pages were asked about, of all parts of what was handed out, that
	// are there; Remote how many of them are not on the node that was
	// named, if one was.
	Pages, Remote int
}

// Where asks the kernel where the memory that was handed out is; node -1 names none. Pages
// that this process has not come to yet are not there for it.
func (r *Region) Where(node int) (w Where, _ error) {
	mem, page := r.touched(), os.Getpagesize()
	status, err := Nodes(mem, page, max(1, (len(mem)/page+samplesMax-1)/samplesMax))
	if err != nil {
		return w, fmt.Errorf("arena: %w", err)
	}
	for _, at := range status {
		if at < 0 {
			continue // not there yet
		}
		if w.Pages++; node >= 0 && int(at) != node {
			w.Remote++
		}
	}
	return w, nil
}

// InHuge returns how many bytes of the region are mapped by huge pages.
func (r *Region) InHuge() (int, error) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return 0, fmt.Errorf("arena: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	start := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.mem))))
	end := start + uint64(len(r.mem))
	bytes, ours := 0, false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if from, to, ok := strings.Cut(name, "-"); ok {
			a, _ := strconv.ParseUint(from, 16, 64)
			b, _ := strconv.ParseUint(to, 16, 64)
			ours = a >= start && b <= end // locked parts are mappings of their own
			continue
		}
		if ours && name == "ShmemPmdMapped:" {
			kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			bytes += kib << 10
		}
	}
	return bytes, nil
}
