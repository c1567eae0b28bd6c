package systemd

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/confine"
	"github.com/headrace/headrace/systemd/notify"
)

// standInEnv makes this test binary the process of a unit, to try what the unit and the
// protocols do by themselves: with programs whose state can be asked for.
const standInEnv = "HEADRACE_STANDIN"

const (
	keptName  = "memory"
	keptCount = 300 // more than one message carries
	endedFile = "/var/lib/headrace/ended"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func begin() (*notify.Socket, []notify.Descriptor, *notify.Pulse) {
	s, err := notify.Open()
	must(err)
	list, err := notify.Inherited()
	must(err)
	every, err := notify.WatchdogEvery()
	must(err)
	return s, list, notify.NewPulse(s, every, 1)
}

// standInControl keeps memory with the manager, and says which signal ended it.
func standInControl() {
	s, list, pulse := begin()
	good := 0
	for _, d := range list {
		b := make([]byte, 4)
		if n, err := unix.Pread(d.FD, b, 0); err == nil && d.Name == keptName && string(b[:n]) == "kept" {
			good++
		}
	}
	if len(list) == 0 {
		var fds []int
		for range keptCount {
			fd, err := unix.MemfdCreate("kept", unix.MFD_CLOEXEC)
			must(err)
			_, err = unix.Pwrite(fd, []byte("kept"), 0)
			must(err)
			fds = append(fds, fd)
		}
		must(s.Keep(keptName, fds...))
		must(s.Barrier(10 * time.Second))
	}
	must(s.Ready(fmt.Sprintf("inherited %d", good)))
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGUSR2, unix.SIGHUP)
	for beat := uint64(1); ; beat++ {
		select {
		case got := <-signals:
			if got == unix.SIGHUP {
				must(s.Reloading())
				must(s.Ready("reloaded"))
				continue
			}
			must(os.WriteFile(endedFile, []byte(got.String()), 0o600))
			return
		case <-time.After(50 * time.Millisecond):
			must(pulse.Look(time.Duration(beat)*50*time.Millisecond, []uint64{beat}))
		}
	}
}

// standInData waits confined for words on its socket: what to try, or to hang.
func standInData() {
	runtime.GOMAXPROCS(2)
	s, list, pulse := begin()
	if len(list) != 1 || list[0].Name != "control" {
		must(fmt.Errorf("inherited %+v", list))
	}
	_, err := confine.Apply(confine.Options{Silent: true})
	must(err)
	must(s.Ready("waiting for control"))
	hangs := false
	var beat uint64
	for now := time.Duration(1); ; now += 50 * time.Millisecond {
		polls := []unix.PollFd{{Fd: int32(list[0].FD), Events: unix.POLLIN}}
		if n, _ := unix.Poll(polls, 50); n > 0 {
			fd, _, err := unix.Accept4(list[0].FD, unix.SOCK_CLOEXEC)
			must(err)
			word := make([]byte, 16)
			n, _ := unix.Read(fd, word)
			said := "fine"
			switch string(word[:n]) {
			case "open":
				_, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0)
				said = fmt.Sprint(err)
			case "hang":
				hangs = true
			}
			_, _ = unix.Write(fd, []byte(said))
			_ = unix.Close(fd)
		}
		if !hangs {
			beat++
		}
		must(pulse.Look(now, []uint64{beat}))
	}
}
