package gaps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/topology"
	"github.com/headrace/headrace/pinning/tracefs"
)

// ForMax bounds one measurement.
const ForMax = time.Hour

// ErrCore reports a core that this process may not use.
var ErrCore = errors.New("this process may not run there")

// Config says what to measure.
type Config struct {
	// Cores are the CPUs, a thread on each. Required.
	Cores topology.CPUSet
	// For is how long. Zero means ten seconds; at most [ForMax].
	For time.Duration
	// Over is the length from which on a gap's cause is looked for. Zero means two
	// microseconds.
	Over time.Duration
	// Untraced leaves the causes out.
	Untraced bool
	// Group is the directory of a control group that has the cores, such as an isolated
	// partition: the process joins it for the measurement if it cannot reach them else.
	Group string
}

// Quiet is what a program's GODEBUG must hold when it starts, for a measurement that
// the program itself does not disturb: Go's runtime sends a busy thread a signal a
// hundred times a second otherwise. It cannot be set later.
const Quiet = "asyncpreemptoff=1"

// IsQuiet reports whether this process was started with [Quiet].
func IsQuiet() bool {
	for setting := range strings.SplitSeq(os.Getenv("GODEBUG"), ",") {
		if setting == Quiet {
			return true
		}
	}
	return false
}

func (c *Config) complete() error {
	switch {
	case c.Cores.Empty():
		return errors.New("no cores: name them, as in 1-3")
	case c.For < 0 || c.For > ForMax:
		return fmt.Errorf("%v is no time to measure: up to %v", c.For, ForMax)
	case c.Over < 0:
		return fmt.Errorf("a threshold of %v: leave it out or make it positive", c.Over)
	}
	if c.For == 0 {
		c.For = 10 * time.Second
	}
	if c.Over == 0 {
		c.Over = 2 * time.Microsecond
	}
	return nil
}

// Measure measures, for as long as c says or until ctx ends. The report is of the time
// until then. No other goroutine of the program may need a collection or a stop of the
// world meanwhile: it would wait.
func Measure(ctx context.Context, c Config) (*Report, error) {
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("gaps: %w", err)
	}
	r := &Report{Asked: c.For, Over: c.Over}
	if !IsQuiet() {
		r.Disturbed = "Go's own preemption signals: start with GODEBUG=" + Quiet
	}
	if c.Group != "" && !reachable(c.Cores) {
		leave, err := join(c.Group)
		if err != nil {
			return nil, fmt.Errorf("gaps: core %s: %w (%w)", c.Cores, ErrCore, err)
		}
		defer leave()
	}
	restore, stuck := settle(c.Cores)
	defer restore()
	if stuck && r.Disturbed == "" {
		r.Disturbed = "this program's other threads: no other core is theirs"
	}
	var t *tracefs.Instance
	if c.Untraced {
		r.CausesUnknown = "not asked for"
	} else {
		var err error
		if t, err = tracefs.Open(tracefs.Config{CPUs: c.Cores, BufferKB: bufferKB, Events: events}); err != nil {
			r.CausesUnknown = err.Error()
		} else {
			defer t.Close() //nolint:errcheck // what stays is swept by the next
		}
	}
	threads, err := run(ctx, c, t)
	if err != nil {
		return nil, fmt.Errorf("gaps: %w", err)
	}
	for _, w := range threads {
		core := w.report(w.cpu)
		core.Switches = w.switches
		core.Interrupts, core.Steal = w.after.since(w.before)
		if t != nil {
			events, from, err := readEvents(t, w.cpu)
			if err != nil {
				r.CausesUnknown = err.Error()
			} else {
				core.Causes = explain(w.kept, events, from, w.tid)
			}
		}
		r.Cores = append(r.Cores, core)
	}
	return r, nil
}

// settle keeps the runtime from needing the measured cores, or the world, for as long
// as the measurement takes. It returns what brings everything back.
func settle(cores topology.CPUSet) (restore func(), stuck bool) {
	runtime.GC()
	percent := debug.SetGCPercent(-1)
	procs := runtime.GOMAXPROCS(0)
	if need := cores.Len() + 2; procs < need {
		runtime.GOMAXPROCS(need)
	}
	back, stuck := moveThreads(cores)
	return func() {
		back()
		runtime.GOMAXPROCS(procs)
		debug.SetGCPercent(percent)
	}, stuck
}

// moveThreads takes this process's threads off the cores, where there are others. A
// thread that begins meanwhile inherits that. Stuck reports that some had to stay.
func moveThreads(cores topology.CPUSet) (restore func(), stuck bool) {
	before := map[int]unix.CPUSet{}
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return func() {}, true
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		var old unix.CPUSet
		if err != nil || unix.SchedGetaffinity(tid, &old) != nil {
			continue
		}
		rest := old
		for _, n := range cores.List() {
			rest.Clear(n)
		}
		if rest.Count() > 0 && unix.SchedSetaffinity(tid, &rest) == nil {
			before[tid] = old
		} else {
			stuck = true
		}
	}
	return func() {
		for tid, old := range before {
			_ = unix.SchedSetaffinity(tid, &old) // a thread that has ended needs none
		}
	}, stuck
}

// A thread is a spinner and what the kernel counted for it.
type thread struct {
	spinner
	cpu, tid      int
	switches      int64
	before, after counted
	err           error
}

func run(ctx context.Context, c Config, t *tracefs.Instance) ([]*thread, error) {
	var stop atomic.Bool
	defer context.AfterFunc(ctx, func() { stop.Store(true) })()
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	var threads []*thread
	for _, cpu := range c.Cores.List() {
		w := &thread{cpu: cpu, spinner: spinner{over: int64(c.Over), stop: &stop, kept: touched()}}
		threads = append(threads, w)
		ready.Add(1)
		done.Go(func() { w.work(c.For, &ready, start) })
	}
	ready.Wait()
	var errs []error
	for _, w := range threads {
		errs = append(errs, w.err)
	}
	err := errors.Join(errs...)
	if err == nil && t != nil {
		err = t.Enable(true)
	}
	if err != nil {
		stop.Store(true)
		close(start)
		done.Wait()
		return nil, err
	}
	for _, w := range threads {
		w.before = count(w.cpu)
	}
	close(start)
	done.Wait()
	for _, w := range threads {
		w.after = count(w.cpu)
	}
	if t != nil {
		return threads, t.Enable(false)
	}
	return threads, nil
}

// touched returns room for gaps whose pages are there already: a page fault would be a
// gap.
func touched() []gap {
	kept := make([]gap, gapsMax)
	for i := range kept {
		kept[i].from = 1
	}
	return kept[:0]
}

func (w *thread) work(length time.Duration, ready *sync.WaitGroup, start <-chan struct{}) {
	// Never unlocked: the thread ends with its narrow affinity.
	runtime.LockOSThread()
	w.tid = unix.Gettid()
	var only unix.CPUSet
	only.Set(w.cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		w.err = notThere(w.cpu, err)
	}
	ready.Done()
	<-start
	if w.err != nil {
		return
	}
	var before, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &before) // cannot fail with these arguments
	w.end = nanotime() + int64(length)
	w.spin()
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &after)
	w.switches = after.Nivcsw - before.Nivcsw
}

func notThere(cpu int, err error) error {
	advice := "there is no such CPU online"
	if b, e := os.ReadFile("/sys/devices/system/cpu/online"); e == nil {
		if online, e := topology.ParseCPUs(string(b)); e == nil && online.Has(cpu) {
			advice = "its cgroup does not have the CPU: start it in the one that has (as root `doctor` joins a partition by itself)"
		}
	}
	return fmt.Errorf("core %d: %w (%w): %s", cpu, ErrCore, os.NewSyscallError("sched_setaffinity", err), advice)
}

// counted is what the kernel counts for a CPU.
type counted struct {
	interrupts uint64
	steal      uint64 // in hundredths of a second
}

// count reads the counters; what cannot be read is 0.
func count(cpu int) counted {
	var c counted
	root := os.DirFS("/")
	if in, err := topology.ReadInterrupts(root); err == nil {
		c.interrupts = in.Total(cpu)
	}
	c.steal = topology.ReadCPUTimes(root)[cpu].Steal
	return c
}

func (c counted) since(o counted) (interrupts uint64, steal time.Duration) {
	return c.interrupts - o.interrupts, time.Duration(c.steal-o.steal) * 10 * time.Millisecond
}
