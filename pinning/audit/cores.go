package audit

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/headrace/headrace/pinning/topology"
)

// tune is the command that mends what a stage of package stage can.
func tune(f *Facts, stage string) string {
	line := "headrace tune apply"
	switch {
	case f.Config != nil:
		line += " -c " + f.Config.File
	case len(f.NICs) > 0:
		var names []string
		for i := range f.NICs {
			names = append(names, f.NICs[i].Name)
		}
		line += " --interface " + strings.Join(names, ",")
	}
	return line + " --cpus " + f.Workers.String() + " --stage " + stage
}

// A partition is a control group with CPUs of its own.
type partition struct {
	dir      string
	cpus     topology.CPUSet
	isolated bool
	second   bool // of version 2
	// invalid is what the kernel says of a partition that it does not grant.
	invalid string
}

// partitionDepth bounds how deep control groups are looked through: a slice in a slice
// in a slice.
const partitionDepth = 4

// partitions finds partitions of version 2, and sets of version 1 that are exclusive and
// without balancing, which amounts to the same.
func partitions(root fs.FS) []partition {
	var found []partition
	for _, base := range []string{"sys/fs/cgroup", "sys/fs/cgroup/unified", "sys/fs/cgroup/cpuset"} {
		depth := strings.Count(base, "/")
		// What cannot be read holds no partition that we can know.
		_ = fs.WalkDir(root, base, func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil //nolint:nilerr // as above
			}
			if p, ok := readPartition(root, name); ok && !slices.ContainsFunc(found, func(o partition) bool { return o.dir == p.dir }) {
				found = append(found, p)
			}
			if strings.Count(name, "/")-depth >= partitionDepth {
				return fs.SkipDir
			}
			return nil
		})
	}
	return found
}

func readPartition(root fs.FS, dir string) (p partition, ok bool) {
	p.dir = "/" + dir
	if state, there := text(root, path.Join(dir, "cpuset.cpus.partition")); there {
		kind, rest, _ := strings.Cut(state, " ")
		if kind == "member" {
			return p, false
		}
		p.second = true
		p.isolated = kind == "isolated" && !strings.HasPrefix(rest, "invalid")
		if strings.HasPrefix(rest, "invalid") {
			p.invalid = state
		}
		list, _ := text(root, path.Join(dir, "cpuset.cpus.effective"))
		p.cpus, _ = topology.ParseCPUs(list) // empty if the kernel writes something new
		return p, dir != "sys/fs/cgroup" && dir != "sys/fs/cgroup/unified"
	}
	exclusive, there := integer(root, path.Join(dir, "cpuset.cpu_exclusive"))
	balance, thereToo := integer(root, path.Join(dir, "cpuset.sched_load_balance"))
	if !there || !thereToo || dir == "sys/fs/cgroup/cpuset" || exclusive != 1 || balance != 0 {
		return p, false
	}
	list, _ := text(root, path.Join(dir, "cpuset.cpus"))
	p.cpus, _ = topology.ParseCPUs(list) // as above
	p.isolated = true
	return p, true
}

// GroupOf returns the directory of the control group of version 2 that has the cores to
// itself, "" if none has.
func GroupOf(root fs.FS, cores topology.CPUSet) string {
	for _, p := range partitions(root) {
		if p.cpus.Contains(cores) && p.second {
			return p.dir
		}
	}
	return ""
}

func checkIsolation(f *Facts) []Finding {
	out := Finding{
		ID: "cpu.isolation", What: "worker cores are the workers' alone",
		Measured: "isolated: " + orNone(f.Isolated),
		Why:      "another task takes a turn of about 3 ms on a worker's core (the scheduler's base slice; Documentation/scheduler/sched-eevdf.rst)",
		Fix:      tune(f, "partition"),
	}
	for _, p := range f.partitions {
		if p.invalid != "" {
			out.Measured += fmt.Sprintf("; partition %s: %s", p.dir, p.invalid)
			out.Severity = Warn
		}
	}
	if shared := f.Workers.Minus(f.Isolated); !shared.Empty() {
		out.Severity, out.Best = Warn, ClassC
		out.What = fmt.Sprintf("worker cores %s are shared with every other task", shared)
	} else if out.Severity == Warn {
		out.What = "a partition of CPUs is asked for and not granted"
	}
	return []Finding{quiet(out)}
}

// quiet takes cost and fix out of what needs none.
func quiet(f Finding) Finding {
	if f.Severity == OK {
		f.Why, f.Fix = "", ""
	}
	return f
}

func orNone(s topology.CPUSet) string { return cmp.Or(s.String(), "none") }

// checkCmdline looks at what only the kernel's command line can give.
func checkCmdline(f *Facts) []Finding {
	line, ok := text(f.Root, "proc/cmdline")
	if !ok {
		return []Finding{{ID: "cpu.cmdline", Severity: Unknown, What: "the kernel's command line cannot be read", Measured: "no /proc/cmdline"}}
	}
	workers := f.Workers.String()
	rest := f.Machine.Online.Minus(f.Workers).String()
	var missing []string
	if !f.Workers.Minus(listOf(line, "rcu_nocbs")).Empty() {
		missing = append(missing, "rcu_nocbs="+workers)
	}
	if affinity := listOf(line, "irqaffinity"); affinity.Empty() || !affinity.Intersect(f.Workers).Empty() {
		missing = append(missing, "irqaffinity="+rest)
	}
	if managed := word(line, "isolcpus"); !strings.Contains(managed, "managed_irq") {
		missing = append(missing, "isolcpus=managed_irq,"+workers)
	}
	out := Finding{
		ID: "cpu.cmdline", What: "the kernel keeps callbacks and managed interrupts off the worker cores since boot",
		Measured: cmp.Or(cpuWords(line), "no word about CPUs"),
		Why:      "RCU callbacks run in soft interrupts of 10 to 100 µs; the interrupts of multi-queue devices cannot be moved later (Documentation/admin-guide/cpu-isolation.rst)",
	}
	if len(missing) > 0 {
		out.Severity, out.Best = Note, ClassB
		out.What = "the kernel's command line leaves callbacks and managed interrupts on the worker cores"
		out.Fix = "kernel command line: " + strings.Join(missing, " ")
	}
	return []Finding{quiet(out)}
}

// cpuWords picks the words about CPUs out of a command line.
func cpuWords(line string) string {
	var words []string
	for w := range strings.FieldsSeq(line) {
		switch name, _, _ := strings.Cut(w, "="); name {
		case "isolcpus", "nohz_full", "rcu_nocbs", "irqaffinity", "nosmt", "idle", "processor.max_cstate", "intel_idle.max_cstate":
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}

// word returns the value of name=value, "" if it is not there.
func word(line, name string) string {
	value := ""
	for w := range strings.FieldsSeq(line) {
		if v, ok := strings.CutPrefix(w, name+"="); ok {
			value = v
		}
	}
	return value
}

// listOf returns the CPUs of name=flags,list.
func listOf(line, name string) topology.CPUSet {
	value := word(line, name)
	for value != "" && (value[0] < '0' || value[0] > '9') {
		_, value, _ = strings.Cut(value, ",")
	}
	s, _ := topology.ParseCPUs(value) // empty, as the kernel takes it
	return s
}

func checkSMT(f *Facts) []Finding {
	if !f.Machine.SMT {
		return []Finding{{ID: "cpu.smt", What: "a core has one thread", Measured: "SMT is off or absent"}}
	}
	var busy, idle []string
	for _, cpu := range f.Workers.List() {
		c, _ := f.Machine.CPU(cpu)
		for _, sibling := range c.Siblings.Minus(topology.CPUs(cpu)).List() {
			share, known := f.Busy(sibling)
			text := fmt.Sprintf("%d beside %d: %.0f %%", sibling, cpu, 100*share)
			if known && share > 0.05 || f.Workers.Has(sibling) {
				busy = append(busy, text)
			} else {
				idle = append(idle, text)
			}
		}
	}
	out := Finding{
		ID: "cpu.smt", What: "the sibling threads of worker cores are idle",
		Measured: strings.Join(append(busy, idle...), ", "),
		Why:      "two threads share one core's execution units and L1 and L2 caches: a busy sibling takes 20 to 50 % of the worker's speed (Intel 64 optimization manual, Hyper-Threading)",
	}
	switch {
	case len(busy) > 0:
		out.Severity, out.Best = Warn, ClassB
		out.What = "sibling threads of worker cores are busy"
		out.Fix = offline(f)
	case len(idle) > 0:
		out.Severity = Note
		out.What = "the sibling threads of worker cores are idle now, but online"
		out.Fix = offline(f)
	default:
		out.Measured = "worker cores have no siblings online"
	}
	return []Finding{quiet(out)}
}

// offline is the line that takes the siblings of worker cores out of service.
func offline(f *Facts) string {
	var lines []string
	for _, cpu := range f.Workers.List() {
		c, _ := f.Machine.CPU(cpu)
		for _, sibling := range c.Siblings.Minus(f.Workers).List() {
			lines = append(lines, fmt.Sprintf("echo 0 > /sys/devices/system/cpu/cpu%d/online", sibling))
		}
	}
	if len(lines) == 0 {
		return "fewer workers, one on each core: --cores with one thread of each"
	}
	return strings.Join(lines, "; ")
}

func checkGovernor(f *Facts) []Finding {
	var slow []string
	seen := false
	for _, cpu := range f.Workers.List() {
		governor, ok := text(f.Root, fmt.Sprintf("sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor", cpu))
		if ok {
			seen = true
			if governor != "performance" {
				slow = append(slow, fmt.Sprintf("%d: %s", cpu, governor))
			}
		}
	}
	out := Finding{
		ID: "cpu.governor", What: "worker cores run at full frequency", Measured: "performance",
		Why: "after idling a core starts slow, and a change of frequency halts it for 10 to 50 µs (cpuinfo_transition_latency; Documentation/admin-guide/pm/cpufreq.rst)",
	}
	switch {
	case !seen:
		out.What, out.Measured = "the kernel does not set the frequency here", "no cpufreq"
	case len(slow) > 0:
		out.Severity, out.Best, out.Fix = Warn, ClassB, tune(f, "cpufreq")
		out.What, out.Measured = "worker cores do not run at full frequency", strings.Join(slow, ", ")
	}
	return []Finding{quiet(out)}
}

// checkCStates looks for the deepest state that a worker core may enter: one whose
// latency is above the limit that is set for the CPU is not entered.
func checkCStates(f *Facts) []Finding {
	deepest, name, at := int64(0), "", -1
	seen := false
	for _, cpu := range f.Workers.List() {
		limit := resumeLimit(f.Root, cpu)
		dir := fmt.Sprintf("sys/devices/system/cpu/cpu%d/cpuidle", cpu)
		for n := range 16 {
			state := dir + "/state" + strconv.Itoa(n)
			latency, ok := integer(f.Root, state+"/latency")
			if !ok {
				break
			}
			seen = true
			off, _ := integer(f.Root, state+"/disable")
			if off == 0 && latency > deepest && (limit < 0 || latency <= limit) {
				deepest, at = latency, cpu
				name, _ = text(f.Root, state+"/name")
			}
		}
	}
	out := Finding{
		ID: "cpu.cstates", What: "worker cores do not sleep deeply",
		Measured: fmt.Sprintf("deepest: %s, %d µs to wake", cmp.Or(name, "none"), deepest),
		Why:      "an adaptive worker that waits lets its core sleep, and the first packet after it waits for the core to wake, its caches empty (cpuidle's own figure; Documentation/admin-guide/pm/cpuidle.rst)",
	}
	switch {
	case !seen:
		out.What, out.Measured = "the kernel puts no core into deeper sleep here", "no cpuidle states"
	case deepest > 2:
		out.Severity, out.Fix = Warn, tune(f, "cstate")
		out.What = fmt.Sprintf("worker core %d may sleep so deeply that waking takes %d µs", at, deepest)
		if out.Best = ClassB; deepest >= 50 {
			out.Best = ClassC
		}
		if f.Config != nil && allSpin(f.Config) {
			out.Severity, out.Best = Note, ClassA
			out.Why = "the config's workers spin and never sleep; it would count with `idle: adaptive`"
		}
	}
	return []Finding{quiet(out)}
}

// resumeLimit returns the latency that is allowed a CPU in microseconds, -1 if any is.
func resumeLimit(root fs.FS, cpu int) int64 {
	value, ok := text(root, fmt.Sprintf("sys/devices/system/cpu/cpu%d/power/pm_qos_resume_latency_us", cpu))
	if !ok {
		return -1
	}
	if value == "n/a" { // no latency at all
		return 0
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n == 0 { // 0 is no limit
		return -1
	}
	return n
}

func allSpin(c *Config) bool {
	return len(c.Interfaces) > 0 && !slices.ContainsFunc(c.Interfaces, func(i ConfigInterface) bool { return !i.Spin })
}

// checkNeighbors looks at what the worker cores did between the samples. A worker that
// spins there is busy too, so this is only said, not judged.
func checkNeighbors(f *Facts) []Finding {
	var busy, cores []string
	for _, cpu := range f.Workers.List() {
		cores = append(cores, strconv.Itoa(cpu))
		if share, ok := f.Busy(cpu); ok && share > 0.05 {
			busy = append(busy, fmt.Sprintf("%d: %.0f %%", cpu, 100*share))
		}
	}
	if len(busy) == 0 {
		return []Finding{{ID: "cpu.busy", What: "worker cores are free", Measured: "idle over " + f.After.At.Sub(f.Before.At).String()}}
	}
	return []Finding{{
		ID: "cpu.busy", Severity: Note, What: "something runs on worker cores, a worker perhaps", Measured: strings.Join(busy, ", "),
		Why: "what is not a worker takes turns of milliseconds there",
		Fix: fmt.Sprintf("ps -eLo psr,pid,comm | grep -E '^ *(%s) '", strings.Join(cores, "|")),
	}}
}
