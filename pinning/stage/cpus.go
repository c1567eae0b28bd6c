package stage

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/headrace/headrace/pinning/profile"
	"github.com/headrace/headrace/pinning/topology"
)

// cmdline compares the kernel's command line with what the profile wants of it.
type cmdline struct{}

func (cmdline) Describe() Description {
	return Description{"cmdline", "parameters that only a boot can set; checked, never changed", Nothing}
}

func (c cmdline) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, c)
	quiet := h.Placement.Quiet
	wishes := h.Profile.With("cmdline.")
	if len(wishes) == 0 || quiet.Empty() {
		return p.done()
	}
	has := map[string]string{}
	for word := range strings.FieldsSeq(h.text("proc/cmdline")) {
		key, value, _ := strings.Cut(word, "=")
		has[key] = value
	}
	var missing []string
	for _, w := range wishes {
		if want, ok := c.missing(h, w.Key, has[w.Key]); !ok {
			missing = append(missing, want)
		}
	}
	if len(missing) > 0 {
		line := strings.Join(missing, " ")
		p.note(true, "add to the kernel's command line and boot: "+line, "the kernel's command line lacks %s", line)
	}
	return p.done()
}

// missing returns the parameter as it should be, and whether the value is enough.
func (cmdline) missing(h *Host, key, value string) (want string, ok bool) {
	quiet := h.Placement.Quiet
	if key == "irqaffinity" {
		set, err := topology.ParseCPUs(value)
		return key + "=" + h.Placement.Housekeeping.String(), err == nil && !set.Empty() && set.Intersect(quiet).Empty()
	}
	flags, list := "", value
	if key == "isolcpus" {
		// Flags come before the CPUs and are words.
		want = "isolcpus=managed_irq," + quiet.String()
		for part := range strings.SplitSeq(value, ",") {
			if part == "managed_irq" || part == "domain" || part == "nohz" {
				flags += "," + part + ","
				list = strings.TrimPrefix(strings.TrimPrefix(list, part), ",")
			}
		}
		if !strings.Contains(flags, ",managed_irq,") {
			return want, false
		}
	} else {
		want = key + "=" + quiet.String()
	}
	set, err := topology.ParseCPUs(list)
	return want, err == nil && set.Contains(quiet)
}

// Names of the cgroup that workers run in, below the root of cgroup v2 and of v1, and of
// the one beside it that v1 needs.
const (
	v2Name = "headrace.slice"
	v1Name = "headrace"
	v1Rest = "headrace-rest"
)

// partition gives the worker cores to a cgroup of their own.
type partition struct{}

func (partition) Describe() Description {
	return Description{"partition", "a cpuset of the worker cores, which the scheduler gives to nobody else", Root}
}

func (s partition) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	w, ok := h.Profile.Get("partition")
	if !ok {
		return p.done()
	}
	if h.Placement.Quiet.Empty() {
		p.note(true, "more CPUs, or fewer workers", "no CPU can be isolated: %s is all there is", h.Machine.Online)
		return p.done()
	}
	const v2, v1 = "sys/fs/cgroup", "sys/fs/cgroup/cpuset"
	switch {
	case strings.Contains(" "+h.text(v2+"/cgroup.controllers")+" ", " cpuset "):
		s.planV2(p, v2, w)
	case h.exists(v1 + "/cpuset.cpus"):
		s.planV1(p, v1, w)
	default:
		p.note(true, "mount cgroup v2 on /sys/fs/cgroup", "no cgroup has the controller cpuset")
	}
	return p.done()
}

func (partition) planV2(p *planner, at string, w profile.Setting) {
	dir := path.Join(at, v2Name)
	quiet := p.h.Placement.Quiet.String()
	p.want(Setting{kindEnabled, at + " cpuset"}, enabled, "the slice needs the controller")
	p.want(Setting{kindDir, dir}, present, "the cgroup that workers join")
	cpus, mode := Setting{kindList, dir + "/cpuset.cpus"}, Setting{kindFile, dir + "/cpuset.cpus.partition"}
	if !p.h.exists(cpus.Name) { // comes with the directory
		p.add(cpus, "", quiet, w.Reason)
		p.add(mode, "member\n", w.Value, w.Reason)
		return
	}
	p.want(cpus, quiet, w.Reason)
	p.want(mode, w.Value, w.Reason)
}

// planV1 makes two cpusets, of the worker cores and of the rest, without balancing
// between them. There a task that runs on a worker core already is not driven away.
func (partition) planV1(p *planner, at string, w profile.Setting) {
	h := p.h
	mems := h.text(at + "/cpuset.mems")
	for _, g := range []struct{ name, cpus, balance string }{
		{v1Name, h.Placement.Quiet.String(), "0"},
		{v1Rest, h.Machine.Online.Minus(h.Placement.Quiet).String(), "1"},
	} {
		dir := path.Join(at, g.name)
		p.want(Setting{kindDir, dir}, present, "the cpuset of "+g.cpus)
		for _, f := range []struct{ kind, file, old, value string }{
			{kindList, "cpuset.cpus", "", g.cpus},
			{kindList, "cpuset.mems", "", mems},
			{kindFile, "cpuset.cpu_exclusive", "0", "1"},
			{kindFile, "cpuset.sched_load_balance", "1", g.balance},
		} {
			s := Setting{f.kind, path.Join(dir, f.file)}
			if h.exists(s.Name) {
				p.want(s, f.value, w.Reason)
			} else {
				p.add(s, f.old+"\n", f.value, w.Reason)
			}
		}
	}
	p.want(Setting{kindFile, at + "/cpuset.sched_load_balance"}, "0", "balancing ends at the borders of the two")
	p.note(false, "", "cgroup v1: tasks that are on a worker core now are not moved; cgroup v2 does it better")
}

// workqueue moves the kernel's unbound work.
type workqueue struct{}

func (workqueue) Describe() Description {
	return Description{"workqueue", "the kernel's unbound work runs on housekeeping cores", Root}
}

func (s workqueue) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	w, ok := h.Profile.Get("workqueue")
	if !ok || h.Placement.Quiet.Empty() {
		return p.done()
	}
	rest := h.Machine.Online.Minus(h.Placement.Quiet).Mask()
	const dir = "sys/devices/virtual/workqueue"
	p.want(Setting{kindMask, dir + "/cpumask"}, rest, w.Reason)
	for _, name := range h.names(dir) {
		at := path.Join(dir, name, "cpumask")
		if name != "cpumask" && h.exists(at) {
			p.want(Setting{kindMask, at}, rest, w.Reason)
		}
	}
	return p.done()
}

// cstate bounds the time in which a worker core wakes up.
type cstate struct{}

func (cstate) Describe() Description {
	return Description{"cstate", "how deep worker cores may sleep", Root}
}

func (s cstate) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	n, w, ok := h.Profile.Number("cstate")
	if !ok {
		return p.done()
	}
	// In this file 0 means no limit, and "n/a" that no latency at all is accepted.
	value := strconv.Itoa(n)
	if n == 0 {
		value = "n/a"
	}
	own := h.ownLimits()
	for _, at := range own {
		p.want(Setting{kindFile, at}, value, w.Reason)
	}
	if len(own) == 0 {
		p.note(false, "`headrace tune apply --hold` holds /dev/cpu_dma_latency in its place", "cores have no limit of their own")
	}
	return p.done()
}

// frequency sets the governor and the energy preference of the worker cores.
type frequency struct{}

func (frequency) Describe() Description {
	return Description{"cpufreq", "worker cores keep their frequency", Root}
}

func (s frequency) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	for _, of := range []struct{ key, file string }{{"governor", "scaling_governor"}, {"epp", "energy_performance_preference"}} {
		w, ok := h.Profile.Get(of.key)
		if !ok {
			continue
		}
		found := false
		for _, cpu := range h.Placement.WorkerCPUs().List() {
			at := fmt.Sprintf("sys/devices/system/cpu/cpu%d/cpufreq/%s", cpu, of.file)
			if h.exists(at) {
				found = true
				p.want(Setting{kindFile, at}, w.Value, w.Reason)
			}
		}
		if !found {
			p.note(false, "", "%s: the kernel does not control frequencies here", of.key)
		}
	}
	return p.done()
}
