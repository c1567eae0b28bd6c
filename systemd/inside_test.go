package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/guest"
)

const (
	control  = "headrace.service"
	data     = "headrace-dataplane@headrace.service"
	dataAt   = "/run/headrace-data/headrace.sock"
	rowsFile = "/var/lib/headrace/rows.jsonl"
	dropIns  = "/run/systemd/system"
	patience = 90 * time.Second // an emulated machine
	allCaps  = "0000000000000000"
	standIn  = "/usr/local/bin/headrace-standin"
	binary   = "/usr/local/bin/headrace"
	pipeline = `
interfaces: {hb: {rx_ring: 8192, fill_ring: 8192}}
feeds:
  cars:
    match: {protocol: udp, destination: 239.1.1.1, port: 9000}
    format: json
    columns: {driver_id: int64, event_type: text, fare: decimal(2)}
    time: {column: timestamp, unit: rfc3339}
queries:
  counts:
    from: cars
    key: [event_type]
    window: {tumbling: 1s}
    watermark: {delay: 0s}
    select: {count: count(), fare: sum(fare)}
    sinks: [rows]
sinks:
  rows: {jsonl: {path: rows.jsonl}}
`
)

func inside(t *testing.T) {
	t.Helper()
	if !guest.Inside() {
		t.Skip("needs systemd as the first process: TestGuestUnits runs it in a guest")
	}
}

// command runs a program and returns what it says.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, out, journal())
	}
	return strings.TrimSpace(string(out))
}

// journal is what the units said last.
func journal() []byte {
	out, _ := exec.Command("journalctl", "-b", "-n", "60", "--no-pager", "-o", "cat", "-u", "headrace*").Output()
	return out
}

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	return command(t, "systemctl", args...)
}

func property(t *testing.T, unit, name string) string {
	t.Helper()
	return systemctl(t, "show", "-P", name, unit)
}

// until waits for what is said to become true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(300 * time.Millisecond) { // each look is several programs
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s\n%s", patience, what, journal())
		}
	}
}

// dropIn changes a unit for the length of a test.
func dropIn(t *testing.T, unit, text string) {
	t.Helper()
	dir := filepath.Join(dropIns, unit+".d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "test.conf")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "daemon-reload")
	t.Cleanup(func() {
		_ = exec.Command("systemctl", "stop", "headrace.target", control, data, "headrace-dataplane@headrace.socket").Run()
		_ = exec.Command("systemctl", "clean", "--what=fdstore", control).Run()
		_ = os.Remove(file)
		_ = exec.Command("systemctl", "daemon-reload").Run()
		_ = exec.Command("systemctl", "reset-failed").Run()
	})
}

// status are the lines of a process's status, by name.
func status(t *testing.T, pid string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		lines[name] = strings.TrimSpace(value)
	}
	return lines
}

// confinedAs checks a process's user and that it has these capabilities and no other way
// to any.
func confinedAs(t *testing.T, pid, user, effective string) {
	t.Helper()
	s := status(t, pid)
	id := command(t, "id", "-u", user)
	if got := strings.Fields(s["Uid"]); len(got) != 4 || got[0] != id || got[1] != id {
		t.Errorf("process %s: user %v, want %s (%s)", pid, got, id, user)
	}
	for name, want := range map[string]string{"CapEff": effective, "CapPrm": effective, "CapBnd": effective, "NoNewPrivs": "1", "Seccomp": "2"} {
		if s[name] != want {
			t.Errorf("process %s of %s: %s is %s, want %s", pid, user, name, s[name], want)
		}
	}
}

// controlCaps are CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON and CAP_BPF.
var controlCaps = fmt.Sprintf("%016x", uint64(1<<12|1<<13|1<<38|1<<39))

// ask says a word to the stand-in of the data plane.
func ask(word string) (string, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: dataAt, Net: "unixpacket"})
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte(word)); err != nil {
		return "", err
	}
	b := make([]byte, 256)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func TestInsideTheDataPlanesUnitIsConfinedAndWatched(t *testing.T) {
	inside(t)
	dropIn(t, "headrace-dataplane@.service", "[Service]\nExecStart=\nExecStart="+standIn+"\nEnvironment="+standInEnv+"=data\nBindReadOnlyPaths="+standIn+"\nWatchdogSec=6\n")
	systemctl(t, "start", data)
	pid := property(t, data, "MainPID")
	confinedAs(t, pid, "headrace-data", allCaps)
	if s := status(t, pid); s["Seccomp_filters"] < "2" {
		t.Errorf("%s filters, the unit's and its own are two", s["Seccomp_filters"])
	}
	if links := command(t, "nsenter", "-t", pid, "-n", "ip", "-o", "link"); strings.Contains(links, "\n") || !strings.Contains(links, "lo:") {
		t.Errorf("it sees interfaces: %s", links)
	}
	if nice := command(t, "ps", "-o", "ni=", "-p", pid); strings.TrimSpace(nice) != "-10" {
		t.Errorf("nice value %s", nice)
	}

	// A forbidden call is denied, and in the kernel's log, which leaves out what is too much
	// at once.
	until(t, "the call in the log", func() bool {
		if said, err := ask("open"); err != nil || said != "operation not permitted" {
			t.Errorf("open: %q, %v", said, err)
		}
		log, _ := exec.Command("journalctl", "-b", "--no-pager", "-o", "cat", "_TRANSPORT=audit", "+", "_TRANSPORT=kernel").Output()
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "pid="+pid) && strings.Contains(line, "syscall=257") {
				t.Log(strings.TrimSpace(line))
				return true
			}
		}
		return false
	})

	// However it ends, it is there again, and so is its socket.
	again := func(how string) {
		t.Helper()
		until(t, "another process after "+how, func() bool {
			now := property(t, data, "MainPID")
			return now != pid && now != "0" && property(t, data, "ActiveState") == "active"
		})
		pid = property(t, data, "MainPID")
		if said, err := ask("word"); err != nil || said != "fine" {
			t.Errorf("after %s: %q, %v", how, said, err)
		}
	}
	command(t, "kill", "-KILL", pid)
	again("SIGKILL")
	systemctl(t, "restart", data)
	again("a restart")
	command(t, "kill", "-STOP", pid)
	again("SIGSTOP and the watchdog")
	if said, err := ask("hang"); err != nil {
		t.Errorf("hang: %q, %v", said, err)
	}
	again("a worker that hangs")
}

// idle is a data plane of which nothing is asked.
const idle = "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\nType=exec\nBindReadOnlyPaths=/bin /usr/bin\nWatchdogSec=0\n"

func TestInsideKeptDescriptorsComeBack(t *testing.T) {
	inside(t)
	dropIn(t, control, "[Service]\nExecStartPre=\nExecStart=\nExecStart="+standIn+"\nEnvironment="+standInEnv+"=control\nWatchdogSec=6\n")
	// The target is loaded, and refers to the unit; the data plane is not of interest here.
	dropIn(t, "headrace-dataplane@.service", idle)
	systemctl(t, "start", "headrace.target")
	inherited := func(how string, want int) {
		t.Helper()
		until(t, "the unit up after "+how, func() bool { return property(t, control, "ActiveState") == "active" })
		if got := property(t, control, "StatusText"); got != fmt.Sprintf("inherited %d", want) {
			t.Errorf("after %s: %q, want %d descriptors", how, got, want)
		}
	}
	ended := func(want string) {
		t.Helper()
		if text, err := os.ReadFile(endedFile); err != nil || string(text) != want {
			t.Errorf("it was ended by %q, %v, want %q", text, err, want)
		}
	}
	inherited("the first start", 0)
	confinedAs(t, property(t, control, "MainPID"), "headrace", controlCaps)
	systemctl(t, "restart", control)
	inherited("a restart", keptCount)
	ended("user defined signal 2") // leave everything for the next one
	systemctl(t, "stop", control)
	ended("terminated") // finish what is open
	systemctl(t, "start", control)
	inherited("a stop and a start", keptCount)
	pid := property(t, control, "MainPID")
	command(t, "kill", "-KILL", pid)
	until(t, "another process", func() bool { now := property(t, control, "MainPID"); return now != pid && now != "0" })
	inherited("SIGKILL", keptCount)
	pid = property(t, control, "MainPID")
	command(t, "kill", "-STOP", pid)
	until(t, "another process", func() bool { now := property(t, control, "MainPID"); return now != pid && now != "0" })
	inherited("SIGSTOP and the watchdog", keptCount)
	systemctl(t, "reload", control)
	if got := property(t, control, "StatusText"); got != "reloaded" {
		t.Errorf("after a reload: %q", got)
	}
}

func TestInsideTheSlicesProcessorsAreIsolated(t *testing.T) {
	inside(t)
	partition := "/sys/fs/cgroup/headrace.slice/cpuset.cpus.partition"
	dropIn(t, "headrace.slice", "[Slice]\nAllowedCPUs=1\n")
	systemctl(t, "start", "headrace.slice")
	t.Cleanup(func() { _ = exec.Command("systemctl", "stop", "headrace-isolate.service", "headrace.slice").Run() })
	systemctl(t, "start", "headrace-isolate.service")
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	if got := read(partition); got != "isolated" {
		t.Errorf("the partition is %q; %s", got, systemctl(t, "status", "headrace-isolate.service"))
	}
	if got := read("/sys/fs/cgroup/cpuset.cpus.isolated"); got != "1" {
		t.Errorf("isolated: %q", got)
	}
	if got := status(t, "1")["Cpus_allowed_list"]; got != "0" {
		t.Errorf("the first process may run on %s", got)
	}
	systemctl(t, "stop", "headrace-isolate.service")
	if got := read(partition); got != "member" {
		t.Errorf("after the stop the partition is %q", got)
	}
}

// knows reports whether headrace has a flag.
func knows(t *testing.T, sub, flag string) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, sub, "--help").CombinedOutput()
	return err == nil && strings.Contains(string(out), flag)
}

// network makes two hosts and the cable between them, and the config of the second.
func network(t *testing.T) {
	t.Helper()
	command(t, "sh", "-ec", `ip netns add sender; ip link add ha netns sender type veth peer name hb
ip -n sender link set ha up; ip -n sender addr add 10.0.0.1/24 dev ha; ip link set hb up; ip addr add 10.0.0.2/24 dev hb`)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", "sender").Run() })
	if err := os.WriteFile("/etc/headrace/headrace.yaml", []byte(pipeline), 0o644); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(rowsFile)
}

// generate sends a stream and returns what to expect of its rows.
func generate(t *testing.T, count, rate int) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), "ip", "netns", "exec", "sender", binary, "generate", "json", "--interface", "ha", "--count", strconv.Itoa(count), "--rate", strconv.Itoa(rate), "--quiet")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// counted is the sum of the rows' counts.
func counted(t *testing.T) (sum int) {
	t.Helper()
	text, err := os.ReadFile(rowsFile)
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		_, rest, ok := bytes.Cut(line, []byte(`"count":`))
		end := bytes.IndexAny(rest, ",}")
		n, err := strconv.Atoi(string(rest[:max(end, 0)]))
		if !ok || err != nil {
			t.Fatalf("row %s: %v", line, err)
		}
		sum += n
	}
	return sum
}

// receiving waits until every worker does.
func receiving(t *testing.T) {
	t.Helper()
	until(t, "headrace receives", func() bool {
		out, err := exec.Command(binary, "status", "--name", "headrace").CombinedOutput()
		return err == nil && bytes.Contains(out, []byte("running"))
	})
}

func TestInsideRowsComeOutOfConfinedControl(t *testing.T) {
	inside(t)
	network(t)
	whole := knows(t, "run", "--data-socket") && knows(t, "dataplane", "--listen-fd")
	if !whole {
		// Until the data plane takes its start over the socket, control starts it itself: what
		// its unit adds is tried with the stand-in.
		dropIn(t, "headrace-dataplane@.service", idle)
		dropIn(t, control, "[Service]\nType=exec\nWatchdogSec=0\nNotifyAccess=none\nSystemCallFilter=capset\nExecStart=\nExecStart="+binary+" run -c /etc/headrace/headrace.yaml --name headrace\n")
	}
	systemctl(t, "start", control)
	receiving(t)
	pid := property(t, control, "MainPID")
	confinedAs(t, pid, "headrace", controlCaps)
	if whole {
		confinedAs(t, property(t, data, "MainPID"), "headrace-data", allCaps)
	}
	const count = 6000
	if err := generate(t, count, 1000).Wait(); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "stop", control)
	if got := counted(t); got != count {
		t.Errorf("%d events in the rows, %d were sent", got, count)
	}
	if got := property(t, control, "Result"); got != "success" {
		t.Errorf("the unit ended with %s", got)
	}
}

// What happens to a unit under traffic, and what may be lost by it.
func TestInsideNothingIsLostByARestart(t *testing.T) {
	inside(t)
	if !knows(t, "run", "--data-socket") || !knows(t, "dataplane", "--listen-fd") {
		t.Skip("needs `headrace run --data-socket` and `headrace dataplane --listen-fd`: this binary starts its data plane itself")
	}
	upgrade := func(t *testing.T) {
		t.Helper()
		if exec.Command(binary, "upgrade", "--help").Run() != nil {
			t.Skip("needs `headrace upgrade`")
		}
		command(t, binary, "upgrade", "--name", "headrace")
	}
	kill := func(unit, signal string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			pid := property(t, unit, "MainPID")
			command(t, "kill", "-"+signal, pid)
			until(t, "another process", func() bool { now := property(t, unit, "MainPID"); return now != pid && now != "0" })
		}
	}
	const count, rate = 20_000, 500
	for _, c := range []struct {
		name   string
		strike func(*testing.T)
		within bool // the restart budget: nothing may be lost
	}{
		{"nothing happens", func(*testing.T) {}, true},
		{"the data plane's unit is restarted", func(t *testing.T) { t.Helper(); systemctl(t, "restart", data) }, true},
		{"control's unit is restarted", func(t *testing.T) { t.Helper(); systemctl(t, "restart", control) }, true},
		{"the data plane is upgraded", upgrade, true},
		{"the data plane is killed", kill(data, "KILL"), true},
		{"both are restarted", func(t *testing.T) { t.Helper(); systemctl(t, "restart", control, data) }, true},
		{"both are killed", func(t *testing.T) {
			t.Helper()
			one, other := property(t, control, "MainPID"), property(t, data, "MainPID")
			command(t, "kill", "-KILL", one, other)
			for unit, pid := range map[string]string{control: one, data: other} {
				until(t, "another process", func() bool { now := property(t, unit, "MainPID"); return now != pid && now != "0" })
			}
		}, true},
		{"control is killed", kill(control, "KILL"), true},
		{"the data plane is stopped, the watchdog finds it", kill(data, "STOP"), false},
		{"control is stopped, the watchdog finds it", kill(control, "STOP"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			network(t)
			systemctl(t, "start", control)
			receiving(t)
			stream := generate(t, count, rate)
			until(t, "rows", func() bool { return counted(t) > 0 })
			c.strike(t)
			if err := stream.Wait(); err != nil {
				t.Fatal(err)
			}
			receiving(t)
			report := command(t, binary, "status", "--name", "headrace")
			systemctl(t, "stop", control)
			got := counted(t)
			t.Logf("%d of %d events in the rows", got, count)
			if c.within && got != count {
				t.Errorf("%d events in the rows, %d were sent\n%s\n%s", got, count, report, journal())
			}
			if lost := count - got; !c.within && !strings.Contains(report, strconv.Itoa(lost)) {
				t.Errorf("%d were lost, and the ledger does not say so:\n%s", lost, report)
			}
			seen := map[string]bool{}
			text, _ := os.ReadFile(rowsFile)
			for line := range strings.Lines(string(text)) {
				_, id, _ := strings.Cut(line, `"row_id":`)
				_, revision, _ := strings.Cut(line, `"revision":`)
				pair := id[:min(len(id), 36)] + revision[:min(len(revision), 2)]
				if seen[pair] {
					t.Errorf("a row came twice: %s", line)
				}
				seen[pair] = true
			}
		})
	}
}
