package xsk

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
)

// A RawOwner is a queue's owner as the process has it that opened it, and keeps it
// while processes that receive come and go: descriptors, and what was granted. It maps
// nothing.
type RawOwner struct {
	// FD is the bound socket, File the memory file that its UMEM is.
	FD, File int
	// ZeroCopy is what the kernel granted, Fallback why zero-copy was tried and not
	// granted, or nil.
	ZeroCopy bool
	Fallback error
	// Asked is what the UMEM was to be of, Granted what it is of.
	Asked   Memory
	Granted Granted
}

// OpenRaw opens the owner of one queue over a memory file, with its fill ring filled:
// the kernel can receive into it from then on, also while nobody takes the frames. It
// needs CAP_NET_RAW, and CAP_IPC_LOCK or a memlock limit for the UMEM; who takes the
// owner over by [AdoptOwner] needs no privilege.
func OpenRaw(c OwnerConfig) (*RawOwner, error) {
	if err := c.complete(); err != nil {
		return nil, c.named(err)
	}
	file, umem, granted, err := newMemory(c)
	if err != nil {
		return nil, c.named(err)
	}
	// The kernel has pinned the pages by then; no mapping is needed to keep them.
	defer unix.Munmap(umem) //nolint:errcheck // of a whole mapping of ours
	o := &RawOwner{FD: -1, File: file, Asked: c.Memory, Granted: granted}
	if o.FD, o.Fallback, err = bindBest(c, func(flags int) (int, error) { return openRaw(c, umem, flags) }); err != nil {
		o.FD = -1
		return nil, errors.Join(c.named(advise(err)), o.Close())
	}
	if o.ZeroCopy, err = grantedZeroCopy(o.FD); err != nil {
		return nil, errors.Join(c.named(err), o.Close())
	}
	return o, nil
}

// OpenRawOwners opens the owner of every queue of l, in the order of [Layout.Owners]. On
// an error all are closed.
func OpenRawOwners(l Layout) ([]*RawOwner, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	if !l.Raw {
		return nil, errors.New("xsk: raw owners of a layout that is not of raw ones")
	}
	var owners []*RawOwner
	for _, s := range l.Owners() {
		o, err := OpenRaw(l.config(s))
		if err != nil {
			errs := []error{err}
			for _, o := range owners {
				errs = append(errs, o.Close())
			}
			return nil, errors.Join(errs...)
		}
		owners = append(owners, o)
	}
	return owners, nil
}

// Close closes both descriptors. The queue stays bound as long as another process has
// the socket, or a member of it.
func (o *RawOwner) Close() error {
	var errs []error
	for _, fd := range []*int{&o.FD, &o.File} {
		if *fd >= 0 {
			errs = append(errs, os.NewSyscallError("close", unix.Close(*fd)))
			*fd = -1
		}
	}
	return errors.Join(errs...)
}

// openRaw makes a bound socket over umem. Whatever fails, nothing is left of it.
func openRaw(c OwnerConfig, umem []byte, flags int) (int, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := makeRings(fd, c, umem); err != nil {
		return -1, errors.Join(err, os.NewSyscallError("close", unix.Close(fd)))
	}
	err = unix.Bind(fd, &unix.SockaddrXDP{Flags: uint16(flags), Ifindex: uint32(c.Index), QueueID: uint32(c.Queue)})
	if err != nil {
		return -1, errors.Join(os.NewSyscallError("bind", err), os.NewSyscallError("close", unix.Close(fd)))
	}
	return fd, nil
}

// makeRings registers the UMEM, makes the four rings and fills the fill ring: before
// the bind, at which a zero-copy driver takes its first frames.
func makeRings(fd int, c OwnerConfig, umem []byte) error {
	s := c.Sizes
	reg := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(umem)))), Len: uint64(s.UMEMBytes()), Size: uint32(s.FrameSize)}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG, uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0)
	if errno != 0 {
		return fmt.Errorf("UMEM of %d bytes: %w", s.UMEMBytes(), os.NewSyscallError("setsockopt", errno))
	}
	for _, r := range []struct {
		name          string
		option, count int
	}{
		{"fill ring", unix.XDP_UMEM_FILL_RING, s.FillRing},
		{"completion ring", unix.XDP_UMEM_COMPLETION_RING, s.TxRing},
		{"RX ring", unix.XDP_RX_RING, s.RxRing},
		{"TX ring", unix.XDP_TX_RING, s.TxRing},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, r.option, r.count); err != nil {
			return fmt.Errorf("%s of %d: %w", r.name, r.count, os.NewSyscallError("setsockopt", err))
		}
	}
	off, err := mapOffsets(fd)
	if err != nil {
		return err
	}
	fill, err := mapRing(fd, unix.XDP_UMEM_PGOFF_FILL_RING, off.Fr, uint32(s.FillRing), addressBytes)
	if err != nil {
		return err
	}
	f := newProducerRing(fill)
	fillUp(&f, s)
	return f.unmap()
}

// AdoptOwner makes an owner of a socket and a memory file that [OpenRaw] made, perhaps
// in another process, with the same c. It needs no privilege, and a kernel of Linux 6.4
// or later: earlier ones do not let the rings of a bound socket be mapped. It takes the
// descriptors over, unless it fails.
//
// r keeps what is to be remembered of the queue's frames, of version [StateVersion]. It
// belongs to the sockets: it is made when they are opened, every process that adopts
// them takes the same from it in the same order, completes it before it makes ports, and
// it is thrown away with them. The number of workers does not matter to it. AdoptOwner
// returns an error wrapping [ErrState] if it is that of other sockets, or new where they
// are not. What a process before this one did not finish is brought to its end; its
// workers' shares when their ports are made.
func AdoptOwner(c OwnerConfig, fd, file int, r *arena.Region) (*Owner, error) {
	if err := c.complete(); err != nil {
		return nil, c.named(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil {
		return nil, c.named(os.NewSyscallError("fstat", err))
	}
	if st.Size < int64(c.Sizes.UMEMBytes()) {
		return nil, c.named(fmt.Errorf("a memory file of %d bytes for a UMEM of %d: %w", st.Size, c.Sizes.UMEMBytes(), ErrState))
	}
	// Whole, since pages of two megabytes cannot be mapped in part.
	mem, err := unix.Mmap(file, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, c.named(fmt.Errorf("UMEM: %w", os.NewSyscallError("mmap", err)))
	}
	o := &Owner{config: c, fd: fd, umem: mem[:c.Sizes.UMEMBytes()], release: func() error { return os.NewSyscallError("munmap", unix.Munmap(mem)) }}
	if err := o.start(r); err != nil {
		return nil, errors.Join(c.named(err), o.Close())
	}
	o.release = func() error {
		return errors.Join(os.NewSyscallError("munmap", unix.Munmap(mem)), closeAll([]int{fd, file}))
	}
	return o, nil
}

// AdoptOwners adopts the owners of all queues of l, sockets and memory files in the
// order of [Layout.Owners]. On an error those that were adopted are closed.
func AdoptOwners(l Layout, fds, files []int, r *arena.Region) ([]*Owner, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	places := l.Owners()
	if len(fds) != len(places) || len(files) != len(places) {
		return nil, fmt.Errorf("xsk: %d sockets and %d memory files for %d queues: both processes must have the same layout", len(fds), len(files), len(places))
	}
	var owners []*Owner
	for i, s := range places {
		o, err := AdoptOwner(l.config(s), fds[i], files[i], r)
		if err != nil {
			return nil, errors.Join(err, closeOwners(owners))
		}
		owners = append(owners, o)
	}
	return owners, nil
}

// resume goes on where the process before this one was, if there was one.
func (o *Owner) resume() error {
	q, s := o.refill, o.config.Sizes
	cookie, err := cookieOf(o.fd)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	switch q.head.Cookie {
	case cookie:
	case 0:
		// A region that is new, or whose first user ended here.
		if q.fill.next != uint32(s.Frames-s.TxRing) {
			return fmt.Errorf("a new memory for a socket that was used: %w", ErrState)
		}
		q.stock(s)
		atomic.StoreUint64(&q.head.Cookie, cookie)
	default:
		return ErrState
	}
	if err := q.restore(); err != nil {
		return err
	}
	o.wake()
	return nil
}

// openRawHere opens a raw owner and adopts it at once.
func openRawHere(c OwnerConfig) (*Owner, error) {
	raw, err := OpenRaw(c)
	if err != nil {
		return nil, err
	}
	r, err := arena.New("headrace queue", 1<<32)
	if err != nil {
		return nil, errors.Join(c.named(err), raw.Close())
	}
	o, err := AdoptOwner(c, raw.FD, raw.File, r)
	if err != nil {
		return nil, errors.Join(err, raw.Close(), r.Close())
	}
	o.fallback = raw.Fallback
	release := o.release
	o.release = func() error { return errors.Join(release(), r.Close()) }
	if err := r.Complete(StateVersion); err != nil {
		return nil, errors.Join(c.named(err), o.Close())
	}
	return o, nil
}

// StateVersion is the version of what [AdoptOwner] keeps in its region.
const StateVersion = 1
