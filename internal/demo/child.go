package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/headrace/headrace/internal/veth"
)

// A child is one command of headrace that runs meanwhile.
type child struct {
	what string // its subcommand
	cmd  *exec.Cmd
	said said
	done chan struct{}
	err  error // once done is closed
}

// said keeps the last of what a child writes on standard error.
type said struct {
	mu sync.Mutex
	b  []byte
}

const saidMost = 64 << 10

// Write keeps p, and forgets what is older than 64 KiB.
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = append(s.b, p...)
	if over := len(s.b) - saidMost; over > 0 {
		s.b = append(s.b[:0], s.b[over:]...)
	}
	return len(p), nil
}

func (s *said) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.b)
}

// begun starts headrace with args, in a namespace if in is not nil.
func (st *stage) begun(in *veth.Namespace, args ...string) (*child, error) {
	c := &child{what: args[0], cmd: exec.Command(st.binary, args...), done: make(chan struct{})}
	c.cmd.Stderr, c.cmd.Dir = &c.said, st.dir
	c.cmd.WaitDelay = time.Second // another process may have its standard error too
	// A group of its own: Ctrl-C is for us, and we stop the children in their order.
	// If we are killed, they are told.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	start := c.cmd.Start
	if in != nil {
		start = func() error { return in.Start(c.cmd) }
	}
	started := make(chan error)
	go func() {
		// The kernel takes the end of the thread that started the child for ours: no
		// other goroutine may have it, and end it, meanwhile.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("headrace %s: %w", c.what, err)
	}
	return c, nil
}

// over reports that the child has ended.
func (c *child) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// failure is how the child failed, with the last of what it said; nil if it did not.
func (c *child) failure() error {
	if c.err == nil || errors.Is(c.err, exec.ErrWaitDelay) {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(c.said.bytes())), "\n")
	return fmt.Errorf("headrace %s: %w\n%s", c.what, c.err, strings.Join(lines[max(0, len(lines)-10):], "\n"))
}

// stop asks the child to end in good order, presses it after a while, and returns
// when it has ended.
func (c *child) stop(hurry <-chan struct{}) error {
	steps := []struct {
		tell func() error
		wait time.Duration
	}{
		{func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }, patience},
		{func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }, 2 * time.Second},
		{func() error { return syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) }, 2 * time.Second},
	}
	for i, step := range steps {
		if c.over() {
			break
		}
		if err := step.tell(); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("headrace %s: %w", c.what, err)
		}
		if i > 0 {
			hurry = nil
		}
		select {
		case <-c.done:
		case <-hurry:
		case <-time.After(step.wait):
		}
	}
	if !c.over() {
		return fmt.Errorf("headrace %s, process %d, does not end", c.what, c.cmd.Process.Pid)
	}
	return nil
}

// lastLine is the child's summary: the last line that it said.
func (c *child) lastLine() []byte {
	b := bytes.TrimRight(c.said.bytes(), "\n")
	return b[bytes.LastIndexByte(b, '\n')+1:]
}
