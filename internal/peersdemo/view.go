package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/show"
)

// view is what is to be seen, as plain values.
type view struct {
	about   []string
	elapsed time.Duration
	bound   time.Duration
	phase   string
	now     sight
	story   [][2]string // when and what
	newest  []*row
	boxes   show.Table
	rows    show.Table
}

// Title says what will be seen.
func (v *view) Title() []string { return v.about }

// Newest is the newest row as it is in its file.
func (v *view) Newest() string {
	if len(v.newest) == 0 {
		return ""
	}
	return string(v.newest[len(v.newest)-1].line)
}

// storyLeast lines of the story are seen whatever there is no room for.
const storyLeast = 4

// Picture returns the screen's lines: at most height of at most width characters.
func (v *view) Picture(width, height int) []string {
	clock := fmt.Sprintf("%s of %s", v.elapsed.Truncate(time.Second), v.bound)
	lines := []string{fmt.Sprintf("%-*s%s", max(width-len(clock), 10), "headrace: "+v.phase, clock)}
	lines = append(lines, v.about...)
	lines = append(append(lines, ""), v.boxTable(width)...)
	rest := height - len(lines) - 2 // two blank lines
	told := min(len(v.story), max(storyLeast, rest/2))
	if room := rest - told; room > 1 && len(v.newest) > 0 {
		lines = append(append(lines, ""), v.rowTable(width, room)...)
	}
	lines = append(lines, "")
	for _, s := range v.story[len(v.story)-told:] {
		lines = append(lines, storyLine(s))
	}
	lines = lines[:min(len(lines), height)]
	for i := range lines {
		lines[i] = show.Cut(lines[i], width)
	}
	return lines
}

func storyLine(s [2]string) string { return fmt.Sprintf("%9s  %s", s[0], s[1]) }

var boxHeads = []string{"box", "state", "epoch", "members", "hears", "rows written", "corrections"}

// boxTable has a line for each box.
func (v *view) boxTable(width int) []string {
	var rows [][]string
	for i := range v.now.boxes {
		b := &v.now.boxes[i]
		epoch := ""
		if b.epoch != 0 {
			epoch = fmt.Sprint(b.epoch)
		}
		rows = append(rows, []string{
			b.id, b.state(), epoch, peersOf(b.members), peersOf(b.heard), show.Thousands(b.rows), show.Thousands(b.fixed),
		})
	}
	return v.boxes.Lines(boxHeads, rows, 5, width)
}

func (b *boxSight) state() string {
	switch {
	case b.killed:
		return "dead"
	case !b.running, !b.receives:
		return "starting"
	case b.epoch == 0:
		return "alone"
	}
	return "member"
}

// rowTable is the newest rows under a head, in at most height lines.
func (v *view) rowTable(width, height int) []string {
	last := v.newest[len(v.newest)-1]
	heads := cells(last, true)
	var rows [][]string
	for _, r := range v.newest[max(0, len(v.newest)-(height-1)):] {
		if c := cells(r, false); len(c) == len(heads) {
			rows = append(rows, c)
		}
	}
	return v.rows.Lines(heads, rows, 3+len(last.Key), width)
}

// cells are a row's, or their heads.
func cells(r *row, head bool) []string {
	var list []string
	add := func(name, text string) {
		if head {
			text = name
		}
		list = append(list, text)
	}
	add("window", r.Start.UTC().Format("15:04:05.0"))
	for _, m := range r.Key {
		add(m.Name, m.Text)
	}
	add("merged", show.Printable(peersOf(r.Completeness.Merged)))
	add("known", show.Printable(peersOf(r.Completeness.Known)))
	add("revision", fmt.Sprint(r.Revision))
	for _, m := range r.Values {
		add(m.Name, m.Text)
	}
	return list
}

// Plain is the boxes on one line, for where there is no terminal.
func (v *view) Plain() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%9s  %s", v.elapsed.Truncate(time.Second), v.phase)
	for i := range v.now.boxes {
		x := &v.now.boxes[i]
		fmt.Fprintf(&b, "; %s: %s", x.id, x.state())
		if len(x.heard) > 0 {
			fmt.Fprintf(&b, ", hears %s", peersOf(x.heard))
		}
		fmt.Fprintf(&b, ", %s rows, %s corrections", show.Thousands(x.rows), show.Thousands(x.fixed))
	}
	return b.String()
}
