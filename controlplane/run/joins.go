package run

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/plan"
)

// join is an ordinary socket that receives nothing and only makes the interface and
// the network bring a group's packets.
type join struct {
	Interface string
	Index     int
	Group     netip.Addr
	fd        int
}

// groups returns the multicast groups of p's feeds, and the destinations that are
// groups but too many to join.
func groups(p *plan.Plan) (list []netip.Addr, wide []netip.Prefix) {
	seen := map[netip.Prefix]bool{}
	for i := range p.Feeds {
		for _, r := range p.Feeds[i].Rules {
			d := r.Destination
			if !d.IsValid() || !d.Addr().IsMulticast() || seen[d.Masked()] {
				continue
			}
			seen[d.Masked()] = true
			if d.IsSingleIP() {
				list = append(list, d.Addr())
			} else {
				wide = append(wide, d.Masked())
			}
		}
	}
	return list, wide
}

// openJoin joins a group on an interface.
func openJoin(name string, index int, group netip.Addr) (*join, error) {
	j := &join{Interface: name, Index: index, Group: group}
	domain := unix.AF_INET
	if group.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		j.fd = fd
		if err = j.member(true); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("join %v on %s: %w", group, name, err)
	}
	return j, nil
}

// member joins or leaves.
func (j *join) member(in bool) error {
	if j.Group.Is6() {
		option := unix.IPV6_LEAVE_GROUP
		if in {
			option = unix.IPV6_JOIN_GROUP
		}
		return os.NewSyscallError("setsockopt", unix.SetsockoptIPv6Mreq(j.fd, unix.IPPROTO_IPV6, option,
			&unix.IPv6Mreq{Multiaddr: j.Group.As16(), Interface: uint32(j.Index)}))
	}
	option := unix.IP_DROP_MEMBERSHIP
	if in {
		option = unix.IP_ADD_MEMBERSHIP
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn(j.fd, unix.IPPROTO_IP, option,
		&unix.IPMreqn{Multiaddr: j.Group.As4(), Ifindex: int32(j.Index)}))
}

// leave leaves the group, which closing would not do: the data plane has the socket
// too.
func (j *join) leave() error {
	err := j.member(false)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL) {
		err = nil // the interface has gone, and its memberships with it
	}
	return errors.Join(err, os.NewSyscallError("close", unix.Close(j.fd)))
}
