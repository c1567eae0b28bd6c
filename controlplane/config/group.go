package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PeersMax bounds the boxes of a group.
const PeersMax = 16

const (
	periodLeast, periodMost = 10 * time.Millisecond, time.Minute
	maxWaitMost             = time.Hour
	keepLeast               = 1 << 20
	idAllowed               = "ids have 1 to 32 of a to z, 0 to 9 and -"
)

var (
	idForm   = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	hostForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	notID    = regexp.MustCompile(`[^a-z0-9-]+`)
)

// IDs returns the ids of all peers, sorted.
func (g *Group) IDs() []string {
	ids := make([]string, len(g.Peers))
	for i := range g.Peers {
		ids[i] = g.Peers[i].ID
	}
	slices.Sort(ids)
	return ids
}

// checkGroup judges what the group's section alone can tell.
func (c *Config) checkGroup() {
	g := c.Group
	c.checkPeers()
	whole := !c.Bad("group", "peers")
	ids := slices.DeleteFunc(slices.Compact(g.IDs()), func(id string) bool { return !idForm.MatchString(id) })
	for _, one := range []struct{ field, id string }{{"me", g.Me}, {"tie_breaker", g.TieBreaker}} {
		if one.id == "" || c.Bad("group", one.field) || !whole || contains(ids, one.id) {
			continue
		}
		c.Report(c.Pos("group", one.field), fmt.Sprintf("there is no peer %q", clip(one.id)), "the peers are "+strings.Join(ids, ", "), Nearest(one.id, ids))
	}
	c.checkGroupTimes()
	if !c.Bad("group", "keep") && g.Keep < keepLeast {
		c.Report(c.Pos("group", "keep"), fmt.Sprintf("keep is %d bytes", g.Keep), "at least 1MiB", "1MiB")
	}
	if g.Device != "" && g.Transport == "tcp" && !c.Bad("group", "transport") {
		c.Report(c.KeyPos("group", "device"), "device goes with transport verbs or auto", "take it out, or choose another transport", "")
	}
	switch {
	case g.TieBreaker == "" || !whole:
	case g.AllowSolo:
		c.Report(c.KeyPos("group", "tie_breaker"), "tie_breaker and allow_solo contradict each other", "with allow_solo every box goes on alone: keep one of them", "")
	case len(g.Peers)%2 != 0:
		c.Report(c.KeyPos("group", "tie_breaker"), fmt.Sprintf("%d peers need no tie_breaker", len(g.Peers)), "an odd number has no two halves: take it out", "")
	}
}

func (c *Config) checkGroupTimes() {
	g := c.Group
	if d := g.Period.D(); !c.Bad("group", "period") && (d < periodLeast || d > periodMost) {
		fix := FormatDuration(min(max(d, periodLeast), periodMost))
		c.Report(c.Pos("group", "period"), fmt.Sprintf("period is %s", FormatDuration(d)), "from 10ms to 1m", fix)
	}
	if d := g.MaxWait.D(); !c.Bad("group", "max_wait") && d > maxWaitMost {
		c.Report(c.Pos("group", "max_wait"), fmt.Sprintf("max_wait is %s", FormatDuration(d)), "at most 1h", "1h")
	}
	if g.CorrectFor > 0 && g.CorrectFor < g.MaxWait && !c.Bad("group", "correct_for") && !c.Bad("group", "max_wait") {
		c.Report(c.Pos("group", "correct_for"), fmt.Sprintf("correct_for %s is less than max_wait %s", FormatDuration(g.CorrectFor.D()), FormatDuration(g.MaxWait.D())),
			"what a peer that was waited for brings late would be thrown away: write more, or 0 for no corrections", "")
	}
}

func (c *Config) checkPeers() {
	peers := c.Group.Peers
	if len(peers) > PeersMax {
		c.Report(c.Pos("group", "peers", strconv.Itoa(PeersMax)), fmt.Sprintf("there are %d peers", len(peers)), fmt.Sprintf("at most %d", PeersMax), "")
	}
	ids, addresses, pins := map[string]int{}, map[string]string{}, map[string]string{}
	for i := range peers {
		p, step := &peers[i], strconv.Itoa(i)
		if c.Bad("group", "peers") {
			return // numbers of those that could not be read are wrong
		}
		at := func(field string) Pos { return c.Pos("group", "peers", step, field) }
		line := c.Pos("group", "peers", step).Line
		if first, twice := ids[p.ID]; twice {
			c.Report(at("id"), fmt.Sprintf("peer %q is given twice", clip(p.ID)), fmt.Sprintf("the first is on line %d: ids differ", first), "")
		} else if !idForm.MatchString(p.ID) {
			fix := strings.Trim(notID.ReplaceAllString(strings.ToLower(p.ID), "-"), "-")
			if !idForm.MatchString(fix) {
				fix = ""
			}
			c.Report(at("id"), fmt.Sprintf("%q cannot name a peer", clip(p.ID)), idAllowed, fix)
		} else {
			ids[p.ID] = line
		}
		if message, allowed, fix := addressProblem(p.Address); message != "" {
			c.Report(at("address"), message, allowed, fix)
		} else if other, twice := addresses[p.Address]; twice {
			c.Report(at("address"), fmt.Sprintf("peers %s and %s have the same address", clip(other), clip(p.ID)), "each has an address of its own, or a port", "")
		} else {
			addresses[p.Address] = p.ID
		}
		for _, pin := range p.Pin {
			if other, twice := pins[pin]; twice {
				c.Report(at("pin"), fmt.Sprintf("peers %s and %s have the same pin", clip(other), clip(p.ID)), "each box has a key of its own: headrace group init makes it", "")
				continue
			}
			pins[pin] = p.ID
		}
	}
}

// CheckPeer reports what is wrong with a peer's id or address; an address that is empty
// is not looked at.
func CheckPeer(id, address string) error {
	if !idForm.MatchString(id) {
		return fmt.Errorf("%q cannot name a peer: %s", clip(id), idAllowed)
	}
	if address == "" {
		return nil
	}
	if message, allowed, _ := addressProblem(address); message != "" {
		return fmt.Errorf("%s: %s", message, allowed)
	}
	return nil
}

// addressProblem says what is wrong with the address of a peer: it must be one that
// the others can reach.
func addressProblem(text string) (message, allowed, fix string) {
	const form = "write a host and a port, such as 10.0.0.1:7400 or [fd00::1]:7400"
	message = fmt.Sprintf("address %q is no host and port", clip(text))
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		return message, form, ""
	}
	host, port := text[:at], text[at+1:]
	inner, bracket := strings.CutPrefix(host, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	addr, err := netip.ParseAddr(inner)
	n, bad := strconv.ParseUint(port, 10, 16)
	switch {
	case bracket != closed, bad != nil, n == 0:
		if whole, err := netip.ParseAddr(text); err == nil && whole.Is6() {
			message = fmt.Sprintf("address %q has no port", clip(text))
		}
		return message, form, ""
	case err == nil && bracket && !addr.Is6():
		return message, form, inner + ":" + port
	case err == nil && !bracket && addr.Is6():
		return message, form, "[" + inner + "]:" + port
	case err == nil && addr.IsUnspecified():
		return fmt.Sprintf("nobody reaches a box at %s", inner), "write the address that the other boxes use", ""
	case err == nil && addr.IsMulticast():
		return fmt.Sprintf("%s is a multicast group", inner), "write the box's own address", ""
	case err != nil && (bracket || !hostForm.MatchString(host)):
		return message, form, ""
	}
	return "", "", ""
}
