package guest

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/built"
)

// Need skips tb unless the environment asks for guests.
func Need(tb testing.TB) {
	tb.Helper()
	if os.Getenv("HEADRACE_GUEST") == "" {
		tb.Skip("boots a guest under QEMU: HEADRACE_GUEST=1 asks for it (make test-guest)")
	}
}

// Inside reports that this process runs in a guest. A test that needs what the guest has
// skips itself outside, saying so.
func Inside() bool { return os.Getenv("HEADRACE_GUEST_INSIDE") != "" }

// Suite is the tests of some packages, run in a guest.
type Suite struct {
	// Config is the guest; its Dir is not used. Its Timeout bounds the tests too: the
	// testing package is told a little less, to say which test hangs.
	Config Config
	// Packages are built as test binaries, with cgo: "." is the package of the test that
	// asks, "./rdma/verbs" is relative to its directory.
	Packages []string
	// With are files of this machine that are found in the guest in /work, by their last
	// names: programs that the tests start.
	With []string
	// Headrace has headrace itself built, with Tags, and found in the guest under the name
	// in HEADRACE_BINARY. The package's TestMain calls [built.Remove].
	Headrace bool
	// Tags are build tags, separated by commas.
	Tags string
	// Setup is a shell script that runs first: "wire 4". The tests do not run if any
	// command of it fails.
	Setup string
	// Run selects tests by pattern, all if "".
	Run string
	// MaySkip allows tests to skip themselves. Without it a skip is a failure: in the
	// guest nothing should be missing.
	MaySkip bool
}

// Test builds the packages of s, boots one guest, runs their tests in it, each in a
// directory of its own with the package's testdata, and fails t unless every package
// ran at least one test and all passed. It skips t where [Need] does.
//
//	func TestGuestVerbs(t *testing.T) {
//		guest.Test(t, guest.Suite{
//			Config:   guest.Config{Sets: []string{"rdma"}, CPUs: 4, Timeout: 10 * time.Minute},
//			Packages: []string{"."}, Tags: "rdma", Setup: "wire 4", Run: "^TestDevice",
//		})
//	}
func Test(t *testing.T, s Suite) {
	t.Helper()
	Need(t)
	s.Config.Dir = t.TempDir()
	names := make([]string, len(s.Packages))
	for i, p := range s.Packages {
		names[i] = s.build(t, p)
	}
	if s.Headrace {
		path, err := built.Headrace(s.Tags)
		if err != nil {
			t.Fatal(err)
		}
		s.With = append(s.With, path)
		s.Setup = "export HEADRACE_BINARY=/work/" + filepath.Base(path) + "\n" + s.Setup
	}
	for _, path := range s.With {
		if err := copyFile(path, filepath.Join(s.Config.Dir, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
	script := s.script(names)
	if err := os.WriteFile(filepath.Join(s.Config.Dir, "tests.sh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	status, err := Run(t.Context(), s.Config, io.MultiWriter(&said, t.Output()), "sh", "./tests.sh")
	if err != nil {
		t.Fatal(describe(err))
	}
	for _, wrong := range judge(said.String(), names, s.MaySkip) {
		t.Error(wrong)
	}
	if status != 0 {
		t.Errorf("status %d in the guest", status)
	}
}

// build makes the test binary of a package and copies its testdata. It returns the name
// of its directory in the guest.
func (s *Suite) build(t *testing.T, pkg string) string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-tags", s.Tags, "-f", "{{.ImportPath}} {{.Dir}}", pkg)
	list.Env = append(os.Environ(), "CGO_ENABLED=1")
	text, err := output(list)
	if err != nil {
		t.Fatal(err)
	}
	importPath, source, ok := strings.Cut(strings.TrimSpace(text), " ")
	if !ok || strings.Contains(source, "\n") {
		t.Fatalf("%s is not one package: %q", pkg, text)
	}
	name := strings.ReplaceAll(importPath, "/", ".") // last elements alone may be equal
	dir := filepath.Join(s.Config.Dir, name)
	compile := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", s.Tags, "-o", filepath.Join(dir, "test"), pkg)
	compile.Env = list.Env
	if _, err := output(compile); err != nil {
		t.Fatal(err)
	}
	if testdata := filepath.Join(source, "testdata"); isDir(testdata) {
		if err := os.CopyFS(filepath.Join(dir, "testdata"), os.DirFS(testdata)); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// copyFile copies a program.
func copyFile(from, to string) error {
	contents, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, contents, 0o755)
}

func isDir(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.IsDir()
}

// packageMark stands before the output of each package.
const packageMark = "=== GUEST "

// script is what runs in the guest.
func (s *Suite) script(names []string) string {
	limit := cmp.Or(s.Config.Timeout, defaultTimeout)
	limit -= min(limit/2, 45*time.Second) // a slow boot
	var b strings.Builder
	fmt.Fprintf(&b, "set -e\n%s\nset +e\nstatus=0\n", s.Setup)
	for _, name := range names {
		args := quote([]string{"./test", "-test.v", "-test.count=1", "-test.run=" + s.Run, "-test.timeout=" + limit.String()})
		fmt.Fprintf(&b, "echo %s\ncd %s && %s || status=1\n", quote([]string{packageMark + name}), quote([]string{path.Join("/work", name)}), args)
	}
	b.WriteString("exit $status\n")
	return b.String()
}

// judge reads what the tests printed and returns what is wrong with it. That the status
// is 0 is not enough: it is so too if no test ran.
func judge(said string, names []string, maySkip bool) []string {
	var wrong []string
	passed, ended := map[string]int{}, map[string]bool{}
	name := ""
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, packageMark):
			name = strings.TrimPrefix(line, packageMark)
		case line == "PASS":
			ended[name] = true
		case strings.HasPrefix(line, "--- PASS: "):
			passed[name]++
		case strings.HasPrefix(line, "--- FAIL: "), strings.HasPrefix(line, "--- SKIP: ") && !maySkip:
			wrong = append(wrong, "in the guest: "+name+": "+strings.TrimPrefix(line, "--- "))
		}
	}
	for _, name := range names {
		if passed[name] == 0 {
			wrong = append(wrong, "in the guest: "+name+": no test passed")
		} else if !ended[name] {
			wrong = append(wrong, "in the guest: "+name+": did not come to its end")
		}
	}
	return wrong
}
