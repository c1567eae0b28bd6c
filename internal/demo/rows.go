package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/headrace/headrace/internal/show"
)

// row is what the screen shows of a line of the rows' file.
type row struct {
	Query        string       `json:"query"`
	Key          show.Members `json:"key"`
	Start        time.Time    `json:"window_start"`
	Values       show.Members `json:"values"`
	Completeness struct {
		Missing uint64 `json:"missing"`
	} `json:"completeness"`
}

// tail is the end of a file of rows that grows.
type tail struct {
	path string
	set  show.Table
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
	k, err := f.ReadAt(b, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	b = b[:k]
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

// count returns the number of lines of the file.
func (t *tail) count() (n uint64, err error) {
	f, err := os.Open(t.path)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read from
	b := make([]byte, tailBytes)
	for {
		k, err := f.Read(b)
		n += uint64(bytes.Count(b[:k], []byte("\n")))
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
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
	var list [][]string
	for i := range rows {
		if c := cells(&rows[i], false); rows[i].Query == newest.Query && len(c) == len(heads) {
			list = append(list, c)
		}
	}
	return t.set.Lines(heads, list, len(newest.Key)+1, width)
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
		add(m.Name, m.Text)
	}
	add("window", r.Start.UTC().Format("15:04:05.999"))
	add("missing", fmt.Sprint(r.Completeness.Missing))
	for _, m := range r.Values {
		add(m.Name, m.Text)
	}
	return list
}
