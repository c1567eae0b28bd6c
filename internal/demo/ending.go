package main

import (
	"errors"
	"fmt"
	"strings"
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
			return nil
		}
		return errNoRows
	}
	st.screen.printf("\nThe last rows of %s:\n", st.rows)
	for _, line := range lines {
		st.screen.printf("%s\n", printable(string(line)))
	}
	return nil
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
			if n := len(cells); n >= 9 && cells[n-1] != "0" {
				differences = append(differences, fmt.Sprintf("%s of %s by %s", cells[0], strings.Join(cells[1:n-7], " "), cells[n-1]))
			}
		}
	}
	if len(lines) == 0 {
		return "", nil, errors.New("headrace run printed no ledger at its end")
	}
	return strings.Join(lines, "\n") + "\n", differences, nil
}
