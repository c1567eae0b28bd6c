package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
)

// groupPlan is what the boxes of a group must have alike.
type groupPlan struct {
	Plan, Record, Row int // versions of the plan's meaning, of the records and of rows' bytes
	Peers             []string
	TieBreaker        string
	AllowSolo         bool
	Seal              bool
	Queries           []groupQuery
}

type groupQuery struct {
	// Query has neither numbers nor sinks: those are the box's own. Columns in its
	// programs are numbers in Feed.Columns.
	Query plan.Query
	Feed  plan.Feed
	Key   []int
	// KeyWidth bounds the keys that a peer takes from another.
	KeyWidth int
}

// GroupHash identifies what the boxes of p's group must agree on: the peers and how
// many of them go on, the global queries entire, how their feeds are read, and the
// versions of what the boxes tell each other and of the rows that they make. It does not depend on what is each
// box's own: its id, name, workers, interfaces, rules, sinks, other queries and
// limits that no peer sees. p must have a group.
func GroupHash(p *plan.Plan) [32]byte { return hashOf(groupPlanOf(p)) }

func groupPlanOf(p *plan.Plan) groupPlan {
	g := p.Group
	out := groupPlan{
		Plan: plan.Version, Record: outbox.Version, Row: rows.Version,
		Peers: g.Peers, TieBreaker: g.TieBreaker, AllowSolo: g.AllowSolo, Seal: g.Seal,
	}
	for i := range p.Queries {
		if p.Queries[i].Global {
			out.Queries = append(out.Queries, commonQuery(p, &p.Queries[i]))
		}
	}
	return out
}

// numbers gives columns numbers in the order in which they are used, whatever else
// their feed has.
type numbers struct{ used []int }

func (n *numbers) of(column int) int {
	i := slices.Index(n.used, column)
	if i < 0 {
		i, n.used = len(n.used), append(n.used, column)
	}
	return i
}

func (n *numbers) program(p plan.Program) plan.Program {
	p.Ops = slices.Clone(p.Ops)
	for i := range p.Ops {
		if p.Ops[i].Code == plan.OpColumn {
			p.Ops[i].Column = n.of(p.Ops[i].Column)
		}
	}
	return p
}

func (n *numbers) columns(all []plan.Column) []plan.Column {
	out := make([]plan.Column, len(n.used))
	for i, c := range n.used {
		out[i] = all[c]
	}
	return out
}

func hashOf(v any) [32]byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("compile: not plain data: " + err.Error())
	}
	return sha256.Sum256(text)
}

// asked identifies the condition t over columns.
func asked(t *tree, columns []plan.Column) string {
	if t == nil {
		return ""
	}
	same := make([]int, len(columns))
	for i := range same {
		same[i] = i
	}
	var n numbers
	p := n.program(t.program(same))
	sum := hashOf([]any{p, n.columns(columns)})
	return hex.EncodeToString(sum[:])
}

// commonQuery returns q as its peers see it.
func commonQuery(p *plan.Plan, q *plan.Query) groupQuery {
	f, s := &p.Feeds[q.Feed], &p.Streams[q.Stream]
	var n numbers
	out := groupQuery{Query: *q, KeyWidth: s.KeyWidth}
	for _, k := range s.Key {
		out.Key = append(out.Key, n.of(k))
	}
	out.Query.Feed, out.Query.Stream, out.Query.Where = 0, 0, plan.Program{} // Asked says it
	out.Query.Sinks, out.Query.LocalSinks = nil, nil
	out.Query.Aggregates = slices.Clone(q.Aggregates)
	for i := range out.Query.Aggregates {
		a := &out.Query.Aggregates[i]
		a.Args = slices.Clone(a.Args)
		for k := range a.Args {
			a.Args[k] = n.program(a.Args[k])
		}
	}
	out.Feed = plan.Feed{
		Format: f.Format, Columns: n.columns(f.Columns), Time: f.Time, Sequence: f.Sequence, Delimiter: f.Delimiter,
		LittleEndian: f.LittleEndian, Stride: f.Stride, Day: f.Day, Zone: f.Zone,
	}
	return out
}
