// Command vm boots a throw-away Linux and runs one command in it: what package guest
// does, from the command line.
//
//	go run ./internal/guest/vm --set rdma --smp 4 --dir D -- sh ./x.sh
//
// It prints what the command prints and ends with the command's status; with 124 if the
// time was over, 125 if the guest died, 126 if it could not be prepared. (`go run` says
// 1 for every status but 0: build the program where the number matters.)
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/headrace/headrace/internal/guest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, command, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return guest.StatusUnprepared // the flag set has said why
	}
	status, err := guest.Run(ctx, c, stdout, command...)
	if err != nil {
		if console := (*guest.ConsoleError)(nil); errors.As(err, &console) && console.Tail != "" {
			fmt.Fprintln(stderr, console.Tail)
		}
		fmt.Fprintln(stderr, "vm:", err)
	}
	return status
}

// words is a flag that may be repeated, each time with words separated by spaces.
type words struct{ list *[]string }

func (w words) String() string { return "" }

func (w words) Set(s string) error {
	*w.list = append(*w.list, strings.Fields(s)...)
	return nil
}

func parse(args []string, stderr io.Writer) (c guest.Config, command []string, err error) {
	f := flag.NewFlagSet("vm", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintln(stderr, "usage: vm [options] -- COMMAND [ARGUMENT...]")
		f.PrintDefaults()
	}
	f.StringVar(&c.Dir, "dir", "", "`directory` that becomes /work, where the command starts")
	f.Var(words{&c.Sets}, "set", "ready-made `lists`: "+strings.Join(guest.Sets(), ", "))
	f.Var(words{&c.Modules}, "mod", "kernel `modules` to load")
	f.Var(words{&c.Programs}, "bin", "`programs` of this machine")
	f.Var(words{&c.Files}, "file", "`files` of this machine, at the same path")
	f.IntVar(&c.CPUs, "smp", 2, "CPUs")
	f.IntVar(&c.MemoryMB, "mem", 1024, "memory, `MB`")
	f.BoolVar(&c.NUMA, "numa", false, "two NUMA nodes")
	f.StringVar(&c.Isolate, "isolate", "", "CPU `list` without tasks, interrupts and ticks")
	f.IntVar(&c.QueuePairs, "nic-mq", 0, "a virtio-net card with so many `queue pairs` (root)")
	f.StringVar(&c.HostCommand, "host", "", "shell `command` beside the card's far end, vt0, on this machine")
	f.StringVar(&c.Append, "append", "", "added to the kernel's command `line`")
	f.Func("timeout", "time `limit`: 90s, 10m; a bare number is seconds (default 5m)", func(s string) (err error) {
		if _, bad := strconv.Atoi(s); bad == nil {
			s += "s"
		}
		c.Timeout, err = time.ParseDuration(s)
		return err
	})
	f.StringVar(&c.Console, "log", "", "`file` that keeps the kernel's messages")
	f.StringVar(&c.Kernel, "kernel", "", "kernel `package` or .deb (default: the one in the cache, else what apt calls linux-image-amd64)")
	f.StringVar(&c.Accelerator, "accel", "", "QEMU's accelerator (default: kvm where it is the hardware's, else tcg)")
	f.Var(words{&c.QEMU}, "qemu", "more `arguments` for QEMU")
	f.BoolVar(&c.Keep, "keep", false, "keep the work directory")
	times := f.Bool("time", false, "print how long each step took")
	if err := f.Parse(args); err != nil {
		return c, nil, err
	}
	if *times || c.Keep {
		c.Progress = stderr
	}
	c.HostOutput = stderr
	return c, f.Args(), nil
}
