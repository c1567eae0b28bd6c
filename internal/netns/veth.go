package netns

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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

// An End is one end of a veth pair, in its namespace.
type End struct {
	*Namespace
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

// pairs numbers the pairs of this test binary, so that their addresses differ.
var pairs atomic.Uint32

// NewPair makes two namespaces and joins them.
func NewPair(tb testing.TB, o Options) *Pair {
	tb.Helper()
	return Join(tb, New(tb), New(tb), o)
}

// Join makes a veth pair with one end in a and the other in b: up, with addresses
// (10.x.y.1 in a and 10.x.y.2 in b) and with each other as permanent neighbors, so
// that no ARP is needed.
func Join(tb testing.TB, a, b *Namespace, o Options) *Pair {
	tb.Helper()
	n := pairs.Add(1)
	queues := max(o.Queues, 1)
	name := "hr" + random(3)
	p := &Pair{A: &End{Namespace: a, Interface: name + "a"}, B: &End{Namespace: b, Interface: name + "b"}}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues, attrs.MTU = p.A.Interface, queues, queues, o.MTU
	veth := netlink.NewVeth(attrs)
	veth.PeerName = p.B.Interface
	veth.PeerNamespace = netlink.NsFd(b.handle)
	veth.PeerNumRxQueues, veth.PeerNumTxQueues = uint32(queues), uint32(queues)
	if o.IPv6 {
		a.setIPv6(tb, true)
		b.setIPv6(tb, true)
	}
	if err := a.link.LinkAdd(veth); err != nil {
		tb.Fatalf("netns: veth pair %s: %v", name, err)
	}
	for host, e := range []*End{p.A, p.B} {
		if err := e.configure(n, byte(host+1), o); err != nil {
			tb.Fatalf("netns: %s: %v", e.Interface, err)
		}
	}
	for _, v := range [][2]*End{{p.A, p.B}, {p.B, p.A}} {
		if err := v[0].know(v[1]); err != nil {
			tb.Fatalf("netns: neighbors of %s: %v", v[0].Interface, err)
		}
	}
	return p
}

func (e *End) configure(pair uint32, host byte, o Options) error {
	link, err := e.Namespace.link.LinkByName(e.Interface)
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
		if err := e.Namespace.link.AddrAdd(link, address); err != nil {
			return fmt.Errorf("address %v: %w", a, err)
		}
	}
	return e.Namespace.link.LinkSetUp(link)
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
		if err := e.Namespace.link.NeighSet(neighbor); err != nil {
			return fmt.Errorf("%v: %w", ip, err)
		}
	}
	return nil
}

// SetUp brings e's interface up or down. Going down loses the IPv6 address and the
// neighbors; coming up puts the other end back as neighbor.
func (p *Pair) SetUp(tb testing.TB, e *End, up bool) {
	tb.Helper()
	set := e.Namespace.link.LinkSetDown
	if up {
		set = e.Namespace.link.LinkSetUp
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
		tb.Fatalf("netns: %s up %v: %v", e.Interface, up, err)
	}
}

// Delete removes the pair while its namespaces stay.
func (p *Pair) Delete(tb testing.TB) {
	tb.Helper()
	if err := p.A.Namespace.link.LinkDel(p.A.link); err != nil {
		tb.Fatalf("netns: delete %s: %v", p.A.Interface, err)
	}
}
