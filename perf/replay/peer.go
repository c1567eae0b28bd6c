package replay

import (
	"fmt"
	"time"

	_ "embed"

	"github.com/headrace/headrace/perf/cpp"
)

//go:embed bars.cpp
var barsSource []byte

// Build compiles the C++ side into dir and returns the program's path.
func Build(dir string) (string, error) {
	binary, err := cpp.Build(dir, "bars", barsSource)
	if err != nil {
		return "", fmt.Errorf("replay: %w", err)
	}
	return binary, nil
}

// peer is the C++ side, a process that is asked for each round.
type peer struct{ program *cpp.Program }

func startPeer(binary, capture string) (*peer, error) {
	p, err := cpp.Start(binary, capture)
	if err != nil {
		return nil, err
	}
	return &peer{p}, nil
}

// run goes through the capture n times.
func (p *peer) run(n int) (r reading, err error) {
	line, err := p.program.Ask(n)
	if err != nil {
		return r, err
	}
	var wall, cpu int64
	_, err = fmt.Sscan(line, &wall, &cpu, &r.messages, &r.epochs, &r.missing)
	r.wall, r.cpu = time.Duration(wall), time.Duration(cpu)
	return r, err
}

// rows returns the rows of the last time.
func (p *peer) rows() (rows []string, err error) {
	for line, err := p.program.Ask("rows"); ; line, err = p.program.Line() {
		if err != nil || line == "" {
			return rows, err
		}
		rows = append(rows, line)
	}
}

func (p *peer) close() error { return p.program.Close() }
