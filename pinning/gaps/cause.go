package gaps

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// grain is the resolution of an event's time.
const grain = int64(time.Microsecond)

// explain finds the cause of each gap and adds up by cause, the worst first. Events are
// complete from the instant from on; tid is the thread that had the gaps.
func explain(gaps []gap, events []event, from int64, tid int) []Cause {
	type key struct{ kind, what string }
	sums := map[key]*Cause{}
	first := 0
	for _, g := range gaps {
		// Gaps follow each other: so do their first events.
		for first < len(events) && events[first].at+grain <= g.from {
			first++
		}
		end := first
		for end < len(events) && events[end].at < g.to {
			end++
		}
		c := Cause{Kind: Untraced}
		if g.from >= from {
			c = causeOf(g, events[first:end], tid)
		}
		k := key{c.Kind, c.What}
		sum := sums[k]
		if sum == nil {
			sum = &Cause{Kind: c.Kind, What: c.What}
			sums[k] = sum
		}
		length := time.Duration(g.length())
		if length >= sum.Worst {
			sum.Worst, sum.PID = length, c.PID
		}
		sum.Gaps++
		sum.Lost += length
	}
	causes := make([]Cause, 0, len(sums))
	for _, c := range sums {
		causes = append(causes, *c)
	}
	slices.SortFunc(causes, func(a, b Cause) int {
		return cmp.Or(cmp.Compare(b.Worst, a.Worst), cmp.Compare(b.Gaps, a.Gaps), cmp.Compare(a.Kind+a.What, b.Kind+b.What))
	})
	return causes
}

// A span is a stretch of a gap that the kernel's events account for.
type span struct {
	Cause
	from, to int64
}

// causeOf returns what had the CPU for most of the gap. Events that account for less
// than half of it explain nothing: a virtual CPU that stood still for 3 ms finds its
// tick waiting, and the tick is not to blame. The grain, and the way in and out of
// the kernel, are given.
func causeOf(g gap, events []event, tid int) Cause {
	spans := spansOf(g, events, tid)
	var longest span
	covered, reached := int64(0), g.from
	for _, s := range spans {
		if s.to-s.from > longest.to-longest.from || longest.Kind == "" {
			longest = s
		}
		if s.to > reached {
			covered += s.to - max(s.from, reached)
			reached = s.to
		}
	}
	const given = 3 * grain
	if longest.Kind == "" || covered+given < g.length()/2 {
		return Cause{Kind: Unexplained}
	}
	return longest.Cause
}

var (
	nextTask = regexp.MustCompile(`==> next_comm=(.*) next_pid=(\d+) next_prio=`)
	prevTask = regexp.MustCompile(`^prev_comm=(.*) prev_pid=(\d+) prev_prio=`)
	irqName  = regexp.MustCompile(`irq=(\d+)(?: name=(.*))?`)
	action   = regexp.MustCompile(`action=(\w+)`)
	function = regexp.MustCompile(`function[ =](\S+)`)
	delta    = regexp.MustCompile(`delta_ns: (\d+)`)
)

// spansOf returns the spans of a gap, by their beginnings. Of what began before the
// gap only the end is among its events, of what ends after it only the beginning.
func spansOf(g gap, events []event, tid int) []span {
	var spans []span
	open := map[string]int{} // kind -> its span
	begin := func(at int64, c Cause) {
		open[c.Kind] = len(spans)
		spans = append(spans, span{c, max(at, g.from), g.to})
	}
	finish := func(at int64, c Cause) {
		at = min(at+grain, g.to)
		if i, ok := open[c.Kind]; ok {
			spans[i].to = max(at, spans[i].from)
			delete(open, c.Kind)
		} else {
			spans = append(spans, span{c, g.from, at})
		}
	}
	for _, e := range events {
		switch e.name {
		case "sched_switch":
			switched(e, tid, begin, finish)
		case "workqueue_execute_start":
			// The worker that runs is already in a span: it is named after its work.
			if i, ok := open[Switch]; ok {
				spans[i].Cause = Cause{Kind: Work, What: submatch(function, e.args, 1), PID: spans[i].PID}
			}
		case "nmi_handler":
			nanos, _ := strconv.ParseInt(submatch(delta, e.args, 1), 10, 64) // 0 if the kernel says none
			spans = append(spans, span{Cause{Kind: NMI}, max(e.at-nanos, g.from), min(e.at+grain, g.to)})
		default:
			if c, entry, ok := interrupt(e); ok && entry {
				begin(e.at, c)
			} else if ok {
				finish(e.at, c)
			}
		}
	}
	slices.SortStableFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	return spans
}

// switched takes a switch from one task to another.
func switched(e event, tid int, begin, finish func(int64, Cause)) {
	if m := prevTask.FindStringSubmatch(e.args); m != nil && m[2] != strconv.Itoa(tid) {
		finish(e.at, Cause{Kind: Switch, What: m[1], PID: number(m[2])})
	}
	if m := nextTask.FindStringSubmatch(e.args); m != nil && m[2] != strconv.Itoa(tid) {
		begin(e.at, Cause{Kind: Switch, What: m[1], PID: number(m[2])})
	}
}

// interrupt reads the entry or exit of an interrupt of any kind.
func interrupt(e event) (c Cause, entry, ok bool) {
	name, entry := strings.CutSuffix(e.name, "_entry")
	if !entry {
		if name, ok = strings.CutSuffix(e.name, "_exit"); !ok {
			return c, false, false
		}
	}
	switch name {
	case "irq_handler":
		number, device := submatch(irqName, e.args, 1), submatch(irqName, e.args, 2)
		return Cause{Kind: IRQ, What: strings.TrimSpace(number + " " + device)}, entry, true
	case "softirq":
		return Cause{Kind: SoftIRQ, What: submatch(action, e.args, 1)}, entry, true
	case "local_timer":
		return Cause{Kind: Tick}, entry, true
	default: // reschedule, call_function, irq_work, thermal_apic, …
		return Cause{Kind: IPI, What: name}, entry, true
	}
}

func submatch(r *regexp.Regexp, text string, n int) string {
	if m := r.FindStringSubmatch(text); m != nil {
		return m[n]
	}
	return ""
}

func number(digits string) int {
	n, _ := strconv.Atoi(digits) // a number that the pattern has checked
	return n
}
