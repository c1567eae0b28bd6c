package confine

import "golang.org/x/sys/unix"

// A condition holds if argument arg, masked, has a value. Pointers cannot be looked
// through.
type condition struct {
	arg         int
	mask, value uint64
}

// A rule allows a system call if all of its conditions hold. Several rules of one call
// are alternatives.
type rule struct {
	call       uintptr
	conditions []condition
}

const (
	whole = ^uint64(0)
	low   = 0xffff_ffff // of arguments that the kernel reads as int: the rest is not looked at
)

// What a new thread of Go's runtime or the C library asks for, and the flags that would
// make a process or a namespace of it.
const (
	threadFlags   = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD
	strangerFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
		unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_VFORK | unix.CLONE_PTRACE | unix.CLONE_UNTRACED | unix.CLONE_PIDFD
)

// rules are what process pid may do. The calls of a running worker come first: kernels
// before 5.11 look from the top.
func rules(pid int) []rule {
	free := func(calls ...uintptr) (list []rule) {
		for _, c := range calls {
			list = append(list, rule{call: c})
		}
		return list
	}
	// Memory that can be run is what an intruder needs next.
	data := []condition{{2, unix.PROT_EXEC, 0}}
	var all []rule
	for _, part := range [][]rule{
		// A worker that waits or kicks its ring, and one that begins: where it is to run.
		free(unix.SYS_SCHED_YIELD, unix.SYS_PPOLL, unix.SYS_RECVFROM),
		{{unix.SYS_SENDTO, []condition{{4, whole, 0}}}}, // to nobody but the socket's own other end
		free(unix.SYS_SCHED_SETAFFINITY, unix.SYS_SETPRIORITY),

		// Go's runtime, and the C library under it in a binary with cgo.
		free(unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY),
		free(unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_EVENTFD2),
		free(unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGACTION, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL),
		free(unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETEUID),
		{{unix.SYS_TGKILL, []condition{{0, low, uint64(pid)}}}}, // preemption; an end by its own signal
		{{unix.SYS_MMAP, data}, {unix.SYS_MPROTECT, data}},
		free(unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_BRK),
		{{unix.SYS_PRCTL, []condition{{0, low, unix.PR_SET_VMA}}}}, // names of mappings
		{{unix.SYS_CLONE, []condition{{0, threadFlags | strangerFlags, threadFlags}}}},
		free(unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_GETRANDOM, unix.SYS_EXIT, unix.SYS_EXIT_GROUP),

		// Talking: to control, to whoever keeps count of our life, and last words.
		free(unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_SHUTDOWN),
		// A control that comes after the one that died. The socket is there already.
		free(unix.SYS_LISTEN, unix.SYS_ACCEPT4),
		{
			{unix.SYS_GETSOCKOPT, []condition{{1, low, unix.SOL_XDP}}}, // counters of the sockets, places of rings
			{unix.SYS_GETSOCKOPT, []condition{{1, low, unix.SOL_SOCKET}, {2, low, unix.SO_PEERCRED}}},
			{unix.SYS_SETSOCKOPT, []condition{{1, low, unix.SOL_SOCKET}, {2, low, unix.SO_RCVTIMEO}}},
			{unix.SYS_SETSOCKOPT, []condition{{1, low, unix.SOL_SOCKET}, {2, low, unix.SO_SNDTIMEO}}},
		},
	} {
		all = append(all, part...)
	}
	return all
}
