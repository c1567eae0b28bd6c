package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/built"
	"github.com/headrace/headrace/internal/guest"
)

func TestMain(m *testing.M) {
	switch os.Getenv(standInEnv) {
	case "control":
		standInControl()
	case "data":
		standInData()
	default:
		code := m.Run()
		_ = built.Remove()
		os.Exit(code)
	}
}

// settings returns the values of a unit's key, in their order.
func settings(t *testing.T, unit, key string) (values []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("system", unit))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// The kernel counts the families in linux/socket.h; systemd knows them by name.
func TestControlMayUseFiveAddressFamilies(t *testing.T) {
	header, err := os.ReadFile("/usr/include/x86_64-linux-gnu/bits/socket.h")
	if err != nil {
		t.Skip("no C library's header with the list of address families: ", err)
	}
	denied := strings.Fields(strings.ReplaceAll(strings.Join(settings(t, "headrace.service", "RestrictAddressFamilies"), " "), "~", ""))
	allowed := []string{"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_XDP"}
	// Other names of those, and what is none.
	allowed = append(allowed, "AF_LOCAL", "AF_FILE", "AF_ROUTE", "AF_UNSPEC", "AF_MAX")
	all := regexp.MustCompile(`#define (AF_\w+)`).FindAllStringSubmatch(string(header), -1)
	if len(all) < 40 {
		t.Fatalf("the header has %d families", len(all))
	}
	for _, m := range all {
		if slices.Contains(denied, m[1]) == slices.Contains(allowed, m[1]) {
			t.Errorf("%s: denied %v", m[1], slices.Contains(denied, m[1]))
		}
	}
}

func TestCapabilitiesAreTheFewThatAreNamed(t *testing.T) {
	for unit, want := range map[string]string{
		"headrace.service":            "CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON",
		"headrace-dataplane@.service": "",
	} {
		for _, key := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
			got := settings(t, unit, key)
			if key == "AmbientCapabilities" && want == "" {
				if len(got) != 0 {
					t.Errorf("%s: %s=%q", unit, key, got)
				}
			} else if len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s=%q, want %q", unit, key, got, want)
			}
		}
	}
}

// stage installs everything under a directory, as a package would.
func stage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	binary, err := built.Headrace("")
	if err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), "make", "-s", "-C", "..", "install-systemd", "DESTDIR="+dir)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("make install-systemd: %v\n%s", err, out)
	}
	to := filepath.Join(dir, "usr/local/bin")
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", binary, filepath.Join(to, "headrace")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// inRoot runs a script in a Debian 13 with the staged files in it; neither is changed.
func inRoot(t *testing.T, dir, script string) (stdout, stderr string, err error) {
	t.Helper()
	root, err := guest.DebianRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := t.TempDir()
	c := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-ec",
		fmt.Sprintf("mount -t overlay overlay -o lowerdir=%s:%s %s; mount -t proc proc %s/proc; mount -t tmpfs tmpfs %s/run; mount -t tmpfs tmpfs %s/tmp; chroot %s sh -ec \"$SCRIPT\"", dir, root, at, at, at, at, at))
	c.Env = append(os.Environ(), "SCRIPT="+script)
	var out, complaints strings.Builder
	c.Stdout, c.Stderr = &out, &complaints
	err = c.Run()
	return out.String(), complaints.String(), err
}

// An unknown key only warns, so that silence is asked for too.
func TestGuestUnitsAreVerifiedAndTheirExposureIsBounded(t *testing.T) {
	guest.Need(t)
	dir := stage(t)
	entries, err := os.ReadDir("system")
	if err != nil {
		t.Fatal(err)
	}
	var units []string
	for _, e := range entries {
		units = append(units, strings.Replace(e.Name(), "@.", "@headrace.", 1))
	}
	out, complaints, err := inRoot(t, dir, "systemd-analyze verify "+strings.Join(units, " "))
	if err != nil || out != "" || complaints != "" {
		t.Errorf("systemd-analyze verify: %v\n%s%s", err, out, complaints)
	}
	for unit, most := range map[string]int{"headrace-dataplane@.service": 25, "headrace.service": 15} {
		out, complaints, err := inRoot(t, dir, fmt.Sprintf("systemd-analyze security --no-pager --offline=yes --threshold=%d %s", most, unit))
		if err != nil || complaints != "" {
			t.Errorf("%s is more exposed than %d.%d: %v\n%s%s", unit, most/10, most%10, err, out, complaints)
		}
		t.Log(strings.TrimSpace(out[max(strings.LastIndex(out, "→"), 0):]))
	}
	if out, complaints, err := inRoot(t, dir, "sh -n /usr/local/libexec/headrace/isolate; systemd-sysusers --dry-run /usr/local/lib/sysusers.d/headrace.conf; systemd-tmpfiles --cat-config /usr/local/lib/tmpfiles.d/headrace.conf >/dev/null"); err != nil {
		t.Errorf("%v\n%s%s", err, out, complaints)
	}
}

// What install puts somewhere, uninstall finds there.
func TestUninstallLeavesNothing(t *testing.T) {
	dir := stage(t)
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", "..", "uninstall", "DESTDIR="+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("%s is still there", strings.TrimPrefix(path, dir))
		}
		return err
	})
}
