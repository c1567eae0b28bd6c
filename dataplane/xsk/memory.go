package xsk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
)

// Memory says what a raw owner's UMEM is to be of. The zero value asks for ordinary
// pages of whatever node the opening thread runs on. All of it is a wish: [Granted]
// says what was got.
type Memory struct {
	Huge   bool // pages of 2 MiB
	OnNode bool // of Node, which should be the NIC's
	Node   int
}

// Granted is what a UMEM is of, as read back from the kernel.
type Granted struct {
	PageBytes int
	// Pages is how many there are; Remote how many are not on the node that was asked
	// for, -1 if none was or the kernel does not tell.
	Pages, Remote int
	// Why is why something that was asked for was not got, "" if all was.
	Why string
}

const hugePage = 2 << 20

// newMemory makes a memory file for c's UMEM, as near to what is asked for as can be,
// and maps it, all of its pages there.
func newMemory(c OwnerConfig) (file int, umem []byte, g Granted, err error) {
	var why error
	if c.Memory.Huge {
		file, umem, why = mapMemory(c, hugePage)
	}
	if !c.Memory.Huge || why != nil {
		if file, umem, err = mapMemory(c, os.Getpagesize()); err != nil {
			return -1, nil, g, fmt.Errorf("UMEM of %d bytes: %w", c.Sizes.UMEMBytes(), err)
		}
	}
	g.Remote = -1
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err == nil {
		g.PageBytes = int(st.Blksize) // a page of the file's file system
	}
	g.Pages = len(umem) / max(g.PageBytes, 1)
	if c.Memory.OnNode {
		var err error
		if g.Remote, err = pagesElsewhere(umem, g.PageBytes, c.Memory.Node); err != nil {
			why = errors.Join(why, err)
		} else if g.Remote > 0 {
			why = errors.Join(why, fmt.Errorf("%d of %d pages are not on node %d", g.Remote, g.Pages, c.Memory.Node))
		}
	}
	if why != nil {
		g.Why = why.Error()
	}
	return file, umem, g, nil
}

// mapMemory makes a file of pages of so many bytes, and maps and fills it.
func mapMemory(c OwnerConfig, page int) (int, []byte, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	if page == hugePage {
		flags |= unix.MFD_HUGETLB | unix.MFD_HUGE_2MB
	}
	file, err := unix.MemfdCreate(fmt.Sprintf("headrace umem %s %d", c.Interface, c.Queue), flags)
	if err != nil {
		return -1, nil, fmt.Errorf("pages of %d bytes: %w", page, os.NewSyscallError("memfd_create", err))
	}
	umem, err := fillMemory(c, file, (c.Sizes.UMEMBytes()+page-1)&^(page-1))
	if err != nil {
		return -1, nil, errors.Join(fmt.Errorf("pages of %d bytes: %w", page, err), os.NewSyscallError("close", unix.Close(file)))
	}
	return file, umem, nil
}

func fillMemory(c OwnerConfig, file, size int) ([]byte, error) {
	if err := unix.Ftruncate(file, int64(size)); err != nil {
		return nil, os.NewSyscallError("ftruncate", err)
	}
	// The process that receives reads hostile bytes: it must not be able to take memory
	// away from under this one.
	if _, err := unix.FcntlInt(uintptr(file), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	umem, err := unix.Mmap(file, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	err = place(umem, c.Memory, unix.MPOL_BIND)
	if err == nil {
		err = populate(umem)
	}
	if err != nil && c.Memory.OnNode {
		// The node may have no such pages left: then near it, if it exists at all.
		_ = place(umem, c.Memory, unix.MPOL_PREFERRED)
		err = populate(umem)
	}
	if err != nil {
		return nil, errors.Join(err, os.NewSyscallError("munmap", unix.Munmap(umem)))
	}
	return umem, nil
}

// place sets the policy by which pages of mem come to be. It is the file's, whoever
// touches them.
func place(mem []byte, m Memory, mode int) error {
	if !m.OnNode {
		return nil
	}
	return arena.Policy(mem, m.Node, mode)
}

// populate makes every page be there. Pages that there are not enough of are an error,
// where touching them would be a SIGBUS.
func populate(mem []byte) error {
	return os.NewSyscallError("madvise", unix.Madvise(mem, unix.MADV_POPULATE_WRITE))
}

// pagesElsewhere returns how many pages of mem are not on node.
func pagesElsewhere(mem []byte, page, node int) (int, error) {
	status, err := arena.Nodes(mem, page, 1)
	if err != nil {
		return -1, err
	}
	remote := 0
	for _, at := range status {
		if int(at) != node {
			remote++
		}
	}
	return remote, nil
}
