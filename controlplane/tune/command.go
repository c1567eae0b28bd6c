package tune

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/pinning/card"
	"github.com/headrace/headrace/pinning/profile"
	"github.com/headrace/headrace/pinning/stage"
	"github.com/headrace/headrace/pinning/topology"
)

// flags are those of the command line.
type flags struct {
	profile    string
	profiles   string
	config     string
	interfaces []string
	workers    int
	cpus       string
	flows      []string
	stages     []string
	state      string
	root       string
	json       bool
}

// Command returns `headrace tune`.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "tune",
		Short: "Make the host fit for the workers, and undo it",
		Long: `Tune gives the workers cores of their own near the card and keeps interrupts, kernel
work and sleep states away from them, as a profile wants it: latency, latency-best,
throughput, safe. Check and plan change nothing and need no privilege. Apply records
every old value before it writes a new one; revert writes them back, also after a
crash. What each stage does is in docs/HOST.md.`,
		Example: `  headrace tune check --interface eth0 --workers 2
  headrace tune plan -c headrace.yaml --profile latency-best
  headrace tune apply -c headrace.yaml --profile latency
  headrace tune verify
  headrace tune revert`,
	}
	c.AddCommand(checkCommand(), planCommand(), applyCommand(), verifyCommand(), revertCommand())
	return c
}

// wish adds the flags that say what a host is for.
func (f *flags) wish(c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.profile, "profile", "latency", "what to aim at: "+strings.Join(profile.Sources{}.Names(), ", ")+", or one of --profiles")
	s.StringVar(&f.profiles, "profiles", "", "directory with profiles of your own, NAME.profile")
	s.StringVarP(&f.config, "config", "c", "", "take interfaces and the number of workers from this config")
	s.StringSliceVar(&f.interfaces, "interface", nil, "interface that packets come from (default: the config's)")
	s.IntVar(&f.workers, "workers", 0, "number of workers (default: the config's, or as many as --cpus, or 1)")
	s.StringVar(&f.cpus, "cpus", "", "CPUs for the workers, as in 2-3,6 (default: chosen)")
	s.StringArrayVar(&f.flows, "flow", nil, `steer a flow to a queue of a card: "eth0 udp 239.1.1.1:5000 0"`)
	s.StringSliceVar(&f.stages, "stage", nil, "only these stages: "+strings.Join(stage.Names(), ", "))
	s.StringVar(&f.root, "root", "/", "directory that stands for /, such as a copy of another machine's /sys and /proc")
	f.records(c)
}

// records adds the flags of every command.
func (f *flags) records(c *cobra.Command) {
	c.Flags().StringVar(&f.state, "state", stage.StateDir, "directory of the records")
	c.Flags().BoolVar(&f.json, "json", false, "print JSON")
}

// options makes a description of the host's purpose out of the flags and the config.
func (f *flags) options(c *cobra.Command) (stage.Options, error) {
	o := stage.Options{Root: f.root, Cards: cardsBelow(f.root)}
	wrong := func(format string, args ...any) (stage.Options, error) {
		return o, usage.Errorf(c.CommandPath(), format, args...)
	}
	var sources profile.Sources
	if f.profiles != "" {
		sources = append(sources, os.DirFS(f.profiles))
	}
	var err error
	if o.Profile, err = sources.Load(f.profile); err != nil {
		return o, usage.Wrap(c.CommandPath(), err)
	}
	if o.CPUs, err = topology.ParseCPUs(f.cpus); err != nil {
		return wrong("--cpus: %w", err)
	}
	o.Interfaces, o.Workers = f.interfaces, f.workers
	if f.config != "" {
		if err := f.fromConfig(&o); err != nil {
			return o, err
		}
	}
	o.Workers = cmp.Or(o.Workers, o.CPUs.Len(), 1)
	if o.Workers < 1 || o.Workers > event.WorkersMax {
		return wrong("--workers %d: 1 to %d", o.Workers, event.WorkersMax)
	}
	for _, text := range f.flows {
		flow, err := parseFlow(text)
		if err != nil {
			return wrong("--flow %q: %w", text, err)
		}
		o.Flows = append(o.Flows, flow)
	}
	return o, nil
}

// fromConfig takes what the command line leaves open from a config.
func (f *flags) fromConfig(o *stage.Options) error {
	cfg, err := config.Load(f.config)
	if err != nil {
		return usage.Wrap("", err)
	}
	if found := cfg.Findings(); len(found) > 0 {
		return usage.Errorf("", "%s: mistakes: %d; `headrace check %s` names them", f.config, len(found), f.config)
	}
	if len(o.Interfaces) == 0 {
		for _, i := range cfg.Interfaces {
			o.Interfaces = append(o.Interfaces, i.Name)
		}
	}
	if o.Workers == 0 && o.CPUs.Empty() {
		o.Workers = cmp.Or(cfg.Workers, max(1, min(event.WorkersMax, runtime.NumCPU())-1)) // as `run` takes it
	}
	return nil
}

// parseFlow reads "eth0 udp 239.1.1.1:5000 0".
func parseFlow(text string) (stage.Flow, error) {
	words := strings.Fields(text)
	if len(words) != 4 {
		return stage.Flow{}, errors.New(`it is like "eth0 udp 239.1.1.1:5000 0"`)
	}
	queue, err := strconv.ParseUint(words[3], 10, 16)
	if err != nil {
		return stage.Flow{}, fmt.Errorf("queue %q is no number", words[3])
	}
	match := words[1] + " " + words[2]
	return stage.Flow{Interface: words[0], Match: match, Queue: int(queue)}, card.CheckFlow(match)
}

// noCards are those of a machine that is only a copy of its files.
type noCards struct{}

// Get says that there are none.
func (noCards) Get(string, string) (string, error) { return "", card.ErrUnsupported }

// Set says that there are none.
func (noCards) Set(string, string, string) error { return card.ErrUnsupported }

// Shell is that of a real card.
func (noCards) Shell(nic, name, value string) string { return card.Kernel{}.Shell(nic, name, value) }

func cardsBelow(root string) stage.Cards {
	if root == "/" || root == "" {
		return nil // this machine's
	}
	return noCards{}
}

// open opens a tuner of what the flags ask for. A writer takes the records for itself.
func (f *flags) open(c *cobra.Command, writes bool) (*job, error) {
	o, err := f.options(c)
	if err != nil {
		return nil, err
	}
	h, err := stage.Open(o)
	if err != nil {
		return nil, err
	}
	records := stage.ReadJournal
	if writes {
		records = stage.OpenJournal
	}
	j, err := records(f.state)
	if err != nil {
		return nil, errors.Join(needRoot(err), h.Close())
	}
	t, err := stage.New(h, j, f.stages...)
	if err != nil {
		return nil, errors.Join(usage.Wrap(c.CommandPath(), err), j.Close(), h.Close())
	}
	return &job{c, f, h, j, t}, nil
}

// needRoot says what to do about a refusal.
func needRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w; run it as root (`headrace tune plan` shows what it would do)", err)
	}
	return err
}

// A job is one command under way.
type job struct {
	c       *cobra.Command
	f       *flags
	host    *stage.Host
	journal *stage.Journal
	tuner   *stage.Tuner
}

func (j *job) close() error { return errors.Join(j.journal.Close(), j.host.Close()) }
