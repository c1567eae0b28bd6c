package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

type config struct {
	ranks    []int
	sides    []string
	readings int
	calls    int
	records  int
	profile  string
	alone    bool
}

// A measure names what is measured.
type measure struct {
	what  string
	size  int
	ranks int
}

// A reading is a run's median and 99th percentile in microseconds.
type reading struct{ p50, p99 float64 }

//go:embed mpi.c
var mpiSource []byte

// runMax bounds a run of all ranks.
const runMax = 2 * time.Minute

func (c *config) run(out io.Writer) (err error) {
	sides := c.sides
	mpi := ""
	if !c.alone {
		dir, err := os.MkdirTemp("", "headrace-peers-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // it is in /tmp
		if mpi, err = buildMPI(dir); err != nil {
			return err
		}
		sides = append([]string{"mpi"}, sides...)
	}
	before := load()
	all := map[string]map[measure][]reading{}
	for n := range c.readings {
		for _, ranks := range c.ranks {
			for _, side := range sides {
				fmt.Fprintf(os.Stderr, "reading %d, %d ranks, %s\n", n+1, ranks, side)
				text, err := c.read(side, ranks, mpi)
				if err != nil {
					return fmt.Errorf("%s, %d ranks: %w", side, ranks, err)
				}
				if all[side] == nil {
					all[side] = map[measure][]reading{}
				}
				if err := note(all[side], ranks, text); err != nil {
					return fmt.Errorf("%s, %d ranks: %w", side, ranks, err)
				}
			}
		}
	}
	return c.print(out, sides, all, before)
}

func buildMPI(dir string) (program string, err error) {
	source, program := filepath.Join(dir, "mpi.c"), filepath.Join(dir, "mpi")
	if err := os.WriteFile(source, mpiSource, 0o600); err != nil {
		return "", err
	}
	if text, err := exec.Command("mpicc", "-O2", "-o", program, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("mpicc: %w: %s(make deps-peers installs it)", err, text)
	}
	return program, nil
}

// read runs all ranks of a side once and returns what rank 0 prints.
func (c *config) read(side string, ranks int, mpi string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runMax)
	defer cancel()
	if side == "mpi" {
		return c.readMPI(ctx, ranks, mpi)
	}
	o := order{
		Busy: side != "netpoll", Sealed: side == "sealed", Pin: side != "netpoll" && ranks <= runtime.NumCPU(),
		Calls: c.calls, Records: c.records, Profile: c.profile,
	}
	each, err := orders(ranks, o)
	if err != nil {
		return "", err
	}
	me, err := os.Executable()
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	errs := make([]error, ranks)
	var running sync.WaitGroup
	for r := range each {
		in, err := json.Marshal(each[r])
		if err != nil {
			return "", err
		}
		cmd := exec.CommandContext(ctx, me, "-rank")
		cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
		if r == 0 {
			cmd.Stdout = &out
		}
		running.Go(func() {
			if errs[r] = cmd.Run(); errs[r] != nil {
				cancel() // the others would wait
			}
		})
	}
	running.Wait()
	return out.String(), errors.Join(errs...)
}

func (c *config) readMPI(ctx context.Context, ranks int, program string) (string, error) {
	args := []string{
		"--allow-run-as-root", "--oversubscribe", "-np", fmt.Sprint(ranks),
		"--mca", "pml", "ob1", "--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo",
	}
	if ranks <= runtime.NumCPU() {
		args = append(args, "--bind-to", "core")
	} else {
		args = append(args, "--bind-to", "none")
	}
	cmd := exec.CommandContext(ctx, "mpirun", append(args, program, fmt.Sprint(c.calls), fmt.Sprint(c.records))...)
	var errText bytes.Buffer
	cmd.Stderr = &errText
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("mpirun: %w: %s", err, errText.String())
	}
	return string(out), nil
}

func note(into map[measure][]reading, ranks int, text string) error {
	lines := 0
	for line := range strings.Lines(text) {
		m, r, calls := measure{ranks: ranks}, reading{}, 0
		if _, err := fmt.Sscan(line, &m.what, &m.size, &r.p50, &r.p99, &calls); err != nil {
			return fmt.Errorf("line %q: %w", line, err)
		}
		into[m] = append(into[m], r)
		lines++
	}
	if lines == 0 {
		return errors.New("nothing was measured")
	}
	return nil
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

func (c *config) print(out io.Writer, sides []string, all map[string]map[measure][]reading, before string) error {
	var measures []measure
	for m := range all[sides[0]] {
		measures = append(measures, m)
	}
	slices.SortFunc(measures, func(a, b measure) int {
		if a.what != b.what {
			return strings.Compare(a.what, b.what)
		}
		return (a.ranks-b.ranks)*1<<30 + a.size - b.size
	})
	var text strings.Builder
	fmt.Fprintf(&text, "| measurement | ranks |")
	rule := "|---|--:|"
	for _, s := range sides {
		fmt.Fprintf(&text, " %s µs, p50 (p99) |", s)
		rule += "--:|"
		if s != "mpi" && !c.alone {
			fmt.Fprintf(&text, " %s/mpi |", s)
			rule += "--:|"
		}
	}
	fmt.Fprintf(&text, "\n%s\n", rule)
	for _, m := range measures {
		size := fmt.Sprintf("%d B", m.size)
		if m.what == "exchange" {
			size = fmt.Sprintf("%d records", m.size)
		}
		fmt.Fprintf(&text, "| %s %s | %d |", m.what, size, m.ranks)
		for _, s := range sides {
			var p50, p99, ratio []float64
			for i, r := range all[s][m] {
				p50, p99 = append(p50, r.p50), append(p99, r.p99)
				if !c.alone {
					ratio = append(ratio, r.p50/all["mpi"][m][i].p50)
				}
			}
			fmt.Fprintf(&text, " %.1f (%.0f) |", median(p50), median(p99))
			if s != "mpi" && !c.alone {
				fmt.Fprintf(&text, " %.2f |", median(ratio))
			}
		}
		fmt.Fprintln(&text)
	}
	fmt.Fprintf(&text, "\nMedians of %d readings; a ratio is the median over pairs of readings: below 1 is faster than Open MPI.\n", c.readings)
	fmt.Fprintf(&text, "- %d processors, %s/%s, %s; load before %s, after %s\n", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), before, load())
	_, err := io.WriteString(out, text.String())
	return err
}
