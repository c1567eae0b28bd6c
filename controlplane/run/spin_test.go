package run

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/send"
	"github.com/headrace/headrace/internal/netns"
)

// crowd puts this process, and all that it will start, on one CPU, until the test's end.
func crowd(t *testing.T, cpu int) {
	t.Helper()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	if before.Count() < 2 || !before.IsSet(0) || !before.IsSet(1) {
		t.Skip("needs the CPUs 0 and 1")
	}
	var one unix.CPUSet
	one.Set(cpu)
	confineTo(t, os.Getpid(), &one)
	t.Cleanup(func() { confineTo(t, os.Getpid(), &before) })
}

// confineTo sets the CPUs of all threads of a process.
func confineTo(t *testing.T, pid int, to *unix.CPUSet) {
	t.Helper()
	for _, tid := range threads(t, pid) {
		if err := unix.SchedSetaffinity(tid, to); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
}

func threads(t *testing.T, pid int) (tids []int) {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		tids = append(tids, tid)
	}
	return tids
}

// workerThread returns the thread of a worker.
func workerThread(t *testing.T, pid, worker int) int {
	t.Helper()
	for _, tid := range threads(t, pid) {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/comm", pid, tid))
		if strings.TrimSpace(string(name)) == fmt.Sprintf("worker %d", worker) {
			return tid
		}
	}
	t.Fatalf("no thread of process %d is worker %d's", pid, worker)
	return 0
}

// switches returns how often a thread gave up its CPU, and how often that was taken from it.
func switches(t *testing.T, tid int) (voluntary, forced int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		n, _ := strconv.Atoi(strings.TrimSpace(value))
		switch name {
		case "voluntary_ctxt_switches":
			voluntary = n
		case "nonvoluntary_ctxt_switches":
			forced = n
		}
	}
	return voluntary, forced
}

// scrape asks for metrics 100 times a second until stop is closed, and then says how many
// answers there were.
func scrape(end *netns.End, address string, stop <-chan struct{}) <-chan int {
	answers := make(chan int, 1)
	end.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		n := 0
		for {
			select {
			case <-stop:
				answers <- n
				return
			case <-tick.C:
			}
			if answered(address) {
				n++
			}
		}
	})
	return answers
}

// answered reports whether there are metrics at an address. It asks on the calling thread, whose
// namespace that of a client's own goroutines need not be.
func answered(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		return false
	}
	body, err := io.ReadAll(c)
	return err == nil && bytes.Contains(body, []byte("\nheadrace_"))
}

// spinning starts a run whose one worker spins on CPU 1, everything else being on CPU 0.
func spinning(t *testing.T, p *netns.Pair, env ...string) (a *appliance, worker int) {
	t.Helper()
	crowd(t, 0)
	a = newAppliance(t, p.B, carsConfig+fmt.Sprintf("cpus: 1\nmetrics: {listen: \"%s:9469\"}\n", p.B.IPv4), patient+", idle: spin", "--workers", "1")
	a.tags = "faults"
	a.env = append([]string{"GODEBUG=gctrace=1", "GOGC=off"}, env...)
	a.start()
	worker = workerThread(t, a.dataPID(), 0)
	var where unix.CPUSet
	if err := unix.SchedGetaffinity(worker, &where); err != nil || where.Count() != 1 || !where.IsSet(1) {
		t.Fatalf("the worker may run on %v, %v; want CPU 1", where, err)
	}
	p0 := a.report().Snapshot.Placement
	if len(p0.Workers) != 1 || p0.Workers[0].CPUs != "1" || !p0.Workers[0].Resident || p0.Workers[0].Pages == 0 {
		t.Errorf("status says %+v", p0)
	}
	return a, worker
}

// A worker that spins is not disturbed by anything that the process itself does: neither
// by metrics that are asked for, nor by the clock of the runtime's own supervision.
func TestRootAWorkerThatSpinsMakesNoSystemCallAndIsNotSwitched(t *testing.T) {
	netns.Need(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace")
	}
	p := netns.NewPair(t, netns.Options{})
	capture := cars(t, 20000, 2000)
	a, worker := spinning(t, p)
	stop := make(chan struct{})
	answers := scrape(p.A, fmt.Sprintf("%s:9469", p.B.IPv4), stop)
	sent := make(chan send.Summary, 1)
	go func() { sent <- sendCapture(t, p.A, "--pps", "2000", capture) }()
	time.Sleep(time.Second)

	collections := strings.Count(a.log.String(), "\ngc ")
	before, forcedBefore := switches(t, worker)
	time.Sleep(2 * time.Second)
	after, forced := switches(t, worker)
	if after != before {
		t.Errorf("the worker gave up its CPU %d times in 2 s", after-before)
	}
	// A trace of its own, since attaching stops a thread for a moment.
	out, err := exec.Command("timeout", "--signal=INT", "2", strace, "-qq", "-c", "-p", fmt.Sprint(worker)).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && (!asExit(err, &exit) || exit.ExitCode() != 124) {
		if bytes.Contains(out, []byte("not permitted")) {
			t.Skipf("needs ptrace: %s", out)
		}
		t.Fatalf("strace: %v\n%s", err, out)
	}
	if text := strings.TrimSpace(string(out)); text != "" {
		t.Errorf("system calls of the worker in 2 s:\n%s", text)
	}
	if n := strings.Count(a.log.String(), "\ngc ") - collections; n != 0 || collections == 0 {
		t.Errorf("%d garbage collections, %d before", n, collections)
	}
	close(stop)
	n := <-answers
	s := <-sent
	r := a.settle(s.Sent)
	if l := xdpLine(t, r); l.Applied == 0 || l.Difference != 0 {
		t.Errorf("sent %d, ledger %+v", s.Sent, l)
	}
	t.Logf("%d answers to scrapes, %d frames; other tasks took the CPU %d times in 2 s", n, s.Sent, forced-forcedBefore)
	if n < 100 {
		t.Errorf("only %d answers to scrapes", n)
	}
	if code := a.stop(); code != 0 { // a drain ends a worker that spins
		t.Fatalf("exit code %d", code)
	}
}

func asExit(err error, exit **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError) //nolint:errorlint // as os/exec returns it
	*exit = e
	return ok
}

// What has to stop the world gets it stopped, and what ends the process is not held up.
func TestRootAWorkerThatSpinsLetsGoForACollection(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	a, _ := spinning(t, p, "HEADRACE_FUSE=1")
	a.awaitCount(" (forced)", 4) // one at the start, then one a second
	sendSome(t, p, a, 1000)
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

// sendSome sends cars and checks that all arrive.
func sendSome(t *testing.T, p *netns.Pair, a *appliance, count int) {
	t.Helper()
	capture := cars(t, count, 2000)
	before := xdpLine(t, a.report()).Applied
	s := sendCapture(t, p.A, "--pps", "2000", capture)
	if l := xdpLine(t, a.settle(before+s.Sent)); l.Applied != before+s.Sent || l.Difference != 0 {
		t.Errorf("sent %d after %d, ledger %+v", s.Sent, before, l)
	}
}

func TestRootAWorkerThatSpinsDoesNotKeepAProcessThatIsAskedForItsStacks(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	a, _ := spinning(t, p)
	if err := syscall.Kill(a.dataPID(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	a.await("SIGQUIT: quit")
	a.await("dataplane/proc.(*process).keep")
	a.await("goes on where it was")
	sendSome(t, p, a, 1000)
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

func TestRootAWorkerThatSpinsDoesNotKeepAProcessThatFailsElsewhere(t *testing.T) {
	netns.Need(t)
	p := netns.NewPair(t, netns.Options{})
	a, _ := spinning(t, p, "HEADRACE_PANIC=1s")
	a.awaitCount("panic: a test has asked for this", 3)
	a.await("is not started again")
	if strings.Contains(a.log.String(), "left_out") {
		t.Error("a frame was left out for what no worker did")
	}
	if code := a.stop(); code == 0 {
		t.Error("exit code 0 of a run that failed")
	}
}
