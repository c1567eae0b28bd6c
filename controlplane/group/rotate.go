package group

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/headrace/headrace/rdma/boot"
)

// Rotate makes our next key and returns its pin, which the other boxes are to
// [Dir.Trust] before [Dir.Retire]. If there is a next key already, it is that one's.
func (d *Dir) Rotate() (pin string, err error) {
	err = d.locked(func() error {
		old, err := d.load()
		if err != nil {
			return err
		}
		f := old.clone()
		pin, err = d.nextPin()
		if errors.Is(err, fs.ErrNotExist) {
			var text []byte
			if text, pin, err = newKey(f.Me); err != nil {
				return err
			}
			err = d.write(fileNext, text)
		}
		if err != nil {
			return err
		}
		f.find(f.Me).add(pin)
		return d.store(f)
	})
	return pin, err
}

func (d *Dir) nextPin() (string, error) {
	text, err := os.ReadFile(d.at(fileNext))
	if err != nil {
		return "", err
	}
	c, err := tls.X509KeyPair(text, text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", d.at(fileNext), err)
	}
	return boot.PinOf(&c)
}

// Retire puts the next key in the place of ours and returns the pins that are good no
// more. It may be repeated if it was interrupted.
func (d *Dir) Retire() (pin string, retired []string, err error) {
	err = d.locked(func() error {
		old, err := d.load()
		if err != nil {
			return err
		}
		f := old.clone()
		err = os.Rename(d.at(fileNext), d.at(fileKey))
		none := errors.Is(err, fs.ErrNotExist)
		if err != nil && !none {
			return err
		}
		if pin, err = d.Pin(); err != nil {
			return err
		}
		if retired = f.find(f.Me).retire(pin); none && len(retired) == 0 {
			return errors.New("there is no next key: 'headrace group rotate' makes one")
		}
		return d.store(f)
	})
	return pin, retired, err
}

// Trust accepts one more pin of another peer.
func (d *Dir) Trust(peer, pin string) error {
	if err := errors.Join(boot.CheckID(peer), boot.CheckPin(pin)); err != nil {
		return err
	}
	return d.change(func(f *file) error {
		if peer == f.Me {
			return fmt.Errorf("%s is this box itself: its key changes without --peer", peer)
		}
		f.entry(peer).add(pin)
		return nil
	})
}

// Distrust retires pins of another peer: the given one, or without it all but the
// one that was added last. It returns what it has retired.
func (d *Dir) Distrust(peer, pin string) (retired []string, err error) {
	err = d.change(func(f *file) error {
		e := f.find(peer)
		if e == nil || peer == f.Me {
			return fmt.Errorf("no other peer %s is in %s", peer, d.at(filePeers))
		}
		if pin == "" {
			if len(e.Pin) < 2 {
				return fmt.Errorf("%s has one pin in %s: name the old one with --pin, as 'headrace group rotate --retire' printed it on %s", peer, d.at(filePeers), peer)
			}
			retired = e.retire(e.Pin[len(e.Pin)-1])
			return nil
		}
		if err := boot.CheckPin(pin); err != nil {
			return err
		}
		retired = []string{pin}
		e.Pin = slices.DeleteFunc(e.Pin, func(p string) bool { return p == pin })
		if !slices.Contains(e.Retired, pin) { // it may be one of the config's
			e.Retired = append(e.Retired, pin)
		}
		return nil
	})
	return retired, err
}
