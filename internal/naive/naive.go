// Package naive computes the rows of windowed queries in the plainest way: one
// event after the other, with maps, in the order of the capture. There are no panes,
// lanes, batches or workers in it. Tests compare the workers with it; nothing else
// imports it.
package naive

import (
	"bytes"
	"cmp"
	"math"
	"slices"
)

// A Record is one event of a feed, as its format means it.
type Record struct {
	Time int64
	// Numbers and Texts hold the columns that are not null.
	Numbers map[string]int64
	Texts   map[string]string
	// Who says which event it is, for first and last: they order by time, then Who.
	Who [4]uint64
}

// A Step is a part of a release: messages that will never come, or records.
type Step struct {
	Missing uint64
	Records []*Record
	// Lost says that something beside Records was dropped that belongs to the feed.
	Lost bool
}

// A Release is what one packet lets through of one source.
type Release struct {
	Feed   int
	Source string
	Steps  []Step
	// Retire says that the source ends with this release.
	Retire bool
}

// A Query is what to compute.
type Query struct {
	Name                 string
	Feed                 int
	Width, Offset, Delay int64
	Panes, Keys          int
	// Run is how many keys of one group fit into a window; Group finds a key's group.
	Run   int
	Group func(key string) int
	// Where says which records are wanted.
	Where func(*Record) bool
	// Key returns the canonical key, or why there is none: "null_key" or "key_length".
	Key func(*Record) (key, drop string)
}

// A Row is one key of one window.
type Row struct {
	Query      string
	Key        string
	Start, End int64
	Flush      bool
	Missing    uint64
	Incomplete bool
	Records    []*Record // in order of time, then Who
}

// Counts are a query's events by fate: "received", "applied", "filtered" and so on.
type Counts map[string]uint64

// A Feed says what of a feed matters.
type Feed struct {
	Sequenced bool
}

// Run computes the rows of a whole input, sorted by window end, query and key, and
// each query's counts. The end of the input fires what is open.
func Run(feeds []Feed, queries []Query, input []Release) ([]Row, []Counts) {
	w := &world{feeds: make([]feed, len(feeds))}
	for i := range feeds {
		w.feeds[i] = feed{Feed: feeds[i], sources: map[string]int64{}, latest: math.MinInt64, had: map[string]int64{}}
	}
	for i := range queries {
		w.queries = append(w.queries, &query{Query: queries[i], windows: map[int64]*window{}, counts: Counts{}, mark: math.MinInt64, hit: math.MinInt64})
	}
	for i := range input {
		w.release(&input[i])
	}
	for _, q := range w.queries {
		for i := range q.windows {
			w.fire(q, i, true)
		}
	}
	slices.SortFunc(w.rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.End, b.End), cmp.Compare(a.Query, b.Query), bytes.Compare([]byte(a.Key), []byte(b.Key)))
	})
	var counts []Counts
	for _, q := range w.queries {
		counts = append(counts, q.counts)
	}
	return w.rows, counts
}

type world struct {
	feeds   []feed
	queries []*query
	rows    []Row
}

type feed struct {
	Feed
	sources map[string]int64 // active: greatest event time
	had     map[string]int64 // greatest event time of a source before it is active, too
	latest  int64            // of all sources
	gaps    []*gap
}

type gap struct {
	source   string
	from, to int64
	count    uint64
	lost     bool
	open     bool
}

type query struct {
	Query
	windows map[int64]*window
	mark    int64 // the watermark; MinInt64: none
	hit     int64 // windows up to this number that close later lost something
	counts  Counts
}

type window struct {
	keys   map[string][]*Record
	groups map[int]int
	lost   bool
}

func (q *query) index(t int64) int64 {
	t = minus(t, q.Offset)
	i := t / q.Width
	if t%q.Width < 0 {
		i--
	}
	return i
}

// start is the first instant of window i.
func (q *query) start(i int64) int64 {
	if i > math.MaxInt64/q.Width {
		return math.MaxInt64
	}
	if i < math.MinInt64/q.Width {
		return math.MinInt64
	}
	return minus(i*q.Width, -q.Offset)
}

// minus subtracts as time is: it stops at its ends.
func minus(t, d int64) int64 {
	switch {
	case d > 0 && t < math.MinInt64+d:
		return math.MinInt64
	case d < 0 && t > math.MaxInt64+d:
		return math.MaxInt64
	}
	return t - d
}

// release judges a release's events against the watermarks before it, and then lets
// its own advance take effect.
func (w *world) release(r *Release) {
	f := &w.feeds[r.Feed]
	before, known := f.had[r.Source]
	if !known {
		before = math.MinInt64
	}
	latest, events := int64(math.MinInt64), 0
	var opened []*gap // in this release, and nothing came after it yet
	for _, s := range r.Steps {
		if s.Missing > 0 {
			g := &gap{source: r.Source, from: max(before, latest), to: math.MaxInt64, count: s.Missing, open: true}
			f.gaps, opened = append(f.gaps, g), append(opened, g)
		}
		if s.Lost {
			g := &gap{source: r.Source, from: before, to: math.MaxInt64, lost: true, open: true}
			if !f.Sequenced {
				g.from = f.latest
			}
			f.gaps, opened = append(f.gaps, g), append(opened, g)
		}
		for _, e := range s.Records {
			latest = max(latest, e.Time)
			events++
			opened = nil
		}
	}
	for _, q := range w.queries {
		if q.Feed == r.Feed {
			q.fold(f, r, max(before, latest))
		}
	}
	if events > 0 {
		f.had[r.Source] = max(before, latest)
		f.sources[r.Source] = max(before, latest)
		for _, g := range f.gaps {
			if g.source == r.Source && g.open && !slices.Contains(opened, g) {
				g.open, g.to = false, max(g.from, latest, before)
				if !f.Sequenced {
					g.to = max(g.from, latest)
				}
			}
		}
		f.latest = max(f.latest, latest)
		w.advance(r.Feed)
	}
	if r.Retire {
		for _, g := range f.gaps {
			if g.source == r.Source && g.open {
				g.open, g.to = false, max(g.from, f.latest)
			}
		}
		delete(f.sources, r.Source)
		delete(f.had, r.Source)
		w.advance(r.Feed)
	}
}

// fold puts a release's events into their windows. own is the greatest event time
// that its source will have after it.
func (q *query) fold(f *feed, r *Release, own int64) {
	after := own
	for s, t := range f.sources {
		if s != r.Source {
			after = min(after, t)
		}
	}
	after = max(q.mark, minus(after, q.Delay))
	for _, s := range r.Steps {
		for _, e := range s.Records {
			q.counts["received"]++
			q.counts[q.one(e, after)]++
		}
	}
}

func (q *query) one(e *Record, after int64) string {
	if !q.Where(e) {
		return "filtered"
	}
	key, drop := q.Key(e)
	if drop != "" {
		return drop
	}
	i := q.index(e.Time)
	if q.mark != math.MinInt64 && i < q.index(q.mark) {
		return "late"
	}
	if i > q.index(after)+int64(q.Panes) {
		if q.mark != math.MinInt64 {
			q.hit = max(q.hit, q.index(q.mark)+int64(q.Panes))
		}
		return "too_far_ahead"
	}
	v := q.windows[i]
	if v == nil {
		v = &window{keys: map[string][]*Record{}, groups: map[int]int{}}
		q.windows[i] = v
	}
	if _, ok := v.keys[key]; !ok {
		g := q.Group(key)
		if len(v.keys) >= q.Keys || v.groups[g] >= q.Run {
			v.lost = true
			return "key_limit"
		}
		v.groups[g]++
	}
	v.keys[key] = append(v.keys[key], e)
	return "applied"
}

// advance raises the watermarks of a feed's queries and fires what they pass.
func (w *world) advance(number int) {
	f := &w.feeds[number]
	if len(f.sources) == 0 {
		return
	}
	least := int64(math.MaxInt64)
	for _, t := range f.sources {
		least = min(least, t)
	}
	for _, q := range w.queries {
		if q.Feed != number || minus(least, q.Delay) <= q.mark {
			continue
		}
		q.mark = minus(least, q.Delay)
		for i := range q.windows {
			if i < q.index(q.mark) {
				w.fire(q, i, false)
			}
		}
	}
}

// fire makes the rows of window i.
func (w *world) fire(q *query, i int64, flush bool) {
	v := q.windows[i]
	delete(q.windows, i)
	start, end := q.start(i), q.start(i+1)
	lost, missing := v.lost || i <= q.hit, uint64(0)
	for _, g := range w.feeds[q.Feed].gaps {
		if start <= g.to && end > minus(g.from, q.Delay) {
			missing += g.count
			lost = lost || g.lost
		}
	}
	for key, records := range v.keys {
		slices.SortStableFunc(records, func(a, b *Record) int {
			return cmp.Or(cmp.Compare(a.Time, b.Time), slices.Compare(a.Who[:], b.Who[:]))
		})
		w.rows = append(w.rows, Row{Query: q.Name, Key: key, Start: start, End: end, Flush: flush, Missing: missing, Incomplete: lost || missing > 0, Records: records})
	}
}
