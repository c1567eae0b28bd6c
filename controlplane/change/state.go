package change

import (
	"reflect"
	"slices"

	"github.com/headrace/headrace/dataplane/plan"
)

// kept names what goes on with its state.
type kept struct{ feeds, queries map[string]bool }

// state decides whose state goes on, and adds an item for each feed and query that
// begins anew because of something else that changes.
func (w *walker) state() kept {
	k := kept{feeds: map[string]bool{}, queries: map[string]bool{}}
	a, b := w.old.Plan, w.next.Plan
	for i := range b.Feeds {
		f := &b.Feeds[i]
		if old := feedNumber(a, f.Name); old >= 0 {
			k.feeds[f.Name] = w.feedGoesOn(&a.Feeds[old], f)
		}
	}
	for i := range b.Queries {
		q := &b.Queries[i]
		if old := queryNumber(a, q.Name); old >= 0 {
			k.queries[q.Name] = w.queryGoesOn(&a.Queries[old], q, k.feeds[b.Feeds[q.Feed].Name])
		}
	}
	w.refuseGlobal()
	return k
}

// feedNumber returns the number of the feed of a name, or -1.
func feedNumber(p *plan.Plan, name string) int {
	return slices.IndexFunc(p.Feeds, func(f plan.Feed) bool { return f.Name == name && !f.Removed })
}

// queryNumber returns the number of the query of a name, or -1.
func queryNumber(p *plan.Plan, name string) int {
	return slices.IndexFunc(p.Queries, func(q plan.Query) bool { return q.Name == name })
}

// begins reports whether an item says that the object begins anew.
func (w *walker) begins(o Object, name string) bool {
	return slices.ContainsFunc(w.items, func(x Item) bool { return x.Object == o && x.Name == name && x.begins })
}

func (w *walker) feedGoesOn(old, f *plan.Feed) bool {
	if w.begins(Feed, f.Name) {
		return false
	}
	a, b := lasting(old), lasting(f)
	if reflect.DeepEqual(a, b) {
		return true
	}
	x := Item{
		Object: Feed, Name: f.Name, Action: Changed, Tag: Warm, Loses: loseFeed, begins: true,
		Reason: "what the config leaves open is settled otherwise than before",
	}
	if !reflect.DeepEqual(a.Time, b.Time) {
		x.Field, x.Reason = "time", "the column that holds the time is read in another way"
	}
	w.items = append(w.items, x)
	return false
}

// lasting returns what of a feed must stay as it is for its state to go on. The rest is
// the queries' (which columns are read), or takes effect at a mark.
func lasting(f *plan.Feed) plan.Feed {
	x := *f
	x.Rules, x.HoldFor = nil, 0
	x.Columns, x.Kinds, x.Identity = nil, 0, false
	if x.Sequence == plan.Unsequenced { // else a channel is followed where its packets are placed
		x.Place = plan.Placement{}
	}
	return x
}

func (w *walker) queryGoesOn(old, q *plan.Query, feedGoesOn bool) bool {
	if w.begins(Query, q.Name) {
		return false
	}
	x := Item{Object: Query, Name: q.Name, Action: Changed, Tag: Warm, Loses: loseQuery, begins: true}
	switch {
	case !feedGoesOn:
		x.Field, x.Reason = "from", "its feed begins anew"
	case !reflect.DeepEqual(columnsOf(w.old.Plan, old), columnsOf(w.next.Plan, q)), !sameCondition(w.old.Plan, old, w.next.Plan, q):
		x.Field, x.Reason = "columns", "a column that it uses is read in another way"
	case !reflect.DeepEqual(shapeOf(old), shapeOf(q)):
		x.Reason = "what the config leaves open is settled otherwise than before"
	default:
		return true
	}
	w.items = append(w.items, x)
	return false
}

// columnsOf returns the columns that q's key and aggregates read, in the order of use.
func columnsOf(p *plan.Plan, q *plan.Query) []plan.Column {
	feed := &p.Feeds[q.Feed]
	var out []plan.Column
	for _, c := range p.Streams[q.Stream].Key {
		out = append(out, feed.Columns[c])
	}
	for i := range q.Aggregates {
		for k := range q.Aggregates[i].Args {
			for _, op := range q.Aggregates[i].Args[k].Ops {
				if op.Code == plan.OpColumn {
					out = append(out, feed.Columns[op.Column])
				}
			}
		}
	}
	return out
}

// sameCondition reports whether the columns that both conditions read are the same. One
// that only one of them reads is a name that the decoder sees to, or not, by what other
// queries want; the conditions' texts are equal.
func sameCondition(a *plan.Plan, old *plan.Query, b *plan.Plan, q *plan.Query) bool {
	columns := map[string]plan.Column{}
	for _, op := range old.Where.Ops {
		if op.Code == plan.OpColumn {
			c := a.Feeds[old.Feed].Columns[op.Column]
			columns[c.Name] = c
		}
	}
	for _, op := range q.Where.Ops {
		if op.Code != plan.OpColumn {
			continue
		}
		c := b.Feeds[q.Feed].Columns[op.Column]
		if was, ok := columns[c.Name]; ok && !reflect.DeepEqual(was, c) {
			return false
		}
	}
	return true
}

// shapeOf returns q without numbers and without what may change while it goes on.
func shapeOf(q *plan.Query) plan.Query {
	x := *q
	x.Feed, x.Stream, x.Where, x.Asked, x.Sinks, x.LocalSinks = 0, 0, plan.Program{}, "", nil, nil
	x.Aggregates = slices.Clone(q.Aggregates)
	for i := range x.Aggregates {
		a := &x.Aggregates[i]
		a.Args = slices.Clone(a.Args)
		for k := range a.Args {
			a.Args[k].Ops = slices.Clone(a.Args[k].Ops)
			for j := range a.Args[k].Ops {
				a.Args[k].Ops[j].Column = 0
			}
		}
	}
	return x
}

// refuseGlobal refuses what would make this box's global queries other than its peers'.
func (w *walker) refuseGlobal() {
	if w.old.Plan.Group == nil || w.next.Plan.Group == nil {
		return // it is refused whole, or nothing is global
	}
	global := func(p *plan.Plan, name string) bool {
		i := queryNumber(p, name)
		return i >= 0 && p.Queries[i].Global
	}
	for i := range w.items {
		if x := &w.items[i]; x.Object == Query && x.begins && (global(w.old.Plan, x.Name) || global(w.next.Plan, x.Name)) {
			x.Refused = refuseGlobal
		}
	}
}

// reordered adds an item if the new plan differs from the old one and no item says so:
// feeds and queries that stand in another order have other numbers.
func (c *Change) reordered(old *plan.Plan) {
	if c.Tag().Weight() >= Warm.Weight() || len(c.Refused()) > 0 || old.Hash() == c.Plan.Hash() {
		return
	}
	c.Items = append(c.Items, Item{
		Object: Run, Action: Changed, Field: "order", Tag: Warm,
		Reason: "feeds and queries stand in another order, or something that the config leaves open is settled otherwise; state goes on",
	})
}
