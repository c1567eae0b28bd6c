package run

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/controlplane/send"
	"github.com/headrace/headrace/internal/netns"
	"github.com/headrace/headrace/internal/testdata"
)

const deepConfig = `
feeds:
  deep:
    match: {protocol: udp, destination: 224.2.3.10, port: 16648}
    format: iex-deep
queries:
  bars:
    from: deep
    where: message == "trade"
    key: [symbol]
    window: {tumbling: 1m}
    watermark: {delay: 121s}
    select:
      open: first(price)
      high: max(price)
      low: min(price)
      close: last(price)
      volume: sum(size)
      trades: count()
      notional: sum(price * size)
      vwap: vwap(price, size)
    sinks: [rows]
sinks:
  rows: {jsonl: {path: rows.jsonl}}
`

// sendCapture sends a capture from one end and returns what became of its frames.
func sendCapture(t *testing.T, from *netns.End, args ...string) send.Summary {
	t.Helper()
	out := headrace(t, from, append([]string{"send", "--interface", from.Interface, "--json", "--quiet"}, args...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var s send.Summary
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil {
		t.Fatalf("summary of send: %v\n%s", err, out)
	}
	return s
}

// replayed returns the rows of a replay, sorted, without the messages of the record
// that the file's end cuts: that record is not sent.
func replayed(t *testing.T, end *netns.End, config string, captures ...string) []string {
	t.Helper()
	dir := t.TempDir()
	path, out := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "rows.jsonl")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	headrace(t, end, append([]string{"replay", "-c", path, "--out", out}, captures...)...)
	return rowsOf(t, out)
}

func TestRootRunGivesReplaysRows(t *testing.T) {
	netns.Need(t)
	capture := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	for _, c := range []struct{ workers, queues int }{{1, 1}, {2, 2}} {
		t.Run(fmt.Sprintf("workers=%d/queues=%d", c.workers, c.queues), func(t *testing.T) {
			p := netns.NewPair(t, netns.Options{Queues: c.queues})
			want := replayed(t, p.B, deepConfig, capture)
			a := newAppliance(t, p.B, deepConfig, "--workers", fmt.Sprint(c.workers))
			a.start()
			s := sendCapture(t, p.A, "--pps", "30000", capture)
			r := a.settle(s.Sent)
			if l := line(t, r, "xdp"); l.Received != s.Sent || l.Applied != s.Sent || s.Refused != 0 {
				t.Errorf("sent %+v, steered %d, received %d, dropped %v", s, l.Received, l.Applied, l.Dropped)
			}
			if code := a.stop(); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			if got := a.rows(); !slices.Equal(got, want) {
				t.Errorf("%d rows, replay has %d", len(got), len(want))
			}
			if strings.Contains(a.log.String(), "do not balance") {
				t.Error("the ledger does not balance")
			}
		})
	}
}
