package main

import (
	"errors"

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
