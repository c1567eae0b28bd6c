package doctor

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/headrace/headrace/pinning/audit"
)

// A screen is written line by line and keeps the first error.
type screen struct {
	w   io.Writer
	err error
}

func (s *screen) line(format string, args ...any) {
	if _, err := fmt.Fprintf(s.w, format+"\n", args...); err != nil && s.err == nil {
		s.err = err
	}
}

// width is that of a screen's line; longer ones are broken between words.
const width = 110

// wrapped writes text behind a label, and further lines under its beginning.
func (s *screen) wrapped(label, text string) {
	line, empty := label, true
	for word := range strings.FieldsSeq(text) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			s.line("%s", line)
			line, empty = strings.Repeat(" ", len(label)), true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	s.line("%s", line)
}

// write writes the report for people: the answer, what holds it back, what is wrong, and
// in a line what is well.
func (r *Report) write(w io.Writer, all bool) error {
	s := &screen{w: w}
	s.line("class %s (%s) for cores %s of %s", r.Class.Granted, r.Class.Granted.Promise(), r.Cores, r.Host.Name)
	var counts []string
	for _, severity := range []audit.Severity{audit.Fail, audit.Warn, audit.Unknown, audit.Note, audit.OK} {
		if n := r.audit.Count(severity); n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, severity))
		}
	}
	s.line("%s; Linux %s, %d CPUs, %d nodes; interfaces: %s", strings.Join(counts, ", "), r.Host.Kernel, r.Host.CPUs, r.Host.Nodes, cmp.Or(strings.Join(r.Interfaces, " "), "none"))
	r.holds(s)
	if r.Noise != nil {
		s.line("")
		writeNoise(s, r.Noise, false)
	}
	s.line("")
	var well []string
	for _, f := range r.audit.ByWeight() {
		name := strings.TrimSpace(f.ID + " " + f.Subject)
		if f.Severity == audit.OK && !all {
			well = append(well, name)
			continue
		}
		s.wrapped(fmt.Sprintf("%-8s", f.Severity), fmt.Sprintf("%s: %s (%s)", name, f.What, f.Measured))
		if f.Severity >= audit.Warn && f.Why != "" {
			s.wrapped("         why: ", f.Why)
		}
		if f.Severity != audit.OK && f.Fix != "" {
			s.wrapped("         fix: ", f.Fix)
		}
	}
	if len(well) > 0 {
		s.wrapped("ok      ", strings.Join(well, ", "))
	}
	if s.err != nil {
		return fmt.Errorf("doctor: %w", s.err)
	}
	return nil
}

// holds says what holds the class back, a line for each class that is out of reach.
func (r *Report) holds(s *screen) {
	for c := audit.ClassD; c > audit.ClassA; c-- {
		var by []string
		for _, h := range r.Class.HeldBack {
			text := h.By
			if h.By == "noise" {
				text += " (" + h.Evidence + ")"
			}
			if h.To == c && !slices.Contains(by, text) {
				by = append(by, text)
			}
		}
		if len(by) > 0 {
			s.wrapped(fmt.Sprintf("no better than %s: ", c), strings.Join(by, ", "))
		}
	}
}
