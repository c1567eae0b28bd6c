package main

import (
	"strings"
	"testing"
)

func TestParseReadsWhatGoTestPrints(t *testing.T) {
	l, ok := parse("BenchmarkDrain/consumer=go-2         \t1000000000\t        21.50 ns/frame\t         0.95 speed/C\n")
	if !ok || l.name != "Drain/consumer=go" || l.values["ns/frame"] != 21.5 || l.values["speed/C"] != 0.95 {
		t.Errorf("parse = %+v, %v", l, ok)
	}
	for _, text := range []string{"PASS", "BenchmarkDrain/consumer=go", "ok  \tpkg\t1.0s", "BenchmarkX-2 1 x ns/op"} {
		if _, ok := parse(text); ok {
			t.Errorf("parse(%q) finds a benchmark", text)
		}
	}
}

func TestSpeedIsTheMedianOfTheRoundsRatios(t *testing.T) {
	if got := speed([]float64{10, 20, 30}, []float64{10, 10, 10}); got != "2.00" {
		t.Errorf("speed = %s, want 2.00", got)
	}
	if got := median([]float64{5, 1, 3}); got != 3 {
		t.Errorf("median = %v, want 3", got)
	}
}

func TestPrintedTableIsMarkdown(t *testing.T) {
	r := &report{rows: []row{{what: "fold", unit: "ns", ours: "1"}}, machine: []string{"a machine"}}
	var b strings.Builder
	if err := r.print(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	for _, l := range lines[:3] {
		if strings.Count(l, "|") != 9 {
			t.Errorf("line %q has %d bars, want 9", l, strings.Count(l, "|"))
		}
	}
	if !strings.Contains(b.String(), "- a machine") {
		t.Error("the machine is not described")
	}
}
