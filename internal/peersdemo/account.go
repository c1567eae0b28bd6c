package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headrace/headrace/internal/show"
)

// account reads all files anew, prints what has happened, and returns what did not hold
// of what was promised. whole says that the story came to its end.
func (st *stage) account(whole bool) error {
	b := newBook()
	for _, x := range st.lab.Boxes {
		b.add(x.ID, x.Rows)
	}
	if err := b.look(); err != nil {
		return err
	}
	p := st.screen.Printf
	if lines := st.story.told(); len(lines) > 0 {
		p("\n")
		for i, l := range lines {
			if i == 0 || lines[i-1][0] != l[0] {
				p("%s:\n", l[0])
			}
			p("  %s\n", l[1])
		}
	}
	var files, by []string
	for _, f := range b.files {
		files = append(files, fmt.Sprintf("%s %s", f.id, show.Thousands(f.rows)))
	}
	for merged, s := range b.all.by {
		by = append(by, fmt.Sprintf("%s of %s", show.Thousands(s.rows), merged))
	}
	slices.Sort(by)
	p("\n%s global rows: written by %s; merged: %s.\n", show.Thousands(b.all.rows), strings.Join(files, ", "), strings.Join(by, ", "))
	p("%s of them are corrections, %s came twice, byte for byte.\n", show.Thousands(b.all.corrected), show.Thousands(b.twice))
	left := 0
	if first, end := st.story.apart(); whole {
		var rows int
		rows, left = b.short(first, end)
		p("%s were written without c while it was cut off; %s of them have been corrected since.\n", show.Thousands(uint64(rows)), show.Thousands(uint64(rows-left)))
	}
	return judged(b, left, st.screen.Printf)
}

// judged says whether the rows are what is promised.
func judged(b *book, left int, p func(string, ...any)) error {
	var errs []error
	for _, text := range b.broken {
		errs = append(errs, errors.New(text))
	}
	if left > 0 {
		errs = append(errs, fmt.Errorf("%d rows without c were never corrected", left))
	}
	if len(errs) > 0 {
		return fmt.Errorf("not as promised: %w", errors.Join(errs...))
	}
	p("No two rows with equal (row_id, revision) differ, and no revision merges fewer peers than one before.\n")
	return nil
}
