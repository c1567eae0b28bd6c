package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/internal/boxes"
	"github.com/headrace/headrace/internal/show"
)

const (
	lookEvery = 20 * time.Millisecond  // how exact times are
	plainMost = 2 * time.Second        // between two lines where there is no terminal
	settle    = 700 * time.Millisecond // from the last packet to the stop: windows end
	reserve   = 4 * time.Second        // of the duration, to stop everything in good order
	stopLeast = 3 * time.Second        // for a box that was told to stop, though time is up
	patience  = 3 * time.Second        // with a sender that was told to stop
)

// perform tells the story and its account.
func (st *stage) perform() error {
	st.about()
	if err := st.screen.First(st.view); err != nil {
		return err
	}
	for _, b := range st.lab.Boxes {
		st.book.add(b.ID, b.Rows)
	}
	c := st.lab.Box("c")
	st.story = &story{tell: st.tell, until: st.duration - reserve, scenes: scenes(&deeds{
		start:   st.startAll,
		send:    st.sendAll,
		kill:    func() error { st.up["c"] = false; return c.Kill() },
		restart: func() error { return st.start(c) },
		cut:     func() error { return c.Port.SetUp(false) },
		mend:    func() error { return c.Port.SetUp(true) },
		end:     st.quiet,
	})}
	over, err := st.watch()
	if err != nil {
		return err
	}
	st.view.phase = "stopping"
	if err := st.screen.Draw(st.view); err != nil {
		return err
	}
	if err := st.end(); err != nil {
		return err
	}
	st.view.phase, st.view.elapsed = "done", time.Since(st.begin)
	if err := st.screen.Last(st.view); err != nil {
		return err
	}
	if err := st.account(over); err != nil {
		return err
	}
	if !over && st.stop.Err() == nil {
		return fmt.Errorf("time was up before there was %s: give it more than DURATION=%s", st.story.waits(), st.duration)
	}
	return nil
}

// about says what will be seen.
func (st *stage) about() {
	var spaces []string
	for _, b := range st.lab.Boxes {
		spaces = append(spaces, b.ID+" "+b.Namespace.Name)
	}
	st.view = &view{bound: st.duration, phase: "three boxes, one system", about: []string{
		fmt.Sprintf("to each box %s reports/s; rows of %d drivers as all three saw them", show.Thousands(uint64(st.rate)), drivers),
		"namespaces: " + strings.Join(spaces, ", "),
		fmt.Sprintf("from another terminal: headrace status --peers --name %s", st.lab.Box("a").Name()),
	}}
	if !st.screen.Terminal() {
		st.screen.Every = plainMost
	}
}

// tell adds a line to the story.
func (st *stage) tell(when, what string) {
	line := [2]string{when, what}
	st.view.story = append(st.view.story, line)
	if !st.screen.Terminal() {
		st.screen.Printf("%s\n", storyLine(line))
		return
	}
	st.drawn = time.Time{} // draw it now
}

// watch looks at the boxes until the story is over, time is up or a signal comes.
func (st *stage) watch() (over bool, err error) {
	for st.stop.Err() == nil && st.left() > reserve/2 {
		now, err := st.look()
		if err != nil {
			return false, err
		}
		if over, err = st.story.look(now); over || err != nil {
			return over, err
		}
		if time.Since(st.drawn) >= st.screen.Every {
			st.drawn = time.Now()
			if err := st.screen.Draw(st.view); err != nil {
				return false, err
			}
		}
		show.Pause(st.stop, lookEvery)
	}
	return false, nil
}

// look takes a sight of everything.
func (st *stage) look() (*sight, error) {
	if err := st.book.look(); err != nil {
		return nil, err
	}
	now := &sight{boxes: make([]boxSight, len(st.lab.Boxes)), rows: st.book.tally()}
	var all sync.WaitGroup
	for i, b := range st.lab.Boxes {
		f := st.book.files[i]
		up, begun := st.up[b.ID]
		now.boxes[i] = boxSight{id: b.ID, killed: begun && !up, running: b.Running(), rows: f.rows, fixed: f.corrected}
		all.Go(func() { ask(b, &now.boxes[i]) })
	}
	all.Wait()
	now.now = time.Since(st.begin)
	st.view.elapsed, st.view.now, st.view.newest = now.now, *now, st.book.newest
	for i, b := range st.lab.Boxes {
		if x := &now.boxes[i]; !x.running && st.up[b.ID] {
			return nil, fmt.Errorf("box %s has ended: %s", b.ID, lastLines(b.Said()))
		}
	}
	for _, s := range st.senders {
		if err := s.failure(); err != nil {
			return nil, err
		}
	}
	return now, nil
}

// ask fills in what a box says of itself. One that does not answer says nothing.
func ask(b *boxes.Box, x *boxSight) {
	if !x.running {
		return
	}
	r, err := b.Status()
	if err != nil || r.Snapshot == nil || r.Snapshot.Group == nil {
		return
	}
	g := r.Snapshot.Group
	x.epoch, x.members = g.Epoch, g.Members
	for i := range g.Peers {
		if p := &g.Peers[i]; p.Heard && !p.Me {
			x.heard = append(x.heard, p.ID)
		}
	}
	w := r.Snapshot.Workers
	x.receives = len(w) > 0 && w[0].State == segment.Running.String()
}

func (st *stage) startAll() error {
	for _, b := range st.lab.Boxes {
		if err := st.start(b); err != nil {
			return err
		}
	}
	return nil
}

func (st *stage) start(b *boxes.Box) error {
	st.up[b.ID] = true
	return b.Start()
}

// sendAll begins a stream of its own to each box.
func (st *stage) sendAll() error {
	for i, b := range st.lab.Boxes {
		s, err := st.send(b, "--keys", strconv.Itoa(drivers), "--rate", strconv.Itoa(st.rate), "--seed", strconv.Itoa(i+1))
		if err != nil {
			return err
		}
		st.senders = append(st.senders, s)
	}
	return nil
}

// A sender is what sends to one box.
type sender struct {
	to   string
	cmd  *exec.Cmd
	said bytes.Buffer // once done is closed
	done chan struct{}
	told bool // to end
	err  error
}

func (st *stage) send(b *boxes.Box, flags ...string) (*sender, error) {
	s := &sender{to: b.ID, cmd: st.lab.Send(b, append([]string{"generate", "json"}, flags...)...), done: make(chan struct{})}
	s.cmd.Stderr = &s.said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us
	if err := st.lab.Start(s.cmd); err != nil {
		return nil, fmt.Errorf("the feed to %s: %w", b.ID, err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

// failure says why a sender has ended that was not told to.
func (s *sender) failure() error {
	select {
	case <-s.done:
		if !s.told || s.err != nil {
			return fmt.Errorf("the feed to %s has ended: %w: %s", s.to, errors.Join(errEnded, s.err), lastLines(s.said.String()))
		}
	default:
	}
	return nil
}

var errEnded = errors.New("nobody told it to")

// quiet ends the feeds.
func (st *stage) quiet() error {
	var errs []error
	for _, s := range st.senders {
		if !s.told {
			s.told = true
			_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may be over
		}
	}
	for _, s := range st.senders {
		select {
		case <-s.done:
			errs = append(errs, s.failure())
		case <-time.After(patience):
			_ = s.cmd.Process.Kill()
			<-s.done
			errs = append(errs, fmt.Errorf("the feed to %s did not end", s.to))
		}
	}
	st.senders = nil
	return errors.Join(errs...)
}

// end stops the boxes in good order, all at once: each waits until the others have what
// it has.
func (st *stage) end() error {
	if err := st.quiet(); err != nil {
		return err
	}
	show.Pause(st.hurry, settle)
	errs := make([]error, len(st.lab.Boxes))
	var all sync.WaitGroup
	for i, b := range st.lab.Boxes {
		if b.Running() {
			all.Go(func() { errs[i] = st.stopBox(b) })
		}
	}
	all.Wait()
	return errors.Join(append(errs, st.book.look())...)
}

func (st *stage) stopBox(b *boxes.Box) error {
	defer context.AfterFunc(st.hurry, func() { _ = b.Signal(syscall.SIGTERM, false) })() // the second: at once
	most := max(st.left(), stopLeast)
	switch code := b.Stop(most); code {
	case 0:
		return nil
	case -1:
		return fmt.Errorf("box %s does not end within %s: %s", b.ID, most, lastLines(b.Said()))
	default:
		return fmt.Errorf("box %s ended with %d: %s", b.ID, code, lastLines(b.Said()))
	}
}

// lastLines are the last few that a program said.
func lastLines(said string) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
