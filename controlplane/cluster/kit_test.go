package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/dataplane/aggregate"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

const (
	colName = iota
	colSize
	colPrice
	colX
)

var columns = []plan.Column{
	colName:  {Name: "name", Type: event.Text},
	colSize:  {Name: "size", Type: event.Int64},
	colPrice: {Name: "price", Type: event.Decimal, Scale: 4},
	colX:     {Name: "x", Type: event.Float64},
}

func argument(c int) plan.Program {
	return plan.Program{
		Ops:  []plan.Op{{Code: plan.OpColumn, Column: c, Type: columns[c].Type, Scale: columns[c].Scale}},
		Type: columns[c].Type, Scale: columns[c].Scale,
	}
}

const width = 10 // nanoseconds

// testPlan has a local query between two global ones.
func testPlan(names []string, me int) *plan.Plan {
	var all []plan.Aggregate
	add := func(name string, k plan.AggregateKind, args ...plan.Program) {
		all = append(all, plan.Aggregate{Name: name, Kind: k, Args: args})
	}
	add("n", plan.Count)
	add("volume", plan.Sum, argument(colSize))
	add("total", plan.Sum, argument(colX))
	add("open", plan.First, argument(colPrice))
	add("close", plan.Last, argument(colPrice))
	add("least", plan.Min, argument(colX))
	add("most", plan.Max, argument(colSize))
	add("mean", plan.Mean, argument(colPrice))
	add("spread", plan.Variance, argument(colX))
	p := &plan.Plan{
		Version: plan.Version, Name: "test", Workers: 2,
		Feeds:   []plan.Feed{{Name: "f", Columns: columns}},
		Streams: []plan.Stream{{Key: []int{colName}, KeyWidth: event.TextMax, Queries: []int{0, 1, 2}}},
		Queries: []plan.Query{
			{Name: "bars", Aggregates: all, Width: width, Sinks: []string{"s"}, Global: true},
			{Name: "own", Aggregates: all[:1], Width: width, Sinks: []string{"s"}},
			{Name: "volumes", Aggregates: all[:3], Width: 2 * width, Sinks: []string{"s"}, Global: true},
		},
		Group: &plan.Group{Me: names[me], Peers: names},
	}
	return p
}

func names(n int) (out []string) {
	for i := range n {
		out = append(out, string(rune('a'+i)))
	}
	return out
}

func setsOf(tb testing.TB, p *plan.Plan) (sets []*aggregate.Set, values []rows.Values) {
	tb.Helper()
	for i := range p.Queries {
		s, err := aggregate.NewSet(&p.Queries[i], columns)
		if err != nil {
			tb.Fatal(err)
		}
		sets, values = append(sets, s), append(values, s)
	}
	return sets, values
}

// An observation is one event of a test.
type observation struct {
	time  event.Nanos
	size  int64
	price int64
	x     float64
	seq   uint64
}

func anyObservation(r *rand.Rand, id windowID) observation {
	return observation{
		time: id.start + event.Nanos(r.IntN(3)), size: r.Int64N(1000), price: r.Int64N(1_000_000),
		x: math.Ldexp(r.NormFloat64(), r.IntN(60)-30), seq: r.Uint64(),
	}
}

// fold adds events to a state.
func fold(set *aggregate.Set, b *event.Batch, state []uint64, in ...observation) {
	b.Reset()
	for _, o := range in {
		n := b.N
		b.Time[n], b.Chan[n], b.Order[n], b.Seq[n], b.Index[n] = o.time, 0, 0, o.seq, 0
		b.SetText(colName, []byte("k"))
		b.SetNum(colSize, o.size)
		b.SetNum(colPrice, o.price)
		b.SetNum(colX, int64(math.Float64bits(o.x)))
		b.N++
	}
	sel, at := make([]uint16, len(in)), make([]uint32, len(in))
	for i := range sel {
		sel[i] = uint16(i)
	}
	set.Fold(state, at, b, sel)
}

func newBatch() *event.Batch { return plan.NewBatch(columns) }

// A row is what the tests look at in a line.
type row struct {
	Query        string            `json:"query"`
	Scope        string            `json:"scope"`
	Key          map[string]string `json:"key"`
	Start        time.Time         `json:"window_start"`
	End          time.Time         `json:"window_end"`
	Firing       string            `json:"firing"`
	Revision     uint32            `json:"revision"`
	Values       json.RawMessage   `json:"values"`
	Completeness struct {
		Complete *bool    `json:"complete"`
		Missing  uint64   `json:"missing"`
		Merged   []string `json:"merged"`
		Known    []string `json:"known"`
		Epoch    uint64   `json:"epoch"`
	} `json:"completeness"`
	ID string `json:"row_id"`
}

func parse(tb testing.TB, line []byte) *row {
	tb.Helper()
	r := &row{}
	if err := json.Unmarshal(line, r); err != nil {
		tb.Fatalf("%v: %s", err, line)
	}
	return r
}

// short is a row as stories show it.
func (r *row) short() string {
	c := "null"
	if r.Completeness.Complete != nil {
		c = fmt.Sprint(*r.Completeness.Complete)
	}
	return fmt.Sprintf("%s %s [%d,%d) r%d %s complete=%s missing=%d merged=%s epoch=%d %s", r.Query, r.Key["name"], r.Start.UnixNano(), r.End.UnixNano(),
		r.Revision, r.Firing, c, r.Completeness.Missing, strings.Join(r.Completeness.Merged, ""), r.Completeness.Epoch, r.Values)
}

// A link is a box's view of the group: what the test says.
type link struct {
	epoch    rdma.Epoch
	exchange func(head []byte, parts [][]byte) (*rdma.Gathered, error)
	late     *rdma.Late
}

func (l *link) Wait(time.Duration) rdma.News { return 0 }
func (l *link) Epoch() rdma.Epoch            { return l.epoch }
func (l *link) Wake()                        {}

func (l *link) Exchange(head []byte, parts [][]byte) (*rdma.Gathered, error) {
	if l.exchange == nil {
		panic("the test exchanges")
	}
	return l.exchange(head, parts)
}

func (l *link) Late() *rdma.Late {
	late := l.late
	l.late = nil
	return late
}

// A put is one record in a box's outbox.
type put struct {
	worker int
	part   outbox.Partial
}

// An injection is rows on their way into a box's sink.
type injection struct {
	lines   [][]byte
	written func()
	shown   bool
}

// A box is one peer of a test: a data plane's outbox, a control process that may die,
// and a sink.
type box struct {
	t     testing.TB
	world *world
	me    int
	link  *link
	*Cluster
	tap     *Tap
	outbox  [][]put // [worker]
	from    []uint64
	levels  []uint64
	read    []int
	sink    []injection
	up      bool
	whole   bool // its data plane ended in good order
	ended   bool
	refuse  func() bool // the sink is full
	stuck   bool        // it takes rows and does not write them
	emitted int
}

// A world is a group of boxes, the rows of all of them, and what those should be.
type world struct {
	t       testing.TB
	names   []string
	plan    *plan.Plan
	sets    []*aggregate.Set
	batch   *event.Batch
	config  Config
	now     time.Duration
	epoch   rdma.Epoch
	round   uint64
	boxes   []*box
	rows    map[string][]byte // by row_id and revision
	parsed  []*row
	truth   map[truthID][]uint64
	lots    int  // rows that are given out at a time, if not as always
	spoiled bool // some box that has died since had counted a loss
}

type truthID struct {
	peer int
	id   windowID
	key  string
}

func newWorld(tb testing.TB, peers int, c Config) *world {
	tb.Helper()
	w := &world{t: tb, names: names(peers), config: c, now: 1, batch: newBatch(), rows: map[string][]byte{}, truth: map[truthID][]uint64{}}
	w.plan = testPlan(w.names, 0)
	w.sets, _ = setsOf(tb, w.plan)
	for i := range peers {
		b := &box{t: tb, world: w, me: i, outbox: make([][]put, 2), from: make([]uint64, 2)}
		w.boxes = append(w.boxes, b)
		b.start()
	}
	return w
}

// start starts the box's control process, which knows nothing.
func (b *box) start() {
	b.t.Helper()
	c := b.world.config
	c.Plan, c.Names, c.Me = testPlan(b.world.names, b.me), b.world.names, b.me
	c.Sets, c.Values = setsOf(b.t, c.Plan)
	b.link = &link{}
	c.Group = b.link
	c.Now = func() time.Duration { return b.world.now }
	c.Emit = b.inject
	var err error
	if b.Cluster, err = New(c); err != nil {
		b.t.Fatal(err)
	}
	if b.world.lots > 0 {
		b.lot, b.burst = b.world.lots, 2
	}
	b.up = true
	b.attach()
	if b.ended {
		b.Finish()
	}
}

// attach gives the data plane's records to the control process, from where the one
// before it needed them.
func (b *box) attach() {
	b.read = make([]int, len(b.outbox))
	b.tap = b.Tap(Generation{Workers: len(b.outbox), Outboxes: len(b.outbox)})
	if b.levels != nil {
		b.engine.contributor.resume(b.levels)
		b.tap.commit.Levels, b.levels = b.levels, nil // another data plane has none
	}
	for w, at := range b.from {
		b.tap.resume = append(b.tap.resume, at)
		b.tap.given[w] = at
		b.tap.acked[w].Store(at)
		b.read[w] = int(at)
	}
}

// crash ends the control process. What it had injected may have been written or not.
func (b *box) crash(written int) {
	b.world.spoiled = b.world.spoiled || b.losses()
	b.from = b.from[:0]
	for w := range b.outbox {
		b.from = append(b.from, b.tap.Acked(w))
	}
	for i, in := range b.sink {
		if i < written {
			b.write(in)
		}
	}
	b.levels = slices.Clone(b.tap.commit.Levels)
	b.sink, b.up = nil, false
}

// losses reports that the box has counted something that cannot be made good.
func (b *box) losses() bool {
	for q := range b.world.plan.Queries {
		n, own := b.engine.member.registry.counts[q], b.engine.contributor.counts[q]
		if n.unknown+n.short+n.late+b.engine.member.unmade[q]+b.engine.member.shed[q] > 0 || own != (keeps{again: own.again, lonely: own.lonely}) {
			return true
		}
	}
	return false
}

func (b *box) inject(in []export.InjectedRow, written func()) bool {
	if b.refuse != nil && b.refuse() {
		return false
	}
	i := injection{written: written}
	for _, r := range in {
		i.lines = append(i.lines, slices.Clone(r.Line))
	}
	b.sink = append(b.sink, i)
	return true
}

// write puts rows into the file.
func (b *box) write(in injection) {
	for _, line := range in.lines {
		b.world.see(b, line)
	}
}

// flush writes the first n injections and reports them written.
func (b *box) flush(n int) {
	if n = min(n, len(b.sink)); b.stuck {
		return
	}
	for _, in := range b.sink[:n] {
		b.write(in)
		in.written()
	}
	b.sink = b.sink[n:]
}

// see checks a row that is out against those that were before.
func (w *world) see(b *box, line []byte) {
	w.t.Helper()
	r := parse(w.t, line)
	id := fmt.Sprintf("%s/%d", r.ID, r.Revision)
	if old, ok := w.rows[id]; ok {
		if string(old) != string(line) {
			w.t.Fatalf("box %s: two rows of one id and revision:\n%s%s", w.names[b.me], old, line)
		}
		return
	}
	w.rows[id] = line
	w.parsed = append(w.parsed, r)
	b.emitted++
}

// put puts a record into worker's outbox; partials are remembered.
func (b *box) put(worker int, p outbox.Partial) {
	b.outbox[worker] = append(b.outbox[worker], put{worker, p})
	if p.Kind == outbox.KindPartial {
		id := windowID{p.Query, p.Start, p.End}
		state := b.world.truth[truthID{b.me, id, string(p.Key)}]
		if state == nil {
			state = make([]uint64, len(p.State))
			b.world.truth[truthID{b.me, id, string(p.Key)}] = state
		}
		b.world.sets[p.Query].Merge(state, p.State)
	}
}

// partial puts a window's state of one key.
func (b *box) partial(worker int, id windowID, key string, f outbox.Firing, flags uint8, missing uint64, in ...observation) {
	set := b.world.sets[id.query]
	state := make([]uint64, set.Words())
	fold(set, b.world.batch, state, in...)
	b.put(worker, outbox.Partial{
		Kind: outbox.KindPartial, Firing: f, Flags: flags, Query: id.query, Start: id.start, End: id.end, Missing: missing, Key: []byte(key), State: state,
	})
}

func (b *box) windowDone(worker int, id windowID, f outbox.Firing, flags uint8, missing uint64) {
	b.put(worker, outbox.Partial{Kind: outbox.KindDone, Firing: f, Flags: flags, Query: id.query, Start: id.start, End: id.end, Missing: missing})
}

func (b *box) watermark(worker int, query uint16, end event.Nanos) {
	b.put(worker, outbox.Partial{Kind: outbox.KindWatermark, Query: query, End: end})
}

// pump gives the control process the next n records of a worker.
func (b *box) pump(worker, n int) {
	for ; n > 0 && b.read[worker] < len(b.outbox[worker]); n-- {
		p := b.outbox[worker][b.read[worker]].part
		b.read[worker]++
		b.tap.Record(worker, &p, uint64(b.read[worker]))
	}
}

func (b *box) pumpAll() {
	for w := range b.outbox {
		b.pump(w, len(b.outbox[w]))
	}
}

// unread reports that there are records which the control process has not seen.
func (b *box) unread() bool {
	for w := range b.outbox {
		if b.read[w] < len(b.outbox[w]) {
			return true
		}
	}
	return false
}

// enter makes members the epoch; other boxes are in none.
func (w *world) enter(members collective.Set) {
	number := w.epoch.Number + 1
	w.epoch = rdma.Epoch{Number: number, Members: members}
	w.round = 0
	for _, b := range w.boxes {
		b.link.epoch = rdma.Epoch{}
		if members.Has(b.me) && b.up {
			b.link.epoch = w.epoch
			b.link.epoch.Me = b.me
		}
	}
}

// contribute asks all members what they say, and gathers it for each of them.
func (w *world) contribute() []*rdma.Gathered {
	w.round++
	var heads [][]byte
	var parts [][][]byte
	for p := range w.epoch.Members.All {
		b := w.boxes[p]
		head, bodies := b.engine.contribute(w.epoch, w.now)
		heads = append(heads, slices.Clone(head))
		var copies [][]byte
		for _, body := range bodies {
			copies = append(copies, slices.Clone(body))
		}
		parts = append(parts, copies)
	}
	out := make([]*rdma.Gathered, len(w.boxes))
	for p := range w.epoch.Members.All {
		g := &rdma.Gathered{Epoch: w.epoch, Round: w.round}
		i := 0
		for q := range w.epoch.Members.All {
			g.From = append(g.From, rdma.Part{Peer: q, Header: heads[i], Body: parts[i][p]})
			i++
		}
		out[p] = g
	}
	return out
}

// commit has one round of the present epoch.
func (w *world) commit() {
	for p, g := range w.contribute() {
		if g != nil {
			w.boxes[p].take(g)
		}
	}
}

func (b *box) take(g *rdma.Gathered) {
	b.engine.take(g, b.world.now)
	b.free()
	b.give()
}

// expect returns what box-by-box states of the named peers make together, as the
// row's values.
func (w *world) expect(id windowID, key string, merged []string) (string, bool) {
	set := w.sets[id.query]
	var state []uint64
	for p, name := range w.names {
		if s := w.truth[truthID{p, id, key}]; s != nil && slices.Contains(merged, name) {
			if state == nil {
				state = make([]uint64, set.Words())
			}
			set.Merge(state, s)
		}
	}
	if state == nil {
		return "", false
	}
	out := []byte("{")
	for i, a := range w.plan.Queries[id.query].Aggregates {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(rows.AppendString(out, []byte(a.Name)), ':')
		var reason string
		if out, reason = set.AppendJSON(out, i, state); reason != "" {
			w.t.Fatalf("%v of %s has no value: %s", id, key, reason)
		}
	}
	return string(append(out, '}')), true
}

func (w *world) query(name string) uint16 {
	for i := range w.plan.Queries {
		if w.plan.Queries[i].Name == name {
			return uint16(i)
		}
	}
	w.t.Fatalf("a row of query %q", name)
	return 0
}

func (w *world) idOf(r *row) windowID {
	return windowID{w.query(r.Query), event.Nanos(r.Start.UnixNano()), event.Nanos(r.End.UnixNano())}
}

// checkRows checks every row against what its peers have put out, and that no
// revision has fewer peers than the one before. It returns the last revision of each.
func (w *world) checkRows() map[string]*row {
	w.t.Helper()
	byID := map[string][]*row{}
	for _, r := range w.parsed {
		want, ok := w.expect(w.idOf(r), r.Key["name"], r.Completeness.Merged)
		if !ok || string(r.Values) != want {
			w.t.Fatalf("row %s\nwant values %s", r.short(), want)
		}
		if r.Scope != rows.GlobalScope || !slices.Equal(r.Completeness.Known, w.names) {
			w.t.Fatalf("row %+v", r)
		}
		if c := r.Completeness.Complete; len(r.Completeness.Merged) < len(w.names) && (c == nil || *c) {
			w.t.Fatalf("row without all peers says that it is complete: %s", r.short())
		}
		byID[r.ID] = append(byID[r.ID], r)
	}
	last := map[string]*row{}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		list := byID[id]
		slices.SortFunc(list, func(a, b *row) int { return int(a.Revision) - int(b.Revision) })
		for i, r := range list[1:] {
			for _, name := range list[i].Completeness.Merged {
				if !slices.Contains(r.Completeness.Merged, name) {
					w.t.Fatalf("a revision lost a peer:\n%s\n%s", list[i].short(), r.short())
				}
			}
		}
		last[id] = list[len(list)-1]
	}
	return last
}
