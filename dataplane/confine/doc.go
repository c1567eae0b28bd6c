// Package confine takes from the data plane every system call that it has no use for
// once its workers run. It parses bytes from strangers: should one of them ever take it
// over, there is no file to open, no socket to make, no program to start.
//
//	Apply    the filter, on every thread of this process, for good
//	Watch    what was tried all the same, seen from another process
//
// [rules] is the list, with the reason of each line; read it first. A call that is not
// in it fails with EPERM, does nothing, and is logged twice. The kernel's audit log has
// it where audit is on, unless kernel.seccomp.actions_logged leaves it out. And because
// that depends on the host, who holds the [Listener] gets it too: Apply returns a
// descriptor, which goes to the control plane, whose answer, always EPERM, the call
// waits for. If nobody holds the descriptor any more the kernel answers ENOSYS.
//
// What an opened descriptor can still do is not limited here: whoever starts the data
// plane gives it only what it needs.
package confine
