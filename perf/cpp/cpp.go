// Package cpp compiles and runs the C++ programs that benchmarks stand beside: one
// process for each, which answers a line for each line that it is given.
package cpp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build compiles source into dir as a program called name and returns its path.
func Build(dir, name string, source []byte) (string, error) {
	file, binary := filepath.Join(dir, name+".cpp"), filepath.Join(dir, name)
	if err := os.WriteFile(file, source, 0o600); err != nil {
		return "", err
	}
	out, err := exec.Command("g++", "-O3", "-march=native", "-Wall", "-o", binary, file).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("g++: %w\n%s", err, out)
	}
	return binary, nil
}

// A Program is a running one.
type Program struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Start runs binary.
func Start(binary string, args ...string) (*Program, error) {
	p := &Program{cmd: exec.Command(binary, args...)}
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

// Ask writes question as a line and returns the first line of the answer.
func (p *Program) Ask(question any) (string, error) {
	if _, err := fmt.Fprintln(p.in, question); err != nil {
		return "", err
	}
	return p.Line()
}

// Line returns the next line of an answer.
func (p *Program) Line() (string, error) {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the C++ side: %w", err)
	}
	return strings.TrimSuffix(line, "\n"), nil
}

// Close ends the program.
func (p *Program) Close() error { return errors.Join(p.in.Close(), p.cmd.Wait()) }
