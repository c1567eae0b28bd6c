package topology

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Interrupts is /proc/interrupts.
type Interrupts struct {
	// CPUs are the columns, the CPUs online.
	CPUs  []int
	Lines []InterruptLine
}

// InterruptLine is one line of it.
type InterruptLine struct {
	// Name is a number, or letters as "LOC".
	Name string
	// Counts are by column of [Interrupts.CPUs]; ERR and MIS have one for all.
	Counts []uint64
	// What is the rest: chip, line and the names of actions, or what the letters mean.
	What string
}

// ReadInterrupts reads the counters of a tree rooted at "/".
func ReadInterrupts(fsys fs.FS) (*Interrupts, error) {
	b, err := fs.ReadFile(fsys, "proc/interrupts")
	if err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	header, body, _ := strings.Cut(string(b), "\n")
	in := &Interrupts{}
	for column := range strings.FieldsSeq(header) {
		n, ok := number(strings.TrimPrefix(column, "CPU"))
		if !ok {
			return nil, fmt.Errorf("topology: /proc/interrupts: column %q", column)
		}
		in.CPUs = append(in.CPUs, n)
	}
	for line := range strings.Lines(body) {
		name, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		l := InterruptLine{Name: strings.TrimSpace(name)}
		rest = strings.TrimSpace(rest)
		for len(l.Counts) < len(in.CPUs) {
			digits, after, _ := strings.Cut(rest, " ")
			n, err := strconv.ParseUint(digits, 10, 64)
			if err != nil {
				break
			}
			l.Counts, rest = append(l.Counts, n), strings.TrimLeft(after, " ")
		}
		l.What = strings.Join(strings.Fields(rest), " ")
		in.Lines = append(in.Lines, l)
	}
	return in, nil
}

// Count returns how often the line came on a CPU, 0 if there is no such line or column.
func (in *Interrupts) Count(name string, cpu int) uint64 {
	column := slices.Index(in.CPUs, cpu)
	for i := range in.Lines {
		if in.Lines[i].Name == name {
			return in.Lines[i].at(column)
		}
	}
	return 0
}

// Total counts everything that came on a CPU.
func (in *Interrupts) Total(cpu int) uint64 {
	column, sum := slices.Index(in.CPUs, cpu), uint64(0)
	for i := range in.Lines {
		sum += in.Lines[i].at(column)
	}
	return sum
}

// at is the count of a column, 0 if there is none.
func (l *InterruptLine) at(column int) uint64 {
	if column < 0 || column >= len(l.Counts) {
		return 0
	}
	return l.Counts[column]
}

// IRQ is an interrupt with a number.
type IRQ struct {
	Number int `json:"number"`
	// What is the chip, the line and the names of its actions.
	What string `json:"what"`
	// Actions are the names of its actions, as directories of /proc/irq/N name them.
	Actions []string `json:"actions,omitempty"`
	// Affinity is where it may go, Effective where it does go.
	Affinity  CPUSet `json:"affinity"`
	Effective CPUSet `json:"effective"`
	// Node is the node of its device, -1 if none.
	Node int `json:"node"`
	// Count is how often it came, on all CPUs together.
	Count uint64 `json:"count"`
}

// ReadIRQs reads all interrupts that have a number and an entry in /proc/irq, by number.
func ReadIRQs(fsys fs.FS) ([]IRQ, error) {
	in, err := ReadInterrupts(fsys)
	if err != nil {
		return nil, err
	}
	r := &reader{fsys: fsys}
	lines := map[int]InterruptLine{}
	for _, l := range in.Lines {
		if n, err := strconv.Atoi(l.Name); err == nil {
			lines[n] = l
		}
	}
	var irqs []IRQ
	for _, n := range r.irqNumbers() {
		dir := fmt.Sprintf("proc/irq/%d", n)
		q := IRQ{Number: n, What: lines[n].What, Node: r.number(dir+"/node", -1)}
		q.Affinity, _ = r.set(dir + "/smp_affinity_list")
		q.Effective, _ = r.set(dir + "/effective_affinity_list")
		for _, c := range lines[n].Counts {
			q.Count += c
		}
		entries, _ := fs.ReadDir(fsys, dir)
		for _, e := range entries {
			if e.IsDir() {
				q.Actions = append(q.Actions, e.Name())
			}
		}
		irqs = append(irqs, q)
	}
	if r.err != nil {
		return nil, fmt.Errorf("topology: %w", r.err)
	}
	return irqs, nil
}

// irqNumbers lists /proc/irq. Numbers of interrupts can be larger than those of CPUs.
func (r *reader) irqNumbers() []int {
	entries, err := fs.ReadDir(r.fsys, "proc/irq")
	if err != nil {
		return nil
	}
	var all []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n >= 0 && e.IsDir() {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}
