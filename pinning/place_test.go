package pinning

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/pinning/topology"
)

// machine has so many nodes of so many cores with so many threads, the threads numbered
// as on most servers: all first threads, then all second ones.
func machine(nodes, cores, threads int) *topology.Machine {
	m := &topology.Machine{NUMA: nodes > 1, SMT: threads > 1}
	total := nodes * cores
	for node := range nodes {
		n := topology.Node{ID: node, Distance: map[int]int{}, MemoryBytes: 1 << 30}
		for other := range nodes {
			n.Distance[other] = 10 + 11*min(1, max(node-other, other-node))
		}
		for core := range cores {
			var cpus topology.CPUSet
			for thread := range threads {
				cpus = cpus.Union(topology.CPUs(node*cores + core + thread*total))
			}
			n.CPUs = n.CPUs.Union(cpus)
			m.Cores = append(m.Cores, topology.Core{Package: node, ID: core, Node: node, CPUs: cpus})
			for _, id := range cpus.List() {
				m.CPUs = append(m.CPUs, topology.CPU{ID: id, Online: true, Package: node, Core: core, Node: node, Siblings: cpus})
			}
		}
		m.Online = m.Online.Union(n.CPUs)
		m.Nodes = append(m.Nodes, n)
	}
	m.Present, m.Possible = m.Online, m.Online
	return m
}

func place(t *testing.T, m *topology.Machine, w Wish) Placement {
	t.Helper()
	p, err := Place(m, w)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func on(node int) []topology.NIC { return []topology.NIC{{Name: "eth0", Node: node}} }

func expect(t *testing.T, p Placement, workers, housekeeping, irqs, quiet string) {
	t.Helper()
	if p.WorkerCPUs().String() != workers || p.Housekeeping.String() != housekeeping || p.IRQs.String() != irqs || p.Quiet.String() != quiet {
		t.Errorf("workers %s, housekeeping %s, interrupts %s, quiet %s\nwant    %s, %s, %s, %s\n%+v",
			p.WorkerCPUs(), p.Housekeeping, p.IRQs, p.Quiet, workers, housekeeping, irqs, quiet, p)
	}
}

func TestWorkersGetCoresOfTheCardsNode(t *testing.T) {
	p := place(t, machine(2, 4, 2), Wish{Workers: 2, NICs: on(1)})
	expect(t, p, "5-6", "0-4,7-12,15", "4,7,12,15", "5-6,13-14")
	for _, w := range p.Workers {
		if w.Node != 1 || !w.Alone || w.Idle.Len() != 1 || !strings.Contains(w.Why, "the cards' node 1") {
			t.Errorf("worker %+v", w)
		}
	}
}

func TestTheFirstCoreIsTheSystems(t *testing.T) {
	expect(t, place(t, machine(1, 4, 2), Wish{Workers: 3, NICs: on(0)}), "1-3", "0,4", "0,4", "1-3,5-7")
	expect(t, place(t, machine(1, 4, 1), Wish{Workers: 1}), "1", "0,2-3", "0,2-3", "1")
}

func TestFewCPUsGiveSomethingSane(t *testing.T) {
	one := place(t, machine(1, 1, 1), Wish{Workers: 2})
	expect(t, one, "0", "0", "0", "")
	if one.Workers[0].Alone || one.Workers[1].CPU != 0 {
		t.Errorf("workers %+v", one.Workers)
	}
	expect(t, place(t, machine(1, 2, 1), Wish{Workers: 1}), "1", "0", "0", "1")
	two := place(t, machine(1, 2, 1), Wish{Workers: 2})
	expect(t, two, "1", "0", "0", "")
	if !strings.Contains(two.Workers[1].Why, "more workers than CPUs") {
		t.Errorf("worker 1 %q", two.Workers[1].Why)
	}
	// One core with two threads: the worker's sibling is the system's.
	smt := place(t, machine(1, 1, 2), Wish{Workers: 1})
	expect(t, smt, "1", "0", "0", "1")
	if smt.Workers[0].Alone {
		t.Error("a worker whose sibling is the system's is not alone")
	}
}

func TestWhereCoresRunOutTheReasonSaysSo(t *testing.T) {
	p := place(t, machine(2, 4, 1), Wish{Workers: 6, NICs: on(1)})
	expect(t, p, "1-2,4-7", "0,3", "0,3", "1-2,4-7")
	if why := p.Workers[5].Why; !strings.Contains(why, "node 0, distance 21") {
		t.Errorf("worker 5 %q", why)
	}
	p = place(t, machine(1, 4, 2), Wish{Workers: 5, NICs: on(0)})
	if why := p.Workers[4].Why; !strings.Contains(why, "second thread") || p.Workers[4].Alone {
		t.Errorf("worker 4 %q", why)
	}
	if p.Housekeeping.Empty() || !p.Housekeeping.Intersect(p.WorkerCPUs()).Empty() {
		t.Errorf("housekeeping %s, workers %s", p.Housekeeping, p.WorkerCPUs())
	}
}

func TestIsolatedCPUsComeFirst(t *testing.T) {
	m := machine(1, 4, 1)
	m.Isolated = topology.CPUs(3)
	p := place(t, m, Wish{Workers: 1, NICs: on(0)})
	expect(t, p, "3", "0-2", "0-2", "3")
	if !strings.Contains(p.Workers[0].Why, "isolated since boot") {
		t.Error(p.Workers[0].Why)
	}
}

func TestOneCacheForAllWorkers(t *testing.T) {
	m := machine(1, 8, 1)
	m.Caches = []topology.Cache{{Level: 3, CPUs: topology.CPUs(0, 1, 2, 3)}, {Level: 3, CPUs: topology.CPUs(4, 5, 6, 7)}}
	expect(t, place(t, m, Wish{Workers: 4, NICs: on(0)}), "4-7", "0-3", "0-3", "4-7")
	expect(t, place(t, m, Wish{Workers: 3, NICs: on(0)}), "1-3", "0,4-7", "0,4-7", "1-3")
}

func TestFastCoresOfAHybridMachine(t *testing.T) {
	m := machine(1, 4, 1)
	m.Cores[0].Kind, m.Cores[1].Kind, m.Cores[2].Kind, m.Cores[3].Kind = "core", "atom", "core", "core"
	expect(t, place(t, m, Wish{Workers: 2}), "2-3", "0-1", "0-1", "2-3")
}

func TestCPUsThatAreAskedFor(t *testing.T) {
	m := machine(2, 4, 1)
	p := place(t, m, Wish{Workers: 2, NICs: on(1), CPUs: topology.CPUs(1, 5)})
	expect(t, p, "1,5", "0,2-4,6-7", "4,6-7", "1,5")
	if !strings.Contains(p.Workers[0].Why, "though the cards are on node 1") {
		t.Error(p.Workers[0].Why)
	}
	for _, c := range []struct {
		workers int
		cpus    topology.CPUSet
		want    error
	}{
		{1, topology.CPUs(9), ErrNoSuchCPU},
		{3, topology.CPUs(1, 2), ErrTooFewCPUs},
		{2, topology.CPUs(0, 1, 2, 3, 4, 5, 6, 7), ErrAllCPUs},
	} {
		if _, err := Place(m, Wish{Workers: c.workers, CPUs: c.cpus}); !errors.Is(err, c.want) {
			t.Errorf("%d workers on %s: %v, want %v", c.workers, c.cpus, err, c.want)
		}
	}
	if _, err := Place(m, Wish{}); err == nil {
		t.Error("no workers were placed")
	}
	if _, err := Place(m, Wish{Workers: 1, Allowed: topology.CPUs(64)}); !errors.Is(err, ErrNoSuchCPU) {
		t.Error(err)
	}
}

// TestPlacementLaws holds what is true of every placement.
func TestPlacementLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := machine(rapid.IntRange(1, 4).Draw(t, "nodes"), rapid.IntRange(1, 5).Draw(t, "cores"), rapid.IntRange(1, 2).Draw(t, "threads"))
		w := Wish{Workers: rapid.IntRange(1, 12).Draw(t, "workers"), NICs: on(rapid.IntRange(-1, len(m.Nodes)-1).Draw(t, "node"))}
		w.Allowed = topology.CPUs(rapid.SliceOfN(rapid.IntRange(0, m.Online.Len()-1), 0, 6).Draw(t, "allowed")...)
		usable := m.Online
		if !w.Allowed.Empty() {
			usable = w.Allowed
		}
		p, err := Place(m, w)
		if err != nil {
			t.Fatal(err)
		}
		cpus := p.WorkerCPUs()
		switch {
		case len(p.Workers) != w.Workers:
			t.Fatalf("%d places", len(p.Workers))
		case p.Housekeeping.Empty() || !usable.Contains(p.Housekeeping):
			t.Fatalf("housekeeping %s of %s", p.Housekeeping, usable)
		case !p.Housekeeping.Contains(p.IRQs) || p.IRQs.Empty():
			t.Fatalf("interrupts %s", p.IRQs)
		case !p.Quiet.Intersect(p.Housekeeping).Empty():
			t.Fatalf("quiet %s and housekeeping %s meet", p.Quiet, p.Housekeeping)
		case usable.Len() > 1 && cpus.Has(usable.First()):
			t.Fatalf("a worker is on the first CPU: %s of %s", cpus, usable)
		case usable.Len() > w.Workers && cpus.Len() != w.Workers:
			t.Fatalf("%d workers share %s of %s", w.Workers, cpus, usable)
		case !usable.Contains(cpus):
			t.Fatalf("workers on %s of %s", cpus, usable)
		}
		for _, at := range p.Workers {
			if at.Alone && (!p.Quiet.Has(at.CPU) || !at.Idle.Intersect(cpus).Empty()) {
				t.Fatalf("worker %+v", at)
			}
			if at.Why == "" {
				t.Fatal("no reason")
			}
		}
	})
}
