package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const childEnv = "HEADRACE_NOTIFY_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		inheritor()
	}
	os.Exit(m.Run())
}

// inheritor says what it was passed: each descriptor's name and contents.
func inheritor() {
	// A manager knows the number of its child; the test does not before it has started.
	os.Setenv("LISTEN_PID", strings.Replace(os.Getenv("LISTEN_PID"), "own", strconv.Itoa(os.Getpid()), 1))
	list, err := Inherited()
	said := struct {
		Got   [][2]string
		Error string
	}{}
	for _, d := range list {
		b := make([]byte, 16)
		n, _ := unix.Pread(d.FD, b, 0)
		flags, _ := unix.FcntlInt(uintptr(d.FD), unix.F_GETFD, 0)
		said.Got = append(said.Got, [2]string{d.Name, fmt.Sprintf("%s %d", b[:n], flags)})
	}
	if err != nil {
		said.Error = err.Error()
	}
	if again, err := Inherited(); len(again) > 0 || err != nil || os.Getenv("LISTEN_FDS") != "" {
		said.Error = "it came twice"
	}
	_ = json.NewEncoder(os.Stdout).Encode(said)
	os.Exit(0)
}

// A manager is the other end of a notify socket.
type manager struct {
	t  *testing.T
	fd int
}

func newManager(t *testing.T, address string) *manager {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: address}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", address)
	return &manager{t, fd}
}

// hear returns the next message and its descriptors.
func (m *manager) hear() (string, []int) {
	m.t.Helper()
	text, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*batch))
	n, oobn, _, _, err := unix.Recvmsg(m.fd, text, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		m.t.Fatal("nothing was said: ", err)
	}
	var fds []int
	if oobn > 0 {
		parts, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			m.t.Fatal(err)
		}
		if fds, err = unix.ParseUnixRights(&parts[0]); err != nil {
			m.t.Fatal(err)
		}
	}
	return string(text[:n]), fds
}

func (m *manager) silent() {
	m.t.Helper()
	if n, _, err := unix.Recvfrom(m.fd, make([]byte, 256), unix.MSG_DONTWAIT); !errors.Is(err, unix.EAGAIN) {
		m.t.Errorf("%d bytes were said, %v", n, err)
	}
}

func addresses(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": fmt.Sprintf("@headrace-test-%d", os.Getpid()),
	}
}

func open(t *testing.T) *Socket {
	t.Helper()
	s, err := Open()
	if err != nil || s == nil {
		t.Fatalf("Open = %v, %v", s, err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestWhatIsSaidIsWhatTheProtocolSays(t *testing.T) {
	for name, address := range addresses(t) {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, address)
			s := open(t)
			for _, c := range []struct {
				say  func() error
				want string
			}{
				{func() error { return s.Ready("3 workers") }, "READY=1\nSTATUS=3 workers"},
				{func() error { return s.Status("two\nlines") }, "STATUS=two lines"},
				{func() error { return s.Stopping("drains") }, "STOPPING=1\nSTATUS=drains"},
				{s.Watchdog, "WATCHDOG=1"},
				{func() error { return s.Forget("xsk-0") }, "FDSTOREREMOVE=1\nFDNAME=xsk-0"},
			} {
				if err := c.say(); err != nil {
					t.Fatal(err)
				}
				if got, fds := m.hear(); got != c.want || len(fds) > 0 {
					t.Errorf("said %q with %d descriptors, want %q", got, len(fds), c.want)
				}
			}
			m.silent()
		})
	}
}

func TestAReloadIsStampedWithTheClockOfTheManager(t *testing.T) {
	m := newManager(t, addresses(t)["path"])
	s := open(t)
	var before, after unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &before)
	if err := s.Reloading(); err != nil {
		t.Fatal(err)
	}
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &after)
	text, _ := m.hear()
	var usec int64
	if n, _ := fmt.Sscanf(text, "RELOADING=1\nMONOTONIC_USEC=%d", &usec); n != 1 || usec < before.Nano()/1000 || usec > after.Nano()/1000 {
		t.Errorf("said %q between %d and %d", text, before.Nano()/1000, after.Nano()/1000)
	}
}

// memory returns a descriptor with contents of its own.
func memory(t *testing.T, contents string) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Pwrite(fd, []byte(contents), 0); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestManyDescriptorsGoInSeveralMessagesInTheirOrder(t *testing.T) {
	m := newManager(t, addresses(t)["path"])
	s := open(t)
	const count = 2*batch + 1
	var fds []int
	for i := range count {
		fds = append(fds, memory(t, strconv.Itoa(i)))
	}
	if err := s.Keep("memory", fds...); err != nil {
		t.Fatal(err)
	}
	next := 0
	for _, want := range []int{batch, batch, 1} {
		text, got := m.hear()
		if text != "FDSTORE=1\nFDPOLL=0\nFDNAME=memory" || len(got) != want {
			t.Errorf("said %q with %d descriptors, want %d", text, len(got), want)
		}
		for _, fd := range got {
			b := make([]byte, 8)
			n, _ := unix.Pread(fd, b, 0)
			if string(b[:n]) != strconv.Itoa(next) {
				t.Fatalf("descriptor %d is that of %q", next, b[:n])
			}
			next++
			unix.Close(fd)
		}
	}
	m.silent()
}

func TestWhatCannotBeKeptIsRefused(t *testing.T) {
	m := newManager(t, addresses(t)["path"])
	t.Setenv("FDSTORE", "3")
	s := open(t)
	fd := memory(t, "")
	for _, name := range []string{"", "a:b", "a\nFDSTOREREMOVE=1", "a b", "ä", strings.Repeat("x", nameMax+1)} {
		if err := s.Keep(name, fd); !errors.Is(err, ErrName) {
			t.Errorf("Keep(%q) = %v", name, err)
		}
		if err := s.Forget(name); !errors.Is(err, ErrName) {
			t.Errorf("Forget(%q) = %v", name, err)
		}
	}
	if err := s.Keep("x", fd, fd, fd, fd); !errors.Is(err, ErrStore) || s.Room() != 3 {
		t.Errorf("Keep = %v, Room = %d", err, s.Room())
	}
	m.silent()
}

func TestTheBarrierWaitsForTheManager(t *testing.T) {
	m := newManager(t, addresses(t)["path"])
	s := open(t)
	if err := s.Barrier(10 * time.Millisecond); !errors.Is(err, ErrBarrier) {
		t.Errorf("Barrier = %v although nobody listened", err)
	}
	m.hear()
	done := make(chan error)
	go func() { done <- s.Barrier(10 * time.Second) }()
	polls := []unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLIN}}
	for n := 0; n == 0; {
		n, _ = unix.Poll(polls, 1000)
	}
	text, fds := m.hear()
	if text != "BARRIER=1" || len(fds) != 1 {
		t.Fatalf("said %q with %d descriptors", text, len(fds))
	}
	select {
	case err := <-done:
		t.Fatal("the barrier did not wait: ", err)
	case <-time.After(20 * time.Millisecond):
	}
	unix.Close(fds[0])
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWithoutAManagerNothingIsSaidAndNothingFails(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	s, err := Open()
	if s != nil || err != nil {
		t.Fatalf("Open = %v, %v", s, err)
	}
	p := NewPulse(s, time.Second, 1)
	if err := errors.Join(
		s.Ready(""), s.Status(""), s.Stopping(""), s.Reloading(), s.Watchdog(), s.Keep("x", 0), s.Forget("x"),
		s.Barrier(0), s.Close(), p.Look(1, []uint64{1}),
	); err != nil || s.Room() != -1 {
		t.Errorf("%v, room %d", err, s.Room())
	}
	for _, bad := range []string{"relative", "@", "vsock:2:1234"} {
		t.Setenv("NOTIFY_SOCKET", bad)
		if _, err := Open(); !errors.Is(err, ErrAddress) {
			t.Errorf("NOTIFY_SOCKET=%s: %v", bad, err)
		}
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if _, err := Open(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a socket that is not there: %v", err)
	}
}

func TestDescriptorsAreInheritedByName(t *testing.T) {
	files := func(contents ...string) (list []*os.File) {
		for _, c := range contents {
			fd, _ := unix.Dup(memory(t, c))
			list = append(list, os.NewFile(uintptr(fd), c))
		}
		return list
	}
	for _, c := range []struct {
		name  string
		env   []string
		files []*os.File
		got   [][2]string
		says  string
	}{
		{"two kept ones", []string{"LISTEN_PID=own", "LISTEN_FDS=2", "LISTEN_FDNAMES=xsk:memory"}, files("a", "b"), [][2]string{{"xsk", "a 1"}, {"memory", "b 1"}}, ""},
		{"one without a name", []string{"LISTEN_PID=own", "LISTEN_FDS=1"}, files("a"), [][2]string{{"unknown", "a 1"}}, ""},
		{"none", nil, nil, nil, ""},
		{"those of a parent", []string{"LISTEN_PID=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=x"}, files("a"), nil, ""},
		{"fewer names than descriptors", []string{"LISTEN_PID=own", "LISTEN_FDS=2", "LISTEN_FDNAMES=xsk"}, files("a", "b"), nil, ErrEnvironment.Error()},
		{"more than there are", []string{"LISTEN_PID=own", "LISTEN_FDS=1000", "LISTEN_FDNAMES="}, files("a"), nil, ErrEnvironment.Error()},
		{"no number", []string{"LISTEN_PID=own", "LISTEN_FDS=many"}, nil, nil, ErrEnvironment.Error()},
		{"a negative number", []string{"LISTEN_PID=own", "LISTEN_FDS=-1"}, nil, nil, ErrEnvironment.Error()},
	} {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(append(os.Environ(), childEnv+"=1"), c.env...)
		child.ExtraFiles = c.files
		out, err := child.Output()
		if err != nil {
			t.Fatal(err)
		}
		var said struct {
			Got   [][2]string
			Error string
		}
		if err := json.Unmarshal(out, &said); err != nil {
			t.Fatal(err, string(out))
		}
		if (said.Error != "") != (c.says != "") || !strings.Contains(said.Error, c.says) || c.says == "" && !slices.Equal(said.Got, c.got) {
			t.Errorf("%s: %q, %s", c.name, said.Got, said.Error)
		}
	}
}

func TestTheWatchdogsTimeIsForThisProcessOnly(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
		bad       bool
	}{
		{"", "", 0, false},
		{"2500000", "", 2500 * time.Millisecond, false},
		{"2500000", own, 2500 * time.Millisecond, false},
		{"2500000", "1", 0, false},
		{"0", own, 0, true},
		{"-5", own, 0, true},
		{"soon", own, 0, true},
		{"99999999999999999999", own, 0, true},
	} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		if got, err := WatchdogEvery(); got != c.want || errors.Is(err, ErrEnvironment) != c.bad {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: %v, %v", c.usec, c.pid, got, err)
		}
	}
}

func TestThePulseStopsWithTheFirstPartThatDoes(t *testing.T) {
	m := newManager(t, addresses(t)["path"])
	p := NewPulse(open(t), 4*time.Second, 2)
	at := func(now time.Duration, want bool, counts ...uint64) {
		t.Helper()
		if err := p.Look(now, counts); err != nil {
			t.Fatal(err)
		}
		if !want {
			m.silent()
		} else if text, _ := m.hear(); text != "WATCHDOG=1" {
			t.Errorf("said %q", text)
		}
	}
	at(100*time.Second, true, 0, 0) // the first time
	at(100*time.Second+999*time.Millisecond, false, 5, 5)
	at(101*time.Second, true, 5, 5)
	at(102*time.Second, false, 6, 5) // the second one hangs
	at(105*time.Second, false, 9000, 5)
	at(106*time.Second, true, 9000, 6)
	if err := unix.SetNonblock(m.fd, true); err != nil {
		t.Fatal(err)
	}
	var room [64]byte
	counts := []uint64{1, 1}
	if n := testing.AllocsPerRun(100, func() {
		p.next = 0
		_ = p.Look(time.Hour, counts)
		_, _ = unix.Read(m.fd, room[:]) // makes room in the socket
	}); n != 0 {
		t.Errorf("a look allocates %v times", n)
	}
}
