// Package noise counts what interrupts a CPU, by cause.
//
// It opens an instance of the kernel's tracing of its own, for the CPUs in question only,
// and lets it write down every switch of tasks, interrupt, soft interrupt, piece of
// kernel work and timer. Nothing else of the machine's tracing is touched, and the
// instance goes with the [Watch]. Reading happens on the caller's CPU, ten times a second,
// and wakes nobody on those that are watched.
//
//	Open, Watch.Read, Watch.Close   noise.go    one watch
//	Measure, Ledger                 ledger.go   a watch of some length, as counts
//	parse                           parse.go    lines of the trace
package noise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/topology"
	"github.com/headrace/headrace/pinning/tracefs"
)

// ErrNoTracing reports a machine without tracefs, or a caller who may not use it.
var ErrNoTracing = tracefs.ErrNoTracing

// events are those that are switched on, as far as the kernel has them.
var events = []string{
	"sched/sched_switch",
	"irq/irq_handler_entry", "irq/softirq_entry",
	"irq_vectors/local_timer_entry", "irq_vectors/reschedule_entry", "irq_vectors/call_function_entry",
	"irq_vectors/call_function_single_entry", "irq_vectors/irq_work_entry", "irq_vectors/thermal_apic_entry",
	"irq_vectors/error_apic_entry", "irq_vectors/spurious_apic_entry",
	"workqueue/workqueue_execute_start",
	"timer/timer_expire_entry", "timer/hrtimer_expire_entry", "timer/tick_stop",
}

// A Watch is a trace of some CPUs under way.
type Watch struct {
	// Missing are events that this kernel does not have.
	Missing []string

	instance *tracefs.Instance
	pipe     *os.File
	rest     string // of a line
	stopped  bool
}

// Open begins to watch cpus. root is where tracefs is mounted; "" looks for it, and
// mounts it for itself where it is nowhere.
//
// It returns an error wrapping [ErrNoTracing] if that cannot be.
func Open(root string, cpus topology.CPUSet) (*Watch, error) {
	i, err := tracefs.Open(tracefs.Config{Root: root, CPUs: cpus, Events: events})
	if err != nil {
		return nil, fmt.Errorf("noise: %w", err)
	}
	w := &Watch{Missing: i.Missing, instance: i}
	// Not blocking: a reader that waits is woken by an interrupt on the CPU it watches.
	w.pipe, err = os.OpenFile(i.Path("trace_pipe"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		err = i.Enable(true)
	}
	if err != nil {
		return nil, fmt.Errorf("noise: %w: %w", ErrNoTracing, errors.Join(err, w.Close()))
	}
	return w, nil
}

// readMax bounds what one Read takes of a trace that goes on. Where events come faster
// than they are read the kernel drops some and says how many; reading on and on would
// never end.
const readMax = 1 << 20

// Read calls each with what has happened since the last call, and returns how many
// events the kernel had no room to keep. While the watch goes on it takes about ten
// thousand events at most; after [Watch.Stop] it takes the rest.
func (w *Watch) Read(each func(Event)) (lost uint64, err error) {
	buf := make([]byte, 1<<16)
	for taken := 0; taken < readMax || w.stopped; {
		// Not through the runtime's poller, which would wait.
		n, err := unix.Read(int(w.pipe.Fd()), buf)
		switch {
		case errors.Is(err, unix.EAGAIN), err == nil && n <= 0:
			return lost, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return lost, fmt.Errorf("noise: trace: %w", err)
		}
		taken += n
		text := w.rest + string(buf[:n])
		whole := strings.LastIndexByte(text, '\n') + 1
		w.rest = text[whole:]
		for line := range strings.Lines(text[:whole]) {
			if e, ok := parse(line); ok {
				each(e)
			} else {
				lost += lostEvents(line)
			}
		}
	}
	return lost, nil
}

// Stop ends the watch; what is in the buffers can still be read.
func (w *Watch) Stop() error {
	err := w.instance.Enable(false)
	w.stopped = err == nil
	return err
}

// Close takes the instance away.
func (w *Watch) Close() error {
	var bad []error
	if w.pipe != nil {
		bad = append(bad, w.pipe.Close())
	}
	if w.instance != nil {
		bad = append(bad, w.instance.Close())
	}
	*w = Watch{}
	return errors.Join(bad...)
}

var _ io.Closer = (*Watch)(nil)
