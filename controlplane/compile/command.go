package compile

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/plan"
)

// File reads and compiles the file at path. The error is a [config.Findings] if the
// file has mistakes.
func File(path string, o Options) (*config.Config, *plan.Plan, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, nil, err
	}
	p, err := Compile(c, o)
	return c, p, err
}

// Text is [File] for a config that has been read from the place called source.
func Text(text []byte, source string, o Options) (*config.Config, *plan.Plan, error) {
	c := config.Read(source, text)
	p, err := Compile(c, o)
	return c, p, err
}

// Command returns `headrace check`. It prints what is wrong with a config to
// standard error, one finding a line; the error is then one of usage.
func Command(o Options) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "find every mistake in a config",
		Long: `Check reads a config and says what is wrong with it, one finding a line:

  FILE:LINE:COLUMN: what is wrong; what is allowed; did you mean "x"?

It exits with 0 if the config is good, with 64 if it is not.`,
		Args:          cobra.ExactArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, p, err := File(args[0], o)
			var found config.Findings
			switch {
			case errors.As(err, &found):
				fmt.Fprintln(cmd.ErrOrStderr(), found.Error())
				return usage.Errorf("", "%s: %s", args[0], plural(len(found), "mistake"))
			case err != nil:
				return usage.Wrap("", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok: %s, %s\n", args[0], plural(len(p.Feeds), "feed"), queries(len(p.Queries)))
			return nil
		},
	}
}

func queries(n int) string {
	if n == 1 {
		return "1 query"
	}
	return fmt.Sprintf("%d queries", n)
}
