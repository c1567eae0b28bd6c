package doctor

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/bpf"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/xsk"
	"github.com/headrace/headrace/pinning/audit"
	"github.com/headrace/headrace/pinning/topology"
)

// When XDP is tried.
const (
	probeCareful = "careful" // where nobody can notice
	probeYes     = "yes"
	probeNo      = "no"
)

// A prober answers audit's questions: of the kernel, and of XDP by trying.
type prober struct {
	audit.Kernel
	when string
}

// attachModes are those of IFLA_XDP_ATTACHED.
var attachModes = map[uint32]string{1: "native", 2: "generic", 3: "offload", 4: "several"}

// attached returns what is on an interface.
func attached(name string) (mode string, program int, err error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return "", 0, err
	}
	x := link.Attrs().Xdp
	if x == nil || !x.Attached {
		return "", 0, nil
	}
	if mode = attachModes[x.AttachMode]; mode == "" {
		mode = "unknown"
	}
	return mode, int(x.ProgId), nil
}

// XDP says what XDP is possible on a NIC. It tries only if it may, and leaves the NIC as
// it was.
func (p *prober) XDP(nic topology.NIC, defaultRoute bool) (x audit.XDP) {
	var err error
	x.LeftAsItWas = true
	if x.Attached, x.Program, err = attached(nic.Name); err != nil {
		x.NotProbed = err.Error()
		return x
	}
	if x.NotProbed = p.refuses(nic, x, defaultRoute); x.NotProbed != "" {
		return x
	}
	before, errBefore := p.Ethernet(nic.Name)
	dark := waitsForCarrier(nic.Name)
	if x.Attached == "" {
		try(nic.Name, &x)
	} else {
		// The program that is there stays, so a socket is all that can be tried.
		x.Probed, x.Native = true, x.Attached == "native"
		x.NativeRefused = "a program is attached in " + x.Attached + " mode"
		bind(nic.Name, &x)
	}
	x.LeftAsItWas = settled(nic.Name, x, dark)
	if after, err := p.Ethernet(nic.Name); errBefore == nil && (err != nil || !reflect.DeepEqual(before, after)) {
		x.LeftAsItWas = false
	}
	return x
}

// refuses says why nothing is tried, "" if it may be.
func (p *prober) refuses(nic topology.NIC, x audit.XDP, defaultRoute bool) string {
	switch {
	case p.when == probeNo:
		return "not asked for (--probe=no)"
	case nic.Name == "lo":
		return "the loopback interface has no card"
	case p.when == probeYes:
		return ""
	case x.Attached != "":
		return fmt.Sprintf("program %d is attached: a trial needs --probe", x.Program)
	case defaultRoute:
		return "the default route goes through it, and a driver may reset the link: a trial needs --probe"
	}
	return ""
}

// try attaches a program that passes every packet, binds a socket, and takes both off.
func try(name string, x *audit.XDP) {
	tables, err := bpf.Load(bpf.Config{Workers: 1})
	if err != nil {
		x.NotProbed = missing(err)
		return
	}
	defer tables.Close() //nolint:errcheck // what matters is seen by settled
	program, err := tables.Program(bpf.Interface{Name: name})
	if err != nil {
		x.NotProbed = missing(err)
		return
	}
	_, _, err = program.Attach(plan.Native)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENODEV):
		x.NotProbed = missing(err)
		return
	case err != nil:
		x.NativeRefused = err.Error()
	default:
		x.Native = true
	}
	x.Probed = true
	bind(name, x)
	// Detach takes the program off at once; closing does so a moment later.
	_ = program.Detach()
}

// bind binds a socket of queue 0 with zero-copy, if the kernel grants it.
func bind(name string, x *audit.XDP) {
	sizes, err := xsk.Fit(xsk.Wish{Workers: 1, RxRing: 64, TxRing: 64, FillReserve: 64})
	if err != nil {
		x.ZeroCopyRefused = err.Error()
		return
	}
	owner, err := xsk.OpenOwner(xsk.OwnerConfig{
		Interface: name, Sizes: sizes, Bind: xsk.Bind{ZeroCopy: true}, BusyWait: 300 * time.Millisecond,
	})
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.EBUSY):
		x.Probed, x.NotProbed = false, missing(err)
		return
	case err != nil:
		x.ZeroCopyRefused = err.Error()
		return
	}
	x.ZeroCopy = owner.ZeroCopy()
	if err := owner.Close(); err != nil {
		x.LeftAsItWas = false
	}
}

// missing says which capabilities an error is about, if it is.
func missing(err error) string {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Sprintf("needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW, or root (%s)", strings.TrimPrefix(err.Error(), "bpf: "))
	}
	return err.Error()
}

// settled waits until the interface is as it was before, for as long as a card needs
// to bring its link up again.
func settled(name string, x audit.XDP, dark bool) bool {
	if !x.LeftAsItWas {
		return false
	}
	const most, pause = 5 * time.Second, 10 * time.Millisecond
	for end := time.Now().Add(most); ; time.Sleep(pause) {
		mode, program, err := attached(name)
		if err == nil && mode == x.Attached && program == x.Program && (dark || !waitsForCarrier(name)) {
			return true
		}
		if time.Now().After(end) {
			return err == nil && mode == x.Attached && program == x.Program
		}
	}
}

// waitsForCarrier reports an interface that is up and has no carrier.
func waitsForCarrier(name string) bool {
	link, err := netlink.LinkByName(name)
	return err == nil && link.Attrs().OperState == netlink.OperDown && link.Attrs().Flags&1 != 0
}
