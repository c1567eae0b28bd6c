package replay

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	_ "embed"
)

//go:embed bars.cpp
var barsSource []byte

// Build compiles the C++ side into dir and returns the program's path.
func Build(dir string) (string, error) {
	source, binary := filepath.Join(dir, "bars.cpp"), filepath.Join(dir, "bars")
	if err := os.WriteFile(source, barsSource, 0o600); err != nil {
		return "", fmt.Errorf("replay: %w", err)
	}
	out, err := exec.Command("g++", "-O3", "-march=native", "-Wall", "-o", binary, source).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("replay: g++: %w\n%s", err, out)
	}
	return binary, nil
}

// peer is the C++ side, a process that is asked for each round.
type peer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startPeer(binary, capture string) (*peer, error) {
	p := &peer{cmd: exec.Command(binary, capture)}
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return p, p.cmd.Start()
}

// run goes through the capture n times.
func (p *peer) run(n int) (r reading, err error) {
	if _, err = fmt.Fprintln(p.in, n); err != nil {
		return r, err
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return r, fmt.Errorf("the C++ side: %w", err)
	}
	var wall, cpu int64
	_, err = fmt.Sscan(line, &wall, &cpu, &r.messages, &r.epochs, &r.missing)
	r.wall, r.cpu = time.Duration(wall), time.Duration(cpu)
	return r, err
}

// rows returns the rows of the last time.
func (p *peer) rows() (rows []string, err error) {
	if _, err = fmt.Fprintln(p.in, "rows"); err != nil {
		return nil, err
	}
	for {
		line, err := p.out.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("the C++ side: %w", err)
		}
		if line = strings.TrimSuffix(line, "\n"); line == "" {
			return rows, nil
		}
		rows = append(rows, line)
	}
}

func (p *peer) close() error { return errors.Join(p.in.Close(), p.cmd.Wait()) }
