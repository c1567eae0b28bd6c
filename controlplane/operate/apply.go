package operate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/change"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/usage"
)

type applyFlags struct {
	flags
	dryRun bool
	atMost string
}

func applyCommand() *cobra.Command {
	var f applyFlags
	c := &cobra.Command{
		Use:   "apply FILE",
		Short: "change the config of a running headrace",
		Long: `Apply checks a config, prints what it would change, and puts it in force: whole, or
not at all. Each change has a tag:

  live     the control process does it alone; no packet notices
  warm     the data plane is replaced within milliseconds; no frame is lost, and
           feeds and queries that stay as they are keep their state
  cold     sockets and their memory would have to be made anew: it is refused
  refused  it cannot be done while headrace runs; the table says what to do

If somebody else changes the config between the table and the change, nothing is
changed. It exits with 0 if the config is in force (or would be, with --dry-run), with
64 if it has mistakes, and with 1 if it is refused.`,
		Example: `  headrace apply --dry-run bars.yaml
  headrace apply --at-most warm --name bars bars.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args[0]) },
	}
	f.add(c)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "only print what would change")
	c.Flags().StringVar(&f.atMost, "at-most", string(change.Cold), "change nothing if something is heavier than this: live, warm or cold")
	return c
}

func (f *applyFlags) run(c *cobra.Command, path string) error {
	if err := f.check(c); err != nil {
		return err
	}
	most := change.Tag(f.atMost).Weight()
	if most < change.Live.Weight() {
		return usage.Errorf(c.CommandPath(), "--at-most %s: write live, warm or cold", f.atMost)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return usage.Wrap("", err)
	}
	var now api.Running
	_, etag, err := ask(c.Context(), f.name, &request{method: http.MethodGet, path: "/v1/config"}, &now)
	if err != nil {
		return err
	}
	would, answer, err := f.apply(c.Context(), path, text, etag, true)
	if err != nil {
		return f.failed(c, path, err)
	}
	if f.output == "text" {
		if err := would.Write(c.OutOrStdout()); err != nil {
			return err
		}
	}
	if would.Tag.Weight() > most {
		return fmt.Errorf("nothing was changed: a change is %s, and --at-most is %s", would.Tag, f.atMost)
	}
	report := would
	if !f.dryRun {
		if report, answer, err = f.apply(c.Context(), path, text, etag, false); err != nil {
			return f.failed(c, path, err)
		}
	}
	if f.output == "json" {
		_, err = c.OutOrStdout().Write(answer)
		return err
	}
	if f.dryRun {
		return nil
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s is in force, revision %s; %d feeds and %d queries went on%s\n",
		path, report.Revision, report.KeptFeeds, report.KeptQueries, pause(report.PauseNanos))
	return err
}

func pause(nanos int64) string {
	if nanos == 0 {
		return ""
	}
	return fmt.Sprintf("; frames waited in the rings for %s", time.Duration(nanos).Round(time.Microsecond))
}

func (f *applyFlags) apply(ctx context.Context, path string, text []byte, etag string, dry bool) (*change.Report, []byte, error) {
	q := &request{method: http.MethodPut, path: "/v1/config", yaml: text, match: etag, query: url.Values{"source": {sourceOf(path)}}}
	if dry {
		q.query.Set("dry_run", "true")
	}
	var r change.Report
	answer, _, err := ask(ctx, f.name, q, &r)
	return &r, answer, err
}

// sourceOf shortens a path to what the API takes.
func sourceOf(path string) string {
	if r := []rune(path); len(r) > api.SourceMax {
		return string(r[len(r)-api.SourceMax:])
	}
	return path
}

// failed prints what the answer has beside its text: mistakes and refused changes.
func (f *applyFlags) failed(c *cobra.Command, path string, err error) error {
	var p *api.Problem
	if !errors.As(err, &p) {
		return err
	}
	for _, x := range p.Findings {
		fmt.Fprintln(c.ErrOrStderr(), config.Finding{File: path, Pos: config.Pos{Line: x.Line, Column: x.Column}, Message: x.Message, Allowed: x.Allowed, Fix: x.Meant})
	}
	if n := len(p.Findings); n > 0 {
		return usage.Errorf("", "%s: mistakes: %d; nothing was changed", path, n)
	}
	if p.Changes != nil {
		if err := p.Changes.Write(c.OutOrStdout()); err != nil {
			return err
		}
		return fmt.Errorf("nothing was changed: %s", p.Detail)
	}
	return err
}
