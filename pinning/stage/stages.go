package stage

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/headrace/headrace/pinning/card"
)

// Privilege is what a stage needs to apply and revert. To check and plan it needs none.
type Privilege string

// Privileges.
const (
	// Root writes files that belong to root.
	Root Privilege = "root"
	// NetAdmin changes cards and needs CAP_NET_ADMIN only.
	NetAdmin Privilege = "CAP_NET_ADMIN"
	// Nothing changes nothing.
	Nothing Privilege = "none"
)

// A Description says what a stage is.
type Description struct {
	Name      string    `json:"name"`
	What      string    `json:"what"`
	Privilege Privilege `json:"privilege"`
}

// A Step is one setting and the value that it should have.
type Step struct {
	Stage   string  `json:"stage"`
	Setting Setting `json:"setting"`
	// Old is the present value, New the wanted one.
	Old string `json:"old"`
	New string `json:"new"`
	Why string `json:"why"`
	// Shell is the line that does the same.
	Shell string `json:"shell"`
	// Met reports that Old already means the same as New.
	Met bool `json:"met"`
	// Refusable is what it means if the kernel refuses: some settings are its own, and
	// that it keeps one is then no failure.
	Refusable string `json:"refusable,omitempty"`
	// Later reports a setting that shows its new value only after a while.
	Later bool `json:"later,omitempty"`
}

// A Stage is one part of the host.
type Stage interface {
	Describe() Description
	// Plan returns every setting that the profile has a wish for, those that are as
	// wished included, and notes on what cannot be had or only be checked. It changes
	// nothing and needs no privilege.
	Plan(h *Host) (steps []Step, notes []Note)
}

// A Note is something to know that is no step.
type Note struct {
	Stage string `json:"stage"`
	// Wanted reports a wish that this host does not meet and that Apply cannot meet.
	Wanted bool   `json:"wanted"`
	Text   string `json:"text"`
	// Fix is what to do about it, "" if nothing can be done.
	Fix string `json:"fix,omitempty"`
}

// Stages returns all stages in the order in which they are applied. What makes queues
// and interrupts comes before what places them, and irqbalance is told before
// interrupts are moved, or it would move them back.
func Stages() []Stage {
	return []Stage{
		cmdline{},
		partition{},
		channelStage{},
		rings{},
		coalesce{},
		offloads{},
		rss{},
		flows{},
		irqbalance{},
		irqs{},
		rps{},
		xps{},
		napi{},
		workqueue{},
		cstate{},
		frequency{},
		hugePages{},
		sysctl{},
		thp{},
		holds{},
	}
}

// A planner collects the steps of one stage.
type planner struct {
	h     *Host
	stage string
	steps []Step
	notes []Note
}

func plan(h *Host, s Stage) *planner { return &planner{h: h, stage: s.Describe().Name} }

func (p *planner) done() (steps []Step, notes []Note) { return p.steps, p.notes }

func (p *planner) note(wanted bool, fix, format string, args ...any) {
	p.notes = append(p.notes, Note{Stage: p.stage, Wanted: wanted, Text: fmt.Sprintf(format, args...), Fix: fix})
}

// want adds a step. A setting that this host lacks becomes a note, for a host without it
// lacks the trouble too. The step returned is good until the next one.
func (p *planner) want(s Setting, value, why string) *Step {
	old, err := p.h.read(s)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.note(false, "", "%s: not on this host", s)
		return &Step{}
	case errors.Is(err, card.ErrUnsupported):
		p.note(false, "", "%s: the card, its driver or the kernel has no such thing", s)
		return &Step{}
	case errors.Is(err, fs.ErrPermission):
		p.note(false, "run it as root to see", "%s: not readable", s)
	case err != nil:
		p.note(true, "", "%s: %v", s, err)
		return &Step{}
	}
	return p.add(s, old, value, why)
}

// add adds a step for a setting that may not be there before another step was done.
func (p *planner) add(s Setting, old, value, why string) *Step {
	m, err := media(s.Kind)
	if err != nil {
		panic("stage: " + err.Error())
	}
	p.steps = append(p.steps, Step{
		Stage: p.stage, Setting: s, Old: old, New: value, Why: why,
		Shell: m.shell(p.h, s.Name, value), Met: m.same(old, value),
	})
	return &p.steps[len(p.steps)-1]
}
