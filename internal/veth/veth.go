// Package veth makes networks inside this machine: namespaces with random names,
// joined by veth pairs with several queues. What it makes stays until it is closed,
// so its callers close it on every way out.
//
// Tests use package netns, which does that for them; the demonstration uses this one.
package veth

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// needed are the capabilities without which no network can be made and used.
var needed = []struct {
	bit  int
	name string
}{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW"},
	{unix.CAP_BPF, "CAP_BPF"},
}

// Missing names a capability that this process lacks to make namespaces and veth
// pairs, open raw sockets and load BPF programs; "" if it has all of them.
func Missing() (string, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return "", fmt.Errorf("veth: this process's capabilities: %w", os.NewSyscallError("capget", err))
	}
	for _, c := range needed {
		if sets[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			return c.name, nil
		}
	}
	return "", nil
}

// Denied reports an error that says that this process may not make networks here, or
// that this kernel cannot, whatever capabilities it has.
func Denied(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.ENOSYS)
}

// A Namespace is a network namespace with a name, as `ip netns` has them, or the one
// that this process is in.
type Namespace struct {
	Name   string
	handle vnetns.NsHandle
	link   *netlink.Handle
}

// NewNamespace makes a namespace with a random name and its loopback interface up.
// IPv6 is off in it until [Join] is told otherwise, so that nothing is sent unasked.
func NewNamespace() (*Namespace, error) {
	n := &Namespace{Name: "hr-" + random(4), handle: vnetns.None()}
	made := make(chan error)
	go func() {
		// The thread is in the new namespace and is not unlocked: it ends here.
		runtime.LockOSThread()
		var err error
		n.handle, err = vnetns.NewNamed(n.Name)
		made <- err
	}()
	err := <-made
	if err == nil {
		err = n.open()
	}
	if err != nil {
		_ = n.Close() // perhaps half of it is there
		return nil, fmt.Errorf("veth: namespace %s: %w", n.Name, err)
	}
	return n, nil
}

// Present returns the namespace that the calling thread is in, which is that of the process
// outside of [Namespace.Do] and [Namespace.Go]. Closing it leaves it as it is.
func Present() (*Namespace, error) {
	n := &Namespace{handle: vnetns.None()}
	var err error
	if n.handle, err = vnetns.Get(); err == nil {
		n.link, err = netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE)
	}
	if err != nil {
		_ = n.Close()
		return nil, fmt.Errorf("veth: the present namespace: %w", err)
	}
	return n, nil
}

func (n *Namespace) open() (err error) {
	if n.link, err = netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	lo, err := n.link.LinkByName("lo")
	if err == nil {
		err = n.link.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return n.setIPv6(false)
}

// Close removes the namespace, and with it the interfaces in it, once the last
// process in it has ended. A second call does nothing.
func (n *Namespace) Close() error {
	if n.link != nil {
		n.link.Close()
		n.link = nil
	}
	if n.handle.IsOpen() {
		n.handle.Close() //nolint:errcheck // the name's removal is what counts
	}
	if n.Name == "" { // the present one
		return nil
	}
	if err := vnetns.DeleteNamed(n.Name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("veth: namespace %s: %w", n.Name, err)
	}
	return nil
}

// setIPv6 turns IPv6 on or off for all interfaces of n, later ones too. A kernel
// without IPv6 has it off already.
func (n *Namespace) setIPv6(on bool) error {
	value := []byte("1")
	if on {
		value = []byte("0")
	}
	var wrote error
	err := n.Do(func() {
		for _, of := range []string{"all", "default"} {
			path := "/proc/sys/net/ipv6/conf/" + of + "/disable_ipv6"
			if err := os.WriteFile(path, value, 0); err != nil && !os.IsNotExist(err) {
				wrote = err
			}
		}
	})
	return errors.Join(err, wrote)
}

// Do calls fn with this goroutine's thread inside n, and brings the thread back.
// What fn opens stays in n. Goroutines that fn starts are not in n; see [Namespace.Go].
func (n *Namespace) Do(fn func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := vnetns.Get()
	if err != nil {
		return fmt.Errorf("veth: this thread's namespace: %w", err)
	}
	defer before.Close() //nolint:errcheck // a read-only descriptor
	if err := vnetns.Set(n.handle); err != nil {
		return fmt.Errorf("veth: enter %s: %w", n.Name, err)
	}
	defer func() {
		if err := vnetns.Set(before); err != nil {
			panic("veth: the thread cannot leave " + n.Name + ": " + err.Error())
		}
	}()
	fn()
	return nil
}

// Go calls fn in a new goroutine on a thread of its own inside n, and returns a
// channel that is closed when fn has returned.
func (n *Namespace) Go(fn func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := vnetns.Set(n.handle); err != nil {
			panic("veth: enter " + n.Name + ": " + err.Error())
		}
		fn()
	}()
	return done
}

// Start starts cmd inside n.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	var started error
	if err := n.Do(func() { started = cmd.Start() }); err != nil {
		return err
	}
	return started
}

// Processes returns the ids of the processes in n, those whose threads are spread
// over several namespaces by their first.
func (n *Namespace) Processes() ([]int, error) {
	var own unix.Stat_t
	if err := unix.Fstat(int(n.handle), &own); err != nil {
		return nil, fmt.Errorf("veth: namespace %s: %w", n.Name, os.NewSyscallError("fstat", err))
	}
	list, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("veth: %w", err)
	}
	var ids []int
	for _, f := range list {
		id, err := strconv.Atoi(f.Name())
		if err != nil {
			continue // not a process
		}
		var st unix.Stat_t
		// A process that has ended meanwhile has no namespace.
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", id), &st) == nil && st.Ino == own.Ino && st.Dev == own.Dev {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Options say how a veth pair is made. The zero value is one queue, the kernel's
// MTU and no IPv6.
type Options struct {
	// Queues is the number of receive and of transmit queues of both ends, 1 if zero.
	Queues int
	// MTU of both ends, the kernel's default if zero.
	MTU int
	// IPv6 gives both ends an IPv6 address too.
	IPv6 bool
}

// An End is one end of a veth pair.
type End struct {
	In        *Namespace
	Interface string
	Index     int
	MAC       net.HardwareAddr
	IPv4      netip.Addr
	IPv6      netip.Addr // not valid unless asked for
	link      netlink.Link
}

// A Pair is two namespaces' interfaces joined by a cable. A frame sent on transmit
// queue q of one end arrives on receive queue q of the other.
type Pair struct{ A, B *End }

// pairs numbers the pairs of this process, so that their addresses differ.
var pairs atomic.Uint32

// Join makes a veth pair with one end in a and the other in b: up, with addresses
// (10.x.y.1 in a and 10.x.y.2 in b) and with each other as permanent neighbors, so
// that no ARP is needed. It goes with either namespace.
func Join(a, b *Namespace, o Options) (*Pair, error) {
	number := pairs.Add(1)
	queues := max(o.Queues, 1)
	name := "hr" + random(3)
	p := &Pair{A: &End{In: a, Interface: name + "a"}, B: &End{In: b, Interface: name + "b"}}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues, attrs.MTU = p.A.Interface, queues, queues, o.MTU
	cable := netlink.NewVeth(attrs)
	cable.PeerName = p.B.Interface
	cable.PeerNamespace = netlink.NsFd(b.handle)
	cable.PeerNumRxQueues, cable.PeerNumTxQueues = uint32(queues), uint32(queues)
	if o.IPv6 {
		if err := errors.Join(a.setIPv6(true), b.setIPv6(true)); err != nil {
			return nil, fmt.Errorf("veth: IPv6: %w", err)
		}
	}
	if err := a.link.LinkAdd(cable); err != nil {
		return nil, fmt.Errorf("veth: pair %s: %w", name, err)
	}
	for host, e := range []*End{p.A, p.B} {
		if err := e.configure(number, byte(host+1), o); err != nil {
			return nil, fmt.Errorf("veth: %s: %w", e.Interface, err)
		}
	}
	for _, v := range [][2]*End{{p.A, p.B}, {p.B, p.A}} {
		if err := v[0].know(v[1]); err != nil {
			return nil, fmt.Errorf("veth: neighbors of %s: %w", v[0].Interface, err)
		}
	}
	return p, nil
}

func (e *End) configure(pair uint32, host byte, o Options) error {
	link, err := e.In.link.LinkByName(e.Interface)
	if err != nil {
		return err
	}
	e.link, e.Index, e.MAC = link, link.Attrs().Index, link.Attrs().HardwareAddr
	e.IPv4 = netip.AddrFrom4([4]byte{10, byte(pair >> 8), byte(pair), host})
	addresses := []netip.Prefix{netip.PrefixFrom(e.IPv4, 24)}
	if o.IPv6 {
		e.IPv6 = netip.AddrFrom16([16]byte{0xfd, 0, 4: byte(pair >> 8), 5: byte(pair), 15: host})
		addresses = append(addresses, netip.PrefixFrom(e.IPv6, 64))
	}
	for _, a := range addresses {
		address := &netlink.Addr{
			IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())},
			Flags: unix.IFA_F_NODAD, // usable at once, without duplicate address detection
		}
		if err := e.In.link.AddrAdd(link, address); err != nil {
			return fmt.Errorf("address %v: %w", a, err)
		}
	}
	return e.In.link.LinkSetUp(link)
}

// know makes peer a permanent neighbor of e.
func (e *End) know(peer *End) error {
	for _, ip := range []netip.Addr{peer.IPv4, peer.IPv6} {
		if !ip.IsValid() {
			continue
		}
		neighbor := &netlink.Neigh{
			LinkIndex: e.Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: peer.MAC,
		}
		if err := e.In.link.NeighSet(neighbor); err != nil {
			return fmt.Errorf("%v: %w", ip, err)
		}
	}
	return nil
}

// SetUp brings e, one of p's ends, up or down. Going down loses the IPv6 address and
// the neighbors; coming up puts the other end back as neighbor.
func (p *Pair) SetUp(e *End, up bool) error {
	set := e.In.link.LinkSetDown
	if up {
		set = e.In.link.LinkSetUp
	}
	err := set(e.link)
	if err == nil && up {
		other := p.A
		if e == p.A {
			other = p.B
		}
		err = e.know(other)
	}
	if err != nil {
		return fmt.Errorf("veth: %s up %v: %w", e.Interface, up, err)
	}
	return nil
}

// Delete removes the pair while its namespaces stay.
func (p *Pair) Delete() error {
	if err := p.A.In.link.LinkDel(p.A.link); err != nil {
		return fmt.Errorf("veth: delete %s: %w", p.A.Interface, err)
	}
	return nil
}

func random(bytes int) string {
	b := make([]byte, bytes)
	if _, err := rand.Read(b); err != nil {
		panic(fmt.Sprintf("veth: no randomness: %v", err))
	}
	return hex.EncodeToString(b)
}
