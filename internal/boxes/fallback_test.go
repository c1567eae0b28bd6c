package boxes

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/internal/built"
	"github.com/headrace/headrace/internal/netns"
)

// tagged is headrace with RDMA in it. It skips t where that cannot be built.
func tagged(t *testing.T) string {
	t.Helper()
	c := exec.Command("gcc", "-E", "-include", "infiniband/verbs.h", "-x", "c", "/dev/null", "-o", "/dev/null")
	if said, err := c.CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		t.Skip("no gcc to build with the tag rdma (make deps-guest)")
	} else if err != nil {
		t.Skipf("no headers of libibverbs to build with the tag rdma (make deps-guest): %s", said)
	}
	path, err := built.Headrace("rdma")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Without RDMA devices, as in a new network namespace, the build that could use them
// exchanges over TCP and says why; `status` calls it a fallback where verbs was asked for.
func TestNetnsWithoutDevicesTheGroupFallsBackAndSaysWhy(t *testing.T) {
	netns.Need(t)
	plain, err := built.Headrace("")
	if err != nil {
		t.Fatal(err)
	}
	path := tagged(t)
	for _, c := range []struct {
		name, binary, transport string
		says, level             string
		fallback                bool
	}{
		{"verbs asked for", path, "verbs", "no RDMA", "WARN", true},
		{"whichever there is", path, "auto", "the group exchanges over TCP", "INFO", false},
		{"verbs asked of a build without", plain, "verbs", "built without the tag rdma", "WARN", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := labOf(t, Config{
				Binary: c.binary, Names: []string{"a", "b"}, Pipeline: readings,
				Group: []string{"period: 500ms", "transport: " + c.transport, "tie_breaker: a"},
			})
			begin(t, l)
			for _, b := range l.Boxes {
				r, err := b.Await(patience, func(r *status.Report) bool { return r.Snapshot.Group.Transport != "" })
				if err != nil {
					t.Fatal(err)
				}
				if g := r.Snapshot.Group; g.Transport != "tcp" || g.Fallback != c.fallback || g.Device != "" {
					t.Errorf("box %s: over %q, fallback %v, device %q", b.ID, g.Transport, g.Fallback, g.Device)
				}
				if line := lineWith(b.Said(), "over TCP"); !strings.Contains(line, "level="+c.level) || !strings.Contains(line, c.says) || !strings.Contains(line, "reason=") {
					t.Errorf("box %s said %q", b.ID, line)
				}
				said, err := exec.Command(l.Binary, "status", "--peers", "--name", b.Name()).CombinedOutput()
				if err != nil || strings.Contains(string(said), "not to be had") != c.fallback {
					t.Errorf("status: %v: %s", err, said)
				}
			}
			stopAll(t, l)
		})
	}
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}
