package change

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/dataplane/plan"
)

// A walker finds the differences of two states.
type walker struct {
	old, next State
	items     []Item
}

// A place is where in the config a value is.
type place struct {
	path  string // of the rule
	name  string // of the named thing around it
	field string // within that
}

func (p place) to(step string) place {
	out := place{path: strings.TrimPrefix(p.path+"."+step, "."), name: p.name, field: step}
	// A field is told from its object on: hold.for of a feed, not listen of metrics' metrics.
	if p.field != "" && p.name != "" {
		out.field = p.field + "." + step
	}
	return out
}

// rule returns the rule of a place. Each has one: a test walks them all.
func (p place) rule() rule {
	r, ok := rules[p.path]
	if !ok {
		panic("change: no rule for " + p.path)
	}
	return r
}

// config compares the two configs, field by field.
func (w *walker) config() {
	w.fields(place{}, reflect.ValueOf(w.old.Config).Elem(), reflect.ValueOf(w.next.Config).Elem())
}

// fields compares the fields of two structs.
func (w *walker) fields(p place, old, next reflect.Value) {
	t := old.Type()
	for i := range t.NumField() {
		if step := t.Field(i).Tag.Get("yaml"); step != "" && step != "-" {
			w.value(p.to(step), old.Field(i), next.Field(i))
		}
	}
}

func (w *walker) value(p place, old, next reflect.Value) {
	r := p.rule()
	switch {
	case r.planned:
	case r.whole:
		w.compare(p, old, next)
	case old.Kind() == reflect.Pointer:
		if old.IsNil() || next.IsNil() {
			w.compare(p, old, next)
			return
		}
		w.fields(p, old.Elem(), next.Elem())
	case old.Kind() == reflect.Struct:
		w.fields(p, old, next)
	case named(old.Type()):
		w.named(p, old, next)
	default:
		w.compare(p, old, next)
	}
}

// named reports whether the config writes a t as a map from names.
func named(t reflect.Type) bool {
	if t.Kind() != reflect.Slice || t.Elem().Kind() != reflect.Struct {
		return false
	}
	f, ok := t.Elem().FieldByName("Name")
	return ok && f.Tag.Get("name") != ""
}

func find(list reflect.Value, name string) (reflect.Value, bool) {
	for i := range list.Len() {
		if list.Index(i).FieldByName("Name").String() == name {
			return list.Index(i), true
		}
	}
	return reflect.Value{}, false
}

// named compares what has a name.
func (w *walker) named(p place, old, next reflect.Value) {
	r := rules[p.path+".*"]
	at := func(x reflect.Value) place { return place{path: p.path + ".*", name: x.FieldByName("Name").String()} }
	for i := range old.Len() {
		x := old.Index(i)
		if same, ok := find(next, at(x).name); ok {
			w.fields(at(x), x, same)
			continue
		}
		w.items = append(w.items, Item{
			Object: r.object, Name: at(x).name, Action: Removed, Old: show(x), Tag: r.tag,
			Reason: reasonOf(r.object, Removed), Loses: losesOf(r.object, Removed), begins: true,
		})
	}
	for i := range next.Len() {
		x := next.Index(i)
		if _, ok := find(old, at(x).name); ok {
			continue
		}
		w.items = append(w.items, Item{
			Object: r.object, Name: at(x).name, Action: Added, New: show(x), Tag: r.tag,
			Reason: reasonOf(r.object, Added), begins: true,
		})
	}
}

// reasonOf says why adding or removing an object has its tag.
func reasonOf(o Object, a Action) string {
	switch {
	case o == Sink:
		return whyControl
	case o == Query && a == Added:
		return "workers take it up in a hand-over; its windows begin at the mark"
	case o == Query:
		return "workers let it go in a hand-over"
	case a == Added:
		return "workers take it up in a hand-over, then its packets are steered to them"
	}
	return "its packets pass to the network stack first, then workers let it go in a hand-over"
}

func losesOf(o Object, a Action) string {
	switch {
	case o == Query && a == Removed:
		return "the query's open windows: no rows are made of them"
	case o == Feed && a == Removed:
		return "packets of the feed that wait in rings are dropped and counted"
	}
	return ""
}

// compare adds an item if two values differ.
func (w *walker) compare(p place, old, next reflect.Value) {
	if reflect.DeepEqual(old.Interface(), next.Interface()) {
		return
	}
	r := p.rule()
	x := Item{
		Object: r.object, Name: p.name, Action: Changed, Field: p.field, Old: show(old), New: show(next),
		Tag: r.tag, Reason: r.reason, Refused: r.refused, begins: r.begins,
	}
	if x.Reason == "" {
		x.Reason = "peers know this box by it"
	}
	switch {
	case r.begins && r.object == Feed:
		x.Loses = loseFeed
	case r.begins:
		x.Loses = loseQuery
	case r.tag == Cold:
		x.Loses = loseWindows
	}
	if p.name == "" && string(r.object) == p.field {
		x.Field = ""
		x.Action = actionOf(old, next)
	}
	w.items = append(w.items, x)
}

func actionOf(old, next reflect.Value) Action {
	switch {
	case old.Kind() == reflect.Pointer && old.IsNil():
		return Added
	case next.Kind() == reflect.Pointer && next.IsNil():
		return Removed
	}
	return Changed
}

// plan compares what is settled only in the plan: defaults and the command line's
// word are in it.
func (w *walker) plan() {
	a, b := w.old.Plan, w.next.Plan
	w.number(Run, "name", a.Name, b.Name, Item{Tag: Cold, Reason: "the name is that of its socket and its data plane", Refused: refuseName})
	w.number(Workers, "workers", a.Workers, b.Workers, Item{Tag: Warm, Reason: "key groups move to their new workers; state goes on"})
	w.number(Workers, "workers_max", a.WorkersMax, b.WorkersMax, Item{Tag: Cold, Reason: whySockets, Loses: loseWindows})
	w.number(Limits, "batch", a.Batch, b.Batch, Item{Tag: Cold, Reason: whyLayout, Loses: loseWindows})
	w.number(Limits, "lane", a.LaneBytes, b.LaneBytes, Item{Tag: Cold, Reason: whyLayout, Loses: loseWindows})
	w.number(Limits, "outbox", a.OutboxBytes, b.OutboxBytes, Item{Tag: Cold, Reason: whyLayout, Loses: loseWindows})
	w.number(Run, "plan_version", a.Version, b.Version, Item{Tag: Cold, Reason: whyLayout, Loses: loseWindows})
	w.interfaces(a.Interfaces, b.Interfaces)
	w.members(a.Group, b.Group)
}

func (w *walker) number(o Object, field string, old, next any, x Item) {
	if old == next {
		return
	}
	x.Object, x.Action, x.Field, x.Old, x.New = o, Changed, field, fmt.Sprint(old), fmt.Sprint(next)
	w.items = append(w.items, x)
}

// members finds peers that came or went: that is more than an address that changed.
func (w *walker) members(a, b *plan.Group) {
	if a == nil || b == nil || slices.Equal(a.Peers, b.Peers) {
		return
	}
	for i := range w.items {
		if x := &w.items[i]; x.Object == Group && x.Field == "peers" {
			x.Tag, x.Refused, x.Loses = Cold, refuseMember, loseWindows
		}
	}
}

func (w *walker) interfaces(old, next []plan.Interface) {
	has := func(list []plan.Interface, name string) *plan.Interface {
		if i := slices.IndexFunc(list, func(x plan.Interface) bool { return x.Name == name }); i >= 0 {
			return &list[i]
		}
		return nil
	}
	for i := range old {
		x := &old[i]
		y := has(next, x.Name)
		if y == nil {
			w.items = append(w.items, Item{Object: Interface, Name: x.Name, Action: Removed, Tag: Cold, Reason: whySockets, Loses: loseWindows})
			continue
		}
		w.one(x, y)
	}
	for i := range next {
		if has(old, next[i].Name) == nil {
			w.items = append(w.items, Item{Object: Interface, Name: next[i].Name, Action: Added, Tag: Cold, Reason: whySockets, Loses: loseWindows})
		}
	}
	both := func(list []plan.Interface, other []plan.Interface) (names []string) {
		for i := range list {
			if has(other, list[i].Name) != nil {
				names = append(names, list[i].Name)
			}
		}
		return names
	}
	if a, b := both(old, next), both(next, old); !slices.Equal(a, b) {
		w.items = append(w.items, Item{
			Object: Interface, Action: Changed, Field: "order", Old: strings.Join(a, ", "), New: strings.Join(b, ", "),
			Tag: Cold, Reason: "sockets are numbered in the file's order", Loses: loseWindows,
		})
	}
}

// one compares the settings of one interface.
func (w *walker) one(a, b *plan.Interface) {
	queues := func(n int) string {
		if n == 0 {
			return "all"
		}
		return fmt.Sprint(n)
	}
	for _, f := range []struct {
		field     string
		old, next string
	}{
		{"mode", string(a.Mode), string(b.Mode)},
		{"queues", queues(a.Queues), queues(b.Queues)},
		{"rx_ring", fmt.Sprint(a.RxRing), fmt.Sprint(b.RxRing)},
		{"tx_ring", fmt.Sprint(a.TxRing), fmt.Sprint(b.TxRing)},
		{"fill_ring", fmt.Sprint(a.FillRing), fmt.Sprint(b.FillRing)},
		{"frames", fmt.Sprint(a.Frames), fmt.Sprint(b.Frames)},
		{"idle", string(a.Idle), string(b.Idle)},
	} {
		if f.old == f.next {
			continue
		}
		x := Item{Object: Interface, Name: a.Name, Action: Changed, Field: f.field, Old: f.old, New: f.next, Tag: Cold, Reason: whySockets, Loses: loseWindows}
		if f.field == "idle" {
			x.Tag, x.Reason, x.Loses = Warm, whyNumber, ""
		}
		w.items = append(w.items, x)
	}
}

const shownMax = 160 // runes of a value in an item

// show writes a value about as the config does.
func show(v reflect.Value) string {
	s := written(v)
	if r := []rune(s); len(r) > shownMax {
		return string(r[:shownMax-1]) + "…"
	}
	return s
}

func written(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case config.Duration:
		return config.FormatDuration(time.Duration(x))
	case config.Prefix:
		if !x.IsValid() {
			return ""
		}
		return x.String()
	case config.Queues:
		if x == 0 {
			return "all"
		}
	case config.Delimiter:
		return fmt.Sprintf("%q", string(rune(x)))
	case fmt.Stringer:
		return x.String()
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return ""
		}
		return written(v.Elem())
	case reflect.Slice:
		return list(v)
	case reflect.Struct:
		return fieldsOf(v)
	case reflect.String:
		return v.String()
	}
	return fmt.Sprint(v.Interface())
}

func list(v reflect.Value) string {
	parts := make([]string, v.Len())
	for i := range parts {
		parts[i] = written(v.Index(i))
	}
	if named(v.Type()) {
		for i := range parts {
			parts[i] = v.Index(i).FieldByName("Name").String() + ": " + parts[i]
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func fieldsOf(v reflect.Value) string {
	var parts []string
	t := v.Type()
	if e, ok := v.Interface().(config.Value); ok {
		return string(e.Expr)
	}
	for i := range t.NumField() {
		f, step := v.Field(i), t.Field(i).Tag.Get("yaml")
		if step == "" && t.Field(i).IsExported() {
			step = strings.ToLower(t.Field(i).Name)
		}
		if step == "" || step == "-" || f.IsZero() {
			continue
		}
		parts = append(parts, step+": "+written(f))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
