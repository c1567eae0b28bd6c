package topology

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// ErrNoCPUs reports a tree that shows no CPU at all: no sysfs is mounted there.
var ErrNoCPUs = errors.New("no CPUs in /sys/devices/system/cpu; is sysfs mounted?")

// A Machine is what the kernel says of its CPUs and memory. Slices are in ascending
// order of their numbers.
type Machine struct {
	// CPUs are the CPUs that are present, online or not.
	CPUs []CPU `json:"cpus"`
	// Cores are the physical cores with at least one CPU online.
	Cores []Core `json:"cores"`
	// Caches are all data and unified caches that online CPUs have.
	Caches []Cache `json:"caches"`
	// Nodes are the memory nodes online, at least one.
	Nodes []Node `json:"nodes"`

	// Possible, Present, Online: CPUs that could ever be, that are plugged in, that run.
	Possible CPUSet `json:"possible"`
	Present  CPUSet `json:"present"`
	Online   CPUSet `json:"online"`
	// Isolated are without scheduler balancing since boot (isolcpus=).
	Isolated CPUSet `json:"isolated"`
	// NoHZFull lose their tick while they run one task (nohz_full=).
	NoHZFull CPUSet `json:"nohz_full"`
	// NUMA is false where the kernel shows no nodes: then Nodes is one of everything.
	NUMA bool `json:"numa"`
	// SMT reports that some core has more than one CPU online.
	SMT bool `json:"smt"`
}

// CPU is what the kernel schedules on: a hardware thread.
type CPU struct {
	ID     int  `json:"id"`
	Online bool `json:"online"`
	// Package, Die and Core are the kernel's numbers, unique only together: cores of two
	// packages may have the same number. All are -1 of a CPU that is offline.
	Package int `json:"package"`
	Die     int `json:"die"`
	Core    int `json:"core"`
	// Node is the memory node; -1 if the kernel names none, as for a CPU offline.
	Node int `json:"node"`
	// Siblings are the CPUs online of its core, itself included.
	Siblings CPUSet `json:"siblings"`
	// Kind is "core" or "atom" on a hybrid machine and "" on others.
	Kind string `json:"kind,omitempty"`
}

// Core is a physical core.
type Core struct {
	Package int `json:"package"`
	Die     int `json:"die"`
	ID      int `json:"id"`
	Node    int `json:"node"`
	// CPUs are its threads that are online.
	CPUs CPUSet `json:"cpus"`
	Kind string `json:"kind,omitempty"`
}

// Cache is one cache and the CPUs that share it.
type Cache struct {
	Level int    `json:"level"`
	Kind  string `json:"kind"` // "Data", "Unified"
	Bytes int64  `json:"bytes"`
	CPUs  CPUSet `json:"cpus"`
}

const cpuDir = "sys/devices/system/cpu"

// Read reads a machine from a tree rooted at "/".
func Read(fsys fs.FS) (*Machine, error) {
	r := &reader{fsys: fsys}
	m := &Machine{}
	var ok bool
	if m.Present, ok = r.set(cpuDir + "/present"); !ok {
		m.Present = r.numbered(cpuDir, "cpu")
	}
	if m.Possible, ok = r.set(cpuDir + "/possible"); !ok {
		m.Possible = m.Present
	}
	if m.Online, ok = r.set(cpuDir + "/online"); !ok {
		m.Online = m.Present
	}
	m.Isolated, _ = r.set(cpuDir + "/isolated")
	m.NoHZFull, _ = r.set(cpuDir + "/nohz_full")
	if m.Online.Empty() {
		return nil, fmt.Errorf("topology: %w", errors.Join(ErrNoCPUs, r.err))
	}
	m.readNodes(r)
	m.readCPUs(r)
	m.findCores()
	m.readCaches(r)
	if r.err != nil {
		return nil, fmt.Errorf("topology: %w", r.err)
	}
	return m, nil
}

func (m *Machine) readCPUs(r *reader) {
	kinds := map[string]CPUSet{}
	for _, kind := range []string{"core", "atom"} {
		kinds[kind], _ = r.set("sys/devices/cpu_" + kind + "/cpus")
	}
	for _, id := range m.Present.Union(m.Online).List() {
		c := CPU{ID: id, Online: m.Online.Has(id), Package: -1, Die: -1, Core: -1, Node: -1}
		for i := range m.Nodes {
			if m.Nodes[i].CPUs.Has(id) {
				c.Node = m.Nodes[i].ID
			}
		}
		for kind, set := range kinds {
			if set.Has(id) {
				c.Kind = kind
			}
		}
		if c.Online {
			m.readPlace(r, &c)
		}
		m.CPUs = append(m.CPUs, c)
	}
}

// readPlace reads where an online CPU is. A CPU offline has no such directory.
func (m *Machine) readPlace(r *reader, c *CPU) {
	dir := fmt.Sprintf("%s/cpu%d/topology/", cpuDir, c.ID)
	c.Package = r.number(dir+"physical_package_id", 0)
	c.Die = r.number(dir+"die_id", -1)
	c.Core = r.number(dir+"core_id", c.ID)
	siblings, ok := r.set(dir + "core_cpus_list")
	if !ok {
		siblings, _ = r.set(dir + "thread_siblings_list") // before Linux 5.3
	}
	c.Siblings = siblings.Intersect(m.Online).Union(CPUs(c.ID))
}

func (m *Machine) findCores() {
	var seen CPUSet
	for _, c := range m.CPUs {
		if !c.Online || seen.Has(c.ID) {
			continue
		}
		seen = seen.Union(c.Siblings)
		m.SMT = m.SMT || c.Siblings.Len() > 1
		m.Cores = append(m.Cores, Core{Package: c.Package, Die: c.Die, ID: c.Core, Node: c.Node, CPUs: c.Siblings, Kind: c.Kind})
	}
}

func (m *Machine) readCaches(r *reader) {
	for _, cpu := range m.Online.List() {
		dir := fmt.Sprintf("%s/cpu%d/cache", cpuDir, cpu)
		for _, index := range r.numbered(dir, "index").List() {
			at := path.Join(dir, "index"+strconv.Itoa(index))
			c := Cache{Level: r.number(at+"/level", 0), Bytes: r.bytes(at + "/size")}
			c.Kind, _ = r.text(at + "/type")
			shared, ok := r.set(at + "/shared_cpu_list")
			if !ok || c.Level == 0 || c.Kind == "Instruction" {
				continue
			}
			c.CPUs = shared.Intersect(m.Online).Union(CPUs(cpu))
			if c.CPUs.First() == cpu { // the others say the same
				m.Caches = append(m.Caches, c)
			}
		}
	}
	slices.SortStableFunc(m.Caches, func(a, b Cache) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.CPUs.First(), b.CPUs.First()))
	})
}

// bytes reads a size as caches have it: "32K", "36608K".
func (r *reader) bytes(name string) int64 {
	text, ok := r.text(name)
	if !ok {
		return 0
	}
	digits, unit := strings.TrimRight(text, "KMG"), int64(1)
	switch text[len(digits):] {
	case "K":
		unit = 1 << 10
	case "M":
		unit = 1 << 20
	case "G":
		unit = 1 << 30
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil {
		r.wrong(name, err)
	}
	return n * unit
}

// CPU returns a CPU by its number.
func (m *Machine) CPU(id int) (CPU, bool) {
	for _, c := range m.CPUs {
		if c.ID == id {
			return c, true
		}
	}
	return CPU{}, false
}

// LastLevel returns the CPUs that share cpu's largest cache: its L3 group where there is
// an L3. It is cpu alone where the kernel shows no caches.
func (m *Machine) LastLevel(cpu int) CPUSet {
	for _, c := range slices.Backward(m.Caches) {
		if c.CPUs.Has(cpu) {
			return c.CPUs
		}
	}
	return CPUs(cpu)
}

// L3Groups returns the sets of CPUs that share an L3; none where there is no L3.
func (m *Machine) L3Groups() []CPUSet {
	var groups []CPUSet
	for _, c := range m.Caches {
		if c.Level == 3 {
			groups = append(groups, c.CPUs)
		}
	}
	return groups
}

// Packages returns the CPUs online of each package, by the packages' numbers.
func (m *Machine) Packages() map[int]CPUSet {
	packages := map[int]CPUSet{}
	for _, c := range m.CPUs {
		if c.Online {
			packages[c.Package] = packages[c.Package].Union(CPUs(c.ID))
		}
	}
	return packages
}
