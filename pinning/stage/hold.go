package stage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/profile"
)

// holds says what only a living process can do.
type holds struct{}

func (holds) Describe() Description {
	return Description{"hold", "what is in force while a process holds it: `tune apply --hold`, or `run`", Root}
}

func (s holds) Plan(h *Host) ([]Step, []Note) {
	p := plan(h, s)
	for _, w := range h.toHold() {
		p.note(false, "`headrace tune apply --hold`, or `headrace run`, holds it", "%s: %s", w.Key, w.Reason)
	}
	return p.done()
}

// What can be held.
const (
	holdLatency  = "dma-latency"
	holdStamping = "timestamping"
)

// ownLimits are the files of the worker cores' own limits, as far as they have one.
func (h *Host) ownLimits() []string {
	var own []string
	for _, cpu := range h.Placement.WorkerCPUs().List() {
		at := fmt.Sprintf("sys/devices/system/cpu/cpu%d/power/pm_qos_resume_latency_us", cpu)
		if h.exists(at) {
			own = append(own, at)
		}
	}
	return own
}

// toHold are the profile's wishes but for the one limit for all cores where they have
// limits of their own, which do the same.
func (h *Host) toHold() []profile.Setting {
	wishes := h.Profile.With("hold.")
	if len(h.ownLimits()) == 0 {
		return wishes
	}
	return slices.DeleteFunc(wishes, func(w profile.Setting) bool { return w.Key == holdLatency })
}

// A Hold is what is in force until it is closed, or the process ends.
type Hold struct {
	// Held are its names and reasons, NotHeld why others are not.
	Held, NotHeld []string

	open []io.Closer
}

// Close lets go.
func (h *Hold) Close() error {
	var bad []error
	for _, c := range h.open {
		bad = append(bad, c.Close())
	}
	h.open = nil
	return errors.Join(bad...)
}

// Take takes everything that the host's profile wants held. What cannot be held is said
// in the Hold, not an error: a host without the device sleeps no deeper for it.
func (h *Host) Take() *Hold {
	out := &Hold{}
	for _, w := range h.toHold() {
		var c io.Closer
		var err error
		switch w.Key {
		case holdLatency:
			c, err = h.holdLatency()
		case holdStamping:
			c, err = holdTimestamping()
		}
		if err != nil {
			out.NotHeld = append(out.NotHeld, fmt.Sprintf("%s: %v", w.Key, err))
			continue
		}
		out.open = append(out.open, c)
		out.Held = append(out.Held, w.Key+": "+w.Reason)
	}
	return out
}

// holdLatency allows no sleep state on any core while the file is open.
func (h *Host) holdLatency() (io.Closer, error) {
	f, err := h.root.OpenFile("dev/cpu_dma_latency", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(binary.NativeEndian.AppendUint32(nil, 0)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// A socket is a descriptor to close.
type socket int

// Close closes it.
func (s socket) Close() error { return unix.Close(int(s)) }

// holdTimestamping opens a socket that wants time stamps of what it receives: with the
// first such socket of the system the kernel patches its code, which stops every core.
func holdTimestamping() (io.Closer, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	const how = unix.SOF_TIMESTAMPING_RX_SOFTWARE | unix.SOF_TIMESTAMPING_SOFTWARE
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, how); err != nil {
		return nil, errors.Join(fmt.Errorf("SO_TIMESTAMPING: %w", err), unix.Close(fd))
	}
	return socket(fd), nil
}
