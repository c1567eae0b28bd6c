package replay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/controlplane/compile"
	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/export"
	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/dataplane/capture"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire/formats"
)

// A reading is what a side did in one round.
type reading struct {
	wall, cpu                 time.Duration
	messages, epochs, missing uint64 // of one time through the capture
}

// cpu returns the processor time of the process.
func cpu() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		panic("replay: clock: " + err.Error())
	}
	return time.Duration(t.Nano())
}

// headrace replays a capture that is in memory.
type headrace struct {
	plan   *plan.Plan
	memory *capture.Memory
	out    string // the file of rows
}

func newHeadrace(configPath, capturePath, dir string) (*headrace, error) {
	c, err := config.Load(configPath)
	if err != nil {
		return nil, err
	}
	h := &headrace{out: filepath.Join(dir, "rows.jsonl")}
	if h.plan, err = compile.Compile(c, compile.Options{Formats: formats.Lookup, Workers: 1, Replay: true}); err != nil {
		return nil, err
	}
	h.memory, err = capture.Preload([]string{capturePath}, nil)
	return h, err
}

// run goes through the capture n times. The wall's time is that of the replay's own
// summary; processor time has everything.
func (h *headrace) run(n int) (r reading, err error) {
	begin := cpu()
	for range n {
		h.memory.Rewind()
		s, err := replay.Run(context.Background(), replay.Config{Plan: h.plan, Records: h.memory, OpenSinks: h.sink})
		if err != nil {
			return r, err
		}
		r.wall += time.Duration(s.Seconds * 1e9)
		r.messages, r.epochs, r.missing = s.Messages, s.Epochs, s.Missing
	}
	r.cpu = cpu() - begin
	return r, nil
}

func (h *headrace) sink() ([]export.Sink, error) {
	s, err := export.OpenJSONL(export.JSONLConfig{Name: "rows", Path: h.out, Truncate: true, Workers: 1})
	return []export.Sink{s}, err
}

// rows reads the last time's rows and writes them as the C++ side does.
func (h *headrace) rows() (rows []string, err error) {
	f, err := os.Open(h.out)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var row struct {
			Key    struct{ Symbol string }
			Start  time.Time              `json:"window_start"`
			Values map[string]json.Number `json:"values"`
		}
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return nil, err
		}
		fields := []string{row.Key.Symbol, fmt.Sprint(row.Start.UnixNano())}
		for _, name := range []string{"open", "high", "low", "close", "volume", "trades", "notional", "vwap"} {
			fields = append(fields, row.Values[name].String())
		}
		rows = append(rows, strings.Join(fields, " "))
	}
	return rows, nil
}
