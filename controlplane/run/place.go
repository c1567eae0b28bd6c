package run

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/xsk"
	"github.com/headrace/headrace/pinning"
	"github.com/headrace/headrace/pinning/topology"
)

// A seating is where the workers of a plan belong on this host.
type seating struct {
	places   []handover.Place // by worker; nil: anywhere
	others   topology.CPUSet  // for everything else
	resident bool
	reasons  []string
}

// A wish is what decides a seating.
type wish struct {
	cpus    config.CPUs
	workers int
	nics    []string
	spin    bool // every interface's idle is spin
}

func (r *control) wish() wish {
	w := wish{cpus: config.CPUsAuto, workers: r.Plan.Workers, spin: true}
	if r.Setup.Config != nil {
		w.cpus = r.Setup.Config.CPUs
	}
	for i := range r.Plan.Interfaces {
		w.nics = append(w.nics, r.Plan.Interfaces[i].Name)
		w.spin = w.spin && r.Plan.Interfaces[i].Idle == plan.Spin
	}
	return w
}

// seat decides where workers belong on the machine of a tree rooted at "/".
func seat(root fs.FS, w wish) (seating, error) {
	none := func(why string) (seating, error) { return seating{resident: w.spin, reasons: []string{why}}, nil }
	if w.cpus == config.CPUsNone {
		return none("workers run anywhere: the config says cpus: none")
	}
	m, err := topology.Read(root)
	if err != nil {
		return seating{}, err
	}
	if w.cpus == config.CPUsAuto && m.Isolated.Empty() && !w.spin {
		return none("workers run anywhere: no CPU is isolated, and they give theirs up without work")
	}
	ask := pinning.Wish{Workers: w.workers, Allowed: allowed(root)}
	for _, name := range w.nics {
		if nic, err := topology.ReadNIC(root, name); err == nil { // one in another network namespace is not shown
			ask.NICs = append(ask.NICs, nic)
		}
	}
	if w.cpus != config.CPUsAuto {
		if ask.CPUs, err = topology.ParseCPUs(string(w.cpus)); err != nil {
			return seating{}, err
		}
	}
	p, err := pinning.Place(m, ask)
	if err != nil {
		return seating{}, fmt.Errorf("cpus: %w", err)
	}
	s := seating{resident: true, others: p.Housekeeping, reasons: p.Reasons}
	for _, x := range p.Workers {
		if w.cpus == config.CPUsAuto && !p.Quiet.Has(x.CPU) {
			// Two that spin on one CPU are worse than two that the kernel moves about.
			return none("workers run anywhere: there is not a CPU for each and one more")
		}
		node := x.Node
		if !m.NUMA || len(m.Nodes) < 2 {
			node = -1
		}
		s.places = append(s.places, handover.Place{CPU: x.CPU, Node: node})
		s.reasons = append(s.reasons, fmt.Sprintf("worker %d on CPU %d: %s", x.Worker, x.CPU, x.Why))
	}
	return s, nil
}

// allowed returns the CPUs that the control group of this process may use; empty: all.
func allowed(root fs.FS) topology.CPUSet {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return topology.CPUSet{}
	}
	for line := range strings.Lines(string(text)) {
		dir, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		for ; ok; dir = path.Dir(dir) {
			list, err := fs.ReadFile(root, path.Join("sys/fs/cgroup", dir, "cpuset.cpus.effective"))
			if err == nil {
				set, _ := topology.ParseCPUs(strings.TrimSpace(string(list))) // what cannot be read bounds nothing
				return set
			}
			if dir == "." || dir == "" {
				break
			}
		}
	}
	return topology.CPUSet{}
}

// seats returns where the workers belong. It looks at the host when the question is
// another one than last time.
func (r *control) seats() (*seating, error) {
	w := r.wish()
	key := fmt.Sprint(w)
	if r.seated == nil || r.seatedFor != key {
		s, err := seat(os.DirFS("/"), w)
		if err != nil {
			return nil, err
		}
		r.seated, r.seatedFor = &s, key
		r.stepAside()
	}
	return r.seated, nil
}

// stepAside takes this process off the workers' CPUs. What was forbidden to it before
// stays so.
func (r *control) stepAside() {
	if len(r.seated.places) == 0 {
		return
	}
	var now, keep unix.CPUSet
	if unix.SchedGetaffinity(0, &now) != nil {
		return
	}
	for _, cpu := range r.seated.others.List() {
		if now.IsSet(cpu) {
			keep.Set(cpu)
		}
	}
	if keep.Count() == 0 {
		return
	}
	threads, _ := os.ReadDir("/proc/self/task") // a wish
	for _, t := range threads {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.SchedSetaffinity(tid, &keep)
		}
	}
}

// place fills in where a data plane's workers belong.
func (r *control) place(body *handover.StartBody) error {
	s, err := r.seats()
	if err != nil {
		return err
	}
	body.Places, body.Others, body.Resident = s.places, nil, s.resident
	if len(s.places) > 0 {
		body.Others = s.others.List()
	}
	return nil
}

// placed publishes where the workers of g are.
func (r *control) placed(g *generation, workers []handover.Placed) {
	p := &status.Placement{Reasons: []string{}, Workers: []status.WorkerPlacement{}, Frames: []status.FramePlacement{}}
	if r.seated != nil {
		p.Reasons = r.seated.reasons
	}
	for w := range min(len(workers), r.Plan.Workers) {
		x := &workers[w]
		p.Workers = append(p.Workers, status.WorkerPlacement{
			Worker: w, CPU: x.CPU, Node: x.Node, CPUs: topology.CPUs(inRange(x.CPUs)...).String(),
			Bytes: x.Bytes, Pages: x.Pages, Remote: x.Remote, Resident: x.Resident, Huge: x.Huge, Locked: x.Locked,
			Why: strings.ReplaceAll(strings.ToValidUTF8(x.Why, "?"), "\n", "; "),
		})
	}
	r.openRecorders(g, workers)
	if g.stock != nil {
		b := &g.stock.body
		for i, s := range g.layout.Owners() {
			if i < len(b.Memory) && i < len(b.Granted) {
				p.Frames = append(p.Frames, frames(&s, &b.Memory[i], &b.Granted[i]))
			}
		}
	}
	r.placement.Store(p)
}

// inRange leaves out what the data plane cannot mean.
func inRange(cpus []int) (list []int) {
	for _, cpu := range cpus {
		if cpu >= 0 && cpu < 1<<13 {
			list = append(list, cpu)
		}
	}
	return list
}

func frames(s *xsk.Socket, m *xsk.Memory, got *xsk.Granted) status.FramePlacement {
	node := -1
	if m.OnNode {
		node = m.Node
	}
	return status.FramePlacement{
		Interface: s.Name, Queue: s.Queue, Huge: m.Huge, Node: node,
		PageBytes: got.PageBytes, Pages: got.Pages, Remote: got.Remote, Why: strings.ReplaceAll(got.Why, "\n", "; "),
	}
}

// frameMemory says what the frames of an interface are to be of: memory of its node where
// there are several, and huge pages for workers that spin.
func frameMemory(root fs.FS, x *plan.Interface) xsk.Memory {
	m := xsk.Memory{Huge: x.Idle == plan.Spin}
	nodes, _ := fs.Glob(root, "sys/devices/system/node/node[0-9]*")
	if nic, err := topology.ReadNIC(root, x.Name); err == nil && len(nodes) > 1 && nic.Node >= 0 {
		m.OnNode, m.Node = true, nic.Node
	}
	return m
}
