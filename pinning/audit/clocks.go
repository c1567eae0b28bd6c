package audit

import (
	"fmt"
	"strings"
	"time"
)

func checkClockSource(f *Facts) []Finding {
	const dir = "sys/devices/system/clocksource/clocksource0/"
	source, ok := text(f.Root, dir+"current_clocksource")
	if !ok {
		return []Finding{{ID: "clock.source", Severity: Unknown, What: "the clock source cannot be read", Measured: "no " + dir}}
	}
	out := Finding{
		ID: "clock.source", What: "reading the clock costs no system call", Measured: source,
		Why: "a worker reads the clock each cycle: 25 to 40 ns from the TSC, 500 ns to 2 µs from hpet or acpi_pm, by a system call (vdso(7))",
	}
	switch source {
	case "tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page":
		return []Finding{quiet(out)}
	}
	out.Severity, out.Best = Warn, ClassB
	out.What = "reading the clock is a system call"
	out.Fix = "kernel command line: tsc=reliable clocksource=tsc, if the firmware's TSC is sound"
	if available, _ := text(f.Root, dir+"available_clocksource"); strings.Contains(" "+available+" ", " tsc ") {
		out.Fix = "echo tsc > /" + dir + "current_clocksource"
	}
	return []Finding{out}
}

func checkClockSync(f *Facts) []Finding {
	c := f.Clock
	out := Finding{
		ID: "clock.sync", What: "the system's clock is synchronized",
		Measured: fmt.Sprintf("error at most %v, last offset %v", c.Error, c.Offset),
		Why:      "receive times, and `time: receive`, are by this clock; a free quartz runs away by 1 to 4 s a day",
		Fix:      "chronyd, or ptp4l and phc2sys",
	}
	switch {
	case c.Unknown != nil:
		return []Finding{{ID: "clock.sync", Severity: Unknown, What: "whether the clock is synchronized is not known", Measured: c.Unknown.Error()}}
	case !c.Synchronized:
		out.Severity, out.What = Warn, "nothing synchronizes the system's clock, as far as the kernel knows"
	case c.Error > 100*time.Millisecond:
		out.Severity, out.What = Warn, "the system's clock may be wrong by more than 100 ms"
	}
	return []Finding{quiet(out)}
}

// taiMax is more than any difference of TAI and UTC to come: a NIC's clock that is
// ahead by whole seconds below it keeps TAI, as PTP does.
const taiMax = 60 * time.Second

func checkPTP(f *Facts) []Finding {
	c := f.Clock
	if c.PHC < 0 {
		return nil
	}
	name := fmt.Sprintf("/dev/ptp%d", c.PHC)
	if c.PHCUnknown != nil {
		return []Finding{{ID: "clock.ptp", Subject: name, Severity: Unknown, What: "the NIC's clock cannot be read", Measured: c.PHCUnknown.Error()}}
	}
	ahead, scale := c.Ahead, "UTC"
	if whole := ahead.Round(time.Second); whole > 30*time.Second && whole < taiMax {
		ahead, scale = ahead-whole, "TAI"
	}
	out := Finding{
		ID: "clock.ptp", Subject: name, What: "the NIC's clock and the system's agree",
		Measured: fmt.Sprintf("%v apart (±%v), it keeps %s", ahead, c.PHCError, scale),
		Why:      "hardware time stamps are by the NIC's clock: latencies are wrong by as much as it is",
		Fix:      fmt.Sprintf("ptp4l -i IF -m & phc2sys -s %s -w", name),
	}
	const far = 10 * time.Microsecond
	if ahead.Abs() > max(far, c.PHCError) {
		out.Severity, out.What = Note, "the NIC's clock and the system's do not agree"
	}
	return []Finding{quiet(out)}
}
