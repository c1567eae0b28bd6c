package main

import (
	"context"
	_ "embed" // the pipeline
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/headrace/headrace/internal/boxes"
	"github.com/headrace/headrace/internal/show"
	"github.com/headrace/headrace/internal/veth"
)

//go:embed pipeline.yaml
var pipeline string

func main() { os.Exit(run()) }

func run() int {
	s, err := fromEnvironment(os.Getenv)
	if err == nil {
		s.out = os.Stdout
		err = show.Signaled(func(stop, hurry context.Context) error { return play(stop, hurry, s) })
	}
	return show.ExitCode("peersdemo", err)
}

// A stage is where everything takes place, and what there is to tell of it.
type stage struct {
	*settings
	dir     string // removed at the end
	begin   time.Time
	lab     *boxes.Lab
	senders []*sender
	up      map[string]bool // boxes that are to run now
	book    *book
	story   *story
	screen  *show.Screen
	view    *view
	drawn   time.Time
	// stop ends the show in good order, hurry at once.
	stop, hurry context.Context
}

// group is the settings of the group that differ from what they are by default: a
// show is short.
var group = []string{"period: 500ms", "max_wait: 1s", "transport: tcp"}

// play shows everything. Whatever happens, what it made is removed before it returns.
func play(stop, hurry context.Context, s *settings) (err error) {
	missing, err := veth.Missing()
	if err == nil {
		err = needs(missing)
	}
	if err != nil {
		return err
	}
	st := &stage{settings: s, begin: time.Now(), up: map[string]bool{}, book: newBook(), stop: stop, hurry: hurry}
	if st.dir, err = os.MkdirTemp(s.temp, "headrace-peers-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.clear()) }()
	st.screen = show.NewScreen(s.out)
	defer st.screen.Close()
	st.lab, err = boxes.New(boxes.Config{
		Dir: st.dir, Binary: s.binary, Names: everybody, Pipeline: pipeline, Group: group, Ring: "rx_ring: 4096, fill_ring: 4096",
	})
	if veth.Denied(err) {
		return needs(err.Error())
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.quiet(), st.lab.Close()) }()
	return st.perform()
}

var errNeeds = errors.New("three boxes need three network namespaces, which this process cannot make")

// needs says what is missing and how to go on; nil if nothing is.
func needs(missing string) error {
	if missing == "" {
		return nil
	}
	return fmt.Errorf("%w: %s is missing. As root: sudo make run-peers, or make build and sudo bin/peersdemo", errNeeds, missing)
}

// clear removes the folder, unless it is to be kept.
func (st *stage) clear() error {
	if st.keep {
		st.screen.Printf("Configs, keys and rows are in %s.\n", st.dir)
		return nil
	}
	return os.RemoveAll(st.dir)
}

// left is the time until the show must be over.
func (st *stage) left() time.Duration { return st.duration - time.Since(st.begin) }
