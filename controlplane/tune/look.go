package tune

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/internal/show"
	"github.com/headrace/headrace/pinning"
	"github.com/headrace/headrace/pinning/stage"
)

// A view is what check and plan print as JSON.
type view struct {
	Profile   string              `json:"profile"`
	Placement pinning.Placement   `json:"placement"`
	Stages    []stage.Description `json:"stages"`
	Steps     []stage.Step        `json:"steps"`
	Notes     []stage.Note        `json:"notes"`
}

func (j *job) view(steps []stage.Step, notes []stage.Note) view {
	v := view{
		Profile: j.host.Profile.Name, Placement: j.host.Placement, Steps: steps, Notes: notes,
	}
	for _, s := range stage.Stages() {
		v.Stages = append(v.Stages, s.Describe())
	}
	return v
}

func checkCommand() *cobra.Command {
	f := &flags{}
	c := &cobra.Command{
		Use:   "check",
		Short: "say what is not as the profile wants it",
		Long: `Check compares the host with a profile and changes nothing. It exits with 0 if all is as
wanted and with 1 if not.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			j, err := f.open(c, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, j.close()) }()
			steps, notes := j.tuner.Check()
			if f.json {
				err = show.JSON(c.OutOrStdout(), j.view(steps, notes))
			} else {
				err = j.writeCheck(c.OutOrStdout(), steps, notes)
			}
			if err != nil {
				return err
			}
			return verdict(f.profile, steps, notes)
		},
	}
	f.wish(c)
	return c
}

// verdict is an error if something is not as wanted.
func verdict(name string, steps []stage.Step, notes []stage.Note) error {
	boot := 0
	for _, n := range notes {
		if n.Wanted {
			boot++
		}
	}
	switch {
	case len(steps) > 0:
		return fmt.Errorf("not as profile %s wants it: %d settings; `headrace tune apply --profile %s` sets them, `headrace tune revert` takes it back", name, len(steps), name)
	case boot > 0:
		return fmt.Errorf("not as profile %s wants it: %d things that cannot be set at run time", name, boot)
	}
	return nil
}

func planCommand() *cobra.Command {
	f := &flags{}
	c := &cobra.Command{
		Use:   "plan",
		Short: "print what apply would do, as a shell script",
		Long: `Plan prints every step that apply would take as the shell line that does the same, with
the present value and the reason. It changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			j, err := f.open(c, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, j.close()) }()
			steps, notes := j.tuner.Check()
			if f.json {
				return show.JSON(c.OutOrStdout(), j.view(steps, notes))
			}
			return j.writePlan(c.OutOrStdout(), steps, notes)
		},
	}
	f.wish(c)
	return c
}
