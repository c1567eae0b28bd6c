package guest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSettingsThatCannotBeAreRefusedBeforeAnythingIsDone(t *testing.T) {
	t.Setenv("HEADRACE_GUEST_CACHE", filepath.Join(t.TempDir(), "never"))
	for _, c := range []struct {
		name    string
		config  Config
		command []string
		says    string
	}{
		{"no command", Config{}, nil, "no command"},
		{"an unknown set", Config{Sets: []string{"rdma", "infiniband"}}, []string{"true"}, `set "infiniband", there are macsec, net, numa, rdma, xdp`},
		{"negative CPUs", Config{CPUs: -1}, []string{"true"}, "-1 CPUs"},
		{"too little memory", Config{MemoryMB: 64}, []string{"true"}, "64 MB"},
		{"nodes that are not equal", Config{NUMA: true, CPUs: 3}, []string{"true"}, "two equal nodes of 3 CPUs"},
		{"negative queue pairs", Config{QueuePairs: -4}, []string{"true"}, "-4 queue pairs"},
		{"a host command without a card", Config{HostCommand: "true"}, []string{"true"}, "no card to talk to"},
		{"a negative time limit", Config{Timeout: -time.Second}, []string{"true"}, "time limit -1s"},
		{"a directory that is not there", Config{Dir: "/nowhere"}, []string{"true"}, "directory /nowhere"},
		{"a directory that is a file", Config{Dir: "guest.go"}, []string{"true"}, "directory guest.go"},
		{"an isolated CPU too many", Config{CPUs: 4, Isolate: "2-4"}, []string{"true"}, "isolate CPU 4 of 4"},
		{"CPU 0 isolated", Config{CPUs: 4, Isolate: "0,2"}, []string{"true"}, "isolate CPU 0"},
		{"more than a list in isolate", Config{CPUs: 4, Isolate: "2 init=/bin/sh"}, []string{"true"}, "a list is like"},
	} {
		var out bytes.Buffer
		status, err := Run(t.Context(), c.config, &out, c.command...)
		if status != StatusUnprepared || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: Run = %d, %v, want %d and %q", c.name, status, err, StatusUnprepared, c.says)
		}
	}
	if dir, _ := CacheDir(); isDir(dir) {
		t.Error("the cache was made")
	}
}

func TestEqualSettingsAreNotChangedByEachOther(t *testing.T) {
	modules := append(make([]string, 0, 8), "dummy")
	c := Config{Modules: modules, Sets: []string{"net"}}
	if _, err := c.checked([]string{"true"}); err != nil {
		t.Fatal(err)
	}
	if extra := modules[:2][1]; extra != "" {
		t.Errorf("checked wrote %q behind the caller's modules", extra)
	}
}

func TestWhatIsMissingIsSaidAtOnceWithItsPackages(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	status, err := Run(t.Context(), Config{Sets: []string{"rdma"}, Programs: []string{"of-my-own"}, Files: []string{"/nowhere/*"}}, &bytes.Buffer{}, "true")
	var e *MissingError
	if status != StatusUnprepared || !errors.As(err, &e) {
		t.Fatalf("Run = %d, %v", status, err)
	}
	for _, name := range []string{"qemu-system-x86_64", "ibv_rc_pingpong", "of-my-own", "/nowhere/*"} {
		if !slices.Contains(e.Names, name) {
			t.Errorf("%q does not name %s", e.Names, name)
		}
	}
	for _, p := range []string{"qemu-system-x86", "busybox-static", "ibverbs-utils", "perftest"} {
		if !slices.Contains(e.Packages, p) {
			t.Errorf("%q lacks %s", e.Packages, p)
		}
	}
	unique := slices.Clone(e.Packages)
	slices.Sort(unique)
	if len(slices.Compact(unique)) != len(e.Packages) {
		t.Errorf("%q names a package twice", e.Packages)
	}
	if !strings.Contains(err.Error(), "apt-get install -y --no-install-recommends qemu-system-x86 ") {
		t.Error(err)
	}
}

// What a set needs must be installable: its package known here and installed by make.
func TestEveryProgramOfASetHasAPackageThatMakeInstalls(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^APT_GUEST *:= ((?:.*\\\n)*.*)`).FindSubmatch(makefile)
	if found == nil {
		t.Fatal("the Makefile has no APT_GUEST")
	}
	installed := append(strings.Fields(string(found[1])), "apt", "dpkg", "dash") // those are everywhere
	for name, s := range sets {
		for _, needs := range slices.Concat(s.programs, s.files, always) {
			if p := packages[needs]; !slices.Contains(installed, p) {
				t.Errorf("set %s: %s is in package %q, which make deps-guest does not install", name, needs, p)
			}
		}
	}
}

func TestACommandIsQuotedForTheShell(t *testing.T) {
	words := []string{"a b", "it's", `"$HOME"`, "*", "", "\\n", "x\ny"}
	out, err := exec.Command("sh", "-c", quote(append([]string{"printf", `%s\0`}, words...))).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, words) {
		t.Errorf("the shell read %q, want %q", got, words)
	}
}

func TestSettingsBecomeArgumentsOfQEMU(t *testing.T) {
	t.Setenv("PATH", fakePrograms(t, "qemu-system-x86_64"))
	r := &run{kernel: &kernel{dir: "/k"}, work: "/a,b"}
	r.Config = Config{CPUs: 4, MemoryMB: 512, NUMA: true, Isolate: "2-3", QueuePairs: 4, Append: "quiet2", Accelerator: "tcg", QEMU: []string{"-last"}}
	args, err := r.arguments()
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(args, " ")
	for _, want := range []string{
		"-smp 4 -m 512",
		"node,nodeid=0,cpus=0-1,memdev=node0", "node,nodeid=1,cpus=2-3,memdev=node1", "size=256M",
		"isolcpus=managed_irq,domain,2-3 nohz_full=2-3 rcu_nocbs=2-3 quiet2",
		"queues=4", "vectors=10", "-cpu max", "file:/a,,b/console", "-initrd /a,b/root.cpio", " -last",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %s", want, line)
		}
	}
	r.Config = Config{CPUs: 1, MemoryMB: 512, Accelerator: "kvm"}
	if args, err = r.arguments(); err != nil {
		t.Fatal(err)
	}
	line = strings.Join(args, " ")
	if strings.Contains(line, "-numa") || strings.Contains(line, "isolcpus") || !strings.Contains(line, "-nic none") || !strings.Contains(line, "-cpu host") {
		t.Errorf("the plain guest is %s", line)
	}
}

// fakePrograms makes a directory with programs that only have a name.
func fakePrograms(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// An ending of QEMU without a word of the guest is one of three, by who ended it.
func TestAGuestWithoutAStatusIsJudgedByHowQEMUEnded(t *testing.T) {
	sh := func(script string) error { return exec.Command("sh", "-c", script).Run() }
	over, stop := context.WithTimeout(t.Context(), 0)
	defer stop()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name   string
		ctx    context.Context
		ended  error
		status int
		is     error
	}{
		{"powered off", t.Context(), nil, StatusDied, ErrDied},
		{"killed by somebody", t.Context(), sh("kill -9 $$"), StatusDied, ErrDied},
		{"refused its arguments", t.Context(), sh("exit 1"), StatusUnprepared, nil},
		{"is not there", t.Context(), exec.ErrNotFound, StatusUnprepared, exec.ErrNotFound},
		{"ran past its limit", over, sh("kill -9 $$"), StatusTimeLimit, ErrTimeLimit},
		{"given up by the caller", canceled, sh("kill -9 $$"), StatusDied, context.Canceled},
	} {
		r := &run{work: t.TempDir()}
		if err := os.WriteFile(r.consoleFile(), []byte("last words\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		status, err := r.withoutVerdict(c.ctx, c.ended, "")
		if status != c.status || err == nil || (c.is != nil && !errors.Is(err, c.is)) {
			t.Errorf("%s: %d, %v, want %d, %v", c.name, status, err, c.status, c.is)
		}
		var console *ConsoleError
		if errors.As(err, &console) != (status != StatusUnprepared) || (console != nil && console.Tail != "last words") {
			t.Errorf("%s: console %+v", c.name, console)
		}
	}
}

func TestOnlyAPanicBeforeTheFirstProcessIsTheEmulators(t *testing.T) {
	const panics = "[    2.461492] Kernel panic - not syncing: Fatal exception in interrupt\n"
	for console, want := range map[string]bool{
		"": false, "[    1.0] a warning\n": false, panics: true, "guest: init runs\r\n" + panics: false, "guest: init runs\r\n": false,
	} {
		if got := panickedEarly(console); got != want {
			t.Errorf("panickedEarly(%q) = %v", console, got)
		}
	}
}

func TestTheStatusLineIsReadWholeOrNotAtAll(t *testing.T) {
	for _, c := range []struct {
		said   string
		status int
		ok     bool
		says   string
	}{
		{"exit 3 2.71 4.00\n", 3, true, ""},
		{"exit 0 2.71 4.00\n", 0, true, ""},
		{"unprepared module macsec: no such device\n", StatusUnprepared, true, "module macsec: no such device"},
		{"", 0, false, ""},
		{"exit 0", 0, false, ""}, // cut off: it might have been 01
	} {
		status, ok, err := (&run{}).verdict(c.said)
		if status != c.status && ok || ok != c.ok || (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("verdict(%q) = %d, %v, %v", c.said, status, ok, err)
		}
	}
}

func TestOnlyPackagesWhoseTestsRanAndPassedAreGood(t *testing.T) {
	good := packageMark + "a\n=== RUN TestX\n--- PASS: TestX (0.00s)\nPASS\n"
	for _, c := range []struct {
		name, said string
		packages   []string
		maySkip    bool
		wrong      int
	}{
		{"passed", good, []string{"a"}, false, 0},
		{"no test ran", packageMark + "a\ntesting: warning: no tests to run\nPASS\n", []string{"a"}, false, 1},
		{"nothing was said", "", []string{"a"}, false, 1},
		{"the second package is missing", good, []string{"a", "b"}, false, 1},
		{"died after the first test", packageMark + "a\n--- PASS: TestX (0.00s)\npanic: boom\n", []string{"a"}, false, 1},
		{"a test skipped itself", good + "--- SKIP: TestY (0.00s)\n", []string{"a"}, false, 1},
		{"a subtest skipped itself", good + "    --- SKIP: TestY/z (0.00s)\n", []string{"a"}, false, 1},
		{"a test may skip itself", good + "--- SKIP: TestY (0.00s)\n", []string{"a"}, true, 0},
		{"failed", packageMark + "a\n--- PASS: TestX (0s)\n--- FAIL: TestY (0s)\nFAIL\n", []string{"a"}, false, 2},
	} {
		if wrong := judge(c.said, c.packages, c.maySkip); len(wrong) != c.wrong {
			t.Errorf("%s: judge = %q, want %d", c.name, wrong, c.wrong)
		}
	}
}
