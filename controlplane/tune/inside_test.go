package tune

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/internal/guest"
	"github.com/headrace/headrace/pinning/topology"
)

// TestGuestTune boots a machine of two nodes whose command line is that of
// latency-best, and runs the tests TestInside… there.
func TestGuestTune(t *testing.T) {
	guest.Test(t, guest.Suite{
		Config: guest.Config{
			Kernel: "linux-image-6.12-amd64", Sets: []string{"xdp"}, CPUs: 4, MemoryMB: 896, NUMA: true, QueuePairs: 4,
			// Tracing patches the kernel's code, which several threads of the emulator get wrong:
			// one of them runs into what another has half written.
			Accelerator: "tcg,thread=single",
			// A second card, eth1, whose driver has a table and a key.
			QEMU:    []string{"-netdev", "user,id=second", "-device", "virtio-net-pci,netdev=second,rss=on"},
			Append:  "isolcpus=managed_irq,2-3 nohz_full=2-3 rcu_nocbs=2-3 irqaffinity=0-1",
			Timeout: 12 * time.Minute,
		},
		Packages: []string{"."},
		Headrace: true,
		Setup:    "ip link set eth0 up",
		Run:      "^TestInside",
	})
}

// inside skips tests that change a whole machine where it is not theirs.
func inside(t *testing.T) {
	t.Helper()
	if !guest.Inside() {
		t.Skip("changes a machine: it runs in the guest of TestGuestTune")
	}
}

// state is everything that apply could change, read raw.
func state(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{
		"/proc/irq/default_smp_affinity", "/proc/irq/*/smp_affinity_list", "/proc/irq/*/smp_affinity",
		"/proc/sys/vm/stat_interval", "/proc/sys/kernel/numa_balancing", "/proc/sys/kernel/*watchdog*",
		"/proc/sys/kernel/timer_migration", "/proc/sys/net/core/bpf_jit_enable",
		"/sys/devices/virtual/workqueue/cpumask", "/sys/devices/virtual/workqueue/*/cpumask",
		"/sys/fs/cgroup/cgroup.subtree_control", "/sys/fs/cgroup/cpuset.cpus.*", "/sys/fs/cgroup/headrace.slice/*",
		"/sys/devices/system/node/node*/hugepages/*/nr_hugepages", "/sys/kernel/mm/transparent_hugepage/enabled",
		"/sys/devices/system/cpu/cpu*/power/pm_qos_resume_latency_us", "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
		"/sys/class/net/eth0/queues/*/?ps_cpus", "/sys/class/net/eth0/napi_defer_hard_irqs", "/sys/class/net/eth0/gro_flush_timeout",
		"/sys/class/net/eth0/threaded",
	} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			all[name] = string(b)
			if err != nil {
				all[name] = err.Error()
			}
		}
	}
	for _, option := range []string{"-l", "-g", "-k", "-c"} {
		out, err := exec.CommandContext(t.Context(), "ethtool", option, "eth0").CombinedOutput()
		all["ethtool "+option] = string(out)
		if err != nil && len(out) == 0 {
			t.Fatal(err)
		}
	}
	return all
}

// headrace runs the binary and returns what it printed.
func headrace(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), os.Getenv("HEADRACE_BINARY"), args...).CombinedOutput()
	return string(out), err
}

var wanted = []string{"--interface", "eth0", "--cpus", "2-3", "--profile", "latency-best"}

func apply(t *testing.T, more ...string) string {
	t.Helper()
	out, err := headrace(t, slices.Concat([]string{"tune", "apply"}, wanted, more)...)
	if err != nil {
		t.Errorf("apply: %v\n%s", err, out)
	}
	return out
}

func revert(t *testing.T) {
	t.Helper()
	if out, err := headrace(t, "tune", "revert"); err != nil {
		t.Errorf("revert: %v\n%s", err, out)
	}
}

func same(t *testing.T, before map[string]string) {
	t.Helper()
	if diff := cmp.Diff(before, state(t)); diff != "" {
		t.Errorf("not as before (-before +now):\n%s", diff)
	}
}

// spin keeps n shells busy until the returned function is called.
func spin(t *testing.T, n int) (pids []int, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all []*exec.Cmd
	for range n {
		c := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		all, pids = append(all, c), append(pids, c.Process.Pid)
	}
	return pids, func() {
		cancel()
		for _, c := range all {
			_ = c.Wait()
		}
	}
}

// ticks counts the local timer's interrupts of a CPU in some seconds.
func ticks(t *testing.T, cpu int) uint64 {
	t.Helper()
	count := func() uint64 {
		in, err := topology.ReadInterrupts(os.DirFS("/"))
		if err != nil {
			t.Fatal(err)
		}
		return in.Count("LOC", cpu)
	}
	before := count()
	time.Sleep(4 * time.Second)
	return count() - before
}

func TestInsideThePartitionHoldsAndTicksDrop(t *testing.T) {
	inside(t)
	before := state(t)
	_, stop := spin(t, 8) // two for each CPU: the tick is needed everywhere
	defer stop()
	time.Sleep(time.Second)
	crowded := ticks(t, 2)

	t.Log(apply(t))
	const slice = "/sys/fs/cgroup/headrace.slice/"
	if b, err := os.ReadFile(slice + "cpuset.cpus.partition"); err != nil || string(b) != "isolated\n" {
		t.Errorf("the partition is %q, %v", b, err)
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/cpuset.cpus.effective"); err != nil || string(b) != "0-1\n" {
		t.Errorf("the others have %q, %v", b, err)
	}
	worker, quit := spin(t, 1)
	if err := os.WriteFile(slice+"cgroup.procs", []byte(strconv.Itoa(worker[0])), 0); err != nil {
		t.Fatal(err)
	}
	var set unix.CPUSet
	set.Set(2)
	if err := unix.SchedSetaffinity(worker[0], &set); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	alone := ticks(t, 2)
	t.Logf("ticks in 4 s: %d among others, %d in the partition", crowded, alone)
	if crowded < 30 || alone > crowded/3 {
		t.Errorf("ticks of CPU 2 in 4 s: %d before, %d after", crowded, alone)
	}
	out, err := headrace(t, "tune", "verify", "--for", "2s")
	t.Log(out)
	if err != nil {
		t.Errorf("verify: %v", err)
	}
	if strings.Contains(out, "not watched") || strings.Contains(out, "task: sh") {
		t.Error("the cores were not watched, or a task came to one")
	}
	quit()
	stop()
	if out, err := headrace(t, slices.Concat([]string{"tune", "apply"}, wanted)...); err != nil || !strings.Contains(out, "# 0 settings changed") {
		t.Errorf("apply after apply: %v\n%s", err, out)
	}
	revert(t)
	same(t, before)
}

func TestInsideKilledWhileApplying(t *testing.T) {
	inside(t)
	before := state(t)
	began := time.Now()
	apply(t)
	whole := time.Since(began) // an emulated machine is as slow as its host is busy
	revert(t)
	changed := 0
	for i := range 7 {
		ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(i+1)/8)
		c := exec.CommandContext(ctx, os.Getenv("HEADRACE_BINARY"), slices.Concat([]string{"tune", "apply"}, wanted)...)
		err := c.Run() // the context's end is SIGKILL
		cancel()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		now := state(t)
		if !maps.Equal(before, now) && err != nil {
			changed++
		}
		revert(t)
		same(t, before)
	}
	if changed == 0 {
		t.Error("it was never killed between its first step and its last")
	}
	t.Logf("killed %d times amid its steps", changed)
}

func TestInsideTheKeyOfACard(t *testing.T) {
	inside(t)
	look := func() string {
		out, err := exec.CommandContext(t.Context(), "ethtool", "-x", "eth1").CombinedOutput()
		if err != nil {
			t.Fatalf("ethtool -x: %v %s", err, out)
		}
		return string(out)
	}
	before := look()
	dir := t.TempDir()
	text := "rss: equal # x\nrss-key: symmetric # x\n"
	if err := os.WriteFile(filepath.Join(dir, "key.profile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := headrace(t, "tune", "apply", "--interface", "eth1", "--cpus", "2-3", "--profiles", dir, "--profile", "key")
	if err != nil || !strings.Contains(out, "ethtool -X eth1 hkey 6d:5a:6d:5a") {
		t.Errorf("apply: %v\n%s", err, out)
	}
	if now := look(); !strings.Contains(now, "6d:5a:6d:5a:6d") {
		t.Errorf("the key is not what was set:\n%s", now)
	}
	revert(t)
	if diff := cmp.Diff(before, look()); diff != "" {
		t.Error(diff)
	}
}

// TestInsidePagesThatAreNotGrantedAreSaid asks for pages that no node of the guest has
// room for.
func TestInsidePagesThatAreNotGrantedAreSaid(t *testing.T) {
	inside(t)
	before := state(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "much.profile"), []byte("hugepages.1G: 2 # x\nsysctl.vm.stat_interval: 9 # x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := headrace(t, "tune", "apply", "--cpus", "2-3", "--profiles", dir, "--profile", "much")
	if err == nil || !strings.Contains(out, "asked for 2, it is 0") || !strings.Contains(out, "echo 9 > /proc/sys/vm/stat_interval") {
		t.Errorf("apply: %v\n%s", err, out)
	}
	revert(t)
	same(t, before)
}

func TestInsideTheCheckFindsWhatIsWrong(t *testing.T) {
	inside(t)
	if err := os.WriteFile("/proc/sys/vm/stat_interval", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	before := state(t)
	cmd := exec.CommandContext(t.Context(), os.Getenv("HEADRACE_BINARY"), slices.Concat([]string{"tune", "check", "--json"}, wanted)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("check: %v", err)
	}
	var v view
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := fmt.Sprint(len(v.Placement.Workers), v.Placement.Workers[0].CPU, v.Placement.Workers[0].Node); got != "2 2 1" {
		t.Errorf("placement %s", got)
	}
	for _, n := range v.Notes {
		if n.Stage == "cmdline" {
			t.Errorf("the command line is as wanted, but: %s", n.Text)
		}
	}
	same(t, before)
	if runtime.NumCPU() != 4 {
		t.Errorf("%d CPUs", runtime.NumCPU())
	}
}
