package operate

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/headrace/headrace/controlplane/api"
	"github.com/headrace/headrace/controlplane/usage"
)

const standardOutput = "-"

type captureFlags struct {
	flags
	feed      string
	count     int
	beforeGap int
	wait      time.Duration
	file      string
}

func captureCommand() *cobra.Command {
	var f captureFlags
	c := &cobra.Command{
		Use:   "capture",
		Short: "copy frames of a running headrace into a pcapng file",
		Long: `Capture copies the frames that come next, as they came from the wire, into a pcapng
file that tcpdump, Wireshark and headrace replay read. The frames are not taken from
anybody: results are the same.

With --before-gap N it takes instead the N frames before the latest gap of the feed,
which the recorder has (recorder: in the config).`,
		Example: `  headrace capture --feed cars --count 1000 -o cars.pcapng
  headrace capture --feed bars --before-gap 10000 -o gap.pcapng`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	c.Flags().StringVarP(&f.file, "output", "o", standardOutput, "the `FILE` to write; \"-\" is standard output")
	f.add(c)
	c.Flags().StringVar(&f.feed, "feed", "", "take frames of this feed (default: of every feed)")
	c.Flags().IntVar(&f.count, "count", 1000, "how many frames")
	c.Flags().IntVar(&f.beforeGap, "before-gap", 0, "take this many frames before the feed's latest gap instead")
	c.Flags().DurationVar(&f.wait, "for", time.Minute, "how long to wait for them, at most 1h")
	return c
}

func (f *captureFlags) run(c *cobra.Command) error {
	path := c.CommandPath()
	switch {
	case f.count < 1, f.beforeGap < 0:
		return usage.Errorf(path, "write how many frames, at least 1")
	case f.beforeGap > 0 && c.Flags().Changed("count"):
		return usage.Errorf(path, "--count and --before-gap N both say how many frames: keep one")
	case f.wait <= 0 || f.wait > api.CaptureMost:
		return usage.Errorf(path, "--for %s: more than 0, at most 1h", f.wait)
	case f.file == standardOutput && isTerminal(c.OutOrStdout()):
		return usage.Errorf(path, "a capture is no text: name a file with -o FILE")
	}
	q := url.Values{"count": {strconv.Itoa(f.count)}, "seconds": {strconv.Itoa(int(math.Ceil(f.wait.Seconds())))}}
	if f.feed != "" {
		q.Set("feed", f.feed)
	}
	if f.beforeGap > 0 {
		q.Set("count", strconv.Itoa(f.beforeGap))
		q.Set("before_gap", "true")
	}
	answer, err := send(c.Context(), f.name, &request{method: http.MethodPost, path: "/v1/capture", query: q})
	if err != nil {
		return err
	}
	defer answer.Body.Close() //nolint:errcheck // nothing is lost with it
	n, err := f.keep(c.OutOrStdout(), answer.Body)
	if err != nil {
		return fmt.Errorf("capture: the file is cut off after %d bytes: %w", n, err)
	}
	if f.file != standardOutput {
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %d bytes\n", f.file, n)
	}
	return err
}

// keep writes the answer where it belongs.
func (f *captureFlags) keep(out io.Writer, body io.Reader) (int64, error) {
	if f.file == standardOutput {
		return io.Copy(out, body)
	}
	// Payloads are nobody else's business.
	file, err := os.OpenFile(f.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(file, body)
	return n, errors.Join(err, file.Close())
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
