package audit

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/gaps"
	"github.com/headrace/headrace/pinning/topology"
)

// A host is a tree and the answers of its kernel, to be damaged by a test.
type host struct {
	files map[string]string
	links map[string]string
	ether Ethernet
	xdp   XDP
	clock Clock
	noise *gaps.Report
	opts  Options
	// facts are changed after they were gathered: what happened between the samples.
	facts func(f *Facts)
}

func (h *host) Ethernet(name string) (Ethernet, error) {
	if name == "eth9" {
		return Ethernet{PHC: -1}, unix.ENODEV
	}
	return h.ether, nil
}
func (h *host) XDP(topology.NIC, bool) XDP { return h.xdp }
func (h *host) Clock(phc int) Clock {
	h.clock.PHC = phc
	return h.clock
}

// sound is a host that nothing is wrong with: two packages of two cores, a node each,
// the card on node 1, CPUs 2 and 3 isolated.
func sound() *host {
	h := &host{
		files: map[string]string{
			"sys/devices/system/cpu/present": "0-3", "sys/devices/system/cpu/online": "0-3", "sys/devices/system/cpu/possible": "0-3",
			"sys/devices/system/cpu/isolated": "2-3",
			"sys/devices/system/node/online":  "0-1",
			"proc/interrupts": "            CPU0       CPU1       CPU2       CPU3\n" +
				"  9:          5          0          0          0  IO-APIC   9-fasteoi   acpi\n" +
				" 30:       1000       2000          0          0  PCI-MSI 1-edge      eth0-rx-0\n" +
				"LOC:         10         10         10         10  Local timer interrupts\n",
			"proc/irq/9/smp_affinity_list": "0-1", "proc/irq/9/effective_affinity_list": "0",
			"proc/irq/30/smp_affinity_list": "0-1", "proc/irq/30/effective_affinity_list": "1", "proc/irq/30/eth0-rx-0/x": "",
			"proc/cmdline":                               "BOOT_IMAGE=/vmlinuz isolcpus=managed_irq,domain,2-3 rcu_nocbs=2-3 irqaffinity=0-1\n",
			"proc/stat":                                  stat(0),
			"proc/meminfo":                               "MemTotal: 16000000 kB\nMemFree: 9000000 kB\nMemAvailable: 10000000 kB\n",
			"proc/cpuinfo":                               "processor : 0\nflags\t\t: fpu tsc nonstop_tsc\n",
			"proc/self/status":                           "Name:\theadrace\nCapEff:\t000001ffffffffff\n",
			"proc/self/limits":                           "Limit                     Soft Limit           Hard Limit           Units\nMax locked memory         8388608              8388608              bytes\n",
			"proc/sys/kernel/osrelease":                  "6.12.9-amd64\n",
			"proc/sys/kernel/numa_balancing":             "0\n",
			"proc/sys/kernel/sched_rt_runtime_us":        "950000\n",
			"proc/sys/kernel/nmi_watchdog":               "0\n",
			"proc/sys/vm/stat_interval":                  "10\n",
			"proc/sys/net/core/bpf_jit_enable":           "1\n",
			"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
			"sys/devices/system/clocksource/clocksource0/current_clocksource":   "tsc\n",
			"sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc hpet acpi_pm\n",
			"sys/class/dmi/id/sys_vendor":                                       "Supermicro\n",
			"proc/1/comm":                                                       "systemd\n",
			"proc/net/route":                                                    "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\neth1 00000000 0102000A 0003 0 0 0 00000000 0 0 0\n",
			"proc/net/igmp": "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n" +
				"2\teth0      :     1      V3\n\t\t\t\t010000E9     1 0:00000000\t\t0\n",
			"proc/net/igmp6": "2    eth0            ff150000000000000000000000000001     1 00000004 0\n",
		},
		links: map[string]string{
			"sys/class/net/eth0": "../../devices/pci0000:80/0000:81:00.0/net/eth0",
			"sys/devices/pci0000:80/0000:81:00.0/net/eth0/device": "../..",
			"sys/devices/pci0000:80/0000:81:00.0/driver":          "../../../bus/pci/drivers/ice",
		},
		ether: Ethernet{
			Driver: "ice", Version: "6.12.9", Firmware: "4.40", PHC: 0, Index: 2, MTU: 1500, Up: true,
			Channels: &Channels{Combined: 2, CombinedMax: 8}, Rings: &Rings{Rx: 4096, RxMax: 8160}, Coalesce: &Coalesce{RxUsecs: 0},
			Features: map[string]bool{"rx-gro": true, "rx-vlan-hw-parse": true},
		},
		xdp:   XDP{Probed: true, Native: true, ZeroCopy: true, LeftAsItWas: true},
		clock: Clock{Synchronized: true, Error: 3 * time.Millisecond, Ahead: 37*time.Second + 200*time.Nanosecond, PHCError: 2 * time.Microsecond},
		noise: &gaps.Report{Cores: []gaps.Core{
			{CPU: 2, For: 10 * time.Second, P999: 4 * time.Microsecond, Max: 9 * time.Microsecond},
			{CPU: 3, For: 10 * time.Second, P999: 5 * time.Microsecond, Max: 8 * time.Microsecond},
		}},
		opts: Options{Interfaces: []string{"eth0"}, Workers: topology.CPUs(2, 3), Span: time.Millisecond, Config: &Config{
			File: "bars.yaml", MemoryBytes: 500 << 20, UMEMBytes: 100 << 20, Rate: 1_000_000,
			Interfaces: []ConfigInterface{{Name: "eth0", Queues: 2, RxRing: 8192, Spin: true}},
			Groups:     nil,
		}},
	}
	nic := "sys/devices/pci0000:80/0000:81:00.0/"
	maps.Copy(h.files, map[string]string{
		nic + "numa_node": "1\n", nic + "local_cpulist": "2-3\n", nic + "msi_irqs/30": "msix\n",
		nic + "net/eth0/ifindex": "2\n", nic + "net/eth0/mtu": "1500\n", nic + "net/eth0/operstate": "up\n",
		nic + "net/eth0/queues/rx-0/rps_cpus": "0\n", nic + "net/eth0/queues/rx-1/rps_cpus": "0\n", nic + "net/eth0/queues/tx-0/xps_cpus": "0\n",
		nic + "net/eth0/statistics/rx_packets": "500\n", nic + "net/eth0/statistics/rx_dropped": "3\n",
		nic + "net/eth0/statistics/rx_missed_errors": "0\n", nic + "net/eth0/statistics/rx_fifo_errors": "0\n",
		"sys/bus/pci/drivers/ice/x": "",
	})
	for cpu := range 4 {
		dir := fmt.Sprintf("sys/devices/system/cpu/cpu%d/", cpu)
		maps.Copy(h.files, map[string]string{
			dir + "topology/physical_package_id": fmt.Sprint(cpu / 2), dir + "topology/core_id": fmt.Sprint(cpu % 2), dir + "topology/core_cpus_list": fmt.Sprint(cpu),
			dir + "cpufreq/scaling_governor":       "performance\n",
			dir + "cpuidle/state0/latency":         "0\n",
			dir + "cpuidle/state0/disable":         "0\n",
			dir + "cpuidle/state0/name":            "POLL\n",
			dir + "cpuidle/state1/latency":         "133\n",
			dir + "cpuidle/state1/disable":         "0\n",
			dir + "cpuidle/state1/name":            "C6\n",
			dir + "power/pm_qos_resume_latency_us": "2\n",
		})
	}
	for node := range 2 {
		dir := fmt.Sprintf("sys/devices/system/node/node%d/", node)
		maps.Copy(h.files, map[string]string{
			dir + "cpulist":  fmt.Sprintf("%d-%d", 2*node, 2*node+1),
			dir + "distance": []string{"10 21", "21 10"}[node],
			dir + "meminfo":  fmt.Sprintf("Node %d MemTotal: 8000000 kB\nNode %d MemFree: 4000000 kB\n", node, node),
			dir + "hugepages/hugepages-2048kB/nr_hugepages": "512\n", dir + "hugepages/hugepages-2048kB/free_hugepages": "512\n", dir + "hugepages/hugepages-2048kB/surplus_hugepages": "0\n",
		})
	}
	return h
}

// stat is /proc/stat with the given time stolen from each CPU, in hundredths.
func stat(stolen int) string {
	var b strings.Builder
	b.WriteString("cpu  1 2 3 4 5 6 7 8 0 0\n")
	for cpu := range 4 {
		fmt.Fprintf(&b, "cpu%d 100 0 50 1000 0 0 0 %d 0 0\n", cpu, stolen)
	}
	return b.String()
}

func (h *host) tree() fs.FS {
	tree := fstest.MapFS{}
	for name, text := range h.files {
		tree[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o444}
	}
	for name, target := range h.links {
		tree[name] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
	}
	return tree
}

func (h *host) audit(t *testing.T) *Report {
	t.Helper()
	f, err := Gather(t.Context(), h.tree(), h, h.opts)
	if err != nil {
		t.Fatal(err)
	}
	f.Noise = h.noise
	for cpu, c := range f.After.CPUs { // half a second went by, idle
		c.Idle += 50
		f.After.CPUs[cpu] = c
	}
	f.After.At = f.Before.At.Add(500 * time.Millisecond)
	if h.facts != nil {
		h.facts(f)
	}
	return Audit(f)
}

// severities returns the worst severity by id.
func severities(r *Report) map[string]Severity {
	all := map[string]Severity{}
	for _, f := range r.Findings {
		all[f.ID] = max(all[f.ID], f.Severity)
	}
	return all
}

func find(r *Report, id string) (worst Finding) {
	for _, f := range slices.Backward(r.Findings) {
		if f.ID == id && f.Severity >= worst.Severity {
			worst = f
		}
	}
	return worst
}
