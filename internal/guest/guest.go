package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/veth"
)

// What [Run] returns in place of the command's own status, those of timeout(1) and
// of the shell. A command may end with the same numbers: then the error is nil.
const (
	StatusTimeLimit  = 124
	StatusDied       = 125
	StatusUnprepared = 126
)

var (
	// ErrTimeLimit reports a guest that was stopped because its time was over.
	ErrTimeLimit = errors.New("time limit")
	// ErrDied reports a guest that ended without a word about its command: the
	// kernel panicked, it ran out of memory, or QEMU was killed.
	ErrDied = errors.New("the guest died")
	// ErrConfig reports a setting that cannot be.
	ErrConfig = errors.New("not possible")
)

// A ConsoleError is the end of a guest that did not tell the status of its command,
// with what its kernel said last.
type ConsoleError struct {
	Err  error
	Tail string
}

func (e *ConsoleError) Error() string { return e.Err.Error() }
func (e *ConsoleError) Unwrap() error { return e.Err }

// describe is the text of an error of [Run], with the end of the console if there is one.
func describe(err error) string {
	if console := (*ConsoleError)(nil); errors.As(err, &console) && console.Tail != "" {
		return err.Error() + "; its console:\n" + console.Tail
	}
	return err.Error()
}

// Config says what the guest is made of. The zero value is a guest of two CPUs and
// 1 GiB with busybox and nothing else.
type Config struct {
	// Dir is copied into the guest as /work, where the command starts. Libraries that
	// the programs in it need come along. The guest's changes to it are lost.
	Dir string

	// Sets are ready-made lists of modules, programs and files, by name: see [Sets].
	Sets []string
	// Modules are kernel modules to load, in this order; what they depend on is found.
	Modules []string
	// Programs are programs of this machine, by name or path.
	Programs []string
	// Files are files and directories of this machine, found in the guest at the same
	// path. Patterns are expanded.
	Files []string

	// Debian boots, in place of busybox and the command alone, a Debian 13 with systemd
	// and its kernel from a disk: see [DebianRoot]. The command runs when multi-user.target
	// has been reached, with /work on the disk; Programs and Files are not found there.
	// The command may give files of /work to the system.
	Debian bool

	// CPUs is 2 if zero. Give a test whose threads spin more CPUs than spinning threads:
	// soft RoCE works in soft interrupts, which starve otherwise (1.4 to 13 ms for a
	// round trip in place of 0.3).
	CPUs int
	// MemoryMB is 1024 if zero. The root takes twice its size of it while it is unpacked.
	MemoryMB int
	// NUMA splits CPUs and memory into two nodes, the first half and the second, at a
	// distance of 21. Placement is real; a remote access costs nothing more.
	NUMA bool
	// Isolate lists CPUs as the kernel writes lists ("2-3"). They get no tasks, no
	// managed interrupts and no tick while one task runs.
	Isolate string

	// QueuePairs, if not zero, gives the guest a virtio-net card with so many pairs of
	// queues, eth0, whose far end is the device vt0 in a network namespace without a way
	// out. This needs root. Native XDP attaches to it (copy mode only: Linux 6.1 and 6.12
	// have no zero-copy on virtio-net) once half of the queues are left to XDP_TX:
	// `ethtool -L eth0 combined N/2`.
	QueuePairs int
	// HostCommand is a shell command that runs on this machine, beside vt0, while the
	// guest runs, and is killed with it. Until the guest's card is up vt0 has no carrier,
	// so it must try again.
	HostCommand string
	// HostOutput takes what HostCommand writes; nil drops it.
	HostOutput io.Writer

	// Append is added to the kernel's command line.
	Append string
	// Timeout bounds the life of the guest, boot included; 5 minutes if zero.
	Timeout time.Duration
	// Console is a file that keeps what the kernel says; "" keeps it only for the error.
	Console string
	// Kernel is the name of a kernel package or the path of a .deb. "" is what apt said
	// that linux-image-amd64 means when this was asked first; see [CacheDir].
	Kernel string
	// Accelerator is QEMU's -accel; "" is KVM where it is the hardware's, else TCG.
	Accelerator string
	// QEMU are more arguments for QEMU, for what has no field yet.
	QEMU []string
	// Keep leaves the work directory (root, console) behind and tells where it is.
	Keep bool
	// Progress takes a line after each step with the seconds since the start; nil drops it.
	Progress io.Writer
}

const (
	defaultTimeout = 5 * time.Minute
	// bootsMost bounds the boots of a guest whose kernel panics before its first process:
	// code that a kernel changes while it runs on several emulated CPUs is not always seen
	// whole by all of them.
	bootsMost = 3
)

var cpuList = regexp.MustCompile(`^\d+(-\d+)?(,\d+(-\d+)?)*$`)

// checked returns c with its zero values replaced, or says what cannot be.
func (c Config) checked(command []string) (Config, error) {
	if c.CPUs == 0 {
		c.CPUs = 2
	}
	if c.MemoryMB == 0 {
		c.MemoryMB = 1024
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	no := func(format string, args ...any) (Config, error) {
		return c, fmt.Errorf("guest: %w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	switch {
	case len(command) == 0:
		return no("no command")
	case c.CPUs < 1 || c.CPUs > 64:
		return no("%d CPUs, 1 to 64 are", c.CPUs)
	case c.MemoryMB < 128:
		return no("%d MB of memory, the kernel needs 128", c.MemoryMB)
	case c.NUMA && (c.CPUs%2 != 0 || c.MemoryMB%2 != 0):
		return no("two equal nodes of %d CPUs and %d MB", c.CPUs, c.MemoryMB)
	case c.QueuePairs < 0 || c.QueuePairs > 64:
		return no("%d queue pairs, 0 to 64 are", c.QueuePairs)
	case c.HostCommand != "" && c.QueuePairs == 0:
		return no("a host command without queue pairs has no card to talk to")
	case c.Timeout < 0:
		return no("time limit %v", c.Timeout)
	case c.Isolate != "" && !cpuList.MatchString(c.Isolate):
		return no("isolate %q, a list is like 1,2-3", c.Isolate)
	}
	for _, n := range strings.FieldsFunc(c.Isolate, func(r rune) bool { return r == ',' || r == '-' }) {
		if cpu, err := strconv.Atoi(n); err != nil || cpu >= c.CPUs || cpu == 0 {
			return no("isolate CPU %s of %d, CPU 0 keeps the kernel's own work", n, c.CPUs)
		}
	}
	for _, name := range c.Sets {
		s, ok := sets[name]
		if !ok {
			return no("set %q, there are %s", name, strings.Join(Sets(), ", "))
		}
		c.Modules = append(c.Modules[:len(c.Modules):len(c.Modules)], s.modules...)
		c.Programs = append(c.Programs[:len(c.Programs):len(c.Programs)], s.programs...)
		c.Files = append(c.Files[:len(c.Files):len(c.Files)], s.files...)
	}
	if c.Dir != "" {
		if st, err := os.Stat(c.Dir); err != nil || !st.IsDir() {
			return no("directory %s is not one", c.Dir)
		}
	}
	if c.Debian {
		c.Modules = append(c.Modules[:len(c.Modules):len(c.Modules)], debianModules...)
	}
	if c.QueuePairs > 0 {
		c.Modules = append(c.Modules[:len(c.Modules):len(c.Modules)], "virtio_net")
		if missing, err := veth.Missing(); err != nil || missing != "" {
			return no("a card without %s (run as root)", missing)
		}
	}
	return c, nil
}

// Run boots a guest, runs command in it and copies what the command prints, standard
// error included, to stdout. It returns the status of the command and no error; or one
// of the three statuses above and an error that wraps [ErrTimeLimit] or [ErrDied], the
// latter two inside a [ConsoleError], or says what could not be prepared: see
// [ErrConfig] and [MissingError].
//
// When ctx ends, the guest is killed. A guest whose kernel panics before the first process
// has seen nothing of the command: it is booted again, twice at most, with all of its time.
// Guests may run side by side.
func Run(ctx context.Context, c Config, stdout io.Writer, command ...string) (status int, err error) {
	c, err = c.checked(command)
	if err != nil {
		return StatusUnprepared, err
	}
	if err := missing(c); err != nil {
		return StatusUnprepared, err
	}
	r := &run{Config: c, began: time.Now(), out: stdout}
	if r.work, err = os.MkdirTemp("", "headrace-guest-"); err != nil {
		return StatusUnprepared, fmt.Errorf("guest: work directory: %w", err)
	}
	defer r.clean()
	if err := r.prepare(ctx, command); err != nil {
		return StatusUnprepared, fmt.Errorf("guest: %w", err)
	}
	for boots := 1; ; boots++ {
		status, err = r.boot(ctx)
		if err == nil {
			return status, nil
		}
		if boots == bootsMost || ctx.Err() != nil || !errors.Is(err, ErrDied) || !panickedEarly(r.console()) {
			return status, fmt.Errorf("guest: %w", err)
		}
		r.step("its kernel panicked before the first process: once more")
	}
}

// A run is one guest on its way.
type run struct {
	Config
	out    io.Writer
	began  time.Time
	work   string // a directory of this run
	kernel *kernel
	debian *debian // nil: no disk
}

// prepare makes the kernel and the root in the work directory.
func (r *run) prepare(ctx context.Context, command []string) (err error) {
	if r.Debian {
		if r.debian, err = openDebian(ctx); err == nil {
			r.kernel, err = readKernel(r.debian.root)
		}
	} else {
		r.kernel, err = openKernel(ctx, r.Kernel)
	}
	if err != nil {
		return err
	}
	r.step("kernel %s", r.kernel.version)
	size, err := writeRoot(ctx, r.Config, r.kernel, command, r.rootFile())
	if err != nil {
		return err
	}
	// Packed and unpacked root stand in memory together; what is left must hold the
	// kernel. A guest without it finds "no init" and panics, which tells nobody why.
	if needMB := int(2*size>>20) + 96; needMB > r.MemoryMB {
		return fmt.Errorf("%w: a root of %d MB in %d MB of memory, %d are needed", ErrConfig, size>>20, r.MemoryMB, needMB)
	}
	r.step("root of %d MB", size>>20)
	return nil
}

func (r *run) rootFile() string    { return filepath.Join(r.work, "root.cpio") }
func (r *run) consoleFile() string { return filepath.Join(r.work, "console") }

func (r *run) clean() {
	if r.Keep {
		r.step("kept %s", r.work)
		return
	}
	_ = os.RemoveAll(r.work) // the guest has ended either way
}

func (r *run) step(format string, args ...any) {
	if r.Progress != nil {
		fmt.Fprintf(r.Progress, "guest: %6.2f s  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
	}
}
