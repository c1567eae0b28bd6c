package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a bare host has no zone files

	"github.com/headrace/headrace/dataplane/event"
)

var (
	wordForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	nameForm  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)
	linkForm  = regexp.MustCompile(`^[^\s/]+$`)
	notWord   = regexp.MustCompile(`[^A-Za-z0-9_]+`)
	operators = []string{"and", "or", "not", "in", "true", "false", "nil", "let", "matches", "contains", "startsWith", "endsWith"}
)

const (
	nameMax = 63
	linkMax = 15 // IFNAMSIZ of linux/if.h, without its final 0
)

// name checks the name of an entry of a map, by what it names.
func (d *decoder) name(noun, name string, at Pos) bool {
	var ok bool
	var allowed string
	switch noun {
	case "interface":
		ok = linkForm.MatchString(name) && len(name) <= linkMax && name != "." && name != ".."
		allowed = fmt.Sprintf("the kernel's names have 1 to %d characters, without spaces and /", linkMax)
	case "column":
		ok = wordForm.MatchString(name) && len(name) <= nameMax
		allowed = fmt.Sprintf("a column is named by letters, digits and _, not first a digit, at most %d", nameMax)
		if contains(operators, name) {
			ok, allowed = false, "the word belongs to expressions: choose another name"
		}
	default:
		ok = nameForm.MatchString(name) && len(name) <= nameMax
		allowed = fmt.Sprintf("names are letters, digits, - and _, first a letter, at most %d", nameMax)
	}
	if !ok {
		message := fmt.Sprintf("%q cannot name a %s", clip(name), noun)
		if noun == "interface" {
			message = fmt.Sprintf("%q cannot name an interface", clip(name))
		}
		fix := strings.Trim(notWord.ReplaceAllString(name, "_"), "_")
		if noun == "value" && strings.ContainsAny(name, "()") {
			message, allowed, fix = fmt.Sprintf("%q is what follows a comma", clip(name)), "within { } write an expression with a comma in quotes", ""
		}
		if !nameForm.MatchString(fix) || len(fix) > nameMax || contains(operators, name) || noun == "interface" {
			fix = ""
		}
		d.c.Report(at, message, allowed, fix)
	}
	return ok
}

// check judges what the file alone can tell.
func (c *Config) check() {
	if c.Workers > 0 && c.WorkersMax > 0 && c.Workers > c.WorkersMax {
		c.Report(c.Pos("workers"), fmt.Sprintf("workers is %d, workers_max %d", c.Workers, c.WorkersMax), "workers is at most workers_max", "")
	}
	if len(c.Feeds) > event.FeedsMax {
		c.Report(c.KeyPos("feeds", c.Feeds[event.FeedsMax].Name), fmt.Sprintf("there are %d feeds", len(c.Feeds)), fmt.Sprintf("at most %d", event.FeedsMax), "")
	}
	if len(c.Queries) > event.QueriesMax {
		c.Report(c.KeyPos("queries", c.Queries[event.QueriesMax].Name), fmt.Sprintf("there are %d queries", len(c.Queries)), fmt.Sprintf("at most %d", event.QueriesMax), "")
	}
	for i := range c.Feeds {
		c.checkFeed(&c.Feeds[i])
	}
	c.checkRules()
	for i := range c.Queries {
		c.checkQuery(&c.Queries[i])
	}
	c.checkSinks()
	if c.Group != nil {
		c.checkGroup()
	}
	if c.Metrics != nil && !c.Bad("metrics") {
		c.checkListen(c.Metrics.Listen, "127.0.0.1:9464", "metrics", "listen")
	}
	if r := c.Recorder; r != nil && !c.Bad("recorder", "snap") && (r.Snap < snapLeast || r.Snap > snapMost) {
		c.Report(c.Pos("recorder", "snap"), fmt.Sprintf("snap is %d bytes", r.Snap), fmt.Sprintf("from %d to %d: a frame has no more", snapLeast, snapMost),
			strconv.Itoa(int(min(max(r.Snap, snapLeast), snapMost))))
	}
	c.checkAPI()
}

// Bounds of the bytes that are kept of a frame.
const snapLeast, snapMost = 64, 2048

// checkListen judges the address to listen on that stands at a place.
func (c *Config) checkListen(listen, fix string, at ...string) {
	host, port, _ := strings.Cut(listen, ":")
	if i := strings.LastIndexByte(listen, ':'); i >= 0 {
		host, port = strings.Trim(listen[:i], "[]"), listen[i+1:]
	}
	_, err := netip.ParseAddr(host)
	n, bad := strconv.ParseUint(port, 10, 16)
	if host != "localhost" && host != "" && err != nil || bad != nil || n == 0 {
		c.Report(c.Pos(at...), fmt.Sprintf("listen is %q", clip(listen)), "write an address and a port", fix)
	}
}

func (c *Config) checkFeed(f *Feed) {
	if f.Day != "" && !c.Bad("feeds", f.Name, "day") {
		if _, err := time.Parse(time.DateOnly, f.Day); err != nil {
			c.Report(c.Pos("feeds", f.Name, "day"), fmt.Sprintf("day %q is not a date", clip(f.Day)), "write it as YYYY-MM-DD, such as 2026-01-05", "")
		}
	}
	if c.Has("feeds", f.Name, "zone") && !c.Bad("feeds", f.Name, "zone") {
		if _, err := time.LoadLocation(f.Zone); err != nil || f.Zone == "Local" {
			c.Report(c.Pos("feeds", f.Name, "zone"), fmt.Sprintf("%q is not a time zone", clip(f.Zone)), "write an IANA name, such as America/New_York or UTC",
				Nearest(f.Zone, []string{"America/New_York", "America/Chicago", "Europe/London", "Europe/Berlin", "Asia/Tokyo", "UTC"}))
		}
	}
}

// checkRules finds rules that no packet could choose between.
func (c *Config) checkRules() {
	type match struct {
		protocol   string
		prefix     netip.Prefix
		port, vlan int
	}
	type owner struct {
		feed string
		at   Pos
	}
	first := map[match]owner{}
	for _, f := range c.Feeds {
		for i, r := range f.Match {
			step := strconv.Itoa(i)
			if c.Bad("feeds", f.Name, "match", step) {
				continue
			}
			m, at := match{r.Protocol, r.Destination.Prefix, r.Port, r.VLAN}, c.Pos("feeds", f.Name, "match", step)
			o, twice := first[m]
			switch {
			case !twice:
				first[m] = owner{f.Name, at}
			case o.feed == f.Name:
				c.Report(at, fmt.Sprintf("feed %s has this rule twice", f.Name), fmt.Sprintf("the first is on line %d: lines differ in destination, port or VLAN", o.at.Line), "")
			default:
				c.Report(at, fmt.Sprintf("feeds %s and %s have equal rules", o.feed, f.Name), fmt.Sprintf("the other is on line %d: a packet belongs to one feed, so make one rule more specific", o.at.Line), "")
			}
		}
	}
}

func (c *Config) checkQuery(q *Query) {
	at := func(steps ...string) []string { return append([]string{"queries", q.Name}, steps...) }
	if q.From != "" && !c.Bad(at("from")...) {
		names := make([]string, len(c.Feeds))
		for i := range c.Feeds {
			names[i] = c.Feeds[i].Name
		}
		if !contains(names, q.From) && len(names) > 0 {
			c.Report(c.Pos(at("from")...), fmt.Sprintf("there is no feed %q", clip(q.From)), "the feeds are "+strings.Join(names, ", "), Nearest(q.From, names))
		}
	}
	c.checkSinkList(at("sinks"), q.Sinks)
	c.checkSinkList(at("local_sinks"), q.LocalSinks)
	if !c.Bad(at("scope")...) {
		c.checkScope(q, at)
	}
	c.checkList(at("key"), q.Key, func(int, string) {})
	for _, v := range q.Select {
		if contains(q.Key, v.Name) {
			c.Report(c.KeyPos(at("select", v.Name)...), fmt.Sprintf("%s is already a key column", v.Name), "give the value another name", "")
		}
	}
}

func (c *Config) checkScope(q *Query, at func(steps ...string) []string) {
	switch {
	case q.Scope == "global" && c.Group == nil && !c.Has("group"):
		c.Report(c.Pos(at("scope")...), "the scope is global and there is no group", "write group: {me: a, peers: [...]} at the top level, or take scope out", "")
	case q.Scope != "global" && len(q.LocalSinks) > 0:
		c.Report(c.KeyPos(at("local_sinks")...), "local_sinks goes with scope: global only", "rows of scope local go to sinks: take it out, or write scope: global", "")
	}
}

// checkSinkList judges a list of sinks of a query.
func (c *Config) checkSinkList(at, list []string) {
	names := make([]string, len(c.Sinks))
	for i := range c.Sinks {
		names[i] = c.Sinks[i].Name
	}
	c.checkList(at, list, func(i int, s string) {
		allowed := "the sinks are " + strings.Join(names, ", ")
		if len(names) == 0 {
			allowed = fmt.Sprintf("define it: sinks: {%s: {jsonl: {path: rows.jsonl}}}", clip(s))
		}
		unreadable := len(names) <= 1 && c.Bad("sinks")
		if !contains(names, s) && !unreadable {
			c.Report(c.Pos(append(at[:len(at):len(at)], strconv.Itoa(i))...), fmt.Sprintf("there is no sink %q", clip(s)), allowed, Nearest(s, names))
		}
	})
}

// checkList finds entries given twice and lets each judge the others.
func (c *Config) checkList(at, words []string, each func(i int, word string)) {
	seen := map[string]bool{}
	for i, w := range words {
		if seen[w] {
			c.Report(c.Pos(append(at[:len(at):len(at)], strconv.Itoa(i))...), fmt.Sprintf("%q is given twice", clip(w)), "keep one", "")
			continue
		}
		seen[w] = true
		each(i, w)
	}
}

func (c *Config) checkSinks() {
	first := map[string]string{}
	for i := range c.Sinks {
		s := &c.Sinks[i]
		if s.RDMAWrite != nil {
			c.checkRDMAWrite(s)
		}
		if s.JSONL == nil || c.Bad("sinks", s.Name) {
			continue
		}
		if o, twice := first[s.JSONL.Path]; twice {
			c.Report(c.Pos("sinks", s.Name, "jsonl", "path"), fmt.Sprintf("sinks %s and %s write the same file", o, s.Name), "use one sink in both queries, or another path", "")
		}
		first[s.JSONL.Path] = s.Name
	}
}

func (c *Config) checkRDMAWrite(s *Sink) {
	w, at := s.RDMAWrite, func(field string) []string { return []string{"sinks", s.Name, "rdma-write", field} }
	if !c.Bad(at("address")...) {
		if message, allowed, fix := addressProblem(w.Address); message != "" {
			c.Report(c.Pos(at("address")...), message, allowed, fix)
		}
	}
	if w.Device != "" && w.Transport == "tcp" && !c.Bad(at("transport")...) {
		c.Report(c.KeyPos(at("device")...), "device goes with transport verbs or auto", "take it out, or choose another transport", "")
	}
}
