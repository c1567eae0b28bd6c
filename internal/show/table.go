package show

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Members are an object's, in their order.
type Members []Member

// Member is a name and its value as text.
type Member struct{ Name, Text string }

// UnmarshalJSON reads an object whose values are numbers, strings and null.
func (m *Members) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	*m = nil
	if _, err := d.Token(); err != nil { // the brace
		return err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		value, err := d.Token()
		if err != nil {
			return err
		}
		text := "null"
		if value != nil {
			text = Printable(fmt.Sprint(value))
		}
		*m = append(*m, Member{fmt.Sprint(name), text})
	}
	return nil
}

// A Table sets cells in columns, which only grow while the heads stay the same, so
// that a picture is steady.
type Table struct {
	heads []string
	width []int
}

// Lines returns the heads and below them the rows, of at most width characters; columns
// that do not fit are left out. The first left columns are set from the left, the
// others, which are numbers, from the right. Rows have as many cells as there are heads.
func (t *Table) Lines(heads []string, rows [][]string, left, width int) []string {
	if !slices.Equal(heads, t.heads) {
		t.heads, t.width = heads, make([]int, len(heads))
	}
	list := append([][]string{heads}, rows...)
	for _, cells := range list {
		for i, c := range cells {
			t.width[i] = max(t.width[i], utf8.RuneCountInString(c))
		}
	}
	lines := make([]string, len(list))
	for i, cells := range list {
		lines[i] = t.line(cells, left, width)
	}
	return lines
}

func (t *Table) line(cells []string, left, width int) string {
	var b strings.Builder
	for i, c := range cells {
		if room := width - utf8.RuneCountInString(b.String()); t.width[i] > room {
			break
		}
		pad := strings.Repeat(" ", t.width[i]-utf8.RuneCountInString(c))
		if i < left {
			b.WriteString(c + pad + "  ")
		} else {
			b.WriteString(pad + c + "  ")
		}
	}
	return strings.TrimRight(b.String(), " ")
}
