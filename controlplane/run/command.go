package run

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/sinks"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/proc"
	"github.com/headrace/headrace/dataplane/segment"
)

// outSink is the name of the sink that --out makes.
const outSink = "out"

type flags struct {
	config     string
	interfaces []string
	workers    int
	out        string
	name       string
	data       string
}

// Command returns `headrace run`.
func Command(o compile.Options) *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "run -c FILE",
		Short: "receive packets from network interfaces and write rows",
		Long: `Run attaches to the config's interfaces, takes the packets that its feeds match
out of the network stack (everything else passes, untouched) and writes rows as
windows close.

It is two processes. If this one, the control plane, dies, the other one goes on
receiving; started again under the same name it takes over, and no row is lost or
written twice. If the data plane dies it is started again.

SIGUSR2 ends this process alone (with crash: rollback): the data plane goes on for
orphan_timeout, and a start under the same name takes over. SIGHUP applies the config
anew. The first SIGTERM or SIGINT stops the receiving, fires or discards what is open
(on_stop), writes every row and prints the ledger on standard error. The second ends
both processes at once.

It needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON, and CAP_IPC_LOCK or
memory that may be locked without a limit.`,
		Example: `  headrace run -c examples/bars.yaml --interface eth1
  headrace run -c bars.yaml --workers 4 --out rows.jsonl --name bars`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, o) },
		Args: cobra.NoArgs,
	}
	c.Flags().StringVarP(&f.config, "config", "c", "", "the config `FILE` (required)")
	c.Flags().StringSliceVarP(&f.interfaces, "interface", "i", nil, "receive from this interface instead of the config's; may be repeated")
	c.Flags().IntVar(&f.workers, "workers", 0, "number of workers; 0: the config's, or what the host allows")
	c.Flags().StringVar(&f.out, "out", "", "append all rows to this one JSON Lines `PATH` instead of the config's sinks; \"-\" is standard output")
	c.Flags().StringVar(&f.name, "name", "headrace", "name of the run, for `headrace status` and for a start after a crash")
	c.Flags().StringVar(&f.data, "data-socket", "", "do not start the data plane: find it at this `PATH`, where a service manager listens for `headrace dataplane --listen-fd`")
	return c
}

// DataCommand returns the hidden subcommand that the data-plane process is.
func DataCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:    dataCommand + " {FD | --listen-fd NAME}",
		Short:  "the data-plane process of `headrace run`, which starts it, or of a service manager's unit",
		Hidden: true,
		Args:   cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if name != "" && len(args) == 0 {
				return proc.Unit(name)
			}
			if len(args) != 1 || name != "" {
				return usage.Errorf("", "a data plane is started by `headrace run`, or by a service manager with --listen-fd alone")
			}
			fd, err := strconv.Atoi(args[0])
			if err != nil || fd < 3 {
				return usage.Errorf("", "%q is not the descriptor of a control process: `headrace run` starts the data plane", args[0])
			}
			return proc.Main(fd)
		},
	}
	c.Flags().StringVar(&name, "listen-fd", "", "the `NAME` of the socket, passed by the service manager, at which `headrace run --data-socket` is expected")
	return c
}

func (f *flags) run(cmd *cobra.Command, o compile.Options) error {
	path := cmd.CommandPath()
	switch {
	case f.config == "":
		return usage.Errorf(path, "no config: name it with -c FILE")
	case f.workers < 0 || f.workers > event.WorkersMax:
		return usage.Errorf(path, "--workers %d: 1 to %d, or 0 for the config's", f.workers, event.WorkersMax)
	}
	if _, err := status.Dir(f.name); errors.Is(err, status.ErrBadName) {
		return usage.Wrap(path, err)
	}
	o.Workers, o.Interfaces, o.Name = f.workers, f.interfaces, f.name
	text, err := os.ReadFile(f.config)
	if err != nil {
		return usage.Wrap("", err)
	}
	setup, err := f.compile(text, f.config, o)
	if err != nil {
		return usage.Wrap("", err)
	}
	if len(setup.Plan.Interfaces) == 0 {
		return usage.Errorf(path, "no interface: name one with --interface, or in the config: interfaces: [eth1]")
	}
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(setup.Config.Log.Level)); err != nil {
		return usage.Wrap("", err)
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	return Run(cmd.Context(), Config{
		Setup: setup, Log: log, Ledger: cmd.ErrOrStderr(), DataSocket: f.data, Level: level,
		Compile:   func(text []byte, source string) (Setup, error) { return f.compile(text, source, o) },
		OpenSinks: func(s *Setup, seg *segment.Segment) ([]export.Sink, error) { return f.openSinks(s.Config, seg, log) },
	})
}

// compile makes a setup of a config's text and of what the command line adds.
func (f *flags) compile(text []byte, source string, o compile.Options) (Setup, error) {
	c, p, err := compile.Text(text, source, o)
	if err != nil {
		return Setup{}, err
	}
	if f.out != "" {
		for i := range p.Queries {
			q := &p.Queries[i]
			q.Sinks = []string{outSink}
			if len(q.LocalSinks) > 0 {
				q.LocalSinks = q.Sinks // their scope tells them apart
			}
		}
	}
	return Setup{Config: c, Plan: p, Text: text, Source: source}, nil
}

// openSinks opens the one file of --out, or the config's sinks that some query uses.
func (f *flags) openSinks(c *config.Config, seg *segment.Segment, log *slog.Logger) ([]export.Sink, error) {
	all, err := sinks.Open(sinks.Config{
		Config: c, Wanted: func(name string) bool { return seg.Sink(name) != nil }, Out: f.out, OutName: outSink,
		Workers: seg.Layout.Workers, Commits: seg.Sink, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	return all, nil
}
