// Package explain says in words what a config amounts to: which packets each feed
// takes, where they and their events go, when a window closes, and how much memory
// it all takes. It reads a compiled plan and decides nothing.
package explain

import (
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
)

// Options are what explain needs beside the plan.
type Options struct {
	// Formats finds a format by name. Required.
	Formats func(name string) (wire.Format, bool)

	// Memory returns the account of what the plan takes, by building it. Without it
	// memory is left out.
	Memory func(p *plan.Plan) ([]arena.Line, error)

	// State returns the bytes of a query's state for one key. Without it they are left out.
	State func(q *plan.Query, columns []plan.Column) (int, error)
}

// Measured costs of a sum (reference machine, keys in cache): what a value adds to
// the time of an event, and its state.
const (
	floatSumBytes, exactSumBytes = 64, 16
	floatSumNanos, exactSumNanos = 7, 1
)

// Explain writes what p, the plan of c, does.
func Explain(w io.Writer, c *config.Config, p *plan.Plan, o Options) error {
	e := &explainer{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), c: c, p: p, o: o}
	e.line("%s: %s, %s, %s (room for %d), %s", c.File(), count(len(c.Feeds), "feed"), count(len(p.Queries), "query"), count(p.Workers, "worker"), p.WorkersMax, stop(p.Flush))
	e.interfaces()
	for i := range p.Feeds {
		if !p.Feeds[i].Removed {
			e.feed(&p.Feeds[i])
		}
	}
	for i := range p.Queries {
		if err := e.query(&p.Queries[i]); err != nil {
			return err
		}
	}
	if err := e.group(); err != nil {
		return err
	}
	if err := e.memory(); err != nil {
		return err
	}
	if e.err == nil {
		e.err = e.w.Flush()
	}
	if e.err != nil {
		return fmt.Errorf("explain: %w", e.err)
	}
	return nil
}

type explainer struct {
	w   *tabwriter.Writer
	c   *config.Config
	p   *plan.Plan
	o   Options
	err error
}

// line writes a line; say writes one of a section: what it is about, and the words.
func (e *explainer) line(format string, args ...any) {
	if _, err := fmt.Fprintf(e.w, format+"\n", args...); err != nil && e.err == nil {
		e.err = err
	}
}

func (e *explainer) say(about, format string, args ...any) {
	e.line("  "+about+"\t"+format, args...)
}

func count(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "y"):
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(noun, "y"))
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func stop(flush bool) string {
	if flush {
		return "a stop fires open windows"
	}
	return "a stop discards open windows"
}

func (e *explainer) interfaces() {
	if len(e.p.Interfaces) == 0 {
		e.line("\ninterfaces: none; run needs --interface, replay none")
		return
	}
	e.line("\ninterfaces")
	for _, i := range e.p.Interfaces {
		queues := "all queues"
		if i.Queues > 0 {
			queues = count(i.Queues, "queue")
		}
		e.say(i.Name, "%s, mode %s, idle %s; mesh: each queue has a socket for each of %s, so any queue reaches any worker", queues, i.Mode, i.Idle, count(e.p.Workers, "worker"))
		e.say("", "rings rx %d, tx %d, fill %d; %d frames of 2 KiB: %s a queue", i.RxRing, i.TxRing, i.FillRing, i.Frames, size(i.Frames*2048))
	}
}

func (e *explainer) feed(f *plan.Feed) {
	format, _ := e.o.Formats(f.Format)
	e.line("\nfeed %s: %s, %s", f.Name, f.Format, format.Doc)
	for i := range f.Rules {
		about := ""
		if i == 0 {
			about = "takes"
		}
		e.say(about, "%s", rule(&f.Rules[i]))
	}
	e.say("placed by", "%s", placement(&f.Place))
	e.say("columns", "%s", columns(f.Columns))
	if other := unused(f, format); other != "" {
		e.say("unused", "%s", other)
	}
	if len(format.Kinds) > 0 {
		e.say("messages", "%s", kinds(f, format))
	}
	e.say("time", "%s", eventTime(f))
	if f.Sequence == plan.Unsequenced {
		e.say("order", "none: packets are taken as they come, and what is lost on the way is not known")
		return
	}
	e.say("order", "%s: the first copy of a message wins over all lines; up to %d packets or %s wait %s for one that is missing, then it is a gap", f.Sequence, f.HoldPackets, size(f.HoldBytes), config.FormatDuration(f.HoldFor))
	e.say("limits", "%s a worker%s", count(f.Channels, "channel"), orders(f))
}

func orders(f *plan.Feed) string {
	if f.Orders == 0 {
		return ""
	}
	return fmt.Sprintf(", %s a worker", count(f.Orders, "order"))
}

func rule(r *plan.Rule) string {
	out := map[uint8]string{6: "tcp", 17: "udp"}[r.Protocol]
	if r.Destination.IsValid() {
		out += " to " + r.Destination.String()
		if r.Destination.IsSingleIP() {
			out = strings.TrimSuffix(out, fmt.Sprintf("/%d", r.Destination.Bits()))
		}
	}
	if r.Port != 0 {
		out += fmt.Sprintf(" port %d", r.Port)
	}
	if r.VLAN != 0 {
		out += fmt.Sprintf(" in VLAN %d", r.VLAN)
	}
	out += ", line " + string(rune('A'+r.Line))
	multicast := r.Destination.IsValid() && r.Destination.Addr().IsMulticast()
	switch {
	case multicast && r.Destination.IsSingleIP():
		out += "; the group is joined"
	case multicast:
		out += "; a range of groups is not joined: the switch must send them"
	case !r.Destination.IsValid() && r.Port == 0 && r.Protocol == 6:
		out += "; every TCP connection to this host is taken from it, ssh too: for a mirror port only"
	case !r.Destination.IsValid() && r.Port == 0:
		out += "; every UDP packet to this host is taken from it, DNS answers too: for a mirror port only"
	}
	return out
}

var tuple = []struct {
	bit  uint8
	name string
}{
	{plan.FieldSource, "source"}, {plan.FieldDestination, "destination"}, {plan.FieldSourcePort, "source port"}, {plan.FieldDestinationPort, "destination port"}, {plan.FieldProtocol, "protocol"},
}

func placement(p *plan.Placement) string {
	switch p.Kind {
	case plan.PlaceBytes:
		out := fmt.Sprintf("payload bytes %d to %d", p.Offset, int(p.Offset)+int(p.Length)-1)
		if p.Trim {
			out += ", without trailing spaces and zeros"
		}
		return out
	case plan.PlaceUntil:
		return fmt.Sprintf("payload from byte %d up to %q", p.Offset, p.Delimiter)
	case plan.PlaceChannel:
		return "channel: both lines and all packets of a channel meet in one worker"
	}
	var fields []string
	for _, f := range tuple {
		if p.Fields&f.bit != 0 {
			fields = append(fields, f.name)
		}
	}
	out := strings.Join(fields, ", ")
	if p.Symmetric {
		out += ", the same for both directions"
	}
	return out
}

func typeName(t event.Type, scale uint8) string {
	return config.TypeName(t, scale)
}

func columns(list []plan.Column) string {
	if len(list) == 0 {
		return "none: only the packets' messages are counted"
	}
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = c.Name + " " + typeName(c.Type, c.Scale)
	}
	return strings.Join(out, ", ")
}

// unused lists the columns that no query asks for: they are not decoded.
func unused(f *plan.Feed, format wire.Format) string {
	used := map[string]bool{}
	for _, c := range f.Columns {
		used[c.Name] = true
	}
	var out []string
	for _, x := range format.Fields {
		if !used[x.Name] {
			out = append(out, x.Name+" "+typeName(x.Type, x.Scale))
		}
	}
	return strings.Join(out, ", ")
}

func kinds(f *plan.Feed, format wire.Format) string {
	var wanted []string
	for _, k := range format.Kinds {
		if f.Kinds&(1<<k.Bit) != 0 {
			wanted = append(wanted, k.Name)
		}
	}
	switch {
	case len(wanted) == len(format.Kinds):
		return "all: " + strings.Join(wanted, ", ")
	case len(wanted) == 0:
		return "none: they only advance time"
	}
	return strings.Join(wanted, ", ") + "; the others only advance time"
}

func eventTime(f *plan.Feed) string {
	switch f.Time.Unit {
	case plan.UnitOwn:
		out := "the format's own"
		switch {
		case f.Day != "":
			out += fmt.Sprintf(", of the day %s in %s", f.Day, f.Zone)
		case f.Zone != "":
			out += fmt.Sprintf(", of the day of the channel's first packet, in %s", f.Zone)
		}
		return out
	case plan.UnitReceive:
		return "of receipt"
	case plan.UnitRFC3339:
		return f.Time.Column.Name + ", as RFC 3339"
	}
	return fmt.Sprintf("%s, in %s since 1970", f.Time.Column.Name, f.Time.Unit)
}

func (e *explainer) query(q *plan.Query) error {
	f, s := &e.p.Feeds[q.Feed], &e.p.Streams[q.Stream]
	e.line("\nquery %s: from %s", q.Name, f.Name)
	names := make([]string, len(s.Key))
	for i, k := range s.Key {
		names[i] = f.Columns[k].Name
	}
	key := strings.Join(names, ", ")
	e.say("key", "%s: up to %s", key, count(s.KeyWidth, "byte"))
	e.say("moves", "%s", e.moves(s, key))
	e.say("window", "%s, %s open at a time%s", config.FormatDuration(q.Width), count(q.Panes, "window"), offset(q.Offset))
	e.say("watermark", "%s", watermark(f, q))
	e.say("keys", "%d in one window, on the box; %d slots in each of 1024 key groups", q.Keys, slots(q.Keys))
	for i, a := range q.Aggregates {
		about := ""
		if i == 0 {
			about = "select"
		}
		e.say(about, "%s: %s", a.Name, e.aggregate(q, &a))
	}
	if e.o.State != nil {
		n, err := e.o.State(q, f.Columns)
		if err != nil {
			return fmt.Errorf("explain: query %s: %w", q.Name, err)
		}
		e.say("state", "%s a key and window, beside the key", count(n, "byte"))
	}
	if n := floats(q); n > 0 {
		e.say("floats", "%s of float64: about %d bytes and %d ns an event each, so that the result does not depend on the order of events; of a decimal(N) column %d bytes and %d ns",
			count(n, "sum"), floatSumBytes, floatSumNanos, exactSumBytes, exactSumNanos)
	}
	if !q.Global {
		e.say("rows", "to %s", e.sinks(q.Sinks))
		return nil
	}
	e.say("rows", "of the group, those that this box owns, to %s", e.sinks(q.Sinks))
	if len(q.LocalSinks) > 0 {
		e.say("", "of this box alone to %s", e.sinks(q.LocalSinks))
	}
	return nil
}

func (e *explainer) sinks(names []string) string {
	var out []string
	for _, s := range e.c.Sinks {
		switch {
		case !slices.Contains(names, s.Name):
		case s.RDMAWrite != nil:
			out = append(out, fmt.Sprintf("%s (a ring in memory at %s, transport %s)", s.Name, s.RDMAWrite.Address, s.RDMAWrite.Transport))
		case s.JSONL != nil:
			to := s.JSONL.Path
			if to == "-" {
				to = "standard output"
			}
			out = append(out, fmt.Sprintf("%s (JSON Lines, %s)", s.Name, to))
		}
	}
	return strings.Join(out, ", ")
}

func offset(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return ", shifted by " + config.FormatDuration(d)
}

// slots is the room of one key group: DESIGN, State.
func slots(keys int) int {
	const groups = event.GroupCount
	lambda := float64(keys) / groups
	return int(math.Ceil((lambda + 6*math.Sqrt(lambda) + 8) / 0.8))
}

func (e *explainer) moves(s *plan.Stream, key string) string {
	switch {
	case s.KernelHash:
		return "nothing: packets are placed by the key's own bytes, and the kernel's hash is the event's"
	case e.p.Workers == 1:
		return "nothing: there is one worker"
	}
	return fmt.Sprintf("an exchange takes each event from the worker of its packet to the owner of its key: %d of %d events, unless packets of one %s come to its owner anyway", e.p.Workers-1, e.p.Workers, key)
}

func watermark(f *plan.Feed, q *plan.Query) string {
	source, past := "the feed has", ""
	if f.Sequence != plan.Unsequenced {
		source = "every channel has"
	}
	if q.Delay > 0 {
		past = config.FormatDuration(q.Delay) + " past "
	}
	out := fmt.Sprintf("a window closes when %s shown an event time %sits end; what comes for it later is late, dropped and counted", source, past)
	if q.Delay == 0 {
		out += "; without a delay every event out of order may be late"
	}
	if q.Idle > 0 {
		out += fmt.Sprintf("; in run a source that is silent for %s holds nothing back", config.FormatDuration(q.Idle))
	}
	return out
}

// aggregate says what a value is, with its type.
func (e *explainer) aggregate(q *plan.Query, a *plan.Aggregate) string {
	expr := ""
	for i := range e.c.Queries {
		if e.c.Queries[i].Name != q.Name {
			continue
		}
		for _, v := range e.c.Queries[i].Select {
			if v.Name == a.Name {
				expr = string(v.Expr)
			}
		}
	}
	return strings.Join(strings.Fields(expr), " ") + ", " + resultType(a)
}

func resultType(a *plan.Aggregate) string {
	float := false
	for i := range a.Args {
		float = float || a.Args[i].Type == event.Float64
	}
	switch a.Kind {
	case plan.Count, plan.CountValues:
		return "int64"
	case plan.Variance:
		return "float64"
	case plan.Mean, plan.VWAP:
		if float {
			return "float64"
		}
		return "decimal(8)"
	}
	out := typeName(a.Args[0].Type, a.Args[0].Scale)
	if a.Kind == plan.Sum && !float {
		out += " of up to 38 digits"
	}
	return out
}

// floats counts the sums of float64 values that q keeps.
func floats(q *plan.Query) int {
	n := 0
	for _, a := range q.Aggregates {
		float := false
		for i := range a.Args {
			float = float || a.Args[i].Type == event.Float64
		}
		if !float {
			continue
		}
		switch a.Kind {
		case plan.Sum, plan.Mean:
			n++
		case plan.Variance, plan.VWAP:
			n += 2
		}
	}
	return n
}

func (e *explainer) memory() error {
	if e.o.Memory == nil {
		return nil
	}
	lines, err := e.o.Memory(e.p)
	if err != nil {
		return fmt.Errorf("explain: memory: %w", err)
	}
	e.line("\nmemory, taken at start")
	sum := 0
	for _, l := range lines {
		sum += l.Bytes
	}
	width := len(size(sum))
	for _, l := range lines {
		width = max(width, len(size(l.Bytes)))
	}
	for _, l := range lines {
		e.say(fmt.Sprintf("%*s", width, size(l.Bytes)), "%s", l.Label)
	}
	e.say(fmt.Sprintf("%*s", width, size(sum)), "in all (%d bytes)", sum)
	return nil
}

// size writes a number of bytes with a unit, to a tenth.
func size(n int) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	unit := (bits.Len(uint(n)) - 1) / 10
	name := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}[unit]
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(uint64(1)<<(10*unit))), ".0") + " " + name
}
