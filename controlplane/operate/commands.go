package operate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/event"
)

// Commands returns the commands that ask a running headrace to do something.
func Commands() []*cobra.Command {
	return []*cobra.Command{
		applyCommand(), drainCommand(), pauseCommand(), resumeCommand(), levelCommand(),
		upgradeCommand(), detachCommand(), rebalanceCommand(), workersCommand(), captureCommand(),
	}
}

const endPause = 100 * time.Millisecond // between looks whether a run has ended

func drainCommand() *cobra.Command {
	return ending("/v1/drain", "draining", &cobra.Command{
		Use:   "drain",
		Short: "stop a running headrace in good order",
		Long: `Drain stops the receiving: packets pass to the network stack. What is open is fired or
discarded as the config's on_stop says, every row is written, and the run ends. It is
what SIGTERM does.`,
	})
}

func detachCommand() *cobra.Command {
	return ending("/v1/detach", "detaching", &cobra.Command{
		Use:   "detach",
		Short: "give the network interfaces back and stop",
		Long: `Detach takes the XDP program off the interfaces, leaves the multicast groups, forgets
every descriptor that systemd or anybody else keeps for the run, and ends it. What is
open is finished as the config's on_stop says. Nothing of the run stays behind.`,
	})
}

// ending makes c a command that asks for the end of the run; word is what the run is then.
func ending(path, word string, c *cobra.Command) *cobra.Command {
	var f flags
	wait := false
	c.Args = cobra.NoArgs
	c.RunE = func(c *cobra.Command, _ []string) error { return f.end(c, path, word, wait) }
	f.add(c)
	c.Flags().BoolVar(&wait, "wait", false, "come back when the run has ended")
	return c
}

// end asks for the end of the run and, if wanted, waits for it.
func (f *flags) end(c *cobra.Command, path, word string, wait bool) error {
	var begun api.Begun
	if err := f.tell(c, &request{method: http.MethodPost, path: path}, &begun, func() string { return f.name + " is " + word }); err != nil || !wait {
		return err
	}
	for {
		conn, err := status.Dial(c.Context(), f.name)
		switch {
		case errors.Is(err, status.ErrNotRunning):
			return nil
		case err != nil && c.Context().Err() == nil:
			return err
		case err == nil:
			_ = conn.Close()
		}
		select {
		case <-c.Context().Done():
			return fmt.Errorf("%s: it has not ended yet: %w", f.name, context.Cause(c.Context()))
		case <-time.After(endPause):
		}
	}
}

func pauseCommand() *cobra.Command {
	return flow("/v1/pause", &cobra.Command{
		Use:   "pause [FEED]",
		Short: "let the packets of a feed, or of all, pass to the network stack",
		Long: `Pause leaves a feed's packets to the network stack. State is kept and windows stay
open; what passes meanwhile is missing, and a sequenced feed says so when it goes on.
` + "`headrace resume`" + ` takes the packets again.`,
	})
}

func resumeCommand() *cobra.Command {
	return flow("/v1/resume", &cobra.Command{
		Use:   "resume [FEED]",
		Short: "take the packets of a feed, or of all, after a pause",
	})
}

// flow makes c a command about the packets of a feed, or of all.
func flow(path string, c *cobra.Command) *cobra.Command {
	var f flags
	c.Args = cobra.MaximumNArgs(1)
	c.RunE = func(c *cobra.Command, args []string) error { return f.flow(c, path, args) }
	f.add(c)
	return c
}

func (f *flags) flow(c *cobra.Command, path string, args []string) error {
	body := api.FeedName{Feed: strings.Join(args, "")}
	if len(args) == 1 && body.Feed == "" {
		return usage.Errorf(c.CommandPath(), "the feed's name is empty: leave it out for every feed")
	}
	var now api.Paused
	return f.tell(c, &request{method: http.MethodPost, path: path, json: body}, &now, func() string {
		if len(now.Paused) == 0 {
			return "no feed is paused"
		}
		return "paused: " + strings.Join(now.Paused, ", ")
	})
}

func levelCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "log-level [LEVEL]",
		Short: "show or set what a running headrace logs: debug, info, warn or error",
		Long: `Log-level shows the least that is logged, or sets it: until the next start, or until a
config with another log.level is applied.`,
		ValidArgs: []string{"debug", "info", "warn", "error"},
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		RunE: func(c *cobra.Command, args []string) error {
			q := &request{method: http.MethodGet, path: "/v1/log-level"}
			if len(args) > 0 {
				q.method, q.json = http.MethodPut, api.Level{Level: args[0]}
			}
			var now api.Level
			return f.tell(c, q, &now, func() string { return now.Level })
		},
	}
	f.add(c)
	return c
}

func upgradeCommand() *cobra.Command {
	var f flags
	anyway := false
	c := &cobra.Command{
		Use:   "upgrade [BINARY]",
		Short: "replace the data plane of a running headrace by another binary's",
		Long: `Upgrade starts the data plane anew from BINARY, or from the file that the run was
started from, as it is now. Packets wait in the rings meanwhile; state and windows go
on. It is refused if the rings cannot hold what comes within that time, unless --anyway
is given, and between binaries that lay out their memory differently: drain headrace
then, and start the new one.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			body := api.Upgrade{Anyway: anyway}
			if len(args) > 0 {
				path, err := filepath.Abs(args[0])
				if err != nil {
					return err
				}
				body.Binary = path
			}
			var done api.Upgraded
			return f.tell(c, &request{method: http.MethodPost, path: "/v1/upgrade", json: body}, &done, func() string {
				return fmt.Sprintf("%s -> %s, warm: state and windows went on; frames waited for %s of the %s that the rings hold",
					done.From, done.To, time.Duration(done.PauseNanos), time.Duration(done.BudgetNanos))
			})
		},
	}
	f.add(c)
	c.Flags().BoolVar(&anyway, "anyway", false, "also if frames are lost by it")
	return c
}

func rebalanceCommand() *cobra.Command {
	var f flags
	var auto, off bool
	var groups string
	var to int
	c := &cobra.Command{
		Use:   "rebalance",
		Short: "move key groups so that workers have about as much to do",
		Long: `Rebalance moves key groups, with their state, from workers that have much to do to
others, while packets flow. With --auto headrace goes on doing so whenever it is
worth it, until rebalance --off. With --groups it moves just those, to worker --to.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			body := api.Rebalance{Mode: api.Once}
			switch {
			case groups != "":
				body.Groups, body.To = groups, to
			case c.Flags().Changed("to"):
				return usage.Errorf(c.CommandPath(), "--to says where groups go: name them with --groups LIST")
			case auto:
				body.Mode = api.Auto
			case off:
				body.Mode = api.Off
			}
			return f.moved(c, &request{method: http.MethodPost, path: "/v1/rebalance", json: body})
		},
	}
	f.add(c)
	c.Flags().BoolVar(&auto, "auto", false, "go on whenever it is worth it")
	c.Flags().BoolVar(&off, "off", false, "end --auto")
	c.Flags().StringVar(&groups, "groups", "", "move these key groups, a `LIST` such as 0-99,512, of 0 to 1023")
	c.Flags().IntVar(&to, "to", 0, "the worker that gets the groups of --groups; 0 is the first")
	c.MarkFlagsMutuallyExclusive("auto", "off", "groups")
	return c
}

func workersCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "workers N",
		Short: "add or remove workers of a running headrace",
		Long: `Workers makes it N workers, at most workers_max of the config. Key groups move to
their new workers with their state, while packets flow. The config's number is meant
for the next start and stays as it is.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 || n > event.WorkersMax {
				return usage.Errorf(c.CommandPath(), "%q workers: write a number from 1 to %d", args[0], event.WorkersMax)
			}
			return f.moved(c, &request{method: http.MethodPut, path: "/v1/workers", json: api.Workers{Workers: n}})
		},
	}
	f.add(c)
	return c
}

func (f *flags) moved(c *cobra.Command, q *request) error {
	var m api.Moved
	return f.tell(c, q, &m, func() string {
		auto := ""
		if m.Auto {
			auto = "; it goes on by itself"
		}
		return fmt.Sprintf("%d key groups have another worker; there are %d workers%s", m.Groups, m.Workers, auto)
	})
}
