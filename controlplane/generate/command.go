package generate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/dataplane/event"
)

// defaultCount is the number of messages of a file, where none is given.
const defaultCount = 1_000_000

// options are the flags of the command.
type options struct {
	c     Config
	face  string
	out   string
	start string
	json  bool
	quiet bool
}

// Command returns the generate command. Its errors of usage are [usage.Error].
func Command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "generate itch|json|csv|raw (--interface IF | --out FILE) [flags]",
		Short: "Generate a feed, onto an interface or into a capture",
		Long: `Generate a feed and send it on an interface in real time, or write it as a
capture (pcap, nanoseconds; "-" is standard output; a name that ends in .gz or
.zst makes a compressed file).

The same flags make the same bytes, event times included: they begin at --start
and advance by 1/rate from message to message. A sequenced feed that is sent a
second time to the same receiver needs another --session.

  itch   NASDAQ ITCH 5.0 in MoldUDP64, line A to 239.10.1.1:26400, line B
         (with --lines 2) to 239.10.2.1:26400: a directory of the symbols, then
         orders, executions, cancels, replaces and trades whose references hold
         together, heartbeats, and an end of session
  json   {"event_type":"dropoff","driver_id":117,"fare":23.50,"timestamp":
         "2026-03-02T14:30:00Z","telemetry":{"speed":48.3}} to 239.1.1.1:9000
  csv    event_type,driver_id,fare,timestamp,speed to 239.1.1.1:9000
  raw    40 bytes, little-endian, to 239.1.1.1:9000: key uint64, value int64,
         time int64 (ns since 1970), speed float64, event type text of 8 bytes

--loss, --reorder and --duplicate act on packets, on each line by itself. They do
not change the messages: two streams that differ in them only carry the same ones.

The summary is the last line of standard error. Ctrl-C ends the stream in good
order. Sending needs CAP_NET_RAW.`,
		Example: `  headrace generate itch --out feed.pcap.gz --keys 5000 --lines 2 --loss 0.001
  headrace generate itch --interface eth1 --keys 5000 --rate 200000 --session MONDAY
  headrace generate json --out - --count 1000 | tcpdump -nr -`,
		ValidArgs:     Kinds,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage.Errorf(cmd.CommandPath(), "what is to be generated? Name one of %s", strings.Join(Kinds, ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage.Wrap(cmd.CommandPath(), err) })
	o.flags(cmd)
	return cmd
}

func (o *options) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.face, "interface", "i", "", "send on this interface, in real time")
	f.StringVarP(&o.out, "out", "o", "", "write a capture to this file; - is standard output")
	f.Uint64Var(&o.c.Seed, "seed", 0, "which stream: another seed is another stream")
	f.StringVar(&o.start, "start", time.Unix(0, int64(DefaultStart)).UTC().Format(time.RFC3339), "time of the first message (09:30 in New York by default)")
	f.Int64Var(&o.c.Rate, "rate", DefaultRate, "messages a second, of event time and of sending")
	f.Uint64Var(&o.c.Count, "count", 0, fmt.Sprintf("messages to generate; 0: no end, %d with --out", defaultCount))
	f.IntVar(&o.c.Keys, "keys", DefaultKeys, "symbols or drivers")
	f.IntVar(&o.c.Lines, "lines", 1, "itch: 2 sends every packet on line B too")
	f.Float64Var(&o.c.Loss, "loss", 0, "probability that a packet is lost on a line, 0 to 1")
	f.IntVar(&o.c.Reorder, "reorder", 0, "swap packets of a line over at most this distance")
	f.Float64Var(&o.c.Duplicate, "duplicate", 0, "probability that a line sends a packet twice, 0 to 1")
	f.IntVar(&o.c.Channels, "channels", 1, "itch: MoldUDP64 sessions, among which the symbols are divided")
	f.StringVar(&o.c.Session, "session", "", fmt.Sprintf("itch: name of the session, up to 10 characters; with several channels each gets its number behind it (default %q)", DefaultSession))
	f.BoolVar(&o.json, "json", false, "write the summary as one JSON object")
	f.BoolVar(&o.quiet, "quiet", false, "show no progress")
}

func (o *options) run(cmd *cobra.Command, kind string) error {
	c, out, err := o.config(cmd, kind)
	if err != nil {
		return usage.Wrap(cmd.CommandPath(), err)
	}
	r, err := Run(cmd.Context(), c, out)
	if r.Packets > 0 {
		tell(cmd.ErrOrStderr(), r, o.json)
	}
	return err
}

// config checks the flags; what is wrong with the stream is found by making it.
func (o *options) config(cmd *cobra.Command, kind string) (Config, Output, error) {
	c, out := o.c, Output{Interface: o.face, Path: o.out}
	c.Kind = kind
	if (o.face == "") == (o.out == "") {
		return c, out, errors.New("give --interface or --out, one of them: where is the stream to go?")
	}
	for flag, zero := range map[string]bool{"rate": c.Rate == 0, "keys": c.Keys == 0, "lines": c.Lines == 0, "channels": c.Channels == 0} {
		if zero {
			return c, out, wrong(flag, "0 is not a number of %s", map[string]string{
				"rate": "messages a second", "keys": "symbols or drivers", "lines": "lines", "channels": "channels",
			}[flag])
		}
	}
	start, err := time.Parse(time.RFC3339Nano, o.start)
	if err != nil {
		return c, out, wrong("start", "%q is not a time such as %s", o.start, "2026-03-02T14:30:00Z")
	}
	if y := start.Year(); y < 1970 || y > 2105 {
		return c, out, wrong("start", "%s is not in the years 1970 to 2105", o.start)
	}
	c.Start = event.Nanos(start.UnixNano())
	if c.Count == 0 && o.out != "" {
		c.Count = defaultCount
	}
	if _, err := New(c); err != nil {
		return c, out, err
	}
	if !o.quiet && o.face != "" {
		out.Progress = cmd.ErrOrStderr()
	}
	if o.out == "-" {
		out.Path, out.Writer = "", cmd.OutOrStdout()
		if f, ok := out.Writer.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return c, out, errors.New("--out -: a capture is binary and standard output is a terminal; redirect it")
		}
	}
	return c, out, nil
}

// tell writes the summary.
func tell(w io.Writer, r Report, asJSON bool) {
	if asJSON {
		b, err := json.Marshal(r)
		if err != nil {
			panic("generate: a summary of plain numbers: " + err.Error())
		}
		fmt.Fprintf(w, "%s\n", b)
		return
	}
	fmt.Fprintln(w, r)
}

// String tells the report in one line.
func (r Report) String() string {
	text := fmt.Sprintf("generated %d messages in %d packets, %d frames, %.3f s", r.Messages, r.Packets, r.Frames, r.Seconds)
	if r.Lost > 0 || r.Duplicates > 0 {
		text += fmt.Sprintf("; on the lines %d packets were lost and %d sent twice; %d messages were lost on every line", r.Lost, r.Duplicates, r.LostMessages)
	}
	if s := r.Sending; s != nil {
		text += fmt.Sprintf("; sent %d frames, %d refused by the interface, %d longer than the MTU", s.Sent, s.Refused, s.TooLong)
	}
	return text
}
