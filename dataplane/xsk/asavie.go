package xsk

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"
)

// opening is held while asavie/xdp makes a socket: its bind flags are a global of that
// package, and the mappings that it leaves are found by comparing before and after.
var opening sync.Mutex

// openAsavie makes a bound socket with its UMEM by asavie/xdp v0.3.3.
//
// That package maps the socket's four rings and never unmaps them, neither when it
// closes the socket nor when opening fails half-way; each mapping keeps the socket,
// and so the queue and the UMEM, alive. So the mappings are found in
// /proc/self/maps and unmapped here.
func openAsavie(c OwnerConfig, flags uint16) (base, error) {
	opening.Lock()
	defer opening.Unlock()
	before, err := ringMappings()
	if err != nil {
		return base{}, err
	}
	known := make(map[string]bool, len(before))
	for _, m := range before {
		known[m.socket] = true
	}
	socket, err := newAsavieSocket(c, flags)
	after, mapsErr := ringMappings()
	if err = errors.Join(err, mapsErr); err != nil {
		// The fill ring is the first to be mapped, so a failed socket that left any
		// mapping left that one. Other sockets' mappings have no such offset.
		left := ours(after, func(m mapping) bool { return m.page == unix.XDP_UMEM_PGOFF_FILL_RING && !known[m.socket] })
		err = errors.Join(err, unmapAll(left))
		if socket != nil {
			err = errors.Join(err, socket.Close())
		}
		return base{}, err
	}
	inode, err := socketName(socket.FD())
	if err != nil {
		return base{}, errors.Join(err, socket.Close())
	}
	mine := ours(after, func(m mapping) bool { return m.socket == inode })
	return base{
		fd:   socket.FD(),
		umem: socket.GetFrame(xdp.Desc{Addr: 0, Len: uint32(c.Sizes.UMEMBytes())}),
		release: func() error {
			return errors.Join(unmapAll(mine), socket.Close())
		},
	}, nil
}

// newAsavieSocket calls NewSocket. The lock against forks keeps the descriptor, which
// NewSocket does not mark, out of child processes.
func newAsavieSocket(c OwnerConfig, flags uint16) (*xdp.Socket, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	s := c.Sizes
	xdp.DefaultSocketFlags = flags
	socket, err := xdp.NewSocket(c.Index, c.Queue, &xdp.SocketOptions{
		NumFrames: s.Frames, FrameSize: s.FrameSize, FillRingNumDescs: s.FillRing,
		CompletionRingNumDescs: s.TxRing, RxRingNumDescs: s.RxRing, TxRingNumDescs: s.TxRing,
	})
	xdp.DefaultSocketFlags = 0
	if err != nil {
		return nil, withErrno(err)
	}
	unix.CloseOnExec(socket.FD())
	return socket, nil
}

// withErrno gives an error of asavie/xdp, which holds the kernel's answer as text
// only, back its number.
func withErrno(err error) error {
	for _, errno := range []unix.Errno{
		unix.EBUSY, unix.EOPNOTSUPP, unix.EINVAL, unix.EPERM, unix.EACCES, unix.ENODEV, unix.ENXIO, unix.ENOMEM,
		unix.ENOBUFS, unix.ENETDOWN, unix.ENOSYS, unix.EAFNOSUPPORT, unix.EMFILE, unix.ENFILE, unix.EFAULT, unix.EAGAIN,
	} {
		if text, ok := strings.CutSuffix(err.Error(), errno.Error()); ok {
			return fmt.Errorf("%s%w", text, errno)
		}
	}
	return err
}

// A mapping is a range of this process's memory that maps a socket.
type mapping struct {
	from, to uintptr
	page     int64  // offset in the file
	socket   string // "socket:[inode]"
}

// ringMappings returns the mappings of sockets, AF_XDP or not, in address order.
func ringMappings() ([]mapping, error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	var out []mapping
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// address perms offset dev inode path
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || !strings.HasPrefix(fields[5], "socket:[") {
			continue
		}
		m := mapping{socket: fields[5]}
		from, to, _ := strings.Cut(fields[0], "-")
		a, err1 := strconv.ParseUint(from, 16, 64)
		b, err2 := strconv.ParseUint(to, 16, 64)
		page, err3 := strconv.ParseInt(fields[2], 16, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, fmt.Errorf("/proc/self/maps: %w", err)
		}
		m.from, m.to, m.page = uintptr(a), uintptr(b), page
		out = append(out, m)
	}
	return out, lines.Err()
}

// ours returns all mappings of those sockets of which one mapping satisfies is.
func ours(all []mapping, is func(mapping) bool) []mapping {
	sockets := map[string]bool{}
	for _, m := range all {
		if is(m) {
			sockets[m.socket] = true
		}
	}
	var out []mapping
	for _, m := range all {
		if sockets[m.socket] {
			out = append(out, m)
		}
	}
	return out
}

// unmapAll unmaps ranges that nobody uses any more.
func unmapAll(mappings []mapping) error {
	var errs []error
	for _, m := range mappings {
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, m.from, m.to-m.from, 0); errno != 0 {
			errs = append(errs, os.NewSyscallError("munmap", errno))
		}
	}
	return errors.Join(errs...)
}

// socketName returns what a mapping of fd is called in /proc/self/maps.
func socketName(fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", os.NewSyscallError("fstat", err)
	}
	return fmt.Sprintf("socket:[%d]", st.Ino), nil
}
