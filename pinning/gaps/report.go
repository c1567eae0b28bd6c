package gaps

import "time"

// A Report is what was measured. Times in JSON are nanoseconds.
type Report struct {
	// Asked and Over are as in the [Config].
	Asked time.Duration `json:"asked_ns"`
	Over  time.Duration `json:"over_ns"`
	// Cores are in the order asked.
	Cores []Core `json:"cores"`
	// CausesUnknown says why there are no causes; "" if there are.
	CausesUnknown string `json:"causes_unknown,omitempty"`
	// Disturbed says what of the measurement itself takes the cores, "" if nothing:
	// see [Quiet].
	Disturbed string `json:"disturbed,omitempty"`
}

// A Core is what one core's thread saw.
type Core struct {
	CPU int `json:"cpu"`
	// For is how long it looked, Windows the whole milliseconds of that.
	For     time.Duration `json:"for_ns"`
	Windows uint64        `json:"windows"`
	// Least is the shortest time between two readings: the loop's own.
	Least time.Duration `json:"min_ns"`
	// Percentiles of the worst gap of a millisecond, and the worst of all.
	P50  time.Duration `json:"p50_ns"`
	P99  time.Duration `json:"p99_ns"`
	P999 time.Duration `json:"p999_ns"`
	Max  time.Duration `json:"max_ns"`
	// Histogram counts milliseconds by their worst gap.
	Histogram []Bucket `json:"histogram"`
	// Gaps counts those of Over and more, Lost is their sum. Unkept of them came after
	// the room for their times was used up, and are in no cause.
	Gaps   uint64        `json:"gaps"`
	Lost   time.Duration `json:"lost_ns"`
	Unkept uint64        `json:"unkept,omitempty"`
	// Causes are those of the gaps kept, the worst first.
	Causes []Cause `json:"causes,omitempty"`

	// What the kernel counted meanwhile, which needs no privilege: the thread's
	// involuntary switches, all interrupts of the CPU, time stolen by a hypervisor (in
	// steps of 10 ms).
	Switches   int64         `json:"switches"`
	Interrupts uint64        `json:"interrupts"`
	Steal      time.Duration `json:"steal_ns"`
}

// A Bucket counts milliseconds whose worst gap was below Below; 0 is no bound.
type Bucket struct {
	Below time.Duration `json:"below_ns"`
	Count uint64        `json:"count"`
}

// Kinds of causes.
const (
	// Switch: the scheduler gave the core to another task.
	Switch = "sched_switch"
	// Work: that task was a kernel worker, and this the function that it ran.
	Work = "workqueue"
	// IRQ: a device's interrupt.
	IRQ = "irq"
	// IPI: another CPU's interrupt.
	IPI = "ipi"
	// Tick: the timer's interrupt.
	Tick = "timer"
	// SoftIRQ: deferred work of an interrupt.
	SoftIRQ = "softirq"
	// NMI: an interrupt that cannot be masked: the watchdog, perf.
	NMI = "nmi"
	// Unexplained: the kernel did nothing there, or too little: firmware (SMI) or
	// hypervisor.
	Unexplained = "unexplained"
	// Untraced: the trace buffer no longer had the events of that time.
	Untraced = "untraced"
)

// A Cause is what took the core, and how often.
type Cause struct {
	Kind string `json:"kind"`
	// What is the task's name, the interrupt's number and name, the function.
	What string `json:"what,omitempty"`
	// PID is of the task, in its worst gap.
	PID   int           `json:"pid,omitempty"`
	Gaps  uint64        `json:"gaps"`
	Worst time.Duration `json:"worst_ns"`
	Lost  time.Duration `json:"lost_ns"`
}

// Worst returns the core whose p99.9 is the highest.
func (r *Report) Worst() Core {
	var worst Core
	for i := range r.Cores {
		if i == 0 || r.Cores[i].P999 > worst.P999 {
			worst = r.Cores[i]
		}
	}
	return worst
}

func (s *spinner) report(cpu int) Core {
	c := Core{
		CPU: cpu, For: time.Duration(s.ended - s.begun), Windows: s.tally.count, Least: time.Duration(s.least),
		P50:  time.Duration(s.tally.quantile(50, 100)),
		P99:  time.Duration(s.tally.quantile(99, 100)),
		P999: time.Duration(s.tally.quantile(999, 1000)),
		Max:  time.Duration(s.tally.worst),
		Gaps: s.count, Lost: time.Duration(s.lost), Unkept: s.count - uint64(len(s.kept)),
	}
	if s.ended == s.begun { // ended before it began
		c.Least = 0
	}
	for i, n := range s.tally.coarse {
		b := Bucket{Count: n}
		if i < len(Edges) {
			b.Below = Edges[i]
		}
		c.Histogram = append(c.Histogram, b)
	}
	return c
}
