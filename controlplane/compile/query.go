package compile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// opsMax bounds the operations of one expression.
const opsMax = 1000

// A query is a query while its feed is being settled.
type query struct {
	config     *config.Query
	index      int // in plan.Queries
	reader     *reader
	key        []int // of feed.columns
	where      *tree
	aggregates []aggregate
}

type aggregate struct {
	name string
	kind plan.AggregateKind
	args []*tree
}

// aggregates are the functions of select.
var aggregates = map[string]struct {
	kind plan.AggregateKind
	args int // needed; count takes none or one
	form string
}{
	"count": {plan.Count, 0, "count() counts events, count(x) values"}, "sum": {plan.Sum, 1, "write sum(x)"},
	"min": {plan.Min, 1, "write min(x)"}, "max": {plan.Max, 1, "write max(x)"},
	"first": {plan.First, 1, "write first(x)"}, "last": {plan.Last, 1, "write last(x)"},
	"mean": {plan.Mean, 1, "write mean(x)"}, "variance": {plan.Variance, 1, "write variance(x)"},
	"vwap": {plan.VWAP, 2, "write vwap(price, size)"},
}

const aggregateNames = "the aggregates are count, sum, min, max, first, last, mean, variance and vwap"

// query types one query's key, where and select.
func (b *builder) query(c *config.Query) {
	index := len(b.plan.Queries)
	b.plan.Queries = append(b.plan.Queries, plan.Query{Name: c.Name})
	i := slices.IndexFunc(b.c.Feeds, func(f config.Feed) bool { return f.Name == c.From })
	panes := b.panes(c)
	if i < 0 || !b.feeds[i].known || len(b.feeds[i].columns) == 0 {
		return // said already; every column would look unknown
	}
	f := b.feeds[i]
	q := &query{config: c, index: index, reader: &reader{feed: f}}
	b.key(f, q)
	if c.Where != nil && !b.c.Bad("queries", c.Name, "where") {
		q.where = b.where(q)
	}
	for k := range c.Select {
		v := &c.Select[k]
		if !b.c.Bad("queries", c.Name, "select", v.Name) {
			b.value(q, v)
		}
	}
	b.plan.Queries[index] = plan.Query{
		Name: c.Name, Feed: i,
		Width: c.Window.Tumbling.D(), Offset: c.Window.Offset.D(),
		Delay: c.Watermark.Delay.D(), Idle: c.Watermark.Idle.D(),
		Keys: c.Keys, Panes: panes, Sinks: c.Sinks,
	}
	if b.global(c) {
		out := &b.plan.Queries[index]
		out.Global, out.LocalSinks = true, c.LocalSinks
	}
	f.queries = append(f.queries, q)
}

const panesMax = 65536

// panes returns how many panes may be open. Between the watermark and the newest
// event lies delay: it touches ⌈delay/width⌉ + 1 windows. Eight more are for
// sources that are ahead.
func (b *builder) panes(c *config.Query) int {
	if b.c.Bad("queries", c.Name, "window") || b.c.Bad("queries", c.Name, "watermark") || c.Window.Tumbling <= 0 {
		return 1
	}
	width, delay := c.Window.Tumbling.D(), c.Watermark.Delay.D()
	need := int64(delay / width)
	if delay%width != 0 {
		need++
	}
	need++
	switch {
	case need+8 > panesMax:
		b.c.Report(b.c.Pos("queries", c.Name, "watermark", "delay"), fmt.Sprintf("a delay of %s keeps %d windows of %s open", config.FormatDuration(delay), need, config.FormatDuration(width)),
			fmt.Sprintf("at most %d: widen the window or shorten the delay", panesMax-8), "")
		return 1
	case c.Panes == 0:
		return int(need) + 8
	case int64(c.Panes) < need && !b.c.Bad("queries", c.Name, "panes"):
		b.c.Report(b.c.Pos("queries", c.Name, "panes"), fmt.Sprintf("%s: too few for a delay of %s and windows of %s", plural(c.Panes, "pane"), config.FormatDuration(delay), config.FormatDuration(width)),
			fmt.Sprintf("at least %d, or leave panes out", need), "")
	}
	return c.Panes
}

// key resolves the key's columns.
func (b *builder) key(f *feed, q *query) {
	least := 0
	for i, name := range q.config.Key {
		at := b.c.Pos("queries", q.config.Name, "key", strconv.Itoa(i))
		k := f.column(name)
		if k < 0 {
			b.c.Report(at, fmt.Sprintf("feed %s has no column %q", f.config.Name, name), "its columns are "+orNone(f.names()), config.Nearest(name, f.names()))
			continue
		}
		col := f.columns[k]
		switch col.Type {
		case event.Float64:
			b.c.Report(at, fmt.Sprintf("column %s is float64, which cannot be a key", name), "a key is made of text, int64 and decimal(N)", "")
		case event.Int64:
			least += 8
		case event.Decimal:
			least += 9
		}
		q.key = append(q.key, k)
	}
	if len(q.key) > 1 {
		least += 2 * len(q.key)
	}
	if least > event.KeyMax {
		b.c.Report(b.c.Pos("queries", q.config.Name, "key"), fmt.Sprintf("every key would have at least %d bytes", least), fmt.Sprintf("at most %d: use fewer columns", event.KeyMax), "")
	}
}

// keyWidth returns the greatest length of a canonical key; longer ones are dropped.
func (f *feed) keyWidth(key []int) int {
	n := 0
	for _, k := range key {
		switch f.columns[k].Type {
		case event.Int64:
			n += 8
		case event.Decimal:
			n += 9
		default:
			n += f.widths[k]
		}
		if len(key) > 1 {
			n += 2
		}
	}
	return min(n, event.KeyMax)
}

// mistake reports err at its place in the expression at path.
func (b *builder) mistake(err error, path ...string) {
	if errors.Is(err, errSaid) {
		return
	}
	m := &mistake{message: err.Error()}
	errors.As(err, &m)
	b.c.Report(b.c.PosWithin(m.at, path...), m.message, m.allowed, m.fix)
}

func (b *builder) where(q *query) *tree {
	path := []string{"queries", q.config.Name, "where"}
	n, err := q.reader.open(string(*q.config.Where))
	if err != nil {
		b.mistake(err, path...)
		return nil
	}
	t, err := q.reader.read(n)
	switch {
	case err != nil:
	case t.typ != event.Bool:
		err = mistakeAt(n, "where is "+t.describe(), `write a comparison, such as size > 0`, "")
	case t.size() > opsMax:
		err = mistakeAt(n, "the expression is too long", fmt.Sprintf("at most %d operations", opsMax), "")
	}
	if err != nil {
		b.mistake(err, path...)
		return nil
	}
	return t
}

func (r *reader) open(text string) (ast.Node, error) {
	r.text = []rune(text)
	return parse(text)
}

// value types one value of select.
func (b *builder) value(q *query, v *config.Value) {
	n, err := q.reader.open(string(v.Expr))
	if err == nil {
		var a aggregate
		if a, err = q.reader.aggregate(n); err == nil {
			a.name = v.Name
			q.aggregates = append(q.aggregates, a)
			return
		}
	}
	b.mistake(err, "queries", q.config.Name, "select", v.Name)
}

// aggregate types an aggregate and its arguments.
func (r *reader) aggregate(n ast.Node) (aggregate, error) {
	call, ok := n.(*ast.CallNode)
	if !ok {
		fix := ""
		if id, ok := n.(*ast.IdentifierNode); ok {
			fix = "last(" + id.Value + ")"
			if _, known := aggregates[id.Value]; known {
				fix = id.Value + "()"
			}
		}
		if _, ok := n.(*ast.BinaryNode); ok {
			return aggregate{}, mistakeAt(n, "a value is one aggregate", "arithmetic goes into the argument, as in sum(price * size)", "")
		}
		return aggregate{}, mistakeAt(n, "this is not an aggregate", aggregateNames, fix)
	}
	name := callee(call)
	spec, ok := aggregates[name]
	if _, plain := call.Callee.(*ast.IdentifierNode); !ok || !plain {
		return aggregate{}, mistakeAt(n, fmt.Sprintf("there is no aggregate %s()", name), aggregateNames, nearestAggregate(name))
	}
	out := aggregate{kind: spec.kind}
	want := spec.args
	if spec.kind == plan.Count && len(call.Arguments) == 1 {
		out.kind, want = plan.CountValues, 1
	}
	if len(call.Arguments) != want {
		return aggregate{}, mistakeAt(n, fmt.Sprintf("%s() is given %s", name, plural(len(call.Arguments), "argument")), spec.form, "")
	}
	for _, x := range call.Arguments {
		t, err := r.read(x)
		if err != nil {
			return aggregate{}, err
		}
		if !t.number() && out.kind != plan.CountValues {
			return aggregate{}, mistakeAt(x, fmt.Sprintf("%s() of %s", name, t.describe()), name+" takes numbers", "")
		}
		if t.size() > opsMax {
			return aggregate{}, mistakeAt(x, "the expression is too long", fmt.Sprintf("at most %d operations", opsMax), "")
		}
		out.args = append(out.args, t)
	}
	if out.kind == plan.VWAP && out.args[0].exact() && out.args[1].exact() && out.args[0].scale+out.args[1].scale > event.ScaleMax {
		return aggregate{}, mistakeAt(n, fmt.Sprintf("vwap multiplies %s by %s: %d digits after the point", out.args[0].describe(), out.args[1].describe(), out.args[0].scale+out.args[1].scale),
			fmt.Sprintf("at most %d: declare a smaller scale", event.ScaleMax), "")
	}
	return out, nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func nearestAggregate(name string) string {
	also := map[string]string{"avg": "mean", "average": "mean", "var": "variance", "stddev": "variance", "stdev": "variance", "open": "first", "close": "last", "high": "max", "low": "min", "total": "sum", "len": "count"}[strings.ToLower(name)]
	if also != "" {
		return also
	}
	names := make([]string, 0, len(aggregates))
	for n := range aggregates {
		names = append(names, n)
	}
	slices.Sort(names)
	return config.Nearest(name, names)
}

// settle decides, when all queries of feed number i are known, which kinds and
// columns its decoder needs, and makes its streams and programs.
func (b *builder) settle(i int) {
	f := b.feeds[i]
	if !f.known {
		return
	}
	for _, q := range f.queries {
		if out := &b.plan.Queries[q.index]; out.Global {
			out.Asked = asked(q.where, f.columns)
		}
	}
	b.kinds(f)
	for _, q := range f.queries {
		for _, k := range q.key {
			f.needed[k] = true
		}
		if q.where != nil {
			q.where.columns(f.needed)
		}
		for _, a := range q.aggregates {
			for _, t := range a.args {
				t.columns(f.needed)
			}
			f.plan.Identity = f.plan.Identity || a.kind == plan.First || a.kind == plan.Last
		}
	}
	to := make([]int, len(f.columns))
	for k, c := range f.columns {
		if f.needed[k] {
			to[k] = len(f.plan.Columns)
			f.plan.Columns = append(f.plan.Columns, c)
		}
	}
	if n := len(f.plan.Columns); n > event.ColumnsMax {
		b.c.Report(b.c.KeyPos("feeds", f.config.Name), fmt.Sprintf("the queries of feed %s use %d columns", f.config.Name, n), fmt.Sprintf("at most %d: make a second feed of the same packets in another run, or use fewer", event.ColumnsMax), "")
		return
	}
	for _, q := range f.queries {
		b.stream(i, f, q, to)
	}
}

// kinds takes the union of what the queries can want, and takes out of each where
// what that already ensures.
func (b *builder) kinds(f *feed) {
	for _, q := range f.queries {
		mask := allKinds
		if q.where != nil {
			mask, _ = q.reader.kinds(q.where)
		}
		f.plan.Kinds |= mask
	}
	if len(f.format.Kinds) == 0 {
		f.plan.Kinds = allKinds
		return
	}
	for _, q := range f.queries {
		if q.where != nil {
			q.where = q.reader.without(q.where, f.plan.Kinds)
		}
	}
}

// stream puts q on the stream of its key list and fills in its programs.
func (b *builder) stream(i int, f *feed, q *query, to []int) {
	key := make([]int, len(q.key))
	for k := range key {
		key[k] = to[q.key[k]]
	}
	s := slices.IndexFunc(b.plan.Streams, func(s plan.Stream) bool { return s.Feed == i && slices.Equal(s.Key, key) })
	if s < 0 {
		s = len(b.plan.Streams)
		b.plan.Streams = append(b.plan.Streams, plan.Stream{Feed: i, Key: key, KeyWidth: f.keyWidth(q.key), KernelHash: f.kernelHash(q.key)})
	}
	stream, out := &b.plan.Streams[s], &b.plan.Queries[q.index]
	stream.Queries = append(stream.Queries, q.index)
	out.Stream = s
	if q.where != nil {
		out.Where = q.where.program(to)
	}
	used := make([]bool, len(f.columns))
	for _, a := range q.aggregates {
		x := plan.Aggregate{Name: a.name, Kind: a.kind}
		for _, t := range a.args {
			t.columns(used)
			x.Args = append(x.Args, t.program(to))
		}
		out.Aggregates = append(out.Aggregates, x)
	}
	for k, u := range used {
		if u && !slices.Contains(stream.Columns, to[k]) {
			stream.Columns = append(stream.Columns, to[k])
		}
	}
	slices.Sort(stream.Columns)
}

// kernelHash reports that the packet's placement hash is the hash of every event's
// key: a packet is one event, and the placement bytes are, byte for byte, the
// canonical key. That holds for one text column of `raw` only: an int64's canonical
// form has its sign bit flipped and is big-endian, a decimal's begins with its scale.
func (f *feed) kernelHash(key []int) bool {
	p := f.plan.Place
	if f.format.Name != "raw" || f.plan.Stride != 0 || len(key) != 1 || p.Kind != plan.PlaceBytes || !p.Trim {
		return false
	}
	c := f.columns[key[0]]
	return c.Type == event.Text && c.Offset == int(p.Offset) && c.Width == int(p.Length)
}
