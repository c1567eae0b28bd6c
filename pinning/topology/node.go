package topology

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Node is a memory node.
type Node struct {
	ID int `json:"id"`
	// CPUs are those online; a node of memory only has none.
	CPUs CPUSet `json:"cpus"`
	// Memory in bytes; a node of CPUs only has none.
	MemoryBytes int64 `json:"memory_bytes"`
	FreeBytes   int64 `json:"free_bytes"`
	// Distance is by the other node's number, 10 to itself. Empty where the kernel does
	// not tell.
	Distance map[int]int `json:"distance,omitempty"`
	// HugePages are the pools, by ascending size.
	HugePages []HugePages `json:"huge_pages,omitempty"`
}

// HugePages is a node's pool of pages of one size.
type HugePages struct {
	PageBytes int64 `json:"page_bytes"`
	// Pages, Free and Surplus are counts of pages; Pages includes Surplus.
	Pages   int `json:"pages"`
	Free    int `json:"free"`
	Surplus int `json:"surplus"`
}

const nodeDir = "sys/devices/system/node"

func (m *Machine) readNodes(r *reader) {
	online, ok := r.set(nodeDir + "/online")
	if !ok {
		online = r.numbered(nodeDir, "node")
	}
	ids := online.List()
	m.NUMA = len(ids) > 0
	if !m.NUMA {
		n := Node{CPUs: m.Online, HugePages: r.hugePages("sys/kernel/mm/hugepages")}
		n.MemoryBytes, n.FreeBytes = r.memory("proc/meminfo")
		m.Nodes = []Node{n}
		return
	}
	for _, id := range ids {
		dir := fmt.Sprintf("%s/node%d", nodeDir, id)
		n := Node{ID: id, HugePages: r.hugePages(dir + "/hugepages")}
		cpus, _ := r.set(dir + "/cpulist")
		n.CPUs = cpus.Intersect(m.Online)
		n.MemoryBytes, n.FreeBytes = r.memory(dir + "/meminfo")
		n.Distance = r.distances(dir+"/distance", ids)
		m.Nodes = append(m.Nodes, n)
	}
}

// distances reads a row of the table. Its columns are the nodes online, not 0, 1, 2.
func (r *reader) distances(name string, ids []int) map[int]int {
	text, ok := r.text(name)
	if !ok {
		return nil
	}
	columns := strings.Fields(text)
	if len(columns) != len(ids) {
		r.wrong(name, fmt.Errorf("%d distances to %d nodes", len(columns), len(ids)))
		return nil
	}
	row := map[int]int{}
	for i, column := range columns {
		d, err := strconv.Atoi(column)
		if err != nil {
			r.wrong(name, err)
		}
		row[ids[i]] = d
	}
	return row
}

// memory reads "MemTotal: 1 kB" and "MemFree:", with "Node 0 " before them or not.
func (r *reader) memory(name string) (total, free int64) {
	text, _ := r.text(name)
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) > 2 && fields[0] == "Node" {
			fields = fields[2:]
		}
		if len(fields) < 2 || fields[0] != "MemTotal:" && fields[0] != "MemFree:" {
			continue
		}
		kB, err := strconv.ParseInt(fields[1], 10, 48)
		if err != nil {
			r.wrong(name, err)
		}
		if fields[0] == "MemTotal:" {
			total = kB << 10
		} else {
			free = kB << 10
		}
	}
	return total, free
}

func (r *reader) hugePages(dir string) []HugePages {
	entries, err := fs.ReadDir(r.fsys, dir)
	if err != nil {
		return nil
	}
	var pools []HugePages
	for _, e := range entries {
		digits := strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB")
		kB, err := strconv.ParseInt(digits, 10, 48)
		if err != nil || kB < 1 {
			continue
		}
		at := dir + "/" + e.Name()
		pools = append(pools, HugePages{
			PageBytes: kB << 10,
			Pages:     r.number(at+"/nr_hugepages", 0),
			Free:      r.number(at+"/free_hugepages", 0),
			Surplus:   r.number(at+"/surplus_hugepages", 0),
		})
	}
	slices.SortFunc(pools, func(a, b HugePages) int { return cmp.Compare(a.PageBytes, b.PageBytes) })
	return pools
}

// Node returns a node by its number.
func (m *Machine) Node(id int) (Node, bool) {
	for _, n := range m.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return Node{}, false
}

// Distance returns how far two nodes are apart, 10 being the same, and 0 if the kernel
// does not tell.
func (m *Machine) Distance(from, to int) int {
	n, _ := m.Node(from)
	return n.Distance[to]
}
