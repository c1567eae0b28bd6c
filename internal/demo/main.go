package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/headrace/headrace/internal/show"
	"github.com/headrace/headrace/internal/veth"
)

func main() { os.Exit(run()) }

func run() int {
	s, err := fromEnvironment(os.Getenv)
	if err == nil {
		s.out = os.Stdout
		err = show.Signaled(func(stop, hurry context.Context) error { return play(stop, hurry, &s) })
	}
	return show.ExitCode("demo", err)
}

// A stage is where everything takes place, and what there is to tell of it.
type stage struct {
	*settings
	dir    string // removed at the end
	rows   string
	name   string // of the run
	begin  time.Time
	screen *show.Screen
	view   *view
	// stop ends the show in good order, hurry at once.
	stop, hurry context.Context
}

// play runs the whole demonstration. Whatever happens, what it made is removed
// before it returns.
func play(stop, hurry context.Context, s *settings) (err error) {
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	st := &stage{settings: s, name: "demo-" + hex.EncodeToString(random), begin: time.Now(), stop: stop, hurry: hurry}
	if s.config == "" {
		if s.config = s.example("bars.yaml"); s.capture != "" {
			if s.config, err = fitting(s); err != nil {
				return err
			}
		}
	}
	if st.dir, err = os.MkdirTemp(s.temp, "headrace-demo-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.clear(err)) }()
	st.rows = filepath.Join(st.dir, "rows.jsonl")
	st.screen = show.NewScreen(s.out)
	defer st.screen.Close()
	st.view = &view{bound: s.duration, rows: newTail(st.rows)}
	missing, err := veth.Missing()
	switch {
	case err != nil:
		return err
	case s.replay:
		return st.replayed("REPLAY is set")
	case missing != "":
		return st.replayed(fmt.Sprintf("this process lacks %s (run as root)", missing))
	}
	net, err := newNetwork()
	if veth.Denied(err) {
		return st.replayed(err.Error())
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, net.close()) }()
	return st.live(net)
}

// clear removes the folder, but for the rows if they are to be kept.
func (st *stage) clear(failed error) error {
	if !st.keep {
		if failed == nil {
			st.screen.Printf("%s is removed; KEEP=1 keeps it.\n", st.rows)
		}
		return os.RemoveAll(st.dir)
	}
	list, err := os.ReadDir(st.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range list {
		if path := filepath.Join(st.dir, f.Name()); path != st.rows {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	st.screen.Printf("The rows are in %s.\n", st.rows)
	return errors.Join(errs...)
}

// left is the time until the show must be over; forever without a duration.
func (st *stage) left() time.Duration {
	if st.duration == 0 {
		return 1 << 62
	}
	return st.duration - time.Since(st.begin)
}
