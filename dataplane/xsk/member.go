package xsk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenMember opens a further socket of an owner's queue: an RX ring of rxRing entries
// and nothing else; UMEM and fill ring are the owner's, and so are its bind flags. It
// needs CAP_NET_RAW. Only owner, the owner's descriptor, is needed, which may have
// come from another process.
func OpenMember(s Socket, owner, rxRing int) (int, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("xsk: %v: %w", s, advise(os.NewSyscallError("socket", err)))
	}
	if err := bindMember(fd, s, owner, rxRing); err != nil {
		return -1, errors.Join(fmt.Errorf("xsk: %v: %w", s, err), os.NewSyscallError("close", unix.Close(fd)))
	}
	return fd, nil
}

func bindMember(fd int, s Socket, owner, rxRing int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_XDP, unix.XDP_RX_RING, rxRing); err != nil {
		return fmt.Errorf("RX ring of %d: %w", rxRing, os.NewSyscallError("setsockopt", err))
	}
	// No other flag is allowed beside XDP_SHARED_UMEM.
	err := unix.Bind(fd, &unix.SockaddrXDP{
		Flags: unix.XDP_SHARED_UMEM, Ifindex: uint32(s.Index), QueueID: uint32(s.Queue), SharedUmemFD: uint32(owner),
	})
	return os.NewSyscallError("bind", err)
}

// OpenMembers opens all members of l on the owners' descriptors, which are in the
// order of [Layout.Owners], and returns theirs in the order of [Layout.Members]. On an
// error all are closed.
func OpenMembers(l Layout, owners []int) ([]int, error) {
	return openMembers(l, owners, l.Members())
}

func openMembers(l Layout, owners []int, members []Socket) ([]int, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	if want := len(l.Owners()); len(owners) != want {
		return nil, fmt.Errorf("xsk: %d owners for %d queues: both processes must have the same layout", len(owners), want)
	}
	var fds []int
	for _, s := range members {
		fd, err := OpenMember(s, owners[s.OwnerIndex], l.Sizes.RxRing)
		if err != nil {
			return nil, errors.Join(err, closeAll(fds))
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// OpenMembersOf opens the members of one worker of l, who has joined the others, on the
// owners' descriptors, and returns theirs in the order of [Layout.MembersOf]. On an
// error all are closed.
func OpenMembersOf(l Layout, owners []int, worker int) ([]int, error) {
	return openMembers(l, owners, l.MembersOf(worker))
}

// OpenOwners opens the owner of every queue of l, in the order of [Layout.Owners], for
// use in this process. On an error all are closed.
func OpenOwners(l Layout) ([]*Owner, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	var owners []*Owner
	for _, s := range l.Owners() {
		o, err := OpenOwner(l.config(s))
		if err != nil {
			return nil, errors.Join(err, closeOwners(owners))
		}
		owners = append(owners, o)
	}
	return owners, nil
}

// config says what the owner s is to be.
func (l Layout) config(s Socket) OwnerConfig {
	return OwnerConfig{
		Interface: s.Name, Index: s.Index, Queue: s.Queue, Sizes: l.Sizes, Bind: l.Bind,
		Raw: l.Raw, Memory: l.Interfaces[s.Interface].Memory,
	}
}

func ownerFDs(owners []*Owner) []int {
	fds := make([]int, len(owners))
	for i, o := range owners {
		fds[i] = o.FD()
	}
	return fds
}

func closeOwners(owners []*Owner) error {
	var errs []error
	for _, o := range owners {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}

func closeAll(fds []int) error {
	var errs []error
	for _, fd := range fds {
		errs = append(errs, os.NewSyscallError("close", unix.Close(fd)))
	}
	return errors.Join(errs...)
}
