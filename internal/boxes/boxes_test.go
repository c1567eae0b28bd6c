package boxes

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/headrace/headrace/dataplane/capture"
)

// readings are cars' reports from JSON and from raw records, with every aggregate that
// could depend on order.
const readings = `
feeds:
  cars:
    match: {protocol: udp, destination: 239.1.1.1, port: 9000}
    format: json
    columns:
      event_type: text
      driver_id: int64
      fare: decimal(2)
      speed: {type: float64, path: telemetry.speed}
    time: {column: timestamp, unit: rfc3339}
queries:
  drivers:
    from: cars
    key: [driver_id]
    window: {tumbling: 1s}
    watermark: {delay: 200ms, idle: 2s}
    keys: 5000
    select:
      reports: count()
      first: first(fare)
      last: last(fare)
      low: min(fare)
      high: max(fare)
      fares: sum(fare)
      speeds: sum(speed)
      mean: mean(speed)
      spread: variance(speed)
    scope: global
    sinks: [rows]
    local_sinks: [here]
sinks:
  rows: {jsonl: {path: ROWS}}
  here: {jsonl: {path: LOCAL}}
`

// split deals the packets of a capture out at random.
func split(t *testing.T, l *Lab, path string, n int) []string {
	t.Helper()
	in, err := capture.Open([]string{path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var paths []string
	var writers []*capture.Writer
	for i := range n {
		name := filepath.Join(l.Dir, "part-"+string(rune('a'+i))+".pcap")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w, err := capture.NewWriter(f)
		if err != nil {
			t.Fatal(err)
		}
		paths, writers = append(paths, name), append(writers, w)
	}
	dice := rand.New(rand.NewPCG(7, 7))
	for {
		var r capture.Record
		err := in.Next(&r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := writers[dice.IntN(n)].Write(&r); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range writers {
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

// Packets that three boxes see each a random part of give the rows of one box that saw
// all of them.
func TestNetnsARandomSplitGivesTheRowsOfOneBox(t *testing.T) {
	l := lab(t, 3, readings)
	whole := generate(t, l, "whole.pcap", "json", "--count", "40000", "--rate", "10000", "--keys", "200")
	parts := split(t, l, whole, 3)
	want := replayed(t, l, whole)
	begin(t, l)
	var sent []<-chan error
	for i, b := range l.Boxes {
		sent = append(sent, send(t, l, b, parts[i]))
	}
	for _, done := range sent {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	stopAll(t, l)
	same(t, latest(global(t, l)), want)
}
