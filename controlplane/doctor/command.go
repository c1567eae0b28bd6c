package doctor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/xsk"
	"github.com/headrace/headrace/internal/show"
	"github.com/headrace/headrace/pinning/audit"
	"github.com/headrace/headrace/pinning/gaps"
	"github.com/headrace/headrace/pinning/topology"
)

// Options are what doctor needs of the packages beside it.
type Options struct {
	// Formats finds a format by name. Required.
	Formats func(name string) (wire.Format, bool)
	// Memory returns the account of what a plan takes. Required.
	Memory func(p *plan.Plan) ([]arena.Line, error)
}

// asked is what the command line says.
type asked struct {
	file       string
	interfaces []string
	cores      string
	workers    int
	rate       int
	probe      string
	length     time.Duration
	mayMeasure bool // also where a core is busy
	json, all  bool
}

// Command returns `headrace doctor`.
func Command(o Options) *cobra.Command {
	var a asked
	c := &cobra.Command{
		Use:   "doctor [FILE]",
		Short: "Say whether this host is fit, what is wrong and how it is mended",
		Long: `Doctor looks at the host, its interfaces and, if a FILE is given, at what that config
asks of them, measures how long the worker cores are left alone, and grants the host a
latency class: A (below 10 µs), B (50 µs), C (1 ms) at p99.9, or D (best effort).

It changes nothing but for a trial: to learn whether native XDP and zero-copy are
possible it attaches a program that passes every packet, binds a socket, and takes both
off again. Where a program is already attached, or the interface carries the default
route, it does so only with --probe.

The exit code is that of the worst finding: 0 ok, note or unknown, 1 warn, 2 fail.`,
		Args:          cobra.MaximumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				a.file = args[0]
			}
			a.mayMeasure = cmd.Flags().Changed("for")
			return diagnose(cmd, o, a)
		},
	}
	c.Flags().StringSliceVar(&a.interfaces, "interface", nil, "interfaces to look at (default: the config's, else all with hardware)")
	c.Flags().StringVar(&a.cores, "cores", "", "the worker cores, as in 1-3 (default: isolated ones, else chosen as run does)")
	c.Flags().IntVar(&a.workers, "workers", 0, "number of workers (default: the config's, else one on each worker core)")
	c.Flags().IntVar(&a.rate, "rate", 0, "packets a second that are expected, for the length of rings (default: what comes now)")
	c.Flags().StringVar(&a.probe, "probe", probeCareful, "try XDP on the interfaces: yes, no, or careful, which leaves out those in use")
	c.Flags().Lookup("probe").NoOptDefVal = probeYes
	c.Flags().DurationVar(&a.length, "for", 10*time.Second, "how long to measure the worker cores, 0 for not at all (default: 10s, unless something runs there)")
	c.Flags().BoolVar(&a.json, "json", false, "print JSON")
	c.Flags().BoolVar(&a.all, "all", false, "tell of what is well, too")
	c.AddCommand(noiseCommand())
	return c
}

func (a *asked) check(cmd *cobra.Command) (cores topology.CPUSet, err error) {
	path := cmd.CommandPath()
	if a.workers < 0 || a.workers > event.WorkersMax {
		return cores, usage.Errorf(path, "--workers %d: 1 to %d, or 0 for the config's", a.workers, event.WorkersMax)
	}
	if a.rate < 0 {
		return cores, usage.Errorf(path, "--rate %d: packets a second, 0 for what comes now", a.rate)
	}
	if a.length < 0 || a.length > gaps.ForMax {
		return cores, usage.Errorf(path, "--for %v: up to %v, 0 for not at all", a.length, gaps.ForMax)
	}
	if !slices.Contains([]string{probeCareful, probeYes, probeNo}, a.probe) {
		return cores, usage.Errorf(path, "--probe %s: yes, no or careful", a.probe)
	}
	return coresOf(cmd, a.cores)
}

func coresOf(cmd *cobra.Command, list string) (topology.CPUSet, error) {
	cores, err := topology.ParseCPUs(list)
	if err != nil {
		return cores, usage.Errorf(cmd.CommandPath(), "--cores: %w", err)
	}
	return cores, nil
}

func diagnose(cmd *cobra.Command, o Options, a asked) error {
	cores, err := a.check(cmd)
	if err != nil {
		return err
	}
	if a.length > 0 {
		startQuietly()
	}
	opts := audit.Options{Interfaces: a.interfaces, Workers: cores, WorkerCount: a.workers}
	if a.file != "" {
		p, err := planOf(cmd.ErrOrStderr(), o, a)
		if err != nil {
			return err
		}
		opts.WorkerCount = p.Workers
		if len(opts.Interfaces) == 0 {
			for i := range p.Interfaces {
				opts.Interfaces = append(opts.Interfaces, p.Interfaces[i].Name)
			}
		}
		if opts.Config, err = factsOf(a.file, p, o, opts.Interfaces); err != nil {
			return err
		}
		opts.Config.Rate = a.rate
	}
	if len(opts.Interfaces) == 0 {
		opts.Interfaces = hardware()
	}
	f, err := audit.Gather(cmd.Context(), os.DirFS("/"), &prober{when: a.probe}, opts)
	if err != nil && cmd.Context().Err() == nil {
		return usage.Wrap(cmd.CommandPath(), err) // a core or an interface that is not there
	} else if err != nil {
		return err
	}
	if err := measure(cmd, f, a); err != nil {
		return err
	}
	return publish(cmd.OutOrStdout(), newReport(f, opts), a)
}

// publish prints the report and returns its exit code as an error.
func publish(w io.Writer, r *Report, a asked) error {
	var err error
	if a.json {
		err = show.JSON(w, r)
	} else {
		err = r.write(w, a.all)
	}
	if err != nil {
		return fmt.Errorf("doctor: %w", err)
	}
	if r.ExitCode != 0 {
		return &usage.ExitError{Code: r.ExitCode}
	}
	return nil
}

// measure measures the worker cores, unless somebody needs them.
func measure(cmd *cobra.Command, f *audit.Facts, a asked) error {
	if a.length == 0 {
		f.NoiseUnknown = "not asked for (--for 0)"
		return nil
	}
	const busy = 0.5
	for _, cpu := range f.Workers.List() {
		if share, ok := f.Busy(cpu); ok && share > busy && !a.mayMeasure {
			f.NoiseUnknown = fmt.Sprintf("core %d is busy (%.0f %%) and measuring would take it from who runs there; --for 10s does it all the same", cpu, 100*share)
			return nil
		}
	}
	r, err := gaps.Measure(cmd.Context(), gaps.Config{Cores: f.Workers, For: a.length, Group: audit.GroupOf(f.Root, f.Workers)})
	if errors.Is(err, gaps.ErrCore) {
		f.NoiseUnknown = err.Error()
		return nil
	}
	f.Noise = r
	return err
}

// startQuietly starts this binary again in its own place, with what a measurement
// needs in the environment, unless it is there. If that fails, the report says that the
// measurement disturbs itself.
func startQuietly() {
	if gaps.IsQuiet() {
		return
	}
	self, err := os.Executable()
	if err != nil {
		return
	}
	setting := gaps.Quiet
	if old := os.Getenv("GODEBUG"); old != "" {
		setting = old + "," + setting
	}
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GODEBUG=") })
	_ = syscall.Exec(self, os.Args, append(env, "GODEBUG="+setting)) // as above
}

// hardware returns the interfaces that have a device behind them.
func hardware() []string {
	var names []string
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for i := range all {
		if _, err := os.Stat(filepath.Join("/sys/class/net", all[i].Name, "device")); err == nil {
			names = append(names, all[i].Name)
		}
	}
	return names
}

// planOf compiles the config, as `explain` does.
func planOf(errs io.Writer, o Options, a asked) (*plan.Plan, error) {
	_, p, err := compile.File(a.file, compile.Options{Formats: o.Formats, Workers: a.workers})
	var found config.Findings
	switch {
	case errors.As(err, &found):
		fmt.Fprintln(errs, found.Error())
		return nil, usage.Errorf("", "%s: mistakes: %d", a.file, len(found))
	case err != nil:
		return nil, usage.Wrap("", err)
	}
	return p, nil
}

// factsOf takes out of a plan what the host is asked for.
func factsOf(file string, p *plan.Plan, o Options, interfaces []string) (*audit.Config, error) {
	c := &audit.Config{File: file, Groups: map[string][]netip.Addr{}, Wide: map[string][]netip.Prefix{}}
	lines, err := o.Memory(p)
	if err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	for _, l := range lines {
		c.MemoryBytes += int64(l.Bytes)
	}
	for i := range p.Interfaces {
		x := &p.Interfaces[i]
		c.Interfaces = append(c.Interfaces, audit.ConfigInterface{
			Name: x.Name, Queues: x.Queues, RxRing: x.RxRing, Spin: x.Idle == plan.Spin, Native: x.Mode == plan.Native,
		})
		n, err := umemBytes(p, x, interfaces)
		if err != nil {
			return nil, fmt.Errorf("doctor: interface %s: %w", x.Name, err)
		}
		c.UMEMBytes += n
	}
	for i := range p.Feeds {
		feed := &p.Feeds[i]
		for _, r := range feed.Rules {
			d := r.Destination
			switch {
			case d.IsValid() && d.Addr().IsMulticast() && d.IsSingleIP():
				if !slices.Contains(c.Groups[feed.Name], d.Addr()) {
					c.Groups[feed.Name] = append(c.Groups[feed.Name], d.Addr())
				}
			case d.IsValid() && d.Addr().IsMulticast():
				c.Wide[feed.Name] = append(c.Wide[feed.Name], d.Masked())
			}
		}
		if slices.ContainsFunc(feed.Rules, func(r plan.Rule) bool { return r.VLAN != 0 }) {
			c.VLANs = append(c.VLANs, feed.Name)
		}
	}
	return c, nil
}

// umemBytes is what an interface's sockets take: frames and rings of each queue.
func umemBytes(p *plan.Plan, x *plan.Interface, interfaces []string) (int64, error) {
	workers := max(p.WorkersMax, p.Workers)
	s, err := xsk.Fit(xsk.Wish{Workers: workers, RxRing: x.RxRing, TxRing: x.TxRing, FillReserve: x.FillRing})
	if err != nil {
		return 0, err
	}
	queues := x.Queues
	if queues == 0 {
		queues = 1
		if slices.Contains(interfaces, x.Name) {
			if e, err := (audit.Kernel{}).Ethernet(x.Name); err == nil && e.Channels != nil {
				queues = max(e.Channels.Receive(), 1)
			}
		}
	}
	s.Frames = max(s.Frames, x.Frames)
	return int64(queues) * int64(s.UMEMBytes()+s.RingBytes(workers)), nil
}
