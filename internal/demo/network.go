package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/headrace/headrace/internal/veth"
)

// network is two hosts and the cable between them.
type network struct {
	from, to *veth.Namespace
	pair     *veth.Pair
}

// newNetwork makes the network. What it made of one that it cannot finish is removed.
func newNetwork() (n *network, err error) {
	n = &network{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if n.from, err = veth.NewNamespace(); err != nil {
		return n, err
	}
	if n.to, err = veth.NewNamespace(); err != nil {
		return n, err
	}
	n.pair, err = veth.Join(n.from, n.to, veth.Options{})
	return n, err
}

// clear ends the processes of binary that are still in the network: a data plane
// outlives a control plane that was killed, and waits for another one.
func (n *network) clear(binary string) error {
	for end := time.Now().Add(clearMost); ; time.Sleep(clearPause) {
		left := 0
		for _, space := range []*veth.Namespace{n.from, n.to} {
			ids, err := space.Processes()
			if err != nil {
				return err
			}
			for _, id := range ids {
				if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", id)); err != nil || path != binary {
					continue // somebody else's, who looks at our network
				}
				left++
				if err := syscall.Kill(id, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
					return fmt.Errorf("process %d: %w", id, err)
				}
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d processes of %s do not end", left, binary)
		}
	}
}

const (
	clearMost  = 2 * time.Second
	clearPause = 10 * time.Millisecond
)

// close removes the network. Nothing may run in it any more.
func (n *network) close() error {
	var errs []error
	for _, space := range []*veth.Namespace{n.from, n.to} {
		if space != nil {
			errs = append(errs, space.Close())
		}
	}
	return errors.Join(errs...)
}
