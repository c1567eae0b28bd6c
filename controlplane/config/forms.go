package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// ShortForms says that interfaces may be a list of names.
func (*Interfaces) ShortForms() []ShortForm {
	return []ShortForm{{Type: "array", Doc: "a list of names, `[eth1, eth2]`"}}
}

func (i *Interfaces) decode(d *decoder, n ast.Node, p path) bool {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		if _, text := scalarText(n); text {
			return d.wrong(n, p, "write a list, such as [eth1], or a map from name to settings", "")
		}
		return d.named(n, p, reflect.ValueOf(i).Elem())
	}
	ok = true
	seen := map[string]bool{}
	for k, e := range s.Values {
		at := p.to(strconv.Itoa(k))
		r := d.resolve(e)
		if r == nil {
			d.src.markBad(at)
			return false
		}
		text, isText := scalarText(r)
		d.place(r, at)
		switch {
		case !isText:
			ok = d.wrong(r, at, "write an interface's name; settings need the form {eth1: {mode: native}}", "")
			continue
		case seen[text]:
			d.src.markBad(at)
			d.c.Report(posOf(r), fmt.Sprintf("interface %q is given twice", clip(text)), "keep one", "")
			ok = false
			continue
		case !d.name("interface", text, posOf(r)):
			d.src.markBad(at)
			ok = false
		}
		seen[text] = true
		x := Interface{Name: text}
		setDefaults(reflect.ValueOf(&x).Elem())
		d.src.keys[p.to(text)] = posOf(r)
		*i = append(*i, x)
	}
	if len(s.Values) == 0 {
		return d.wrong(n, p, "name at least one interface, or leave interfaces out", "")
	}
	return ok
}

// ShortForms says that a feed may have one rule without a list around it.
func (*Rules) ShortForms() []ShortForm {
	return []ShortForm{{Type: "object", Doc: "one rule"}, {Type: "array", Doc: "a list of rules"}}
}

const rulesMax = 256

func (r *Rules) decode(d *decoder, n ast.Node, p path) bool {
	list := []ast.Node{n}
	if text, ok := scalarText(n); ok || n.Type() == ast.NullType {
		fix := ""
		if new(Prefix).parse(text) == nil {
			fix = "{destination: " + text + "}"
		}
		return d.wrong(n, p, "write a rule, such as {protocol: udp, destination: 239.1.1.1, port: 9000}, or a list of rules", fix)
	}
	if s, ok := n.(*ast.SequenceNode); ok {
		list = s.Values
	}
	if len(list) == 0 {
		return d.wrong(n, p, "write at least one rule", "")
	}
	if len(list) > rulesMax {
		return d.wrong(n, p, fmt.Sprintf("at most %d rules", rulesMax), "")
	}
	ok := true
	for i, e := range list {
		var x Rule
		setDefaults(reflect.ValueOf(&x).Elem())
		at := p.to(strconv.Itoa(i))
		if !d.value(e, at, reflect.ValueOf(&x).Elem(), &field{}) {
			ok = false
		}
		*r = append(*r, x)
	}
	return ok
}

func (r *Rule) decode(d *decoder, n ast.Node, p path) bool {
	if !d.object(n, p, reflect.ValueOf(r).Elem()) {
		return false
	}
	if r.Protocol == "" && !r.Destination.IsValid() && r.Port == 0 && r.VLAN == 0 {
		return d.report(p, "the rule matches every packet", "give at least one of protocol, destination, port and vlan", "")
	}
	return true
}

// report adds a finding at the value at p.
func (d *decoder) report(p path, message, allowed, fix string) bool {
	d.src.markBad(p)
	d.c.Report(d.src.value(p), message, allowed, fix)
	return false
}

// FormatNames returns the names of all formats.
func FormatNames() []string {
	var d decoder
	d.types = map[reflect.Type]*structType{}
	return d.structType(reflect.TypeFor[Format]()).names
}

// ShortForms says that a format's name alone is enough.
func (*Format) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Enum: FormatNames(), Doc: "the format's name, short for {name: {}}"}}
}

func (f *Format) decode(d *decoder, n ast.Node, p path) bool {
	names := FormatNames()
	allowed := "the formats are " + strings.Join(names, ", ")
	v := reflect.ValueOf(f).Elem()
	if name, ok := scalarText(n); ok {
		if !contains(names, name) {
			if later := laterFormat(name); later != "" {
				allowed, name = later, ""
			}
			return d.wrong(n, p, allowed, nearestFormat(name, names))
		}
		f.Name = name
		x := v.Field(d.structType(v.Type()).byName[name].index)
		x.Set(reflect.New(x.Type().Elem()))
		setDefaults(x.Elem())
		return true
	}
	pairs, ok := d.mapping(n, p, "write a format's name, or a map from it to its options; "+allowed)
	if !ok {
		return false
	}
	if len(pairs) != 1 {
		return d.wrong(n, p, "write one format; "+allowed, "")
	}
	e := pairs[0]
	field := d.structType(v.Type()).byName[e.key]
	if field == nil {
		d.src.markBad(p)
		d.c.Report(e.at, fmt.Sprintf("%q is not a format", clip(e.key)), allowed, nearestFormat(e.key, names))
		return false
	}
	f.Name = e.key
	d.src.keys[p.to(e.key)] = e.at
	if _, null := d.resolve(e.value).(*ast.NullNode); null {
		x := v.Field(field.index) // `{json: }` is {json: {}}
		x.Set(reflect.New(x.Type().Elem()))
		setDefaults(x.Elem())
		return true
	}
	return d.value(e.value, p.to(e.key), v.Field(field.index), field)
}

func nearestFormat(name string, names []string) string {
	if fix := map[string]string{"itch": "itch50", "iex": "iex-deep", "deep": "iex-deep", "tops": "iex-tops", "ndjson": "json", "jsonl": "json", "tsv": "csv", "binary": "raw", "struct": "raw"}[strings.ToLower(name)]; fix != "" {
		return fix
	}
	if name == "" {
		return ""
	}
	return Nearest(strings.ReplaceAll(name, "_", "-"), names)
}

func laterFormat(name string) string {
	switch name {
	case "influx", "cme-mdp3", "statsd", "netflow", "ipfix", "coap", "avro", "protobuf":
		return "the format " + name + " comes later; now there are " + strings.Join(FormatNames(), ", ")
	}
	return ""
}

// ShortForms says that a column may be only its type.
func (*Column) ShortForms() []ShortForm { return new(ColumnType).ShortForms() }

func (c *Column) decode(d *decoder, n ast.Node, p path) bool {
	if _, ok := scalarText(n); ok {
		return d.scalar(n, p, &c.Type)
	}
	return d.object(n, p, reflect.ValueOf(c).Elem())
}

// FieldPath is the steps to a value in a JSON object.
type FieldPath []string

// ShortForms says how a path is written.
func (*FieldPath) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Doc: "steps joined by points, `telemetry.speed`"}, {Type: "array", Doc: "a list of steps, for names that hold a point"}}
}

const stepMax = 8

func (f *FieldPath) decode(d *decoder, n ast.Node, p path) bool {
	var steps []string
	if list, ok := n.(*ast.SequenceNode); ok {
		for _, e := range list.Values {
			s, ok := d.resolve(e).(*ast.StringNode)
			if !ok {
				return d.wrong(n, p, "each step is text", "")
			}
			steps = append(steps, s.Value)
		}
	} else {
		s, ok := n.(*ast.StringNode)
		if !ok {
			return d.wrong(n, p, "write steps joined by points, such as telemetry.speed, or a list of steps", "")
		}
		steps = strings.Split(s.Value, ".")
	}
	if len(steps) == 0 || len(steps) > stepMax || contains(steps, "") {
		return d.wrong(n, p, fmt.Sprintf("a path has 1 to %d steps, none of them empty", stepMax), "")
	}
	*f = steps
	return true
}

func (t *Time) decode(d *decoder, n ast.Node, p path) bool {
	const allowed = "write {column: timestamp, unit: rfc3339} or {receive: true}"
	if s, ok := n.(*ast.StringNode); ok {
		fix := ""
		if s.Value == "receive" {
			fix = "{receive: true}"
		}
		return d.wrong(n, p, allowed, fix)
	}
	if !d.object(n, p, reflect.ValueOf(t).Elem()) {
		return false
	}
	switch {
	case t.Receive && (t.Column != "" || t.Unit != ""):
		return d.report(p, "time is both a column and the receipt", allowed, "")
	case t.Receive:
		return true
	case t.Column == "":
		return d.report(p, "time names no column", allowed, "")
	case t.Unit == "":
		return d.report(p, "time is missing its field \"unit\"", "write unit: rfc3339, s, ms, us or ns", "")
	}
	return true
}

// ShortForms says that a place may be the word channel.
func (*Place) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Enum: []string{"channel"}, Doc: "`channel`, for sequenced formats"}}
}

func (l *Place) decode(d *decoder, n ast.Node, p path) bool {
	const allowed = "write channel, {tuple: [source, source_port]}, {bytes: [0, 8]} or {until: [0, \",\"]}"
	if text, ok := scalarText(n); ok {
		l.Channel = text == "channel"
		if !l.Channel {
			return d.wrong(n, p, allowed, Nearest(text, []string{"channel"}))
		}
		return true
	}
	if !d.object(n, p, reflect.ValueOf(l).Elem()) {
		return false
	}
	forms := 0
	for _, given := range []bool{l.Tuple != nil, l.Bytes != nil, l.Until != nil} {
		if given {
			forms++
		}
	}
	switch {
	case forms != 1:
		return d.report(p, fmt.Sprintf("place has %d of tuple, bytes and until", forms), allowed, "")
	case l.Trim && l.Bytes == nil:
		return d.report(p.to("trim"), "trim goes with bytes only", "take it out", "")
	case l.Symmetric && l.Tuple == nil:
		return d.report(p.to("symmetric"), "symmetric goes with tuple only", "take it out", "")
	}
	return l.checkTuple(d, p)
}

func (l *Place) checkTuple(d *decoder, p path) bool {
	has := map[string]bool{}
	for i, f := range l.Tuple {
		if has[f] {
			return d.report(p.to("tuple").to(strconv.Itoa(i)), fmt.Sprintf("%s is given twice", f), "keep one", "")
		}
		has[f] = true
	}
	if l.Symmetric && (!has["source"] || !has["destination"] || has["source_port"] != has["destination_port"]) {
		return d.report(p.to("symmetric"), "symmetric needs both ends", "name source and destination, and source_port and destination_port or none of them", "")
	}
	return true
}

// Span is [offset, length] in the payload.
type Span struct{ Offset, Length int }

// ShortForms says how a span is written.
func (*Span) ShortForms() []ShortForm {
	return []ShortForm{{Type: "array", Doc: "[offset, length]: offset 0 to 2047, length 1 to 64"}}
}

const payloadMax = 2048 // a frame's chunk: no payload byte lies beyond

func (s *Span) decode(d *decoder, n ast.Node, p path) bool {
	const wants = "write [offset, length], such as [0, 8]: offset 0 to 2047, length 1 to 64"
	list, ok := d.sequence(n, p, wants)
	if !ok {
		return false
	}
	if len(list) != 2 {
		return d.wrong(n, p, wants, "")
	}
	f := &field{min: 0, max: payloadMax - 1}
	g := &field{min: 1, max: 64}
	v := reflect.ValueOf(s).Elem()
	a := d.value(list[0], p.to("0"), v.Field(0), f)
	b := d.value(list[1], p.to("1"), v.Field(1), g)
	return a && b
}

// Until is [offset, delimiter].
type Until struct {
	Offset    int
	Delimiter Delimiter
}

// ShortForms says how it is written.
func (*Until) ShortForms() []ShortForm {
	return []ShortForm{{Type: "array", Doc: `[offset, delimiter]: offset 0 to 2047, delimiter one ASCII character in quotes`}}
}

func (u *Until) decode(d *decoder, n ast.Node, p path) bool {
	const wants = `write [offset, delimiter], such as [0, ","]`
	list, ok := d.sequence(n, p, wants)
	if !ok {
		return false
	}
	if len(list) != 2 {
		return d.wrong(n, p, wants+"; the delimiter needs quotes", "")
	}
	v := reflect.ValueOf(u).Elem()
	a := d.value(list[0], p.to("0"), v.Field(0), &field{min: 0, max: payloadMax - 1})
	b := d.value(list[1], p.to("1"), v.Field(1), &field{})
	return a && b
}

func (w *Window) decode(d *decoder, n ast.Node, p path) bool {
	const allowed = "write {tumbling: 1m}"
	if text, ok := scalarText(n); ok {
		fix := ""
		if new(Duration).parse(text) == nil {
			fix = "{tumbling: " + text + "}"
		}
		return d.wrong(n, p, allowed, fix)
	}
	if !d.object(n, p, reflect.ValueOf(w).Elem()) {
		return false
	}
	if _, given := d.src.values[p.to("tumbling")]; !given {
		return d.report(p, "window names no width", allowed, "")
	}
	if w.Tumbling == 0 {
		return d.report(p.to("tumbling"), "the window's width is 0", "write a width above 0, such as 1m", "")
	}
	if w.Offset >= w.Tumbling {
		return d.report(p.to("offset"), fmt.Sprintf("offset %s is not less than the width %s", w.Offset.D(), w.Tumbling.D()),
			"write the offset within one window", (w.Offset.D() % w.Tumbling.D()).String())
	}
	return true
}

func (w *Watermark) decode(d *decoder, n ast.Node, p path) bool {
	if text, ok := scalarText(n); ok {
		fix := ""
		if new(Duration).parse(text) == nil {
			fix = "{delay: " + text + "}"
		}
		return d.wrong(n, p, "write {delay: 1m} or {delay: 1m, idle: 30s}", fix)
	}
	if !d.object(n, p, reflect.ValueOf(w).Elem()) {
		return false
	}
	if _, given := d.src.values[p.to("idle")]; given && w.Idle == 0 {
		return d.report(p.to("idle"), "idle is 0", "leave it out for sources that never become idle, or write how long, such as 30s", "")
	}
	return true
}

// ShortForms says that a value is written as its expression.
func (*Value) ShortForms() []ShortForm {
	return []ShortForm{{Type: "string", Doc: "an aggregate, such as count() or sum(price * size)"}}
}

func (v *Value) decode(d *decoder, n ast.Node, p path) bool {
	if _, null := n.(*ast.NullNode); null && strings.ContainsAny(v.Name, "()") {
		return false // the rest of an expression that a comma cut; its name says so
	}
	text, ok := scalarText(n)
	if ok && strings.Count(text, "(") > strings.Count(text, ")") && d.src.cutByComma(p) {
		d.src.markBad(p)
		d.c.Report(posOf(n), fmt.Sprintf("a comma ends the value %q here", clip(text)), "within { } write it in quotes", "")
		return false
	}
	return d.scalar(n, p, &v.Expr)
}

// cutByComma reports that a comma follows the scalar at p.
func (s *source) cutByComma(p path) bool {
	t := s.texts[p]
	end := s.within(p, len([]rune(t.text)))
	row := []rune(s.lines[min(max(end.Line, 1), len(s.lines))-1])
	return end != t.start && strings.HasPrefix(strings.TrimSpace(string(row[min(end.Column-1, len(row)):])), ",")
}

func (s *Sink) decode(d *decoder, n ast.Node, p path) bool {
	if !d.object(n, p, reflect.ValueOf(s).Elem()) {
		return false
	}
	switch {
	case s.JSONL == nil && s.RDMAWrite == nil:
		return d.report(p, fmt.Sprintf("sink %s says not what it is", clip(s.Name)), `write {jsonl: {path: rows.jsonl}}`, "")
	case s.JSONL != nil && s.RDMAWrite != nil:
		return d.report(p, fmt.Sprintf("sink %s is two things", clip(s.Name)), "jsonl or rdma-write: make two sinks of it, and name both in the query", "")
	}
	return true
}

func (x *Client) decode(d *decoder, n ast.Node, p path) bool {
	if !d.object(n, p, reflect.ValueOf(x).Elem()) {
		return false
	}
	const allowed = `write pin: "sha256:…" as headrace group init prints it, or san: and a name in the client's certificate`
	switch {
	case len(x.Pin) == 0 && x.SAN == "":
		return d.report(p, fmt.Sprintf("client %s has neither pin nor san", clip(x.Name)), allowed, "")
	case len(x.Pin) > 0 && x.SAN != "":
		return d.report(p, fmt.Sprintf("client %s has both pin and san", clip(x.Name)), "keep one: a pin says more than a name", "")
	}
	return true
}

// DefaultInterface returns the interface called name with default settings.
func DefaultInterface(name string) Interface {
	x := Interface{Name: name}
	setDefaults(reflect.ValueOf(&x).Elem())
	return x
}

// ShortForms says that a peer may have one pin without a list around it.
func (*Pins) ShortForms() []ShortForm {
	return []ShortForm{
		{Type: "string", Pattern: "^sha256:[A-Za-z0-9+/]{43}=$", Doc: "`sha256:` and base64"},
		{Type: "array", Doc: "a list of them"},
	}
}

const pinsMax = 4

func (l *Pins) decode(d *decoder, n ast.Node, p path) bool {
	list := []ast.Node{n}
	if s, ok := n.(*ast.SequenceNode); ok {
		list = s.Values
	}
	if len(list) == 0 || len(list) > pinsMax {
		return d.wrong(n, p, fmt.Sprintf("write a pin, or a list of 1 to %d", pinsMax), "")
	}
	ok := true
	for i, e := range list {
		at := p
		if n.Type() == ast.SequenceType {
			at = p.to(strconv.Itoa(i))
		}
		r := d.resolve(e)
		if r == nil {
			d.src.markBad(at)
			return false
		}
		d.place(r, at)
		s, isText := r.(*ast.StringNode)
		switch {
		case !isText:
			ok = d.wrong(r, at, `write "sha256:" and base64, in quotes`, "")
			continue
		case contains(*l, s.Value):
			ok = d.report(at, "the pin is given twice", "keep one", "")
			continue
		}
		if bad := pinProblem(s.Value); bad != nil {
			ok = d.report(at, bad.message, bad.allowed, bad.fix)
			continue
		}
		*l = append(*l, s.Value)
	}
	return ok
}
