package gaps

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/headrace/headrace/pinning/tracefs"
)

// bufferKB is the room for a CPU's events: some 200,000. When it is full the oldest go.
// Nothing is read while the measurement runs.
const bufferKB = 16 << 10

// events are those that say who had a CPU. A kernel may lack some.
var events = []string{
	"sched/sched_switch", "irq", "irq_vectors", "nmi", "workqueue/workqueue_execute_start", "workqueue/workqueue_execute_end",
}

// An event is one line of a trace.
type event struct {
	at   int64 // on the monotonic clock, rounded down to a microsecond
	name string
	args string
}

// readEvents reads a CPU's events, the oldest first, and from when on they are complete.
func readEvents(t *tracefs.Instance, cpu int) (all []event, from int64, err error) {
	f, err := os.Open(t.Path(fmt.Sprintf("per_cpu/cpu%d/trace", cpu)))
	if err != nil {
		return nil, 0, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	if all, err = parseTrace(f); err != nil {
		return nil, 0, err
	}
	stats, err := os.ReadFile(t.Path(fmt.Sprintf("per_cpu/cpu%d/stats", cpu)))
	if err != nil {
		return nil, 0, err
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
		if l, ok := tracefs.ParseLine(lines.Text()); ok {
			all = append(all, event{int64(l.At), l.Name, l.Args})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	return all, nil
}
