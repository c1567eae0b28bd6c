package api

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// groupsMost bounds the groups of a process that are looked at; the kernel's bound is
// 65536.
const groupsMost = 1024

// peerOf asks the kernel who is at the other end of a unix connection: the process that
// connected, as it was then.
func peerOf(conn *net.UnixConn) (*caller, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	var c *caller
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			failed = err
			return
		}
		c = &caller{local: true, uid: cred.Uid, pid: cred.Pid, groups: []uint32{cred.Gid}}
		groups, err := peerGroups(fd)
		c.groups, failed = append(c.groups, groups...), err
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("api: who connects: %w", err)
	}
	return c, nil
}

// peerGroups returns the supplementary groups of the process at the other end. The unix
// package has no call for them.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, groupsMost)
	size := uint32(len(groups) * 4) // socklen_t
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
	switch errno {
	case 0:
		return groups[:size/4], nil
	case unix.ERANGE: // in more groups than we look at: it counts as in none of them
		return nil, nil
	}
	return nil, errno
}
