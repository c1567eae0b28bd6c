package run

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/send"
	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/testdata"
)

const deepConfig = `
feeds:
  deep:
    match: {protocol: udp, destination: 224.2.3.10, port: 16648}
    format: iex-deep
queries:
  bars:
    from: deep
    where: message == "trade"
    key: [symbol]
    window: {tumbling: 1m}
    watermark: {delay: 121s}
    select:
      open: first(price)
      high: max(price)
      low: min(price)
      close: last(price)
      volume: sum(size)
      trades: count()
      notional: sum(price * size)
      vwap: vwap(price, size)
    sinks: [rows]
sinks:
  rows: {jsonl: {path: rows.jsonl}}
`

// sendCapture sends a capture from one end and returns what became of its frames.
func sendCapture(t *testing.T, from *netns.End, args ...string) send.Summary {
	t.Helper()
	out := headrace(t, from, append([]string{"send", "--interface", from.Interface, "--json", "--quiet"}, args...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var s send.Summary
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil {
		t.Fatalf("summary of send: %v\n%s", err, out)
	}
	return s
}

// replayed returns the rows of a replay, sorted, without the messages of the record
// that the file's end cuts: that record is not sent.
func replayed(t *testing.T, end *netns.End, config string, captures ...string) []string {
	t.Helper()
	dir := t.TempDir()
	path, out := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "rows.jsonl")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	headrace(t, end, append([]string{"replay", "-c", path, "--out", out}, captures...)...)
	return rowsOf(t, out)
}

func TestRootRunGivesReplaysRows(t *testing.T) {
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	for _, c := range []struct {
		workers, queues int
		mode            string
	}{{1, 1, "native"}, {2, 1, "native"}, {1, 2, "generic"}, {2, 2, "auto"}} {
		t.Run(fmt.Sprintf("workers=%d/queues=%d/mode=%s", c.workers, c.queues, c.mode), func(t *testing.T) {
			p := netns.NewPair(t, netns.Options{Queues: c.queues})
			want := replayed(t, p.B, deepConfig, capture)
			withoutLoss(t, func() uint64 {
				a := newAppliance(t, p.B, deepConfig, patient+", mode: "+c.mode, "--workers", fmt.Sprint(c.workers))
				a.start()
				s := sendCapture(t, p.A, "--pps", "30000", capture)
				l := xdpLine(t, a.settle(s.Sent))
				if l.Received != s.Sent || l.Difference != 0 || s.Refused != 0 {
					t.Errorf("sent %+v, steered %d, received %d, dropped %v", s, l.Received, l.Applied, l.Dropped)
				}
				if code := a.stop(); code != 0 {
					t.Fatalf("exit code %d", code)
				}
				a.balanced()
				if l.Applied != s.Sent {
					return s.Sent - l.Applied
				}
				if got := a.rows(); !slices.Equal(got, want) {
					t.Errorf("%d rows, replay has %d", len(got), len(want))
				}
				return 0
			})
		})
	}
}

// withoutLoss calls a run of which nothing may be lost, once more if something was: a
// machine whose cores are taken by others for longer than the rings last can do that.
func withoutLoss(t *testing.T, run func() uint64) {
	t.Helper()
	for try := 1; ; try++ {
		lost := run()
		if lost == 0 || t.Failed() {
			return
		}
		if try == 3 {
			t.Fatalf("%d frames were lost at the third try, too", lost)
		}
		t.Logf("%d frames were lost: another try", lost)
	}
}

func TestRootEveryFrameSentIsReceivedOrCountedAsLost(t *testing.T) {
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	p := netns.NewPair(t, netns.Options{Queues: 2})
	a := newAppliance(t, p.B, deepConfig, "rx_ring: 64", "--workers", "2")
	a.start()
	s := sendCapture(t, p.A, "--flat-out", capture)
	a.settle(s.Sent)
	time.Sleep(100 * time.Millisecond)
	l := xdpLine(t, a.report())
	lost := uint64(0)
	for _, d := range l.Dropped {
		lost += d.Count
	}
	if l.Received != s.Sent || l.Applied+lost != s.Sent || l.InFlight != 0 || l.Difference != 0 {
		t.Errorf("sent %d: steered %d, received %d, lost %v, in ring %d", s.Sent, l.Received, l.Applied, l.Dropped, l.InFlight)
	}
	t.Logf("sent %d in %.2f s, refused %d, received %d, lost %d", s.Sent, s.Seconds, s.Refused, l.Applied, lost)
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	a.balanced()
}

func TestRootControlKilledLosesNoRowAndDoublesNone(t *testing.T) {
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	p := netns.NewPair(t, netns.Options{})
	want := replayed(t, p.B, deepConfig, capture)
	withoutLoss(t, func() uint64 { return killControl(t, p, capture, want) })
}

// killControl kills the control process ten times while a capture comes in, and
// returns how many frames were lost before the workers.
func killControl(t *testing.T, p *netns.Pair, capture string, want []string) uint64 {
	t.Helper()
	a := newAppliance(t, p.B, deepConfig, patient, "--workers", "1")
	a.start()
	data := a.dataPID()
	other := startTraffic(t, p)
	sent := make(chan send.Summary, 1)
	go func() { sent <- sendCapture(t, p.A, "--pps", "20000", capture) }()
	const kills = 10
	for i := range kills {
		time.Sleep(400 * time.Millisecond)
		_ = a.cmd.Process.Kill()
		a.exit()
		a.launch()
		a.awaitCount("took over the running data plane", i+1)
		a.awaitCount("receiving", i+2)
	}
	s := <-sent
	other.ok()
	l := xdpLine(t, a.settle(s.Sent))
	if got := a.dataPID(); got != data {
		t.Errorf("the data plane is process %d, it was %d", got, data)
	}
	if l.Received != s.Sent || l.Difference != 0 {
		t.Errorf("sent %d, ledger %+v", s.Sent, l)
	}
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	got := a.rows()
	if id := twice(t, got); id != "" {
		t.Errorf("row %s is there twice", id)
	}
	if l.Applied == s.Sent && !slices.Equal(got, want) {
		t.Errorf("%d rows, replay has %d", len(got), len(want))
	}
	return s.Sent - l.Applied
}

// What was taken over is not taken for dead when the time is over in which it had to
// answer.
func TestRootADataPlaneThatWasTakenOverStays(t *testing.T) {
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, deepConfig, patient, "--workers", "1")
	a.start()
	data := a.dataPID()
	_ = a.cmd.Process.Kill()
	a.exit()
	a.launch()
	a.await("took over the running data plane")
	time.Sleep(adoptPatience + time.Second)
	if n := a.report().Snapshot.Restarts; n != 0 || a.dataPID() != data || strings.Contains(a.log.String(), "died") {
		t.Errorf("%d restarts, data plane %d, before %d", n, a.dataPID(), data)
	}
	if code := a.stop(); code != 0 {
		t.Errorf("ended with %d", code)
	}
}

func TestRootAColdDataPlaneThatDiesIsBackWithinASecond(t *testing.T) {
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	p := netns.NewPair(t, netns.Options{})
	want := replayed(t, p.B, deepConfig, capture)
	a := newAppliance(t, p.B, deepConfig+"crash: cold\n", "rx_ring: 8192, fill_ring: 8192", "--workers", "2")
	a.start()
	sent := make(chan send.Summary, 1)
	go func() { sent <- sendCapture(t, p.A, "--pps", "30000", capture) }()
	other := startTraffic(t, p)
	fastest := time.Hour
	for i := range 2 {
		time.Sleep(1300 * time.Millisecond)
		pid := a.dataPID()
		killed := time.Now()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		a.awaitCount("started the data plane again", i+1)
		took := time.Since(killed)
		t.Logf("back after %v", took)
		fastest = min(fastest, took)
	}
	if fastest > time.Second { // one of two: the cores may be busy with others
		t.Errorf("the data plane was back after %v", fastest)
	}
	s := <-sent
	time.Sleep(200 * time.Millisecond)
	r := a.settle(s.Sent)
	if r.Snapshot.Restarts != 2 {
		t.Errorf("status tells of %d restarts", r.Snapshot.Restarts)
	}
	l := xdpLine(t, r)
	if l.Difference != 0 || l.Received == 0 || l.Applied == 0 || l.Applied >= s.Sent {
		t.Errorf("sent %d; the ledger has %+v", s.Sent, l)
	}
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	a.balanced()
	got := a.rows()
	if id := twice(t, got); id != "" {
		t.Errorf("row %s is there twice", id)
	}
	incomplete := 0
	for _, row := range got {
		if strings.Contains(row, `"complete":false`) {
			incomplete++
		} else if !slices.Contains(want, row) {
			t.Errorf("a row that says that it is complete is not the one of replay: %s", row)
		}
	}
	if len(got) == 0 || incomplete == 0 {
		t.Errorf("%d rows, %d of them incomplete", len(got), incomplete)
	}
	other.ok()
	t.Logf("%d rows, %d of them incomplete", len(got), incomplete)
}

func TestRootAColdDataPlaneThatKeepsDyingIsGivenUp(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, deepConfig+"crash: cold\n", "rx_ring: 64", "--workers", "1")
	a.start()
	for i := range restartsMax + 1 {
		if i > 0 {
			a.awaitCount("started the data plane again", i)
		}
		_ = syscall.Kill(a.dataPID(), syscall.SIGKILL)
	}
	if code := a.exit(); code != 1 || !strings.Contains(a.log.String(), "it is not started again") {
		t.Errorf("exit code %d:\n%s", code, a.log)
	}
	startTraffic(t, p).ok()
}

func TestRootALinkThatComesBackGoesOn(t *testing.T) {
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, deepConfig, "", "--workers", "1")
	a.start()
	p.SetUp(t, p.B, false)
	a.await("the link is down")
	p.SetUp(t, p.B, true)
	a.await("the link is up again")
	s := sendCapture(t, p.A, "--pps", "60000", capture)
	if l := xdpLine(t, a.settle(s.Sent)); l.Received != s.Sent || l.Applied == 0 {
		t.Errorf("sent %d, steered %d, received %d", s.Sent, l.Received, l.Applied)
	}
	if code := a.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A feed without sequence numbers cannot see a gap; only the rings know of a loss.
func TestRootRingDropsMarkTheRowsOfAFeedWithoutSequence(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	capture := cars(t, 100_000, 20_000)
	want := replayed(t, p.B, carsConfig, capture)
	a := newAppliance(t, p.B, carsConfig, "rx_ring: 4096, fill_ring: 4096", "--workers", "2")
	a.start()
	sent := make(chan send.Summary, 1)
	go func() { sent <- sendCapture(t, p.A, "--pps", "20000", capture) }()
	// A data plane that stands still for half a second cannot take 10,000 frames that
	// come meanwhile.
	time.Sleep(1500 * time.Millisecond)
	data := a.dataPID()
	_ = syscall.Kill(data, syscall.SIGSTOP)
	time.Sleep(500 * time.Millisecond)
	_ = syscall.Kill(data, syscall.SIGCONT)
	s := <-sent
	r := a.settle(s.Sent)
	lost := uint64(0)
	for _, d := range xdpLine(t, r).Dropped {
		lost += d.Count
	}
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	marked := 0
	for _, row := range a.rows() {
		if strings.Contains(row, `"complete":false`) {
			marked++
		} else if whole := strings.Replace(row, `"firing":"on_time"`, `"firing":"flush"`, 1); !slices.Contains(want, row) && !slices.Contains(want, whole) {
			t.Errorf("a row that lost something does not say so: %s", row)
		}
	}
	t.Logf("sent %d, lost %d; %d of %d rows are marked", s.Sent, lost, marked, len(a.rows()))
	if lost == 0 || marked == 0 {
		t.Error("frames were to be lost, and rows to say so")
	}
}

func TestRootBothKilledLeaveTheInterfaceToTheNetworkStack(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, deepConfig, "", "--workers", "1")
	a.start()
	if out, err := p.B.Output(t, "ip", "-d", "link", "show", p.B.Interface); err != nil || !strings.Contains(out, "xdp") {
		t.Fatalf("no XDP program is attached: %v\n%s", err, out)
	}
	_ = syscall.Kill(a.dataPID(), syscall.SIGKILL)
	_ = a.cmd.Process.Kill()
	a.exit()
	startTraffic(t, p).ok()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		out, err := p.B.Output(t, "ip", "-d", "link", "show", p.B.Interface)
		if err == nil && !strings.Contains(out, "prog/xdp") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the XDP program is still attached: %v\n%s", err, out)
		}
	}
	a.log = nil
	a.start()
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

func TestRootADeletedInterfaceEndsTheRunWithAnError(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, deepConfig, "", "--workers", "2")
	a.start()
	p.Delete(t)
	if code := a.exit(); code != 1 || !strings.Contains(a.log.String(), "interface \\\""+p.B.Interface) && !strings.Contains(a.log.String(), "went away") {
		t.Fatalf("exit code %d:\n%s", code, a.log)
	}
}

func TestRootASecondControlOfTheSameNameIsRefused(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, deepConfig, "", "--workers", "1")
	a.start()
	path, _ := binary()
	out, err := p.B.Output(t, path, "run", "-c", a.config, "--interface", p.B.Interface, "--name", a.name, "--out", a.out)
	if err == nil || !strings.Contains(out, "a run of this name is there already") {
		t.Errorf("a second start: %v\n%s", err, out)
	}
	// Another name does not get the queue either, and leaves the first alone.
	out, err = p.B.Output(t, path, "run", "-c", a.config, "--interface", p.B.Interface, "--name", a.name+"-2", "--out", a.out+"2")
	if err == nil || !strings.Contains(out, "busy") {
		t.Errorf("a start under another name: %v\n%s", err, out)
	}
	if s, r := sendCapture(t, p.A, "--pps", "60000", testdata.Path(t, "iex", "DEEP10.pcap.gz")), a.report(); xdpLine(t, r).Received != s.Sent {
		t.Errorf("sent %d, steered %d", s.Sent, xdpLine(t, r).Received)
	}
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

func TestRootAnotherConfigCannotTakeOver(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, deepConfig+"\norphan_timeout: 2s\n", "", "--workers", "1")
	a.start()
	data := a.dataPID()
	_ = a.cmd.Process.Kill()
	a.exit()
	other := filepath.Join(t.TempDir(), "other.yaml")
	config, _ := os.ReadFile(a.config)
	if err := os.WriteFile(other, []byte(string(config)+"\ncrash: cold\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, _ := binary()
	out, err := p.B.Output(t, path, "run", "-c", other, "--interface", p.B.Interface, "--name", a.name, "--out", a.out, "--workers", "1")
	if err == nil || !strings.Contains(out, "orphan_timeout") || !strings.Contains(out, "crash") {
		t.Errorf("a start with another config: %v\n%s", err, out)
	}
	if syscall.Kill(data, 0) != nil {
		t.Error("the refused control ended the data plane")
	}
	for end := time.Now().Add(5 * time.Second); alive(data); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the data plane is still there after its orphan_timeout")
		}
	}
	// And now the other config can start.
	a.config, a.log = other, nil
	a.start()
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

func TestRootAStopFiresOrDiscardsWhatIsOpen(t *testing.T) {
	netns.Need(t)
	for _, c := range []struct {
		stop string
		rows int
	}{{"flush", 278}, {"discard", 0}} {
		t.Run(c.stop, func(t *testing.T) {
			capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
			p := netns.NewPair(t, netns.Options{})
			// With such a delay nothing closes before the stop.
			config := strings.Replace(deepConfig, "{delay: 121s}", "{delay: 10h}\n    keys: 100", 1) + "\non_stop: " + c.stop + "\n"
			withoutLoss(t, func() uint64 {
				a := newAppliance(t, p.B, config, patient, "--workers", "2")
				a.start()
				s := sendCapture(t, p.A, "--pps", "40000", capture)
				l := xdpLine(t, a.settle(s.Sent))
				if code := a.stop(); code != 0 {
					t.Fatalf("exit code %d", code)
				}
				got := a.rows()
				if l.Applied == s.Sent && len(got) != c.rows {
					t.Errorf("%d rows, want %d", len(got), c.rows)
				}
				for _, row := range got {
					if !strings.Contains(row, `"firing":"flush"`) {
						t.Fatalf("row %s", row)
					}
				}
				return s.Sent - l.Applied
			})
		})
	}
}

func TestRootASecondSignalStopsAtOnce(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, deepConfig, "", "--workers", "1")
	// A sink that nobody reads: the drain would wait for it for ever.
	fifo := filepath.Join(t.TempDir(), "rows")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	a.out = fifo
	a.start()
	data := a.dataPID()
	_ = syscall.Kill(data, syscall.SIGSTOP) // the drain cannot end
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	a.await("stopping")
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	if code := a.exit(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if alive(data) {
		t.Error("the data plane lives on")
	}
}

func TestRootTheDataPlaneHasNoPrivilegesListenerOrGarbageCollection(t *testing.T) {
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	p := netns.NewPair(t, netns.Options{})
	a := newAppliance(t, p.B, deepConfig, patient, "--workers", "2")
	// The control process collects no garbage in this test, so every collection after
	// the start is the data plane's.
	a.env = []string{"GODEBUG=gctrace=1", "GOGC=off"}
	a.start()
	data := a.dataPID()
	before := strings.Count(a.log.String(), "\ngc ")
	sendCapture(t, p.A, "--pps", "30000", capture)
	time.Sleep(2 * time.Second)
	if n := strings.Count(a.log.String(), "\ngc ") - before; n != 0 || before == 0 {
		t.Errorf("%d garbage collections after the start, %d before", n, before)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", data))
	if err != nil || len(tasks) < 3 {
		t.Fatalf("threads of the data plane: %v, %v", tasks, err)
	}
	for _, path := range tasks {
		status, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("%s has not %q", path, want)
			}
		}
	}
	// Its sockets are AF_XDP, the joins and the one to control: none listens.
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", data))
	if err != nil || len(links) == 0 {
		t.Fatal(err)
	}
	listening, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", data))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		target, _ := os.Readlink(l)
		inode, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		inode = strings.TrimSuffix(inode, "]")
		for _, entry := range strings.Split(string(listening), "\n") {
			f := strings.Fields(entry)
			if len(f) >= 7 && f[6] == inode && f[3] == "00010000" {
				t.Errorf("the data plane listens: %s", entry)
			}
		}
	}
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// traffic is that of another protocol through the interface: TCP connections, one
// after the other, as ssh would be.
type traffic struct {
	t    *testing.T
	stop chan struct{}
	done chan []error
}

func startTraffic(t *testing.T, p *netns.Pair) *traffic {
	t.Helper()
	x := &traffic{t, make(chan struct{}), make(chan []error, 1)}
	var listener net.Listener
	var err error
	address := net.JoinHostPort(p.B.IPv4.String(), "22")
	p.B.Do(t, func() { listener, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	const greeting = "SSH-2.0-test\r\n"
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(greeting))
			c.Close()
		}
	}()
	p.A.Go(func() {
		defer listener.Close()
		var errs []error
		for {
			c, err := net.DialTimeout("tcp", address, 3*time.Second)
			if err == nil {
				_ = c.SetDeadline(time.Now().Add(3 * time.Second))
				_, err = io.ReadFull(c, make([]byte, len(greeting)))
				c.Close()
			}
			if err != nil {
				errs = append(errs, err)
			}
			select {
			case <-x.stop:
				x.done <- errs
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return x
}

// ok ends the traffic; every connection must have carried what was sent.
func (x *traffic) ok() {
	x.t.Helper()
	close(x.stop)
	for _, err := range <-x.done {
		x.t.Errorf("a TCP connection through the interface: %v", err)
	}
}
