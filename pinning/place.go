package pinning

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/headrace/headrace/pinning/topology"
)

var (
	// ErrAllCPUs reports a wish that would leave nothing for the rest of the system.
	ErrAllCPUs = errors.New("no CPU would be left for the rest of the system")
	// ErrNoSuchCPU reports a CPU that is asked for and is not online, or not allowed.
	ErrNoSuchCPU = errors.New("not online or not allowed")
	// ErrTooFewCPUs reports more workers than CPUs that were asked for.
	ErrTooFewCPUs = errors.New("fewer CPUs than workers")
)

// A Wish is what is to be placed.
type Wish struct {
	// Workers is how many there are; at least 1.
	Workers int
	// NICs are the cards that packets come from. None, or cards without a node, put no
	// node above another.
	NICs []topology.NIC
	// CPUs are the ones for the workers, in ascending order of workers. Empty: they are
	// chosen.
	CPUs topology.CPUSet
	// Allowed are the CPUs that may be used at all, as a container's; empty: all online.
	Allowed topology.CPUSet
}

// A WorkerPlace is where one worker runs.
type WorkerPlace struct {
	Worker int `json:"worker"`
	CPU    int `json:"cpu"`
	// Node is the memory node of the CPU, -1 if the kernel names none.
	Node int `json:"node"`
	// Idle are the other threads of its core, which should be left idle.
	Idle topology.CPUSet `json:"idle"`
	// Alone is false if another worker or the housekeeping has the same CPU or core.
	Alone bool   `json:"alone"`
	Why   string `json:"why"`
}

// A Placement says what belongs where.
type Placement struct {
	// Workers has one place for each worker, in their order.
	Workers []WorkerPlace `json:"workers"`
	// Housekeeping is for the control plane and all that is not a worker; never empty.
	Housekeeping topology.CPUSet `json:"housekeeping"`
	// IRQs is the part of Housekeeping that is nearest to the cards.
	IRQs topology.CPUSet `json:"irqs"`
	// Quiet are the CPUs that may be taken from everybody else: those of workers that are
	// alone on them and their idle siblings. Empty where nothing can be spared.
	Quiet topology.CPUSet `json:"quiet"`
	// Reasons say why things are where they are, beside those of each worker.
	Reasons []string `json:"reasons"`
}

// WorkerCPUs returns the CPUs of all workers.
func (p Placement) WorkerCPUs() topology.CPUSet {
	var all topology.CPUSet
	for _, w := range p.Workers {
		all = all.Union(topology.CPUs(w.CPU))
	}
	return all
}

// Nodes returns the memory nodes of the workers.
func (p Placement) Nodes() topology.CPUSet {
	var all topology.CPUSet
	for _, w := range p.Workers {
		all = all.Union(topology.CPUs(w.Node))
	}
	return all
}

// Place decides where the workers of w run on m. It changes nothing.
//
// A worker gets a physical core of the cards' node to itself, its sibling threads idle.
// The core of the first CPU is left to the system, and so is one more core of the cards'
// node for their interrupts if the first is elsewhere and there are enough. Where cores
// run out, the next best is taken and the reason says so: a core farther away, a second
// thread of a core, at last a CPU that others have too.
//
// It returns an error wrapping [ErrNoSuchCPU], [ErrTooFewCPUs] or [ErrAllCPUs] if w.CPUs
// cannot be.
func Place(m *topology.Machine, w Wish) (Placement, error) {
	if w.Workers < 1 {
		return Placement{}, fmt.Errorf("pinning: %d workers; there is at least one", w.Workers)
	}
	usable := m.Online
	if !w.Allowed.Empty() {
		usable = usable.Intersect(w.Allowed)
	}
	if usable.Empty() {
		return Placement{}, fmt.Errorf("pinning: CPUs %s: %w; online are %s", w.Allowed, ErrNoSuchCPU, m.Online)
	}
	p := &placer{m: m, wish: w, usable: usable, first: usable.First()}
	p.chooseNode()
	var err error
	if w.CPUs.Empty() {
		p.choose()
	} else {
		err = p.takeAsked()
	}
	if err != nil {
		return Placement{}, fmt.Errorf("pinning: %w", err)
	}
	return p.finish(), nil
}

// A placer is one decision under way.
type placer struct {
	m      *topology.Machine
	wish   Wish
	usable topology.CPUSet
	// first is the CPU that the system boots on and cannot be kept off.
	first int
	// node is that of the cards, -1 if they have none.
	node int
	out  Placement
}

func (p *placer) because(format string, args ...any) {
	p.out.Reasons = append(p.out.Reasons, fmt.Sprintf(format, args...))
}

// chooseNode takes the node that most cards are on, the lower of two.
func (p *placer) chooseNode() {
	p.node = -1
	votes := map[int]int{}
	for _, n := range p.wish.NICs {
		if n.Node >= 0 {
			votes[n.Node]++
		}
	}
	for node, v := range votes {
		if p.node < 0 || v > votes[p.node] || v == votes[p.node] && node < p.node {
			p.node = node
		}
	}
	switch {
	case p.node < 0 && len(p.m.Nodes) > 1:
		p.because("no card names a memory node: no node is preferred")
	case p.node >= 0 && len(votes) > 1:
		p.because("cards are on several nodes: node %d has most of them, frames of the others cross over", p.node)
	case p.node >= 0:
		p.because("the cards are on node %d", p.node)
	}
}

// A seat is a CPU that a worker could get.
type seat struct {
	core   topology.Core
	cpu    int
	second bool // not the core's first thread
	system bool // of the core of the first CPU
	spare  bool // of the core kept for the cards' interrupts
}

// seats lists all CPUs, the best first.
func (p *placer) seats() []seat {
	reserved := p.interruptCore()
	var all []seat
	for _, c := range p.m.Cores {
		threads := c.CPUs.Intersect(p.usable).List()
		for i, cpu := range threads {
			all = append(all, seat{c, cpu, i > 0, c.CPUs.Has(p.first), c.CPUs.Has(reserved)})
		}
	}
	group := p.bestGroup(all)
	slices.SortStableFunc(all, func(a, b seat) int {
		return cmp.Or(
			falseFirst(a.cpu == p.first, b.cpu == p.first),
			falseFirst(a.second, b.second),
			falseFirst(a.system, b.system),
			falseFirst(a.spare, b.spare),
			falseFirst(!p.m.Isolated.Has(a.cpu), !p.m.Isolated.Has(b.cpu)),
			cmp.Compare(p.far(a.core.Node), p.far(b.core.Node)),
			falseFirst(a.core.Kind == "atom", b.core.Kind == "atom"),
			falseFirst(!group.Has(a.cpu), !group.Has(b.cpu)),
			cmp.Compare(a.core.Node, b.core.Node),
			cmp.Compare(a.cpu, b.cpu),
		)
	})
	return all
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// far is the distance of a node from the cards; unknown is as far as can be.
func (p *placer) far(node int) int {
	if p.node < 0 || node == p.node {
		return 0
	}
	if d := p.m.Distance(p.node, node); d > 0 {
		return d
	}
	return 255
}

// interruptCore returns a CPU of the core of the cards' node that is kept for their
// interrupts, -1 if none is: the system's own core is on that node, or cores are few.
func (p *placer) interruptCore() int {
	if p.node < 0 {
		return -1
	}
	var there []topology.Core
	for _, c := range p.m.Cores {
		if c.Node != p.node || c.CPUs.Intersect(p.usable).Empty() {
			continue
		}
		if c.CPUs.Has(p.first) {
			return -1
		}
		if !c.CPUs.Intersect(p.m.Isolated).Empty() {
			continue // the command line has given it away
		}
		there = append(there, c)
	}
	if len(there) <= p.wish.Workers {
		return -1
	}
	return there[0].CPUs.Intersect(p.usable).First()
}

// bestGroup returns the smallest group of CPUs with a common last-level cache that has
// cores for all workers near the cards, so that what one worker hands to another stays
// in the cache. It is empty if no group is enough.
func (p *placer) bestGroup(all []seat) topology.CPUSet {
	var best topology.CPUSet
	var bestCores int
	for _, g := range p.m.L3Groups() {
		cores := 0
		for _, s := range all {
			if g.Has(s.cpu) && !s.second && !s.system && !s.spare && p.far(s.core.Node) == 0 {
				cores++
			}
		}
		if cores >= p.wish.Workers && (best.Empty() || cores < bestCores) {
			best, bestCores = g, cores
		}
	}
	return best
}

// choose takes the best seats. With one CPU more than is needed the first stays free of
// workers; without, workers share, and the last of them the first CPU.
func (p *placer) choose() {
	all := p.seats()
	free := all
	if len(all) > 1 {
		free = all[:len(all)-1] // the last is the first CPU
	}
	for i := range p.wish.Workers {
		s := free[i%len(free)]
		p.seat(s, p.why(s, i >= len(free)))
	}
}

func (p *placer) why(s seat, shared bool) string {
	var text string
	switch {
	case p.node < 0:
		text = "a physical core"
	case s.core.Node == p.node:
		text = fmt.Sprintf("a physical core of the cards' node %d", p.node)
	default:
		text = fmt.Sprintf("a core of node %d, distance %d: node %d of the cards has none left", s.core.Node, p.far(s.core.Node), p.node)
	}
	if p.m.Isolated.Has(s.cpu) {
		text += ", isolated since boot"
	}
	switch {
	case shared:
		return text + "; shared with other workers: there are more workers than CPUs"
	case s.cpu == p.first:
		return text + "; it is the only CPU and everything else runs there too"
	case s.second:
		return text + "; the second thread of a core in use: there are fewer cores than workers"
	case s.system:
		return text + "; its core is the system's: there is no other"
	case s.spare:
		return text + "; it would have been the cards' interrupts': cores are few"
	}
	return text
}

func (p *placer) seat(s seat, why string) {
	p.out.Workers = append(p.out.Workers, WorkerPlace{
		Worker: len(p.out.Workers), CPU: s.cpu, Node: s.core.Node,
		Idle: s.core.CPUs.Minus(topology.CPUs(s.cpu)), Why: why,
	})
}

// takeAsked seats the workers on the CPUs that were asked for.
func (p *placer) takeAsked() error {
	asked := p.wish.CPUs
	if missing := asked.Minus(p.usable); !missing.Empty() {
		return fmt.Errorf("CPUs %s: %w; there are %s", missing, ErrNoSuchCPU, p.usable)
	}
	if asked.Len() < p.wish.Workers {
		return fmt.Errorf("CPUs %s for %d workers: %w", asked, p.wish.Workers, ErrTooFewCPUs)
	}
	if p.usable.Minus(asked).Empty() {
		return fmt.Errorf("CPUs %s are all there are: %w; leave at least one out", asked, ErrAllCPUs)
	}
	seats := p.seats()
	for _, cpu := range asked.List()[:p.wish.Workers] {
		at := slices.IndexFunc(seats, func(s seat) bool { return s.cpu == cpu })
		why := "asked for"
		if n := seats[at].core.Node; p.node >= 0 && n != p.node {
			why += fmt.Sprintf(", though the cards are on node %d and it is on node %d", p.node, n)
		}
		p.seat(seats[at], why)
	}
	return nil
}

// finish gives the rest of the machine to the housekeeping.
func (p *placer) finish() Placement {
	workers := p.out.WorkerCPUs()
	taken := workers.Union(p.wish.CPUs)
	for i := range p.out.Workers {
		w := &p.out.Workers[i]
		// A sibling is idle unless it is a worker's or the system's first CPU.
		w.Idle = w.Idle.Minus(workers).Minus(topology.CPUs(p.first))
		taken = taken.Union(w.Idle)
	}
	rest := p.usable.Minus(taken)
	if rest.Empty() { // idle siblings are a luxury
		rest = p.usable.Minus(workers)
		for i := range p.out.Workers {
			p.out.Workers[i].Idle = topology.CPUSet{}
		}
		if !rest.Empty() {
			p.because("siblings of workers are the only CPUs left: the system runs there")
		}
	}
	if rest.Empty() {
		rest = topology.CPUs(p.first)
		p.because("there is no CPU without a worker: the system shares CPU %d", p.first)
	}
	p.out.Housekeeping = rest
	p.judgeQuiet()
	p.findIRQs()
	return p.out
}

func (p *placer) judgeQuiet() {
	count := map[int]int{}
	for _, w := range p.out.Workers {
		count[w.CPU]++
	}
	for i := range p.out.Workers {
		w := &p.out.Workers[i]
		c, _ := p.m.CPU(w.CPU)
		others := c.Siblings.Minus(topology.CPUs(w.CPU)).Minus(w.Idle).Intersect(p.usable)
		exclusive := count[w.CPU] == 1 && !p.out.Housekeeping.Has(w.CPU)
		w.Alone = exclusive && others.Empty()
		if exclusive {
			p.out.Quiet = p.out.Quiet.Union(topology.CPUs(w.CPU)).Union(w.Idle)
		}
	}
	if p.out.Quiet.Empty() {
		p.because("no CPU can be isolated: none is a worker's alone")
	}
	p.because("the control plane and everything else run on %s", p.out.Housekeeping)
}

// findIRQs takes the housekeeping CPUs of the nearest node that has any.
func (p *placer) findIRQs() {
	p.out.IRQs = p.out.Housekeeping
	if p.node < 0 {
		return
	}
	nearest := 256
	for _, cpu := range p.out.Housekeeping.List() {
		c, _ := p.m.CPU(cpu)
		switch d := p.far(c.Node); {
		case d < nearest:
			nearest, p.out.IRQs = d, topology.CPUs(cpu)
		case d == nearest:
			p.out.IRQs = p.out.IRQs.Union(topology.CPUs(cpu))
		}
	}
	if nearest > 0 {
		p.because("the cards' interrupts go to %s of another node: node %d has no CPU without a worker", p.out.IRQs, p.node)
		return
	}
	p.because("the cards' interrupts go to %s, on their node", p.out.IRQs)
}
