package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
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

var errSetting = errors.New("not a setting")

// fromEnvironment reads the settings. get is os.Getenv.
func fromEnvironment(get func(string) string) (settings, error) {
	s := settings{
		binary: get("HEADRACE"), config: get("CONFIG"), capture: get("CAPTURE"), rate: min(ratePerCPU*runtime.NumCPU(), rateMost), pps: defaultPPS,
		keep: on(get("KEEP")), replay: on(get("REPLAY")),
	}
	if text := get("DURATION"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Second {
			return s, fmt.Errorf("DURATION=%s: %w: a time of at least 1s, such as 20s or 2m", text, errSetting)
		}
		s.duration = d
	}
	for _, n := range []struct {
		name string
		to   *int
	}{{"RATE", &s.rate}, {"PPS", &s.pps}} {
		if text := get(n.name); text != "" {
			v, err := strconv.Atoi(text)
			if err != nil || v < 1 || v > 10_000_000 {
				return s, fmt.Errorf("%s=%s: %w: a number from 1 to 10000000", n.name, text, errSetting)
			}
			*n.to = v
		}
	}
	var err error
	if s.root, err = repository(); err != nil {
		return s, err
	}
	if s.binary == "" {
		s.binary = filepath.Join(s.root, "bin", "headrace")
	}
	for _, path := range []*string{&s.binary, &s.config, &s.capture} {
		if *path == "" {
			continue
		}
		if _, err := os.Stat(*path); err != nil {
			return s, err
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return s, err
		}
		if *path, err = filepath.EvalSymlinks(*path); err != nil { // processes are known by it
			return s, err
		}
	}
	return s, nil
}

func on(text string) bool { return text != "" && text != "0" && text != "no" }

// repository returns the folder of go.mod, at or above this one: the examples are
// there.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod here or above: start it in the repository, with `make run`")
		}
		dir = up
	}
}

func (s *settings) example(name string) string { return filepath.Join(s.root, "examples", name) }

// short is a path as a reader in the repository's folder would type it.
func (s *settings) short(path string) string {
	if r, err := filepath.Rel(s.root, path); err == nil && filepath.IsLocal(r) {
		return r
	}
	return path
}
