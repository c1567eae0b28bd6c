package config

import (
	"strings"
	"unicode"
)

// path names a value in the file: steps joined by NUL, which no YAML text can hold.
type path string

func (p path) to(step string) path {
	if p == "" {
		return path(step)
	}
	return p + "\x00" + path(step)
}

func (p path) parent() path {
	i := strings.LastIndexByte(string(p), 0)
	if i < 0 {
		return ""
	}
	return p[:i]
}

func pathOf(steps []string) path { return path(strings.Join(steps, "\x00")) }

// A source remembers where in the file each value stood.
type source struct {
	file   string
	lines  []string
	keys   map[path]Pos // of the key or list entry
	values map[path]Pos // of the value
	bad    map[path]bool
	texts  map[path]textAt // scalars, for positions inside of them
}

// textAt is where the characters of a scalar begin and what they became.
type textAt struct {
	start Pos
	text  string
}

func newSource(file, text string) *source {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	return &source{file, lines, map[path]Pos{}, map[path]Pos{}, map[path]bool{}, map[path]textAt{}}
}

// value returns where the value at p stands; for one that is not there, the key of
// the nearest thing around it that is.
func (s *source) value(p path) Pos {
	if at, ok := s.values[p]; ok {
		return at
	}
	return s.key(p.parent())
}

// key returns where the key at p stands, or the nearest one around it.
func (s *source) key(p path) Pos {
	for {
		if at, ok := s.keys[p]; ok {
			return at
		}
		if at, ok := s.values[p]; ok {
			return at
		}
		if p == "" {
			return Pos{1, 1}
		}
		p = p.parent()
	}
}

// markBad remembers that the value at p could not be read, so that nobody draws
// further conclusions from it or from what holds it.
func (s *source) markBad(p path) {
	for {
		s.bad[p] = true
		if p == "" {
			return
		}
		p = p.parent()
	}
}

// within returns where character number offset of the scalar at p stands. It
// follows line breaks and indentation; behind an escape it gives the scalar's start.
func (s *source) within(p path, offset int) Pos {
	t, ok := s.texts[p]
	if !ok {
		return s.value(p)
	}
	line, column := t.start.Line, t.start.Column
	var row []rune
	load := func() bool {
		if line < 1 || line > len(s.lines) {
			return false
		}
		row = []rune(s.lines[line-1])
		return true
	}
	if !load() {
		return s.value(p)
	}
	for i, r := range []rune(t.text) {
		// A run of white space in the text is any run of it in the file.
		for !unicode.IsSpace(r) && (column > len(row) || column < 1 || unicode.IsSpace(row[column-1])) {
			if column <= len(row) {
				column++
				continue
			}
			line, column = line+1, 1
			if !load() {
				return s.value(p)
			}
		}
		if i == offset {
			return Pos{line, column}
		}
		if unicode.IsSpace(r) {
			if column <= len(row) && unicode.IsSpace(row[column-1]) {
				column++
			}
			continue
		}
		if row[column-1] != r {
			return s.value(p)
		}
		column++
	}
	return Pos{line, column}
}

// Pos returns where the value named by path stands, such as
// Pos("feeds", "deep", "match", "0", "port"): names for maps, numbers for lists.
// For a value that the file leaves out it is where the key around it stands.
func (c *Config) Pos(steps ...string) Pos { return c.src.value(pathOf(steps)) }

// KeyPos returns where the key of the value named by path stands.
func (c *Config) KeyPos(steps ...string) Pos { return c.src.key(pathOf(steps)) }

// PosWithin returns where character number offset of the scalar named by path stands.
func (c *Config) PosWithin(offset int, steps ...string) Pos {
	return c.src.within(pathOf(steps), offset)
}

// Has reports whether the file gives the value named by path.
func (c *Config) Has(steps ...string) bool {
	_, ok := c.src.values[pathOf(steps)]
	return ok
}

// Bad reports that the value named by path, or something in it, could not be read:
// a finding says so, and conclusions from its zero value would mislead.
func (c *Config) Bad(steps ...string) bool { return c.src.bad[pathOf(steps)] }

// Report adds a finding.
func (c *Config) Report(at Pos, message, allowed, fix string) {
	c.findings = append(c.findings, Finding{File: c.src.file, Pos: at, Message: message, Allowed: allowed, Fix: fix})
}

// Findings returns all findings so far, by position.
func (c *Config) Findings() Findings { return c.findings.sorted() }

// File returns the name under which the config was read.
func (c *Config) File() string { return c.src.file }
