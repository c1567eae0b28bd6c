package card

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Commands and layout of linux/ethtool.h: struct ethtool_rxnfc with one
// ethtool_rx_flow_spec in it.
const (
	cmdCountRules = 0x2e // ETHTOOL_GRXCLSRLCNT
	cmdGetRule    = 0x2f // ETHTOOL_GRXCLSRULE
	cmdListRules  = 0x30 // ETHTOOL_GRXCLSRLALL
	cmdDropRule   = 0x31 // ETHTOOL_SRXCLSRLDEL
	cmdAddRule    = 0x32 // ETHTOOL_SRXCLSRLINS

	flowTCP4 = 0x01 // TCP_V4_FLOW
	flowUDP4 = 0x02 // UDP_V4_FLOW

	nfcBytes       = 192 // sizeof(struct ethtool_rxnfc)
	atData         = 8
	atSpec         = 16
	atHeader       = atSpec + 4   // h_u
	atMask         = atSpec + 76  // m_u
	atCookie       = atSpec + 152 // ring_cookie
	atLocation     = atSpec + 160
	atCount        = 184
	atLocations    = 188
	rulesMax       = 1 << 14
	anyLocation    = 0xffffffff // RX_CLS_LOC_ANY
	specialAllowed = 1 << 31    // RX_CLS_LOC_SPECIAL, in the answer to cmdCountRules
)

// A flow is what a rule matches: "udp 239.1.1.1:5000".
type flow struct {
	kind uint32
	to   netip.AddrPort
}

func parseFlow(text string) (flow, error) {
	proto, to, _ := strings.Cut(text, " ")
	kind, ok := map[string]uint32{"udp": flowUDP4, "tcp": flowTCP4}[proto]
	at, err := netip.ParseAddrPort(to)
	if !ok || err != nil || !at.Addr().Is4() {
		return flow{}, fmt.Errorf("%w: flow %q; one is like udp 239.1.1.1:5000", ErrValue, text)
	}
	return flow{kind, at}, nil
}

// CheckFlow reports a flow that no rule could be made of.
func CheckFlow(text string) error {
	_, err := parseFlow(text)
	return err
}

// spec writes what f matches: destination and port whole, nothing of the source.
func (f flow) spec(buf []byte) {
	binary.NativeEndian.PutUint32(buf[atSpec:], f.kind)
	address := f.to.Addr().As4()
	copy(buf[atHeader+4:], address[:])
	binary.BigEndian.PutUint16(buf[atHeader+10:], f.to.Port())
	copy(buf[atMask+4:], "\xff\xff\xff\xff")
	copy(buf[atMask+10:], "\xff\xff")
}

// matches reports whether a rule that was read is exactly f's.
func (f flow) matches(buf []byte) bool {
	want := make([]byte, nfcBytes)
	f.spec(want)
	return string(buf[atSpec:atCookie-4]) == string(want[atSpec:atCookie-4])
}

func command(cmd uint32, extra int) []byte {
	buf := make([]byte, nfcBytes+extra)
	binary.NativeEndian.PutUint32(buf, cmd)
	return buf
}

// rules returns the locations of all rules, and whether the driver finds a free one
// itself.
func rules(nic string) (at []uint32, chooses bool, size uint32, err error) {
	count := command(cmdCountRules, 0)
	if err := ioctl(nic, count); err != nil {
		return nil, false, 0, err
	}
	n := binary.NativeEndian.Uint32(count[atCount:])
	size = binary.NativeEndian.Uint32(count[atData:])
	if n > rulesMax {
		return nil, false, 0, fmt.Errorf("%d rules: %w", n, unix.EOPNOTSUPP)
	}
	list := command(cmdListRules, 4*int(n))
	binary.NativeEndian.PutUint32(list[atCount:], n)
	if err := ioctl(nic, list); err != nil {
		return nil, false, 0, err
	}
	for i := range min(n, binary.NativeEndian.Uint32(list[atCount:])) {
		at = append(at, binary.NativeEndian.Uint32(list[atLocations+4*i:]))
	}
	return at, size&specialAllowed != 0, max(size&^specialAllowed, binary.NativeEndian.Uint32(list[atData:])), nil
}

// find returns the location and queue of f's rule.
func (f flow) find(nic string) (location uint32, queue uint64, found bool, err error) {
	at, _, _, err := rules(nic)
	if err != nil {
		return 0, 0, false, err
	}
	for _, location := range at {
		rule := command(cmdGetRule, 0)
		binary.NativeEndian.PutUint32(rule[atLocation:], location)
		switch err := ioctl(nic, rule); {
		case errors.Is(err, unix.ENOENT):
			continue // gone since
		case err != nil:
			return 0, 0, false, err
		}
		if f.matches(rule) {
			return location, binary.NativeEndian.Uint64(rule[atCookie:]), true, nil
		}
	}
	return 0, 0, false, nil
}

// noRule is the value of a flow without a rule.
const noRule = "none"

func getFlow(nic, text string) (string, error) {
	f, err := parseFlow(text)
	if err != nil {
		return "", err
	}
	_, queue, found, err := f.find(nic)
	if err != nil || !found {
		return noRule, err
	}
	return strconv.FormatUint(queue, 10), nil
}

func setFlow(nic, text, value string) error {
	f, err := parseFlow(text)
	if err != nil {
		return err
	}
	location, _, found, err := f.find(nic)
	if err != nil {
		return err
	}
	if found {
		drop := command(cmdDropRule, 0)
		binary.NativeEndian.PutUint32(drop[atLocation:], location)
		if err := ioctl(nic, drop); err != nil {
			return err
		}
	}
	if value == noRule {
		return nil
	}
	queue, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return fmt.Errorf("%w: queue %q", ErrValue, value)
	}
	add := command(cmdAddRule, 0)
	f.spec(add)
	binary.NativeEndian.PutUint64(add[atCookie:], queue)
	if !found {
		if location, err = freeLocation(nic); err != nil {
			return err
		}
	}
	binary.NativeEndian.PutUint32(add[atLocation:], location)
	return ioctl(nic, add)
}

// freeLocation lets the driver choose, or takes the last that is free: the first ones
// come first in the card's search and are left to rules that somebody numbers.
func freeLocation(nic string) (uint32, error) {
	used, chooses, size, err := rules(nic)
	if err != nil || chooses {
		return anyLocation, err
	}
	taken := map[uint32]bool{}
	for _, at := range used {
		taken[at] = true
	}
	for at := size; at > 0; at-- {
		if !taken[at-1] {
			return at - 1, nil
		}
	}
	return 0, fmt.Errorf("%d rules: %w", size, unix.ENOSPC)
}

func shellFlow(nic, text, value string) string {
	f, err := parseFlow(text)
	if err != nil {
		return ""
	}
	if value == noRule {
		return fmt.Sprintf("ethtool -N %s delete LOCATION # of %s in ethtool -n %s", nic, text, nic)
	}
	proto, _, _ := strings.Cut(text, " ")
	return fmt.Sprintf("ethtool -N %s flow-type %s4 dst-ip %s dst-port %d action %s", nic, proto, f.to.Addr(), f.to.Port(), value)
}
