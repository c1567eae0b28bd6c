package veth

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/vishvananda/netlink"
)

// A Switch is a bridge in a namespace of its own, into which others are plugged: the
// network among the boxes of a group.
type Switch struct {
	*Namespace
	number uint32
	bridge netlink.Link
	ports  uint32
}

// switches numbers the switches of this process, so that their addresses differ.
var switches atomic.Uint32

// NewSwitch makes a switch without ports.
func NewSwitch() (*Switch, error) {
	in, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	s := &Switch{Namespace: in, number: switches.Add(1)}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	s.bridge = &netlink.Bridge{LinkAttrs: attrs}
	if err = in.link.LinkAdd(s.bridge); err == nil {
		err = in.link.LinkSetUp(s.bridge)
	}
	if err != nil {
		_ = in.Close()
		return nil, fmt.Errorf("veth: bridge: %w", err)
	}
	return s, nil
}

// A Port is where one namespace is plugged into a switch.
type Port struct {
	In        *Namespace
	Interface string // in In
	Address   netip.Addr
	inside    netlink.Link
	outside   netlink.Link
	of        *Switch
}

// Plug gives n an interface on s with the next address: 10.200.x.1, .2, ….
func (s *Switch) Plug(n *Namespace) (*Port, error) {
	s.ports++
	name := "hs" + random(3)
	p := &Port{
		In: n, of: s, Interface: name + "a",
		Address: netip.AddrFrom4([4]byte{10, 200, byte(s.number), byte(s.ports)}),
	}
	if err := p.plug(name + "b"); err != nil {
		return nil, fmt.Errorf("veth: port %s: %w", name, err)
	}
	return p, nil
}

func (p *Port) plug(outside string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = outside
	cable := netlink.NewVeth(attrs)
	cable.PeerName, cable.PeerNamespace = p.Interface, netlink.NsFd(p.In.handle)
	if err := p.of.link.LinkAdd(cable); err != nil {
		return err
	}
	var err error
	if p.outside, err = p.of.link.LinkByName(outside); err != nil {
		return err
	}
	if err = p.of.link.LinkSetMaster(p.outside, p.of.bridge); err != nil {
		return err
	}
	if err = p.of.link.LinkSetUp(p.outside); err != nil {
		return err
	}
	if p.inside, err = p.In.link.LinkByName(p.Interface); err != nil {
		return err
	}
	address, err := netlink.ParseAddr(p.Address.String() + "/24")
	if err != nil {
		return err
	}
	if err = p.In.link.AddrAdd(p.inside, address); err != nil {
		return err
	}
	return p.In.link.LinkSetUp(p.inside)
}

// SetUp pulls the plug, at the switch's side, or puts it back: the interface in the
// namespace keeps its address and loses its carrier.
func (p *Port) SetUp(up bool) error {
	set := p.of.link.LinkSetDown
	if up {
		set = p.of.link.LinkSetUp
	}
	if err := set(p.outside); err != nil {
		return fmt.Errorf("veth: port %s up %v: %w", p.Interface, up, err)
	}
	return nil
}
