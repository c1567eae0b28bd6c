package tune

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/internal/show"
	"github.com/headrace/headrace/pinning/noise"
	"github.com/headrace/headrace/pinning/stage"
	"github.com/headrace/headrace/systemd/notify"
)

// changed is what apply, verify and revert print as JSON.
type changed struct {
	Profile  string          `json:"profile,omitempty"`
	Outcomes []stage.Outcome `json:"outcomes"`
	Notes    []stage.Note    `json:"notes,omitempty"`
	Held     []string        `json:"held,omitempty"`
	NotHeld  []string        `json:"not_held,omitempty"`
	Noise    *noise.Ledger   `json:"noise,omitempty"`
}

func applyCommand() *cobra.Command {
	f, hold := &flags{}, false
	c := &cobra.Command{
		Use:   "apply",
		Short: "make the host as the profile wants it",
		Long: `Apply takes the steps that plan prints. The old value of each is on the disk before the
new one is written; revert restores it. A step that cannot be done is named, the
others go on, and apply exits with 1. To apply again changes nothing; to apply another
profile first puts back what that has no wish for.

With --hold it stays in the foreground, holds what only a living process can hold, and
reverts when it is ended.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			j, err := f.open(c, true)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, j.close()) }()
			if hold {
				return j.applyAndHold()
			}
			return j.apply(nil)
		},
	}
	f.wish(c)
	c.Flags().BoolVar(&hold, "hold", false, "stay until SIGTERM, then revert; tells systemd when all is applied")
	return c
}

// apply applies and prints what became of it. The error names what failed.
func (j *job) apply(held *stage.Hold) error {
	out := j.c.OutOrStdout()
	if !j.f.json {
		j.tuner.Report = func(o stage.Outcome) { writeOutcome(out, o) }
	}
	outcomes, notes, err := j.tuner.Apply(j.c.Context())
	result := changed{Profile: j.host.Profile.Name, Outcomes: outcomes, Notes: notes}
	if held != nil {
		result.Held, result.NotHeld = held.Held, held.NotHeld
	}
	if j.f.json {
		err = errors.Join(err, show.JSON(out, result))
	} else {
		fmt.Fprintf(out, "# %d settings changed, %d were so already, %d are the kernel's own\n",
			count(outcomes, stage.Done), count(outcomes, stage.Already), count(outcomes, stage.Kept))
		for _, n := range notes {
			if n.Wanted {
				fmt.Fprintf(out, "# wanted: %s: %s\n#   %s\n", n.Stage, n.Text, n.Fix)
			}
		}
	}
	if n := count(outcomes, stage.Failed); err == nil && n > 0 {
		err = fmt.Errorf("tune: %d settings could not be made as wanted: %s", n, names(outcomes, stage.Failed))
	}
	return err
}

// applyAndHold stays until it is ended. What could not be applied is an error at the
// end, for the rest is worth to be held.
func (j *job) applyAndHold() error {
	held := j.host.Take()
	defer held.Close() //nolint:errcheck // the process ends
	failed := j.apply(held)
	if !j.f.json {
		for _, s := range held.Held {
			fmt.Fprintf(j.c.OutOrStdout(), "# held: %s\n", s)
		}
		for _, s := range held.NotHeld {
			fmt.Fprintf(j.c.OutOrStdout(), "# not held: %s\n", s)
		}
	}
	systemd, err := notify.Open()
	if err == nil && j.c.Context().Err() == nil {
		err = systemd.Ready("holds profile " + j.host.Profile.Name)
	}
	<-j.c.Context().Done()
	err = errors.Join(err, systemd.Stopping("puts everything back"), systemd.Close())
	// The context has ended; putting back must not.
	outcomes, wrong := stage.Revert(context.WithoutCancel(j.c.Context()), j.f.root, cardsBelow(j.f.root), j.journal, j.reporter())
	if n := count(outcomes, stage.Failed); n > 0 {
		wrong = errors.Join(wrong, fmt.Errorf("tune: %d settings could not be put back: %s", n, names(outcomes, stage.Failed)))
	}
	if errors.Is(failed, context.Canceled) {
		failed = nil // ended while it was applying
	}
	return errors.Join(failed, err, wrong)
}

func (j *job) reporter() func(stage.Outcome) {
	if j.f.json {
		return nil
	}
	return func(o stage.Outcome) { writeOutcome(j.c.OutOrStdout(), o) }
}

func verifyCommand() *cobra.Command {
	f, length := &flags{}, time.Duration(0)
	c := &cobra.Command{
		Use:   "verify",
		Short: "read again all that was applied, and watch the workers' cores",
		Long: `Verify reads every setting that was applied and says which is not so any more. Then,
where tracing can be had, it watches the workers' cores and counts what interrupted
them. It changes nothing and exits with 1 if something is not as it was applied.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if length < 0 || length > time.Hour {
				return usage.Errorf(c.CommandPath(), "--for %v: 0 to 1h", length)
			}
			return f.verify(c, length)
		},
	}
	c.Flags().StringVar(&f.root, "root", "/", "directory that stands for /")
	c.Flags().DurationVar(&length, "for", 3*time.Second, "how long to watch; 0 does not")
	f.records(c)
	return c
}

func (f *flags) verify(c *cobra.Command, length time.Duration) (err error) {
	j, err := stage.ReadJournal(f.state)
	if err != nil {
		return err
	}
	if len(j.Records()) == 0 {
		return fmt.Errorf("tune: nothing is applied; %s has no records", f.state)
	}
	outcomes, err := stage.Verify(f.root, cardsBelow(f.root), j)
	if err != nil {
		return err
	}
	result := changed{Profile: j.Profile(), Outcomes: outcomes}
	var unseen error
	if cpus := j.WorkerCPUs(); length > 0 && !cpus.Empty() {
		result.Noise, unseen = noise.Measure(c.Context(), "", cpus, length, nil)
	}
	out := c.OutOrStdout()
	if f.json {
		err = show.JSON(out, result)
	} else {
		writeVerified(out, result, unseen)
	}
	if n := len(outcomes) - count(outcomes, stage.Done); n > 0 && err == nil {
		err = fmt.Errorf("tune: %d settings are not as applied: %s; `headrace tune apply` sets them again", n, names(outcomes, stage.Changed, stage.Gone, stage.Failed))
	}
	return err
}

func writeVerified(w io.Writer, r changed, unseen error) {
	for _, o := range r.Outcomes {
		if o.State != stage.Done {
			fmt.Fprintf(w, "%-10s %s: %s: %s, applied was %s\n", o.Stage, o.Setting, o.State, o.Text, stage.Shown(o.New))
		}
	}
	fmt.Fprintf(w, "profile %s: %d of %d settings are as applied\n", r.Profile, count(r.Outcomes, stage.Done), len(r.Outcomes))
	switch {
	case unseen != nil:
		fmt.Fprintf(w, "the cores were not watched: %v\n", unseen)
	case r.Noise != nil:
		writeLedger(w, r.Noise)
	}
}

func revertCommand() *cobra.Command {
	f := &flags{}
	c := &cobra.Command{
		Use:   "revert",
		Short: "put back everything that apply changed",
		Long: `Revert writes the recorded old values back, the last first, says what somebody else has
changed since, and removes the records. What cannot be put back stays recorded.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			records, err := stage.OpenJournal(f.state)
			if err != nil {
				return needRoot(err)
			}
			defer func() { err = errors.Join(err, records.Close()) }()
			j := &job{c: c, f: f, journal: records}
			n := len(records.Records())
			outcomes, err := stage.Revert(c.Context(), f.root, cardsBelow(f.root), records, j.reporter())
			if f.json {
				err = errors.Join(err, show.JSON(c.OutOrStdout(), changed{Outcomes: outcomes}))
			} else if n == 0 {
				fmt.Fprintf(c.OutOrStdout(), "nothing is applied: %s has no records\n", f.state)
			}
			if bad := count(outcomes, stage.Failed); bad > 0 {
				err = errors.Join(err, fmt.Errorf("tune: %d settings could not be put back and stay recorded: %s", bad, names(outcomes, stage.Failed)))
			}
			return err
		},
	}
	c.Flags().StringVar(&f.root, "root", "/", "directory that stands for /")
	f.records(c)
	return c
}
