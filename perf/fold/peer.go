package fold

import (
	"fmt"
	"time"

	_ "embed"

	"github.com/headrace/headrace/perf/cpp"
)

//go:embed flat.cpp
var flatSource []byte

// Build compiles the C++ side into dir and returns the program's path.
func Build(dir string) (string, error) {
	binary, err := cpp.Build(dir, "flat", flatSource)
	if err != nil {
		return "", fmt.Errorf("fold: %w", err)
	}
	return binary, nil
}

// flat is the C++ side, a process that is asked for each round.
type flat struct{ program *cpp.Program }

func newFlat(binary string, keys, perWindow uint64) (side, error) {
	p, err := cpp.Start(binary, fmt.Sprint(keys), fmt.Sprint(perWindow))
	if err != nil {
		return nil, err
	}
	return &flat{p}, nil
}

func (f *flat) run(n uint64) (r Round, err error) {
	line, err := f.program.Ask(n)
	if err != nil {
		return r, err
	}
	var fold, closing int64
	_, err = fmt.Sscan(line, &fold, &closing, &r.Rows, &r.Checksum)
	r.Fold, r.Close = time.Duration(fold), time.Duration(closing)
	return r, err
}

func (f *flat) close() error         { return f.program.Close() }
func (f *flat) bytesPerKey() float64 { return 0 }
