package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/internal/show"
	"github.com/headrace/headrace/pinning/audit"
	"github.com/headrace/headrace/pinning/gaps"
)

// A NoiseReport is what `headrace doctor noise --json` prints.
type NoiseReport struct {
	Version int `json:"version"`
	// Class is the best that the measurement allows; `doctor` weighs findings too.
	Class audit.Class `json:"class"`
	gaps.Report
}

func noiseCommand() *cobra.Command {
	var (
		list         string
		length, over time.Duration
		asJSON       bool
	)
	c := &cobra.Command{
		Use:   "noise",
		Short: "Measure what takes cores away from a thread that spins",
		Long: `Noise binds a thread to each core, which reads the clock over and over, and counts
milliseconds by the worst gap between two readings. As root it says what the gaps were:
other tasks, interrupts, kernel workers, or nothing that the kernel knows of, which is the
firmware or the hypervisor. Nothing else should need the cores meanwhile: do not measure
those of a run.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cores, err := coresOf(cmd, list)
			switch {
			case err != nil:
				return err
			case cores.Empty():
				return usage.Errorf(cmd.CommandPath(), "--cores: which ones, as in 1-3")
			case length <= 0 || length > gaps.ForMax:
				return usage.Errorf(cmd.CommandPath(), "--for %v: more than nothing, up to %v", length, gaps.ForMax)
			case over <= 0:
				return usage.Errorf(cmd.CommandPath(), "--over %v: more than nothing", over)
			}
			startQuietly()
			r, err := gaps.Measure(cmd.Context(), gaps.Config{Cores: cores, For: length, Over: over, Group: audit.GroupOf(os.DirFS("/"), cores)})
			if errors.Is(err, gaps.ErrCore) {
				return usage.Wrap(cmd.CommandPath(), err)
			} else if err != nil {
				return err
			}
			if asJSON {
				return show.JSON(cmd.OutOrStdout(), NoiseReport{Version, audit.ClassOf(r), *r})
			}
			s := &screen{w: cmd.OutOrStdout()}
			worst := r.Worst()
			s.line("class %s by noise alone: p99.9 %v on core %d, the worst", audit.ClassOf(r), short(worst.P999), worst.CPU)
			writeNoise(s, r, true)
			return s.err
		},
	}
	c.Flags().StringVar(&list, "cores", "", "the cores, as in 1-3")
	c.Flags().DurationVar(&length, "for", 10*time.Second, "how long")
	c.Flags().DurationVar(&over, "over", 2*time.Microsecond, "gaps from this length on are looked into")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// short writes a length of time with three digits.
func short(d time.Duration) string { return audit.Round(d).String() }

// causesMost bounds the causes that are shown of a core.
const causesMost = 5

// writeNoise writes a table of cores, with the histogram and all causes if asked.
func writeNoise(s *screen, r *gaps.Report, whole bool) {
	s.line("worst gap of each millisecond:")
	s.line("%6s %9s %9s %9s %9s %9s %9s %8s", "core", "min", "p50", "p99", "p99.9", "max", "for", "lost")
	for i := range r.Cores {
		c := &r.Cores[i]
		lost := 100 * float64(c.Lost) / float64(max(c.For, 1))
		s.line("%6d %9s %9s %9s %9s %9s %9s %7.3f%%", c.CPU, short(c.Least), short(c.P50), short(c.P99), short(c.P999), short(c.Max), c.For.Round(time.Millisecond), lost)
	}
	if whole {
		writeHistogram(s, r)
	}
	for i := range r.Cores {
		writeCauses(s, &r.Cores[i], r, whole)
	}
	if r.CausesUnknown != "" {
		s.wrapped("causes unknown: ", r.CausesUnknown)
	}
	if r.Disturbed != "" {
		s.wrapped("disturbed by ", r.Disturbed)
	}
}

func writeHistogram(s *screen, r *gaps.Report) {
	head := fmt.Sprintf("%8s", "below")
	for i := range r.Cores {
		head += fmt.Sprintf(" %9s", fmt.Sprintf("core %d", r.Cores[i].CPU))
	}
	s.line("%s", head)
	for b := range r.Cores[0].Histogram {
		name := "more"
		if below := r.Cores[0].Histogram[b].Below; below > 0 {
			name = below.String()
		}
		row, some := fmt.Sprintf("%8s", name), false
		for i := range r.Cores {
			n := r.Cores[i].Histogram[b].Count
			some = some || n > 0
			row += fmt.Sprintf(" %9d", n)
		}
		if some {
			s.line("%s", row)
		}
	}
}

func writeCauses(s *screen, c *gaps.Core, r *gaps.Report, whole bool) {
	s.line("core %d: %d gaps of %v and more; %d switches, %d interrupts, stolen %v", c.CPU, c.Gaps, r.Over, c.Switches, c.Interrupts, c.Steal)
	for i, cause := range c.Causes {
		if i == causesMost && !whole {
			s.line("  and %d more causes: headrace doctor noise --cores %d", len(c.Causes)-i, c.CPU)
			break
		}
		name := strings.TrimSpace(cause.Kind + " " + cause.What)
		if cause.PID != 0 {
			name += fmt.Sprintf(" [%d]", cause.PID)
		}
		if cause.Kind == gaps.Unexplained {
			name = "unexplained: firmware (SMI) or hypervisor"
		}
		s.line("  worst %9s  lost %9s  %8d × %s", short(cause.Worst), short(cause.Lost), cause.Gaps, name)
	}
	if c.Unkept > 0 {
		s.line("  %d gaps more than are kept: their causes are not known", c.Unkept)
	}
}
