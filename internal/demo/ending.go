package main

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/headrace/headrace/internal/show"
)

// lastShown is the number of rows that are printed as they are in the file.
const lastShown = 3

var errNoRows = errors.New("no row came out")

// lastRows prints the newest rows as they are. None at all is a failure, unless the
// show was stopped before there could be one.
func (st *stage) lastRows() error {
	lines := st.view.rows.last(lastShown)
	if len(lines) == 0 {
		if st.stop.Err() != nil {
			return nil //nolint:nilerr // a stop is no failure
		}
		return errNoRows
	}
	st.screen.Printf("\nThe last rows of %s:\n", st.rows)
	for _, line := range lines {
		st.screen.Printf("%s\n", show.Printable(string(line)))
	}
	return nil
}

// ledger prints the table, narrower if the screen is.
func (st *stage) ledger(table string) {
	if width := st.screen.Width(); width > 0 && width < longest(table) {
		table = narrow(table)
	}
	st.screen.Printf("\n%s\n", table)
}

func longest(text string) int {
	most := 0
	for _, line := range strings.Split(text, "\n") {
		most = max(most, utf8.RuneCountInString(line))
	}
	return most
}

// counts is the number of columns of a ledger that are counts; dropped is the place
// of one of them, below which the reasons stand.
const (
	counts  = 7
	dropped = 4
)

// narrow sets a ledger closer: one column says layer and object, and one space stands
// between columns.
func narrow(table string) string {
	var rows [][]string
	for _, line := range strings.Split(strings.TrimRight(table, "\n"), "\n") {
		line = strings.NewReplacer("in flight", "in_flight", "heartbeat", "beats").Replace(line)
		cells := strings.Fields(line)
		row := make([]string, counts+1)
		if n := len(cells) - counts; n > 0 {
			row[0] = strings.Join(cells[:n], " ")
			copy(row[1:], cells[n:])
		} else if n := len(cells) - 1; n > 0 { // a reason
			row[0], row[dropped+1] = "  "+strings.Join(cells[:n], " "), cells[n]
		}
		rows = append(rows, row)
	}
	var width [counts + 1]int
	for _, row := range rows {
		for i, c := range row {
			width[i] = max(width[i], len(c))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := fmt.Sprintf("%-*s", width[0], row[0])
		for i := 1; i <= counts; i++ {
			line += fmt.Sprintf(" %*s", width[i], row[i])
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// ledgerOf finds the table that `headrace run` prints at its end among what it said,
// and the lines whose difference is not 0. It is an error if there is no table.
func ledgerOf(said []byte) (table string, differences []string, err error) {
	var lines []string
	for _, line := range strings.Split(string(said), "\n") {
		if strings.HasPrefix(line, "time=") { // the log
			continue
		}
		cells := strings.Fields(line)
		switch {
		case len(cells) > 1 && cells[0] == "layer" && cells[len(cells)-1] == "difference":
			lines = []string{line} // the last table counts
		case len(lines) == 0:
		case len(cells) == 0:
			return strings.Join(lines, "\n") + "\n", differences, nil
		default:
			lines = append(lines, line)
			// layer, of, six counts and the difference; a reason's line is shorter.
			if n := len(cells); n > counts+1 && cells[n-1] != "0" {
				differences = append(differences, fmt.Sprintf("%s of %s by %s", cells[0], strings.Join(cells[1:n-counts], " "), cells[n-1]))
			}
		}
	}
	if len(lines) == 0 {
		return "", nil, errors.New("headrace run printed no ledger at its end")
	}
	return strings.Join(lines, "\n") + "\n", differences, nil
}
