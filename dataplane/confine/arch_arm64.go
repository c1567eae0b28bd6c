package confine

import "golang.org/x/sys/unix"

// auditArch is the kernel's name of the system calls that this binary makes.
const auditArch = unix.AUDIT_ARCH_AARCH64

// olderCalls do not exist here.
var olderCalls map[int]string
