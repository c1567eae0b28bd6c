package topology

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A tree is a directory shaped as a machine's /sys and /proc.
type tree struct {
	t   *testing.T
	dir string
}

func newTree(t *testing.T) *tree {
	t.Helper()
	return &tree{t, t.TempDir()}
}

func (b *tree) fs() fs.FS { return os.DirFS(b.dir) }

func (b *tree) file(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *tree) link(name, target string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		b.t.Fatal(err)
	}
}

// sets writes the lists of CPUs of the whole machine.
func (b *tree) sets(possible, present, online string) {
	for name, list := range map[string]string{"possible": possible, "present": present, "online": online, "isolated": ""} {
		b.file("sys/devices/system/cpu/"+name, list)
	}
}

// cpu writes an online CPU.
func (b *tree) cpu(id, pkg, core int, siblings string) {
	dir := fmt.Sprintf("sys/devices/system/cpu/cpu%d/topology/", id)
	b.file(dir+"physical_package_id", fmt.Sprint(pkg))
	b.file(dir+"die_id", "0")
	b.file(dir+"core_id", fmt.Sprint(core))
	b.file(dir+"core_cpus_list", siblings)
}

// cache writes one cache of a CPU.
func (b *tree) cache(id, index, level int, kind, size, shared string) {
	dir := fmt.Sprintf("sys/devices/system/cpu/cpu%d/cache/index%d/", id, index)
	b.file(dir+"level", fmt.Sprint(level))
	b.file(dir+"type", kind)
	b.file(dir+"size", size)
	b.file(dir+"shared_cpu_list", shared)
}

// node writes a memory node.
func (b *tree) node(id int, cpus, distance string, memoryKB, pages2M int) {
	dir := fmt.Sprintf("sys/devices/system/node/node%d/", id)
	b.file(dir+"cpulist", cpus)
	b.file(dir+"distance", distance)
	b.file(dir+"meminfo", fmt.Sprintf("Node %d MemTotal:   %d kB\nNode %d MemFree:   %d kB\nNode %d MemUsed: 1 kB", id, memoryKB, id, memoryKB/2, id))
	for name, pages := range map[string]int{"hugepages-2048kB": pages2M, "hugepages-1048576kB": 0} {
		b.file(dir+"hugepages/"+name+"/nr_hugepages", fmt.Sprint(pages))
		b.file(dir+"hugepages/"+name+"/free_hugepages", fmt.Sprint(pages))
		b.file(dir+"hugepages/"+name+"/surplus_hugepages", "0")
	}
}

// nic writes a virtio card on a PCI bus: one interrupt for each of vectors, called after
// the device.
func (b *tree) nic(name, virtio string, node, queues int, vectors ...int) {
	pci := "sys/devices/pci0000:00/0000:00:03.0"
	device := pci + "/" + virtio
	at := device + "/net/" + name
	b.file(pci+"/numa_node", fmt.Sprint(node))
	b.file(pci+"/local_cpulist", "0-1")
	b.file(at+"/mtu", "1500")
	b.link(at+"/device", "../../../"+virtio)
	b.link(device+"/driver", "../../../../bus/virtio/drivers/virtio_net")
	if err := os.MkdirAll(filepath.Join(b.dir, "sys/bus/virtio/drivers/virtio_net"), 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.link("sys/class/net/"+name, strings.Replace(at, "sys/", "../../", 1))
	for q := range queues {
		b.file(fmt.Sprintf("%s/queues/rx-%d/rps_cpus", at, q), "0")
		b.file(fmt.Sprintf("%s/queues/tx-%d/xps_cpus", at, q), "0")
	}
	for _, v := range vectors {
		b.file(fmt.Sprintf("%s/msi_irqs/%d", pci, v), "msix")
	}
}

// irq writes the files of an interrupt.
func (b *tree) irq(n int, affinity, effective, action string) {
	dir := fmt.Sprintf("proc/irq/%d/", n)
	b.file(dir+"smp_affinity_list", affinity)
	b.file(dir+"effective_affinity_list", effective)
	b.file(dir+"node", "0")
	if action != "" {
		if err := os.MkdirAll(filepath.Join(b.dir, dir, action), 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
}

// twoSockets is 2 packages, 4 cores each, 2 threads a core numbered as Linux does on
// most servers: second threads after all first ones.
func twoSockets(t *testing.T) *tree {
	t.Helper()
	b := newTree(t)
	b.sets("0-15", "0-15", "0-15")
	for cpu := range 16 {
		core, pkg := cpu%4, cpu%8/4
		b.cpu(cpu, pkg, core, fmt.Sprintf("%d,%d", cpu%8, cpu%8+8))
		b.cache(cpu, 0, 1, "Data", "32K", fmt.Sprintf("%d,%d", cpu%8, cpu%8+8))
		b.cache(cpu, 1, 1, "Instruction", "32K", fmt.Sprintf("%d,%d", cpu%8, cpu%8+8))
		b.cache(cpu, 3, 3, "Unified", "36608K", fmt.Sprintf("%d-%d,%d-%d", pkg*4, pkg*4+3, pkg*4+8, pkg*4+11))
	}
	b.node(0, "0-3,8-11", "10 21", 64<<20, 512)
	b.node(1, "4-7,12-15", "21 10", 64<<20, 0)
	return b
}

// subNUMA is 2 packages with 2 clusters each: four nodes, two near and two far.
func subNUMA(t *testing.T) *tree {
	t.Helper()
	b := newTree(t)
	b.sets("0-15", "0-15", "0-15")
	for cpu := range 16 {
		b.cpu(cpu, cpu/8, cpu%8, fmt.Sprint(cpu))
		b.cache(cpu, 3, 3, "Unified", "32768K", fmt.Sprintf("%d-%d", cpu/4*4, cpu/4*4+3))
	}
	b.node(0, "0-3", "10 12 21 21", 32<<20, 0)
	b.node(1, "4-7", "12 10 21 21", 32<<20, 0)
	b.node(2, "8-11", "21 21 10 12", 32<<20, 0)
	b.node(3, "12-15", "21 21 12 10", 32<<20, 0)
	return b
}

// gaps is a machine with CPUs 2 and 5 offline, room for eight more, nodes 0, 2 and 5 of
// which 5 is memory only, and a node 3 that has no memory.
func gaps(t *testing.T) *tree {
	t.Helper()
	b := newTree(t)
	b.sets("0-15", "0-7", "0-1,3-4,6-7")
	for _, cpu := range []int{0, 1, 3, 4, 6, 7} {
		b.cpu(cpu, cpu/4, cpu%4/2, fmt.Sprintf("%d-%d", cpu/2*2, cpu/2*2+1))
	}
	b.file("sys/devices/system/cpu/cpu2/online", "0")
	b.file("sys/devices/system/node/online", "0,2-3,5")
	b.node(0, "0-3", "10 20 20 40", 16<<20, 0)
	b.node(2, "4-5", "20 10 12 40", 16<<20, 0)
	b.node(3, "6-7", "20 12 10 40", 0, 0)
	b.node(5, "", "40 40 40 10", 128<<20, 0)
	return b
}
