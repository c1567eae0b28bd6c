package boxes

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/internal/veth"
)

// A Box is one `headrace run` in its namespace.
type Box struct {
	ID        string
	Dir       string // keys, config, rows, log
	Pin       string
	Namespace *veth.Namespace
	Cable     *veth.Pair // B is the box's end
	Port      *veth.Port // in the switch; nil if the lab has none
	Address   netip.Addr // where the others reach it
	Rows      string     // path of the global rows
	Local     string     // path of the local rows
	Args      []string   // further arguments of run

	lab    *Lab
	number int // from 1
	cmd    *exec.Cmd
	done   chan struct{}
	log    log
}

// log is what a box has said.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) add(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(line)
}

// Said returns what the box has said on standard error, over all its lives.
func (b *Box) Said() string {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	return b.log.text.String()
}

// Name is the name of the box's run, for `headrace status`.
func (b *Box) Name() string { return b.lab.name + "-" + b.ID }

func (b *Box) build() error {
	if err := b.connect(); err != nil {
		return err
	}
	b.Rows, b.Local = filepath.Join(b.Dir, "global.jsonl"), filepath.Join(b.Dir, "local.jsonl")
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return err
	}
	c := exec.Command(b.lab.Binary, "group", "init", "--dir", b.keys(), "--me", b.ID, "--address", b.listens())
	said, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), err, said)
	}
	if b.Pin = pinIn(string(said)); b.Pin == "" {
		return fmt.Errorf("%s: no pin in %q", strings.Join(c.Args, " "), said)
	}
	return nil
}

// connect makes the box's place in the network.
func (b *Box) connect() (err error) {
	open := veth.NewNamespace
	if b.lab.plugs == nil {
		open = veth.Present
	}
	if b.Namespace, err = open(); err != nil {
		return err
	}
	if b.Cable, err = veth.Join(b.lab.Wire, b.Namespace, veth.Options{}); err != nil {
		return err
	}
	if b.lab.plugs == nil {
		return nil
	}
	if b.Port, err = b.lab.plugs.Plug(b.Namespace); err == nil {
		b.Address = b.Port.Address
	}
	return err
}

// listens is where the box listens for the others.
func (b *Box) listens() string { return fmt.Sprintf("%s:%d", b.Address, groupPort) }

// pinIn returns the first pin in a text.
func pinIn(text string) string {
	_, rest, ok := strings.Cut(text, "sha256:")
	if !ok {
		return ""
	}
	end := strings.IndexFunc(rest, func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=", r)
	})
	if end < 0 {
		end = len(rest)
	}
	return "sha256:" + rest[:end]
}

func (b *Box) keys() string { return filepath.Join(b.Dir, "keys") }

func (b *Box) config() string { return filepath.Join(b.Dir, "config.yaml") }

// configure writes the config. In the pipeline ROWS and LOCAL stand for the paths.
func (b *Box) configure(c *Config) error {
	ring := c.Ring
	if ring == "" {
		ring = "rx_ring: 16384, fill_ring: 16384"
	}
	text := strings.NewReplacer("ROWS", b.Rows, "LOCAL", b.Local).Replace(c.Pipeline)
	text += fmt.Sprintf("\ninterfaces: {%s: {%s}}\ngroup:\n  me: %s\n  dir: %s\n", b.Cable.B.Interface, ring, b.ID, b.keys())
	for _, line := range c.Group {
		text += "  " + strings.ReplaceAll(line, "NUMBER", strconv.Itoa(b.number)) + "\n"
	}
	return write(b.config(), text+"  peers:\n"+b.lab.peers()+"\n")
}

// Start starts the box; [Box.Await] tells when it has come as far as wanted.
func (b *Box) Start() error {
	c := exec.Command(b.lab.Binary, append([]string{"run", "-c", b.config(), "--name", b.Name(), "--workers", "1"}, b.Args...)...)
	c.Env = append(os.Environ(), b.mark()) // which the data plane inherits
	// A pipe of our own, which the data plane inherits: waiting must not wait for it.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	c.Stderr = w
	// A group of its own: Ctrl-C is for who started us, and that stops the boxes.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = b.Namespace.Start(c)
	_ = w.Close()
	if err != nil {
		return errors.Join(err, r.Close())
	}
	go func() {
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadBytes('\n')
			b.log.add(line)
			if err != nil {
				_ = r.Close()
				return
			}
		}
	}()
	done := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(done)
	}()
	b.cmd, b.done = c, done
	return nil
}

// Running reports that the control process lives.
func (b *Box) Running() bool {
	if b.cmd == nil {
		return false
	}
	select {
	case <-b.done:
		return false
	default:
		return true
	}
}

// Await waits until the box's status satisfies ok.
func (b *Box) Await(most time.Duration, ok func(*status.Report) bool) (*status.Report, error) {
	for end := time.Now().Add(most); ; time.Sleep(b.lab.Pause) {
		r, err := b.Status()
		if err == nil && ok(r) {
			return r, nil
		}
		if !b.Running() {
			return r, fmt.Errorf("boxes: %s ended: %s", b.ID, b.Said())
		}
		if time.Now().After(end) {
			return r, fmt.Errorf("boxes: %s is not as wanted after %v (%w): %s", b.ID, most, err, b.Said())
		}
	}
}

// Status asks the box for its figures.
func (b *Box) Status() (*status.Report, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*b.lab.Pause)
	defer cancel()
	body, err := status.Fetch(ctx, b.Name())
	if err != nil {
		return nil, err
	}
	r := &status.Report{}
	return r, json.Unmarshal(body, r)
}

// Signal sends s to the control process, and to the data plane too if both is set.
func (b *Box) Signal(s syscall.Signal, both bool) error {
	if !both {
		return b.cmd.Process.Signal(s)
	}
	ids, err := b.processes()
	for _, id := range ids {
		err = errors.Join(err, syscall.Kill(id, s))
	}
	return err
}

// mark is what tells the box's processes from those of others in its namespace.
func (b *Box) mark() string { return "HEADRACE_BOX=" + b.Name() }

// processes are those of headrace in the box's namespace, control before data.
func (b *Box) processes() ([]int, error) {
	ids, err := b.Namespace.Processes()
	var ours []int
	for _, id := range ids {
		if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", id)); err != nil || path != b.lab.Binary {
			continue
		}
		environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", id))
		if err == nil && slices.Contains(strings.Split(string(environment), "\x00"), b.mark()) {
			ours = append(ours, id)
		}
	}
	return ours, err
}

// Kill ends both processes at once, as a loss of power does.
func (b *Box) Kill() error {
	err := b.Signal(syscall.SIGKILL, true)
	if b.done != nil {
		<-b.done
	}
	return err
}

// Stop ends the box in good order and returns its exit code; -1 if it did not end
// within most.
func (b *Box) Stop(most time.Duration) int {
	if b.cmd == nil {
		return 0
	}
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	return b.Wait(most)
}

// Wait waits for the control process's end and returns its exit code.
func (b *Box) Wait(most time.Duration) int {
	select {
	case <-b.done:
		return b.cmd.ProcessState.ExitCode()
	case <-time.After(most):
		return -1
	}
}

func (b *Box) close() error {
	var errs []error
	if b.Namespace != nil {
		for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			ids, err := b.processes()
			errs = append(errs, err)
			for _, id := range ids {
				_ = syscall.Kill(id, syscall.SIGKILL)
			}
			if len(ids) == 0 || time.Now().After(end) {
				break
			}
		}
		errs = append(errs, b.Namespace.Close())
	}
	if dir, err := status.Dir(b.Name()); err == nil {
		for _, left := range []string{".run", "-2.run", ".sock"} { // of the killed
			errs = append(errs, os.RemoveAll(filepath.Join(dir, b.Name()+left)))
		}
	}
	return errors.Join(errs...)
}
