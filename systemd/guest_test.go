package systemd

import (
	"flag"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/guest"
)

// The units in a Debian 13 whose first process is systemd. Tests in it are those whose
// names begin with TestInside. The first guest has an audit log, which is slow, and its
// kernel runs the tests of the data plane's filter too.
func TestGuestDataPlanesUnit(t *testing.T) {
	boot(t, "audit=1 audit_backlog_limit=1024", "^Test(InsideTheData|AForbidden|ASilent|WhatA)", ".", "../dataplane/confine")
}

// And all the others.
func TestGuestUnits(t *testing.T) { boot(t, "audit=0", *others, ".") }

var others = flag.String("inside", "^TestInside(Kept|TheSlices|Rows|Nothing)", "which tests TestGuestUnits runs in the guest")

func boot(t *testing.T, line, run string, packages ...string) {
	t.Helper()
	guest.Need(t)
	tar := filepath.Join(t.TempDir(), "stage.tar")
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", stage(t), "-cf", tar, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	guest.Test(t, guest.Suite{
		Config:   guest.Config{Debian: true, Timeout: 25 * time.Minute, MemoryMB: 1400, Append: line, Modules: []string{"veth"}},
		Packages: packages,
		With:     []string{tar},
		Setup: "tar -C / --no-same-owner -xf /work/stage.tar; systemd-sysusers; systemd-tmpfiles --create 2>/dev/null; systemctl daemon-reload\n" +
			"install -m755 /work/github.com.headrace.headrace.systemd/test " + standIn,
		Run:     run,
		MaySkip: true, // what this binary cannot do yet
	})
}
