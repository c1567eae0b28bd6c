package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/show"
)

// A row is what is read of a line of a file of rows.
type row struct {
	Scope        string       `json:"scope"`
	Key          show.Members `json:"key"`
	Start        time.Time    `json:"window_start"`
	Revision     uint32       `json:"revision"`
	Values       show.Members `json:"values"`
	Completeness struct {
		Complete *bool    `json:"complete"`
		Merged   []string `json:"merged"`
		Known    []string `json:"known"`
		Epoch    uint64   `json:"epoch"`
	} `json:"completeness"`
	ID   string `json:"row_id"`
	line []byte
}

// full reports that nobody's part is missing.
func (r *row) full() bool { return len(r.Completeness.Merged) == len(r.Completeness.Known) }

// peersOf writes a list of peers as rows are counted by it.
func peersOf(ids []string) string { return strings.Join(ids, " ") }

// A tally counts rows.
type tally struct {
	rows, corrected uint64
	by              map[string]share // by the peers merged in them
}

// A share is the rows that merged the same peers.
type share struct {
	rows  uint64
	epoch uint64 // the highest of them
}

// A book reads the files of all boxes while they grow, and holds every row against what
// is promised of it. One goroutine uses it.
type book struct {
	files  []*file
	all    tally
	twice  uint64 // rows that had come before, the same
	rows   map[string][]version
	newest []*row // a few, the newest last
	broken []string
}

// A file is the rows of one box.
type file struct {
	id, path string
	tally
	read int64 // up to there
}

// A version is one revision of a row.
type version struct {
	revision uint32
	sum      [sha256.Size]byte
	epoch    uint64
	merged   []string
	full     bool
	box      string
}

// newestKept is more rows than a screen has.
const newestKept = 64

func newBook() *book { return &book{rows: map[string][]version{}, all: tally{by: map[string]share{}}} }

func (b *book) add(id, path string) {
	b.files = append(b.files, &file{id: id, path: path, tally: tally{by: map[string]share{}}})
}

// look reads what is new.
func (b *book) look() error {
	for _, f := range b.files {
		if err := b.lookAt(f); err != nil {
			return fmt.Errorf("rows of %s: %w", f.id, err)
		}
	}
	return nil
}

func (b *book) lookAt(f *file) error {
	in, err := os.Open(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing was written yet
	}
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read from
	st, err := in.Stat()
	if err != nil {
		return err
	}
	// A start after a death cuts off a torn line, never one that we have read: those
	// are whole.
	text := make([]byte, max(st.Size()-f.read, 0))
	n, err := in.ReadAt(text, f.read)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	text = text[:bytes.LastIndexByte(text[:n], '\n')+1]
	f.read += int64(len(text))
	for line := range bytes.Lines(text) {
		b.take(f, bytes.TrimRight(line, "\n"))
	}
	return nil
}

// take counts a line and compares it with what came before.
func (b *book) take(f *file, line []byte) {
	r := &row{line: line}
	if err := json.Unmarshal(line, r); err != nil || r.ID == "" {
		b.wrong("a line of %s is no row: %s", f.id, line)
		return
	}
	for _, t := range []*tally{&f.tally, &b.all} {
		t.rows++
		if r.Revision > 0 {
			t.corrected++
		}
		s := t.by[peersOf(r.Completeness.Merged)]
		t.by[peersOf(r.Completeness.Merged)] = share{s.rows + 1, max(s.epoch, r.Completeness.Epoch)}
	}
	b.compare(f, r)
	if b.newest = append(b.newest, r); len(b.newest) > newestKept {
		b.newest = slices.Delete(b.newest, 0, len(b.newest)-newestKept)
	}
}

func (b *book) compare(f *file, r *row) {
	c := &r.Completeness
	v := version{r.Revision, sha256.Sum256(r.line), c.Epoch, c.Merged, r.full(), f.id}
	if r.Scope != "global" {
		b.wrong("not a global row: %s", r.line)
	}
	if !v.full && (c.Complete == nil || *c.Complete) {
		b.wrong("a row without all peers does not say that it is incomplete: %s", r.line)
	}
	for _, o := range b.rows[r.ID] {
		older, newer := &o, &v
		if o.revision > v.revision {
			older, newer = newer, older
		}
		switch {
		case o.revision == v.revision && o.sum == v.sum:
			b.twice++
			return
		case o.revision == v.revision:
			b.wrong("%s and %s have two rows with one row_id and revision that differ: %s", o.box, v.box, r.line)
			return
		case !subset(older.merged, newer.merged):
			b.wrong("revision %d merges fewer peers than revision %d: %s", newer.revision, older.revision, r.line)
		}
	}
	b.rows[r.ID] = append(b.rows[r.ID], v)
}

func subset(some, of []string) bool {
	return !slices.ContainsFunc(some, func(id string) bool { return !slices.Contains(of, id) })
}

// brokenMost bounds how many broken promises are told.
const brokenMost = 5

func (b *book) wrong(format string, args ...any) {
	if len(b.broken) < brokenMost {
		b.broken = append(b.broken, show.Printable(fmt.Sprintf(format, args...)))
	}
}

// short counts the rows that epochs from first to before end wrote without all peers,
// and those of them that no later revision made whole.
func (b *book) short(first, end uint64) (rows, left int) {
	for _, versions := range b.rows {
		if !slices.ContainsFunc(versions, func(v version) bool { return !v.full && v.epoch >= first && v.epoch < end }) {
			continue
		}
		rows++
		if !slices.ContainsFunc(versions, func(v version) bool { return v.full }) {
			left++
		}
	}
	return rows, left
}

// tally is a copy of the counts of all files.
func (b *book) tally() tally {
	t := b.all
	t.by = maps.Clone(t.by)
	return t
}
