package stage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/topology"
)

// A Setting names something of the host that has a value.
type Setting struct {
	// Kind says how it is read and written: see [media].
	Kind string `json:"kind"`
	// Name is a path without the first slash, or a card and the name of its setting.
	Name string `json:"name"`
}

func (s Setting) String() string {
	switch s.Kind {
	case kindCard, kindBalance:
		return s.Name
	default:
		return "/" + s.Name
	}
}

// Kinds of settings.
const (
	kindFile    = "file"    // a file, compared as text
	kindList    = "list"    // a file, compared as a list of CPUs
	kindMask    = "mask"    // a file, compared as a mask of CPUs
	kindChoice  = "choice"  // a file of words whose value is in brackets
	kindDir     = "dir"     // a directory that is there or absent: a cgroup
	kindEnabled = "enabled" // a controller of cgroup.subtree_control, "PATH CONTROLLER"
	kindCard    = "card"    // "CARD SETTING", see package card
	kindBalance = "irqbalance"
)

// A medium is one way of reading and writing.
type medium interface {
	// read returns the value as it would be written back.
	read(h *Host, name string) (string, error)
	write(h *Host, name, value string) error
	shell(h *Host, name, value string) string
	// same reports whether two values mean the same.
	same(a, b string) bool
}

// media is a function, for settings are plain data in records and name their medium.
func media(kind string) (medium, error) {
	switch kind {
	case kindFile:
		return file{equalText}, nil
	case kindList:
		return file{equalLists}, nil
	case kindMask:
		return file{equalMasks}, nil
	case kindChoice:
		return choice{}, nil
	case kindDir:
		return directory{}, nil
	case kindEnabled:
		return controller{}, nil
	case kindCard:
		return cardSetting{}, nil
	case kindBalance:
		return balancer{}, nil
	}
	return nil, fmt.Errorf("settings of kind %q: %w", kind, errors.ErrUnsupported)
}

func equalText(a, b string) bool { return strings.TrimSpace(a) == strings.TrimSpace(b) }

func equalLists(a, b string) bool {
	x, errA := topology.ParseCPUs(a)
	y, errB := topology.ParseCPUs(b)
	return errA == nil && errB == nil && x.Equal(y) || equalText(a, b)
}

func equalMasks(a, b string) bool {
	x, errA := topology.ParseMask(a)
	y, errB := topology.ParseMask(b)
	return errA == nil && errB == nil && x.Equal(y) || equalText(a, b)
}

// file is a file of /proc or /sys. Its value is all of it, with the newline.
type file struct{ equal func(a, b string) bool }

func (file) read(h *Host, name string) (string, error) {
	b, err := h.root.ReadFile(name)
	return string(b), err
}

func (file) write(h *Host, name, value string) error {
	// Neither created, for a kernel's file is there or is not, nor empty, for that would
	// be no write at all.
	if !strings.HasSuffix(value, "\n") {
		value += "\n"
	}
	f, err := h.root.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func (file) shell(_ *Host, name, value string) string {
	return fmt.Sprintf("echo %s > /%s", word(strings.TrimSpace(value)), name)
}

func (f file) same(a, b string) bool { return f.equal(a, b) }

// word quotes for a shell what needs it.
func word(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"\\$`&|;<>()*?[]#~!{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// choice is a file like "always [madvise] never".
type choice struct{ file }

func (c choice) read(h *Host, name string) (string, error) {
	text, err := c.file.read(h, name)
	if err != nil {
		return "", err
	}
	_, after, ok := strings.Cut(text, "[")
	chosen, _, closed := strings.Cut(after, "]")
	if !ok || !closed {
		return "", fmt.Errorf("/%s: nothing in it is chosen: %q", name, text)
	}
	return chosen, nil
}

func (choice) same(a, b string) bool { return equalText(a, b) }

// Values of a directory.
const (
	present = "present"
	absent  = "absent"
)

type directory struct{}

func (directory) read(h *Host, name string) (string, error) {
	switch st, err := h.root.Stat(name); {
	case errors.Is(err, fs.ErrNotExist):
		return absent, nil
	case err != nil:
		return "", err
	case !st.IsDir():
		return "", fmt.Errorf("/%s: %w", name, unix.ENOTDIR)
	}
	return present, nil
}

func (d directory) write(h *Host, name, value string) error {
	is, err := d.read(h, name)
	if err != nil || is == value {
		return err
	}
	if value == present {
		return h.root.Mkdir(name, 0o755)
	}
	if err := h.removeGroup(name); err != nil {
		return fmt.Errorf("%w; does a process still run in it? see /%s/cgroup.procs", err, name)
	}
	return nil
}

func (directory) shell(_ *Host, name, value string) string {
	if value == present {
		return "mkdir /" + name
	}
	return "rmdir /" + name
}

func (directory) same(a, b string) bool { return a == b }

// Values of a controller.
const (
	enabled  = "on"
	disabled = "off"
)

// controller is one word of a cgroup's subtree_control.
type controller struct{}

func (controller) split(name string) (control, which string) {
	dir, which, _ := strings.Cut(name, " ")
	return path.Join(dir, "cgroup.subtree_control"), which
}

func (c controller) read(h *Host, name string) (string, error) {
	control, which := c.split(name)
	b, err := h.root.ReadFile(control)
	if err != nil {
		return "", err
	}
	for has := range strings.FieldsSeq(string(b)) {
		if has == which {
			return enabled, nil
		}
	}
	return disabled, nil
}

func (c controller) write(h *Host, name, value string) error {
	control, which := c.split(name)
	return h.enable(control, which, value == enabled)
}

func (c controller) shell(_ *Host, name, value string) string {
	control, which := c.split(name)
	sign := "+"
	if value == disabled {
		sign = "-"
	}
	return fmt.Sprintf("echo %s%s > /%s", sign, which, control)
}

func (controller) same(a, b string) bool { return a == b }

// cardSetting is a setting of a network card.
type cardSetting struct{}

func (cardSetting) read(h *Host, name string) (string, error) {
	nic, what, _ := strings.Cut(name, " ")
	return h.cards.Get(nic, what)
}

func (cardSetting) write(h *Host, name, value string) error {
	nic, what, _ := strings.Cut(name, " ")
	return h.cards.Set(nic, what, value)
}

func (cardSetting) shell(h *Host, name, value string) string {
	nic, what, _ := strings.Cut(name, " ")
	return h.cards.Shell(nic, what, value)
}

func (cardSetting) same(a, b string) bool { return equalText(a, b) }

// balancer is the list of CPUs that irqbalance leaves alone, by its socket. It answers
// with a mask and takes a list; it takes it in at its next round, ten seconds later.
type balancer struct{}

func (balancer) read(h *Host, name string) (string, error) {
	answer, err := h.ask(name, "setup")
	if err != nil {
		return "", err
	}
	_, mask, ok := strings.Cut(answer, "BANNED ")
	mask, _, _ = strings.Cut(strings.TrimSpace(mask), " ")
	banned, err := topology.ParseMask(mask)
	if !ok || err != nil {
		return "", fmt.Errorf("irqbalance says %q: %w", answer, errors.Join(unix.EPROTO, err))
	}
	return banned.String(), nil
}

func (balancer) message(value string) string {
	if value == "" {
		return "settings cpus NULL" // its own choice
	}
	return "settings cpus " + value
}

func (b balancer) write(h *Host, name, value string) error {
	_, err := h.ask(name, b.message(value))
	return err
}

func (b balancer) shell(_ *Host, name, value string) string {
	return fmt.Sprintf("echo %s | socat - UNIX-CONNECT:/%s", word(b.message(value)), name)
}

func (balancer) same(a, b string) bool { return equalLists(a, b) }

// ask sends one request to a socket below the root and returns the answer.
func (h *Host) ask(name, request string) (string, error) {
	c, err := h.dial(name)
	if err != nil {
		return "", err
	}
	defer c.Close() //nolint:errcheck // both sides have said all
	if _, err := io.WriteString(c, request); err != nil {
		return "", err
	}
	const answerMax = 1 << 16
	b, err := io.ReadAll(io.LimitReader(c, answerMax))
	return string(b), err
}
