package systemd

import (
	"flag"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/guest"
)

// insideRun selects tests in the guest, to look at one of them again.
var insideRun = flag.String("inside", "^Test(Inside|AForbidden|ASilent|WhatA)", "which tests TestGuestUnits runs in the guest")

// The units in a Debian 13 whose first process is systemd; the tests in it are those
// whose names begin with TestInside. The filter of the data plane is tried on that kernel
// too.
func TestGuestUnits(t *testing.T) {
	guest.Need(t)
	tar := filepath.Join(t.TempDir(), "stage.tar")
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", stage(t), "-cf", tar, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	guest.Test(t, guest.Suite{
		Config:   guest.Config{Debian: true, Timeout: 20 * time.Minute, MemoryMB: 1400, Append: "audit=1", Modules: []string{"veth"}},
		Packages: []string{".", "../dataplane/confine"},
		With:     []string{tar},
		Setup:    "tar -C / --no-same-owner -xf /work/stage.tar; systemd-sysusers; systemd-tmpfiles --create; systemctl daemon-reload; install -m755 /work/github.com.headrace.headrace.systemd/test /usr/local/bin/headrace-standin",
		Run:      *insideRun,
		MaySkip:  true, // TestInside of what the binary cannot do yet
	})
}
