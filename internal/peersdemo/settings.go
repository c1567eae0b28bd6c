package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/headrace/headrace/internal/show"
)

// settings are what the environment says.
type settings struct {
	binary   string        // headrace
	duration time.Duration // bounds everything, from the start of the program on
	rate     int           // generated messages a second, to each box
	keep     bool
	temp     string // where everything is made; "": the system's place
	out      io.Writer
}

const (
	durationDefault = 30 * time.Second
	durationLeast   = 15 * time.Second
	rateDefault     = 2_000
	rateMost        = 100_000
	drivers         = 20
)

// fromEnvironment reads the settings. get is os.Getenv.
func fromEnvironment(get func(string) string) (s *settings, err error) {
	s = &settings{binary: get("HEADRACE"), rate: rateDefault, keep: show.On(get("KEEP"))}
	if s.duration, err = show.Duration(get("DURATION"), durationLeast); err != nil {
		return nil, err
	}
	if s.duration == 0 {
		s.duration = durationDefault
	}
	if text := get("RATE"); text != "" {
		if s.rate, err = strconv.Atoi(text); err != nil || s.rate < 100 || s.rate > rateMost {
			return nil, fmt.Errorf("RATE=%s: %w: messages a second to each box, from 100 to %d", text, show.ErrSetting, rateMost)
		}
	}
	if s.binary == "" {
		root, err := show.Repository()
		if err != nil {
			return nil, err
		}
		s.binary = filepath.Join(root, "bin", "headrace")
	}
	s.binary, err = show.Resolved(s.binary)
	return s, err
}
