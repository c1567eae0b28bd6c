package tune

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/headrace/headrace/pinning/noise"
	"github.com/headrace/headrace/pinning/stage"
)

// writePlacement says what belongs where, each line after a mark.
func (j *job) writePlacement(b *bytes.Buffer, mark string) {
	p := j.host.Placement
	for _, w := range p.Workers {
		fmt.Fprintf(b, "%sworker %d: CPU %d: %s\n", mark, w.Worker, w.CPU, w.Why)
		if !w.Idle.Empty() {
			fmt.Fprintf(b, "%s          CPUs %s of its core stay idle\n", mark, w.Idle)
		}
	}
	for _, reason := range p.Reasons {
		fmt.Fprintf(b, "%s%s\n", mark, reason)
	}
}

func writeNotes(b *bytes.Buffer, mark string, notes []stage.Note) {
	for _, n := range notes {
		word := "note"
		if n.Wanted {
			word = "wanted"
		}
		fmt.Fprintf(b, "%s%s: %s: %s\n", mark, word, n.Stage, n.Text)
		if n.Fix != "" {
			fmt.Fprintf(b, "%s  %s\n", mark, n.Fix)
		}
	}
}

func (j *job) writeCheck(w io.Writer, steps []stage.Step, notes []stage.Note) error {
	var b bytes.Buffer
	j.writePlacement(&b, "")
	b.WriteByte('\n')
	for _, s := range steps {
		fmt.Fprintf(&b, "%-10s %s is %s, not %s: %s\n", s.Stage, s.Setting, stage.Shown(s.Old), stage.Shown(s.New), s.Why)
	}
	writeNotes(&b, "", notes)
	_, err := w.Write(b.Bytes())
	return err
}

func (j *job) writePlan(w io.Writer, steps []stage.Step, notes []stage.Note) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# profile %s\n", j.host.Profile.Name)
	j.writePlacement(&b, "# ")
	for _, s := range stage.Stages() {
		d, first := s.Describe(), true
		for _, step := range steps {
			if step.Stage != d.Name {
				continue
			}
			if first {
				fmt.Fprintf(&b, "\n# %s: %s (needs %s)\n", d.Name, d.What, d.Privilege)
				first = false
			}
			fmt.Fprintf(&b, "%s # is %s; %s\n", step.Shell, stage.Shown(step.Old), step.Why)
		}
	}
	if len(notes) > 0 {
		b.WriteByte('\n')
	}
	writeNotes(&b, "# ", notes)
	_, err := w.Write(b.Bytes())
	return err
}

// writeOutcome prints one outcome of apply or revert as it comes; what was so already is
// left out.
func writeOutcome(w io.Writer, o stage.Outcome) {
	switch o.State {
	case stage.Already:
	case stage.Done:
		fmt.Fprintf(w, "%s # was %s\n", o.Shell, stage.Shown(o.Old))
	case stage.Failed:
		fmt.Fprintf(w, "# failed: %s: %s\n#   %s\n", o.Setting, o.Text, o.Shell)
	case stage.Changed:
		fmt.Fprintf(w, "%s # %s\n", o.Shell, o.Text)
	default:
		fmt.Fprintf(w, "# %s: %s: %s\n", o.State, o.Setting, o.Text)
	}
}

// count returns how many outcomes have a state.
func count(outcomes []stage.Outcome, s stage.State) int {
	n := 0
	for _, o := range outcomes {
		if o.State == s {
			n++
		}
	}
	return n
}

// names lists the settings of outcomes with a state.
func names(outcomes []stage.Outcome, states ...stage.State) string {
	var out []string
	for _, o := range outcomes {
		for _, s := range states {
			if o.State == s {
				out = append(out, o.Setting.String())
			}
		}
	}
	return strings.Join(out, ", ")
}

// writeLedger prints what interrupted the workers' cores.
func writeLedger(w io.Writer, l *noise.Ledger) {
	fmt.Fprintf(w, "\nCPUs %s in %v:\n", l.CPUs, l.For.Round(1e6))
	for _, c := range l.Counts {
		fmt.Fprintf(w, "  CPU %d: %6d %s: %s\n", c.CPU, c.N, c.Kind, c.Cause)
	}
	if len(l.Counts) == 0 {
		fmt.Fprintln(w, "  nothing interrupted them")
	}
	if l.Lost > 0 {
		fmt.Fprintf(w, "  and %d events that there was no room for\n", l.Lost)
	}
}
