package stage

import (
	"fmt"
	"path"
	"strings"

	"github.com/headrace/headrace/pinning/topology"
)

// irqbalance tells the daemon to leave the worker cores alone.
type irqbalance struct{}

func (irqbalance) Describe() Description {
	return Description{"irqbalance", "the daemon does not move interrupts to worker cores", Root}
}

func (s irqbalance) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	w, ok := h.Profile.Get("irqbalance")
	if !ok || h.Placement.Quiet.Empty() {
		return p.done()
	}
	const dir = "run/irqbalance"
	for _, name := range h.names(dir) {
		if !strings.HasSuffix(name, ".sock") {
			continue
		}
		at := Setting{kindBalance, path.Join(dir, name)}
		old, err := h.base(at)
		if err != nil {
			p.note(true, "start irqbalance with IRQBALANCE_BANNED_CPULIST="+h.Placement.Quiet.String(), "%s: %v", at, err)
			continue
		}
		banned, err := topology.ParseCPUs(old)
		if err != nil {
			p.note(true, "", "%s: %v", at, err)
			continue
		}
		p.want(at, banned.Union(h.Placement.Quiet).String(), w.Reason).Later = true
	}
	return p.done()
}

// irqs moves interrupts off the worker cores.
type irqs struct{}

func (irqs) Describe() Description {
	return Description{"irq", "interrupts go to housekeeping cores", Root}
}

func (s irqs) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	w, ok := h.Profile.Get("irq")
	quiet := h.Placement.Quiet
	if !ok || quiet.Empty() {
		return p.done()
	}
	all := Setting{kindMask, "proc/irq/default_smp_affinity"}
	if old, err := h.base(all); err == nil {
		if mask, err := topology.ParseMask(old); err == nil {
			p.want(all, s.without(h, mask, h.Placement.Housekeeping).Mask(), "interrupts that come up later: "+w.Reason)
		}
	}
	ours := map[int]bool{}
	for _, n := range h.NICs {
		for _, q := range n.IRQs {
			ours[q.Number] = true
		}
	}
	list, err := topology.ReadIRQs(h.fsys)
	if err != nil {
		p.note(true, "", "%v", err)
		return p.done()
	}
	refusable := "the kernel decides itself where this interrupt goes"
	if !strings.Contains(h.text("proc/cmdline"), "managed_irq") {
		refusable += "; isolcpus=managed_irq," + quiet.String() + " on its command line keeps it away"
	}
	for _, q := range list {
		at := Setting{kindList, fmt.Sprintf("proc/irq/%d/smp_affinity_list", q.Number)}
		old, err := h.base(at)
		set, bad := topology.ParseCPUs(old)
		if err != nil || bad != nil {
			continue // one that has gone since
		}
		to, why := h.Placement.Housekeeping, w.Reason
		if ours[q.Number] {
			to, why = h.Placement.IRQs, "a card's own, on its node: "+w.Reason
		}
		p.want(at, s.without(h, set, to).String(), why).Refusable = refusable
	}
	return p.done()
}

// without takes the worker cores out of a set; what is left of it is kept where
// something is, for somebody may have placed it.
func (irqs) without(h *Host, set, otherwise topology.CPUSet) topology.CPUSet {
	rest := set.Intersect(h.Machine.Online).Minus(h.Placement.Quiet)
	switch {
	case set.Intersect(h.Placement.Quiet).Empty():
		return set
	case rest.Empty():
		return otherwise
	case !rest.Intersect(otherwise).Empty():
		return rest.Intersect(otherwise)
	}
	return rest
}
