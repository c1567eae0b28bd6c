package boxes

import (
	"bytes"
	le "encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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

// structs are the same reports as raw records.
var structs = strings.Replace(readings, `
    format: json
    columns:
      event_type: text
      driver_id: int64
      fare: decimal(2)
      speed: {type: float64, path: telemetry.speed}
    time: {column: timestamp, unit: rfc3339}
`, `
    format: {raw: {order: little}}
    columns:
      driver_id: {type: int64, offset: 0}
      fare: {type: decimal(2), offset: 8}
      at: {type: int64, offset: 16}
      speed: {type: float64, offset: 24}
    time: {column: at, unit: ns}
`, 1)

// headers are the bytes before a generated payload: Ethernet, IPv4, UDP.
const headers = 14 + 20 + 8

// coarse rounds the event times of a capture down to hundredths of a second, so that
// many are equal.
func coarse(t *testing.T, l *Lab, path, kind string) string {
	t.Helper()
	in, err := capture.Open([]string{path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out := filepath.Join(l.Dir, "coarse.pcap")
	w, err := capture.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	for {
		var r capture.Record
		err := in.Next(&r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		r.Data = slices.Clone(r.Data)
		switch payload := r.Data[headers:]; kind {
		case "raw":
			at := le.LittleEndian.Uint64(payload[16:])
			le.LittleEndian.PutUint64(payload[16:], at-at%1e7)
		case "json":
			_, rest, _ := bytes.Cut(payload, []byte(`"timestamp":"2026-03-02T14:30:`))
			for i, c := range rest {
				if c == 'Z' {
					break
				}
				if i > len("00.00")-1 {
					rest[i] = '0'
				}
			}
		}
		if err := w.Write(&r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}

// Packets that three boxes see each a random part of give the rows of one box that saw
// all of them, though many events have the same time.
func TestNetnsARandomSplitGivesTheRowsOfOneBox(t *testing.T) {
	for kind, pipeline := range map[string]string{"json": readings, "raw": structs} {
		t.Run(kind, func(t *testing.T) {
			l := lab(t, pipeline)
			f := dealt(t, l, coarse(t, l, generate(t, l, "whole.pcap", kind, "--count", "40000", "--rate", "10000", "--keys", "200"), kind))
			want := replayed(t, l, f.whole)
			begin(t, l)
			f.send(t, l)
			f.wait(t)
			stopAll(t, l)
			all := global(t, l)
			same(t, latest(all), want)
			if len(want) < 400 {
				t.Errorf("only %d rows", len(want))
			}
		})
	}
}

// Boxes that are told to end one after the other, the last one long after a majority has
// gone, still get the last windows of all of them out.
func TestNetnsTheLastToEndIsNotLeftAlone(t *testing.T) {
	l := lab(t, readings, "period: 500ms")
	f := dealt(t, l, generate(t, l, "whole.pcap", "json", "--count", "9000", "--rate", "6000", "--keys", "50"))
	want := replayed(t, l, f.whole)
	begin(t, l)
	f.send(t, l)
	f.wait(t)
	for _, b := range l.Boxes {
		if err := b.Signal(syscall.SIGTERM, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(700 * time.Millisecond)
	}
	for _, b := range l.Boxes {
		if code := b.Wait(patience); code != 0 {
			t.Errorf("box %s ended with %d", b.ID, code)
		}
	}
	same(t, latest(global(t, l)), want)
}

// bars are ITCH bars: every box has channels of its own.
const bars = `
feeds:
  itch:
    match:
      - {protocol: udp, destination: 239.10.1.1, port: 26400, line: A}
    format: itch50
    day: 2026-03-02
queries:
  bars:
    from: itch
    where: message == "trade"
    key: [symbol]
    window: {tumbling: 1s}
    watermark: {delay: 100ms}
    select:
      open: first(price)
      high: max(price)
      low: min(price)
      close: last(price)
      volume: sum(size)
      trades: count()
      notional: sum(price * size)
      vwap: vwap(price, size)
    scope: global
    sinks: [rows]
sinks:
  rows: {jsonl: {path: ROWS}}
`

// Boxes that have channels of their own give the rows of one box with all channels, and
// say that nothing is missing.
func TestNetnsBoxesWithChannelsOfTheirOwn(t *testing.T) {
	l := lab(t, bars)
	f := &feed{}
	for i, b := range l.Boxes {
		f.parts = append(f.parts, generate(t, l, b.ID+".pcap", "itch", "--count", "40000", "--rate", "10000", "--keys", "100",
			"--channels", "2", "--session", "BOX"+b.ID, "--seed", strconv.Itoa(i+1)))
	}
	want := replayed(t, l, f.parts...)
	begin(t, l)
	f.send(t, l)
	f.wait(t)
	stopAll(t, l)
	all := global(t, l)
	same(t, latest(all), want)
	for _, r := range all {
		if c := r.Completeness; c.Complete == nil || !*c.Complete || len(c.Merged) != 3 {
			t.Fatalf("not complete: %s", r.line)
		}
	}
	if len(want) < 300 {
		t.Errorf("only %d rows", len(want))
	}
}

// Control processes die in turn, those that own rows too, between writing a row and
// reporting it as anywhere else. The data planes go on, so nothing is lost, and what is
// written twice is the same.
func TestNetnsControlProcessesDieInTurn(t *testing.T) {
	l := lab(t, readings, "period: 300ms", "max_wait: 1s")
	f := dealt(t, l, generate(t, l, "whole.pcap", "json", "--count", "100000", "--rate", "8000", "--keys", "100"))
	want := replayed(t, l, f.whole)
	begin(t, l)
	f.send(t, l)
	dice := rand.New(rand.NewPCG(1, 9))
	for i := range 6 {
		time.Sleep(600*time.Millisecond + time.Duration(dice.IntN(500))*time.Millisecond)
		b := l.Boxes[i%3]
		if err := b.Signal(syscall.SIGKILL, false); err != nil {
			t.Fatal(err)
		}
		<-b.done
		start(t, b)
		members(t, b, 3)
	}
	f.wait(t)
	for _, b := range l.Boxes {
		members(t, b, 3)
	}
	time.Sleep(time.Second)
	stopAll(t, l)
	all := global(t, l)
	same(t, latest(all), want)
	again, corrected := 0, 0
	seen := map[string]bool{}
	for _, r := range all {
		at := r.ID + strconv.Itoa(r.Revision)
		if seen[at] {
			again++
		}
		seen[at] = true
		if r.Revision > 0 {
			corrected++
		}
	}
	t.Logf("%d rows, %d of them written again, %d corrections", len(all), again, corrected)
}
