package stage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/card"
	"github.com/headrace/headrace/pinning/profile"
)

// Tests of this file change the machine that they run on, each for a moment, and prove
// that it is as before after it.

// needHost skips tests that this machine cannot have.
func needHost(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("changes the host: needs root")
	}
}

// wishes makes a profile of lines without reasons.
func wishes(t *testing.T, lines ...string) *profile.Profile {
	t.Helper()
	text := strings.Join(lines, "  # for a moment\n") + "  # for a moment\n"
	p, err := profile.Sources{fstest.MapFS{"test.profile": &fstest.MapFile{Data: []byte(text)}}}.Load("test")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// contents reads files by patterns, whole; one that cannot be read says why.
func contents(t *testing.T, patterns ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, p := range patterns {
		names, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if st, err := os.Stat(name); err != nil || st.IsDir() {
				continue
			}
			b, err := os.ReadFile(name)
			all[name] = string(b)
			if err != nil {
				all[name] = err.Error()
			}
		}
	}
	return all
}

// hostTuner is a tuner of this machine with one worker.
func hostTuner(t *testing.T, state string, p *profile.Profile, interfaces []string, only ...string) *Tuner {
	t.Helper()
	h, err := Open(Options{Profile: p, Workers: 1, Interfaces: interfaces})
	if err != nil {
		t.Fatal(err)
	}
	j, err := OpenJournal(state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = h.Close(), j.Close() })
	tuner, err := New(h, j, only...)
	if err != nil {
		t.Fatal(err)
	}
	return tuner
}

// applyOnHost applies, and reverts at the end of the test if that has not been done.
func applyOnHost(t *testing.T, state string, p *profile.Profile, interfaces []string, only ...string) []Outcome {
	t.Helper()
	tuner := hostTuner(t, state, p, interfaces, only...)
	t.Cleanup(func() { revertOnHost(t, state) })
	outcomes, notes, err := tuner.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notes {
		t.Log(n.Text)
	}
	if err := tuner.journal.Close(); err != nil {
		t.Fatal(err)
	}
	return outcomes
}

func revertOnHost(t *testing.T, state string) {
	t.Helper()
	j, err := OpenJournal(state)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	outcomes, err := Revert(t.Context(), "/", nil, j, nil)
	if err != nil && !errors.Is(err, t.Context().Err()) {
		t.Fatal(err)
	}
	for _, o := range outcomes {
		if o.State == Failed {
			t.Errorf("%s: %s", o.Setting, o.Text)
		}
	}
}

func asBefore(t *testing.T, before map[string]string, patterns ...string) {
	t.Helper()
	if diff := cmp.Diff(before, contents(t, patterns...)); diff != "" {
		t.Errorf("not as before (-before +now):\n%s", diff)
	}
}

var irqFiles = []string{"/proc/irq/default_smp_affinity", "/proc/irq/*/smp_affinity_list", "/proc/irq/*/smp_affinity"}

func twoCPUs(t *testing.T) {
	t.Helper()
	if b, err := os.ReadFile("/sys/devices/system/cpu/online"); err != nil || strings.TrimSpace(string(b)) == "0" {
		t.Skip("one CPU: none can be spared")
	}
}

func TestHostInterruptsMoveAndComeBack(t *testing.T) {
	needHost(t)
	twoCPUs(t)
	before := contents(t, irqFiles...)
	state := t.TempDir()
	outcomes := applyOnHost(t, state, wishes(t, "irq: away"), nil, "irq")
	done := 0
	for _, o := range outcomes {
		switch o.State {
		case Done:
			done++
		case Failed:
			t.Errorf("%s: %s", o.Setting, o.Text)
		case Kept:
			t.Logf("%s: %s", o.Setting, o.Text)
		}
	}
	if done == 0 {
		t.Error("no interrupt was moved")
	}
	revertOnHost(t, state)
	asBefore(t, before, irqFiles...)
}

func TestHostInterruptsComeBackAfterSIGKILL(t *testing.T) {
	if state := os.Getenv("HEADRACE_STAGE_HOST_KILL"); state != "" {
		tuner := hostTuner(t, state, wishes(t, "irq: away"), nil, "irq")
		left := 20
		tuner.between = func(string) {
			if left--; left == 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		_, _, err := tuner.Apply(t.Context())
		t.Fatalf("it was not killed: %v", err)
	}
	needHost(t)
	twoCPUs(t)
	before := contents(t, irqFiles...)
	state := t.TempDir()
	t.Cleanup(func() { revertOnHost(t, state) })
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHostInterruptsComeBackAfterSIGKILL$")
	cmd.Env = append(os.Environ(), "HEADRACE_STAGE_HOST_KILL="+state)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v\n%s", err, out)
	}
	if cmp.Equal(before, contents(t, irqFiles...)) {
		t.Error("nothing was changed when it was killed")
	}
	revertOnHost(t, state)
	asBefore(t, before, irqFiles...)
}

func TestHostMemoryAndKernelSettings(t *testing.T) {
	needHost(t)
	patterns := []string{
		"/sys/devices/system/node/node0/hugepages/*/nr_hugepages", "/proc/sys/vm/stat_interval",
		"/sys/kernel/mm/transparent_hugepage/enabled", "/sys/devices/system/cpu/cpu*/power/pm_qos_resume_latency_us",
	}
	before := contents(t, patterns...)
	pages := "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"
	n := 0
	if _, err := fmt.Sscan(before[pages], &n); err != nil {
		t.Skipf("%s: %v", pages, err)
	}
	state := t.TempDir()
	p := wishes(t, fmt.Sprintf("hugepages.2M: %d", n+4), "sysctl.vm.stat_interval: 17", "thp: always", "cstate: 3")
	for _, o := range applyOnHost(t, state, p, nil, "hugepages", "sysctl", "thp", "cstate") {
		if o.State != Done {
			t.Errorf("%s: %s %s", o.Setting, o.State, o.Text)
		}
	}
	now := contents(t, patterns...)
	if now["/proc/sys/vm/stat_interval"] != "17\n" || now[pages] != fmt.Sprintf("%d\n", n+4) {
		t.Errorf("%v", now)
	}
	revertOnHost(t, state)
	asBefore(t, before, patterns...)
}

func TestHostCpusetV1(t *testing.T) {
	needHost(t)
	twoCPUs(t)
	const root = "/sys/fs/cgroup/cpuset"
	if _, err := os.Stat(root + "/cpuset.cpus"); err != nil {
		t.Skip("no cpuset of cgroup v1 on this machine")
	}
	patterns := []string{root + "/cpuset.*", root + "/headrace*/cpuset.*"}
	noise := func(m map[string]string) map[string]string {
		delete(m, root+"/cpuset.memory_pressure")
		return m
	}
	before := noise(contents(t, patterns...))
	state := t.TempDir()
	for _, o := range applyOnHost(t, state, wishes(t, "partition: isolated"), nil, "partition") {
		if o.State != Done && o.State != Already {
			t.Errorf("%s: %s %s", o.Setting, o.State, o.Text)
		}
	}
	now := contents(t, patterns...)
	if now[root+"/headrace/cpuset.cpus"] != "1\n" || now[root+"/cpuset.sched_load_balance"] != "0\n" {
		t.Errorf("%v", now)
	}
	revertOnHost(t, state)
	if diff := cmp.Diff(before, noise(contents(t, patterns...))); diff != "" {
		t.Error(diff)
	}
}

func TestHostHolds(t *testing.T) {
	needHost(t)
	h, err := Open(Options{Profile: wishes(t, "hold.dma-latency: on", "hold.timestamping: on"), Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	hold := h.Take()
	if len(hold.Held)+len(hold.NotHeld) == 0 || !slices.ContainsFunc(hold.Held, func(s string) bool { return strings.HasPrefix(s, holdStamping) }) {
		t.Errorf("%+v", hold)
	}
	if err := hold.Close(); err != nil {
		t.Error(err)
	}
	device, err := h.holdLatency()
	if err != nil {
		t.Skipf("no /dev/cpu_dma_latency: %v", err)
	}
	if err := device.Close(); err != nil {
		t.Error(err)
	}
}

// TestHostCard changes a real card of the kernel, a veth pair, in a network namespace
// with a sysfs of its own.
func TestHostCard(t *testing.T) {
	if os.Getenv("HEADRACE_STAGE_CARD") != "" {
		insideNamespace(t)
		return
	}
	needHost(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHostCard$", "-test.v")
	cmd.Env = append(os.Environ(), "HEADRACE_STAGE_CARD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func insideNamespace(t *testing.T) {
	t.Helper()
	for _, err := range []error{
		unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("none", "/sys", "sysfs", 0, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{
		"ip link add hr0 numrxqueues 2 numtxqueues 2 type veth peer name hr1 numrxqueues 2 numtxqueues 2",
		"ethtool -K hr0 gro on", // without it, or XDP, a veth has no NAPI instance
		"ethtool -K hr1 gro on", "ip link set hr0 up", "ip link set hr1 up",
		"sh -c 'echo 3 > /sys/class/net/hr0/queues/rx-0/rps_cpus'",
	} {
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", line, err, out)
		}
	}
	features := func() string {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "ethtool -k hr0; ethtool -l hr0; ethtool -c hr0 2>&1; ethtool -g hr0 2>&1").CombinedOutput()
		if err != nil && len(out) == 0 {
			t.Fatal(err)
		}
		return string(out)
	}
	napiOf := func() map[string]string {
		out := map[string]string{}
		for _, name := range []string{"rx-0 defer-hard-irqs", "rx-0 gro-flush-timeout", "rx-0 threaded"} {
			v, err := card.Kernel{}.Get("hr0", "napi "+name)
			out[name] = fmt.Sprint(v, err)
		}
		return out
	}
	patterns := []string{"/sys/class/net/hr0/queues/*/*ps_cpus"}
	before, was, polled := contents(t, patterns...), features(), napiOf()
	state := t.TempDir()
	p := wishes(t, "poll: threaded", "channels: workers", "rps: off", "xps: owner", "feature.tso: off", "coalesce: rx-usecs=0",
		"rings: max", "rss: equal", "rss-key: symmetric", "napi.defer-hard-irqs: 7", "napi.gro-flush-timeout: 9000")
	outcomes := applyOnHost(t, state, p, []string{"hr0"}, "channels", "rings", "coalesce", "offloads", "rss", "rps", "xps", "napi")
	stages := map[string]int{}
	for _, o := range outcomes {
		if o.State == Failed {
			t.Errorf("%s: %s", o.Setting, o.Text)
		}
		if o.State == Done {
			stages[o.Stage]++
		}
		t.Logf("%-8s %s", o.State, o.Shell)
	}
	for _, name := range []string{"channels", "offloads", "rps", "napi"} {
		if stages[name] == 0 {
			t.Errorf("stage %s did nothing on a veth", name)
		}
	}
	if now := napiOf(); now["rx-0 defer-hard-irqs"] != "7<nil>" || now["rx-0 threaded"] != "1<nil>" {
		t.Errorf("NAPI %v", now)
	}
	revertOnHost(t, state)
	asBefore(t, before, patterns...)
	if diff := cmp.Diff(was, features()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(polled, napiOf()); diff != "" {
		t.Error(diff)
	}
	applyOnHost(t, state, wishes(t, "xps: owner"), []string{"hr0"}, "xps")
	if now := contents(t, patterns...); now["/sys/class/net/hr0/queues/tx-0/xps_cpus"] == before["/sys/class/net/hr0/queues/tx-0/xps_cpus"] {
		t.Errorf("xps: %v", now)
	}
	revertOnHost(t, state)
	asBefore(t, before, patterns...)
}
