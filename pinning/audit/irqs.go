package audit

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/headrace/headrace/pinning/topology"
)

// checkIRQs looks for interrupts on worker cores: those that came there between the
// samples, and those that may.
func checkIRQs(f *Facts) []Finding {
	if f.After.Interrupts == nil || f.Before.Interrupts == nil {
		return []Finding{{ID: "irq.workers", Severity: Unknown, What: "interrupts cannot be counted", Measured: "no /proc/interrupts"}}
	}
	if f.IRQsErr != nil {
		return []Finding{{ID: "irq.workers", Severity: Unknown, What: "interrupts' cores cannot be read", Measured: f.IRQsErr.Error()}}
	}
	var cards []int
	for i := range f.NICs {
		for _, q := range f.NICs[i].IRQs {
			cards = append(cards, q.Number)
		}
	}
	var came, may []string
	for _, q := range f.IRQs {
		n := uint64(0)
		name := fmt.Sprint(q.Number)
		for _, cpu := range f.Workers.List() {
			n += f.After.Interrupts.Count(name, cpu) - f.Before.Interrupts.Count(name, cpu)
		}
		// Where it goes; a move takes effect with the next interrupt, and until then the two
		// have nothing in common.
		where := q.Effective
		if where.Intersect(q.Affinity).Empty() {
			where = q.Affinity
		}
		// What has never come is no trouble, but for a card that waits for its feed.
		live := q.Count > 0 || slices.Contains(cards, q.Number)
		label := strings.TrimSpace(name + " " + strings.Join(q.Actions, " "))
		switch {
		case n > 0:
			came = append(came, fmt.Sprintf("%s: %d", label, n))
		case live && !where.Intersect(f.Workers).Empty():
			may = append(may, label)
		}
	}
	out := Finding{
		ID: "irq.workers", What: "no interrupt goes to the worker cores",
		Measured: fmt.Sprintf("0 of %d interrupts in %v", len(f.IRQs), f.After.At.Sub(f.Before.At)),
		Why:      "an interrupt takes 1 to 10 µs, and the soft interrupt behind it up to 2 to 8 ms or 300 packets (net.core.netdev_budget, netdev_budget_usecs; Documentation/core-api/irq/irq-affinity.rst)",
		Fix:      tune(f, "irq"),
	}
	switch {
	case len(came) > 0:
		out.Severity, out.Best = Warn, ClassB
		out.What, out.Measured = "interrupts come on worker cores", few(came)
	case len(may) > 0:
		out.Severity, out.Best = Warn, ClassB
		out.What, out.Measured = "interrupts may come on worker cores; none did now", few(may)
	}
	return []Finding{quiet(out)}
}

// few joins the first of a list.
func few(list []string) string {
	const most = 6
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

func checkIRQBalance(f *Facts) []Finding {
	out := Finding{
		ID: "irq.balance", What: "nothing moves interrupts about", Measured: "irqbalance does not run",
		Why: "irqbalance looks every 10 s and moves interrupts onto worker cores again (irqbalance(1))",
		Fix: tune(f, "irqbalance") + ", or: systemctl disable --now irqbalance",
	}
	pid, ok := running(f.Root, "irqbalance")
	if ok {
		out.Severity, out.Best = Warn, ClassB
		out.What, out.Measured = "irqbalance moves interrupts as it likes", "irqbalance runs, pid "+pid
		if banned, ok := banned(f, pid); ok {
			out.Severity, out.Best = OK, 0
			out.What, out.Measured = "irqbalance leaves the worker cores alone", "banned: "+banned
		}
	}
	return []Finding{quiet(out)}
}

// banned reports whether a running irqbalance was told to leave the worker cores alone.
func banned(f *Facts, pid string) (string, bool) {
	environ, ok := text(f.Root, "proc/"+pid+"/environ")
	if !ok {
		return "", false // another user's
	}
	for setting := range strings.SplitSeq(environ, "\x00") {
		if list, ok := strings.CutPrefix(setting, "IRQBALANCE_BANNED_CPULIST="); ok {
			cpus, err := topology.ParseCPUs(list)
			return list, err == nil && cpus.Contains(f.Workers)
		}
	}
	return "", false
}

// running finds a process by the name that the kernel has for it.
func running(root fs.FS, name string) (pid string, ok bool) {
	entries, err := fs.ReadDir(root, "proc")
	if err != nil {
		return "", false
	}
	i := slices.IndexFunc(entries, func(e fs.DirEntry) bool {
		if e.Name()[0] < '0' || e.Name()[0] > '9' {
			return false
		}
		comm, ok := text(root, path.Join("proc", e.Name(), "comm"))
		return ok && comm == name
	})
	if i < 0 {
		return "", false
	}
	return entries[i].Name(), true
}
