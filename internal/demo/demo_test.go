package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/built"
	"github.com/headrace/headrace/internal/show"
	"github.com/headrace/headrace/internal/testdata"
	"github.com/headrace/headrace/internal/veth"
)

func TestMain(m *testing.M) {
	code := m.Run()
	_ = built.Remove()
	os.Exit(code)
}

// told is an output that says when a text has come.
type told struct {
	mu   sync.Mutex
	b    bytes.Buffer
	want string
	came chan struct{}
}

func (o *told) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b.Write(p)
	if o.want != "" && strings.Contains(o.b.String(), o.want) {
		o.want = ""
		close(o.came)
	}
	return len(p), nil
}

func (o *told) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func testSettings(t *testing.T, out io.Writer) *settings {
	t.Helper()
	path, err := built.Headrace("")
	if err != nil {
		t.Fatal(err)
	}
	root, err := show.Repository()
	if err != nil {
		t.Fatal(err)
	}
	t.Parallel() // they mostly wait
	// Everything is made below the test's own folder, by a binary of its own: what is
	// left is seen.
	temp := t.TempDir()
	own := filepath.Join(t.TempDir(), "headrace")
	if err := os.Link(path, own); err != nil {
		t.Fatal(err)
	}
	return &settings{root: root, binary: own, temp: temp, rate: 10_000, pps: 60_000, out: out}
}

// demand checks what every show must have printed and that it left nothing.
func demand(t *testing.T, s *settings, out string, leaves ...string) {
	t.Helper()
	if !strings.Contains(out, "The ledger balances") {
		t.Error("it does not say that the ledger balances")
	}
	rows := regexp.MustCompile(`(?m)^\{"query":"bars".*\}$`).FindAllString(out, -1)
	if len(rows) == 0 {
		t.Error("no row was printed")
	}
	for _, r := range rows {
		if !json.Valid([]byte(r)) {
			t.Errorf("not a row: %s", r)
		}
	}
	nothingLeft(t, s, out, leaves...)
	if t.Failed() {
		t.Log(out)
	}
}

func nothingLeft(t *testing.T, s *settings, out string, leaves ...string) {
	t.Helper()
	for _, name := range regexp.MustCompile(`hr-[0-9a-f]{8}`).FindAllString(out, -1) {
		if _, err := os.Stat("/run/netns/" + name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("namespace %s is left: %v", name, err)
		}
	}
	found, _ := filepath.Glob(filepath.Join(s.temp, "headrace-demo-*", "*"))
	if len(found) != len(leaves) {
		t.Errorf("files left: %v, want %v", found, leaves)
	}
	for i := range min(len(found), len(leaves)) {
		if filepath.Base(found[i]) != leaves[i] {
			t.Errorf("%s is left, want %s", found[i], leaves[i])
		}
	}
	if left := processesOf(t, s.binary); len(left) > 0 {
		t.Errorf("processes left: %d", left)
	}
	for _, name := range regexp.MustCompile(`demo-[0-9a-f]{8}`).FindAllString(out, -1) {
		if found, _ := filepath.Glob(filepath.Join("/run/headrace", name+"*")); len(found) > 0 {
			t.Errorf("left: %v", found)
		}
	}
}

func TestWithoutRootTheSameRowsComeByReplay(t *testing.T) {
	var out bytes.Buffer
	s := testSettings(t, &out)
	s.replay, s.duration = true, 3*time.Second
	if err := play(t.Context(), t.Context(), s); err != nil {
		t.Fatal(err, out.String())
	}
	if !strings.HasPrefix(out.String(), "No network is made, since REPLAY is set.\n") {
		t.Errorf("it does not begin by saying why there is no network:\n%s", out.String())
	}
	if !strings.Contains(out.String(), "30,000 messages generated") {
		t.Errorf("not 3 s at 10,000 messages/s:\n%s", out.String())
	}
	demand(t, s, out.String())
}

func TestACaptureIsReplayedWithTheExampleThatFits(t *testing.T) {
	var out bytes.Buffer
	s := testSettings(t, &out)
	s.replay, s.keep, s.capture = true, true, testdata.Path(t, "iex", "DEEP10.pcap.gz")
	if err := play(t.Context(), t.Context(), s); err != nil {
		t.Fatal(err, out.String())
	}
	if !strings.Contains(out.String(), "examples/iex-bars.yaml") || !strings.Contains(out.String(), "392,010 messages, 278 rows, 0 missing") {
		t.Errorf("want DEEP10's 278 rows by examples/iex-bars.yaml:\n%s", out.String())
	}
	demand(t, s, out.String(), "rows.jsonl")
}

func TestACaptureThatFitsNoExampleIsRefused(t *testing.T) {
	var out bytes.Buffer
	s := testSettings(t, &out)
	s.replay, s.capture = true, filepath.Join(t.TempDir(), "cars.pcap")
	made := exec.Command(s.binary, "generate", "csv", "--count", "100", "--out", s.capture)
	if b, err := made.CombinedOutput(); err != nil {
		t.Fatal(err, string(b))
	}
	err := play(t.Context(), t.Context(), s)
	if err == nil || !strings.Contains(err.Error(), "CONFIG=FILE") {
		t.Errorf("play = %v, want the advice to give CONFIG", err)
	}
	s.config = s.example("cars-csv.yaml")
	if err := play(t.Context(), t.Context(), s); err != nil {
		t.Error(err, out.String())
	}
	nothingLeft(t, s, out.String())
}

func TestAStopDuringAReplayLeavesNothing(t *testing.T) {
	out := &told{want: "of it into a file", came: make(chan struct{})}
	s := testSettings(t, out)
	s.replay, s.rate = true, 500_000 // the file is still being written
	stop, cancel := context.WithCancel(t.Context())
	go func() {
		<-out.came
		cancel()
	}()
	if err := play(stop, t.Context(), s); err != nil {
		t.Errorf("play = %v", err)
	}
	nothingLeft(t, s, out.String())
}

// The program itself, whose reader goes away.
func TestAClosedPipeLeavesNothing(t *testing.T) {
	if os.Getenv("DEMO_TEST_MAIN") != "" {
		os.Exit(run())
	}
	s := testSettings(t, io.Discard)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestAClosedPipeLeavesNothing$")
	cmd.Env = append(os.Environ(), "DEMO_TEST_MAIN=1", "HEADRACE="+s.binary, "TMPDIR="+s.temp, "DURATION=10s", "RATE=10000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	begun := make([]byte, 200)
	n, err := out.Read(begun)
	if err != nil {
		t.Fatal(err)
	}
	out.Close()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("its end: %v, want exit status 1", err)
	}
	nothingLeft(t, s, string(begun[:n]))
}

// needRoot skips a test that cannot make a network.
func needRoot(t *testing.T) {
	t.Helper()
	if missing, err := veth.Missing(); err != nil || missing != "" {
		t.Skipf("needs a network of its own: %s is missing (run as root): %v", missing, err)
	}
}

func TestRootAGeneratedFeedBecomesRows(t *testing.T) {
	needRoot(t)
	var out bytes.Buffer
	s := testSettings(t, &out)
	s.duration = 4 * time.Second
	begin := time.Now()
	if err := play(t.Context(), t.Context(), s); err != nil {
		t.Fatal(err, out.String())
	}
	if took := time.Since(begin); took > s.duration+time.Second {
		t.Errorf("it took %s of %s", took, s.duration)
	}
	for _, want := range []string{`missing \d`, `A lost \d\.\d\d %`, `row latency p50 [0-9.]+ [mµ]?s, p99 `, `watermark 2026-03-02 14:30:`, `(?m)^xdp `} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("nothing matches %s", want)
		}
	}
	m := regexp.MustCompile(`on neither line; headrace counts`).FindString(out.String())
	if m == "" {
		t.Error("what is missing is not compared with what was held back")
	}
	demand(t, s, out.String())
}

func TestRootACaptureIsSentOnce(t *testing.T) {
	needRoot(t)
	var out bytes.Buffer
	s := testSettings(t, &out)
	s.capture = testdata.Path(t, "iex", "DEEP10.pcap.gz")
	if err := play(t.Context(), t.Context(), s); err != nil {
		t.Fatal(err, out.String())
	}
	if !strings.Contains(out.String(), "121,314 frames were sent") {
		t.Error("not all whole frames of DEEP10 were sent")
	}
	demand(t, s, out.String())
}

func TestRootAStopEndsItInGoodOrder(t *testing.T) {
	needRoot(t)
	out := &told{want: `{"query":"bars"`, came: make(chan struct{})}
	s := testSettings(t, out)
	stop, cancel := context.WithCancel(t.Context())
	go func() {
		<-out.came
		cancel()
	}()
	if err := play(stop, t.Context(), s); err != nil {
		t.Errorf("play = %v", err)
	}
	demand(t, s, out.String())
}

func TestRootAFailureSaysWhyAndLeavesNothing(t *testing.T) {
	needRoot(t)
	var out bytes.Buffer
	s := testSettings(t, &out)
	s.config = filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(s.config, []byte("feed: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := play(t.Context(), t.Context(), s)
	if err == nil || !strings.Contains(err.Error(), "broken.yaml:1:1") {
		t.Errorf("play = %v, want what headrace run said", err)
	}
	nothingLeft(t, s, out.String())
}

// A data plane outlives its control plane; not this one's.
func TestRootAKilledControlPlaneIsAFailureAndLeavesNothing(t *testing.T) {
	needRoot(t)
	out := &told{want: `{"query":"bars"`, came: make(chan struct{})}
	s := testSettings(t, out)
	failed := make(chan error, 1)
	go func() { failed <- play(t.Context(), t.Context(), s) }()
	select {
	case <-out.came:
	case err := <-failed:
		t.Fatalf("no row came: %v\n%s", err, out.String())
	}
	killed := 0
	for _, id := range processesOf(t, s.binary) {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", id)); bytes.Contains(line, []byte("\x00run\x00")) {
			killed++
			if err := syscall.Kill(id, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
	if err := <-failed; killed != 1 || err == nil || !strings.Contains(err.Error(), "ended early") {
		t.Errorf("play = %v after %d kills", err, killed)
	}
	nothingLeft(t, s, out.String())
}

// processesOf returns the ids of the processes whose executable is at path.
func processesOf(t *testing.T, path string) []int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var ids []int
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == path {
			id, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
	}
	return ids
}
