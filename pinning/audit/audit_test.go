package audit

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/pinning/gaps"
	"github.com/headrace/headrace/pinning/stage"
	"github.com/headrace/headrace/pinning/topology"
)

func TestASoundHostIsOfClassA(t *testing.T) {
	r := sound().audit(t)
	for _, f := range r.Findings {
		if f.Severity != OK {
			t.Errorf("%s %s is %v: %s (%s)", f.ID, f.Subject, f.Severity, f.What, f.Measured)
		}
		if f.What == "" || f.Measured == "" || f.Why != "" && f.ID != "kernel.rt_throttle" || f.Fix != "" {
			t.Errorf("%s is ok, and %+v", f.ID, f)
		}
	}
	if r.Class.Granted != ClassA || len(r.Class.HeldBack) != 0 || r.Class.P999 != 5*time.Microsecond {
		t.Errorf("class %+v", r.Class)
	}
	if r.Worst() != OK {
		t.Errorf("worst is %v", r.Worst())
	}
}

const cpu2 = "sys/devices/system/cpu/cpu2/"

const nicDir = "sys/devices/pci0000:80/0000:81:00.0/"

// Each fault is put into a sound host, and found; what it does not concern stays as it was.
func TestAFaultIsFoundAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(h *host)
		id    string
		want  Severity
		best  Class
		says  string // in what was measured, or in the fix
		also  []string
	}{
		{"a card of an unknown make", func(h *host) {
			h.links[nicDir+"driver"] = "../../../bus/pci/drivers/e100"
			h.files["sys/bus/pci/drivers/e100/x"] = ""
		}, "nic.driver", Note, ClassA, "e100", nil},
		{"a card in a bond", func(h *host) { h.links[nicDir+"net/eth0/master"] = "../../../../virtual/net/bond0" }, "nic.driver", Warn, ClassA, "name the members", nil},
		{"a link that is down", func(h *host) { h.files[nicDir+"net/eth0/operstate"] = "down" }, "nic.link", Fail, ClassA, "down", nil},
		{"a queue that nobody reads", func(h *host) { h.ether.Channels.Combined = 4 }, "nic.queues", Fail, ClassA, "ethtool -L eth0 combined 2", nil},
		{"fewer queues than the config reads", func(h *host) { h.ether.Channels.Combined = 1 }, "nic.queues", Fail, ClassA, "1 of 8", nil},
		{"more queues than can be", func(h *host) { h.ether.Channels.Combined, h.opts.Config.Interfaces[0].Queues = 96, 0 }, "nic.queues", Fail, ClassA, "combined 64", nil},
		{"many queues for few workers", func(h *host) { h.ether.Channels.Combined, h.opts.Config.Interfaces[0].Queues = 8, 0 }, "nic.queues", Note, ClassA, "8 of 8", nil},
		{"a queue for two workers", func(h *host) { h.ether.Channels.Combined, h.opts.Config.Interfaces[0].Queues = 1, 0 }, "nic.queues", Note, ClassA, "combined 2", nil},
		{"short rings", func(h *host) { h.ether.Rings.Rx = 512 }, "nic.rings", Warn, ClassA, "ethtool -G eth0 rx 4096", nil},
		{"a short ring that cannot be longer", func(h *host) { h.ether.Rings = &Rings{256, 256} }, "nic.rings", Note, ClassA, "256 of 256", nil},
		{"packets held back", func(h *host) { h.ether.Coalesce.RxUsecs = 20 }, "nic.coalesce", Warn, ClassB, "rx-usecs 20", nil},
		{"packets held back for long", func(h *host) { h.ether.Coalesce.RxUsecs = 60 }, "nic.coalesce", Warn, ClassC, "rx-usecs 60", nil},
		{"packets held back as the card likes", func(h *host) { h.ether.Coalesce.Adaptive = true }, "nic.coalesce", Warn, ClassB, "adaptive", nil},
		{"LRO", func(h *host) { h.ether.Features["rx-lro"] = true }, "nic.offloads", Fail, ClassA, "ethtool -K eth0 lro off", nil},
		{"GRO by the card", func(h *host) { h.ether.Features["rx-gro-hw"] = true }, "nic.offloads", Warn, ClassA, "rx-gro-hw off", nil},
		{"VLAN tags that XDP does not see", func(h *host) { h.opts.Config.VLANs = []string{"trades"} }, "nic.offloads", Fail, ClassA, "rx-vlan-offload off", nil},
		{"offloads that are not told", func(h *host) { h.ether.Features = nil }, "nic.offloads", Unknown, ClassA, "does not tell", nil},
		{"jumbo frames", func(h *host) { h.files[nicDir+"net/eth0/mtu"] = "9000" }, "nic.mtu", Fail, ClassA, "mtu 1500", nil},
		{"an MTU one too large", func(h *host) { h.files[nicDir+"net/eth0/mtu"] = "1771" }, "nic.mtu", Fail, ClassA, "at most 1770", nil},
		{"no native XDP", func(h *host) {
			h.xdp = XDP{Probed: true, NativeRefused: "EOPNOTSUPP", LeftAsItWas: true, ZeroCopy: true}
		}, "nic.native", Warn, ClassC, "EOPNOTSUPP", []string{"nic.offloads"}},
		{"no native XDP, which the config insists on", func(h *host) {
			h.xdp = XDP{Probed: true, NativeRefused: "EOPNOTSUPP", LeftAsItWas: true, ZeroCopy: true}
			h.opts.Config.Interfaces[0].Native = true
		}, "nic.native", Fail, ClassC, "EOPNOTSUPP", []string{"nic.offloads"}},
		{"a generic program already there", func(h *host) { h.xdp = XDP{Attached: "generic", Program: 7, NotProbed: "in use", LeftAsItWas: true} }, "nic.native", Warn, ClassC, "program 7", []string{"nic.zero_copy"}},
		{"a trial that left something behind", func(h *host) { h.xdp.LeftAsItWas = false }, "nic.native", Fail, ClassA, "xdp off", nil},
		{"nothing tried", func(h *host) { h.xdp = XDP{NotProbed: "needs CAP_BPF", LeftAsItWas: true} }, "nic.native", Unknown, ClassA, "needs CAP_BPF", []string{"nic.zero_copy"}},
		{"no zero-copy", func(h *host) { h.xdp.ZeroCopy, h.xdp.ZeroCopyRefused = false, "EOPNOTSUPP" }, "nic.zero_copy", Note, ClassA, "EOPNOTSUPP", nil},
		{"packets lost now", func(h *host) { h.facts = func(f *Facts) { f.After.NICs["eth0"]["rx_missed_errors"] = 9 } }, "nic.drops", Warn, ClassA, "rx_missed_errors 9", nil},
		{"a card on the other node", func(h *host) { h.files[nicDir+"numa_node"] = "0" }, "numa.distance", Warn, ClassB, "distance 21", nil},
		{"a card that does not know its node", func(h *host) { h.files[nicDir+"numa_node"] = "-1" }, "numa.distance", Note, ClassA, "node -1", nil},

		{"cores that are shared", func(h *host) { h.files["sys/devices/system/cpu/isolated"] = "" }, "cpu.isolation", Warn, ClassC, "isolated: none", []string{"config.idle"}},
		{"a partition that is not granted", func(h *host) {
			h.files["sys/fs/cgroup/headrace.slice/cpuset.cpus.partition"] = "isolated invalid (Cpu list in cpuset.cpus not exclusive)"
			h.files["sys/fs/cgroup/headrace.slice/cpuset.cpus.effective"] = "2-3"
		}, "cpu.isolation", Warn, ClassA, "not exclusive", nil},
		{"a bare command line", func(h *host) { h.files["proc/cmdline"] = "quiet" }, "cpu.cmdline", Note, ClassB, "rcu_nocbs=2-3 irqaffinity=0-1 isolcpus=managed_irq,2-3", nil},
		{"callbacks on one worker core", func(h *host) {
			h.files["proc/cmdline"] = strings.Replace(h.files["proc/cmdline"], "rcu_nocbs=2-3", "rcu_nocbs=2", 1)
		}, "cpu.cmdline", Note, ClassB, "rcu_nocbs=2-3", nil},
		{"a slow governor", func(h *host) { h.files[cpu2+"cpufreq/scaling_governor"] = "powersave" }, "cpu.governor", Warn, ClassB, "2: powersave", nil},
		{"deep sleep, and workers that sleep", func(h *host) {
			h.files[cpu2+"power/pm_qos_resume_latency_us"] = "0"
			h.opts.Config.Interfaces[0].Spin = false
		}, "cpu.cstates", Warn, ClassC, "C6, 133 µs", []string{"config.idle"}},
		{"deep sleep, and workers that spin", func(h *host) { h.files[cpu2+"power/pm_qos_resume_latency_us"] = "0" }, "cpu.cstates", Note, ClassA, "133 µs", nil},
		{"a busy sibling", func(h *host) {
			for _, cpu := range []string{"0", "2"} {
				h.files["sys/devices/system/cpu/cpu"+cpu+"/topology/core_cpus_list"] = "0,2"
			}
			h.facts = func(f *Facts) {
				c := f.After.CPUs[0]
				c.Busy += 20
				f.After.CPUs[0] = c
			}
		}, "cpu.smt", Warn, ClassB, "0 beside 2", []string{"config.workers", "numa.distance"}},
		{"work on a worker core", func(h *host) {
			h.facts = func(f *Facts) {
				c := f.After.CPUs[3]
				c.Busy += 50
				f.After.CPUs[3] = c
			}
		}, "cpu.busy", Note, ClassA, "3: 50 %", nil},
		{"interrupts on a worker core", func(h *host) {
			h.facts = func(f *Facts) { f.After.Interrupts.Lines[1].Counts[2] += 7 }
		}, "irq.workers", Warn, ClassB, "30 eth0-rx-0: 7", nil},
		{"interrupts that may come on a worker core", func(h *host) {
			h.files["proc/irq/30/smp_affinity_list"], h.files["proc/irq/30/effective_affinity_list"] = "0-3", "2"
		}, "irq.workers", Warn, ClassB, "30 eth0-rx-0", nil},
		{"interrupts whose cores make no sense", func(h *host) { h.files["proc/irq/30/smp_affinity_list"] = "nonsense" }, "irq.workers", Unknown, ClassA, "nonsense", []string{"nic.drops", "numa.distance"}},
		{"an interrupt that will move to a worker core when it comes", func(h *host) { h.files["proc/irq/30/smp_affinity_list"] = "2" }, "irq.workers", Warn, ClassB, "30", nil},
		{"a card's interrupt that has not come yet", func(h *host) {
			h.files["proc/irq/30/smp_affinity_list"] = "2"
			h.files["proc/interrupts"] = strings.Replace(h.files["proc/interrupts"], "1000       2000", "0       0", 1)
		}, "irq.workers", Warn, ClassB, "30", nil},
		{"irqbalance", func(h *host) { h.files["proc/812/comm"] = "irqbalance\n" }, "irq.balance", Warn, ClassB, "pid 812", nil},

		{"no huge pages", func(h *host) {
			h.files["sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"] = "0"
			h.files["sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages"] = "0"
		}, "mem.hugepages", Warn, ClassA, "0 of 0 free; the config takes 300", nil},
		{"fewer huge pages than the config takes", func(h *host) {
			h.files["sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages"] = "299"
		}, "mem.hugepages", Warn, ClassA, "299 of 512", nil},
		{"huge pages for everybody", func(h *host) { h.files["sys/kernel/mm/transparent_hugepage/enabled"] = "[always] madvise never" }, "mem.thp", Warn, ClassC, "always", nil},
		{"pages that move", func(h *host) { h.files["proc/sys/kernel/numa_balancing"] = "1" }, "mem.numa_balancing", Warn, ClassB, "numa_balancing=1", nil},
		{"more memory than there is", func(h *host) { h.opts.Config.MemoryBytes = 1 << 40 }, "config.memory", Fail, ClassD, "1 TiB", []string{"mem.hugepages"}},
		{"nearly all memory", func(h *host) {
			h.files["proc/meminfo"] = "MemAvailable: 10000 kB\n"
			h.opts.Config.MemoryBytes = 1800 << 20
		}, "config.memory", Warn, ClassA, "1.8 GiB", []string{"mem.hugepages"}},
		{"memory that may not be locked", func(h *host) { h.files["proc/self/status"] = "CapEff:\t0000000000000000\n" }, "process.memlock", Warn, ClassA, "8 MiB", []string{"process.capabilities"}},

		{"a clock by system call", func(h *host) { h.files["sys/devices/system/clocksource/clocksource0/current_clocksource"] = "hpet" }, "clock.source", Warn, ClassB, "echo tsc >", nil},
		{"a clock by system call, and no other", func(h *host) {
			h.files["sys/devices/system/clocksource/clocksource0/current_clocksource"] = "hpet"
			h.files["sys/devices/system/clocksource/clocksource0/available_clocksource"] = "hpet acpi_pm"
		}, "clock.source", Warn, ClassB, "tsc=reliable", nil},
		{"a free clock", func(h *host) { h.clock.Synchronized = false }, "clock.sync", Warn, ClassA, "chronyd", nil},
		{"a clock that may be far off", func(h *host) { h.clock.Error = time.Second }, "clock.sync", Warn, ClassA, "1s", nil},
		{"a clock that is not told", func(h *host) { h.clock.Unknown = errors.New("EPERM") }, "clock.sync", Unknown, ClassA, "EPERM", nil},
		{"a card's clock that is off", func(h *host) { h.clock.Ahead = 50 * time.Microsecond }, "clock.ptp", Note, ClassA, "50µs apart", nil},
		{"a card's clock that may not be read", func(h *host) { h.clock.PHCUnknown = os.ErrPermission }, "clock.ptp", Unknown, ClassA, "permission", nil},

		{"an old kernel", func(h *host) { h.files["proc/sys/kernel/osrelease"] = "6.1.0-28-amd64" }, "kernel.version", Fail, ClassD, "6.1.0", nil},
		{"BPF by interpreter", func(h *host) { h.files["proc/sys/net/core/bpf_jit_enable"] = "0" }, "kernel.bpf_jit", Warn, ClassC, "bpf_jit_enable=1", nil},
		{"BPF that is not shown", func(h *host) { delete(h.files, "proc/sys/net/core/bpf_jit_enable") }, "kernel.bpf_jit", Unknown, ClassA, "not shown", nil},
		{"no throttle", func(h *host) { h.files["proc/sys/kernel/sched_rt_runtime_us"] = "-1" }, "kernel.rt_throttle", Note, ClassA, "950000", nil},
		{"the watchdog", func(h *host) { h.files["proc/sys/kernel/nmi_watchdog"] = "1" }, "kernel.watchdog", Warn, ClassB, "nmi_watchdog=0", nil},
		{"statistics each second", func(h *host) { h.files["proc/sys/vm/stat_interval"] = "1" }, "kernel.stat_interval", Note, ClassA, "vm.stat_interval=10", nil},
		{"a virtual machine", func(h *host) { h.files["proc/cpuinfo"] = "flags\t\t: fpu hypervisor tsc\n" }, "host.virtual", Note, ClassB, "Supermicro", nil},
		{"a virtual machine that is robbed", func(h *host) {
			h.files["proc/cpuinfo"], h.files["proc/stat"] = "flags\t\t: fpu hypervisor tsc\n", stat(100)
		}, "host.virtual", Warn, ClassC, "4 s of all", nil},
		{"an unprivileged user", func(h *host) {
			h.files["proc/self/status"] = "CapEff:\t0000000000000000\n"
			h.files["proc/self/limits"] = "Max locked memory         unlimited            unlimited            bytes\n"
		}, "process.capabilities", Note, ClassA, "CAP_BPF", nil},

		{"workers that share", func(h *host) { h.opts.Workers, h.opts.WorkerCount = topology.CPUSet{}, 4 }, "config.workers", Warn, ClassC, "--cores", []string{"cpu.isolation", "numa.distance", "config.idle", "irq.workers", "nic.queues", "cpu.cmdline"}},
		{"rings that are too short for the rate", func(h *host) { h.opts.Config.Rate = 10_000_000 }, "config.rings", Warn, ClassA, "rx_ring: 65536", nil},
		{"no rate", func(h *host) { h.opts.Config.Rate = 0 }, "config.rings", Unknown, ClassA, "--rate", nil},
		{"groups that nobody joined", func(h *host) {
			h.opts.Config.Groups = map[string][]netip.Addr{"trades": {netip.MustParseAddr("233.0.0.1"), netip.MustParseAddr("233.0.0.2")}}
		}, "config.groups", Note, ClassA, "233.0.0.2 on eth0", nil},
		{"a prefix of groups", func(h *host) {
			h.opts.Config.Wide = map[string][]netip.Prefix{"trades": {netip.MustParsePrefix("233.0.0.0/24")}}
		}, "config.groups", Warn, ClassA, "233.0.0.0/24", nil},
	} {
		before := severities(sound().audit(t))
		h := sound()
		c.fault(h)
		r := h.audit(t)
		got := find(r, c.id)
		if got.Severity != c.want || got.Best != c.best {
			t.Errorf("%s: %s is %v and allows class %v, want %v, %v: %+v", c.name, c.id, got.Severity, got.Best, c.want, c.best, got)
		}
		if !strings.Contains(got.Measured+got.Fix, c.says) {
			t.Errorf("%s: neither %q nor %q says %q", c.name, got.Measured, got.Fix, c.says)
		}
		if c.want >= Warn && (got.Why == "" || got.Fix == "") {
			t.Errorf("%s: %s has no reason or no remedy: %+v", c.name, c.id, got)
		}
		for id, s := range severities(r) {
			if old, ok := before[id]; id != c.id && !slices.Contains(c.also, id) && (ok || s != OK) && s != old {
				t.Errorf("%s: %s became %v too: %+v", c.name, id, s, find(r, id))
			}
		}
		if r.Class.Granted < c.best {
			t.Errorf("%s: class %v is granted", c.name, r.Class.Granted)
		}
	}
}

func TestWhatIsThereIsNotTakenForAFault(t *testing.T) {
	for _, c := range []struct {
		name  string
		still func(h *host)
		id    string
		says  string
	}{
		{"irqbalance that was told", func(h *host) {
			h.files["proc/812/comm"] = "irqbalance\n"
			h.files["proc/812/environ"] = "PATH=/bin\x00IRQBALANCE_BANNED_CPULIST=2-3\x00"
		}, "irq.balance", "banned: 2-3"},
		{"an interrupt that will move away when it comes", func(h *host) {
			h.files["proc/irq/30/effective_affinity_list"] = "2"
		}, "irq.workers", "0 of 2"},
		{"an interrupt that never came", func(h *host) {
			h.files["proc/irq/11/smp_affinity_list"], h.files["proc/irq/11/effective_affinity_list"] = "2", "2"
			h.files["proc/interrupts"] += " 11:          0          0          0          0  IO-APIC  11-edge      old\n"
		}, "irq.workers", "0 of 3"},
		{"a partition in place of the command line", func(h *host) {
			h.files["sys/devices/system/cpu/isolated"] = ""
			h.files["sys/fs/cgroup/headrace.slice/cpuset.cpus.partition"] = "isolated"
			h.files["sys/fs/cgroup/headrace.slice/cpuset.cpus.effective"] = "2-3"
		}, "cpu.isolation", "isolated: 2-3"},
		{"an exclusive set of the first version", func(h *host) {
			h.files["sys/devices/system/cpu/isolated"] = ""
			h.files["sys/fs/cgroup/cpuset/headrace/cpuset.cpu_exclusive"] = "1"
			h.files["sys/fs/cgroup/cpuset/headrace/cpuset.sched_load_balance"] = "0"
			h.files["sys/fs/cgroup/cpuset/headrace/cpuset.cpus"] = "2-3"
		}, "cpu.isolation", "isolated: 2-3"},
		{"no frequencies", func(h *host) {
			for _, cpu := range []string{"2", "3"} {
				delete(h.files, "sys/devices/system/cpu/cpu"+cpu+"/cpufreq/scaling_governor")
			}
		}, "cpu.governor", "no cpufreq"},
		{"sleep that is switched off", func(h *host) {
			for _, cpu := range []string{"2", "3"} {
				h.files["sys/devices/system/cpu/cpu"+cpu+"/power/pm_qos_resume_latency_us"] = "0"
				h.files["sys/devices/system/cpu/cpu"+cpu+"/cpuidle/state1/disable"] = "1"
			}
		}, "cpu.cstates", "0 µs"},
		{"groups that somebody joined", func(h *host) {
			h.opts.Config.Groups = map[string][]netip.Addr{"trades": {netip.MustParseAddr("233.0.0.1"), netip.MustParseAddr("ff15::1")}}
		}, "config.groups", "233.0.0.1"},
		{"a card's clock in UTC", func(h *host) { h.clock.Ahead = -300 * time.Nanosecond }, "clock.ptp", "UTC"},
		{"one node and pages that would move", func(h *host) {
			delete(h.files, "sys/devices/system/node/online")
			for name := range h.files {
				if strings.HasPrefix(name, "sys/devices/system/node/") {
					delete(h.files, name)
				}
			}
			h.files["proc/sys/kernel/numa_balancing"] = "1"
		}, "mem.numa_balancing", "1 nodes"},
	} {
		h := sound()
		c.still(h)
		if got := find(h.audit(t), c.id); got.Severity != OK || !strings.Contains(got.Measured, c.says) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestAClassIsGrantedOnlyForWhatWasMeasured(t *testing.T) {
	core := func(p999 time.Duration, length time.Duration) *gaps.Report {
		return &gaps.Report{Cores: []gaps.Core{{CPU: 2, For: length, P999: time.Microsecond}, {CPU: 3, For: length, P999: p999}}}
	}
	for _, c := range []struct {
		name  string
		noise *gaps.Report
		fault func(h *host)
		want  Class
		by    string
	}{
		{"nothing measured", nil, nil, ClassD, "noise"},
		{"quiet", core(9999*time.Nanosecond, 10*time.Second), nil, ClassA, ""},
		{"ten microseconds", core(10*time.Microsecond, 10*time.Second), nil, ClassB, "noise"},
		{"fifty microseconds", core(50*time.Microsecond, 10*time.Second), nil, ClassC, "noise"},
		{"a millisecond", core(time.Millisecond, 10*time.Second), nil, ClassD, "noise"},
		{"quiet for two seconds", core(3*time.Microsecond, 2*time.Second), nil, ClassC, "noise"},
		{"quiet for half a second", core(3*time.Microsecond, time.Second/2), nil, ClassD, "noise"},
		{"quiet, and a virtual machine", core(3*time.Microsecond, 10*time.Second), func(h *host) { h.files["proc/cpuinfo"] = "flags : hypervisor\n" }, ClassB, "host.virtual"},
		{"quiet, and shared", core(3*time.Microsecond, 10*time.Second), func(h *host) { h.files["sys/devices/system/cpu/isolated"] = "" }, ClassC, "cpu.isolation"},
	} {
		h := sound()
		h.noise = c.noise
		if c.fault != nil {
			c.fault(h)
		}
		v := h.audit(t).Class
		if v.Granted != c.want {
			t.Errorf("%s: class %v, want %v: %+v", c.name, v.Granted, c.want, v)
		}
		if c.by != "" && (len(v.HeldBack) == 0 || v.HeldBack[0].By != c.by || v.HeldBack[0].To != c.want || v.HeldBack[0].Evidence == "") {
			t.Errorf("%s: held back by %+v, want %s first", c.name, v.HeldBack, c.by)
		}
	}
}

func TestSeveritiesAndClassesAreNamesInJSON(t *testing.T) {
	want := Finding{ID: "a.b", Severity: Unknown, Best: ClassC}
	text, err := json.Marshal(want)
	if err != nil || !strings.Contains(string(text), `"severity":"unknown"`) || !strings.Contains(string(text), `"best_class":"C"`) {
		t.Fatalf("%s, %v", text, err)
	}
	var got Finding
	if err := json.Unmarshal(text, &got); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if json.Unmarshal([]byte(`{"severity":"bad"}`), &got) == nil || json.Unmarshal([]byte(`{"best_class":"E"}`), &got) == nil {
		t.Error("a name that is none was read")
	}
}

func TestAnInterfaceOfAnotherNamespaceIsNotTakenForOurs(t *testing.T) {
	h := sound()
	h.ether.Index = 5
	h.files[nicDir+"net/eth0/mtu"] = "9000"
	r := h.audit(t)
	if f := find(r, "nic.mtu"); f.Severity != OK {
		t.Errorf("the MTU of another eth0 was taken: %+v", f)
	}
	if f := find(r, "nic.drops"); f.Severity != Unknown {
		t.Errorf("another's counters were taken: %+v", f)
	}
	h = sound()
	h.ether.Index, h.ether.Up, h.opts.Interfaces = 5, false, []string{"vt1"}
	if f := find(h.audit(t), "nic.link"); f.Severity != Fail || f.Subject != "vt1" {
		t.Errorf("an interface that sysfs does not have: %+v", f)
	}
}

func TestTheDefaultRouteIsKnownOfBothFamilies(t *testing.T) {
	h := sound()
	h.files["proc/net/ipv6_route"] = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth2\n" +
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n"
	tree := h.tree()
	for name, want := range map[string]bool{"eth0": false, "eth1": true, "eth2": true, "lo": false} {
		if got := defaultRoute(tree, name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestWhatIsNotThereIsAnError(t *testing.T) {
	for _, change := range []func(h *host){
		func(h *host) { h.opts.Interfaces = []string{"eth9"} },
		func(h *host) { h.opts.Workers = topology.CPUs(9) },
		func(h *host) { h.opts.Workers = topology.CPUs(0, 1, 2, 3) },
	} {
		h := sound()
		change(h)
		if _, err := Gather(t.Context(), h.tree(), h, h.opts); err == nil {
			t.Errorf("%+v was looked at", h.opts)
		}
	}
}

func TestTheClosestReadingOfTwoClocksCounts(t *testing.T) {
	ahead, within := closest([]reading{{1000, 9000, 3000}, {10_000, 10_350, 10_200}, {20_000, 20_999, 20_800}})
	if ahead != 250 || within != 100 {
		t.Errorf("%v ahead, within %v; want 250ns, within 100ns", ahead, within)
	}
	if _, _, err := compare("/dev/null"); err == nil || !strings.Contains(err.Error(), "/dev/null") {
		t.Errorf("what is no clock was read: %v", err)
	}
	if c := (Kernel{}).Clock(9999); c.PHCUnknown == nil || c.PHC != 9999 {
		t.Errorf("a clock that is not there: %+v", c)
	}
}

// A remedy names a stage that there is.
func TestRemediesNameStages(t *testing.T) {
	h := sound()
	f, err := Gather(t.Context(), h.tree(), h, h.opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"partition", "cpufreq", "cstate", "irq", "irqbalance", "hugepages", "thp", "sysctl", "rings", "coalesce", "offloads"} {
		if !slices.Contains(stage.Names(), name) {
			t.Errorf("stage %s is none of %v", name, stage.Names())
		}
		if got, want := tune(f, name), "headrace tune apply -c bars.yaml --cpus 2-3 --stage "+name; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f.Config = nil
	if got, want := tune(f, "irq"), "headrace tune apply --interface eth0 --cpus 2-3 --stage irq"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The running machine is looked at without a complaint of the reader.
func TestThisMachineIsLookedAt(t *testing.T) {
	h := sound()
	f, err := Gather(t.Context(), os.DirFS("/"), asker{h}, Options{Span: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	r := Audit(f)
	if len(r.Findings) < 20 || r.Class.Granted != ClassD {
		t.Errorf("%d findings, class %v without a measurement", len(r.Findings), r.Class.Granted)
	}
	for _, id := range []string{"kernel.version", "clock.source", "clock.sync", "process.capabilities"} {
		if f := find(r, id); f.ID == "" {
			t.Errorf("no %s", id)
		}
	}
	e, err := Kernel{}.Ethernet("lo")
	if err != nil || e.PHC != -1 || e.Features == nil {
		t.Errorf("the loopback interface says %+v, %v", e, err)
	}
	if _, err := (Kernel{}).Ethernet("no-such-nic"); err == nil {
		t.Error("an interface that is not there answered")
	}
}

// asker asks the real kernel but for XDP.
type asker struct{ *host }

func (asker) Clock(phc int) Clock { return Kernel{}.Clock(phc) }
