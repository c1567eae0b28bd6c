package compile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
)

// A feed is a feed while its queries are being compiled.
type feed struct {
	config *config.Feed
	format wire.Format
	known  bool // the format is
	plan   plan.Feed
	// columns are all that a query may name, width their greatest length as text.
	columns []plan.Column
	widths  []int
	// needed are the columns that some query uses, of columns.
	needed  []bool
	queries []*query
}

// names returns the names of f's columns.
func (f *feed) names() []string {
	out := make([]string, len(f.columns))
	for i := range f.columns {
		out[i] = f.columns[i].Name
	}
	return out
}

func (f *feed) column(name string) int {
	return slices.IndexFunc(f.columns, func(c plan.Column) bool { return c.Name == name })
}

func (b *builder) feed(c *config.Feed) *feed {
	f := &feed{config: c, plan: plan.Feed{Name: c.Name, Format: c.Format.Name}}
	f.plan.Rules = b.rules(c)
	if c.Format.Name == "" {
		return f // said already
	}
	f.format, f.known = b.o.Formats(c.Format.Name)
	if !f.known {
		b.c.Report(b.c.Pos("feeds", c.Name, "format"), fmt.Sprintf("format %s is not built in", c.Format.Name), "build headrace with it", "")
		return f
	}
	f.plan.Sequence = f.format.Sequence
	if f.format.Fields != nil {
		b.builtIn(f)
	} else {
		b.declared(f)
	}
	f.needed = make([]bool, len(f.columns))
	b.time(f)
	b.place(f)
	b.limits(f)
	if c.Format.CSV != nil {
		f.plan.Delimiter = byte(c.Format.CSV.Delimiter)
	}
	if c.Format.Raw != nil {
		f.plan.LittleEndian = c.Format.Raw.Order == "little"
		f.plan.Stride = c.Format.Raw.Stride
	}
	return f
}

var protocols = map[string]uint8{"tcp": 6, "udp": 17}

// rules returns c's rules. A rule without a protocol becomes one for each, except
// where another rule says the same with that protocol: it is more specific.
func (b *builder) rules(c *config.Feed) []plan.Rule {
	var out []plan.Rule
	for _, r := range c.Match {
		x := plan.Rule{Destination: r.Destination.Prefix, Port: uint16(r.Port), VLAN: uint16(r.VLAN)}
		if r.Line != "" {
			x.Line = r.Line[0] - 'A'
		}
		for _, name := range []string{"udp", "tcp"} {
			if r.Protocol != "" && r.Protocol != name || r.Protocol == "" && b.taken(r, name) {
				continue
			}
			x.Protocol = protocols[name]
			out = append(out, x)
		}
	}
	return out
}

func (b *builder) taken(r config.Rule, protocol string) bool {
	for _, f := range b.c.Feeds {
		for _, o := range f.Match {
			if o.Protocol == protocol && o.Destination == r.Destination && o.Port == r.Port && o.VLAN == r.VLAN {
				return true
			}
		}
	}
	return false
}

// builtIn takes the columns of a format that brings them.
func (b *builder) builtIn(f *feed) {
	if b.c.Has("feeds", f.config.Name, "columns") {
		b.c.Report(b.c.KeyPos("feeds", f.config.Name, "columns"), fmt.Sprintf("format %s brings its own columns", f.format.Name),
			"take columns out; they are "+strings.Join(fieldNames(f.format), ", "), "")
	}
	for i, x := range f.format.Fields {
		f.columns = append(f.columns, plan.Column{Name: x.Name, Type: x.Type, Scale: x.Scale, Field: i})
		w := x.Width
		if w == 0 || w > event.TextMax {
			w = event.TextMax
		}
		f.widths = append(f.widths, w)
	}
}

func fieldNames(w wire.Format) []string {
	out := make([]string, len(w.Fields))
	for i := range w.Fields {
		out[i] = w.Fields[i].Name
	}
	return out
}

// declared takes the columns that the config declares.
func (b *builder) declared(f *feed) {
	c := f.config
	if len(c.Columns) == 0 && !b.c.Bad("feeds", c.Name, "columns") {
		b.c.Report(b.c.KeyPos("feeds", c.Name), fmt.Sprintf("feed %s is missing its columns: format %s has none of its own", c.Name, f.format.Name),
			"write columns: and below it each column's name and type", "")
	}
	for i := range c.Columns {
		col := &c.Columns[i]
		p := plan.Column{Name: col.Name, Type: col.Type.Type, Scale: col.Type.Scale}
		width := event.TextMax
		b.onlyFor(f, col, "path", f.format.Name == "json")
		b.onlyFor(f, col, "index", f.format.Name == "csv")
		b.onlyFor(f, col, "offset", f.format.Name == "raw")
		b.onlyFor(f, col, "width", f.format.Name == "raw")
		switch f.format.Name {
		case "json":
			p.Path = col.Path
			if p.Path == nil {
				p.Path = []string{col.Name}
			}
		case "csv":
			p.Index = i
			if col.Index != nil {
				p.Index = *col.Index
			}
		case "raw":
			if !b.c.Bad("feeds", c.Name, "columns", col.Name) {
				p.Offset, p.Width = b.layout(f, col)
				width = p.Width
			}
		}
		f.columns, f.widths = append(f.columns, p), append(f.widths, width)
	}
}

func (b *builder) onlyFor(f *feed, col *config.Column, field string, ok bool) {
	if !ok && b.c.Has("feeds", f.config.Name, "columns", col.Name, field) {
		b.c.Report(b.c.KeyPos("feeds", f.config.Name, "columns", col.Name, field), fmt.Sprintf("format %s has no %s of a column", f.format.Name, field), "take it out", "")
	}
}

// layout checks where a raw column lies.
func (b *builder) layout(f *feed, col *config.Column) (offset, width int) {
	at := []string{"feeds", f.config.Name, "columns", col.Name}
	if col.Offset == nil {
		b.c.Report(b.c.Pos(at...), fmt.Sprintf("column %s is missing its offset: a raw record has fixed places", col.Name),
			fmt.Sprintf("write %s: {type: %s, offset: 0, width: 8}", col.Name, typeName(col.Type.Type, col.Type.Scale)), "")
		return 0, 8
	}
	offset, width = *col.Offset, 8
	var allowed []int
	switch col.Type.Type {
	case event.Int64, event.Decimal:
		allowed = []int{1, 2, 4, 8}
	case event.Float64:
		allowed = []int{4, 8}
	}
	switch {
	case col.Width != nil:
		width = *col.Width
	case col.Type.Type == event.Text:
		b.c.Report(b.c.Pos(at...), fmt.Sprintf("text column %s is missing its width", col.Name), "write width: and its length in bytes, 1 to 64", "")
	}
	if allowed != nil && !slices.Contains(allowed, width) {
		words := make([]string, len(allowed))
		for i, w := range allowed {
			words[i] = strconv.Itoa(w)
		}
		b.c.Report(b.c.Pos(append(at, "width")...), fmt.Sprintf("width of %s %s is %d", typeName(col.Type.Type, col.Type.Scale), col.Name, width), "write "+config.OneOf(words), "")
	}
	end, stride := offset+width, 0
	if raw := f.config.Format.Raw; raw != nil {
		stride = raw.Stride
	}
	switch {
	case stride > 0 && end > stride:
		b.c.Report(b.c.Pos(append(at, "offset")...), fmt.Sprintf("column %s ends at byte %d, behind the stride of %d", col.Name, end, stride), "a column lies within one record", "")
	case end > payloadMax:
		b.c.Report(b.c.Pos(append(at, "offset")...), fmt.Sprintf("column %s ends at byte %d", col.Name, end), fmt.Sprintf("a UDP payload has at most %d bytes", payloadMax), "")
	}
	return offset, width
}

const payloadMax = 65507

// time settles where event time comes from.
func (b *builder) time(f *feed) {
	c, at := f.config, []string{"feeds", f.config.Name, "time"}
	if b.c.Bad(at...) {
		return
	}
	switch {
	case f.format.OwnTime:
		f.plan.Time.Unit = plan.UnitOwn
		// The own time of a packet without a protocol of its own is its receipt.
		if c.Time != nil && (f.format.Sequence != plan.Unsequenced || !c.Time.Receive) {
			b.c.Report(b.c.KeyPos(at...), fmt.Sprintf("format %s brings its own time", f.format.Name), "take time out", "")
		}
	case c.Time == nil && f.format.Fields != nil, c.Time != nil && c.Time.Receive:
		f.plan.Time.Unit = plan.UnitReceive
	case c.Time == nil:
		b.c.Report(b.c.KeyPos("feeds", c.Name), fmt.Sprintf("feed %s is missing its time: format %s has none of its own", c.Name, f.format.Name),
			"write time: {column: timestamp, unit: rfc3339} or time: {receive: true}", "")
	case f.format.Fields != nil:
		b.c.Report(b.c.KeyPos(at...), fmt.Sprintf("format %s has no column of time", f.format.Name), "take time out: it goes by receipt", "")
	default:
		b.timeColumn(f)
	}
}

func (b *builder) timeColumn(f *feed) {
	t := f.config.Time
	f.plan.Time.Unit = plan.TimeUnit(t.Unit)
	at := b.c.Pos("feeds", f.config.Name, "time", "column")
	wants := event.Int64
	if t.Unit == string(plan.UnitRFC3339) {
		wants = event.Text
	}
	i := f.column(t.Column)
	if i < 0 {
		if f.format.Name != "json" {
			b.c.Report(at, fmt.Sprintf("feed %s has no column %q for its time", f.config.Name, t.Column), "the columns are "+orNone(f.names()), config.Nearest(t.Column, f.names()))
			return
		}
		steps := strings.Split(t.Column, ".")
		if slices.Contains(steps, "") {
			b.c.Report(at, fmt.Sprintf("path %q has an empty step", t.Column), "write steps joined by points, such as meta.time", "")
		}
		f.plan.Time.Column = plan.Column{Name: t.Column, Type: wants, Path: steps}
		return
	}
	col := f.columns[i]
	if col.Type != 0 && (col.Type == event.Text) != (wants == event.Text) {
		allowed := "unit rfc3339 needs a text column, s, ms, us and ns a number"
		b.c.Report(b.c.Pos("feeds", f.config.Name, "time", "unit"), fmt.Sprintf("column %s is %s, which unit %s does not fit", col.Name, typeName(col.Type, col.Scale), t.Unit), allowed, "")
		return
	}
	f.plan.Time.Column = col
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func typeName(t event.Type, scale uint8) string {
	return config.TypeName(t, scale)
}

var tupleFields = map[string]uint8{
	"source": plan.FieldSource, "destination": plan.FieldDestination, "source_port": plan.FieldSourcePort,
	"destination_port": plan.FieldDestinationPort, "protocol": plan.FieldProtocol,
}

// place settles the placement.
func (b *builder) place(f *feed) {
	c, p := f.config, f.format.Place
	at := b.c.Pos("feeds", c.Name, "place")
	sequenced := f.format.Sequence != plan.Unsequenced
	switch l := c.Place; {
	case l == nil:
	case sequenced && !l.Channel:
		if !b.c.Bad("feeds", c.Name, "place") {
			b.c.Report(at, fmt.Sprintf("format %s is sequenced: all packets of a channel must meet in one worker", f.format.Name), "write place: channel, or leave place out", "channel")
		}
	case l.Channel && !sequenced:
		b.c.Report(at, fmt.Sprintf("format %s has no channels", f.format.Name), "write {tuple: [source, source_port]}, {bytes: [0, 8]} or {until: [0, \",\"]}", "")
	case l.Tuple != nil:
		p = plan.Placement{Kind: plan.PlaceTuple, Symmetric: l.Symmetric}
		for _, name := range l.Tuple {
			p.Fields |= tupleFields[name]
		}
	case l.Bytes != nil:
		p = plan.Placement{Kind: plan.PlaceBytes, Offset: uint16(l.Bytes.Offset), Length: uint8(l.Bytes.Length), Trim: l.Trim}
	case l.Until != nil:
		p = plan.Placement{Kind: plan.PlaceUntil, Offset: uint16(l.Until.Offset), Delimiter: byte(l.Until.Delimiter)}
	}
	f.plan.Place = p
}

// limits takes the feed's bounds, and refuses those that bound nothing here.
func (b *builder) limits(f *feed) {
	c := f.config
	sequenced := f.format.Sequence != plan.Unsequenced
	itch := f.format.Name == "itch50"
	for _, x := range []struct {
		field string
		ok    bool
		why   string
	}{
		{"channels", sequenced, "is not sequenced: it has no channels"},
		{"hold", sequenced, "is not sequenced: nothing is held for order"},
		{"orders", itch, "keeps no orders"},
		{"day", itch, "brings whole times"},
		{"zone", itch, "brings whole times"},
	} {
		if !x.ok && b.c.Has("feeds", c.Name, x.field) {
			b.c.Report(b.c.KeyPos("feeds", c.Name, x.field), fmt.Sprintf("format %s %s", f.format.Name, x.why), "take "+x.field+" out", "")
		}
	}
	if sequenced {
		f.plan.Channels, f.plan.HoldPackets = c.Channels, c.Hold.Packets
		f.plan.HoldBytes, f.plan.HoldFor = int(c.Hold.Bytes), c.Hold.For.D()
	}
	if itch {
		f.plan.Orders, f.plan.Day, f.plan.Zone = c.Orders, c.Day, c.Zone
	}
}
