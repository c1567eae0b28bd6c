package run

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/handover"
)

// a manager does for an appliance what a service manager does: it listens for the data
// plane and starts that again however it ends, hears what both say, and keeps descriptors
// of control.
type manager struct {
	t      *testing.T
	path   string // of the data plane's socket
	notify string
	door   *os.File
	hears  *net.UnixConn
	log    *tail

	mu    sync.Mutex
	kept  map[string]*os.File
	heard map[string]int // first lines and watchdogs
	data  *exec.Cmd
	over  bool
	ended sync.WaitGroup
}

// manage makes a's next starts those of a unit.
func manage(t *testing.T, a *appliance) *manager {
	t.Helper()
	dir := t.TempDir()
	m := &manager{t: t, path: filepath.Join(dir, "data"), notify: filepath.Join(dir, "notify"), log: &tail{}, kept: map[string]*os.File{}, heard: map[string]int{}}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.door = os.NewFile(uintptr(fd), "door")
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: m.path}), unix.Listen(fd, 16)); err != nil {
		t.Fatal(err)
	}
	if m.hears, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.notify, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	m.ended.Go(m.listen)
	m.ended.Go(m.tend)
	t.Cleanup(m.end)
	a.args = append(a.args, "--data-socket", m.path)
	a.managed = func(c *exec.Cmd) { m.dress(c, m.control) }
	return m
}

// control are the names and descriptors of control.
func (m *manager) control() (names []string, files []*os.File) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, f := range m.kept { // in no order
		names, files = append(names, name), append(files, f)
	}
	return names, files
}

// dress gives a program the environment of a unit.
func (m *manager) dress(c *exec.Cmd, passed func() ([]string, []*os.File)) {
	names, files := passed()
	c.ExtraFiles = files
	if c.Env == nil {
		c.Env = os.Environ()
	}
	c.Env = append(c.Env, "NOTIFY_SOCKET="+m.notify, "WATCHDOG_USEC=2000000", "FDSTORE=4096",
		fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	// The number is known once the program runs.
	c.Args = append([]string{"sh", "-c", `export LISTEN_PID=$$; exec "$0" "$@"`, c.Path}, c.Args[1:]...)
	c.Path = "/bin/sh"
}

// tend starts data planes.
func (m *manager) tend() {
	path, err := binary()
	if err != nil {
		m.t.Error(err)
		return
	}
	for {
		c := exec.Command(path, dataCommand, "--listen-fd", "control")
		c.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
		c.Stderr = m.log
		m.dress(c, func() ([]string, []*os.File) { return []string{"control"}, []*os.File{m.door} })
		m.mu.Lock()
		if m.over {
			m.mu.Unlock()
			return
		}
		err := c.Start()
		m.data = c
		m.mu.Unlock()
		if err != nil {
			m.t.Error(err)
			return
		}
		_ = c.Wait()
	}
}

// listen hears what is said.
func (m *manager) listen() {
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*253))
	for {
		n, oobn, _, _, err := m.hears.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		var files []*os.File
		if parts, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(parts) > 0 {
			fds, _ := unix.ParseUnixRights(&parts[0])
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				files = append(files, os.NewFile(uintptr(fd), "kept"))
			}
		}
		m.hear(string(b[:n]), files)
	}
}

func (m *manager) hear(text string, files []*os.File) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first, _, _ := strings.Cut(text, "\n")
	m.heard[first]++
	_, name, _ := strings.Cut(text, "FDNAME=")
	switch first {
	case "FDSTORE=1":
		m.kept[name] = files[0]
		files = files[1:]
	case "FDSTOREREMOVE=1":
		if f := m.kept[name]; f != nil {
			files = append(files, f)
			delete(m.kept, name)
		}
	}
	for _, f := range files {
		f.Close()
	}
}

// pid is the data plane's.
func (m *manager) pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.data.Process.Pid
}

func (m *manager) strike(s syscall.Signal) {
	m.t.Helper()
	if err := syscall.Kill(m.pid(), s); err != nil {
		m.t.Fatal(err)
	}
}

// said is how often something was.
func (m *manager) said(first string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard[first]
}

// keeps is how many descriptors are kept.
func (m *manager) keeps() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.kept)
}

func (m *manager) end() {
	m.mu.Lock()
	m.over = true
	if m.data != nil && m.data.Process != nil {
		_ = m.data.Process.Kill()
	}
	m.mu.Unlock()
	m.hears.Close()
	m.ended.Wait()
	m.door.Close()
	for _, f := range m.kept {
		f.Close()
	}
	if text := m.log.String(); m.t.Failed() || bytes.Contains([]byte(text), []byte("panic")) {
		m.t.Logf("the data planes said:\n%s", text)
	}
}

// Each of the two as a unit of its own, ended in every way, alone and together.
func TestRootUnitsComeAndGoUnderLoad(t *testing.T) {
	var m *manager
	goesOn, tookOver := 0, 0
	revived := func(a *appliance) {
		t.Helper()
		goesOn++
		a.awaitCount("goes on where it was", goesOn)
	}
	again := func(a *appliance, s syscall.Signal) {
		t.Helper()
		_ = a.cmd.Process.Signal(s)
		if code := a.exit(); code != 0 && s != syscall.SIGKILL {
			t.Fatalf("after %v: exit code %d", s, code)
		}
		a.launch()
	}
	strikes := []struct {
		name string
		do   func(a *appliance)
	}{
		{"the data plane is killed", func(a *appliance) {
			for range 5 {
				m.strike(syscall.SIGKILL)
				revived(a)
			}
		}},
		{"the data plane is restarted", func(a *appliance) {
			for range 3 {
				m.strike(syscall.SIGTERM)
				revived(a)
			}
		}},
		{"control is restarted", func(a *appliance) {
			again(a, syscall.SIGUSR2)
			tookOver++
			a.awaitCount("took over the running data plane", tookOver)
		}},
		{"control is killed", func(a *appliance) {
			again(a, syscall.SIGKILL)
			tookOver++
			a.awaitCount("took over the running data plane", tookOver)
		}},
		{"both are restarted", func(a *appliance) {
			_ = a.cmd.Process.Signal(syscall.SIGUSR2)
			a.exit()
			m.strike(syscall.SIGTERM)
			a.launch()
			revived(a)
			tookOver++
			a.awaitCount("took over the running data plane", tookOver)
		}},
		{"both are killed", func(a *appliance) {
			_ = a.cmd.Process.Kill()
			m.strike(syscall.SIGKILL)
			a.exit()
			a.launch()
			revived(a)
			tookOver++
			a.awaitCount("took over the running data plane", tookOver)
		}},
		{"an upgrade", func(a *appliance) {
			t.Log(a.asks("upgrade", "--anyway"))
			goesOn++
		}},
		{"the number of workers changes", func(a *appliance) {
			t.Log(a.asks("workers", "3"))
			t.Log(a.asks("workers", "2"))
		}},
	}
	for i, s := range strikes {
		if i%2 == 1 && !long { // the others are much the same
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			managed := func(a *appliance) { m, goesOn, tookOver = manage(t, a), 0, 0 }
			trial{workers: 2, config: moreDeep, prepare: managed}.undisturbed(t, func(a *appliance) {
				begin := time.Now()
				s.do(a)
				t.Logf("within %v; %d descriptors kept", time.Since(begin), m.keeps())
				for end := time.Now().Add(5 * time.Second); m.keeps() == 0; time.Sleep(10 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("nothing is kept while it runs")
					}
				}
			})
			if m.keeps() != 0 {
				t.Errorf("%d descriptors are kept after a stop that finished everything", m.keeps())
			}
			if m.said("READY=1") < 2 || m.said("WATCHDOG=1") == 0 {
				t.Errorf("the manager has heard %v", m.heard)
			}
		})
	}
}

// A control that goes before it has sent a start is none: the next one is waited for.
func TestAUnitWaitsForOneControlAfterTheOther(t *testing.T) {
	m := manage(t, &appliance{})
	for range 3 {
		c, err := handover.Reach(m.path)
		if err != nil {
			t.Fatal(err)
		}
		var fresh handover.FreshBody
		if err := c.Limit(15 * time.Second); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Expect(handover.Fresh, &fresh); err != nil || fresh.Version != handover.Version || fresh.PID != m.pid() {
			t.Errorf("it says %+v, %v; it is %d", fresh, err, m.pid())
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.said("READY=1"); n != 1 {
		t.Errorf("%d processes", n)
	}
}

func TestAUnitWithoutItsSocketSaysWhatIsMissing(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--listen-fd", "control"}, {"--listen-fd", "control", "3"}, {}} {
		out, err := exec.CommandContext(t.Context(), path, append([]string{dataCommand}, args...)...).CombinedOutput()
		want := "started by"
		if len(args) == 2 {
			want = "FileDescriptorName="
		}
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%q: %v, %s", args, err, out)
		}
	}
}
