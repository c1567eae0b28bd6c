package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/internal/show"
)

// figures are counts since the beginning.
type figures struct {
	at                      time.Time
	packets, messages, rows uint64
	missing, kernel         uint64
	lines                   []lineFigures // of the lines that sent something
}

// lineFigures is one line's part: the frames that came on it, and the packets that
// came on another line alone.
type lineFigures struct {
	name         string
	frames, lost uint64
}

// view is what is to be seen, as plain values.
type view struct {
	name      string // of the run; "": none runs
	about     []string
	phase     string
	elapsed   time.Duration
	bound     time.Duration // 0: none
	samples   []figures     // the last few, the newest last
	latency   export.Latency
	watermark event.Nanos // 0: none is known
	replayed  float64     // messages a second; 0: not a replay
	rows      *tail
}

// rateOver is about how much time a rate is taken over.
const rateOver = 1500 * time.Millisecond

// take adds a snapshot.
func (v *view) take(s *status.Snapshot) {
	f := figures{at: s.At}
	for i := range s.Feeds {
		f.addFeed(&s.Feeds[i])
	}
	v.watermark = 0
	for i := range s.Queries {
		if w := s.Queries[i].Watermark; w > event.MinNanos && w < event.MaxNanos && (v.watermark == 0 || w < v.watermark) {
			v.watermark = w
		}
	}
	for i := range s.Sinks {
		f.rows += s.Sinks[i].Rows
		v.latency = s.Sinks[i].Latency
	}
	if s.XDP != nil {
		for i := range s.XDP.Interfaces {
			f.kernel += s.XDP.Interfaces[i].RxDropped + s.XDP.Interfaces[i].RxRingFull
		}
	}
	v.samples = append(v.samples, f)
	for len(v.samples) > 2 && f.at.Sub(v.samples[1].at) >= rateOver {
		v.samples = v.samples[1:]
	}
}

// addFeed adds a feed's counts. A packet that brought nothing new had come on another
// line; so what a line lacks is the packets that were new on any line, less its own.
func (f *figures) addFeed(d *status.Feed) {
	f.packets += d.Frames
	f.messages += d.Messages
	f.missing += d.Missing
	used := uint64(0)
	for _, n := range d.LineFrames {
		used += min(n, 1)
	}
	if used < 2 {
		return
	}
	news := d.Applied + d.Held
	for l, n := range d.LineFrames {
		if n == 0 {
			continue
		}
		own := n - min(n, d.Heartbeat/used)
		f.lines = append(f.lines, lineFigures{string(rune('A' + l)), n, news - min(news, own)})
	}
}

// takeSummary adds what a replay says at its end.
func (v *view) takeSummary(s *replay.Summary) {
	v.samples = []figures{{at: time.Now(), packets: s.Packets, messages: s.Messages, rows: s.Rows, missing: s.Missing}}
	v.replayed = s.MessagesPerSecond
}

// countRows puts the number of rows in the file in the newest sample: a stop has
// fired what was open, and the last snapshot was before it.
func (v *view) countRows() error {
	if len(v.samples) == 0 {
		return nil
	}
	n, err := v.rows.count()
	v.samples[len(v.samples)-1].rows = n
	return err
}

// newest is the last sample; zero if there is none.
func (v *view) newest() figures {
	if len(v.samples) == 0 {
		return figures{}
	}
	return v.samples[len(v.samples)-1]
}

// rate is what of says of the newest sample less that of the oldest, a second.
func (v *view) rate(of func(*figures) uint64) uint64 {
	if len(v.samples) < 2 {
		return 0
	}
	a, b := &v.samples[0], &v.samples[len(v.samples)-1]
	seconds := b.at.Sub(a.at).Seconds()
	if seconds <= 0 || of(b) < of(a) {
		return 0
	}
	return uint64(float64(of(b)-of(a))/seconds + 0.5)
}

var figureNames = []struct {
	name string
	of   func(*figures) uint64
}{
	{"packets", func(f *figures) uint64 { return f.packets }},
	{"messages", func(f *figures) uint64 { return f.messages }},
	{"rows", func(f *figures) uint64 { return f.rows }},
	{"missing", func(f *figures) uint64 { return f.missing }},
}

// Title says what will be seen.
func (v *view) Title() []string {
	if v.name == "" {
		return v.about
	}
	return append([]string{v.name}, v.about...)
}

// Newest is the newest row as it is in the file.
func (v *view) Newest() string {
	if lines := v.rows.last(1); len(lines) > 0 {
		return string(lines[0])
	}
	return ""
}

// Picture returns the screen's lines: at most height of at most width characters.
func (v *view) Picture(width, height int) []string {
	clock := v.elapsed.Truncate(time.Second).String()
	if v.bound > 0 {
		clock += " of " + v.bound.String()
	}
	head := "headrace: " + v.phase
	if v.name != "" {
		head = v.name + ": " + v.phase
	}
	lines := []string{fmt.Sprintf("%-*s%s", max(width-len(clock), 10), head, clock)}
	lines = append(lines, v.about...)
	lines = append(lines, "", "                  a second            total"+v.lineTable(0))
	now := v.newest()
	for i, f := range figureNames {
		lines = append(lines, fmt.Sprintf("%-8s%18s%17s", f.name, v.second(i), show.Thousands(f.of(&now)))+v.lineTable(i+1))
	}
	lines = append(lines, "", "row latency  "+v.latencyText(), "watermark    "+v.watermarkText(), "")
	if rest := height - len(lines); rest > 1 {
		lines = append(lines, v.rows.table(width, rest)...)
	}
	lines = lines[:min(len(lines), height)]
	for i := range lines {
		lines[i] = show.Cut(lines[i], width)
	}
	return lines
}

// second is the rate of figure i, as text.
func (v *view) second(i int) string {
	switch {
	case v.replayed > 0 && figureNames[i].name == "messages":
		return show.Thousands(uint64(v.replayed))
	case v.replayed > 0 || len(v.samples) < 2:
		return ""
	}
	return show.Thousands(v.rate(figureNames[i].of))
}

// lineTable is row i of the small table on the right: a head, a row for each line,
// and what was lost in the kernel.
func (v *view) lineTable(i int) string {
	now := v.newest()
	switch {
	case len(now.lines) == 0:
		return ""
	case i == 0:
		return "     line      lost"
	case i <= len(now.lines):
		l := &now.lines[i-1]
		return fmt.Sprintf("     %-4s%10s  %s", l.name, show.Thousands(l.lost), l.share())
	case i == len(now.lines)+1:
		return fmt.Sprintf("     %-4s%7s", "kernel", show.Thousands(now.kernel))
	}
	return ""
}

// share is the part of all packets that the line lost, in percent.
func (l *lineFigures) share() string {
	return fmt.Sprintf("%.2f %%", 100*float64(l.lost)/max(float64(l.frames+l.lost), 1))
}

func (v *view) latencyText() string {
	l := &v.latency
	switch {
	case v.replayed > 0:
		return "not measured in a replay"
	case l.Rows == 0:
		return "no row yet"
	}
	return fmt.Sprintf("p50 %s   p99 %s   p99.9 %s   max %s", show.Span(time.Duration(l.P50)), show.Span(time.Duration(l.P99)), show.Span(time.Duration(l.P999)), show.Span(time.Duration(l.Max)))
}

func (v *view) watermarkText() string {
	if v.watermark == 0 {
		return "-"
	}
	return time.Unix(0, int64(v.watermark)).UTC().Format("2006-01-02 15:04:05.000 UTC")
}

// Plain is the same on one line, for where there is no screen.
func (v *view) Plain() string {
	var b strings.Builder
	now := v.newest()
	fmt.Fprintf(&b, "%4s  %s", v.elapsed.Truncate(time.Second), v.phase)
	if len(v.samples) > 0 && v.replayed == 0 {
		for i, f := range figureNames[:3] {
			if rate := v.second(i); rate != "" {
				fmt.Fprintf(&b, "  %s %s/s", rate, f.name)
			}
		}
		for i := range now.lines {
			fmt.Fprintf(&b, "  %s lost %s", now.lines[i].name, now.lines[i].share())
		}
		fmt.Fprintf(&b, "  missing %s  lost in the kernel %s  row latency %s  watermark %s",
			show.Thousands(now.missing), show.Thousands(now.kernel), strings.ReplaceAll(v.latencyText(), "   ", ", "), v.watermarkText())
	}
	if v.phase == "done" || v.replayed > 0 {
		fmt.Fprintf(&b, "  in all: %s packets, %s messages, %s rows, %s missing", show.Thousands(now.packets), show.Thousands(now.messages), show.Thousands(now.rows), show.Thousands(now.missing))
	}
	return b.String()
}
