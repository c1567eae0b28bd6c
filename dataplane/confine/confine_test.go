package confine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv says what a child of this test binary is to do.
const childEnv = "HEADRACE_CONFINE_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "tries":
		child(Options{}, tries)
	case "silent":
		child(Options{Silent: true}, tries)
	case "works":
		child(Options{}, works)
	case "panics":
		child(Options{}, func() {
			go panic("as planned")
			select {}
		})
	case "loops":
		child(Options{}, func() {
			for range 20_000 {
				_, _, _ = unix.Syscall(unix.SYS_GETPPID, 0, 0, 0)
			}
		})
	}
}

// parent is the descriptor of the socket to the test.
const parent = 3

func child(o Options, do func()) {
	// Unless it is set, the runtime looks at cgroups and affinity now and then.
	runtime.GOMAXPROCS(3)
	listener, err := Apply(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	if !o.Silent {
		if err := unix.Sendmsg(parent, []byte{1}, unix.UnixRights(listener), nil, 0); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
	}
	do()
	os.Exit(0)
}

// page is memory that something could be made of.
var page, _ = unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)

// forbidden are calls that a data plane has no use for, by the names that are told.
func forbidden() map[string]func() error {
	raw := func(call uintptr, args ...uintptr) func() error {
		args = append(args, make([]uintptr, 6)...)
		return func() error {
			if _, _, errno := unix.Syscall6(call, args[0], args[1], args[2], args[3], args[4], args[5]); errno != 0 {
				return errno
			}
			return nil
		}
	}
	all := map[string]func() error{
		"openat":  func() error { _, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0); return err },
		"openat2": func() error { _, err := unix.Openat2(unix.AT_FDCWD, "/etc/passwd", &unix.OpenHow{}); return err },
		"socket":  func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err },
		"connect": func() error { return unix.Connect(parent, &unix.SockaddrUnix{Name: "/run/x"}) },
		// The runtime has its own ideas of an exec that fails.
		"execve":                   raw(unix.SYS_EXECVE),
		"ptrace":                   raw(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1),
		"process_vm_readv":         raw(unix.SYS_PROCESS_VM_READV, 1),
		"bpf":                      raw(unix.SYS_BPF),
		"mprotect":                 func() error { return unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC) },
		"mmap":                     raw(unix.SYS_MMAP, 0, 4096, unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE),
		"kill":                     func() error { return unix.Kill(1, 0) },
		"tgkill":                   func() error { return unix.Tgkill(1, 1, 0) },
		"clone":                    raw(unix.SYS_CLONE, uintptr(unix.SIGCHLD)),
		"unshare":                  func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"prctl":                    func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
		"setsockopt":               func() error { return unix.SetsockoptInt(parent, unix.SOL_SOCKET, unix.SO_MARK, 1) },
		"getsockopt":               func() error { _, err := unix.GetsockoptInt(parent, unix.SOL_SOCKET, unix.SO_TYPE); return err },
		"sendto":                   func() error { return unix.Sendto(parent, []byte{1}, 0, &unix.SockaddrUnix{Name: "/run/x"}) },
		"ioctl":                    func() error { _, err := unix.IoctlGetInt(0, unix.TIOCOUTQ); return err },
		"io_uring_setup":           raw(unix.SYS_IO_URING_SETUP, 1),
		"seccomp":                  raw(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_STRICT),
		"memfd_create":             func() error { _, err := unix.MemfdCreate("x", 0); return err },
		"unlinkat":                 func() error { return unix.Unlinkat(unix.AT_FDCWD, "/nowhere", 0) },
		"statx":                    func() error { return unix.Statx(unix.AT_FDCWD, "/", 0, 0, &unix.Statx_t{}) },
		"system call 5000":         raw(5000),
		numbered(x32):              raw(x32), // read by another number
		numbered(unix.SYS_GETPPID): raw(unix.SYS_GETPPID),
	}
	for call, name := range olderCalls {
		all[name] = raw(uintptr(call))
	}
	return all
}

func numbered(call int) string { return fmt.Sprintf("system call %d", call) }

// tries tries everything, each on a thread of its own, half of which were there before
// the filter, and says what came of it.
func tries() {
	results := map[string]string{}
	for name, try := range forbidden() {
		done := make(chan error)
		threads <- func() { done <- try() }
		err := <-done
		results[name] = "done"
		if errno := unix.Errno(0); errors.As(err, &errno) {
			results[name] = unix.ErrnoName(errno)
		}
	}
	text, _ := json.Marshal(results)
	os.Stdout.Write(text)
}

// threads run what they get; they are older than the filter.
var threads = make(chan func())

func init() { //nolint:gochecknoinits // before TestMain, to be threads before the filter
	if os.Getenv(childEnv) == "" {
		return
	}
	for range 4 {
		go func() {
			runtime.LockOSThread()
			for f := range threads {
				f()
			}
		}()
	}
}

// works does what a data plane does all the time.
func works() {
	var wait sync.WaitGroup
	for range 32 { // more threads than there were
		wait.Go(func() {
			runtime.LockOSThread()
			_ = unix.SchedSetaffinity(0, &unix.CPUSet{1})
			_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 1)
			_ = make([]byte, 1<<20)
			time.Sleep(time.Millisecond)
		})
	}
	wait.Wait()
	for range 3 {
		runtime.GC()
	}
	timer := time.NewTimer(10 * time.Millisecond)
	<-timer.C
	for begin := time.Now(); time.Since(begin) < 50*time.Millisecond; { // preempted by signals
	}
	mem, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil {
		err = unix.Munmap(mem)
	}
	polls := []unix.PollFd{{Fd: parent, Events: unix.POLLOUT}}
	_, perr := unix.Poll(polls, 1)
	tv := unix.NsecToTimeval(int64(time.Second))
	serr := unix.SetsockoptTimeval(parent, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	_, cerr := unix.GetsockoptUcred(parent, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err := errors.Join(err, perr, serr, cerr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(4)
	}
	fmt.Print("fine")
}

// confined runs a child and watches it. It returns what the child wrote, what was told,
// and how the child ended.
func confined(t *testing.T, mode string) (stdout, stderr string, told []Denied, ended error) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	end := os.NewFile(uintptr(fds[1]), "parent")
	var out, complaints bytes.Buffer
	c := exec.CommandContext(t.Context(), os.Args[0])
	c.Env = append(os.Environ(), childEnv+"="+mode)
	c.ExtraFiles, c.Stdout, c.Stderr = []*os.File{end}, &out, &complaints
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	end.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(fds[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err == nil && n > 0 {
		parts, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(parts) != 1 {
			t.Fatal(err, len(parts))
		}
		got, err := unix.ParseUnixRights(&parts[0])
		if err != nil {
			t.Fatal(err)
		}
		l, err := NewListener(got[0])
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Watch(func(d Denied) { told = append(told, d) }); err != nil {
			t.Error(err)
		}
	}
	ended = c.Wait()
	return out.String(), complaints.String(), told, ended
}

func TestAForbiddenCallIsDeniedAndTold(t *testing.T) {
	stdout, stderr, told, err := confined(t, "tries")
	if err != nil {
		t.Fatal(err, stderr)
	}
	results := map[string]string{}
	if err := json.Unmarshal([]byte(stdout), &results); err != nil {
		t.Fatal(err, stdout)
	}
	names := map[string]uint64{}
	for _, d := range told {
		names[d.Name()] += d.Times
	}
	for name := range forbidden() {
		if results[name] != "EPERM" {
			t.Errorf("%s: %s, want EPERM", name, results[name])
		}
		if names[name] != 1 {
			t.Errorf("%s was told of %d times, want once", name, names[name])
		}
		delete(names, name)
	}
	if len(names) > 0 && !underRace {
		t.Errorf("told of what nobody tried: %v", names)
	}
}

// Without a listener the kernel refuses; where audit is on, its log has it.
func TestASilentFilterDeniesToo(t *testing.T) {
	stdout, stderr, _, err := confined(t, "silent")
	if err != nil {
		t.Fatal(err, stderr)
	}
	results := map[string]string{}
	if err := json.Unmarshal([]byte(stdout), &results); err != nil {
		t.Fatal(err, stdout)
	}
	for name := range forbidden() {
		if results[name] != "EPERM" {
			t.Errorf("%s: %s, want EPERM", name, results[name])
		}
	}
}

func TestWhatADataPlaneDoesIsAllowed(t *testing.T) {
	stdout, stderr, told, err := confined(t, "works")
	if err != nil || stdout != "fine" || len(told) > 0 && !underRace {
		t.Errorf("%v, %q, %s; told of %+v", err, stdout, stderr, told)
	}
}

// Its last words are what is looked for after a crash.
func TestAPanicIsStillTold(t *testing.T) {
	_, stderr, told, err := confined(t, "panics")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(stderr, "panic: as planned") || len(told) > 0 && !underRace {
		t.Errorf("%v, %s; told of %+v", err, stderr, told)
	}
}

func TestALoopOfForbiddenCallsFillsNoLog(t *testing.T) {
	begin := time.Now()
	_, stderr, told, err := confined(t, "loops")
	if err != nil {
		t.Fatal(err, stderr)
	}
	told = slices.DeleteFunc(told, func(d Denied) bool { return underRace && d.Call != unix.SYS_GETPPID })
	most := int(time.Since(begin)/toldEvery) + 1
	if len(told) == 0 || len(told) > most || told[0].Times != 1 || told[0].Call != unix.SYS_GETPPID {
		t.Errorf("told %d times, at most %d: %+v", len(told), most, told)
	}
}

// A listener that is closed ends the watching, though nothing has happened.
func TestCloseEndsTheWatching(t *testing.T) {
	a, b, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	l := &Listener{file: a}
	done := make(chan error)
	go func() { done <- l.Watch(func(Denied) {}) }()
	time.Sleep(10 * time.Millisecond)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Every call of the list is there once, or has a condition that tells its rules apart.
func TestNoRuleHidesAnother(t *testing.T) {
	var free []uintptr
	for _, r := range rules(7) {
		if slices.Contains(free, r.call) {
			t.Errorf("call %d is allowed without conditions already", r.call)
		}
		if len(r.conditions) == 0 {
			free = append(free, r.call)
		}
	}
	for _, never := range []uintptr{unix.SYS_OPENAT, unix.SYS_EXECVE, unix.SYS_SOCKET, unix.SYS_PTRACE, unix.SYS_BPF, unix.SYS_IOCTL} {
		if slices.ContainsFunc(rules(7), func(r rule) bool { return r.call == never }) {
			t.Errorf("call %d is in the list", never)
		}
	}
}
