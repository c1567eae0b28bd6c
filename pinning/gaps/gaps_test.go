package gaps

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/topology"
)

// A percentile is compared with that of the sorted values: never below it, and at most
// a sixteenth above.
func TestAPercentileIsNeverBetterThanTheTruth(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		var y tally
		values := make([]int64, 1+r.IntN(5000))
		for i := range values {
			values[i] = r.Int64N(1 << (1 + r.IntN(40)))
			y.add(values[i])
		}
		slices.Sort(values)
		for _, q := range [][2]uint64{{1, 100}, {50, 100}, {99, 100}, {999, 1000}, {1, 1}} {
			at := (uint64(len(values))*q[0] + q[1] - 1) / q[1]
			truth, got := values[at-1], y.quantile(q[0], q[1])
			if got < truth || got > truth+truth/16 {
				t.Errorf("seed %d: quantile(%d/%d) of %d values = %d, the truth is %d", seed, q[0], q[1], len(values), got, truth)
			}
		}
		sum := uint64(0)
		for _, n := range y.coarse {
			sum += n
		}
		if sum != uint64(len(values)) {
			t.Errorf("the histogram counts %d of %d", sum, len(values))
		}
	}
}

func TestEveryBucketHoldsItsOwnTop(t *testing.T) {
	for b := range buckets - 1 {
		if bucket(top(b)) != b || bucket(top(b)+1) != b+1 {
			t.Fatalf("bucket %d ends at %d, which is in %d, and the next in %d", b, top(b), bucket(top(b)), bucket(top(b)+1))
		}
	}
}

const micro = int64(time.Microsecond)

func TestAGapIsTheWorkOfWhoHadTheCoreForMostOfIt(t *testing.T) {
	const me = 77
	for _, c := range []struct {
		name   string
		gap    gap
		events []event
		want   Cause
	}{
		{"nothing happened", gap{0, 20 * micro}, nil, Cause{Kind: Unexplained}},
		{"a tick", gap{0, 5 * micro}, []event{
			{1 * micro, "local_timer_entry", "vector=236"}, {4 * micro, "local_timer_exit", "vector=236"},
		}, Cause{Kind: Tick}},
		{"a tick that found the virtual CPU standing still", gap{0, 3000 * micro}, []event{
			{2990 * micro, "local_timer_entry", "vector=236"}, {2999 * micro, "local_timer_exit", "vector=236"},
		}, Cause{Kind: Unexplained}},
		{"a tick whose soft interrupt took longer", gap{0, 90 * micro}, []event{
			{1 * micro, "local_timer_entry", "vector=236"},
			{4 * micro, "local_timer_exit", "vector=236"},
			{5 * micro, "softirq_entry", "vec=1 [action=TIMER]"},
			{88 * micro, "softirq_exit", "vec=1 [action=TIMER]"},
		}, Cause{Kind: SoftIRQ, What: "TIMER"}},
		{"a card's interrupt", gap{0, 12 * micro}, []event{
			{1 * micro, "irq_handler_entry", "irq=36 name=eth0-rx-1"}, {11 * micro, "irq_handler_exit", "irq=36 ret=handled"},
		}, Cause{Kind: IRQ, What: "36 eth0-rx-1"}},
		{"another task, with a tick in it", gap{0, 4000 * micro}, []event{
			{1 * micro, "sched_switch", "prev_comm=me prev_pid=77 prev_prio=120 prev_state=R ==> next_comm=a b next_pid=9 next_prio=120"},
			{1000 * micro, "local_timer_entry", "vector=236"},
			{1004 * micro, "local_timer_exit", "vector=236"},
			{3998 * micro, "sched_switch", "prev_comm=a b prev_pid=9 prev_prio=120 prev_state=S ==> next_comm=me next_pid=77 next_prio=120"},
		}, Cause{Kind: Switch, What: "a b", PID: 9}},
		{"two tasks, the second for longer", gap{0, 400 * micro}, []event{
			{1 * micro, "sched_switch", "prev_comm=me prev_pid=77 prev_prio=120 prev_state=R ==> next_comm=a next_pid=9 next_prio=120"},
			{100 * micro, "sched_switch", "prev_comm=a prev_pid=9 prev_prio=120 prev_state=S ==> next_comm=b next_pid=10 next_prio=120"},
			{398 * micro, "sched_switch", "prev_comm=b prev_pid=10 prev_prio=120 prev_state=S ==> next_comm=me next_pid=77 next_prio=120"},
		}, Cause{Kind: Switch, What: "b", PID: 10}},
		{"a kernel worker", gap{0, 30 * micro}, []event{
			{1 * micro, "sched_switch", "prev_comm=me prev_pid=77 prev_prio=120 prev_state=R ==> next_comm=kworker/1:1 next_pid=5 next_prio=120"},
			{2 * micro, "workqueue_execute_start", "work struct 00000000f1: function vmstat_update"},
			{28 * micro, "sched_switch", "prev_comm=kworker/1:1 prev_pid=5 prev_prio=120 prev_state=I ==> next_comm=me next_pid=77 next_prio=120"},
		}, Cause{Kind: Work, What: "vmstat_update", PID: 5}},
		{"the watchdog", gap{0, 40 * micro}, []event{{38 * micro, "nmi_handler", "perf_event_nmi_handler() delta_ns: 36000 handled: 1"}}, Cause{Kind: NMI}},
		{"another CPU's call, of which only the end is seen", gap{10 * micro, 20 * micro}, []event{{19 * micro, "call_function_exit", "vector=252"}}, Cause{Kind: IPI, What: "call_function"}},
	} {
		if got := causeOf(c.gap, c.events, me); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestCausesAreAddedUpAndWhatTheBufferLostIsSaid(t *testing.T) {
	events := []event{
		{200 * micro, "local_timer_entry", ""},
		{204 * micro, "local_timer_exit", ""},
		{300 * micro, "local_timer_entry", ""},
		{309 * micro, "local_timer_exit", ""},
	}
	gaps := []gap{{10 * micro, 15 * micro}, {199 * micro, 205 * micro}, {299 * micro, 310 * micro}, {400 * micro, 450 * micro}}
	got := explain(gaps, events, 100*micro, 77)
	want := []Cause{
		{Kind: Unexplained, Gaps: 1, Worst: 50 * time.Microsecond, Lost: 50 * time.Microsecond},
		{Kind: Tick, Gaps: 2, Worst: 11 * time.Microsecond, Lost: 17 * time.Microsecond},
		{Kind: Untraced, Gaps: 1, Worst: 5 * time.Microsecond, Lost: 5 * time.Microsecond},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Lines as kernels 6.12 and 6.18 print them; the names of tasks are a user's choice.
func TestTraceLinesAreReadWhateverATaskIsCalled(t *testing.T) {
	const text = `# tracer: nop
#
          <idle>-0       [001] d.h1.  1234.000001: local_timer_entry: vector=236
 a b [002] 1.2: x-4711    [001] d..2.  1234.000150: sched_switch: prev_comm=a prev_pid=1 prev_prio=120 prev_state=R ==> next_comm=b c next_pid=2 next_prio=120
     kworker/1:1-33      [001] .....  1235.900000: workqueue_execute_start: work struct 00000000ab: function vmstat_update
          <...>-9        [001]   1236.000000: irq_handler_entry: irq=9 name=acpi
CPU:1 [LOST 20 EVENTS]
`
	got, err := parseTrace(strings.NewReader(text))
	want := []event{
		{1234_000_001_000, "local_timer_entry", "vector=236"},
		{1234_000_150_000, "sched_switch", "prev_comm=a prev_pid=1 prev_prio=120 prev_state=R ==> next_comm=b c next_pid=2 next_prio=120"},
		{1235_900_000_000, "workqueue_execute_start", "work struct 00000000ab: function vmstat_update"},
		{1236_000_000_000, "irq_handler_entry", "irq=9 name=acpi"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if !overrun("entries: 5\noverrun: 3\n") || overrun("entries: 5\noverrun: 0\ncommit overrun: 7\n") {
		t.Error("a buffer that lost events was not known from one that did not")
	}
}

func TestCoresThatCannotBeMeasuredAreRefused(t *testing.T) {
	for _, c := range []Config{{}, {Cores: topology.CPUs(0), For: -1}, {Cores: topology.CPUs(0), For: 2 * ForMax}, {Cores: topology.CPUs(0), Over: -1}} {
		if _, err := Measure(t.Context(), c); err == nil {
			t.Errorf("%+v was measured", c)
		}
	}
	_, err := Measure(t.Context(), Config{Cores: topology.CPUs(topology.CPUsMax - 1), For: time.Millisecond})
	if !errors.Is(err, ErrCore) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("a core that is not there: %v", err)
	}
}

// last returns a CPU that this process may use, the highest.
func last(t *testing.T) int {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for n := range topology.CPUsMax {
		if set.IsSet(n) {
			cpu = n
		}
	}
	return cpu
}

func TestAMeasurementEndsWithItsContextAndLeavesTheProcessAsItWas(t *testing.T) {
	cpu := last(t)
	before := affinities(t)
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	r, err := Measure(ctx, Config{Cores: topology.CPUs(cpu), For: time.Minute, Untraced: true})
	if err != nil {
		t.Fatal(err)
	}
	c := r.Cores[0]
	if c.CPU != cpu || c.For < 10*time.Millisecond || c.For > 10*time.Second || c.Windows == 0 || c.P50 > c.P99 || c.P99 > c.P999 || c.P999 > c.Max || c.Least <= 0 {
		t.Errorf("got %+v", c)
	}
	if r.CausesUnknown == "" {
		t.Error("causes were not asked for, and the report does not say so")
	}
	for tid, mask := range affinities(t) {
		if old, ok := before[tid]; ok && old != mask {
			t.Errorf("thread %s may run on %v, before on %v", tid, mask, old)
		}
	}
}

func affinities(t *testing.T) map[string]unix.CPUSet {
	t.Helper()
	all := map[string]unix.CPUSet{}
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var set unix.CPUSet
		if unix.SchedGetaffinity(number(e.Name()), &set) == nil {
			all[e.Name()] = set
		}
	}
	return all
}

// A child that is bound to the same core and does not rest is found, by name.
func TestRootADisturberIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for tracefs")
	}
	cpu := last(t)
	child := exec.Command("/proc/self/exe", "-test.run=^TestChildThatSpins$")
	child.Env = append(os.Environ(), "HEADRACE_GAPS_SPIN=1", "GOMAXPROCS=1")
	var said bytes.Buffer
	child.Stdout, child.Stderr = &said, &said
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	var only unix.CPUSet
	only.Set(cpu)
	// Before its runtime has made threads, which inherit it.
	if err := unix.SchedSetaffinity(child.Process.Pid, &only); err != nil {
		t.Fatal(err)
	}
	// Others may want the core too: these two come first.
	for _, pid := range []int{child.Process.Pid, os.Getpid()} {
		prefer(t, pid)
	}
	r, err := Measure(t.Context(), Config{Cores: topology.CPUs(cpu), For: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r.CausesUnknown != "" {
		t.Fatal(r.CausesUnknown, said.String())
	}
	c := r.Cores[0]
	name := strings.TrimSpace(read(t, "/proc/"+itoa(child.Process.Pid)+"/comm"))
	t.Logf("p99.9 %v, max %v, %d gaps, %d switches; causes %+v", c.P999, c.Max, c.Gaps, c.Switches, c.Causes)
	found := false
	for _, cause := range c.Causes {
		if cause.Kind == Switch && cause.What == name {
			found = threadOf(cause.PID, child.Process.Pid) && cause.Lost > 10*time.Millisecond && cause.Worst >= time.Millisecond
		}
	}
	if !found {
		t.Errorf("no cause is the disturber %s (%d): %+v", name, child.Process.Pid, c.Causes)
	}
	if c.P999 < time.Millisecond || c.Switches == 0 {
		t.Errorf("half of the core is another's, and p99.9 is %v with %d switches", c.P999, c.Switches)
	}
	if left, err := os.ReadDir("/sys/kernel/tracing/instances"); err == nil {
		for _, e := range left {
			if strings.HasSuffix(e.Name(), "-"+itoa(os.Getpid())) {
				t.Errorf("instance %s is left", e.Name())
			}
		}
	}
}

func TestChildThatSpins(t *testing.T) {
	if os.Getenv("HEADRACE_GAPS_SPIN") == "" {
		t.Skip("is a child of another test")
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
	}
}

// prefer puts the threads of a process before those of others.
func prefer(t *testing.T, pid int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/" + itoa(pid) + "/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		tid := number(e.Name())
		if before, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil && unix.Setpriority(unix.PRIO_PROCESS, tid, -15) == nil {
			// The system call's answer is 20 less the priority.
			t.Cleanup(func() { _ = unix.Setpriority(unix.PRIO_PROCESS, tid, 20-before) })
		}
	}
}

// threadOf reports whether tid is a thread of the process.
func threadOf(tid, pid int) bool {
	_, err := os.Stat("/proc/" + itoa(pid) + "/task/" + itoa(tid))
	return err == nil
}
