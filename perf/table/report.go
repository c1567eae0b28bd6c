package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
)

// A report is what was measured.
type report struct {
	machine []string
	rows    []row
	notes   []string
	lines   []string // of the readings, for benchstat
}

// A row is one line of the table. Cells that do not apply are empty.
type row struct {
	what, unit        string
	ours, peer, gomap string
	overPeer, overMap string
	remark            string
}

// reading notes one reading for benchstat: value and unit, in turns.
func (r *report) reading(name string, values ...any) {
	line := fmt.Sprintf("Benchmark%s-%d\t1", name, runtime.NumCPU())
	for i := 0; i+1 < len(values); i += 2 {
		line += fmt.Sprintf("\t%.6g %s", values[i], values[i+1])
	}
	r.lines = append(r.lines, line)
}

func (r *report) print(to io.Writer) error {
	w := bufio.NewWriter(to)
	fmt.Fprintln(w, "| measurement | unit | headrace | C, C++ | Go map | headrace/C | headrace/map | remarks |")
	fmt.Fprintln(w, "|---|---|--:|--:|--:|--:|--:|---|")
	for _, x := range r.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join([]string{x.what, x.unit, x.ours, x.peer, x.gomap, x.overPeer, x.overMap, x.remark}, " | "))
	}
	fmt.Fprintln(w, "\nheadrace/C and headrace/map are speeds: 1 is as fast, 2 is twice as fast. Medians; ± is half the distance between the quartiles.")
	for _, m := range r.machine {
		fmt.Fprintln(w, "-", m)
	}
	for _, n := range r.notes {
		fmt.Fprintln(w, "-", n)
	}
	return w.Flush()
}

// save writes the readings.
func (r *report) save(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	for _, m := range r.machine {
		fmt.Fprintln(w, "#", m)
	}
	fmt.Fprintf(w, "goos: %s\ngoarch: %s\npkg: github.com/headrace/headrace/perf\n", runtime.GOOS, runtime.GOARCH)
	for _, l := range r.lines {
		fmt.Fprintln(w, l)
	}
	return w.Flush()
}

// quantile returns the value that the share q of x is at or below.
func quantile(x []float64, q float64) float64 {
	if len(x) == 0 {
		return 0
	}
	x = slices.Clone(x)
	slices.Sort(x)
	return x[int(q*float64(len(x)-1)+0.5)]
}

func median(x []float64) float64 { return quantile(x, 0.5) }

// cell writes the median of x and its spread.
func cell(x []float64) string {
	m := median(x)
	digits := 1
	if m >= 100 {
		digits = 0
	}
	return fmt.Sprintf("%.*f ± %.*f", digits, m, digits, (quantile(x, 0.75)-quantile(x, 0.25))/2)
}

// speed is the median of a/b over the rounds.
func speed(a, b []float64) string {
	ratios := make([]float64, min(len(a), len(b)))
	for i := range ratios {
		ratios[i] = a[i] / b[i]
	}
	return fmt.Sprintf("%.2f", median(ratios))
}
