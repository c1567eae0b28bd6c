package guest

import (
	"strings"
	"testing"
)

func TestADebianHasADiskAndSystemdsLine(t *testing.T) {
	t.Setenv("PATH", fakePrograms(t, "qemu-system-x86_64"))
	c, err := Config{Debian: true, Accelerator: "tcg,thread=multi", Append: "audit=1"}.checked([]string{"true"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Modules, " "); got != strings.Join(debianModules, " ") {
		t.Errorf("modules %s", got)
	}
	r := &run{Config: c, kernel: &kernel{dir: "/root"}, debian: &debian{"/root", "/a,b"}, work: "/work"}
	args, err := r.arguments()
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(args, " ")
	for _, want := range []string{"file=/a,,b,format=raw,if=virtio,snapshot=on", "tcg,thread=single", "systemd.unit=guest-command.target", " audit=1", "-kernel /root/vmlinux"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %s", want, line)
		}
	}
	// The verifier allows more to a kernel without mitigations than to most of the world's.
	if strings.Contains(line, "mitigations=off") {
		t.Error("the kernel runs without mitigations")
	}
}

// The status of a guest whose disk cannot be mounted comes all the same.
func TestTheDebiansScriptGoesWhereInitLooksForIt(t *testing.T) {
	if !strings.Contains(initScript, ". /debian.sh") || !strings.Contains(debianScript, `echo "unprepared disk: $(cat /tmp/why)" >$status`) ||
		!strings.HasSuffix(strings.TrimSpace(debianScript), "exec switch_root /disk /sbin/init") {
		t.Error("init.sh and debian.sh have come apart")
	}
}
