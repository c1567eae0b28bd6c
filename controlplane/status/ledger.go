package status

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Line is one sum of a ledger:
//
//	Received = Applied + Duplicate + Heartbeat + Σ Dropped + InFlight
type Line struct {
	Layer     string  `json:"layer"` // xdp, worker, frames, messages, events, rows
	Of        string  `json:"of"`    // the feed, worker, query or sink
	Received  uint64  `json:"received"`
	Applied   uint64  `json:"applied"`
	Duplicate uint64  `json:"duplicate"`
	Heartbeat uint64  `json:"heartbeat"`
	Dropped   []Count `json:"dropped"`
	InFlight  uint64  `json:"in_flight"`
	// Difference is what the right side lacks of the left. In a line that is not
	// Exact it means something only after a drain.
	Difference int64 `json:"difference"`
	Exact      bool  `json:"exact"` // true at every snapshot
}

const (
	layerRows     = "rows"
	layerRestarts = "restarts"
)

func (l *Line) settle() {
	l.Difference = int64(l.Received - l.Applied - l.Duplicate - l.Heartbeat - total(l.Dropped) - l.InFlight)
}

// Ledger is the sums of a snapshot, from the wire to the sinks.
type Ledger []Line

// NewLedger makes the ledgers of s:
//
//	xdp       steered = received + lost + in ring           (all interfaces)
//	worker    frames  = Σ feeds' frames + unknown feed      (each worker)
//	frames    as segment.FeedCounters says                  (each feed)
//	messages  as segment.FeedCounters says                  (each feed)
//	events    received = applied + (sent - arrived) + dropped (each query)
//	rows      partials put out = rows committed + in flight (each sink; without a group's)
//
// What was lost with a data plane that died is a drop, data_plane_restart, and the
// restarts are a line of their own.
func NewLedger(s *Snapshot) Ledger {
	var l Ledger
	if s.XDP != nil {
		l = append(l, xdpLine(s))
	}
	for w := range s.workers {
		line := Line{Layer: "worker", Of: strconv.Itoa(w), Received: s.Workers[w].Frames, Exact: !s.Workers[w].Stale}
		for i := range s.workers[w].Feeds {
			line.Applied += s.workers[w].Feeds[i].Frames
		}
		line.Dropped = counts("unknown_feed", s.Workers[w].UnknownFeed)
		l = append(l, line)
	}
	exact := true // sums of workers whose copies are all consistent
	for i := range s.Workers {
		exact = exact && !s.Workers[i].Stale
	}
	for i := range s.Feeds {
		f := &s.Feeds[i]
		l = append(l, Line{
			Layer: "frames", Of: f.Name, Received: f.Frames, Applied: f.Applied, Duplicate: f.Duplicate,
			Heartbeat: f.Heartbeat, Dropped: f.Drops, InFlight: f.Held, Exact: exact,
		}, Line{
			Layer: "messages", Of: f.Name, Received: f.Messages, Applied: f.MApplied, Duplicate: f.MDuplicate,
			Dropped: f.MessageDrops, InFlight: f.MHeld, Exact: exact,
		})
	}
	for i := range s.Queries {
		q := &s.Queries[i]
		line := Line{Layer: "events", Of: q.Name, Received: q.Received, Applied: q.Applied, Dropped: q.Drops}
		if q.Sent > q.Arrived {
			line.InFlight = q.Sent - q.Arrived
		} else {
			line.Received += q.Arrived - q.Sent // more came than went: a difference, unless read at two instants
		}
		l = append(l, line)
	}
	for i := range s.Sinks {
		line := Line{Layer: layerRows, Of: s.Sinks[i].Name, Received: s.expects[i], Applied: s.Sinks[i].Rows - s.Sinks[i].Global}
		if !s.Drained && line.Received > line.Applied {
			line.InFlight = line.Received - line.Applied
		}
		l = append(l, line)
	}
	if f := s.former; f != nil && f.Restarts > 0 {
		for i := range l {
			l[i].Dropped = append(l[i].Dropped, counts(restartReason, f.lost(l[i].Layer, l[i].Of))...)
		}
		l = append(l, Line{Layer: layerRestarts, Of: "data plane", Received: f.Restarts, Applied: f.Restarts, Dropped: []Count{}, Exact: true})
	}
	for i := range l {
		l[i].settle()
	}
	return l
}

func xdpLine(s *Snapshot) Line {
	line := Line{Layer: "xdp", Of: "all"}
	for _, n := range s.XDP.Steered {
		line.Received += n
	}
	for i := range s.Workers {
		line.Applied += s.Workers[i].Frames
	}
	var dropped, full uint64
	for i := range s.XDP.Interfaces {
		f := &s.XDP.Interfaces[i]
		dropped, full, line.InFlight = dropped+f.RxDropped, full+f.RxRingFull, line.InFlight+f.InRing
	}
	line.Dropped = append(counts("rx_dropped", dropped), counts("rx_ring_full", full)...)
	return line
}

func counts(name string, n uint64) []Count {
	if n == 0 {
		return []Count{}
	}
	return []Count{{name, n}}
}

// Check returns the lines that do not balance and should: those that are exact at
// every snapshot, and all of them once the run has drained.
func Check(s *Snapshot) []Line {
	var bad []Line
	for _, line := range NewLedger(s) {
		if line.Difference != 0 && (line.Exact || s.Drained) {
			bad = append(bad, line)
		}
	}
	return bad
}

// Write prints the ledger as one aligned table, a line for every reason of a drop
// below its sum.
func (l Ledger) Write(w io.Writer) error {
	rows := [][]string{{"layer", "of", "received", "applied", "duplicate", "heartbeat", "dropped", "in flight", "difference"}}
	for _, x := range l {
		row := []string{x.Layer, x.Of}
		for _, n := range []uint64{x.Received, x.Applied, x.Duplicate, x.Heartbeat, total(x.Dropped), x.InFlight} {
			row = append(row, strconv.FormatUint(n, 10))
		}
		rows = append(rows, append(row, strconv.FormatInt(x.Difference, 10)))
		for _, c := range x.Dropped {
			rows = append(rows, []string{"", "  " + c.Name, "", "", "", "", strconv.FormatUint(c.Count, 10)})
		}
	}
	return writeTable(w, rows)
}

// writeTable prints rows of cells: the first two columns from the left, the
// others, which are numbers, from the right.
func writeTable(w io.Writer, rows [][]string) error {
	var width []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			if i < 2 {
				line += fmt.Sprintf("%-*s  ", width[i], cell)
			} else {
				line += fmt.Sprintf("%*s  ", width[i], cell)
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
