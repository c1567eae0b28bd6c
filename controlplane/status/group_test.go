package status

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// wholeGroup returns a group in which everything has happened once.
func wholeGroup() *Group {
	d := Durations{Bounds: []time.Duration{time.Microsecond, time.Millisecond}, Counts: []uint64{3, 2, 1}, Sum: 7 * time.Millisecond}
	return &Group{
		Me: "a", Epoch: 42, Members: []string{"a", "b"}, Known: []string{"a", "b", "c"},
		Transport: "verbs", Fallback: true, Device: "mlx5_0", GID: "::ffff:10.0.0.1", MTU: 4096,
		EpochChanges: []Count{{"heard", 2}, {"mesh", 1}}, EpochChange: d,
		Rounds:         []Count{{"complete", 90}, {"rerun", 2}, {"taken", 1}, {"handed", 1}},
		RoundDurations: []OpPhase{{"exchange", "whole", d}, {"exchange", "wait", d}},
		BadFrames:      []Count{{"epoch", 0}, {"seal", 4}}, StaleFrames: 5, BadMessages: 6,
		Refused: []Count{{"bad_certificate", 3}, {"garbage", 0}}, Completions: []Count{{"success", 7}},
		CreditsLeast: 8, DeviceCounters: []Count{{"out_of_sequence", 9}},
		Peers: []GroupPeer{
			{ID: "a", Address: "10.0.0.1:7400", Me: true, Member: true, Heard: true},
			{
				ID: "b", Address: "10.0.0.2:7400", Member: true, Connected: true, Heard: true, RTT: 123456, ClockOffset: -7 * time.Hour, ClockKnown: true,
				Sent: 5 << 20, Received: 1023, Waited: 1234 * time.Millisecond, WaitedRounds: 17, PathFailures: 1, LastError: "long over",
			},
			{ID: "c", Address: "10.0.0.3:7400", LastError: "dial tcp 10.0.0.3:7400: connect: connection refused"},
			{ID: "d", Address: "10.0.0.4:7400", Connected: true},
			{ID: "e", Address: "10.0.0.5:7400", Connected: true, Heard: true},
		},
		Queries: []GlobalQuery{
			{Name: "drivers", Watermark: time.Date(2026, 3, 2, 14, 30, 16, 5e8, time.UTC), HeldBy: "b", Lag: 1500 * time.Millisecond, Open: 3, Rows: 70, Windows: 40, Corrections: 2, Forced: 1, Unknown: 1},
			{Name: "quiet"},
		},
		Bad: []Count{{"length of b", 1}}, KeptBytes: 1 << 20, KeptLimit: 256 << 20, KeptLost: 2,
	}
}

func peersText(t *testing.T, g *Group) string {
	t.Helper()
	var b bytes.Buffer
	if err := g.WritePeers(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPeersAreTheGolden(t *testing.T) {
	alone := &Group{Me: "a", Epoch: 43, Members: []string{"a"}, Peers: []GroupPeer{{ID: "a", Me: true, Member: true}}}
	none := &Group{Me: "a", Peers: []GroupPeer{{ID: "a", Me: true}, {ID: "b"}}}
	golden(t, "peers.golden", peersText(t, wholeGroup())+"--\n"+peersText(t, alone)+"--\n"+peersText(t, none)+"--\n"+peersText(t, nil))
}

// Lint and golden of the families are in TestMetricsAreTheGoldenAndLintClean.
func TestEveryNameOfAGroupsMetricsInTheDocsIsOne(t *testing.T) {
	source, _ := balanced(t)
	source.Group = wholeGroup
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewMetrics(source))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
	}
	form := regexp.MustCompile(`headrace_(?:rdma|group|global)_[a-z_]+`)
	found := 0
	for _, name := range []string{"OPERATIONS.md", "PEERS.md"} {
		text, err := os.ReadFile("../../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, metric := range form.FindAllString(string(text), -1) {
			found++
			if !names[strings.TrimSuffix(metric, "_")] {
				t.Errorf("%s names %s, which is no metric", name, metric)
			}
		}
	}
	if found < 20 {
		t.Errorf("%d names found, the form is wrong", found)
	}
}
