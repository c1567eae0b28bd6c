package status

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Rate is what one worker, feed, query or sink did per second.
type Rate struct {
	Kind   string             `json:"kind"` // worker, feed, query, sink
	Of     string             `json:"of"`
	Values map[string]float64 `json:"per_second"`
}

// rateColumns are the columns of the table, in order.
var rateColumns = []string{"frames", "bytes", "messages", "events", "rows", "busy_cycles", "cycles"}

// Rates compares two snapshots of one run. It is empty if later is not later.
// A count that went down, because the data plane was started again, has rate 0.
func Rates(earlier, later *Snapshot) []Rate {
	rates := []Rate{}
	seconds := later.At.Sub(earlier.At).Seconds()
	if seconds <= 0 {
		return rates
	}
	per := func(a, b uint64) float64 {
		if b < a {
			return 0
		}
		return float64(b-a) / seconds
	}
	for i := range min(len(earlier.Workers), len(later.Workers)) {
		a, b := &earlier.Workers[i], &later.Workers[i]
		rates = append(rates, Rate{"worker", fmt.Sprint(b.Worker), map[string]float64{
			"frames": per(a.Frames, b.Frames), "cycles": per(a.Cycles, b.Cycles), "busy_cycles": per(a.BusyCycles, b.BusyCycles),
		}})
	}
	for i := range min(len(earlier.Feeds), len(later.Feeds)) {
		a, b := &earlier.Feeds[i], &later.Feeds[i]
		rates = append(rates, Rate{"feed", b.Name, map[string]float64{
			"frames": per(a.Frames, b.Frames), "bytes": per(a.Bytes, b.Bytes),
			"messages": per(a.Messages, b.Messages), "events": per(a.Events, b.Events),
		}})
	}
	for i := range min(len(earlier.Queries), len(later.Queries)) {
		a, b := &earlier.Queries[i], &later.Queries[i]
		rates = append(rates, Rate{"query", b.Name, map[string]float64{"events": per(a.Received, b.Received), "rows": per(a.Partials, b.Partials)}})
	}
	for i := range min(len(earlier.Sinks), len(later.Sinks)) {
		a, b := &earlier.Sinks[i], &later.Sinks[i]
		rates = append(rates, Rate{"sink", b.Name, map[string]float64{"rows": per(a.Rows, b.Rows), "bytes": per(a.Bytes, b.Bytes)}})
	}
	return rates
}

// Report is the answer to GET /v1/status.
type Report struct {
	Snapshot   *Snapshot `json:"snapshot"`
	Ledger     Ledger    `json:"ledger"`
	Imbalances []Line    `json:"imbalances"`
	Rates      []Rate    `json:"rates"`
}

// NewReport makes the report of later; earlier may be nil.
func NewReport(earlier, later *Snapshot) *Report {
	r := &Report{Snapshot: later, Ledger: NewLedger(later), Imbalances: Check(later), Rates: []Rate{}}
	if r.Imbalances == nil {
		r.Imbalances = []Line{}
	}
	if earlier != nil {
		r.Rates = Rates(earlier, later)
	}
	return r
}

// Write prints the report for people: the ledgers, the rates, and what needs
// attention.
func (r *Report) Write(w io.Writer) error {
	fmt.Fprintf(w, "%s  %s", r.Snapshot.Name, r.Snapshot.At.Format("2006-01-02 15:04:05Z"))
	for _, x := range r.Snapshot.Workers {
		fmt.Fprintf(w, "  worker %d: %s", x.Worker, x.State)
	}
	fmt.Fprint(w, "\n\n")
	if err := r.Ledger.Write(w); err != nil {
		return err
	}
	if len(r.Rates) > 0 {
		fmt.Fprintln(w)
		rows := [][]string{{"per second", "of"}}
		for _, c := range rateColumns {
			rows[0] = append(rows[0], strings.ReplaceAll(c, "_", " "))
		}
		for _, x := range r.Rates {
			row := []string{x.Kind, x.Of}
			for _, c := range rateColumns {
				cell := ""
				if v, ok := x.Values[c]; ok {
					cell = strconv.FormatFloat(v, 'f', 0, 64)
				}
				row = append(row, cell)
			}
			rows = append(rows, row)
		}
		if err := writeTable(w, rows); err != nil {
			return err
		}
	}
	if err := r.Snapshot.Placement.write(w); err != nil {
		return err
	}
	return r.notes(w)
}

// notes prints what a person should look at.
func (r *Report) notes(w io.Writer) error {
	var notes []string
	if n := r.Snapshot.Restarts; n > 0 {
		notes = append(notes, fmt.Sprintf("the data plane died and was started again: %d times; its state was lost, and rows of windows open then are incomplete", n))
	}
	if note := r.Snapshot.Continuity.note(); note != "" {
		notes = append(notes, note)
	}
	for _, x := range r.Snapshot.Workers {
		if x.Failure != "" {
			notes = append(notes, fmt.Sprintf("worker %d failed: %q", x.Worker, x.Failure))
		}
	}
	for _, x := range r.Snapshot.Sinks {
		if x.LastError != "" {
			notes = append(notes, fmt.Sprintf("sink %s: %d retries, last error: %s", x.Name, x.Retries, x.LastError))
		}
	}
	for _, x := range r.Snapshot.Faults {
		if x.Count > 0 {
			notes = append(notes, fmt.Sprintf("%d outboxes are not read any more: %s", x.Count, x.Name))
		}
	}
	for _, x := range r.Imbalances {
		notes = append(notes, fmt.Sprintf("%s of %s do not balance: %d", x.Layer, x.Of, x.Difference))
	}
	if len(notes) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(notes, "\n"))
	return err
}
