package gaps

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/topology"
)

// bufferKB is the room for a CPU's events: some 200,000. When it is full the oldest go.
const bufferKB = 16 << 10

// instancePrefix begins the name of an instance; the process's id follows.
const instancePrefix = "headrace-noise-"

// groups are the events that say who had a CPU. A kernel may lack some.
var groups = []string{
	"sched/sched_switch", "irq", "irq_vectors", "nmi", "workqueue/workqueue_execute_start", "workqueue/workqueue_execute_end",
}

// A tracer is an instance of tracefs of our own: no other tracer's settings are
// touched, and its buffers go with it. Nothing is read while the measurement runs.
type tracer struct {
	root     string // of tracefs
	dir      string
	mount    int // of tracefs, -1 if it was mounted
	onlyHere topology.CPUSet
}

// openTracer makes the instance, switched off.
func openTracer(cores topology.CPUSet) (*tracer, error) {
	t := &tracer{mount: -1, onlyHere: cores}
	if err := t.find(); err != nil {
		return nil, permitted(err)
	}
	t.sweep()
	t.dir = filepath.Join(t.root, "instances", instancePrefix+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(t.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		t.unmount()
		return nil, permitted(err)
	}
	if err := t.prepare(); err != nil {
		t.close()
		return nil, permitted(err)
	}
	return t, nil
}

// permitted says what is missing where the kernel refused.
func permitted(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH for tracefs, or root (%w)", err)
	}
	return err
}

// find finds tracefs, or mounts it where nobody sees it: the mount is ours alone, as
// a descriptor, and ends with it.
func (t *tracer) find() error {
	for _, at := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if st, err := os.Stat(at + "/instances"); err == nil && st.IsDir() {
			t.root = at
			return nil
		} else if errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	fs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("tracefs: %w", os.NewSyscallError("fsopen", err))
	}
	defer unix.Close(fs) //nolint:errcheck // the mount is what counts
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("tracefs: %w", os.NewSyscallError("fsconfig", err))
	}
	if t.mount, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0); err != nil {
		return fmt.Errorf("tracefs: %w", os.NewSyscallError("fsmount", err))
	}
	t.root = fmt.Sprintf("/proc/self/fd/%d", t.mount)
	return nil
}

// sweep removes what measurements left that were killed.
func (t *tracer) sweep() {
	old, err := filepath.Glob(filepath.Join(t.root, "instances", instancePrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range old {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), instancePrefix))
		if err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = unix.Rmdir(dir) // another may be sweeping too
		}
	}
}

func (t *tracer) prepare() error {
	for _, w := range []struct{ file, text string }{
		{"tracing_on", "0"},
		{"trace_clock", "mono"},
		{"tracing_cpumask", t.onlyHere.Mask()},
		{"options/record-tgid", "0"},
		{"options/irq-info", "1"},
	} {
		if err := t.write(w.file, w.text); err != nil {
			return err
		}
	}
	for _, cpu := range t.onlyHere.List() {
		if err := t.write(fmt.Sprintf("per_cpu/cpu%d/buffer_size_kb", cpu), strconv.Itoa(bufferKB)); err != nil {
			return err
		}
	}
	for _, g := range groups {
		err := t.write("events/"+g+"/enable", "1")
		if err != nil && (g == "sched/sched_switch" || !errors.Is(err, os.ErrNotExist)) {
			return err
		}
	}
	return nil
}

func (t *tracer) write(file, text string) error {
	return os.WriteFile(filepath.Join(t.dir, file), []byte(text), 0)
}

func (t *tracer) enable(on bool) error {
	text := "0"
	if on {
		text = "1"
	}
	return t.write("tracing_on", text)
}

func (t *tracer) close() {
	_ = t.enable(false)
	_ = unix.Rmdir(t.dir) // what stays is swept by the next
	t.unmount()
}

func (t *tracer) unmount() {
	if t.mount >= 0 {
		_ = unix.Close(t.mount)
	}
}

// An event is one line of a trace.
type event struct {
	at   int64 // on the monotonic clock, rounded down to a microsecond
	name string
	args string
}

// eventLine is "  sleep-4711  [001] d.h1.  123.456789: irq_handler_entry: irq=36 name=x".
// What is before the CPU is a task's name, which may hold anything.
var eventLine = regexp.MustCompile(`\[\d{3,}\]\s+(?:[^\s\d:][^\s:]*\s+)?(\d+)\.(\d{6}): ([a-z_0-9]+): ?(.*)$`)

// events reads a CPU's events, the oldest first, and from when on they are complete.
func (t *tracer) events(cpu int) (all []event, from int64, err error) {
	f, err := os.Open(filepath.Join(t.dir, fmt.Sprintf("per_cpu/cpu%d/trace", cpu)))
	if err != nil {
		return nil, 0, permitted(err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	if all, err = parseTrace(f); err != nil {
		return nil, 0, err
	}
	stats, err := os.ReadFile(filepath.Join(t.dir, fmt.Sprintf("per_cpu/cpu%d/stats", cpu)))
	if err != nil {
		return nil, 0, permitted(err)
	}
	if overrun(string(stats)) && len(all) > 0 {
		from = all[0].at
	}
	return all, from, nil
}

// overrun reports whether a buffer lost its oldest events.
func overrun(stats string) bool {
	for line := range strings.Lines(stats) {
		if rest, ok := strings.CutPrefix(line, "overrun:"); ok {
			return strings.TrimSpace(rest) != "0"
		}
	}
	return false
}

func parseTrace(r io.Reader) ([]event, error) {
	var all []event
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		m := eventLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		seconds, err := strconv.ParseInt(m[1], 10, 33)
		if err != nil {
			continue
		}
		micros, err := strconv.ParseInt(m[2], 10, 32)
		if err != nil {
			continue
		}
		all = append(all, event{seconds*1e9 + micros*1e3, m[3], m[4]})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	return all, nil
}
