package run

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/internal/guest"
)

// TestGuestMemoryIsWhereItsWorkersAre runs TestInside… on two memory nodes of two CPUs
// each, with a card.
func TestGuestMemoryIsWhereItsWorkersAre(t *testing.T) {
	guest.Test(t, guest.Suite{
		Config: guest.Config{
			Kernel: "linux-image-6.12-amd64", Sets: []string{"xdp", "numa"}, CPUs: 4, MemoryMB: 2048, NUMA: true, QueuePairs: 2, Timeout: 6 * time.Minute,
		},
		Packages: []string{"."},
		Headrace: true,
		Setup:    "ethtool -L eth0 combined 1\nip link set eth0 up\necho advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
		Run:      "^TestInside",
	})
}

func TestInsideMemoryIsWhereItsWorkersAre(t *testing.T) {
	if !guest.Inside() {
		t.Skip("needs a guest of two memory nodes: TestGuestMemoryIsWhereItsWorkersAre boots it")
	}
	for _, c := range []struct {
		cpus string
		node int
	}{{"2-3", 1}, {"1", 0}} {
		t.Run("cpus="+c.cpus, func(t *testing.T) { placedOn(t, c.cpus, c.node) })
	}
}

// placedOn runs workers that spin on some CPUs and checks that all their memory is on those
// CPUs' node: by what status says, and by the kernel's own account of the process.
func placedOn(t *testing.T, cpus string, node int) {
	t.Helper()
	workers := 1 + strings.Count(cpus, "-")
	path := filepath.Join(t.TempDir(), "config.yaml")
	config := carsConfig + fmt.Sprintf("cpus: %s\ninterfaces: {eth0: {mode: generic, idle: spin}}\n", cpus)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &tail{}
	cmd := exec.Command(os.Getenv("HEADRACE_BINARY"), "run", "-c", path, "--workers", fmt.Sprint(workers), "--out", filepath.Join(t.TempDir(), "rows.jsonl"), "--name", "placed")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("%v\n%s", err, log)
		}
	}()
	for end := time.Now().Add(time.Minute); !strings.Contains(log.String(), "receiving"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not receive")
		}
	}
	body, err := status.Fetch(t.Context(), "placed")
	if err != nil {
		t.Fatal(err)
	}
	var r status.Report
	if err := json.Unmarshal(body, &r); err != nil {
		t.Fatal(err)
	}
	p := r.Snapshot.Placement
	if len(p.Workers) != workers {
		t.Fatalf("%d workers are placed, want %d", len(p.Workers), workers)
	}
	for _, w := range p.Workers {
		if w.Node != node || w.CPUs != fmt.Sprint(w.CPU) || w.Pages < 1000 || w.Remote != 0 || !w.Locked {
			t.Errorf("worker %+v, want it on node %d alone", w, node)
		}
	}
	var out strings.Builder
	_ = r.Write(&out)
	t.Logf("%s\n%q", out.String(), p.Reasons)

	pid := (&appliance{log: log}).dataPID()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/numa_maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	here, other := fmt.Sprintf(" N%d=", node), fmt.Sprintf(" N%d=", 1-node)
	regions := 0
	for line := range strings.Lines(string(maps)) {
		if !strings.Contains(line, `/memfd:headrace\040worker`) {
			continue
		}
		if strings.Contains(line, other) {
			t.Errorf("memory of a worker is on the other node: %s", line)
		}
		if strings.Contains(line, here) {
			regions++
		}
	}
	if regions < workers {
		t.Errorf("memory of %d workers on node %d, want %d:\n%s", regions, node, workers, maps)
	}
}
