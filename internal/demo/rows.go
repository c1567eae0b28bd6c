package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// row is what the screen shows of a line of the rows' file.
type row struct {
	Query        string    `json:"query"`
	Key          members   `json:"key"`
	Start        time.Time `json:"window_start"`
	Values       members   `json:"values"`
	Completeness struct {
		Missing uint64 `json:"missing"`
	} `json:"completeness"`
}

// members are an object's, in their order.
type members []member

type member struct{ name, text string }

// UnmarshalJSON reads an object whose values are numbers, strings and null.
func (m *members) UnmarshalJSON(b []byte) error {
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
			text = printable(fmt.Sprint(value))
		}
		*m = append(*m, member{fmt.Sprint(name), text})
	}
	return nil
}

// printable takes out what a terminal might obey: keys are bytes from the network.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// tail is the end of a file of rows that grows.
type tail struct {
	path  string
	width []int // of the table's columns: they only grow, so that the picture is steady
	heads []string
}

func newTail(path string) *tail { return &tail{path: path} }

// tailBytes is more than the rows of a screen take.
const tailBytes = 64 << 10

// last returns the last n whole lines of the file; fewer if there are not so many.
func (t *tail) last(n int) [][]byte {
	f, err := os.Open(t.path)
	if err != nil {
		return nil // not there yet
	}
	defer f.Close() //nolint:errcheck // only read from
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	from := max(st.Size()-tailBytes, 0)
	b := make([]byte, st.Size()-from)
	if k, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return nil
	} else {
		b = b[:k]
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	if from > 0 {
		b = b[bytes.IndexByte(b, '\n')+1:]
	}
	lines := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	lines = lines[max(0, len(lines)-n):]
	if len(lines) == 1 && len(lines[0]) == 0 {
		return nil
	}
	return lines
}

// table returns the newest rows under a head, at most height lines of at most width
// characters. Columns that do not fit are left out.
func (t *tail) table(width, height int) []string {
	var rows []row
	for _, line := range t.last(height - 1) {
		var r row
		if json.Unmarshal(line, &r) == nil {
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	newest := &rows[len(rows)-1]
	heads := cells(newest, true)
	if strings.Join(heads, "\n") != strings.Join(t.heads, "\n") {
		t.heads, t.width = heads, make([]int, len(heads))
	}
	list := [][]string{heads}
	for i := range rows {
		if c := cells(&rows[i], false); rows[i].Query == newest.Query && len(c) == len(heads) {
			list = append(list, c)
		}
	}
	for _, cells := range list {
		for i, c := range cells {
			t.width[i] = max(t.width[i], utf8.RuneCountInString(c))
		}
	}
	lines := make([]string, len(list))
	for i, cells := range list {
		lines[i] = t.line(cells, len(newest.Key)+1, width)
	}
	return lines
}

// line sets cells in their columns: the first left of them from the left, the others,
// which are numbers, from the right.
func (t *tail) line(cells []string, left, width int) string {
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

// cells are a row's, or their heads.
func cells(r *row, head bool) []string {
	var list []string
	add := func(name, text string) {
		if head {
			text = name
		}
		list = append(list, text)
	}
	for _, m := range r.Key {
		add(m.name, m.text)
	}
	add("window", r.Start.UTC().Format("15:04:05.999"))
	add("missing", fmt.Sprint(r.Completeness.Missing))
	for _, m := range r.Values {
		add(m.name, m.text)
	}
	return list
}
