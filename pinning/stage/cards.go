package stage

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/headrace/headrace/pinning/card"
	"github.com/headrace/headrace/pinning/topology"
)

// onCard is a setting of a card.
func onCard(nic, what string) Setting { return Setting{kindCard, nic + " " + what} }

// with replaces one number of such a value, if it has it.
func with(value, name string, n int) string {
	parts := strings.Fields(value)
	for i, part := range parts {
		if strings.HasPrefix(part, name+"=") {
			parts[i] = fmt.Sprintf("%s=%d", name, n)
		}
	}
	return strings.Join(parts, " ")
}

// channelStage sets how many queues the cards have.
type channelStage struct{}

func (channelStage) Describe() Description {
	return Description{"channels", "how many queues the cards have", NetAdmin}
}

func (s channelStage) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	w, ok := h.Profile.Get("channels")
	if !ok {
		return p.done()
	}
	n := h.Workers
	if w.Value != "workers" {
		n, _ = strconv.Atoi(w.Value)
	}
	for _, nic := range h.NICs {
		now, err := h.read(onCard(nic.Name, "channels"))
		most, _ := h.read(onCard(nic.Name, "channels-max"))
		if err != nil {
			p.note(false, "", "%s: channels: not on this card", nic.Name)
			continue
		}
		value := now
		if m := card.Number(most, "combined"); m > 0 {
			value = with(value, "combined", min(n, m))
		} else {
			for _, side := range []string{"rx", "tx"} {
				if m := card.Number(most, side); m > 0 {
					value = with(value, side, min(n, m))
				}
			}
		}
		if m := max(card.Number(most, "combined"), card.Number(most, "rx")); m < n {
			p.note(false, "", "%s has %d queues at most; %d workers share them", nic.Name, m, n)
		}
		p.want(onCard(nic.Name, "channels"), value, w.Reason)
	}
	return p.done()
}

// rings sets the length of the cards' rings.
type rings struct{}

func (rings) Describe() Description {
	return Description{"rings", "how many packets the cards can keep for us", NetAdmin}
}

func (s rings) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	w, ok := h.Profile.Get("rings")
	if !ok {
		return p.done()
	}
	for _, nic := range h.NICs {
		value, err := h.read(onCard(nic.Name, "rings"))
		most, _ := h.read(onCard(nic.Name, "rings-max"))
		if err != nil {
			p.note(false, "", "%s: rings: not on this card", nic.Name)
			continue
		}
		for _, side := range []string{"rx", "tx"} {
			n := card.Number(most, side)
			if w.Value != "max" {
				asked, _ := strconv.Atoi(w.Value)
				n = min(n, asked)
			}
			if n > 0 {
				value = with(value, side, n)
			}
		}
		p.want(onCard(nic.Name, "rings"), value, w.Reason)
	}
	return p.done()
}

// coalesce sets when the cards interrupt.
type coalesce struct{}

func (coalesce) Describe() Description {
	return Description{"coalesce", "how long the cards wait before they interrupt", NetAdmin}
}

func (s coalesce) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	w, ok := h.Profile.Get("coalesce")
	if !ok {
		return p.done()
	}
	for _, nic := range h.NICs {
		value, err := h.read(onCard(nic.Name, "coalesce"))
		if err != nil {
			p.note(false, "", "%s: coalescing: not on this card", nic.Name)
			continue
		}
		for part := range strings.FieldsSeq(w.Value) {
			name, digits, _ := strings.Cut(part, "=")
			if !strings.Contains(" "+value, " "+name+"=") {
				p.note(true, "see `ethtool -c "+nic.Name+"`", "%s: coalescing has no %s (%s)", nic.Name, name, w.At)
			}
			n, _ := strconv.Atoi(digits)
			value = with(value, name, n)
		}
		p.want(onCard(nic.Name, "coalesce"), value, w.Reason)
	}
	return p.done()
}

// offloads switches features of the cards.
type offloads struct{}

func (offloads) Describe() Description {
	return Description{"offloads", "what the cards do with packets before we get them", NetAdmin}
}

func (s offloads) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	for _, w := range h.Profile.With("feature.") {
		for _, nic := range h.NICs {
			p.want(onCard(nic.Name, "feature "+w.Key), w.Value, w.Reason)
		}
	}
	return p.done()
}

// rss spreads flows over the queues in use.
type rss struct{}

func (rss) Describe() Description {
	return Description{"rss", "which queue a flow goes to by its hash", NetAdmin}
}

func (s rss) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	for _, nic := range h.NICs {
		if w, ok := h.Profile.Get("rss"); ok {
			if table, err := h.read(onCard(nic.Name, "rss-table")); err == nil {
				p.want(onCard(nic.Name, "rss-table"), card.EqualTable(table, nic.RXQueues), w.Reason)
			} else {
				p.note(false, "", "%s: RSS table: not on this card", nic.Name)
			}
		}
		if w, ok := h.Profile.Get("rss-key"); ok {
			if key, err := h.read(onCard(nic.Name, "rss-key")); err == nil {
				p.want(onCard(nic.Name, "rss-key"), card.SymmetricKey(key), w.Reason)
			} else {
				p.note(false, "", "%s: RSS key: not on this card", nic.Name)
			}
		}
	}
	return p.done()
}

// flows makes the rules that were asked for.
type flows struct{}

func (flows) Describe() Description {
	return Description{"flows", "rules of the cards: which queue a flow goes to", NetAdmin}
}

func (s flows) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	for _, f := range h.Flows {
		p.want(onCard(f.Interface, "flow "+f.Match), strconv.Itoa(f.Queue), "asked for")
	}
	return p.done()
}

// rps keeps the kernel from handing packets to other cores.
type rps struct{}

func (rps) Describe() Description {
	return Description{"rps", "packets stay on the core that took them", Root}
}

func (s rps) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	w, ok := h.Profile.Get("rps")
	if !ok {
		return p.done()
	}
	for _, nic := range h.NICs {
		for q := range nic.RXQueues {
			p.want(Setting{kindMask, fmt.Sprintf("sys/class/net/%s/queues/rx-%d/rps_cpus", nic.Name, q)}, "0", w.Reason)
		}
	}
	return p.done()
}

// xps gives each worker a queue to send by.
type xps struct{}

func (xps) Describe() Description {
	return Description{"xps", "queue N sends for worker N", Root}
}

func (s xps) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	w, ok := h.Profile.Get("xps")
	if !ok {
		return p.done()
	}
	for _, nic := range h.NICs {
		if nic.TXQueues < 2 {
			continue // nothing to choose from, and the kernel has no such file to write
		}
		for q := range nic.TXQueues {
			at := Setting{kindMask, fmt.Sprintf("sys/class/net/%s/queues/tx-%d/xps_cpus", nic.Name, q)}
			// Queues beyond the workers' are the housekeeping's.
			owner := h.Placement.Housekeeping
			if q < len(h.Placement.Workers) {
				owner = topology.CPUs(h.Placement.Workers[q].CPU)
			}
			p.want(at, owner.Mask(), w.Reason).Refusable = "a card with one queue has nothing to choose"
		}
	}
	return p.done()
}

// napi says who polls the cards.
type napi struct{}

func (napi) Describe() Description {
	return Description{"napi", "who polls the cards, and when interrupts come back", NetAdmin}
}

func (s napi) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	poll, ok := h.Profile.Get("poll")
	wishes := h.Profile.With("napi.")
	if ok && poll.Value == "irq" { // each interrupt counts
		for i := range wishes {
			wishes[i].Value, wishes[i].Reason = "0", poll.Reason
		}
	}
	for _, nic := range h.NICs {
		for q := range min(nic.RXQueues, h.Workers) {
			if ok && poll.Value == "threaded" {
				s.thread(p, nic.Name, q, poll.Reason)
			} else if ok {
				p.want(s.setting(h, nic.Name, q, "threaded"), "0", poll.Reason)
			}
			for _, w := range wishes {
				p.want(s.setting(h, nic.Name, q, w.Key), w.Value, w.Reason)
			}
		}
	}
	return p.done()
}

// setting is one of a queue's NAPI instance. Before Linux 6.13 some are a file of the
// whole card, and the same for all queues.
func (napi) setting(h *Host, nic string, queue int, name string) Setting {
	own := onCard(nic, fmt.Sprintf("napi rx-%d %s", queue, name))
	if _, err := h.read(own); !errors.Is(err, card.ErrUnsupported) {
		return own
	}
	file := map[string]string{"threaded": "threaded", "defer-hard-irqs": "napi_defer_hard_irqs", "gro-flush-timeout": "gro_flush_timeout"}[name]
	if at := path.Join("sys/class/net", nic, file); file != "" && h.exists(at) {
		return Setting{kindFile, at}
	}
	return own
}

// thread gives a queue a thread, and the thread a core that is not a worker's.
func (s napi) thread(p *planner, nic string, queue int, why string) {
	before := len(p.steps)
	p.want(s.setting(p.h, nic, queue, "threaded"), "1", why)
	if len(p.steps) == before {
		return // there is no such thing here
	}
	near := p.h.Placement.IRQs.List()
	at := onCard(nic, fmt.Sprintf("napi-thread rx-%d", queue))
	old, err := p.h.read(at)
	if err != nil {
		old = "none" // it comes with the step before
	}
	p.add(at, old, strconv.Itoa(near[queue%len(near)]), "a neighbor of the worker's core")
}

// hugePages reserves memory for arenas.
type hugePages struct{}

func (hugePages) Describe() Description {
	return Description{"hugepages", "memory for arenas in pages of 2 MiB or 1 GiB", Root}
}

func (s hugePages) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	for _, w := range h.Profile.With("hugepages.") {
		size := map[string]string{"2M": "hugepages-2048kB", "1G": "hugepages-1048576kB"}[w.Key]
		n, err := strconv.Atoi(w.Value)
		if err != nil || n == 0 {
			continue
		}
		for _, node := range h.Placement.Nodes().List() {
			at := path.Join("sys/devices/system/node", fmt.Sprintf("node%d", node), "hugepages", size, "nr_hugepages")
			if !h.Machine.NUMA {
				at = path.Join("sys/kernel/mm/hugepages", size, "nr_hugepages")
			}
			s.atLeast(p, Setting{kindFile, at}, n, w.Reason)
		}
	}
	return p.done()
}

// atLeast never takes pages away: they may be somebody's.
func (hugePages) atLeast(p *planner, at Setting, n int, why string) {
	if old, err := p.h.base(at); err == nil {
		if has, err := strconv.Atoi(strings.TrimSpace(old)); err == nil {
			n = max(n, has)
		}
	}
	p.want(at, strconv.Itoa(n), why)
}

// sysctl sets sysctls.
type sysctl struct{}

func (sysctl) Describe() Description {
	return Description{"sysctl", "settings of the kernel as a whole", Root}
}

func (s sysctl) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	values := strings.NewReplacer("${housekeeping-mask}", h.Placement.Housekeeping.Mask(), "${housekeeping}", h.Placement.Housekeeping.String())
	for _, w := range h.Profile.With("sysctl.") {
		kind := kindFile
		if strings.Contains(w.Value, "${housekeeping}") {
			kind = kindList
		}
		p.want(Setting{kind, "proc/sys/" + strings.ReplaceAll(w.Key, ".", "/")}, values.Replace(w.Value), w.Reason)
	}
	return p.done()
}

// thp sets transparent huge pages.
type thp struct{}

func (thp) Describe() Description {
	return Description{"thp", "transparent huge pages", Root}
}

func (s thp) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	if w, ok := h.Profile.Get("thp"); ok {
		p.want(Setting{kindChoice, "sys/kernel/mm/transparent_hugepage/enabled"}, w.Value, w.Reason)
	}
	return p.done()
}
