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

	"github.com/headrace/headrace/internal/built"
	"github.com/headrace/headrace/internal/guest"
	"github.com/headrace/headrace/pinning/audit"
	"github.com/headrace/headrace/pinning/topology"
)

// TestGuestFaultsAreFoundAndMended runs TestInside… on two memory nodes, with a card.
func TestGuestFaultsAreFoundAndMended(t *testing.T) {
	guest.Need(t)
	path, err := built.Headrace("")
	if err != nil {
		t.Fatal(err)
	}
	guest.Test(t, guest.Suite{
		Config: guest.Config{
			Kernel: "linux-image-6.12-amd64", Sets: []string{"xdp", "numa"}, CPUs: 4, MemoryMB: 1536, NUMA: true, QueuePairs: 2, Timeout: 10 * time.Minute,
		},
		Packages: []string{"."},
		With:     []string{path},
		Setup:    "ethtool -L eth0 combined 1\nip link set eth0 up\nexport HEADRACE_BINARY=/work/headrace",
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

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

const (
	thpPath    = "/sys/kernel/mm/transparent_hugepage/enabled"
	numaPath   = "/proc/sys/kernel/numa_balancing"
	pagesPath  = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"
	sourcePath = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
)

// moveIRQs sends every interrupt that can be moved to a CPU, and returns how many.
func moveIRQs(t *testing.T, cpu string) (moved int) {
	t.Helper()
	irqs, err := topology.ReadIRQs(os.DirFS("/"))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range irqs {
		if os.WriteFile(fmt.Sprintf("/proc/irq/%d/smp_affinity_list", q.Number), []byte(cpu), 0) == nil && q.Count > 0 {
			moved++
		}
	}
	return moved
}

// A fault is seeded in the guest; where mended is set, `tune apply` mends it.
var faults = []struct {
	id     string
	want   audit.Severity
	mended bool
	sound  func(t *testing.T)
	seed   func(t *testing.T)
}{
	{"mem.thp", audit.Warn, true, func(t *testing.T) { write(t, thpPath, "madvise") }, func(t *testing.T) { write(t, thpPath, "always") }},
	{"mem.numa_balancing", audit.Warn, true, func(t *testing.T) { write(t, numaPath, "0") }, func(t *testing.T) { write(t, numaPath, "1") }},
	{"mem.hugepages", audit.Warn, true, func(t *testing.T) { write(t, pagesPath, "16") }, func(t *testing.T) { write(t, pagesPath, "0") }},
	{"irq.workers", audit.Warn, true, func(t *testing.T) { moveIRQs(t, "0") }, func(t *testing.T) {
		if moveIRQs(t, "2") == 0 {
			t.Fatal("no interrupt can be moved")
		}
	}},
	{"nic.mtu", audit.Fail, false, func(t *testing.T) { ip(t, "mtu", "1500") }, func(t *testing.T) { ip(t, "mtu", "2000") }},
	{"nic.link", audit.Fail, false, func(t *testing.T) { ip(t, "up"); time.Sleep(time.Second) }, func(t *testing.T) { ip(t, "down") }},
	{"clock.source", audit.Warn, false, func(t *testing.T) { write(t, sourcePath, "tsc") }, func(t *testing.T) { write(t, sourcePath, "hpet") }},
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if text, err := exec.CommandContext(t.Context(), "ip", append([]string{"link", "set", "eth0"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ip link set eth0 %v: %v: %s", args, err, text)
	}
}

func TestInsideSeededFaultsAreFoundAndMended(t *testing.T) {
	if !guest.Inside() {
		t.Skip("runs in a guest: TestGuestFaultsAreFoundAndMended")
	}
	for _, f := range faults {
		f.sound(t)
	}
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
	for _, f := range faults {
		f.seed(t)
	}
	found = diagnosed(t, "--probe=no")
	for _, f := range faults {
		got := found[f.id]
		if got.Severity != f.want || got.Fix == "" || got.Why == "" {
			t.Errorf("seeded, %s is %v, want %v: %+v", f.id, got.Severity, f.want, got)
		}
		t.Logf("%s: %s (%s); fix: %s", f.id, got.What, got.Measured, got.Fix)
	}
}
