package explain

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/event"
)

// Command returns `headrace explain`. o.Formats and those of compile are the same.
func Command(o Options) *cobra.Command {
	workers := 0
	cmd := &cobra.Command{
		Use:   "explain FILE",
		Short: "say what a config amounts to",
		Long: `Explain reads a config and says in words what it does: which packets each feed
takes, how they are placed, whether events change workers, when a window closes,
what a row holds, and how much memory is taken at start, as a sum.`,
		Args:          cobra.ExactArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if workers < 0 || workers > event.WorkersMax {
				return usage.Errorf(cmd.CommandPath(), "--workers %d: 1 to %d, or 0 for the config's", workers, event.WorkersMax)
			}
			c, p, err := compile.File(args[0], compile.Options{Formats: o.Formats, Workers: workers})
			var found config.Findings
			switch {
			case errors.As(err, &found):
				fmt.Fprintln(cmd.ErrOrStderr(), found.Error())
				return usage.Errorf("", "%s: mistakes: %d", args[0], len(found))
			case err != nil:
				return usage.Wrap("", err)
			}
			return Explain(cmd.OutOrStdout(), c, p, o)
		},
	}
	cmd.Flags().IntVar(&workers, "workers", 0, "number of workers (default: the config's)")
	return cmd
}
