package change

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/plan"
)

// A Tag says what a change needs.
type Tag string

// The tags, from the lightest on.
const (
	None Tag = "none" // there is nothing to do
	Live Tag = "live" // the control process does it alone: no packet notices
	Warm Tag = "warm" // the data plane is replaced within milliseconds: no frame is lost, and state that can go on does
	Cold Tag = "cold" // sockets or their memory are made anew: windows in hand are lost, or say that they are incomplete
)

// Weight orders tags; it is -1 of what is no tag.
func (t Tag) Weight() int { return slices.Index([]Tag{None, Live, Warm, Cold}, t) }

// An Object is what kind of thing changes.
type Object string

// The objects.
const (
	Feed      Object = "feed"
	Query     Object = "query"
	Sink      Object = "sink"
	Table     Object = "table"
	Interface Object = "interface"
	Workers   Object = "workers"
	Limits    Object = "limits"
	Group     Object = "group"
	Metrics   Object = "metrics"
	API       Object = "api"
	Log       Object = "log"
	Run       Object = "run" // what belongs to the run as a whole
)

// An Action is what happens to the object.
type Action string

// The actions.
const (
	Added   Action = "added"
	Removed Action = "removed"
	Changed Action = "changed"
)

// An Item is one difference between two configs.
type Item struct {
	Object Object `json:"object"`
	// Name is the object's name; empty if there is only one.
	Name   string `json:"name,omitempty"`
	Action Action `json:"action"`
	// Field is what of the object changes, as the config has it; empty for the whole.
	Field string `json:"field,omitempty"`
	Old   string `json:"old,omitempty"`
	New   string `json:"new,omitempty"`
	Tag   Tag    `json:"tag"`
	// Reason says why the change has this tag.
	Reason string `json:"reason"`
	// Loses says what does not go on; empty: nothing is lost.
	Loses string `json:"loses,omitempty"`
	// Refused says why the change cannot be made in a running headrace, and what to do;
	// empty if it can.
	Refused string `json:"refused,omitempty"`

	begins bool // the object's state does not carry over
}

// Title names the item's object and field.
func (i *Item) Title() string {
	words := []string{string(i.Object)}
	for _, w := range []string{i.Name, i.Field} {
		if w != "" && w != words[0] {
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}

// A State is a config and the plan that was compiled of it.
type State struct {
	Config *config.Config
	Plan   *plan.Plan
}

// A Change is all differences between two states. Items are in the config's order.
type Change struct {
	Items []Item
	// Plan is the new plan with feeds renumbered, so that frames that are on their way
	// stay with their feeds: see number.go. It is made also if the change is refused.
	Plan *plan.Plan
	// Feeds has for each feed of Plan the number in the old plan of the feed whose state
	// goes on in it, or -1. It is the feed's own number if it is not -1.
	Feeds []int
	// Queries has for each query of Plan the number in the old plan of the query whose
	// state goes on in it, or -1.
	Queries []int
}

// Tag returns the heaviest tag of the items.
func (c *Change) Tag() Tag {
	t := None
	for i := range c.Items {
		if c.Items[i].Tag.Weight() > t.Weight() {
			t = c.Items[i].Tag
		}
	}
	return t
}

// Refused returns the items that are refused. If there are any, nothing is applied:
// a config is taken whole or not at all.
func (c *Change) Refused() []Item {
	var out []Item
	for i := range c.Items {
		if c.Items[i].Refused != "" {
			out = append(out, c.Items[i])
		}
	}
	return out
}

// A Report is what became of a change, or would become of it.
type Report struct {
	// DryRun says that nothing was to be applied.
	DryRun bool `json:"dry_run"`
	// Applied says that the new config is in force.
	Applied bool `json:"applied"`
	// Revision identifies the config that is in force now.
	Revision string `json:"revision"`
	Tag      Tag    `json:"tag"`
	Items    []Item `json:"items"`
	// KeptFeeds and KeptQueries are how many go on with their state.
	KeptFeeds   int `json:"kept_feeds"`
	KeptQueries int `json:"kept_queries"`
	// PauseNanos is how long no worker took frames; they waited in the rings.
	PauseNanos int64 `json:"pause_nanos"`
}

// Report returns c as a report of something that was not applied.
func (c *Change) Report() *Report {
	r := &Report{Tag: c.Tag(), Items: c.Items}
	if r.Items == nil {
		r.Items = []Item{}
	}
	for id, from := range c.Feeds {
		if from >= 0 && !c.Plan.Feeds[id].Removed {
			r.KeptFeeds++
		}
	}
	for _, from := range c.Queries {
		if from >= 0 {
			r.KeptQueries++
		}
	}
	return r
}

// Refused counts the items that are refused.
func (r *Report) Refused() int {
	n := 0
	for i := range r.Items {
		if r.Items[i].Refused != "" {
			n++
		}
	}
	return n
}

// Write prints the table of changes: one line each, the heaviest first, and below it
// what is lost and what is refused.
func (r *Report) Write(w io.Writer) error {
	if len(r.Items) == 0 {
		_, err := fmt.Fprintln(w, "nothing changes")
		return err
	}
	items := slices.Clone(r.Items)
	slices.SortStableFunc(items, func(a, b Item) int { return b.order() - a.order() })
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "TAG\tWHAT\tCHANGE\tWHY")
	for i := range items {
		x := &items[i]
		tag := string(x.Tag)
		if x.Refused != "" {
			tag = "refused"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", tag, x.Title(), x.words(), x.why())
	}
	return t.Flush()
}

// order puts what is refused before what is cold, and so on.
func (i *Item) order() int {
	if i.Refused != "" {
		return Cold.Weight() + 1
	}
	return i.Tag.Weight()
}

// words says what happens to the value.
func (i *Item) words() string {
	switch {
	case i.Action != Changed:
		return string(i.Action)
	case i.Old == "" && i.New == "":
		return string(Changed)
	}
	return orNone(i.Old) + " -> " + orNone(i.New)
}

func (i *Item) why() string {
	if i.Refused != "" {
		return i.Refused
	}
	if i.Loses != "" {
		return i.Reason + "; lost: " + i.Loses
	}
	return i.Reason
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// Between compares two states. Neither is changed.
func Between(old, next State) *Change {
	w := &walker{old: old, next: next}
	w.config()
	w.plan()
	kept := w.state()
	c := &Change{Items: w.items}
	var err error
	if c.Plan, c.Feeds, err = renumber(old.Plan, next.Plan, func(feed string) bool { return kept.feeds[feed] }); err != nil {
		c.Items = append(c.Items, Item{
			Object: Feed, Action: Changed, Tag: Warm, Reason: "frames on their way carry their feed's number",
			Refused: err.Error(),
		})
		c.Plan = next.Plan
		c.Feeds = slices.Repeat([]int{-1}, len(next.Plan.Feeds))
	}
	for i := range next.Plan.Queries {
		from := -1
		if name := next.Plan.Queries[i].Name; kept.queries[name] {
			from = queryNumber(old.Plan, name)
		}
		c.Queries = append(c.Queries, from)
	}
	c.reordered(old.Plan)
	return c
}
