package audit

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kernel asks the running kernel. It changes nothing and needs no privilege but for
// reading a /dev/ptpN.
type Kernel struct{}

// Numbers of requests and layouts of linux/ethtool.h.
const (
	getCoalesce = 0x0e
	getRings    = 0x10
	getStrings  = 0x1b
	getCount    = 0x37
	getFeatures = 0x3a
	getChannels = 0x3c

	setFeatures = 4 // of strings
	nameBytes   = 32
)

type channelsAnswer struct {
	cmd                                                      uint32
	maxRx, maxTx, maxOther, maxCombined, rx, tx, other, both uint32
}

type ringsAnswer struct {
	cmd                                                 uint32
	rxMax, rxMiniMax, rxJumboMax, txMax, rx, mini, j, t uint32
}

type coalesceAnswer struct {
	cmd               uint32
	rxUsecs, rxFrames uint32
	_                 [2]uint32
	_                 [5]uint32
	adaptiveRx, _     uint32
	_                 [11]uint32
}

// Sizes of struct ethtool_channels, ethtool_ringparam and ethtool_coalesce.
var (
	_ [36]byte = [unsafe.Sizeof(channelsAnswer{})]byte{}
	_ [36]byte = [unsafe.Sizeof(ringsAnswer{})]byte{}
	_ [92]byte = [unsafe.Sizeof(coalesceAnswer{})]byte{}
)

// request is struct ifreq with a pointer.
type request struct {
	name [unix.IFNAMSIZ]byte
	at   unsafe.Pointer
	_    [8]byte
}

// ethtool makes one request; the answer begins with its number.
func ethtool(fd int, name string, answer unsafe.Pointer) error {
	r := request{at: answer}
	copy(r.name[:unix.IFNAMSIZ-1], name)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r))); e != 0 {
		return os.NewSyscallError("ioctl SIOCETHTOOL", e)
	}
	return nil
}

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
	e.Firmware, e.Bus = unix.ByteSliceToString(drv.Fw_version[:]), unix.ByteSliceToString(drv.Bus_info[:])
	e.Index, e.MTU, e.Up = plain(fd, name)
	c := channelsAnswer{cmd: getChannels}
	if ethtool(fd, name, unsafe.Pointer(&c)) == nil {
		e.Channels = &Channels{Combined: int(c.both), CombinedMax: int(c.maxCombined), Rx: int(c.rx), RxMax: int(c.maxRx)}
	}
	r := ringsAnswer{cmd: getRings}
	if ethtool(fd, name, unsafe.Pointer(&r)) == nil {
		e.Rings = &Rings{Rx: int(r.rx), RxMax: int(r.rxMax)}
	}
	q := coalesceAnswer{cmd: getCoalesce}
	if ethtool(fd, name, unsafe.Pointer(&q)) == nil {
		e.Coalesce = &Coalesce{RxUsecs: int(q.rxUsecs), RxFrames: int(q.rxFrames), Adaptive: q.adaptiveRx != 0}
	}
	if t, err := unix.IoctlGetEthtoolTsInfo(fd, name); err == nil {
		e.PHC = int(t.Phc_index)
	}
	e.Features = features(fd, name)
	return e, nil
}

// plain asks for what every interface has.
func plain(fd int, name string) (index, mtu int, up bool) {
	ask := func(request uint) uint32 {
		r, err := unix.NewIfreq(name)
		if err != nil || unix.IoctlIfreq(fd, request, r) != nil {
			return 0
		}
		if request == unix.SIOCGIFFLAGS {
			return uint32(r.Uint16())
		}
		return r.Uint32()
	}
	return int(ask(unix.SIOCGIFINDEX)), int(ask(unix.SIOCGIFMTU)), ask(unix.SIOCGIFFLAGS)&unix.IFF_RUNNING != 0
}

// features returns the offloads that are on; nil if the kernel does not tell.
func features(fd int, name string) map[string]bool {
	var count struct {
		cmd, _ uint32
		mask   uint64
		n      [1]uint32
	}
	count.cmd, count.mask = getCount, 1<<setFeatures
	if ethtool(fd, name, unsafe.Pointer(&count)) != nil || count.mask == 0 || count.n[0] == 0 || count.n[0] > 1024 {
		return nil
	}
	n := int(count.n[0])
	// Headers of two or three words, then names of 32 bytes; blocks of 32 features.
	names := make([]uint32, 3+n*nameBytes/4)
	names[0], names[1], names[2] = getStrings, setFeatures, uint32(n)
	blocks := (n + 31) / 32
	state := make([]uint32, 2+4*blocks)
	state[0], state[1] = getFeatures, uint32(blocks)
	if ethtool(fd, name, unsafe.Pointer(&names[0])) != nil || ethtool(fd, name, unsafe.Pointer(&state[0])) != nil {
		return nil
	}
	text := unsafe.Slice((*byte)(unsafe.Pointer(&names[3])), n*nameBytes)
	on := map[string]bool{}
	for i := range n {
		const active = 2 // available, requested, active, never changed
		on[unix.ByteSliceToString(text[i*nameBytes:(i+1)*nameBytes])] = state[2+4*(i/32)+active]&(1<<(i%32)) != 0
	}
	return on
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

// compare reads a NIC's clock between two readings of the system's, some times, and
// takes the closest.
func compare(path string) (ahead, within time.Duration, err error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("needs read permission on it: %w", err)
		}
		return 0, 0, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	const readings = 9
	x, err := unix.IoctlPtpSysOffsetExtended(int(f.Fd()), readings)
	if err != nil {
		return 0, 0, os.NewSyscallError("ioctl PTP_SYS_OFFSET_EXTENDED", err)
	}
	within = 1 << 62
	nanos := func(t unix.PtpClockTime) int64 { return t.Sec*1e9 + int64(t.Nsec) }
	for i := range x.Samples {
		before, nic, after := nanos(x.Ts[i][0]), nanos(x.Ts[i][1]), nanos(x.Ts[i][2])
		if d := time.Duration(after-before) / 2; d < within {
			within, ahead = d, time.Duration(nic-(before+(after-before)/2))
		}
	}
	return ahead, within, nil
}
