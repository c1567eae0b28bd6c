package replay

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"
)

// A Stage is a stage's share of the processor time of a replay.
type Stage struct {
	Name  string
	Share float64 // of all samples
	Nanos float64 // a message
}

// stageOf says to which stage a function belongs, by the beginning of its name
// without the module. The first that fits counts.
var stageOf = []struct{ prefix, stage string }{
	{"dataplane/replay.", "receive, steer"},
	{"dataplane/capture.", "receive, steer"},
	{"dataplane/steer.", "receive, steer"},
	{"dataplane/sequence.", "sequence"},
	{"dataplane/wire", "decode"},
	{"dataplane/exchange.", "filter, key"},
	{"dataplane.(*feed).prepare", "filter, key"},
	{"dataplane/window.(*State).Close", "close"},
	{"dataplane/window.(*State).closePane", "close"},
	{"dataplane/window.(*State).sweepPane", "close"},
	{"dataplane/outbox.(*Writer)", "close"},
	{"dataplane/window.New", "set-up"},
	{"dataplane/window.", "fold"},
	{"dataplane.NewWorker", "set-up"},
	{"dataplane/arena.New", "set-up"},
	{"dataplane/arena.(*Region).Close", "set-up"},
	{"dataplane/segment.Create", "set-up"},
	{"dataplane/segment.(*Segment)", "set-up"},
	{"dataplane/segment.(*Worker).Publish", "worker"},
	{"controlplane/replay.(*run).build", "set-up"},
	{"controlplane/replay.Values", "set-up"},
	{"controlplane/export.", "rows"},
	{"controlplane/rows.", "rows"},
	{"controlplane/replay.", "set-up"},
	{"dataplane.(*Worker)", "worker"},
	{"dataplane.(*feed)", "worker"},
}

// StageNames are the stages in the order of the path. Worker is what is between the
// stages; other is the runtime.
var StageNames = []string{"receive, steer", "sequence", "decode", "filter, key", "fold", "close", "worker", "rows", "set-up", "other"}

const module = "github.com/headrace/headrace/"

// profile replays n times under a CPU profile and takes it apart.
func profile(h *headrace, n int) ([]Stage, error) {
	path := filepath.Join(filepath.Dir(h.out), "cpu.pprof")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // a scratch file
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	did, err := h.run(n)
	pprof.StopCPUProfile()
	if err != nil {
		return nil, err
	}
	out, err := exec.Command("go", "tool", "pprof", "-traces", path).Output()
	if err != nil {
		return nil, fmt.Errorf("go tool pprof: %w", err)
	}
	shares, err := split(out)
	if err != nil {
		return nil, err
	}
	each := float64(did.cpu) / float64(n) / float64(did.messages)
	var stages []Stage
	for _, name := range StageNames {
		stages = append(stages, Stage{name, shares[name], shares[name] * each})
	}
	return stages, nil
}

// split reads the stacks that pprof prints: after each rule a value and the innermost
// function, then its callers, a line each.
func split(traces []byte) (map[string]float64, error) {
	shares := map[string]float64{}
	total, value := 0.0, 0.0
	stage := ""
	end := func() {
		if stage == "" {
			stage = "other"
		}
		shares[stage] += value
		total += value
		value, stage = 0, ""
	}
	body := false
	for lines := bufio.NewScanner(bytes.NewReader(traces)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "---") {
			end()
			body = true
			continue
		}
		if !body {
			continue
		}
		if first, rest, ok := strings.Cut(line, " "); ok && value == 0 {
			d, err := duration(first)
			if err != nil {
				return nil, fmt.Errorf("a profile's stack begins with %q: %w", first, err)
			}
			value, line = d, strings.TrimSpace(rest)
		}
		if stage == "" {
			stage = find(line)
		}
	}
	end()
	if total == 0 {
		return nil, fmt.Errorf("the profile is empty")
	}
	for name := range shares {
		shares[name] /= total
	}
	return shares, nil
}

func duration(s string) (float64, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return d.Seconds(), nil
	}
	return strconv.ParseFloat(s, 64)
}

func find(function string) string {
	name, ok := strings.CutPrefix(function, module)
	if !ok {
		return ""
	}
	for _, s := range stageOf {
		if strings.HasPrefix(name, s.prefix) {
			return s.stage
		}
	}
	return ""
}
