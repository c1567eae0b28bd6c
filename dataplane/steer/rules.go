package steer

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// Classes of packets; rules of different classes never compete. HR_CLASS_* of
// bpf/abi.h.
const (
	classTCP = 1
	classV6  = 2

	// ClassCount is the number of classes.
	ClassCount = 4
)

// Limits of a rule set, those of the maps in bpf/abi.h.
const (
	// RulesMax bounds the keys of a [RuleSet]; a rule without destination has two,
	// one in each family.
	RulesMax = 4096
	// ShapesMax bounds the shapes of one class.
	ShapesMax = 64
)

// AnyDestination is a Shape's prefix length if its rules do not look at the destination.
const AnyDestination = 255

// A Shape says which parts of a packet a rule looks at. Rules of one shape are
// found with one lookup. It is struct hr_shape of bpf/abi.h.
type Shape struct {
	// Mask is of the destination, whose wire bytes are read as two little-endian
	// words; an IPv4 address is the first four bytes.
	Mask   [2]uint64
	Prefix uint8 // bits, or AnyDestination
	Given  uint8 // GivenPort, GivenVLAN
}

// Bits of Shape.Given.
const (
	GivenPort = 1
	GivenVLAN = 2
)

// A Key is what a rule of one shape says of the parts that it looks at, and zero
// elsewhere: struct hr_key of bpf/abi.h, without its bank.
type Key struct {
	Destination [2]uint64
	Port        uint16
	VLAN        uint16
	Class       uint8
	Prefix      uint8
	Given       uint8
}

// A Target is what a rule leads to.
type Target struct {
	Feed uint16
	Line uint8
}

// A RuleSet is the rules of all feeds, ready for lookup: what both the Go and the
// kernel side build their tables from.
type RuleSet struct {
	Shapes  [ClassCount][]Shape // the most specific first
	Keys    []Key
	Targets []Target // of Keys
}

// Compile makes a rule set of the feeds' rules. Feed i of the list is feed i in
// metadata and counters. It returns an error for more feeds, rules or shapes than
// the limits, for a rule or placement that means nothing, and for equal rules.
func Compile(feeds []plan.Feed) (*RuleSet, error) {
	if len(feeds) > event.FeedsMax {
		return nil, fmt.Errorf("%d feeds: give at most %d", len(feeds), event.FeedsMax)
	}
	s := &RuleSet{}
	owners := map[Key]string{}
	for i := range feeds {
		f := &feeds[i]
		if err := checkPlacement(&f.Place); err != nil {
			return nil, fmt.Errorf("feed %s: %w", f.Name, err)
		}
		for j := range f.Rules {
			if err := s.add(uint16(i), &f.Rules[j], f.Name, owners); err != nil {
				return nil, fmt.Errorf("feed %s, rule %d: %w", f.Name, j+1, err)
			}
		}
	}
	if len(s.Keys) > RulesMax {
		return nil, fmt.Errorf("%d rules (one without a destination is two): give at most %d", len(s.Keys), RulesMax)
	}
	for c := range s.Shapes {
		if n := len(s.Shapes[c]); n > ShapesMax {
			return nil, fmt.Errorf("rules of %d different shapes (prefix length, port or not, VLAN or not): use at most %d", n, ShapesMax)
		}
		slices.SortFunc(s.Shapes[c], func(a, b Shape) int {
			// uint8(AnyDestination+1) is 0: any is the shortest prefix, before /0.
			return cmp.Or(cmp.Compare(b.Prefix+1, a.Prefix+1), cmp.Compare(b.Given&GivenPort, a.Given&GivenPort), cmp.Compare(b.Given, a.Given))
		})
	}
	return s, nil
}

func (s *RuleSet) add(feed uint16, r *plan.Rule, name string, owners map[Key]string) error {
	class := uint8(0)
	switch r.Protocol {
	case protocolUDP:
	case protocolTCP:
		class = classTCP
	default:
		return fmt.Errorf("protocol %d: use udp (17) or tcp (6)", r.Protocol)
	}
	if r.VLAN > 4095 {
		return fmt.Errorf("VLAN %d: use 1 to 4095", r.VLAN)
	}
	if a := r.Destination.Addr(); a.Is4In6() || a.Zone() != "" {
		return fmt.Errorf("destination %s: write an IPv4 address as such, and no zone", r.Destination)
	}
	classes := []uint8{class, class | classV6}
	if r.Destination.IsValid() {
		classes = classes[:1]
		if r.Destination.Addr().Is6() {
			classes[0] |= classV6
		}
	}
	for _, class := range classes {
		shape, key := shapeOf(class, r)
		if was, ok := owners[key]; ok {
			return fmt.Errorf("equal to a rule of feed %s: change one of them", was)
		}
		owners[key] = name
		if !slices.Contains(s.Shapes[class], shape) {
			s.Shapes[class] = append(s.Shapes[class], shape)
		}
		s.Keys = append(s.Keys, key)
		s.Targets = append(s.Targets, Target{feed, r.Line})
	}
	return nil
}

func shapeOf(class uint8, r *plan.Rule) (Shape, Key) {
	shape := Shape{Prefix: AnyDestination}
	if r.Port != 0 {
		shape.Given |= GivenPort
	}
	if r.VLAN != 0 {
		shape.Given |= GivenVLAN
	}
	key := Key{Port: r.Port, VLAN: r.VLAN, Class: class, Given: shape.Given}
	if r.Destination.IsValid() {
		n := r.Destination.Bits()
		shape.Prefix = uint8(n)
		var mask [16]byte
		for i := range n {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		shape.Mask = words(mask[:])
		a := words(r.Destination.Addr().AsSlice())
		key.Destination = [2]uint64{a[0] & shape.Mask[0], a[1] & shape.Mask[1]}
	}
	key.Prefix = shape.Prefix
	return shape, key
}

// words reads an address as the rules' tables do.
func words(address []byte) [2]uint64 {
	if len(address) == 4 {
		return [2]uint64{uint64(binary.LittleEndian.Uint32(address))}
	}
	return [2]uint64{binary.LittleEndian.Uint64(address), binary.LittleEndian.Uint64(address[8:])}
}

// table is an open-addressed hash table of rules that is never full. A key is
// three words: the destination's, and all the rest packed into one.
type table struct {
	probes [ClassCount][]probe
	slots  []slot
	mask   uint64
	last   [ClassCount]recent
}

// recent is the last match of a class: packets of a feed come one after the other.
type recent struct {
	destination [2]uint64
	rest        uint64
	target      Target
	found, used bool
}

// probe makes a packet's key of one shape.
type probe struct {
	mask  [2]uint64 // of the destination
	given uint64    // of port and VLAN, as packed
	rest  uint64    // class, prefix and given, as packed
}

type slot struct {
	key    [3]uint64
	target Target
	used   bool
}

func packed(port, vlan uint16) uint64 { return uint64(port) | uint64(vlan)<<16 }

func shaped(class, prefix, given uint8) uint64 {
	return uint64(class)<<32 | uint64(prefix)<<40 | uint64(given)<<48
}

func newTable(s *RuleSet) *table {
	n := 1 << bits.Len(uint(2*len(s.Keys)+1))
	t := &table{slots: make([]slot, n), mask: uint64(n - 1)}
	for class, shapes := range s.Shapes {
		for _, shape := range shapes {
			p := probe{mask: shape.Mask, rest: shaped(uint8(class), shape.Prefix, shape.Given)}
			if shape.Given&GivenPort != 0 {
				p.given |= packed(0xffff, 0)
			}
			if shape.Given&GivenVLAN != 0 {
				p.given |= packed(0, 0xffff)
			}
			t.probes[class] = append(t.probes[class], p)
		}
	}
	for i, k := range s.Keys {
		key := [3]uint64{k.Destination[0], k.Destination[1], packed(k.Port, k.VLAN) | shaped(k.Class, k.Prefix, k.Given)}
		at := hash(key[0], key[1], key[2]) & t.mask
		for t.slots[at].used {
			at = (at + 1) & t.mask
		}
		t.slots[at] = slot{key, s.Targets[i], true}
	}
	return t
}

func hash(a, b, c uint64) uint64 {
	const m = 0x9e3779b97f4a7c15
	h := (a ^ bits.RotateLeft64(c, 32)) * m
	h = (h ^ h>>32 ^ b) * m
	return h ^ h>>32
}

// match returns what the most specific rule that matches p leads to.
func (t *table) match(p *packet) (Target, bool) {
	r := &t.last[p.class&(ClassCount-1)]
	rest := packed(p.destinationPort, p.vlan)
	if r.destination != p.destination || r.rest != rest || !r.used {
		target, found := t.look(p)
		*r = recent{p.destination, rest, target, found, true}
	}
	return r.target, r.found
}

// look is match by the table.
func (t *table) look(p *packet) (Target, bool) {
	probes := t.probes[p.class&(ClassCount-1)]
	rest := packed(p.destinationPort, p.vlan)
	for i := range probes {
		q := &probes[i]
		a, b, c := p.destination[0]&q.mask[0], p.destination[1]&q.mask[1], rest&q.given|q.rest
		for at := hash(a, b, c) & t.mask; ; at = (at + 1) & t.mask {
			s := &t.slots[at]
			if !s.used {
				break
			}
			if s.key[0] == a && s.key[1] == b && s.key[2] == c {
				return s.target, true
			}
		}
	}
	return Target{}, false
}
