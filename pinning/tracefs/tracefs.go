// Package tracefs makes an instance of the kernel's tracing of one's own: its events,
// buffers and CPUs are nobody else's, and they go with it.
//
// Where tracefs is mounted nowhere it is mounted where nobody sees it, as a descriptor
// that ends with the process. What a killed process left is taken away by the next
// [Open]. Times are by CLOCK_MONOTONIC, which programs can read too.
//
// [ParseLine] takes the lines of a trace apart; to read them, and what an event means, is
// for who asked for it.
package tracefs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/topology"
)

// ErrNoTracing reports a machine without tracefs, or a caller who may not use it.
var ErrNoTracing = errors.New("no tracing")

// Config says what to trace.
type Config struct {
	// Root is where tracefs is mounted. Without it: where it is found, or made.
	Root string
	// CPUs are those that are traced. Required.
	CPUs topology.CPUSet
	// BufferKB is the room for each CPU's events. Zero means 2 MiB.
	BufferKB int
	// Events are "group/event", or "group" for all of it.
	Events []string
}

// An Instance is a trace of some CPUs, switched off at first.
type Instance struct {
	// Missing are events that this kernel does not have.
	Missing []string

	dir   string
	mount int      // of tracefs, -1 if it is not ours
	on    *os.File // of the switch; while it is open nobody can take the instance away
}

// prefix begins the name of every instance; the process's id follows.
const prefix = "headrace-"

// Open makes an instance. Its error wraps [ErrNoTracing], and os.ErrPermission if that
// is why.
func Open(c Config) (*Instance, error) {
	if c.CPUs.Empty() {
		return nil, errors.New("tracefs: no CPUs to trace")
	}
	i := &Instance{mount: -1}
	err := i.open(c)
	if err == nil {
		return i, nil
	}
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH, or root: %w", err)
	}
	return nil, fmt.Errorf("%w: %w", ErrNoTracing, errors.Join(err, i.Close()))
}

func (i *Instance) open(c Config) error {
	if c.Root == "" {
		var err error
		if c.Root, err = i.find(); err != nil {
			return err
		}
	}
	sweep(c.Root)
	dir := filepath.Join(c.Root, "instances", fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), time.Now().UnixNano()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	i.dir = dir
	var err error
	if i.on, err = os.OpenFile(i.Path("tracing_on"), os.O_WRONLY, 0); err != nil {
		return err
	}
	return i.prepare(c)
}

// find finds tracefs, or mounts it.
func (i *Instance) find() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "tracefs" {
			return f[1], nil
		}
	}
	at, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("mount tracefs: %w", os.NewSyscallError("fsopen", err))
	}
	defer unix.Close(at) //nolint:errcheck // the mount is what counts
	if err := unix.FsconfigCreate(at); err != nil {
		return "", fmt.Errorf("mount tracefs: %w", os.NewSyscallError("fsconfig", err))
	}
	if i.mount, err = unix.Fsmount(at, unix.FSMOUNT_CLOEXEC, 0); err != nil {
		return "", fmt.Errorf("mount tracefs: %w", os.NewSyscallError("fsmount", err))
	}
	return fmt.Sprintf("/proc/self/fd/%d", i.mount), nil
}

// sweep takes away what processes left that are no more. One that lives in another PID
// namespace has its switch open, and the kernel refuses.
func sweep(root string) {
	old, err := filepath.Glob(filepath.Join(root, "instances", prefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range old {
		digits, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		pid, err := strconv.Atoi(digits)
		if err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = unix.Rmdir(dir) // another may be sweeping too
		}
	}
}

func (i *Instance) prepare(c Config) error {
	if c.BufferKB == 0 {
		c.BufferKB = 2 << 10
	}
	settings := [][2]string{
		{"tracing_on", "0"}, {"trace_clock", "mono"}, {"tracing_cpumask", c.CPUs.Mask()}, {"options/record-tgid", "0"}, {"options/irq-info", "1"},
	}
	// The others' buffers stay as small as they are made.
	for _, cpu := range c.CPUs.List() {
		settings = append(settings, [2]string{fmt.Sprintf("per_cpu/cpu%d/buffer_size_kb", cpu), strconv.Itoa(c.BufferKB)})
	}
	for _, s := range settings {
		if err := i.write(s[0], s[1]); err != nil {
			return err
		}
	}
	for _, e := range c.Events {
		switch err := i.write("events/"+e+"/enable", "1"); {
		case errors.Is(err, fs.ErrNotExist):
			i.Missing = append(i.Missing, e)
		case err != nil:
			return err
		}
	}
	if len(i.Missing) == len(c.Events) {
		return errors.New("the kernel has none of the events")
	}
	return nil
}

func (i *Instance) write(name, value string) error {
	return os.WriteFile(i.Path(name), []byte(value), 0)
}

// Path is where a file of the instance is.
func (i *Instance) Path(name string) string { return filepath.Join(i.dir, name) }

// Enable switches tracing on or off; what is in the buffers stays.
func (i *Instance) Enable(on bool) error {
	text := "0"
	if on {
		text = "1"
	}
	return i.write("tracing_on", text)
}

// Close takes the instance away. Its files must be closed. A second call does nothing.
func (i *Instance) Close() error {
	var bad []error
	if i.on != nil {
		bad = append(bad, i.Enable(false), i.on.Close())
	}
	if i.dir != "" {
		bad = append(bad, os.NewSyscallError("rmdir", unix.Rmdir(i.dir)))
	}
	if i.mount >= 0 {
		bad = append(bad, os.NewSyscallError("close", unix.Close(i.mount)))
	}
	*i = Instance{mount: -1}
	return errors.Join(bad...)
}
