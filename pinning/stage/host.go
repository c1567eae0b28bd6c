package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning"
	"github.com/headrace/headrace/pinning/card"
	"github.com/headrace/headrace/pinning/profile"
	"github.com/headrace/headrace/pinning/topology"
)

// Cards are the settings of network cards, as text; see package card.
type Cards interface {
	Get(nic, name string) (string, error)
	Set(nic, name, value string) error
	Shell(nic, name, value string) string
}

// Options say what a host is to be tuned for.
type Options struct {
	// Root is the directory that stands for "/"; "" is "/".
	Root string
	// Cards are those of this machine if nil.
	Cards Cards
	// Profile is what is wished.
	Profile *profile.Profile
	// Interfaces are the cards that packets come from, by name.
	Interfaces []string
	// Workers is how many there are; at least 1.
	Workers int
	// CPUs are those for the workers; empty: they are chosen.
	CPUs topology.CPUSet
	// Flows are rules for the cards: which queue a flow goes to.
	Flows []Flow
}

// A Flow is steered to a queue of a card.
type Flow struct {
	Interface string
	Match     string // "udp 239.1.1.1:5000"
	Queue     int
}

// A Host is what stages look at.
type Host struct {
	Machine   *topology.Machine
	NICs      []topology.NIC
	Placement pinning.Placement
	Profile   *profile.Profile
	Workers   int
	Flows     []Flow

	root  *os.Root
	dir   string
	fsys  fs.FS
	cards Cards
	// original returns the value of a setting from before the first apply.
	original func(Setting) (string, bool)
}

// Open reads a host. It changes nothing.
func Open(o Options) (*Host, error) {
	h, err := openRoot(o.Root, o.Cards)
	if err != nil {
		return nil, err
	}
	h.Profile, h.Workers, h.Flows = o.Profile, o.Workers, o.Flows
	if h.Machine, err = topology.Read(h.fsys); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	for _, name := range o.Interfaces {
		n, err := topology.ReadNIC(h.fsys, name)
		if err != nil {
			return nil, errors.Join(err, h.Close())
		}
		h.NICs = append(h.NICs, n)
	}
	if h.Placement, err = pinning.Place(h.Machine, pinning.Wish{Workers: o.Workers, NICs: h.NICs, CPUs: o.CPUs}); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// openRoot opens what reverting needs: it knows nothing but records.
func openRoot(dir string, cards Cards) (*Host, error) {
	if dir == "" {
		dir = "/"
	}
	if cards == nil {
		cards = card.Kernel{}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("stage: %w", err)
	}
	return &Host{root: root, dir: dir, fsys: os.DirFS(dir), cards: cards, original: func(Setting) (string, bool) { return "", false }}, nil
}

// Close releases the root.
func (h *Host) Close() error { return h.root.Close() }

// read returns the value of a setting.
func (h *Host) read(s Setting) (string, error) {
	m, err := media(s.Kind)
	if err != nil {
		return "", err
	}
	return m.read(h, s.Name)
}

// base returns the value from before the first apply, or the present one.
func (h *Host) base(s Setting) (string, error) {
	if old, ok := h.original(s); ok {
		return old, nil
	}
	return h.read(s)
}

func (h *Host) exists(name string) bool {
	_, err := h.root.Stat(name)
	return err == nil
}

func (h *Host) text(name string) string {
	b, err := h.root.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// names lists a directory; it is empty if there is none.
func (h *Host) names(dir string) []string {
	entries, err := fs.ReadDir(h.fsys, dir)
	if err != nil {
		return nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// isKernel reports whether the root is one that a kernel made, and not a directory of
// files shaped as one.
func (h *Host) isKernel(name string) bool {
	var st unix.Statfs_t
	if unix.Statfs(filepath.Join(h.dir, name), &st) != nil {
		return false
	}
	switch st.Type {
	case unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC:
		return true
	}
	return false
}

// removeGroup removes a cgroup. A kernel's has files that go with it; a tree's are
// removed like it.
func (h *Host) removeGroup(name string) error {
	if h.isKernel(name) {
		return h.root.Remove(name)
	}
	return h.root.RemoveAll(name)
}

// enable writes "+cpuset" to a subtree_control. In a tree of plain files nobody makes
// the new list of it, so that is done here.
func (h *Host) enable(control, which string, on bool) error {
	sign := "-"
	if on {
		sign = "+"
	}
	if h.isKernel(path.Dir(control)) {
		return file{}.write(h, control, sign+which)
	}
	var words []string
	for has := range strings.FieldsSeq(h.text(control)) {
		if has != which {
			words = append(words, has)
		}
	}
	if on {
		words = append([]string{which}, words...)
	}
	return file{}.write(h, control, strings.Join(words, " "))
}

// dial connects to a socket below the root. The request carries the caller's identity,
// for irqbalance listens to root only.
func (h *Host) dial(name string) (net.Conn, error) {
	d := net.Dialer{Timeout: 2 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		var bad error
		err := c.Control(func(fd uintptr) { bad = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		return errors.Join(err, bad)
	}}
	c, err := d.Dial("unix", filepath.Join(h.dir, name)) //nolint:noctx // two seconds at most
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(5 * time.Second))
}
