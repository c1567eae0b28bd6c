package run

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/internal/built"
	"github.com/headrace/headrace/internal/netns"
)

// binary returns headrace; the data plane is that same binary.
func binary() (string, error) { return built.Headrace("") }

func TestMain(m *testing.M) {
	code := m.Run()
	_ = built.Remove()
	os.Exit(code)
}

// an appliance is a `headrace run` in a namespace.
type appliance struct {
	t       *testing.T
	end     *netns.End
	config  string
	out     string
	name    string
	args    []string
	env     []string
	managed func(*exec.Cmd) // changes how it is started, as a service manager would; nil: nobody does
	binary  string          // "": headrace as it is
	pps     string          // of what is sent; "": 20000
	tags    string          // of the build

	cmd  *exec.Cmd
	log  *tail
	done chan error
}

// tail is the standard error of a process.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *tail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// patient is an interface's setting with rings for half a second of 30,000 packets/s:
// tests share their cores with others.
const patient = "rx_ring: 16384, fill_ring: 16384"

func newAppliance(t *testing.T, end *netns.End, config, ring string, args ...string) *appliance {
	t.Helper()
	config += fmt.Sprintf("\ninterfaces: {%s: {%s}}\n", end.Interface, ring)
	dir := t.TempDir()
	a := &appliance{t: t, end: end, config: filepath.Join(dir, "config.yaml"), out: filepath.Join(dir, "rows.jsonl"), args: args}
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	a.name = "test-" + hex.EncodeToString(b[:])
	if err := os.WriteFile(a.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && a.log != nil {
			t.Logf("log of headrace:\n%s", a.log)
		}
		if dir, err := status.Dir(a.name); err == nil {
			for _, left := range []string{".run", "-2.run", ".sock"} { // of the killed
				_ = os.RemoveAll(filepath.Join(dir, a.name+left))
			}
		}
	})
	return a
}

// start starts the control process and waits until it receives.
func (a *appliance) start() {
	a.t.Helper()
	a.launch()
	a.await("receiving")
}

func (a *appliance) launch() {
	a.t.Helper()
	path, err := a.binary, error(nil)
	if path == "" {
		path, err = built.Headrace(a.tags)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	args := append([]string{"run", "-c", a.config, "--interface", a.end.Interface, "--name", a.name, "--out", a.out}, a.args...)
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), a.env...)
	if a.log == nil {
		a.log = &tail{}
	}
	// A pipe of our own, which the data plane inherits: Wait must not wait for it.
	r, w, err := os.Pipe()
	if err != nil {
		a.t.Fatal(err)
	}
	cmd.Stderr = w
	if a.managed != nil {
		a.managed(cmd)
	}
	a.end.Start(a.t, cmd)
	w.Close()
	log := a.log
	go func() {
		defer r.Close()
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadBytes('\n')
			_, _ = log.Write(line)
			if err != nil {
				return
			}
		}
	}()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	a.cmd, a.done = cmd, done
	a.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
		}
		if pid := a.dataPID(); pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// await waits for text in the log.
func (a *appliance) await(text string) {
	a.t.Helper()
	a.awaitCount(text, 1)
}

func (a *appliance) awaitCount(text string, n int) {
	a.t.Helper()
	for end := time.Now().Add(15 * time.Second); strings.Count(a.log.String(), text) < n; time.Sleep(2 * time.Millisecond) {
		select {
		case err := <-a.done:
			a.done <- err
			if strings.Count(a.log.String(), text) >= n {
				return
			}
			time.Sleep(50 * time.Millisecond)
			a.t.Fatalf("headrace ended (%v) before it said %q:\n%s", err, text, a.log)
		default:
		}
		if time.Now().After(end) {
			a.t.Fatalf("headrace did not say %q:\n%s", text, a.log)
		}
	}
}

// dataPID returns the process of the data plane that was last talked of, if it lives.
func (a *appliance) dataPID() int {
	if a.log == nil {
		return 0
	}
	pid := 0
	for _, line := range strings.Split(a.log.String(), "\n") {
		for _, key := range []string{"data_plane=", "pid="} {
			if _, rest, ok := strings.Cut(line, key); ok {
				var n int
				if _, err := fmt.Sscanf(rest, "%d", &n); err == nil && strings.Contains(line, "name=") || strings.Contains(line, "restarts=") || strings.Contains(line, "takeovers=") {
					pid = n
				}
			}
		}
	}
	if pid == 0 {
		return 0
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(line, []byte("\x00"+dataCommand+"\x00")) {
		return 0
	}
	return pid
}

// stop ends the run as an operator does and returns its exit code.
func (a *appliance) stop() int {
	a.t.Helper()
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	return a.exit()
}

// exit waits for the end and returns the exit code.
func (a *appliance) exit() int {
	a.t.Helper()
	select {
	case err := <-a.done:
		a.done <- err
		time.Sleep(20 * time.Millisecond) // the log's last lines
		return a.cmd.ProcessState.ExitCode()
	case <-time.After(15 * time.Second):
		a.t.Fatalf("headrace did not end:\n%s", a.log)
	}
	return -1
}

// rows returns the file's rows, sorted.
func (a *appliance) rows() []string { return rowsOf(a.t, a.out) }

func rowsOf(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		t.Errorf("%s ends in a torn line", path)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(b) == 0 {
		lines = nil
	}
	slices.Sort(lines)
	return lines
}

// twice returns an id that two rows have with the same revision, or "".
func twice(t *testing.T, lines []string) string {
	t.Helper()
	seen := map[string]bool{}
	for _, l := range lines {
		var row struct {
			ID       string `json:"row_id"`
			Revision int    `json:"revision"`
		}
		if err := json.Unmarshal([]byte(l), &row); err != nil {
			t.Fatalf("row %q: %v", l, err)
		}
		id := fmt.Sprint(row.ID, " ", row.Revision)
		if seen[id] {
			return id
		}
		seen[id] = true
	}
	return ""
}

// report asks for the status.
func (a *appliance) report() *status.Report {
	a.t.Helper()
	body, err := status.Fetch(a.t.Context(), a.name)
	if err != nil {
		a.t.Fatalf("status: %v\n%s", err, a.log)
	}
	var r status.Report
	if err := json.Unmarshal(body, &r); err != nil {
		a.t.Fatal(err)
	}
	return &r
}

// xdpLine returns the ledger's line of the frames before the workers.
func xdpLine(t *testing.T, r *status.Report) status.Line {
	t.Helper()
	for _, l := range r.Ledger {
		if l.Layer == "xdp" {
			return l
		}
	}
	t.Fatal("no line xdp in the ledger")
	return status.Line{}
}

// settle waits until the workers have received n frames, or until that number stands
// still for a second.
func (a *appliance) settle(n uint64) *status.Report {
	a.t.Helper()
	last, since := uint64(0), time.Now()
	for {
		r := a.report()
		l := xdpLine(a.t, r)
		if l.Applied >= n && l.InFlight == 0 {
			return r
		}
		if l.Applied != last {
			last, since = l.Applied, time.Now()
		}
		if time.Since(since) > time.Second {
			return r
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// headrace runs another subcommand in a namespace to its end.
func headrace(t *testing.T, end *netns.End, args ...string) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := end.Output(t, path, args...)
	if err != nil {
		t.Fatalf("headrace %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

const carsConfig = `
feeds:
  cars:
    match: {protocol: udp, destination: 239.1.1.1, port: 9000}
    format: csv
    columns: {event_type: text, driver_id: int64, fare: decimal(2), at: text}
    time: {column: at, unit: rfc3339}
queries:
  seconds:
    from: cars
    key: [driver_id]
    window: {tumbling: 1s}
    watermark: {delay: 1s}
    select: {count: count(), fares: sum(fare)}
    sinks: [rows]
sinks:
  rows: {jsonl: {path: rows.jsonl}}
`

// cars makes a capture of so many events, at so many a second, for carsConfig.
func cars(t *testing.T, count, rate int) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	capture := filepath.Join(t.TempDir(), "csv.pcap")
	args := []string{"generate", "csv", "--out", capture, "--count", fmt.Sprint(count), "--rate", fmt.Sprint(rate), "--keys", "50", "--quiet"}
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return capture
}

// balanced checks that no ledger of the appliance failed to balance.
func (a *appliance) balanced() {
	a.t.Helper()
	if strings.Contains(a.log.String(), "do not balance") {
		a.t.Errorf("the ledger does not balance:\n%s", a.log)
	}
}

// writesTo names the file of rows in the config itself.
func (a *appliance) writesTo(path string) {
	a.t.Helper()
	text, err := os.ReadFile(a.config)
	if err != nil {
		a.t.Fatal(err)
	}
	a.out = path
	if err := os.WriteFile(a.config, []byte(strings.Replace(string(text), "path: rows.jsonl", "path: "+path, 1)), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// changed writes the appliance's config with a query and perhaps a sink more.
func (a *appliance) changed(extra, sinks string) string {
	a.t.Helper()
	text, err := os.ReadFile(a.config)
	if err != nil {
		a.t.Fatal(err)
	}
	path := filepath.Join(a.t.TempDir(), "more.yaml")
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), "\nsinks:\n", extra+"\nsinks:\n"+sinks, 1)), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

const pricesQuery = `
  prices:
    from: deep
    where: message == "trade"
    key: [symbol]
    window: {tumbling: 5m}
    watermark: {delay: 121s}
    select:
      high: max(price)
    sinks: [%s]
`
