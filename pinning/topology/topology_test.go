package topology

import (
	"errors"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/pinning/treetest"
)

func read(t *testing.T, b *treetest.Tree) *Machine {
	t.Helper()
	m, err := Read(b.FS())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func set(t *testing.T, list string) CPUSet {
	t.Helper()
	s, err := ParseCPUs(list)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTwoSocketsWithTwoThreadsACore(t *testing.T) {
	m := read(t, treetest.TwoSockets(t))
	if len(m.CPUs) != 16 || len(m.Cores) != 8 || !m.SMT || !m.NUMA {
		t.Fatalf("%d CPUs, %d cores, SMT %v, NUMA %v; want 16, 8, both", len(m.CPUs), len(m.Cores), m.SMT, m.NUMA)
	}
	c, _ := m.CPU(5)
	if c.Siblings.String() != "5,13" || c.Package != 1 || c.Node != 1 {
		t.Errorf("CPU 5 is %+v, want siblings 5,13 of package and node 1", c)
	}
	if got := m.LastLevel(9).String(); got != "0-3,8-11" {
		t.Errorf("CPU 9 shares its L3 with %s", got)
	}
	if groups := m.L3Groups(); len(groups) != 2 || groups[1].String() != "4-7,12-15" {
		t.Errorf("L3 groups %v", groups)
	}
	for _, c := range m.Caches {
		if c.Kind == "Instruction" || c.Level == 3 && c.Bytes != 36608<<10 {
			t.Errorf("cache %+v", c)
		}
	}
	if d := m.Distance(0, 1); d != 21 {
		t.Errorf("distance %d", d)
	}
	n, _ := m.Node(0)
	if n.MemoryBytes != 64<<30 || n.FreeBytes != 32<<30 || len(n.HugePages) != 2 ||
		n.HugePages[0] != (HugePages{PageBytes: 2 << 20, Pages: 512, Free: 512}) || n.HugePages[1].PageBytes != 1<<30 {
		t.Errorf("node 0 is %+v", n)
	}
	if p := m.Packages(); len(p) != 2 || p[0].String() != "0-3,8-11" {
		t.Errorf("packages %v", p)
	}
}

func TestSubNUMAClusters(t *testing.T) {
	m := read(t, treetest.SubNUMA(t))
	if len(m.Nodes) != 4 || m.SMT || len(m.L3Groups()) != 4 {
		t.Fatalf("%d nodes, SMT %v, L3 groups %v", len(m.Nodes), m.SMT, m.L3Groups())
	}
	if near, far := m.Distance(0, 1), m.Distance(0, 2); near != 12 || far != 21 {
		t.Errorf("distances %d and %d, want 12 and 21", near, far)
	}
	if m.Packages()[1].String() != "8-15" {
		t.Errorf("package 1 has %s", m.Packages()[1])
	}
}

func TestASingleNodeWithoutNUMAFiles(t *testing.T) {
	b := treetest.New(t)
	b.Sets("0-3", "0-3", "0-3")
	for cpu := range 4 {
		b.CPU(cpu, 0, cpu, set(t, "").String())
	}
	b.File("proc/meminfo", "MemTotal:        8000 kB\nMemFree:         1000 kB")
	b.File("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "7")
	m := read(t, b)
	if m.NUMA || len(m.Nodes) != 1 || m.Nodes[0].CPUs.String() != "0-3" || m.Nodes[0].MemoryBytes != 8000<<10 || m.Nodes[0].HugePages[0].Pages != 7 {
		t.Errorf("nodes %+v", m.Nodes)
	}
	if len(m.Cores) != 4 || len(m.Caches) != 0 || m.LastLevel(2).String() != "2" || m.L3Groups() != nil {
		t.Errorf("cores %v, caches %v", m.Cores, m.Caches)
	}
	if m.Distance(0, 0) != 0 {
		t.Error("a distance that nobody told")
	}
}

func TestHotPlugGaps(t *testing.T) {
	m := read(t, treetest.Gaps(t))
	if len(m.CPUs) != 8 || m.Online.String() != "0-1,3-4,6-7" || m.Possible.Len() != 16 {
		t.Fatalf("CPUs %v", m.CPUs)
	}
	c, _ := m.CPU(2)
	if c.Online || c.Core != -1 || c.Node != -1 {
		t.Errorf("CPU 2 is offline and %+v", c)
	}
	if c, _ := m.CPU(3); c.Siblings.String() != "3" {
		t.Errorf("CPU 3's sibling is offline, it has %s", c.Siblings)
	}
	var ids []int
	for _, n := range m.Nodes {
		ids = append(ids, n.ID)
	}
	if !slices.Equal(ids, []int{0, 2, 3, 5}) {
		t.Fatalf("nodes %v", ids)
	}
	if d := m.Distance(2, 3); d != 12 {
		t.Errorf("from 2 to 3 it is %d: columns are the nodes online", d)
	}
	memory, _ := m.Node(5)
	bare, _ := m.Node(3)
	if !memory.CPUs.Empty() || memory.MemoryBytes == 0 || bare.MemoryBytes != 0 || bare.CPUs.Len() != 2 {
		t.Errorf("memory-only node %+v, CPU-only node %+v", memory, bare)
	}
	if c, _ := m.CPU(7); c.Node != 3 {
		t.Errorf("CPU 7 is on node %d", c.Node)
	}
}

func TestAHybridMachineKnowsItsKinds(t *testing.T) {
	b := treetest.New(t)
	b.Sets("0-5", "0-5", "0-5")
	b.File("sys/devices/cpu_core/cpus", "0-3")
	b.File("sys/devices/cpu_atom/cpus", "4-5")
	b.File("sys/devices/system/cpu/nohz_full", "(null)")
	for cpu := range 6 {
		siblings := "4"
		if cpu < 4 {
			siblings = set(t, "").Union(CPUs(cpu/2*2, cpu/2*2+1)).String()
		} else if cpu == 5 {
			siblings = "5"
		}
		b.CPU(cpu, 0, cpu, siblings)
		b.Cache(cpu, 2, 2, "Unified", "2M", siblings)
	}
	m := read(t, b)
	if len(m.Cores) != 4 || m.Cores[0].Kind != "core" || m.Cores[3].Kind != "atom" || !m.SMT {
		t.Errorf("cores %+v", m.Cores)
	}
	if m.LastLevel(1).String() != "0-1" || m.L3Groups() != nil || !m.NoHZFull.Empty() {
		t.Errorf("CPU 1 shares its L2 with %s", m.LastLevel(1))
	}
}

func TestACardOnABus(t *testing.T) {
	b := treetest.TwoSockets(t)
	b.NIC("eth0", "virtio2", 1, 2, 30, 31, 32)
	b.File("proc/interrupts", "           CPU0       CPU1\n 30:  1 2 PCI-MSIX-0000:00:03.0   0-edge      virtio2-config\n"+
		" 31:  5 5 PCI-MSIX-0000:00:03.0   1-edge  virtio2-input.0\n 32: 0 0 PCI-MSIX virtio2-output.0\n 40: 3 4 IO-APIC 4-edge ttyS0\n"+
		"LOC: 70 80   Local timer interrupts\nERR:          9\n")
	for irq, action := range map[int]string{30: "virtio2-config", 31: "virtio2-input.0", 32: "virtio2-output.0", 40: "ttyS0"} {
		b.IRQ(irq, "0-1", "1", action)
	}
	n, err := ReadNIC(b.FS(), "eth0")
	if err != nil {
		t.Fatal(err)
	}
	if n.Driver != "virtio_net" || n.Node != 1 || n.RXQueues != 2 || n.TXQueues != 2 || n.MTU != 1500 || n.LocalCPUs.String() != "0-1" {
		t.Errorf("card %+v", n)
	}
	if len(n.IRQs) != 3 || n.IRQs[1].Number != 31 || n.IRQs[1].Count != 10 || n.IRQs[1].Actions[0] != "virtio2-input.0" || n.IRQs[1].Effective.String() != "1" {
		t.Errorf("interrupts %+v", n.IRQs)
	}
	in, err := ReadInterrupts(b.FS())
	if err != nil {
		t.Fatal(err)
	}
	if in.Total(0) != 88 || in.Total(1) != 91 || in.Total(2) != 0 {
		t.Errorf("totals %d, %d, %d", in.Total(0), in.Total(1), in.Total(2))
	}
	if in.Count("LOC", 1) != 80 || in.Count("LOC", 7) != 0 || in.Count("ERR", 0) != 9 || in.Count("ERR", 1) != 0 {
		t.Errorf("counters %+v", in)
	}
}

func TestACardThatIsNotThere(t *testing.T) {
	for _, name := range []string{"eth9", "", "../x", "a/b"} {
		if _, err := ReadNIC(treetest.TwoSockets(t).FS(), name); err == nil {
			t.Errorf("interface %q was read", name)
		}
	}
}

func TestBrokenFilesAreNamed(t *testing.T) {
	b := treetest.TwoSockets(t)
	b.File("sys/devices/system/node/node1/distance", "21")
	if _, err := Read(b.FS()); err == nil {
		t.Error("a row of one distance to two nodes was taken")
	}
	b = treetest.TwoSockets(t)
	b.File("sys/devices/system/cpu/online", "0-x")
	if _, err := Read(b.FS()); !errors.Is(err, ErrCPUList) {
		t.Errorf("got %v", err)
	}
	if _, err := Read(treetest.New(t).FS()); !errors.Is(err, ErrNoCPUs) {
		t.Errorf("an empty tree gives %v", err)
	}
}

func TestThisMachineIsRead(t *testing.T) {
	m, err := Read(os.DirFS("/"))
	if err != nil {
		t.Fatal(err)
	}
	if m.Online.Empty() || len(m.Cores) == 0 || len(m.Nodes) == 0 || m.Nodes[0].MemoryBytes == 0 {
		t.Errorf("machine %+v", m)
	}
	lo, err := ReadNIC(os.DirFS("/"), "lo")
	if err != nil || lo.Node != -1 || lo.Driver != "" || lo.MTU == 0 {
		t.Errorf("loopback is %+v, %v", lo, err)
	}
}

func TestListsOfCPUs(t *testing.T) {
	for _, c := range []struct{ in, out, mask string }{
		{"", "", "0"},
		{"(null)\n", "", "0"},
		{"0", "0", "1"},
		{"3,1,2", "1-3", "e"},
		{" 0-3,8\n", "0-3,8", "10f"},
		{"0-7:2/4", "0-1,4-5", "33"},
		{"0,31-33,63-64", "0,31-33,63-64", "1,80000003,80000001"},
	} {
		s := set(t, c.in)
		if s.String() != c.out || s.Mask() != c.mask {
			t.Errorf("%q is %q, mask %q; want %q, %q", c.in, s, s.Mask(), c.out, c.mask)
		}
		back, err := ParseMask(c.mask)
		if err != nil || !back.Equal(s) {
			t.Errorf("mask %q is %v, %v; want %v", c.mask, back, err, s)
		}
	}
	for _, bad := range []string{"x", "1-", "-1", "3-1", "0,,1", "0-3:2", "0-3:0/2", "0-3:3/2", "1:1/2", "8192", "+1", "0 1"} {
		if s, err := ParseCPUs(bad); !errors.Is(err, ErrCPUList) {
			t.Errorf("%q is %v, %v", bad, s, err)
		}
	}
	for _, bad := range []string{"", "x", "1,", "123456789"} {
		if s, err := ParseMask(bad); !errors.Is(err, ErrCPUList) {
			t.Errorf("mask %q is %v, %v", bad, s, err)
		}
	}
}

// TestSetsAgainstMaps holds CPUSet against sets made of a map.
func TestSetsAgainstMaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) (CPUSet, map[int]bool) {
			list := rapid.SliceOf(rapid.IntRange(0, 200)).Draw(t, name)
			m := map[int]bool{}
			for _, n := range list {
				m[n] = true
			}
			return CPUs(list...), m
		}
		a, ma := draw("a")
		b, mb := draw("b")
		union, both, minus := a.Union(b), a.Intersect(b), a.Minus(b)
		for n := range 210 {
			if union.Has(n) != (ma[n] || mb[n]) || both.Has(n) != (ma[n] && mb[n]) || minus.Has(n) != (ma[n] && !mb[n]) {
				t.Fatalf("%d: union %v, both %v, minus %v", n, union, both, minus)
			}
		}
		if a.Len() != len(ma) || len(a.List()) != len(ma) || a.Empty() != (len(ma) == 0) || a.Contains(b) != (minusLen(mb, ma) == 0) {
			t.Fatalf("%v holds %d", a, a.Len())
		}
		if !minus.Union(both).Equal(a) {
			t.Fatalf("%v and %v are not %v", minus, both, a)
		}
		back, err := ParseCPUs(a.String())
		if err != nil || !back.Equal(a) {
			t.Fatalf("%v came back as %v, %v", a, back, err)
		}
		var read CPUSet
		if text, err := a.MarshalText(); err != nil || read.UnmarshalText(text) != nil || !read.Equal(a) {
			t.Fatalf("%v was read back as %v, %v", a, read, err)
		}
		if back, err = ParseMask(a.Mask()); err != nil || !back.Equal(a) {
			t.Fatalf("mask %v came back as %v, %v", a.Mask(), back, err)
		}
	})
}

func minusLen(a, b map[int]bool) int {
	n := 0
	for k := range a {
		if !b[k] {
			n++
		}
	}
	return n
}

// FuzzParseCPUs checks that what is taken comes back from its own text form.
func FuzzParseCPUs(f *testing.F) {
	for _, seed := range []string{"", "0-3,8", "0-31:2/8", "8191", "(null)", "1-0", "0-,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		s, err := ParseCPUs(list)
		if err != nil {
			if !errors.Is(err, ErrCPUList) {
				t.Fatal(err)
			}
			return
		}
		back, err := ParseCPUs(s.String())
		if err != nil || !back.Equal(s) {
			t.Fatalf("%q is %v and came back as %v, %v", list, s, back, err)
		}
	})
}
