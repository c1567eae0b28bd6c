package fold

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	_ "embed"
)

//go:embed flat.cpp
var flatSource []byte

// Build compiles the C++ side into dir and returns the program's path.
func Build(dir string) (string, error) {
	source, binary := filepath.Join(dir, "flat.cpp"), filepath.Join(dir, "flat")
	if err := os.WriteFile(source, flatSource, 0o600); err != nil {
		return "", fmt.Errorf("fold: %w", err)
	}
	out, err := exec.Command("g++", "-O3", "-march=native", "-Wall", "-o", binary, source).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("fold: g++: %w\n%s", err, out)
	}
	return binary, nil
}

// flat is the C++ side, a process that is asked for each round.
type flat struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newFlat(binary string, keys, perWindow uint64) (side, error) {
	f := &flat{cmd: exec.Command(binary, fmt.Sprint(keys), fmt.Sprint(perWindow))}
	f.cmd.Stderr = os.Stderr
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	f.out = bufio.NewReader(out)
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return f, f.cmd.Start()
}

func (f *flat) run(n uint64) (r Round, err error) {
	if _, err = fmt.Fprintln(f.in, n); err != nil {
		return r, err
	}
	line, err := f.out.ReadString('\n')
	if err != nil {
		return r, fmt.Errorf("the C++ side: %w", err)
	}
	var fold, closing int64
	_, err = fmt.Sscan(line, &fold, &closing, &r.Rows, &r.Checksum)
	r.Fold, r.Close = time.Duration(fold), time.Duration(closing)
	return r, err
}

func (f *flat) close() error         { return errors.Join(f.in.Close(), f.cmd.Wait()) }
func (f *flat) bytesPerKey() float64 { return 0 }
