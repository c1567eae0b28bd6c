package main

import (
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/headrace/headrace/internal/show"
)

// settings are what the environment says.
type settings struct {
	root    string // the repository's folder
	binary  string // headrace
	config  string // "": the example that fits
	capture string // "": a generated feed
	// duration bounds everything, from the start of the program on. 0: until Ctrl-C.
	duration time.Duration
	rate     int // generated messages a second
	pps      int // packets a second of a capture
	keep     bool
	replay   bool   // as without root
	temp     string // where the rows go; "": the system's place
	out      io.Writer
}

// What is shown where nothing else is asked for.
const (
	// What two cores that send, receive and write rows besides do without loss.
	ratePerCPU = 25_000
	rateMost   = 500_000
	defaultPPS = 20_000
	keys       = 5_000
	loss       = 0.01
	// replaySeconds is the length of the stream that is replayed if no duration is given.
	replaySeconds = 20
)

// fromEnvironment reads the settings. get is os.Getenv.
func fromEnvironment(get func(string) string) (settings, error) {
	s := settings{
		binary: get("HEADRACE"), config: get("CONFIG"), capture: get("CAPTURE"), rate: min(ratePerCPU*runtime.NumCPU(), rateMost), pps: defaultPPS,
		keep: show.On(get("KEEP")), replay: show.On(get("REPLAY")),
	}
	var err error
	if s.duration, err = show.Duration(get("DURATION"), time.Second); err != nil {
		return s, err
	}
	for _, n := range []struct {
		name string
		to   *int
	}{{"RATE", &s.rate}, {"PPS", &s.pps}} {
		if text := get(n.name); text != "" {
			v, err := strconv.Atoi(text)
			if err != nil || v < 1 || v > 10_000_000 {
				return s, fmt.Errorf("%s=%s: %w: a number from 1 to 10000000", n.name, text, show.ErrSetting)
			}
			*n.to = v
		}
	}
	if s.root, err = show.Repository(); err != nil {
		return s, err
	}
	if s.binary == "" {
		s.binary = filepath.Join(s.root, "bin", "headrace")
	}
	for _, path := range []*string{&s.binary, &s.config, &s.capture} {
		if *path == "" {
			continue
		}
		if *path, err = show.Resolved(*path); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *settings) example(name string) string { return filepath.Join(s.root, "examples", name) }

// short is a path as a reader in the repository's folder would type it.
func (s *settings) short(path string) string {
	if r, err := filepath.Rel(s.root, path); err == nil && filepath.IsLocal(r) {
		return r
	}
	return path
}
