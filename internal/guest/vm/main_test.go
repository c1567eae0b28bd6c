package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/headrace/headrace/internal/guest"
)

func TestOptionsBecomeTheConfig(t *testing.T) {
	args := "--dir d --set rdma --set xdp --mod|a b|--bin c --file e --smp 4 --mem 2048 --numa --isolate 3 --nic-mq 4 --host|x y|--append|q r|" +
		"--timeout 90 --log l --kernel k --accel tcg --qemu|-a b|--keep -- sh -c|exit 3"
	var list []string
	for i, part := range strings.Split(args, "|") {
		if i%2 == 0 {
			list = append(list, strings.Fields(part)...)
		} else {
			list = append(list, part)
		}
	}
	c, command, err := parse(list, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := guest.Config{
		Dir: "d", Sets: []string{"rdma", "xdp"}, Modules: []string{"a", "b"}, Programs: []string{"c"}, Files: []string{"e"},
		CPUs: 4, MemoryMB: 2048, NUMA: true, Isolate: "3", QueuePairs: 4, HostCommand: "x y", Append: "q r",
		Timeout: 90 * time.Second, Console: "l", Kernel: "k", Accelerator: "tcg", QEMU: []string{"-a", "b"}, Keep: true,
	}
	if d := cmp.Diff(want, c, cmpopts.IgnoreFields(guest.Config{}, "HostOutput", "Progress")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"sh", "-c", "exit 3"}, command); d != "" {
		t.Error(d)
	}
}

func TestTimesAreSecondsOrDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"90": 90 * time.Second, "90s": 90 * time.Second, "2m": 2 * time.Minute} {
		if c, _, err := parse([]string{"--timeout", text, "--", "true"}, io.Discard); c.Timeout != want || err != nil {
			t.Errorf("--timeout %s = %v, %v", text, c.Timeout, err)
		}
	}
}

func TestWhatCannotBePreparedIs126(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"", "no command"},
		{"--set nonsense -- true", `set "nonsense"`},
		{"--nonsense -- true", "flag provided but not defined"},
		{"--timeout soon -- true", "invalid duration"},
		{"--bin no-such-program -- true", "no-such-program"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), strings.Fields(c.args), &stdout, &stderr)
		if status != guest.StatusUnprepared || !strings.Contains(stderr.String(), c.says) || stdout.Len() > 0 {
			t.Errorf("vm %s: status %d, %q", c.args, status, &stderr)
		}
	}
}

func TestHelpNamesTheSets(t *testing.T) {
	var stderr bytes.Buffer
	if _, _, err := parse([]string{"-h"}, &stderr); !errors.Is(err, flag.ErrHelp) || !strings.Contains(stderr.String(), "macsec, net, numa, rdma, xdp") {
		t.Errorf("%v: %s", err, &stderr)
	}
}

func TestGuestStatusIsTheProgramsOwn(t *testing.T) {
	guest.Need(t)
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"--time", "--", "sh", "-c", "echo out; exit 3"}, &stdout, &stderr)
	if status != 3 || stdout.String() != "out\n" || !strings.Contains(stderr.String(), "the command began after") {
		t.Errorf("status %d, stdout %q, stderr %q", status, &stdout, &stderr)
	}
}
