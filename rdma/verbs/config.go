package verbs

import (
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/rdma/collective"
)

// ErrNoVerbs reports that RDMA cannot be used here; what it is wrapped in says why.
var ErrNoVerbs = errors.New("no RDMA verbs")

// ErrConfig reports a configuration that New refuses.
var ErrConfig = errors.New("bad configuration")

// Config says which port to use and how.
type Config struct {
	// Me is our number in the group.
	Me int
	// Device is the name that ibv_devices lists. Empty: the first with an active
	// RoCEv2 port.
	Device string
	// Port is counted from 1. Zero: the device's first active one.
	Port int
	// GIDIndex is the entry of the port's GID table that we send from; it must be of
	// RoCEv2. -1: the first with an IPv4 address, else a global IPv6 one, else any.
	GIDIndex int
	// RetryCount is how often an unanswered packet is sent again, 1 to 6. Zero: 3.
	// Some devices take 7 as "for ever".
	RetryCount int
	// Timeout is how long a packet may go unanswered: 4.096 µs · 2^Timeout, 8 to 20.
	// Zero: 14, which is 67 ms.
	Timeout int
	// Busy polls while there is nothing, for cores that have nothing else to do.
	// Otherwise Park waits in the kernel.
	Busy bool
	// Slots is how many frames a peer may have under way to another one, 2 to 256. It
	// is the same at all peers. Zero: 16, which is 2.1 MiB for each pair.
	Slots int
}

const (
	retryMax   = 6
	slotsMin   = 2
	slotsMax   = 256
	timeoutMin = 8
	timeoutMax = 20
)

// checked returns c with its zeros filled in, or what is wrong with it.
func (c Config) checked() (Config, error) {
	if c.RetryCount == 0 {
		c.RetryCount = 3
	}
	if c.Timeout == 0 {
		c.Timeout = 14
	}
	if c.Slots == 0 {
		c.Slots = 16
	}
	for _, f := range []struct {
		name          string
		value, lo, hi int
		why           string
	}{
		{"Me", c.Me, 0, collective.PeersMax - 1, ""},
		{"Port", c.Port, 0, 255, ""},
		{"GIDIndex", c.GIDIndex, -1, 1<<16 - 1, ""},
		{"RetryCount", c.RetryCount, 1, retryMax, ": 7 is for ever on some devices, and a dead peer would never be noticed"},
		{"Timeout", c.Timeout, timeoutMin, timeoutMax, ""},
		{"Slots", c.Slots, slotsMin, slotsMax, ""},
	} {
		if f.value < f.lo || f.value > f.hi {
			return c, fmt.Errorf("%w: %s is %d, not in %d to %d%s", ErrConfig, f.name, f.value, f.lo, f.hi, f.why)
		}
	}
	return c, nil
}

// Silence is how long a peer that does not answer what we send goes unnoticed: all
// tries and their timeouts. Devices may take up to four times as long.
func (c Config) Silence() time.Duration {
	if d, err := c.checked(); err == nil {
		c = d
	}
	return time.Duration(c.RetryCount+1) * 4096 << c.Timeout
}
