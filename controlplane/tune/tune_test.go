package tune

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/internal/built"
	"github.com/headrace/headrace/pinning/treetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	built.Remove()
	os.Exit(code)
}

// host is a tree with a cgroup as the kernel makes it with its directory.
func host(t *testing.T) *treetest.Tree {
	t.Helper()
	b := treetest.Host(t)
	b.File("sys/fs/cgroup/headrace.slice/cpuset.cpus", "")
	b.File("sys/fs/cgroup/headrace.slice/cpuset.cpus.partition", "member")
	return b
}

func tune(ctx context.Context, args ...string) (string, error) {
	c := Command()
	c.SilenceUsage, c.SilenceErrors = true, true
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	return out.String(), err
}

func on(b *treetest.Tree, state string, args ...string) []string {
	return append(args, "--root", b.Dir, "--state", state)
}

func wish(b *treetest.Tree, state, verb string, more ...string) []string {
	return on(b, state, append([]string{verb, "--interface", "eth0", "--workers", "2"}, more...)...)
}

func TestCheckApplyVerifyRevert(t *testing.T) {
	b, state := host(t), filepath.Join(treetest.Memory(t), "state")
	before := b.All()
	out, err := tune(t.Context(), wish(b, state, "check")...)
	if err == nil || !strings.Contains(err.Error(), "tune apply --profile latency") || !strings.Contains(out, "worker 0: CPU 5") {
		t.Errorf("check: %v\n%s", err, out)
	}
	plan, err := tune(t.Context(), wish(b, state, "plan")...)
	if err != nil || !strings.Contains(plan, "echo 5-6,13-14 > /sys/fs/cgroup/headrace.slice/cpuset.cpus # is nothing; the scheduler") {
		t.Errorf("plan: %v\n%s", err, plan)
	}
	if diff := cmp.Diff(before, b.All()); diff != "" {
		t.Errorf("check and plan changed:\n%s", diff)
	}
	if _, err := tune(t.Context(), on(b, state, "verify")...); err == nil || !strings.Contains(err.Error(), "nothing is applied") {
		t.Errorf("verify: %v", err)
	}
	if out, err := tune(t.Context(), wish(b, state, "apply")...); err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
	if out, err := tune(t.Context(), wish(b, state, "check")...); err != nil {
		t.Errorf("check after apply: %v\n%s", err, out)
	}
	out, err = tune(t.Context(), wish(b, state, "apply")...)
	if err != nil || !strings.Contains(out, "# 0 settings changed") {
		t.Errorf("apply after apply: %v\n%s", err, out)
	}
	// Where interrupts go follows where they may, in a kernel.
	b.File("proc/irq/30/effective_affinity_list", "4")
	b.File("proc/irq/31/effective_affinity_list", "4")
	b.File("proc/irq/32/effective_affinity_list", "7")
	b.File("proc/irq/41/effective_affinity_list", "0")
	if out, err := tune(t.Context(), on(b, state, "verify", "--for", "0")...); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	b.File("proc/sys/vm/stat_interval", "3")
	if out, err := tune(t.Context(), on(b, state, "verify", "--for", "0")...); err == nil || !strings.Contains(out, "it is 3, applied was 10") {
		t.Errorf("verify: %v\n%s", err, out)
	}
	if out, err := tune(t.Context(), on(b, state, "revert")...); err != nil || !strings.Contains(out, "somebody has made it 3") {
		t.Errorf("revert: %v\n%s", err, out)
	}
	after := b.All()
	for irq, was := range map[string]string{"30": "0\n", "31": "5\n", "32": "6\n", "41": "5\n"} {
		after["proc/irq/"+irq+"/effective_affinity_list"] = was
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("not as before:\n%s", diff)
	}
	if out, err := tune(t.Context(), on(b, state, "revert")...); err != nil || !strings.Contains(out, "nothing is applied") {
		t.Errorf("revert: %v\n%s", err, out)
	}
}

func TestJSON(t *testing.T) {
	b, state := host(t), filepath.Join(treetest.Memory(t), "state")
	out, err := tune(t.Context(), wish(b, state, "plan", "--json", "--profile", "latency-best")...)
	if err != nil {
		t.Fatal(err)
	}
	var v view
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if v.Profile != "latency-best" || len(v.Steps) < 20 || len(v.Placement.Workers) != 2 || v.Placement.Quiet.String() != "5-6,13-14" || len(v.Stages) < 15 {
		t.Errorf("%+v", v)
	}
	if out, err = tune(t.Context(), wish(b, state, "apply", "--json")...); err != nil {
		t.Fatal(err)
	}
	var c changed
	if err := json.Unmarshal([]byte(out), &c); err != nil || len(c.Outcomes) < 20 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAConfigSaysInterfacesAndWorkers(t *testing.T) {
	b := host(t)
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := `workers: 3
interfaces: [eth0]
feeds:
  f: {match: {port: 1}, format: flow}
queries:
  q: {from: f, key: [source], window: {tumbling: 1s}, select: {n: count()}, sinks: [out]}
sinks:
  out: {jsonl: {path: rows.jsonl}}
`
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := tune(t.Context(), on(b, t.TempDir(), "plan", "-c", file)...)
	if err != nil || !strings.Contains(out, "worker 2: CPU") || !strings.Contains(out, "the cards are on node 1") {
		t.Errorf("%v\n%s", err, out)
	}
	if err := os.WriteFile(file, []byte("workers: many\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tune(t.Context(), on(b, t.TempDir(), "plan", "-c", file)...); !isUsage(err) || !strings.Contains(err.Error(), "headrace check") {
		t.Error(err)
	}
}

func isUsage(err error) bool {
	var u *usage.Error
	return errors.As(err, &u)
}

func TestWrongFlagsAreErrorsOfUsage(t *testing.T) {
	b := host(t)
	profiles := t.TempDir()
	if err := os.WriteFile(filepath.Join(profiles, "mine.profile"), []byte("\nirqs: away # x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"plan", "--cpus", "x"}, "--cpus"},
		{[]string{"plan", "--workers", "65"}, "1 to 64"},
		{[]string{"plan", "--profile", "fast"}, "there are latency"},
		{[]string{"plan", "--profile", "mine", "--profiles", profiles}, "mine.profile:2"},
		{[]string{"plan", "--stage", "nix"}, "there are cmdline"},
		{[]string{"plan", "--flow", "eth0 udp 1.2.3.4 0"}, "--flow"},
		{[]string{"plan", "--flow", "eth0 udp 1.2.3.4:5 x"}, "no number"},
	} {
		if _, err := tune(t.Context(), on(b, t.TempDir(), c.args...)...); !isUsage(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
	if _, err := tune(t.Context(), on(b, t.TempDir(), "verify", "--for", "2h")...); !isUsage(err) {
		t.Error(err)
	}
	if _, err := tune(t.Context(), on(b, t.TempDir(), "plan", "--interface", "eth9")...); err == nil || isUsage(err) || !strings.Contains(err.Error(), "eth9") {
		t.Error(err)
	}
}

// TestHoldRevertsWhenItIsEnded holds until the context ends, as with SIGTERM, and tells
// whoever asked through NOTIFY_SOCKET.
func TestHoldRevertsWhenItIsEnded(t *testing.T) {
	b, state := host(t), filepath.Join(treetest.Memory(t), "state")
	before := b.All()
	address := fmt.Sprintf("@headrace-tune-test-%d", os.Getpid())
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", address)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := tune(ctx, wish(b, state, "apply", "--hold")...)
		ended <- err
	}()
	word := func(want string) {
		t.Helper()
		_ = socket.SetReadDeadline(time.Now().Add(20 * time.Second))
		text := make([]byte, 64)
		n, err := socket.Read(text)
		if err != nil || string(text[:n]) != want {
			t.Fatalf("told %q, %v; want %s", text[:n], err, want)
		}
	}
	word("READY=1\nSTATUS=holds profile latency")
	if cmp.Equal(before, b.All()) {
		t.Error("nothing is applied while it holds")
	}
	if _, err := tune(t.Context(), on(b, state, "revert")...); err == nil || !strings.Contains(err.Error(), "stop it") {
		t.Errorf("revert meanwhile: %v", err)
	}
	cancel()
	word("STOPPING=1\nSTATUS=puts everything back")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, b.All()); diff != "" {
		t.Errorf("not as before:\n%s", diff)
	}
}
