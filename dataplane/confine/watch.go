package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes and offsets of struct seccomp_notif and struct seccomp_notif_resp in
// linux/seccomp.h; the first holds a struct seccomp_data from byte 16.
const (
	notifBytes  = 80
	answerBytes = 24
	notifThread = 8
	notifData   = 16
	answerErrno = 16
)

// toldEvery is how often one and the same call is told of: a loop of them must not fill
// a disk.
const toldEvery = time.Second

// Denied is a system call that a confined process tried.
type Denied struct {
	// Thread is the thread that tried it, by its number in our PID namespace.
	Thread int
	// Call is its number on this architecture, Args its arguments as they are in
	// registers.
	Call int
	Args [6]uint64
	// Times is how often, since this call was last told of.
	Times uint64
}

// Name returns the call's name, or its number in words for those that nobody tries.
func (d Denied) Name() string {
	if name := calls[d.Call]; name != "" {
		return name
	}
	if name := olderCalls[d.Call]; name != "" {
		return name
	}
	return fmt.Sprintf("system call %d", d.Call)
}

// calls are those that are worth a name.
var calls = map[int]string{
	unix.SYS_OPENAT: "openat", unix.SYS_OPENAT2: "openat2", unix.SYS_OPEN_BY_HANDLE_AT: "open_by_handle_at",
	unix.SYS_EXECVE: "execve", unix.SYS_EXECVEAT: "execveat", unix.SYS_CLONE: "clone", unix.SYS_PTRACE: "ptrace",
	unix.SYS_PROCESS_VM_READV: "process_vm_readv", unix.SYS_PROCESS_VM_WRITEV: "process_vm_writev",
	unix.SYS_KILL: "kill", unix.SYS_TKILL: "tkill", unix.SYS_TGKILL: "tgkill", unix.SYS_PIDFD_OPEN: "pidfd_open",
	unix.SYS_SOCKET: "socket", unix.SYS_SOCKETPAIR: "socketpair", unix.SYS_CONNECT: "connect", unix.SYS_BIND: "bind",
	unix.SYS_SENDTO: "sendto", unix.SYS_SETSOCKOPT: "setsockopt", unix.SYS_GETSOCKOPT: "getsockopt",
	unix.SYS_BPF: "bpf", unix.SYS_PERF_EVENT_OPEN: "perf_event_open", unix.SYS_USERFAULTFD: "userfaultfd",
	unix.SYS_IO_URING_SETUP: "io_uring_setup", unix.SYS_KEYCTL: "keyctl", unix.SYS_IOCTL: "ioctl", unix.SYS_FCNTL: "fcntl",
	unix.SYS_MMAP: "mmap", unix.SYS_MPROTECT: "mprotect", unix.SYS_MREMAP: "mremap", unix.SYS_MEMFD_CREATE: "memfd_create",
	unix.SYS_PRCTL: "prctl", unix.SYS_SECCOMP: "seccomp", unix.SYS_UNSHARE: "unshare", unix.SYS_SETNS: "setns",
	unix.SYS_MOUNT: "mount", unix.SYS_CHROOT: "chroot", unix.SYS_SETUID: "setuid", unix.SYS_CAPSET: "capset",
	unix.SYS_UNLINKAT: "unlinkat", unix.SYS_RENAMEAT2: "renameat2", unix.SYS_GETDENTS64: "getdents64",
	unix.SYS_READLINKAT: "readlinkat", unix.SYS_FACCESSAT: "faccessat", unix.SYS_STATX: "statx", unix.SYS_GETCWD: "getcwd",
	unix.SYS_INIT_MODULE: "init_module", unix.SYS_FINIT_MODULE: "finit_module",
}

// A Listener hears of the calls that a confined process tries and may not make. It must
// be watched: the calls wait for it.
type Listener struct {
	file   *os.File
	closed atomic.Bool
}

// NewListener takes over the descriptor that [Apply] returned in the confined process.
func NewListener(fd int) (*Listener, error) {
	// So that the runtime waits for it, and Close ends the waiting.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("confine: %w", os.NewSyscallError("fcntl", err))
	}
	return &Listener{file: os.NewFile(uintptr(fd), "confined")}, nil
}

// FD returns a duplicate of the descriptor, for who holds it after us.
func (l *Listener) FD() (int, error) {
	conn, err := l.file.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("confine: %w", err)
	}
	fd := -1
	var failed error
	err = conn.Control(func(own uintptr) { fd, failed = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, failed); err != nil {
		return -1, fmt.Errorf("confine: %w", err)
	}
	return fd, nil
}

// Close ends the watching. Descriptors elsewhere stay good.
func (l *Listener) Close() error {
	l.closed.Store(true)
	return l.file.Close()
}

// Watch answers every call with EPERM and tells of it, until the confined process has
// ended or the listener is closed; then it returns nil. denied is called from Watch, at
// once for a call that has not been tried before, at most once a second for each one
// that has.
func (l *Listener) Watch(denied func(Denied)) error {
	conn, err := l.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	w := watch{denied: denied, last: map[int]time.Time{}, times: map[int]uint64{}}
	err = conn.Read(w.serve)
	if l.closed.Load() {
		return nil // what err is then is the runtime's secret
	}
	if err = errors.Join(err, w.err); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	return nil
}

type watch struct {
	denied func(Denied)
	last   map[int]time.Time
	times  map[int]uint64
	err    error
}

// serve answers what waits. It reports whether it is over.
func (w *watch) serve(fd uintptr) bool {
	for {
		polls := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(polls, 0); err != nil || n == 0 {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			w.err = os.NewSyscallError("poll", err)
			return w.err != nil
		}
		if polls[0].Revents&unix.POLLIN == 0 {
			return true // hung up: there is no process any more
		}
		if w.err = w.one(fd); w.err != nil {
			return true
		}
	}
}

// one receives a call and answers it. A thread that was killed meanwhile has taken its
// call back: that is no error.
func (w *watch) one(fd uintptr) error {
	var notif [notifBytes]byte
	if errno := control(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, &notif); errno != 0 {
		return unlessGone(errno)
	}
	d := Denied{
		Thread: int(binary.NativeEndian.Uint32(notif[notifThread:])),
		Call:   int(int32(binary.NativeEndian.Uint32(notif[notifData+offsetCall:]))),
	}
	for i := range d.Args {
		d.Args[i] = binary.NativeEndian.Uint64(notif[notifData+offsetArgs+8*i:])
	}
	var no [answerBytes]byte
	copy(no[:8], notif[:8]) // which call
	refusal := -int32(unix.EPERM)
	binary.NativeEndian.PutUint32(no[answerErrno:], uint32(refusal))
	errno := control(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, &no)
	w.tell(d)
	return unlessGone(errno)
}

func (w *watch) tell(d Denied) {
	w.times[d.Call]++
	if now := time.Now(); now.Sub(w.last[d.Call]) >= toldEvery { //nolint:forbidigo // it runs in the control plane
		d.Times, w.last[d.Call], w.times[d.Call] = w.times[d.Call], now, 0
		w.denied(d)
	}
}

func unlessGone(errno unix.Errno) error {
	if errno == 0 || errno == unix.ENOENT || errno == unix.EINTR {
		return nil
	}
	return os.NewSyscallError("ioctl", errno)
}

// control makes an ioctl with the structure that array points to.
func control(fd, request uintptr, array any) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, reflect.ValueOf(array).Pointer())
	runtime.KeepAlive(array)
	return errno
}
