// Headrace turns packets into keyed, event-time results. This is its only binary:
// `headrace help` lists what it does.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // ITCH times are New York's, also where no zones are installed

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/doctor"
	"github.com/headrace/headrace/controlplane/explain"
	"github.com/headrace/headrace/controlplane/generate"
	"github.com/headrace/headrace/controlplane/group"
	"github.com/headrace/headrace/controlplane/operate"
	"github.com/headrace/headrace/controlplane/receive"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/controlplane/run"
	"github.com/headrace/headrace/controlplane/send"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/controlplane/tune"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/wire/formats"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 64 // EX_USAGE of sysexits.h
)

func main() { os.Exit(execute()) }

func execute() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends work in good order; after it the second has its default
	// effect, which is to end at once.
	context.AfterFunc(ctx, stop)
	err := root().ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, "headrace: "+text)
	}
	var (
		u *usage.Error
		e *usage.ExitError
	)
	switch {
	case errors.As(err, &u):
		return exitUsage
	case errors.As(err, &e):
		return e.Code
	}
	return exitFailed
}

func root() *cobra.Command {
	o := compile.Options{Formats: formats.Lookup}
	c := &cobra.Command{
		Use:   "headrace",
		Short: "packets in, keyed event-time results out",
		Long: `headrace takes packets from a network interface (XDP, AF_XDP) or a capture and
turns them into keyed, event-time windows: rows. Nothing is lost without being counted.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage.Errorf("headrace", "unknown command %q", args[0])
			}
			return cmd.Help()
		},
		Args: cobra.ArbitraryArgs,
	}
	c.AddCommand(
		run.Command(o), run.DataCommand(), replay.Command(o), compile.Command(o),
		explain.Command(explain.Options{Formats: o.Formats, Memory: replay.Memory, State: replay.StateBytes}),
		generate.Command(), send.Command(), receive.Command(), status.Command(), group.Command(), tune.Command(),
		doctor.Command(doctor.Options{Formats: o.Formats, Memory: replay.Memory}), version(),
	)
	c.AddCommand(operate.Commands()...)
	// They would come by themselves, but only after asUsage.
	c.InitDefaultHelpCmd()
	c.InitDefaultCompletionCmd()
	asUsage(c)
	return c
}

// asUsage makes wrong flags and arguments of c and its subcommands errors of usage.
func asUsage(c *cobra.Command) {
	c.SilenceUsage, c.SilenceErrors = true, true
	c.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage.Wrap(cmd.CommandPath(), err) })
	if args := c.Args; args != nil {
		c.Args = func(cmd *cobra.Command, a []string) error {
			var u *usage.Error
			if err := args(cmd, a); err != nil && !errors.As(err, &u) {
				return usage.Wrap(cmd.CommandPath(), err)
			} else if err != nil {
				return err
			}
			return nil
		}
	}
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage.Errorf(cmd.CommandPath(), "unknown command %q", args[0])
			}
			return cmd.Help()
		}
	}
	for _, sub := range c.Commands() {
		asUsage(sub)
	}
}

func version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, revision := "(devel)", "unknown"
			if b, ok := debug.ReadBuildInfo(); ok {
				v = b.Main.Version
				for _, s := range b.Settings {
					if s.Key == "vcs.revision" {
						revision = s.Value
					}
				}
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "headrace %s revision %s %s %s/%s\n", v, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
