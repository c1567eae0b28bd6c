package tracefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/topology"
)

func open(t *testing.T, c Config) *Instance {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for tracefs")
	}
	i, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	return i
}

func TestRootAnInstanceIsItsOwnAndLeavesNothing(t *testing.T) {
	c := Config{CPUs: topology.CPUs(0), Events: []string{"sched/sched_switch", "no/such_event"}}
	i := open(t, c)
	if len(i.Missing) != 1 || i.Missing[0] != "no/such_event" {
		t.Errorf("missing: %v", i.Missing)
	}
	for name, want := range map[string]string{"tracing_on": "0", "tracing_cpumask": "1", "events/sched/sched_switch/enable": "1"} {
		text, err := os.ReadFile(i.Path(name))
		if got := strings.TrimLeft(strings.TrimSpace(string(text)), "0,"); err != nil || got != strings.TrimLeft(want, "0") {
			t.Errorf("%s is %q, %v", name, text, err)
		}
	}
	// Nobody can take it away.
	if err := unix.Rmdir(i.dir); !errors.Is(err, unix.EBUSY) {
		t.Errorf("an instance in use was removed, or not: %v", err)
	}
	// The mount, if it is ours, goes with the first; the second shows what is left.
	j := open(t, c)
	dir := filepath.Join(filepath.Dir(j.dir), filepath.Base(i.dir))
	if err := errors.Join(i.Close(), i.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
}

func TestRootWhatAKilledProcessLeftIsSwept(t *testing.T) {
	i := open(t, Config{CPUs: topology.CPUs(0), Events: []string{"sched/sched_switch"}})
	gone := exec.CommandContext(t.Context(), "true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(filepath.Dir(i.dir), fmt.Sprintf("%s%d-1", prefix, gone.Process.Pid))
	mine := filepath.Join(filepath.Dir(i.dir), fmt.Sprintf("%s%d-2", prefix, os.Getpid()))
	for _, dir := range []string{left, mine} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		defer unix.Rmdir(dir)
	}
	open(t, Config{CPUs: topology.CPUs(0), Events: []string{"sched/sched_switch"}})
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", left, err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("that of a process that lives is gone: %v", err)
	}
}

func TestWhatCannotBeTracedIsSaid(t *testing.T) {
	if _, err := Open(Config{Events: []string{"irq"}}); err == nil {
		t.Error("no CPUs were traced")
	}
	_, err := Open(Config{Root: t.TempDir(), CPUs: topology.CPUs(0), Events: []string{"irq"}})
	if !errors.Is(err, ErrNoTracing) {
		t.Errorf("a directory that is no tracefs: %v", err)
	}
	if os.Geteuid() == 0 {
		open(t, Config{CPUs: topology.CPUs(0), Events: []string{"irq"}})
		if _, err := Open(Config{CPUs: topology.CPUs(0), Events: []string{"no/such"}}); err == nil {
			t.Error("a trace of nothing was opened")
		}
	}
}
