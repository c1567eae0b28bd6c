package stage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/card"
	"github.com/headrace/headrace/pinning/topology"
)

// State is what became of a step.
type State string

// States.
const (
	// Done: the setting was written and reads as wanted.
	Done State = "done"
	// Already: nothing was to do.
	Already State = "already"
	// Kept: the kernel keeps the setting to itself; nothing was changed.
	Kept State = "kept"
	// Failed: the setting could not be written, or reads otherwise.
	Failed State = "failed"
	// Gone: the setting is not there any more, so nothing has to be put back.
	Gone State = "gone"
	// Changed: somebody else has written it since.
	Changed State = "changed"
)

// An Outcome is what became of one setting.
type Outcome struct {
	Stage   string  `json:"stage"`
	Setting Setting `json:"setting"`
	Old     string  `json:"old"`
	New     string  `json:"new"`
	Shell   string  `json:"shell"`
	Why     string  `json:"why,omitempty"`
	State   State   `json:"state"`
	// Text says more: the error, or what is there now.
	Text string `json:"text,omitempty"`
}

// A Tuner does what stages say.
type Tuner struct {
	host    *Host
	journal *Journal
	stages  []Stage
	// Report is called with each outcome as it comes; nil drops them.
	Report func(Outcome)
	// between is called between any two effects, for tests that stop there.
	between func(what string)
}

// New returns a tuner of h. j is one of [ReadJournal] if nothing is to be changed. Only
// names the stages to use; none means all.
func New(h *Host, j *Journal, only ...string) (*Tuner, error) {
	t := &Tuner{host: h, journal: j, between: func(string) {}}
	h.original = j.original
	if j.boot != "" && j.boot != h.boot() { // what is recorded ended with that boot
		h.original = func(Setting) (string, bool) { return "", false }
	}
	for _, s := range Stages() {
		if len(only) == 0 || slices.Contains(only, s.Describe().Name) {
			t.stages = append(t.stages, s)
		}
	}
	for _, name := range only {
		if !slices.ContainsFunc(t.stages, func(s Stage) bool { return s.Describe().Name == name }) {
			return nil, fmt.Errorf("stage: no stage %q; there are %s", name, strings.Join(Names(), ", "))
		}
	}
	return t, nil
}

// Names returns the names of all stages, in order.
func Names() []string {
	var names []string
	for _, s := range Stages() {
		names = append(names, s.Describe().Name)
	}
	return names
}

// boot is the identity of the running kernel; "" of a tree that has none.
func (h *Host) boot() string { return h.text("proc/sys/kernel/random/boot_id") }

// Plan returns every step of every stage, those that are met included, and all notes. It
// changes nothing.
func (t *Tuner) Plan() (steps []Step, notes []Note) {
	for _, s := range t.stages {
		more, said := s.Plan(t.host)
		steps, notes = append(steps, more...), append(notes, said...)
	}
	return steps, notes
}

// Check returns what is not as the profile wants it.
func (t *Tuner) Check() (steps []Step, notes []Note) {
	steps, notes = t.Plan()
	return slices.DeleteFunc(steps, func(s Step) bool { return s.Met }), notes
}

// Apply makes the host as the profile wants it, stage by stage. A step that cannot be
// done is an outcome and the others go on; so are settings that an earlier apply changed
// and this profile has no wish for: they are put back first. The error is one of the
// records, without which nothing is written, or ctx's.
func (t *Tuner) Apply(ctx context.Context) ([]Outcome, []Note, error) {
	var outcomes []Outcome
	stale := false // what was read of the cards
	took := func(o Outcome) {
		outcomes = append(outcomes, o)
		stale = stale || o.Setting.Kind == kindCard && o.State != Already
		if t.Report != nil {
			t.Report(o)
		}
	}
	if err := t.begin(); err != nil {
		return nil, nil, err
	}
	if err := t.takeBack(ctx, took); err != nil {
		return outcomes, nil, err
	}
	var notes []Note
	for _, s := range t.stages {
		if stale {
			if err := t.host.readCards(); err != nil {
				return outcomes, notes, err
			}
			stale = false
		}
		steps, said := s.Plan(t.host)
		notes = append(notes, said...)
		for _, st := range steps {
			if err := ctx.Err(); err != nil {
				return outcomes, notes, err
			}
			o, err := t.step(st)
			if err != nil {
				return outcomes, notes, err
			}
			took(o)
		}
	}
	if len(t.journal.records) == 0 {
		return outcomes, notes, t.journal.remove()
	}
	return outcomes, notes, nil
}

// begin writes the first line of the records. Records of another boot are of values that
// went with it.
func (t *Tuner) begin() error {
	boot := t.host.boot()
	if t.journal.boot != "" && t.journal.boot != boot {
		if err := t.journal.remove(); err != nil {
			return err
		}
	}
	cpus := t.host.Placement.WorkerCPUs().String()
	if t.journal.boot == boot && t.journal.profile == t.host.Profile.Name && t.journal.cpus == cpus {
		return nil
	}
	return t.journal.append(entry{Boot: boot, Profile: t.host.Profile.Name, CPUs: cpus})
}

// takeBack puts back what is recorded and not wished any more.
func (t *Tuner) takeBack(ctx context.Context, took func(Outcome)) error {
	steps, _ := t.Plan()
	covered := map[string]bool{}
	for _, s := range t.stages {
		covered[s.Describe().Name] = true
	}
	for _, r := range slices.Backward(slices.Clone(t.journal.records)) {
		wished := slices.ContainsFunc(steps, func(s Step) bool { return s.Setting == r.Setting })
		if wished || !covered[r.Stage] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		o, err := t.putBack(r)
		if err != nil {
			return err
		}
		o.Why = "the profile has no wish for it any more"
		took(o)
	}
	return nil
}

// readCards reads the cards again: channels change their queues and interrupts.
func (h *Host) readCards() error {
	for i, n := range h.NICs {
		again, err := topology.ReadNIC(h.fsys, n.Name)
		if err != nil {
			return err
		}
		h.NICs[i] = again
	}
	return nil
}

// step does one step.
func (t *Tuner) step(st Step) (Outcome, error) {
	o := Outcome{Stage: st.Stage, Setting: st.Setting, Old: st.Old, New: st.New, Shell: st.Shell, Why: st.Why, State: Already}
	m, err := media(st.Setting.Kind)
	if err != nil {
		return o, err
	}
	old, err := m.read(t.host, st.Setting.Name)
	if err != nil {
		o.State, o.Text = Failed, err.Error()
		return o, nil //nolint:nilerr // it is the outcome
	}
	o.Old = old
	if m.same(old, st.New) {
		return o, nil
	}
	_, known := t.journal.original(st.Setting)
	t.between("before the record")
	if err := t.journal.append(entry{Applied: &Record{Stage: st.Stage, Setting: st.Setting, Old: old, New: st.New, Later: st.Later}}); err != nil {
		return o, err
	}
	t.between("after the record")
	wrong := m.write(t.host, st.Setting.Name, st.New)
	t.between("after the write")
	o.State, o.Text = t.judge(m, st, wrong)
	if o.State == Done || known {
		return o, nil
	}
	// What was not changed need not be put back. What was changed to something else must.
	if now, err := m.read(t.host, st.Setting.Name); err == nil && now == old {
		return o, t.journal.append(entry{Undone: &st.Setting})
	}
	return o, nil
}

// judge says what became of a write.
func (t *Tuner) judge(m medium, st Step, wrong error) (State, string) {
	refused := errors.Is(wrong, unix.EIO) || errors.Is(wrong, unix.EPERM) || errors.Is(wrong, unix.EINVAL) || errors.Is(wrong, unix.EOPNOTSUPP) ||
		errors.Is(wrong, unix.ENOENT) || errors.Is(wrong, card.ErrUnsupported)
	switch {
	case wrong != nil && refused && st.Refusable != "":
		return Kept, fmt.Sprintf("%s (%v)", st.Refusable, wrong)
	case wrong != nil:
		return Failed, wrong.Error()
	case st.Later:
		return Done, "it takes effect after a while"
	}
	now, err := m.read(t.host, st.Setting.Name)
	switch {
	case err != nil:
		return Failed, err.Error()
	case !m.same(now, st.New):
		return Failed, fmt.Sprintf("asked for %s, it is %s", Shown(st.New), Shown(now))
	}
	return Done, ""
}

// Shown is a value as messages have it: on one line, and not empty.
func Shown(value string) string { return cmp.Or(strings.TrimSpace(value), "nothing") }

// Verify reads everything again that is recorded in j. It changes nothing.
func Verify(root string, cards Cards, j *Journal) ([]Outcome, error) {
	h, err := openRoot(root, cards)
	if err != nil {
		return nil, err
	}
	defer h.Close() //nolint:errcheck // a directory
	return (&Tuner{host: h, journal: j}).verify(), nil
}

func (t *Tuner) verify() []Outcome {
	var outcomes []Outcome
	for _, r := range t.journal.records {
		o := Outcome{Stage: r.Stage, Setting: r.Setting, Old: r.Old, New: r.New, State: Done}
		m, err := media(r.Setting.Kind)
		if err == nil {
			var now string
			now, err = m.read(t.host, r.Setting.Name)
			if err == nil && !m.same(now, r.New) {
				o.State, o.Text = Changed, "it is "+Shown(now)
			}
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			o.State, o.Text = Gone, err.Error()
		case err != nil:
			o.State, o.Text = Failed, err.Error()
		}
		t.checkEffect(&o)
		outcomes = append(outcomes, o)
	}
	return outcomes
}

// checkEffect looks at where an interrupt really goes: its affinity is only where it may.
func (t *Tuner) checkEffect(o *Outcome) {
	dir, ok := strings.CutSuffix(o.Setting.Name, "/smp_affinity_list")
	if !ok || o.State != Done {
		return
	}
	effective, err := topology.ParseCPUs(t.host.text(dir + "/effective_affinity_list"))
	wanted, _ := topology.ParseCPUs(o.New)
	if err == nil && !wanted.Contains(effective) {
		o.State, o.Text = Changed, fmt.Sprintf("it still goes to %s; it moves when it comes next", effective)
	}
}

// Revert puts everything back that is recorded, the last first, says what somebody else
// has changed since, and removes the records. What cannot be put back stays recorded.
func Revert(ctx context.Context, root string, cards Cards, j *Journal, report func(Outcome)) ([]Outcome, error) {
	h, err := openRoot(root, cards)
	if err != nil {
		return nil, err
	}
	defer h.Close() //nolint:errcheck // a directory
	t := &Tuner{host: h, journal: j, Report: report, between: func(string) {}}
	return t.revert(ctx)
}

func (t *Tuner) revert(ctx context.Context) ([]Outcome, error) {
	var outcomes []Outcome
	if boot := t.host.boot(); t.journal.boot != "" && t.journal.boot != boot {
		return nil, t.journal.remove() // the boot has put everything back
	}
	for _, r := range slices.Backward(slices.Clone(t.journal.records)) {
		if err := ctx.Err(); err != nil {
			return outcomes, err
		}
		o, err := t.putBack(r)
		if err != nil {
			return outcomes, err
		}
		outcomes = append(outcomes, o)
		if t.Report != nil {
			t.Report(o)
		}
	}
	if len(t.journal.records) == 0 {
		return outcomes, t.journal.remove()
	}
	return outcomes, nil
}

// putBack writes one old value back.
func (t *Tuner) putBack(r Record) (Outcome, error) {
	o := Outcome{Stage: r.Stage, Setting: r.Setting, Old: r.New, New: r.Old, State: Done}
	m, err := media(r.Setting.Kind)
	if err != nil {
		return o, err
	}
	o.Shell = m.shell(t.host, r.Setting.Name, r.Old)
	now, err := m.read(t.host, r.Setting.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, card.ErrUnsupported):
		o.State, o.Text = Gone, err.Error()
		return o, t.journal.append(entry{Undone: &r.Setting})
	case err != nil:
		o.State, o.Text = Failed, err.Error()
		return o, nil //nolint:nilerr // it is the outcome
	case now == r.Old && !r.Later:
		o.State = Already // killed before the write, or after an earlier revert's
		return o, t.journal.append(entry{Undone: &r.Setting})
	case !m.same(now, r.New) && !r.Later:
		o.State, o.Text = Changed, fmt.Sprintf("somebody has made it %s since; it was set to %s", Shown(now), Shown(r.New))
	}
	t.between("before putting back")
	wrong := m.write(t.host, r.Setting.Name, r.Old)
	t.between("after putting back")
	if wrong == nil && !r.Later {
		if again, err := m.read(t.host, r.Setting.Name); err != nil || !m.same(again, r.Old) {
			wrong = errors.Join(err, fmt.Errorf("asked for %s, it is %s", Shown(r.Old), Shown(again)))
		}
	}
	if wrong != nil {
		o.State, o.Text = Failed, wrong.Error()
		return o, nil //nolint:nilerr // it is the outcome
	}
	return o, t.journal.append(entry{Undone: &r.Setting})
}
