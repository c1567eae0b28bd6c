package doctor

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/headrace/headrace/pinning"
	"github.com/headrace/headrace/pinning/audit"
	"github.com/headrace/headrace/pinning/gaps"
	"github.com/headrace/headrace/pinning/topology"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update rewrites it):\n%s", path, got)
	}
}

// measured is a measurement with every kind of line in it.
func measured() *gaps.Report {
	core := gaps.Core{
		CPU: 2, For: 10 * time.Second, Windows: 10000, Least: 21, P50: 35, P99: 2100, P999: 12345, Max: 4321000,
		Gaps: 1203, Lost: 8 * time.Millisecond, Unkept: 3, Switches: 4, Interrupts: 900, Steal: 20 * time.Millisecond,
		Causes: []gaps.Cause{
			{Kind: gaps.Switch, What: "stress", PID: 4711, Gaps: 2, Worst: 4321000, Lost: 8000000},
			{Kind: gaps.Unexplained, Gaps: 1, Worst: 90000, Lost: 90000},
			{Kind: gaps.Tick, Gaps: 1000, Worst: 12345, Lost: 2000000},
			{Kind: gaps.IRQ, What: "36 eth0-rx-0", Gaps: 100, Worst: 5000, Lost: 300000},
			{Kind: gaps.Work, What: "vmstat_update", PID: 31, Gaps: 10, Worst: 4000, Lost: 30000},
			{Kind: gaps.SoftIRQ, What: "RCU", Gaps: 90, Worst: 3000, Lost: 200000},
		},
	}
	for i, n := range []uint64{9000, 500, 400, 80, 18, 0, 0, 0, 0, 0, 0, 2, 0, 0} {
		b := gaps.Bucket{Count: n}
		if i < len(gaps.Edges) {
			b.Below = gaps.Edges[i]
		}
		core.Histogram = append(core.Histogram, b)
	}
	return &gaps.Report{Asked: 10 * time.Second, Over: 2 * time.Microsecond, Cores: []gaps.Core{core}}
}

// report is a report with a finding of each severity.
func report() *Report {
	a := &audit.Report{
		Findings: []audit.Finding{
			{ID: "nic.driver", Subject: "eth0", What: "the driver is known to have native XDP", Measured: "ice 6.12.9", Best: audit.ClassA},
			{ID: "nic.mtu", Subject: "eth0", Severity: audit.Fail, What: "packets may be longer than a chunk", Measured: "MTU 9000, at most 1770", Why: "longer packets are dropped and counted", Fix: "ip link set eth0 mtu 1500", Best: audit.ClassA},
			{ID: "nic.zero_copy", Subject: "eth0", Severity: audit.Unknown, What: "whether the card can do zero-copy was not tried", Measured: "needs CAP_BPF", Fix: "headrace doctor --interface eth0 --probe", Best: audit.ClassA},
			{ID: "cpu.isolation", Severity: audit.Warn, What: "worker cores 2 are shared with every other task", Measured: "isolated: none", Why: "another task takes a turn of about 3 ms on a worker's core (the scheduler's base slice; Documentation/scheduler/sched-eevdf.rst)", Fix: "headrace tune apply bars.yaml", Best: audit.ClassC},
			{ID: "kernel.stat_interval", Severity: audit.Note, What: "statistics of memory are gathered each second", Measured: "vm.stat_interval=1", Fix: "sysctl vm.stat_interval=10", Best: audit.ClassA},
			{ID: "mem.thp", What: "huge pages are made only for who asks", Measured: "madvise", Best: audit.ClassA},
		},
		Class: audit.Verdict{Granted: audit.ClassC, P999: 12345, HeldBack: []audit.Hold{
			{To: audit.ClassC, By: "cpu.isolation", Evidence: "isolated: none"},
			{To: audit.ClassB, By: "noise", Evidence: "p99.9 12.3µs on core 2"},
		}},
	}
	return &Report{
		Version: Version, Host: Host{Name: "box", Kernel: "6.12.9-amd64", Arch: "amd64", CPUs: 4, Nodes: 1},
		Config: "bars.yaml", Interfaces: []string{"eth0"}, Cores: "2", Worst: audit.Fail, ExitCode: 2,
		Class: a.Class, Findings: a.Findings, Noise: measured(), audit: a,
	}
}

func TestTheReportForPeople(t *testing.T) {
	var b bytes.Buffer
	if err := report().write(&b, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", b.Bytes())
	b.Reset()
	if err := report().write(&b, true); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b.Bytes(), []byte("mem.thp: huge pages are made only for who asks (madvise)")) {
		t.Errorf("--all leaves out what is well:\n%s", b.Bytes())
	}
}

func TestTheReportForPrograms(t *testing.T) {
	var b bytes.Buffer
	if err := publish(&b, report(), asked{json: true}); err == nil {
		t.Error("a report of exit code 2 ends well")
	}
	golden(t, "report.json", b.Bytes())
	var back Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back.Findings[1] != report().Findings[1] || back.Class.Granted != audit.ClassC {
		t.Errorf("read back: %+v, %v", back, err)
	}
}

func TestTheMeasurementForPeople(t *testing.T) {
	var b bytes.Buffer
	s := &screen{w: &b}
	r := measured()
	r.Disturbed = "Go's own preemption signals"
	writeNoise(s, r, true)
	r.Cores[0].Causes, r.CausesUnknown = nil, "needs CAP_SYS_ADMIN"
	writeNoise(s, r, false)
	golden(t, "noise.txt", b.Bytes())
}

func TestTheMeasurementForPrograms(t *testing.T) {
	text, err := json.MarshalIndent(NoiseReport{Version, audit.ClassOf(measured()), *measured()}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "noise.json", append(text, '\n'))
}

func TestTheExitCodeIsThatOfTheWorstFinding(t *testing.T) {
	m, err := topology.Read(fstest.MapFS{"sys/devices/system/cpu/online": {Data: []byte("0-1")}})
	if err != nil {
		t.Fatal(err)
	}
	place, err := pinning.Place(m, pinning.Wish{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	// Of a tree without files little is known, and nothing is wrong with the clock.
	f := &audit.Facts{Root: os.DirFS(t.TempDir()), Machine: m, Place: place, Clock: audit.Clock{Synchronized: true, PHC: -1}}
	if r := newReport(f, audit.Options{}); r.ExitCode != 0 || r.Worst > audit.Note {
		for _, x := range r.Findings {
			t.Logf("%+v", x)
		}
		t.Errorf("exit code %d for %v", r.ExitCode, r.Worst)
	}
	f.Clock.Synchronized = false
	if r := newReport(f, audit.Options{}); r.ExitCode != exitWarn || r.Worst != audit.Warn {
		t.Errorf("exit code %d for %v", r.ExitCode, r.Worst)
	}
	f.NICs = []audit.NIC{{State: "down"}}
	if r := newReport(f, audit.Options{}); r.ExitCode != exitFail || r.Worst != audit.Fail {
		t.Errorf("exit code %d for %v", r.ExitCode, r.Worst)
	}
}
