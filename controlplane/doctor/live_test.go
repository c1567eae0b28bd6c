package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/xsk"
	"github.com/headrace/headrace/internal/built"
	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/xdptest"
	"github.com/headrace/headrace/pinning/audit"
	"github.com/headrace/headrace/pinning/gaps"
	"github.com/headrace/headrace/pinning/topology"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := built.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func TestNetnsATrialFindsWhatAVethCanDoAndLeavesItAsItWas(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{Queues: 2})
	p.B.Do(t, func() {
		before, err := audit.Kernel{}.Ethernet(p.B.Interface)
		if err != nil {
			t.Fatal(err)
		}
		x := (&prober{when: probeCareful}).XDP(topology.NIC{Name: p.B.Interface}, false)
		// veth runs XDP itself and has no zero-copy.
		if !x.Probed || !x.Native || x.ZeroCopy || x.ZeroCopyRefused == "" || !x.LeftAsItWas || x.Attached != "" {
			t.Errorf("a trial on veth: %+v", x)
		}
		after, err := audit.Kernel{}.Ethernet(p.B.Interface)
		if err != nil || fmt.Sprint(after.Features, *after.Channels) != fmt.Sprint(before.Features, *before.Channels) {
			t.Errorf("%+v became %+v, %v", before, after, err)
		}
		if mode, id, err := attached(p.B.Interface); mode != "" || err != nil {
			t.Errorf("program %d is left, %s, %v", id, mode, err)
		}
	})
}

func TestNetnsATrialAsksFirst(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{Queues: 1})
	nic := topology.NIC{Name: p.B.Interface}
	p.B.Do(t, func() {
		if x := (&prober{when: probeCareful}).XDP(nic, true); x.Probed || !strings.Contains(x.NotProbed, "--probe") {
			t.Errorf("tried on the default route: %+v", x)
		}
		if x := (&prober{when: probeNo}).XDP(nic, false); x.Probed || x.NotProbed == "" {
			t.Errorf("tried though told not to: %+v", x)
		}
		program := xdptest.Load(t, 1)
		program.Attach(t, p.B.Index, true)
		_, id, err := attached(nic.Name)
		if err != nil || id == 0 {
			t.Fatalf("the program is not seen: %d, %v", id, err)
		}
		if x := (&prober{when: probeCareful}).XDP(nic, false); x.Probed || x.Attached != "native" || x.Program != id {
			t.Errorf("tried beside a program: %+v", x)
		}
		// With consent only a socket is tried.
		if x := (&prober{when: probeYes}).XDP(nic, false); !x.Probed || !x.Native || x.ZeroCopy || !x.LeftAsItWas {
			t.Errorf("with consent: %+v", x)
		}
		if _, now, err := attached(nic.Name); now != id || err != nil {
			t.Errorf("program %d is gone, there is %d, %v", id, now, err)
		}
	})
}

// A socket that is there is not disturbed, and what it hides is unknown.
func TestNetnsAQueueInUseIsLeftAlone(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{Queues: 1})
	p.B.Do(t, func() {
		sizes, err := xsk.Fit(xsk.Wish{Workers: 1, RxRing: 64, TxRing: 64, FillReserve: 64})
		if err != nil {
			t.Fatal(err)
		}
		owner, err := xsk.OpenOwner(xsk.OwnerConfig{Interface: p.B.Interface, Sizes: sizes})
		if err != nil {
			t.Fatal(err)
		}
		defer owner.Close()
		x := (&prober{when: probeCareful}).XDP(topology.NIC{Name: p.B.Interface}, false)
		if x.ZeroCopy || !x.LeftAsItWas {
			t.Errorf("%+v", x)
		}
		if err := xsk.Check(owner.FD()); err != nil {
			t.Errorf("the socket that was there: %v", err)
		}
	})
}

// run runs the binary, in a namespace if n is not nil.
func run(t *testing.T, n *netns.Namespace, args ...string) (out, errs string, code int) {
	t.Helper()
	path, err := built.Headrace("")
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), path, args...)
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	if n == nil {
		err = c.Start()
	} else {
		n.Start(t, c)
	}
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return o.String(), e.String(), c.ProcessState.ExitCode()
}

func TestTheBinaryEndsAsItsReportSays(t *testing.T) {
	out, errs, code := run(t, nil, "doctor", "--for", "50ms", "--probe=no", "--json")
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	if code != r.ExitCode || r.Version != Version || len(r.Findings) < 20 {
		t.Errorf("exit code %d, report says %d: %+v", code, r.ExitCode, r)
	}
	worst := audit.OK
	for _, f := range r.Findings {
		if f.Severity != audit.Unknown {
			worst = max(worst, f.Severity)
		}
	}
	if want := map[audit.Severity]int{audit.OK: 0, audit.Note: 0, audit.Warn: 1, audit.Fail: 2}[worst]; code != want {
		t.Errorf("exit code %d, the worst finding is %v", code, worst)
	}
	if r.Noise == nil || r.Noise.Disturbed != "" || r.Class.Granted != audit.ClassD {
		t.Errorf("50 ms were measured: %+v, class %+v", r.Noise, r.Class)
	}
	for _, args := range [][]string{
		{"doctor", "--cores", "x"},
		{"doctor", "--for", "-1s"},
		{"doctor", "--probe=maybe"},
		{"doctor", "--interface", "no-such-nic"},
		{"doctor", "no-such-file.yaml"},
		{"doctor", "--cores", "8000"},
		{"doctor", "--rate", "-1"},
		{"doctor", "a", "b"},
		{"doctor", "noise"},
		{"doctor", "noise", "--cores", "0", "--for", "0s"},
		{"doctor", "noise", "--cores", "8000"},
	} {
		if _, errs, code := run(t, nil, args...); code != 64 || errs == "" {
			t.Errorf("%v: exit code %d, %q", args, code, errs)
		}
	}
}

func TestNetnsTheBinaryJudgesAConfigAndItsInterface(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{Queues: 2, MTU: 9000})
	file := t.TempDir() + "/c.yaml"
	text := fmt.Sprintf(`
workers: 1
interfaces: {%s: {queues: 1}}
feeds:
  cars: {match: {destination: 239.1.2.3, port: 9000}, format: raw, columns: {id: {type: int64, offset: 0}}, time: {receive: true}}
queries:
  n: {from: cars, key: [id], window: {tumbling: 1s}, select: {n: count()}, sinks: [out]}
sinks: {out: {jsonl: {path: "-"}}}
`, p.B.Interface)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// A new link is up a moment after it was told to be.
	p.B.Do(t, func() {
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if nic, err := net.InterfaceByIndex(p.B.Index); err == nil && nic.Flags&net.FlagRunning != 0 {
				return
			}
		}
		t.Error("the link does not come up")
	})
	out, errs, code := run(t, p.B.Namespace, "doctor", file, "--for", "0", "--json")
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	if code != 2 || len(r.Interfaces) != 1 || r.Interfaces[0] != p.B.Interface {
		t.Errorf("exit code %d, interfaces %v", code, r.Interfaces)
	}
	want := map[string]audit.Severity{
		"nic.mtu": audit.Fail, "nic.queues": audit.Fail, "config.groups": audit.Note, "nic.link": audit.OK, "config.memory": audit.OK, "nic.zero_copy": audit.Note,
	}
	for _, f := range r.Findings {
		if s, ok := want[f.ID]; ok && f.Severity != s {
			t.Errorf("%s is %v, want %v: %+v", f.ID, f.Severity, s, f)
		}
		delete(want, f.ID)
	}
	if len(want) > 0 {
		t.Errorf("not looked at: %v", want)
	}
}

// Without any capability the same is said but for what may not be seen.
func TestRootWithoutPrivilegesItSaysWhatItCannotSee(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	path, err := built.Headrace("")
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), path, "doctor", "--for", "20ms", "--json")
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	public(t, path)
	text, err := c.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, f := range r.Findings {
		switch f.ID {
		case "process.capabilities":
			if f.Severity != audit.Note || !strings.Contains(f.Measured, "CAP_BPF") {
				t.Errorf("%+v", f)
			}
		case "nic.native":
			if f.Severity != audit.Unknown {
				t.Errorf("%+v", f)
			}
		}
	}
	if r.Noise == nil || !strings.Contains(r.Noise.CausesUnknown, "CAP_") {
		t.Errorf("causes without privileges: %+v", r.Noise)
	}
	if len(r.Findings) < 20 || c.ProcessState.ExitCode() != r.ExitCode {
		t.Errorf("%d findings, exit code %v", len(r.Findings), c.ProcessState.ExitCode())
	}
}

// public lets everybody run a binary of a test.
func public(t *testing.T, path string) {
	t.Helper()
	for dir := path; dir != "/" && dir != "/tmp"; dir = dir[:max(strings.LastIndexByte(dir, '/'), 1)] {
		if st, err := os.Stat(dir); err == nil && strings.Contains(dir, "headrace") {
			if err := os.Chmod(dir, st.Mode().Perm()|0o055); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A program that wants the same core is named, by the binary itself.
func TestRootNoiseNamesADisturber(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for tracefs")
	}
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for n := range 1024 {
		if allowed.IsSet(n) {
			cpu = n
		}
	}
	shell := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shell.Process.Kill(); _ = shell.Wait() }()
	var only unix.CPUSet
	only.Set(cpu)
	if err := unix.SchedSetaffinity(shell.Process.Pid, &only); err != nil {
		t.Fatal(err)
	}
	// Others may want the core too: these two come first.
	if err := unix.Setpriority(unix.PRIO_PROCESS, shell.Process.Pid, -15); err != nil {
		t.Log(err)
	}
	path, err := built.Headrace("")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "nice", "-n", "-15", path, "doctor", "noise", "--cores", strconv.Itoa(cpu), "--for", "1s", "--json").Output()
	var r NoiseReport
	if err := errors.Join(err, json.Unmarshal(out, &r)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if r.CausesUnknown != "" || r.Disturbed != "" {
		t.Fatalf("causes: %s; disturbed: %s", r.CausesUnknown, r.Disturbed)
	}
	for _, c := range r.Cores[0].Causes {
		if c.Kind == gaps.Switch && c.PID == shell.Process.Pid && c.Lost > 10*time.Millisecond {
			if r.Class < audit.ClassC {
				t.Errorf("class %v on half a core", r.Class)
			}
			return
		}
	}
	t.Errorf("pid %d is in no cause: %+v", shell.Process.Pid, r.Cores[0].Causes)
}
