package audit

import (
	"time"

	"github.com/headrace/headrace/pinning/topology"
)

// Probes are the questions that no file answers. [Kernel] asks the kernel, but for XDP.
type Probes interface {
	// Ethernet asks a NIC's driver.
	Ethernet(name string) (Ethernet, error)
	// XDP says what XDP is possible on a NIC, by trying where that is allowed.
	XDP(nic topology.NIC, defaultRoute bool) XDP
	// Clock asks how right the system's clock is, and compares it with a NIC's clock,
	// whose number is phc; -1 is none.
	Clock(phc int) Clock
}

// Ethernet is what a driver says. What a driver does not know is nil.
type Ethernet struct {
	Driver, Version, Firmware string
	// Index, MTU and Up are the kernel's, in the network namespace of the process, which
	// need not be that of sysfs. Index 0 is unknown.
	Index, MTU int
	Up         bool

	Channels *Channels
	Rings    *Rings
	Coalesce *Coalesce
	// Features are the offloads that are on, by the names that ethtool -k shows.
	Features map[string]bool
	// PHC is the number of the NIC's clock, /dev/ptpN; -1 if it has none.
	PHC int
}

// Channels are pairs of queues and what they could be.
type Channels struct{ Combined, CombinedMax, Rx, RxMax int }

// Receive returns how many channels receive.
func (c *Channels) Receive() int { return c.Combined + c.Rx }

// Rings are the receive ring of each queue and what it could be, in packets.
type Rings struct{ Rx, RxMax int }

// Coalesce is how long a NIC waits before it interrupts.
type Coalesce struct {
	RxUsecs, RxFrames int
	Adaptive          bool
}

// XDP is what is possible with XDP on a NIC.
type XDP struct {
	// Attached is the mode of a program that is on it already, "" if none is.
	Attached string
	// Program is its number.
	Program int
	// Probed reports that a program was attached and a socket bound. NotProbed says why not.
	Probed    bool
	NotProbed string
	// Native, ZeroCopy: granted when it was tried; else Refused says what the kernel said.
	Native, ZeroCopy               bool
	NativeRefused, ZeroCopyRefused string
	// LeftAsItWas is false if the trial could not be taken back.
	LeftAsItWas bool
}

// A Clock is how right the system's clock is.
type Clock struct {
	// Unknown says why nothing else is known.
	Unknown error
	// Synchronized is what the kernel believes; Error and Offset are by how much it may
	// be wrong, and was when it was last set.
	Synchronized  bool
	Error, Offset time.Duration
	// PHC is the NIC's clock that was compared, -1 if none. Ahead is by how much it is
	// ahead of UTC, by the system's clock; within PHCError. PHCUnknown says why it is not
	// known.
	PHC        int
	Ahead      time.Duration
	PHCError   time.Duration
	PHCUnknown error
}
