package tracefs

import (
	"regexp"
	"strconv"
	"time"
)

// A Line is one event of a trace.
type Line struct {
	CPU int
	// At is the time by CLOCK_MONOTONIC, rounded down to a microsecond.
	At time.Duration
	// Name is the event's, Args what it says.
	Name, Args string
}

// form is "  sleep-4711  [001] d.h1.  123.456789: irq_handler_entry: irq=36 name=x". What
// is before the CPU is a task's name, which may hold anything.
var form = regexp.MustCompile(`\[(\d{3,5})\]\s+(?:[^\s\d:][^\s:]*\s+)?(\d{1,9})\.(\d{6}): ([a-z_0-9]+): ?(.*)`)

// ParseLine takes a line of an instance's trace or trace_pipe apart. It is false of what
// is no event: the head, and a word on what was lost.
func ParseLine(text string) (Line, bool) {
	m := form.FindStringSubmatch(text)
	if m == nil {
		return Line{}, false
	}
	// Numbers that the form has checked.
	cpu, _ := strconv.Atoi(m[1])
	seconds, _ := strconv.ParseInt(m[2], 10, 64)
	micros, _ := strconv.ParseInt(m[3], 10, 64)
	return Line{CPU: cpu, At: time.Duration(seconds)*time.Second + time.Duration(micros)*time.Microsecond, Name: m[4], Args: m[5]}, true
}
