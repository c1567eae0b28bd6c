package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/sinks"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// outSink is the name of the sink that --out makes.
const outSink = "out"

type flags struct {
	config  string
	workers int
	batch   int
	out     string
	preload bool
	json    bool
	sinks   bool
}

// Command returns `headrace replay`.
func Command(o compile.Options) *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "replay -c FILE CAPTURE...",
		Short: "turn captures into rows, without privileges",
		Long: `Replay runs the pipeline of a config over captures (pcap or pcapng, plain, gzip or
zstd, "-" for standard input) instead of a network interface. Several captures are
merged by time stamp. The rows are a function of the captures and the config alone,
bit for bit, whatever the number of workers; a file of rows is sorted by window end,
query and key.

Without --out the config's JSON Lines sinks are written, from their beginning. The
last line of standard error is the summary.`,
		Example: `  headrace replay -c examples/iex-bars.yaml --out rows.jsonl DEEP10.pcap.gz
  zstdcat day.pcap.zst | headrace replay -c bars.yaml --out - -`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.replay(cmd, args, o) },
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage.Errorf(cmd.CommandPath(), "no capture: name a file, or - for standard input")
			}
			return nil
		},
	}
	c.Flags().StringVarP(&f.config, "config", "c", "", "the config `FILE` (required)")
	c.Flags().IntVar(&f.workers, "workers", 0, "number of workers; 0: the config's, or what the host allows")
	c.Flags().IntVar(&f.batch, "batch", event.BatchMax, "events a batch, at most 256; rows do not depend on it")
	c.Flags().StringVar(&f.out, "out", "", "write all rows to this one JSON Lines `PATH` instead of the config's sinks; \"-\" is standard output")
	c.Flags().BoolVar(&f.preload, "preload", false, "read the captures into memory before the clock starts")
	c.Flags().BoolVar(&f.json, "json", false, "print the summary as JSON")
	c.Flags().BoolVar(&f.sinks, "sinks", false, "write to all of the config's sinks, not only JSON Lines files")
	return c
}

func (f *flags) replay(cmd *cobra.Command, args []string, o compile.Options) error {
	switch {
	case f.config == "":
		return usage.Errorf(cmd.CommandPath(), "no config: name it with -c FILE")
	case f.workers < 0 || f.workers > event.WorkersMax:
		return usage.Errorf(cmd.CommandPath(), "--workers %d: 1 to %d, or 0 for the config's", f.workers, event.WorkersMax)
	case f.batch < 1 || f.batch > event.BatchMax:
		return usage.Errorf(cmd.CommandPath(), "--batch %d: 1 to %d", f.batch, event.BatchMax)
	}
	o.Replay, o.Workers, o.Batch = true, f.workers, f.batch
	c, p, err := compile.File(f.config, o)
	if err != nil {
		return configError(err)
	}
	if f.out != "" {
		for i := range p.Queries {
			p.Queries[i].Sinks = []string{outSink}
		}
	}
	if err := spare(f.out, args); err != nil {
		return usage.Wrap(cmd.CommandPath(), err)
	}
	records, progress, err := f.open(cmd, args)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	show := newProgress(cmd.ErrOrStderr(), progress)
	s, err := Run(cmd.Context(), Config{
		Plan: p, Records: records, Log: log,
		OpenSinks: func() ([]export.Sink, error) { return f.openSinks(c, p, log) },
	})
	show.stop()
	if err != nil && s.Seconds == 0 {
		return err // it did not begin
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("replay: stopped before the end of the capture")
	}
	if err != nil {
		// Said here, since the summary is the last line, whatever happened.
		fmt.Fprintf(cmd.ErrOrStderr(), "headrace: %v\n", err)
		err = errTold
	}
	return errors.Join(err, f.print(cmd.ErrOrStderr(), &s))
}

// errTold is an error that the user has been told about: it has no text.
var errTold = errors.New("")

// spare refuses to write rows over a capture that is to be read.
func spare(out string, captures []string) error {
	st, err := os.Stat(out)
	if err != nil || !st.Mode().IsRegular() {
		return nil //nolint:nilerr // what does not exist or is no file is not overwritten
	}
	for _, path := range captures {
		if c, err := os.Stat(path); err == nil && os.SameFile(st, c) {
			return fmt.Errorf("--out %s is a capture to be read: rows would overwrite it", out)
		}
	}
	return nil
}

// configError makes mistakes in a config an error of usage.
func configError(err error) error {
	var found config.Findings
	if errors.As(err, &found) {
		return usage.Wrap("", found)
	}
	return usage.Wrap("", err)
}

func (f *flags) open(cmd *cobra.Command, paths []string) (capture.Records, func() (int64, int64), error) {
	if f.preload {
		m, err := capture.Preload(paths, cmd.InOrStdin())
		if err != nil {
			return nil, nil, err
		}
		return m, nil, nil
	}
	r, err := capture.Open(paths, cmd.InOrStdin())
	if err != nil {
		return nil, nil, err
	}
	return r, r.Progress, nil
}

// openSinks opens the one file of --out, or the config's sinks that some query uses:
// its JSON Lines files, or with --sinks all of them.
func (f *flags) openSinks(c *config.Config, p *plan.Plan, log *slog.Logger) ([]export.Sink, error) {
	used := map[string]bool{}
	for _, q := range p.Queries {
		for _, name := range q.Sinks {
			used[name] = true
		}
	}
	return sinks.Open(sinks.Config{
		Config: c, Wanted: func(name string) bool { return used[name] }, Out: f.out, OutName: outSink,
		Truncate: true, FilesOnly: !f.sinks, Workers: p.WorkersMax, Log: log,
	})
}

// print writes the summary, one line.
func (f *flags) print(w io.Writer, s *Summary) error {
	if f.json {
		return json.NewEncoder(w).Encode(s)
	}
	_, err := fmt.Fprintln(w, s)
	return err
}

// String is the summary in words, on one line.
func (s *Summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d packets, %d messages, %d events, %d rows", s.Packets, s.Messages, s.Events, s.Rows)
	for _, n := range []struct {
		name  string
		count uint64
	}{{"truncated", s.Truncated}, {"duplicates", s.Duplicates}, {"epochs", s.Epochs}, {"missing", s.Missing}} {
		fmt.Fprintf(&b, ", %d %s", n.count, n.name)
	}
	for _, m := range []struct {
		name   string
		counts map[string]uint64
	}{{"dropped", s.Drops}, {"passed", s.Passed}} {
		for _, reason := range slices.Sorted(maps.Keys(m.counts)) {
			fmt.Fprintf(&b, ", %s %s %d", m.name, reason, m.counts[reason])
		}
	}
	fmt.Fprintf(&b, "; %.3f s, %.0f messages/s", s.Seconds, s.MessagesPerSecond)
	return b.String()
}

// progress shows how far a long replay is, on a terminal.
type progress struct {
	done chan struct{}
	gone chan struct{}
}

const progressEvery = 500 * time.Millisecond

func newProgress(w io.Writer, read func() (int64, int64)) *progress {
	p := &progress{done: make(chan struct{}), gone: make(chan struct{})}
	if read == nil || !isTerminal(w) {
		close(p.gone)
		return p
	}
	go func() {
		defer close(p.gone)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-p.done:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case <-tick.C:
			}
			if n, total := read(); total > 0 {
				fmt.Fprintf(w, "\r%3d %% of %.1f MB\x1b[K", n*100/total, float64(total)/1e6)
			} else {
				fmt.Fprintf(w, "\r%.1f MB\x1b[K", float64(n)/1e6)
			}
		}
	}()
	return p
}

func (p *progress) stop() {
	close(p.done)
	<-p.gone
}
