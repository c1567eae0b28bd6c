package send

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/usage"
)

// options are the flags of the command.
type options struct {
	face    string
	pps     float64
	pace    bool
	flatOut bool
	loop    int
	json    bool
	quiet   bool
}

// Command returns the send command. Its errors of usage are [usage.Error].
func Command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "send --interface IF [--pps N | --pace | --flat-out] [--loop N] CAPTURE...",
		Short: "Send a capture onto an interface",
		Long: `Send the frames of captures (pcap or pcapng, plain or in gzip or zstd; "-" is
standard input) onto an interface. Several captures are merged by time stamp.

Frames go out at the pace at which they were captured unless --pps or --flat-out
says otherwise. A frame that the interface refuses is counted and not sent again.
Frames that the capture holds only in part (cut off by the end of the file, or
by the snap length of the capture) are skipped, and so are frames that exceed the
interface's MTU; the summary says how many.

The summary is the last line of standard error. Ctrl-C ends the sending in good
order. Raw frames need CAP_NET_RAW.`,
		Example: `  headrace send --interface eth1 monday.pcap.gz
  headrace send --interface eth1 --pps 30000 monday.pcap.gz
  headrace send --interface eth1 --flat-out --loop 10 --json monday.pcap
  zcat monday.pcap.gz | headrace send --interface eth1 --flat-out -`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage.Errorf(cmd.CommandPath(), "which capture is to be sent? Name a file, or - for standard input")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.config(cmd, args)
			if err != nil {
				return usage.Wrap(cmd.CommandPath(), err)
			}
			sum, err := Run(cmd.Context(), c)
			if sum.Records > 0 {
				tell(cmd.ErrOrStderr(), sum, o.json)
			}
			return err
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage.Wrap(cmd.CommandPath(), err) })
	f := cmd.Flags()
	f.StringVarP(&o.face, "interface", "i", "", "interface to send on (required)")
	f.Float64Var(&o.pps, "pps", 0, "frames a second")
	f.BoolVar(&o.pace, "pace", false, "at the pace of the capture's time stamps (the default)")
	f.BoolVar(&o.flatOut, "flat-out", false, "as fast as the interface takes the frames")
	f.IntVar(&o.loop, "loop", 1, "how often to send everything; 0: until stopped")
	f.BoolVar(&o.json, "json", false, "write the summary as one JSON object")
	f.BoolVar(&o.quiet, "quiet", false, "show no progress")
	return cmd
}

// config checks the flags.
func (o *options) config(cmd *cobra.Command, args []string) (Config, error) {
	c := Config{Interface: o.face, Paths: args, Stdin: cmd.InOrStdin(), Rounds: o.loop, PPS: o.pps}
	var modes []string
	for _, flag := range []string{"pps", "pace", "flat-out"} {
		if cmd.Flags().Changed(flag) {
			modes = append(modes, "--"+flag)
		}
	}
	switch {
	case o.face == "":
		return c, errors.New("--interface is missing: which interface are the frames to be sent on?")
	case len(modes) > 1:
		return c, fmt.Errorf("%s exclude each other: give one of them", strings.Join(modes, " and "))
	case cmd.Flags().Changed("pps") && !(o.pps > 0 && o.pps <= 1e9):
		return c, fmt.Errorf("--pps: %v is not a rate above 0, up to 1e9", o.pps)
	case o.loop < 0:
		return c, fmt.Errorf("--loop: %d is not a number of rounds, 0 or more", o.loop)
	}
	if o.loop == 0 {
		c.Rounds = -1
	}
	if o.pps > 0 {
		c.Mode = Rate
	} else if o.flatOut {
		c.Mode = FlatOut
	}
	if !o.quiet {
		c.Progress = cmd.ErrOrStderr()
	}
	return c, nil
}

// tell writes the summary.
func tell(w io.Writer, s Summary, asJSON bool) {
	if asJSON {
		b, err := json.Marshal(s)
		if err != nil {
			panic("send: a summary of plain numbers: " + err.Error())
		}
		fmt.Fprintf(w, "%s\n", b)
		return
	}
	fmt.Fprintln(w, s)
}

// String tells the summary in one line.
func (s Summary) String() string {
	text := fmt.Sprintf("sent %s of %s frames, %s bytes, in %.3f s: %s/s", group(s.Sent), group(s.Records), group(s.Bytes), s.Seconds, group(uint64(s.PPS)))
	for _, x := range []struct {
		n    uint64
		what string
	}{
		{s.Refused, "refused by the interface"},
		{s.Cut, "skipped: cut off by the end of the file"},
		{s.Snapped, "skipped: the capture holds only a part"},
		{s.TooLong, "not sent: longer than the MTU"},
		{s.TooShort, "not sent: shorter than an Ethernet header"},
	} {
		if x.n > 0 {
			text += fmt.Sprintf("; %s %s", group(x.n), x.what)
		}
	}
	return text
}
