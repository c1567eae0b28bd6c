// Package treetest builds directories shaped as the /sys and /proc of machines, for the
// tests of what reads and writes them.
package treetest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Tree is a directory shaped as a machine's /sys and /proc. What cannot be made of it
// ends the test.
type Tree struct {
	// Dir stands for "/".
	Dir string
	t   testing.TB
}

// New returns an empty tree, which goes with the test.
func New(tb testing.TB) *Tree {
	tb.Helper()
	return &Tree{Dir: Memory(tb), t: tb}
}

// Memory returns an empty directory that goes with the test: in memory where that can
// be, for a tree has some hundred files, and records wait for the disk.
func Memory(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "headrace-tree-") //nolint:usetesting // that would be on a disk
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// FS is the tree as package topology reads it.
func (b *Tree) FS() fs.FS { return os.DirFS(b.Dir) }

// Mkdir makes a directory.
func (b *Tree) Mkdir(name string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Join(b.Dir, name), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

// All returns the contents of every file, by name.
func (b *Tree) All() map[string]string {
	b.t.Helper()
	all := map[string]string{}
	err := fs.WalkDir(b.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := fs.ReadFile(b.FS(), name)
		all[name] = string(text)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// File writes a file of one line or more.
func (b *Tree) File(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// Link makes a symbolic link.
func (b *Tree) Link(name, target string) {
	b.t.Helper()
	path := filepath.Join(b.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		b.t.Fatal(err)
	}
}

// Sets writes the lists of CPUs of the whole machine.
func (b *Tree) Sets(possible, present, online string) {
	for name, list := range map[string]string{"possible": possible, "present": present, "online": online, "isolated": ""} {
		b.File("sys/devices/system/cpu/"+name, list)
	}
}

// CPU writes an online CPU.
func (b *Tree) CPU(id, pkg, core int, siblings string) {
	dir := fmt.Sprintf("sys/devices/system/cpu/cpu%d/topology/", id)
	b.File(dir+"physical_package_id", fmt.Sprint(pkg))
	b.File(dir+"die_id", "0")
	b.File(dir+"core_id", fmt.Sprint(core))
	b.File(dir+"core_cpus_list", siblings)
}

// Cache writes one cache of a CPU.
func (b *Tree) Cache(id, index, level int, kind, size, shared string) {
	dir := fmt.Sprintf("sys/devices/system/cpu/cpu%d/cache/index%d/", id, index)
	b.File(dir+"level", fmt.Sprint(level))
	b.File(dir+"type", kind)
	b.File(dir+"size", size)
	b.File(dir+"shared_cpu_list", shared)
}

// Node writes a memory node.
func (b *Tree) Node(id int, cpus, distance string, memoryKB, pages2M int) {
	dir := fmt.Sprintf("sys/devices/system/node/node%d/", id)
	b.File(dir+"cpulist", cpus)
	b.File(dir+"distance", distance)
	b.File(dir+"meminfo", fmt.Sprintf("Node %d MemTotal:   %d kB\nNode %d MemFree:   %d kB\nNode %d MemUsed: 1 kB", id, memoryKB, id, memoryKB/2, id))
	for name, pages := range map[string]int{"hugepages-2048kB": pages2M, "hugepages-1048576kB": 0} {
		b.File(dir+"hugepages/"+name+"/nr_hugepages", fmt.Sprint(pages))
		b.File(dir+"hugepages/"+name+"/free_hugepages", fmt.Sprint(pages))
		b.File(dir+"hugepages/"+name+"/surplus_hugepages", "0")
	}
}

// NIC writes a virtio card on a PCI bus: one interrupt for each of vectors, called after
// the device.
func (b *Tree) NIC(name, virtio string, node, queues int, vectors ...int) {
	pci := "sys/devices/pci0000:00/0000:00:03.0"
	device := pci + "/" + virtio
	at := device + "/net/" + name
	b.File(pci+"/numa_node", fmt.Sprint(node))
	b.File(pci+"/local_cpulist", "0-1")
	b.File(at+"/mtu", "1500")
	b.Link(at+"/device", "../../../"+virtio)
	b.Link(device+"/driver", "../../../../bus/virtio/drivers/virtio_net")
	if err := os.MkdirAll(filepath.Join(b.Dir, "sys/bus/virtio/drivers/virtio_net"), 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.Link("sys/class/net/"+name, strings.Replace(at, "sys/", "../../", 1))
	for q := range queues {
		b.File(fmt.Sprintf("%s/queues/rx-%d/rps_cpus", at, q), "0")
		b.File(fmt.Sprintf("%s/queues/tx-%d/xps_cpus", at, q), "0")
	}
	for _, v := range vectors {
		b.File(fmt.Sprintf("%s/msi_irqs/%d", pci, v), "msix")
	}
}

// IRQ writes the files of an interrupt.
func (b *Tree) IRQ(n int, affinity, effective, action string) {
	dir := fmt.Sprintf("proc/irq/%d/", n)
	b.File(dir+"smp_affinity_list", affinity)
	b.File(dir+"effective_affinity_list", effective)
	b.File(dir+"node", "0")
	if action != "" {
		if err := os.MkdirAll(filepath.Join(b.Dir, dir, action), 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TwoSockets is 2 packages, 4 cores each, 2 threads a core numbered as Linux does on
// most servers: second threads after all first ones.
func TwoSockets(tb testing.TB) *Tree {
	tb.Helper()
	b := New(tb)
	b.Sets("0-15", "0-15", "0-15")
	for cpu := range 16 {
		core, pkg := cpu%4, cpu%8/4
		b.CPU(cpu, pkg, core, fmt.Sprintf("%d,%d", cpu%8, cpu%8+8))
		b.Cache(cpu, 0, 1, "Data", "32K", fmt.Sprintf("%d,%d", cpu%8, cpu%8+8))
		b.Cache(cpu, 1, 1, "Instruction", "32K", fmt.Sprintf("%d,%d", cpu%8, cpu%8+8))
		b.Cache(cpu, 3, 3, "Unified", "36608K", fmt.Sprintf("%d-%d,%d-%d", pkg*4, pkg*4+3, pkg*4+8, pkg*4+11))
	}
	b.Node(0, "0-3,8-11", "10 21", 64<<20, 512)
	b.Node(1, "4-7,12-15", "21 10", 64<<20, 0)
	return b
}

// SubNUMA is 2 packages with 2 clusters each: four nodes, two near and two far.
func SubNUMA(tb testing.TB) *Tree {
	tb.Helper()
	b := New(tb)
	b.Sets("0-15", "0-15", "0-15")
	for cpu := range 16 {
		b.CPU(cpu, cpu/8, cpu%8, fmt.Sprint(cpu))
		b.Cache(cpu, 3, 3, "Unified", "32768K", fmt.Sprintf("%d-%d", cpu/4*4, cpu/4*4+3))
	}
	b.Node(0, "0-3", "10 12 21 21", 32<<20, 0)
	b.Node(1, "4-7", "12 10 21 21", 32<<20, 0)
	b.Node(2, "8-11", "21 21 10 12", 32<<20, 0)
	b.Node(3, "12-15", "21 21 12 10", 32<<20, 0)
	return b
}

// Gaps is a machine with CPUs 2 and 5 offline, room for eight more, nodes 0, 2 and 5 of
// which 5 is memory only, and a node 3 that has no memory.
func Gaps(tb testing.TB) *Tree {
	tb.Helper()
	b := New(tb)
	b.Sets("0-15", "0-7", "0-1,3-4,6-7")
	for _, cpu := range []int{0, 1, 3, 4, 6, 7} {
		b.CPU(cpu, cpu/4, cpu%4/2, fmt.Sprintf("%d-%d", cpu/2*2, cpu/2*2+1))
	}
	b.File("sys/devices/system/cpu/cpu2/online", "0")
	b.File("sys/devices/system/node/online", "0,2-3,5")
	b.Node(0, "0-3", "10 20 20 40", 16<<20, 0)
	b.Node(2, "4-5", "20 10 12 40", 16<<20, 0)
	b.Node(3, "6-7", "20 12 10 40", 0, 0)
	b.Node(5, "", "40 40 40 10", 128<<20, 0)
	return b
}

// Host is [TwoSockets] with all that stages look at: a card on node 1 with two queues,
// interrupts, workqueues, sysctls, cgroup v2, and what cores have for power.
func Host(tb testing.TB) *Tree {
	tb.Helper()
	b := TwoSockets(tb)
	b.NIC("eth0", "virtio2", 1, 2, 30, 31, 32)
	b.File("proc/interrupts", "  CPU0 CPU1\n 30: 1 2 PCI-MSIX virtio2-config\n 31: 5 5 PCI-MSIX virtio2-input.0\n 32: 0 0 PCI-MSIX virtio2-output.0\n 40: 3 4 IO-APIC ttyS0\n 41: 0 0 PCI-MSIX nvme0q1")
	b.IRQ(30, "0-15", "0", "virtio2-config")
	b.IRQ(31, "5", "5", "virtio2-input.0")
	b.IRQ(32, "6", "6", "virtio2-output.0")
	b.IRQ(40, "0-3", "1", "ttyS0")
	b.IRQ(41, "5-6", "5", "nvme0q1")
	b.File("proc/irq/default_smp_affinity", "ffff")
	b.File("proc/cmdline", "quiet root=/dev/vda1")
	b.File("proc/sys/kernel/random/boot_id", "c0ffee")
	for name, value := range map[string]string{
		"vm/stat_interval": "1", "kernel/numa_balancing": "1", "kernel/nmi_watchdog": "1", "kernel/timer_migration": "1",
		"net/core/bpf_jit_enable": "0", "kernel/watchdog_cpumask": "0-15",
	} {
		b.File("proc/sys/"+name, value)
	}
	b.File("sys/devices/virtual/workqueue/cpumask", "ffff")
	b.File("sys/devices/virtual/workqueue/writeback/cpumask", "ffff")
	b.File("sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory")
	b.File("sys/fs/cgroup/cgroup.subtree_control", "cpu memory")
	b.File("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
	for cpu := range 16 {
		dir := fmt.Sprintf("sys/devices/system/cpu/cpu%d/", cpu)
		b.File(dir+"power/pm_qos_resume_latency_us", "0")
		b.File(dir+"cpufreq/scaling_governor", "schedutil")
		b.File(dir+"cpufreq/energy_performance_preference", "balance_performance")
	}
	return b
}
