package noise

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/pinning/topology"
)

func TestLinesOfATrace(t *testing.T) {
	for _, c := range []struct {
		line  string
		kind  Kind
		cause string
	}{
		{"          <idle>-0       [001] d.h1.  1234.567890: local_timer_entry: vector=236", Tick, "local timer"},
		{" [a] b: c-12 [001] d..2.     0.000001: sched_switch: prev_comm=x prev_pid=1 prev_prio=120 prev_state=S ==> next_comm=my worker next_pid=7 next_prio=120", Task, "my worker"},
		{"   x-1 [001] d..2. 1.000000: sched_switch: prev_comm=x prev_pid=1 prev_prio=120 prev_state=S ==> next_comm=swapper/1 next_pid=0 next_prio=120", "", ""},
		{"   x-1 [001] d.h.. 1.000000: irq_handler_entry: irq=31 name=virtio2-input.0", Interrupt, "virtio2-input.0"},
		{"   x-1 [001] ..s.. 1.000000: softirq_entry: vec=1 [action=TIMER]", SoftIRQ, "TIMER"},
		{"   x-1 [001] ..... 1.000000: workqueue_execute_start: work struct 00000000aa: function vmstat_update", Work, "vmstat_update"},
		{"   x-1 [001] d.h.. 1.000000: hrtimer_expire_entry: hrtimer=00000000bb function=tick_nohz_handler now=12", Timer, "tick_nohz_handler"},
		{"   x-1 [001] d.... 1.000000: tick_stop: success=1 dependency=NONE", TickStop, "stopped"},
		{"   x-1 [001] d.... 1.000000: tick_stop: success=0 dependency=SCHED", TickStop, "kept by SCHED"},
		{"   x-1 [001] d.h.. 1.000000: call_function_single_entry: vector=251", Call, "call_function_single"},
	} {
		e, ok := parse(c.line)
		if !ok || e.CPU != 1 || e.Kind != c.kind || e.Cause != c.cause {
			t.Errorf("%s\nis %+v, %v", c.line, e, ok)
		}
	}
	if e, _ := parse("<idle>-0 [012] d.h1.  1234.567890: local_timer_entry: vector=236"); e.At != 1234567890*time.Microsecond || e.CPU != 12 {
		t.Errorf("%+v", e)
	}
	if n := lostEvents("CPU:1 [LOST 34 EVENTS]\n"); n != 34 {
		t.Errorf("%d lost", n)
	}
	if _, ok := parse("# tracer: nop"); ok {
		t.Error("a comment is no event")
	}
}

func TestATaskIsSeenAndNothingIsLeftBehind(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("tracing needs root")
	}
	instances := func() int {
		n := 0
		for _, at := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
			found, _ := filepath.Glob(at + "/instances/headrace-*")
			n += len(found)
		}
		return n
	}
	mounts := func() int {
		b, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), " tracefs ")
	}
	mounted, seen := mounts(), 0
	l, err := Measure(t.Context(), "", topology.CPUs(0), 400*time.Millisecond, func(Event) { seen++ })
	if errors.Is(err, ErrNoTracing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var sum, tasks uint64 // and ticks
	for _, c := range l.Counts {
		if c.CPU != 0 {
			t.Errorf("%+v is of a CPU that was not watched", c)
		}
		sum += c.N
		if c.Kind == Tick || c.Kind == Task {
			tasks += c.N
		}
	}
	if sum == 0 || sum != uint64(seen) || tasks == 0 || l.For < 400*time.Millisecond {
		t.Errorf("%d counted, %d seen: %+v", sum, seen, l)
	}
	if mounts() != mounted || instances() != 0 {
		t.Errorf("left behind: %d instances, %d mounts where there were %d", instances(), mounts(), mounted)
	}
}

func TestWithoutTracing(t *testing.T) {
	if _, err := Open(t.TempDir()+"/nix", topology.CPUs(0)); !errors.Is(err, ErrNoTracing) {
		t.Error(err)
	}
	if _, err := Open("", topology.CPUSet{}); err == nil || !strings.Contains(err.Error(), "no CPUs") {
		t.Error(err)
	}
}

// FuzzParse checks that no line is taken for an event of a CPU that cannot be.
func FuzzParse(f *testing.F) {
	f.Add("<idle>-0 [012] d.h1.  1234.567890: local_timer_entry: vector=236")
	f.Add("CPU:1 [LOST 34 EVENTS]")
	f.Fuzz(func(t *testing.T, text string) {
		if e, ok := parse(text); ok && (e.CPU < 0 || e.At < 0) {
			t.Errorf("%+v", e)
		}
		lostEvents(text)
	})
}
