package audit

import (
	"cmp"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const hugeBytes = 2 << 20

// checkHugePages compares the free pages of 2 MiB on the workers' nodes with what the
// config takes.
func checkHugePages(f *Facts) []Finding {
	pages, free := 0, 0
	var where []string
	for _, n := range f.Machine.Nodes {
		if nodes := f.Place.Nodes(); f.Machine.NUMA && !nodes.Empty() && !nodes.Has(n.ID) {
			continue
		}
		for _, p := range n.HugePages {
			if p.PageBytes == hugeBytes {
				pages, free = pages+p.Pages, free+p.Free
				where = append(where, fmt.Sprintf("node %d: %d of %d free", n.ID, p.Free, p.Pages))
			}
		}
	}
	out := Finding{
		ID: "mem.hugepages", What: "there are huge pages for the workers' memory", Measured: cmp.Or(strings.Join(where, ", "), "none"),
		Why: "with pages of 4 KiB nearly every access to a large table misses the TLB: 20 to 40 ns each (a page walk; Documentation/admin-guide/mm/hugetlbpage.rst)",
		Fix: tune(f, "hugepages"),
	}
	need := 0
	if f.Config != nil {
		need = int((f.Config.MemoryBytes + f.Config.UMEMBytes + hugeBytes - 1) / hugeBytes)
		out.Measured += fmt.Sprintf("; the config takes %d", need)
	}
	// The profiles' number is for a small config.
	const profiles = 128
	if lacking := need - free; lacking > 0 && pages+lacking > profiles {
		out.Fix = fmt.Sprintf("echo %d > /sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages", pages+lacking, max(f.Place.Nodes().First(), 0))
	}
	switch {
	case len(where) == 0:
		out.Severity, out.What = Note, "the kernel has no huge pages of 2 MiB"
		out.Fix = "a kernel with CONFIG_HUGETLBFS"
	case pages == 0:
		out.Severity, out.What = Warn, "no huge pages are set aside"
	case free < need:
		out.Severity, out.What = Warn, "fewer huge pages are free than the config takes"
	case free == 0:
		out.Severity, out.What = Note, "all huge pages are in use, by a run perhaps"
	}
	return []Finding{quiet(out)}
}

func checkTHP(f *Facts) []Finding {
	line, ok := text(f.Root, "sys/kernel/mm/transparent_hugepage/enabled")
	if !ok {
		return []Finding{{ID: "mem.thp", What: "the kernel makes no huge pages by itself", Measured: "not in this kernel"}}
	}
	out := Finding{
		ID: "mem.thp", What: "huge pages are made only for who asks", Measured: chosen(line),
		Why: "with `always` a page fault may compact memory for 1 to 10 ms, and khugepaged interrupts every core to move pages (Documentation/admin-guide/mm/transhuge.rst)",
		Fix: tune(f, "thp") + ", or: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
	}
	if chosen(line) == "always" {
		out.Severity, out.Best = Warn, ClassC
		out.What = "the kernel makes huge pages for everybody, while they wait"
	}
	return []Finding{quiet(out)}
}

func checkNUMABalancing(f *Facts) []Finding {
	on, ok := integer(f.Root, "proc/sys/kernel/numa_balancing")
	out := Finding{
		ID: "mem.numa_balancing", What: "the kernel does not move pages between nodes", Measured: fmt.Sprintf("numa_balancing=%d, %d nodes", on, len(f.Machine.Nodes)),
		Why: "the kernel takes access to pages away to see who uses them: a fault of 1 to 5 µs for each, in bursts (Documentation/admin-guide/sysctl/kernel.rst, numa_balancing)",
		Fix: tune(f, "sysctl") + ", or: sysctl kernel.numa_balancing=0",
	}
	if !ok {
		out.Measured = "not in this kernel"
	}
	switch {
	case on != 0 && len(f.Machine.Nodes) > 1:
		out.Severity, out.Best, out.What = Warn, ClassB, "the kernel moves pages between nodes"
	case on != 0:
		out.What = "the kernel would move pages between nodes, and there is one"
	}
	return []Finding{quiet(out)}
}

// checkMemory compares what the config takes with what is there.
func checkMemory(f *Facts) []Finding {
	if f.Config == nil {
		return nil
	}
	available := int64(-1)
	meminfo, _ := text(f.Root, "proc/meminfo")
	for line := range strings.Lines(meminfo) {
		if c := strings.Fields(line); len(c) > 1 && c[0] == "MemAvailable:" {
			if kB, err := strconv.ParseInt(c[1], 10, 53); err == nil {
				available = kB << 10
			}
		}
	}
	free := int64(0)
	for _, n := range f.Machine.Nodes {
		for _, p := range n.HugePages {
			free += int64(p.Free) * p.PageBytes
		}
	}
	need := f.Config.MemoryBytes + f.Config.UMEMBytes
	out := Finding{
		ID: "config.memory", Subject: f.Config.File, What: "the config's memory is there",
		Measured: fmt.Sprintf("takes %s and %s for packets; available %s, and %s of huge pages", size(f.Config.MemoryBytes), size(f.Config.UMEMBytes), size(available), size(free)),
		Why:      "memory is taken at start and touched as packets come: where there is not enough, the kernel kills a process in the middle of the day",
		Fix:      "smaller limits: `headrace explain` prints the sum line by line (keys, panes, hold, orders, rx_ring, frames)",
	}
	switch {
	case available < 0:
		out.Severity, out.What = Unknown, "how much memory is available is not known"
	case need > available+free:
		out.Severity, out.What, out.Best = Fail, "the config takes more memory than there is", ClassD
	case need > (available+free)/10*8:
		out.Severity, out.What = Warn, "the config takes more than four fifths of the memory that is available"
	}
	return []Finding{quiet(out)}
}

// checkMemlock looks at whether this process could lock the packets' memory.
func checkMemlock(f *Facts) []Finding {
	caps, known := capabilities(f)
	limit, ok := memlock(f)
	out := Finding{
		ID: "process.memlock", What: "memory may be locked", Measured: "limit " + limitText(limit),
		Why: "AF_XDP pins its memory and is refused with ENOBUFS beyond the limit; what is not locked can be swapped out: milliseconds a page (getrlimit(2))",
		Fix: "LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`, or CAP_IPC_LOCK",
	}
	need := uint64(64 << 20) // a queue or two
	if f.Config != nil {
		need = uint64(f.Config.MemoryBytes + f.Config.UMEMBytes)
	}
	switch {
	case known && caps&(1<<unix.CAP_IPC_LOCK) != 0:
		out.Measured += ", and CAP_IPC_LOCK"
	case !ok:
		out.Severity, out.What, out.Measured = Unknown, "the limit of locked memory cannot be read", "no /proc/self/limits"
	case limit < need:
		out.Severity = Warn
		out.What = fmt.Sprintf("this process may lock less than the %s that are needed", size(int64(need)))
	}
	return []Finding{quiet(out)}
}

const unlimited = ^uint64(0)

func limitText(n uint64) string {
	if n == unlimited {
		return "unlimited"
	}
	return size(int64(min(n, 1<<62)))
}

func memlock(f *Facts) (uint64, bool) {
	limits, _ := text(f.Root, "proc/self/limits")
	for line := range strings.Lines(limits) {
		rest, ok := strings.CutPrefix(line, "Max locked memory")
		if !ok {
			continue
		}
		soft, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if soft == "unlimited" {
			return unlimited, true
		}
		n, err := strconv.ParseUint(soft, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// size writes a number of bytes with a unit, to a tenth.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	unit := (bits.Len64(uint64(n)) - 1) / 10
	name := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}[unit]
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(uint64(1)<<(10*unit))), ".0") + " " + name
}
