package audit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/pinning/card"
)

// Kernel asks the running kernel. It changes nothing and needs no privilege but for
// reading a /dev/ptpN.
type Kernel struct{}

// watched are the offloads that matter to XDP.
var watched = []string{"rx-gro", "rx-gro-hw", "rx-lro", "rx-ntuple-filter", "rx-vlan-hw-parse"}

// Ethernet asks a NIC's driver. Each request that a driver does not know leaves its part
// of the answer empty.
func (Kernel) Ethernet(name string) (Ethernet, error) {
	e := Ethernet{PHC: -1}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return e, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	drv, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP): // nothing with a driver; it has offloads all the same
		drv = &unix.EthtoolDrvinfo{}
	case err != nil:
		return e, fmt.Errorf("interface %s: %w", name, os.NewSyscallError("ioctl ETHTOOL_GDRVINFO", err))
	}
	e.Driver, e.Version = unix.ByteSliceToString(drv.Driver[:]), unix.ByteSliceToString(drv.Version[:])
	e.Firmware = unix.ByteSliceToString(drv.Fw_version[:])
	if i, err := net.InterfaceByName(name); err == nil {
		e.Index, e.MTU, e.Up = i.Index, i.MTU, i.Flags&net.FlagRunning != 0
	}
	read(name, &e)
	if t, err := unix.IoctlGetEthtoolTsInfo(fd, name); err == nil {
		e.PHC = int(t.Phc_index)
	}
	return e, nil
}

// read reads the card's settings. What it does not know stays nil.
func read(name string, e *Ethernet) {
	get := func(setting string) (value string, ok bool) {
		value, err := card.Kernel{}.Get(name, setting)
		return value, err == nil
	}
	if now, ok := get("channels"); ok {
		most, _ := get("channels-max")
		e.Channels = &Channels{
			Combined: card.Number(now, "combined"), CombinedMax: card.Number(most, "combined"), Rx: card.Number(now, "rx"), RxMax: card.Number(most, "rx"),
		}
	}
	if now, ok := get("rings"); ok {
		most, _ := get("rings-max")
		e.Rings = &Rings{Rx: card.Number(now, "rx"), RxMax: card.Number(most, "rx")}
	}
	if now, ok := get("coalesce"); ok {
		e.Coalesce = &Coalesce{RxUsecs: card.Number(now, "rx-usecs"), RxFrames: card.Number(now, "rx-frames"), Adaptive: card.Number(now, "adaptive-rx") != 0}
	}
	for _, feature := range watched {
		if state, ok := get("feature " + feature); ok {
			if e.Features == nil {
				e.Features = map[string]bool{}
			}
			e.Features[feature] = state == "on"
		}
	}
}

// Clock asks the kernel how right its clock is, and reads a NIC's beside it.
func (Kernel) Clock(phc int) Clock {
	c := Clock{PHC: -1}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		c.Unknown = os.NewSyscallError("adjtimex", err)
	}
	unit := time.Microsecond
	if t.Status&unix.STA_NANO != 0 {
		unit = time.Nanosecond
	}
	c.Synchronized = state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
	c.Error, c.Offset = time.Duration(t.Maxerror)*time.Microsecond, time.Duration(t.Offset)*unit
	if phc < 0 {
		return c
	}
	c.PHC = phc
	c.Ahead, c.PHCError, c.PHCUnknown = compare(fmt.Sprintf("/dev/ptp%d", phc))
	return c
}

// readings is how often two clocks are compared.
const readings = 9

// A reading is a NIC's clock between two readings of the system's, in nanoseconds since
// 1970 by each.
type reading struct{ before, nic, after int64 }

// compare says by how much a NIC's clock is ahead of the system's.
func compare(path string) (ahead, within time.Duration, err error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("needs read permission on it: %w", err)
		}
		return 0, 0, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	all, err := readBoth(int(f.Fd()))
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", path, err)
	}
	ahead, within = closest(all)
	return ahead, within, nil
}

// readBoth lets the driver read both clocks next to each other; where it cannot, they
// are read by system calls, which are farther apart.
func readBoth(fd int) ([]reading, error) {
	var all []reading
	if x, err := unix.IoctlPtpSysOffsetExtended(fd, readings); err == nil {
		nanos := func(t unix.PtpClockTime) int64 { return t.Sec*1e9 + int64(t.Nsec) }
		for i := range x.Samples {
			all = append(all, reading{nanos(x.Ts[i][0]), nanos(x.Ts[i][1]), nanos(x.Ts[i][2])})
		}
		return all, nil
	}
	// The clock of a descriptor: FD_TO_CLOCKID of clock_getres(2).
	id := int32(^fd<<3 | 3)
	for range readings {
		var before, nic, after unix.Timespec
		err := errors.Join(unix.ClockGettime(unix.CLOCK_REALTIME, &before), unix.ClockGettime(id, &nic), unix.ClockGettime(unix.CLOCK_REALTIME, &after))
		if err != nil {
			return nil, os.NewSyscallError("clock_gettime", err)
		}
		all = append(all, reading{before.Nano(), nic.Nano(), after.Nano()})
	}
	return all, nil
}

// closest takes the reading that took the shortest time: the NIC's was somewhere in it.
func closest(all []reading) (ahead, within time.Duration) {
	within = 1 << 62
	for _, r := range all {
		if half := (r.after - r.before) / 2; time.Duration(half) < within {
			within, ahead = time.Duration(half), time.Duration(r.nic-(r.before+half))
		}
	}
	return ahead, within
}
