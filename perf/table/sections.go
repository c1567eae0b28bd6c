package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/perf/decode"
	"github.com/headrace/headrace/perf/fold"
	"github.com/headrace/headrace/perf/replay"
)

// need returns errSkip if a program or file is missing.
func need(programs []string, files ...string) error {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w: %s is missing; make deps installs it", errSkip, p)
		}
	}
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("%w: %s is missing; name the folder of captures in HEADRACE_DATA", errSkip, f)
		}
	}
	return nil
}

func foldSection(c *config, r *report) error {
	if err := need([]string{"g++"}); err != nil {
		return err
	}
	binary, err := fold.Build(c.dir)
	if err != nil {
		return err
	}
	for _, keys := range []uint64{1_000, 10_000, 100_000, 1_000_000, 10_000_000} {
		if c.short && keys > 1_000_000 {
			continue
		}
		f, err := fold.Measure(binary, keys, c.rounds())
		if err != nil {
			return err
		}
		for i, by := range fold.Names {
			for round := range f.Fold[i] {
				r.reading(fmt.Sprintf("Fold/keys=%d/by=%s", keys, by), f.Fold[i][round], "ns/event", f.Close[i][round], "close-ns/row")
			}
		}
		ours, gomap, flat := f.Fold[0], f.Fold[1], f.Fold[2]
		r.rows = append(r.rows, row{
			what: fmt.Sprintf("fold, %s keys", short(keys)), unit: "ns/event (CPU)",
			ours: cell(ours), peer: cell(flat), gomap: cell(gomap), overPeer: speed(flat, ours), overMap: speed(gomap, ours),
			remark: fmt.Sprintf("%.0f bytes a key; close %.0f ns a row, C++ %.0f", f.BytesPerKey, median(f.Close[0]), median(f.Close[2])),
		})
	}
	return nil
}

func short(n uint64) string {
	switch {
	case n >= 1_000_000:
		return fmt.Sprintf("%d M", n/1_000_000)
	case n >= 1000:
		return fmt.Sprintf("%d k", n/1000)
	}
	return fmt.Sprint(n)
}

func decodeSection(c *config, r *report) error {
	if err := need(nil, filepath.Join(c.data, "iex", "DEEP10.pcap.gz")); err != nil {
		return err
	}
	results, err := decode.Measure(c.data, c.rounds(), 100*time.Millisecond)
	if err != nil {
		return err
	}
	for _, d := range results {
		for _, x := range d.Rounds {
			r.reading("Decode/format="+d.Name, x, "ns/message")
		}
		r.rows = append(r.rows, row{
			what: "decode " + d.Name, unit: "ns/message (CPU)", ours: cell(d.Rounds),
			remark: fmt.Sprintf("%.0f bytes a message, %.0f %% become events", d.Bytes, 100*d.Events),
		})
	}
	return nil
}

func replaySection(c *config, r *report) error {
	capture := filepath.Join(c.data, "iex", "DEEP10.pcap.gz")
	if err := need([]string{"g++"}, capture); err != nil {
		return err
	}
	m, err := replay.Measure(replay.Config{
		Config: "examples/iex-bars.yaml", Capture: capture, Dir: c.dir, Rounds: c.rounds(), Reading: 3 * time.Second,
	})
	if err != nil {
		return err
	}
	for i, by := range replay.Names {
		for round := range m.Wall[i] {
			r.reading("Replay/capture=DEEP10/by="+by, m.Wall[i][round], "messages/s", m.CPU[i][round], "messages/cpu-s")
		}
	}
	remark := fmt.Sprintf("%d messages → %d rows, equal", m.Messages, m.Rows)
	for _, x := range []struct {
		unit  string
		rates [2][]float64
	}{{"M messages/s", m.Wall}, {"M messages/s (CPU)", m.CPU}} {
		ours, loop := millions(x.rates[0]), millions(x.rates[1])
		r.rows = append(r.rows, row{
			what: "replay DEEP10, one worker", unit: x.unit, ours: cell(ours), peer: cell(loop), overPeer: speed(ours, loop), remark: remark,
		})
	}
	for _, s := range m.Stages {
		r.reading("Stage/capture=DEEP10/stage="+strings.ReplaceAll(s.Name, ", ", "+"), s.Nanos, "ns/message")
		r.rows = append(r.rows, row{
			what: "replay, " + s.Name, unit: "ns/message (CPU)", ours: fmt.Sprintf("%.1f", s.Nanos), remark: fmt.Sprintf("%.0f %%", 100*s.Share),
		})
	}
	return nil
}

func millions(x []float64) []float64 {
	m := make([]float64, len(x))
	for i := range x {
		m[i] = x[i] / 1e6
	}
	return m
}

// bench runs a package's benchmark by go test and returns its lines: name, and values
// by unit.
func bench(pkg, name string, count int) (lines []line, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: needs root", errSkip)
	}
	out, err := exec.Command("go", "test", "-run", "^$", "-bench", "^"+name+"$", "-count", fmt.Sprint(count), "-v", pkg).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test %s: %w\n%s", pkg, err, out)
	}
	for text := range strings.Lines(string(out)) {
		if l, ok := parse(text); ok {
			lines = append(lines, l)
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%w: %s", errSkip, reason(string(out)))
	}
	return lines, nil
}

// reason finds why a benchmark was skipped.
func reason(out string) string {
	for text := range strings.Lines(out) {
		if strings.Contains(text, "needs") {
			return strings.TrimSpace(text)
		}
	}
	return "go test printed no benchmark"
}

type line struct {
	name   string // without Benchmark and the number of CPUs
	values map[string]float64
}

func parse(text string) (l line, ok bool) {
	fields := strings.Fields(text)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return l, false
	}
	l.name = strings.TrimPrefix(fields[0], "Benchmark")
	if i := strings.LastIndexByte(l.name, '-'); i > 0 {
		l.name = l.name[:i]
	}
	l.values = map[string]float64{}
	for i := 2; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return l, false
		}
		l.values[fields[i+1]] = v
	}
	return l, true
}

func drainSection(c *config, r *report) error {
	if err := need([]string{"gcc"}); err != nil {
		return err
	}
	var lines []line
	for range c.rounds() { // -count would repeat what is reported, not what is measured
		more, err := bench("./perf/drain", "BenchmarkDrain", 1)
		if err != nil {
			return err
		}
		lines = append(lines, more...)
	}
	var frame, pps [2][]float64
	for _, l := range lines {
		side := 0
		if strings.HasSuffix(l.name, "=c") {
			side = 1
		}
		frame[side] = append(frame[side], l.values["ns/frame"])
		pps[side] = append(pps[side], l.values["sender-bound-pps"])
		r.reading(l.name, l.values["ns/frame"], "ns/frame", l.values["sender-bound-pps"], "sender-bound-pps")
	}
	r.rows = append(r.rows, row{
		what: "AF_XDP drain, full ring of 4,096", unit: "ns/frame", ours: cell(frame[0]), peer: cell(frame[1]), overPeer: speed(frame[1], frame[0]),
		remark: "medians of 200 drains each",
	}, row{
		what: "AF_XDP live, bound by the sender", unit: "k frames/s", ours: fmt.Sprintf("%.0f", median(pps[0])/1e3), peer: fmt.Sprintf("%.0f", median(pps[1])/1e3),
		remark: "says nothing of the worker",
	})
	return nil
}

func steerSection(c *config, r *report) error {
	lines, err := bench("./bpf", "BenchmarkSteer", c.rounds())
	if err != nil {
		return err
	}
	var names []string
	values := map[string][]float64{}
	for _, l := range lines {
		if values[l.name] == nil {
			names = append(names, l.name)
		}
		values[l.name] = append(values[l.name], l.values["ns/frame"])
		r.reading(l.name, l.values["ns/frame"], "ns/frame")
	}
	for _, name := range names {
		_, placement, _ := strings.Cut(name, "placement=")
		r.rows = append(r.rows, row{
			what: "XDP program, placement " + placement, unit: "ns/frame", ours: cell(values[name]), remark: "the kernel's own time, without delivery",
		})
	}
	return nil
}
