package boxes

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/veth"
)

// groupPort is where boxes listen for each other.
const groupPort = 9200

// A Lab is a group of boxes and what joins them. One goroutine uses it.
type Lab struct {
	Dir    string // everything is in it
	Binary string // headrace
	Boxes  []*Box
	Wire   *veth.Namespace // where senders are; cable i goes to box i
	// Pause is the time between two looks at a box: 10 ms unless changed.
	Pause time.Duration

	plugs *veth.Switch // nil: the boxes are in the present namespace
	name  string       // of this lab among others
}

// Config says what to make.
type Config struct {
	// Dir is an empty folder. Required.
	Dir string
	// Binary is the path of headrace. Required.
	Binary string
	// Names are the ids of the boxes. Required.
	Names []string
	// Pipeline is the config without interfaces and group. Required.
	Pipeline string
	// Group is further lines of the group section, such as "period: 300ms". NUMBER
	// stands for the number of the box, from 1.
	Group []string
	// Addresses, if there are any, puts all boxes into the network namespace of this
	// process, where box i has address i already. Nothing else joins them then.
	Addresses []netip.Addr
	// Ring is the settings of each interface, such as "rx_ring: 4096".
	Ring string
}

// New makes the boxes, their keys and configs. Nothing runs yet.
func New(c Config) (l *Lab, err error) {
	l = &Lab{Dir: c.Dir, Binary: c.Binary, Pause: 10 * time.Millisecond, name: filepath.Base(c.Dir)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("boxes: %w", err), l.Close())
		}
	}()
	if l.Wire, err = veth.NewNamespace(); err != nil {
		return l, err
	}
	if len(c.Addresses) == 0 {
		if l.plugs, err = veth.NewSwitch(); err != nil {
			return l, err
		}
	}
	for i, id := range c.Names {
		b := &Box{ID: id, number: i + 1, lab: l, Dir: filepath.Join(c.Dir, id)}
		if l.plugs == nil {
			b.Address = c.Addresses[i]
		}
		l.Boxes = append(l.Boxes, b)
		if err := b.build(); err != nil {
			return l, err
		}
	}
	for _, b := range l.Boxes {
		if err := b.configure(&c); err != nil {
			return l, err
		}
	}
	return l, nil
}

// peers is the list of all boxes as a config has it.
func (l *Lab) peers() string {
	var lines []string
	for _, b := range l.Boxes {
		lines = append(lines, fmt.Sprintf("    - {id: %s, address: \"%s\", pin: \"%s\"}", b.ID, b.listens(), b.Pin))
	}
	return strings.Join(lines, "\n")
}

// Box returns the box of the given id, which there must be.
func (l *Lab) Box(id string) *Box {
	for _, b := range l.Boxes {
		if b.ID == id {
			return b
		}
	}
	panic("boxes: no box " + id)
}

// Drop lets no packet of the group come from one box to another, or lets them come
// again. The other direction stays as it is.
func (l *Lab) Drop(from, to *Box, on bool) error {
	rule := "delete table inet cut" + from.ID
	if on {
		rule = fmt.Sprintf("table inet cut%s {\n chain in {\n type filter hook input priority 0\n ip saddr %s drop\n }\n}\n", from.ID, from.Address)
	}
	c := exec.Command("nft", "-f", "-")
	c.Stdin = strings.NewReader(rule)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	err := to.Namespace.Start(c)
	if err == nil {
		err = c.Wait()
	}
	if err != nil {
		return fmt.Errorf("boxes: nft in %s: %w: %s", to.ID, err, said.String())
	}
	return nil
}

// Close ends every process and removes the network. The folder stays.
func (l *Lab) Close() error {
	var errs []error
	for _, b := range l.Boxes {
		errs = append(errs, b.close())
	}
	if l.Wire != nil {
		errs = append(errs, l.Wire.Close())
	}
	if l.plugs != nil {
		errs = append(errs, l.plugs.Close())
	}
	return errors.Join(errs...)
}

// Send returns a command of headrace that sends to box b: send or generate with
// --interface already given. The caller runs it with [Lab.Start].
func (l *Lab) Send(b *Box, args ...string) *exec.Cmd {
	return exec.Command(l.Binary, append(args, "--interface", b.Cable.A.Interface, "--quiet", "--json")...)
}

// Start starts a command where the senders are.
func (l *Lab) Start(c *exec.Cmd) error { return l.Wire.Start(c) }

// write writes a file of the lab.
func write(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
