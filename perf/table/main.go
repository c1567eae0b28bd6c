// Command table runs the benchmarks and prints one Markdown table of them.
//
//	go run ./perf/table [-o FILE] [-short] [-only fold,decode,replay,drain,steer]
//
// Run it at the repository's root. It needs g++ for fold and replay, root and gcc for
// drain, root for steer, and the captures (../shared/data, or HEADRACE_DATA) for decode
// and replay; what cannot be run is said below the table, and the rest is printed. The
// exit status is 1 if something that ran failed. perf/README.md says how to read the
// table.
//
// -o also writes every single reading, for benchstat. -short takes three readings
// instead of five and leaves out 10 million keys.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

func main() {
	c := config{}
	out := flag.String("o", "", "write all readings to this `file`, for benchstat")
	flag.BoolVar(&c.short, "short", false, "three readings instead of five, at most 1 million keys")
	only := flag.String("only", "", "comma-separated `sections`: fold, decode, replay, drain, steer")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "table: no arguments but flags; see -help")
		os.Exit(64)
	}
	if err := run(c, *out, *only); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

// config says how much to measure.
type config struct {
	short bool
	dir   string // for what is made
	data  string // folder of captures
}

func (c *config) rounds() int {
	if c.short {
		return 3
	}
	return 5
}

// errSkip reports a section that cannot run here.
var errSkip = errors.New("not run")

var sections = []struct {
	name string
	run  func(*config, *report) error
}{
	{"fold", foldSection},
	{"decode", decodeSection},
	{"replay", replaySection},
	{"drain", drainSection},
	{"steer", steerSection},
}

func run(c config, out, only string) (err error) {
	if c.dir, err = os.MkdirTemp("", "headrace-perf-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	if c.data = os.Getenv("HEADRACE_DATA"); c.data == "" {
		c.data = "../shared/data"
	}
	wanted := strings.FieldsFunc(only, func(r rune) bool { return r == ',' })
	for _, name := range wanted {
		if !slices.ContainsFunc(sections, func(s struct {
			name string
			run  func(*config, *report) error
		},
		) bool {
			return s.name == name
		}) {
			return fmt.Errorf("there is no section %q: fold, decode, replay, drain, steer", name)
		}
	}
	r := &report{machine: describe()}
	var failed error
	for _, s := range sections {
		if len(wanted) > 0 && !slices.Contains(wanted, s.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s…\n", s.name)
		if err := s.run(&c, r); err != nil {
			r.notes = append(r.notes, fmt.Sprintf("%s: %v", s.name, err))
			if !errors.Is(err, errSkip) {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", s.name, err))
			}
		}
	}
	r.machine = append(r.machine, "load afterwards: "+load())
	if err := r.print(os.Stdout); err != nil {
		return err
	}
	if out != "" {
		if err := r.save(out); err != nil {
			return err
		}
	}
	return failed
}
