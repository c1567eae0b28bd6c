// Package receive is `headrace receive`: it takes rows from other boxes, from their
// rdma-write sinks, into a ring in shared memory, and prints them if it is asked to.
// What happens on the way is in package deliver.
package receive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace/headrace/controlplane/config"
	"github.com/headrace/headrace/controlplane/group"
	"github.com/headrace/headrace/controlplane/usage"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/deliver"
)

type flags struct {
	listen, dir, ring, size string
	pins                    []string
	transport, device       string
	dataPort                uint16
	seal, printRows         bool
}

// Command returns `headrace receive`.
func Command() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "receive --listen HOST:PORT",
		Short: "take rows from other boxes into shared memory",
		Long: `Receive takes rows from the rdma-write sinks of other boxes and puts them in a ring
in shared memory, where one program on this box reads them: in Go with package deliver,
in C with rdma/deliver/c/headrace_ring.h, or this one with --print.

A row in the ring is acknowledged. The ring outlives this process: started again, it
goes on where it was, and so does the reader. When the ring is full, nothing more is
acknowledged, and rows wait at the boxes that send them.

Both ends know each other by their keys. 'headrace group init' makes this box's key
and prints its pin, which goes into the sinks. Who may send is said by --pin, or else
by the peers in the directory of the key.`,
		Example: `  headrace group init --me reader --address 10.0.0.9:9300
  headrace receive --listen 10.0.0.9:9300 --pin sha256:… --ring /dev/shm/headrace-rows
  headrace receive --listen :9300 --print > rows.jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	c.Flags().StringVar(&f.listen, "listen", "", "`HOST:PORT` where the boxes that send reach this one (required)")
	c.Flags().StringVar(&f.dir, "dir", group.DirDefault, "directory of this box's key")
	c.Flags().StringSliceVar(&f.pins, "pin", nil, "a key that may send; may be repeated (default: the peers in --dir)")
	c.Flags().StringVar(&f.ring, "ring", "/dev/shm/headrace-rows", "the ring's `FILE`")
	c.Flags().StringVar(&f.size, "size", "64MiB", "the ring's `SIZE`, a power of two; one that is there keeps its own if this is not given")
	c.Flags().StringVar(&f.transport, "transport", deliver.Auto, "auto, tcp or verbs: what senders may use")
	c.Flags().StringVar(&f.device, "device", "", "RDMA device for verbs (default: the first with an active RoCEv2 port)")
	c.Flags().Uint16Var(&f.dataPort, "data-port", 0, "port for the rows over tcp, with one sender (default: any that is free)")
	c.Flags().BoolVar(&f.seal, "seal", false, "refuse senders that do not seal what they send")
	c.Flags().BoolVar(&f.printRows, "print", false, "read the ring too, and print its rows")
	return c
}

// run checks the flags.
func (f *flags) run(cmd *cobra.Command) error {
	path := cmd.CommandPath()
	if f.listen == "" {
		return usage.Errorf(path, "no address: name one with --listen HOST:PORT")
	}
	if _, port, err := net.SplitHostPort(f.listen); err != nil || port == "" {
		return usage.Errorf(path, "--listen %q is not HOST:PORT, as in 10.0.0.9:9300", f.listen)
	}
	if !slices.Contains([]string{deliver.Auto, deliver.TCP, deliver.Verbs}, f.transport) {
		return usage.Errorf(path, "--transport %q: auto, tcp or verbs", f.transport)
	}
	for _, pin := range f.pins {
		if err := boot.CheckPin(pin); err != nil {
			return usage.Errorf(path, "--pin: %v", err)
		}
	}
	size, err := config.ParseSize(f.size)
	if err != nil {
		return usage.Errorf(path, "--size: %v", err)
	}
	if n := uint64(size); n < deliver.SizeMin || n > deliver.SizeMax || n&(n-1) != 0 {
		return usage.Errorf(path, "--size %s: a power of two from 64KiB to 64GiB", f.size)
	}
	if err := f.receive(cmd, uint64(size)); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	return nil
}

// pinned returns what tells who may send: asked at every handshake, so that keys
// change without a restart.
func (f *flags) pinned(keys *group.Dir) (func() []string, error) {
	if len(f.pins) > 0 {
		return func() []string { return f.pins }, nil
	}
	list := func() []string {
		me, _ := keys.Me()
		peers, _ := keys.Peers()
		var pins []string
		for _, p := range peers {
			if p.ID != me {
				pins = append(pins, p.Pins...)
			}
		}
		return pins
	}
	if len(list()) == 0 {
		return nil, fmt.Errorf("%s knows no other box: say with --pin who may send", keys.Path())
	}
	return list, nil
}

// openRing opens the ring; one that is there keeps its size unless another was asked
// for.
func (f *flags) openRing(cmd *cobra.Command, size uint64) (*deliver.Ring, error) {
	if !cmd.Flags().Changed("size") {
		if r, err := deliver.OpenRing(f.ring, 0); err == nil {
			return r, nil
		}
	}
	return deliver.OpenRing(f.ring, size)
}

func (f *flags) receive(cmd *cobra.Command, size uint64) (err error) {
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	keys, err := group.Open(f.dir)
	if err != nil {
		return err
	}
	pins, err := f.pinned(keys)
	if err != nil {
		return err
	}
	ring, err := f.openRing(cmd, size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ring.Close()) }()
	var reader *deliver.Reader
	if f.printRows {
		if reader, err = deliver.Open(f.ring); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, reader.Close()) }()
	}
	c, err := deliver.NewConsumer(deliver.ConsumerConfig{
		Listen: f.listen, Certificate: keys.Certificate, Pins: pins, Ring: ring,
		Transport: f.transport, Device: f.device, Port: f.dataPort, Seal: f.seal, Log: log,
	})
	if err != nil {
		return err
	}
	own, _ := keys.Pin()
	log.Info("receiving", "listen", c.Addr(), "ring", f.ring, "bytes", ring.Size(), "pin", own)
	err = serve(cmd.Context(), c, reader, cmd.OutOrStdout())
	s, n := ring.Stats(), c.Stats()
	log.Info("received", "rows", s.Rows, "bytes", s.Bytes, "batches", s.Batches, "known_batches", s.Duplicates,
		"ring_full", s.Full, "last_sequence", s.Sequence, "unread_bytes", s.Used, "connections", n.Accepted, "refused", n.Refused)
	return err
}

// serve runs the consumer, and prints, until ctx ends or the printing fails.
func serve(ctx context.Context, c *deliver.Consumer, reader *deliver.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var printing sync.WaitGroup
	var printed error
	stopped := make(chan struct{})
	if reader != nil {
		printing.Go(func() {
			if printed = printRows(stopped, reader, out); printed != nil {
				cancel(printed)
			}
		})
	}
	err := c.Run(ctx)
	close(stopped) // nothing comes any more: what is there is printed
	printing.Wait()
	return errors.Join(err, printed)
}

// wakeEvery is how often a printer looks whether it is to stop.
const wakeEvery = 50 * time.Millisecond

// printRows prints rows until stopped is closed and the ring is empty. A row is
// released when the system has it.
func printRows(stopped <-chan struct{}, r *deliver.Reader, out io.Writer) error {
	w := bufio.NewWriterSize(out, 256<<10)
	for {
		last := false
		select {
		case <-stopped:
			last = true // what is placed is placed: one more look sees all of it
		default:
		}
		n := 0
		for row, ok := r.Next(); ok; row, ok = r.Next() {
			_, _ = w.Write(row) // Flush says what is wrong
			_ = w.WriteByte('\n')
			if n++; n%1024 == 0 {
				if err := w.Flush(); err != nil {
					return err
				}
				r.Release()
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		r.Release()
		if err := r.Err(); err != nil {
			return err
		}
		if last {
			return nil
		}
		if n == 0 {
			r.Wait(time.Now().Add(wakeEvery))
		}
	}
}
