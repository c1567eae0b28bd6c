package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/guest"
	"github.com/headrace/headrace/pinning/audit"
	"github.com/headrace/headrace/pinning/topology"
)

// TestGuestFaultsAreFoundAndMended runs TestInside… on two memory nodes, with a card.
func TestGuestFaultsAreFoundAndMended(t *testing.T) {
	guest.Test(t, guest.Suite{
		Config: guest.Config{
			Kernel: "linux-image-6.12-amd64", Sets: []string{"xdp", "numa"}, CPUs: 4, MemoryMB: 1536, NUMA: true, QueuePairs: 2, Timeout: 10 * time.Minute,
		},
		Packages: []string{"."},
		Headrace: true,
		Setup:    "ethtool -L eth0 combined 1\nip link set eth0 up",
		Run:      "^TestInside",
	})
}

// inside runs the binary that the guest was given.
func inside(t *testing.T, args ...string) []byte {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Getenv("HEADRACE_BINARY"), args...)
	text, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && (exit.ExitCode() > 2 || len(text) == 0) || err != nil && exit == nil {
		t.Fatalf("headrace %s: %v: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	return text
}

// diagnosed returns doctor's findings on cores 2 and 3 of the guest, by id.
func diagnosed(t *testing.T, flags ...string) map[string]audit.Finding {
	t.Helper()
	var r Report
	text := inside(t, append([]string{"doctor", "--interface", "eth0", "--cores", "2-3", "--for", "0", "--json"}, flags...)...)
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	found := map[string]audit.Finding{}
	for _, f := range r.Findings {
		found[f.ID] = f
	}
	return found
}

// A fault is seeded in the guest, or its opposite. Where mended is set, `tune apply`
// mends it.
type fault struct {
	id     string
	want   audit.Severity
	mended bool
	set    func(sound bool) error
}

var faults = []fault{
	{"mem.thp", audit.Warn, true, file("/sys/kernel/mm/transparent_hugepage/enabled", "madvise", "always")},
	{"mem.numa_balancing", audit.Warn, true, file("/proc/sys/kernel/numa_balancing", "0", "1")},
	{"mem.hugepages", audit.Warn, true, file("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "16", "0")},
	{"irq.workers", audit.Warn, true, func(sound bool) error { return moveIRQs(map[bool]string{true: "0", false: "2"}[sound]) }},
	{"nic.mtu", audit.Fail, false, ip("mtu", "1500", "2000")},
	{"nic.link", audit.Fail, false, ip("", "up", "down")},
	{"clock.source", audit.Warn, false, file("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc", "hpet")},
}

// file writes one of two texts.
func file(path, sound, faulty string) func(bool) error {
	return func(is bool) error {
		if is {
			return os.WriteFile(path, []byte(sound), 0)
		}
		return os.WriteFile(path, []byte(faulty), 0)
	}
}

// ip sets something of the guest's card.
func ip(what, sound, faulty string) func(bool) error {
	return func(is bool) error {
		value := faulty
		if is {
			value = sound
		}
		text, err := exec.Command("ip", strings.Fields("link set eth0 "+what+" "+value)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip link set eth0 %s %s: %w: %s", what, value, err, text)
		}
		return nil
	}
}

// moveIRQs sends every interrupt to a CPU, but for those that the kernel keeps.
func moveIRQs(cpu string) error {
	irqs, err := topology.ReadIRQs(os.DirFS("/"))
	if err != nil {
		return err
	}
	moved := 0
	for _, q := range irqs {
		if os.WriteFile(fmt.Sprintf("/proc/irq/%d/smp_affinity_list", q.Number), []byte(cpu), 0) == nil && q.Count > 0 {
			moved++
		}
	}
	if moved == 0 {
		return errors.New("no interrupt can be moved")
	}
	return nil
}

func set(t *testing.T, sound bool) {
	t.Helper()
	for _, f := range faults {
		if err := f.set(sound); err != nil {
			t.Fatalf("%s: %v", f.id, err)
		}
	}
}

func TestInsideSeededFaultsAreFoundAndMended(t *testing.T) {
	if !guest.Inside() {
		t.Skip("runs in a guest: TestGuestFaultsAreFoundAndMended")
	}
	set(t, true)
	time.Sleep(time.Second) // until the link is up
	found := diagnosed(t)
	for _, f := range faults {
		if got := found[f.id]; got.Severity != audit.OK {
			t.Errorf("before anything is seeded, %s is %v: %+v", f.id, got.Severity, got)
		}
	}
	// The card of the guest: virtio-net runs XDP in the driver if half of its queues are free.
	if got := found["nic.native"]; got.Severity != audit.OK {
		t.Errorf("native XDP on virtio-net: %+v", got)
	}
	if got := found["cpu.isolation"]; got.Severity != audit.Warn {
		t.Errorf("nothing is isolated yet: %+v", got)
	}
	set(t, false)
	found = diagnosed(t, "--probe=no")
	for _, f := range faults {
		got := found[f.id]
		if got.Severity != f.want || got.Fix == "" || got.Why == "" {
			t.Errorf("seeded, %s is %v, want %v: %+v", f.id, got.Severity, f.want, got)
		}
		t.Logf("%s: %s (%s); fix: %s", f.id, got.What, got.Measured, got.Fix)
	}
	t.Logf("%s", inside(t, "tune", "apply", "--interface", "eth0", "--cpus", "2-3", "--profile", "latency"))
	found = diagnosed(t, "--probe=no")
	for _, f := range append(faults, fault{id: "cpu.isolation", want: audit.Warn, mended: true}) {
		want := f.want
		if f.mended {
			want = audit.OK
		}
		if got := found[f.id]; got.Severity != want {
			t.Errorf("after tune apply, %s is %v, want %v: %+v", f.id, got.Severity, want, got)
		}
	}
	// The cores are a partition's now, which the measurement joins and leaves. It shows no
	// other task on them.
	var r NoiseReport
	if err := json.Unmarshal(inside(t, "doctor", "noise", "--cores", "3", "--for", "1s", "--json"), &r); err != nil {
		t.Fatal(err)
	}
	if r.CausesUnknown != "" || r.Disturbed != "" || len(r.Cores) != 1 || r.Cores[0].Windows < 900 {
		t.Errorf("noise in the partition: %+v", r)
	}
	t.Logf("class %v by noise: %+v", r.Class, r.Cores)
	if text, err := os.ReadFile("/proc/self/cgroup"); err != nil || strings.Contains(string(text), "headrace") {
		t.Errorf("%s, %v", text, err)
	}
	inside(t, "tune", "revert")
	found = diagnosed(t, "--probe=no")
	for _, f := range faults {
		if got := found[f.id]; got.Severity != f.want {
			t.Errorf("after tune revert, %s is %v, want %v: %+v", f.id, got.Severity, f.want, got)
		}
	}
}
