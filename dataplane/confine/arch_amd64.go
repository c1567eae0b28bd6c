package confine

import "golang.org/x/sys/unix"

// auditArch is the kernel's name of the system calls that this binary makes.
const auditArch = unix.AUDIT_ARCH_X86_64

// olderCalls have newer ones beside them, which arm64 began with.
var olderCalls = map[int]string{
	unix.SYS_OPEN: "open", unix.SYS_CREAT: "creat", unix.SYS_FORK: "fork", unix.SYS_VFORK: "vfork",
	unix.SYS_UNLINK: "unlink", unix.SYS_STAT: "stat", unix.SYS_ACCESS: "access", unix.SYS_READLINK: "readlink",
}
