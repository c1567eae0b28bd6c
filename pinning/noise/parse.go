package noise

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/pinning/tracefs"
)

// Kind is what sort of thing took a CPU away.
type Kind string

// Kinds.
const (
	Tick      Kind = "tick"      // the local timer's interrupt
	Interrupt Kind = "interrupt" // of a device
	Call      Kind = "call"      // from another CPU: reschedule, function call, irq work
	SoftIRQ   Kind = "softirq"
	Task      Kind = "task" // another task was switched to
	Work      Kind = "work" // of a workqueue
	Timer     Kind = "timer"
	TickStop  Kind = "tick_stop" // the tick was stopped, or why it could not be
)

// An Event is one interruption.
type Event struct {
	CPU int
	// At is the time by CLOCK_MONOTONIC, to the microsecond.
	At   time.Duration
	Kind Kind
	// Cause names it within its kind: a device, a task, a function.
	Cause string
}

var (
	value = regexp.MustCompile(`(\w+)=(\S+)`)
	lost  = regexp.MustCompile(`\[LOST (\d{1,18}) EVENTS\]`)
)

func parse(text string) (Event, bool) {
	l, ok := tracefs.ParseLine(text)
	if !ok {
		return Event{}, false
	}
	return Event{CPU: l.CPU, At: l.At}.of(l.Name, l.Args), true
}

// of says what an event is. Idling, which is no interruption, has no kind.
func (e Event) of(name, args string) Event {
	switch name {
	case "local_timer_entry":
		e.Kind, e.Cause = Tick, "local timer"
	case "sched_switch":
		_, next, _ := strings.Cut(args, "next_comm=")
		next, _, _ = strings.Cut(next, " next_pid=")
		if strings.HasPrefix(next, "swapper") {
			return e
		}
		e.Kind, e.Cause = Task, next
	case "irq_handler_entry":
		e.Kind, e.Cause = Interrupt, argument(args, "name")
	case "softirq_entry":
		e.Kind, e.Cause = SoftIRQ, strings.TrimSuffix(argument(args, "action"), "]")
	case "workqueue_execute_start":
		_, function, _ := strings.Cut(args, "function ")
		e.Kind, e.Cause = Work, strings.TrimSpace(function)
	case "timer_expire_entry", "hrtimer_expire_entry":
		e.Kind, e.Cause = Timer, argument(args, "function")
	case "tick_stop":
		e.Kind, e.Cause = TickStop, "stopped"
		if argument(args, "success") == "0" {
			e.Cause = "kept by " + argument(args, "dependency")
		}
	default:
		e.Kind, e.Cause = Call, strings.TrimSuffix(name, "_entry")
	}
	if e.Cause == "" {
		e.Cause = name
	}
	return e
}

func argument(args, name string) string {
	for _, m := range value.FindAllStringSubmatch(args, -1) {
		if m[1] == name {
			return m[2]
		}
	}
	return ""
}

func lostEvents(text string) uint64 {
	m := lost.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, _ := strconv.ParseUint(m[1], 10, 64)
	return n
}
