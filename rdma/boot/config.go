package boot

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"
)

// A Peer is a configured box of the group.
type Peer struct {
	ID      string
	Address string // host:port of its listener
	// Pins are the keys by which it is known: one, or during a rotation two.
	Pins []string
}

func (p *Peer) check() error {
	if err := CheckID(p.ID); err != nil {
		return err
	}
	if host, port, err := net.SplitHostPort(p.Address); err != nil || host == "" || port == "" || len(p.Address) > textMax {
		return fmt.Errorf("peer %s: address %q is not host:port", p.ID, p.Address)
	}
	if len(p.Pins) > pinsMax {
		return fmt.Errorf("peer %s: %d pins, limit %d", p.ID, len(p.Pins), pinsMax)
	}
	for _, pin := range p.Pins {
		if err := CheckPin(pin); err != nil {
			return fmt.Errorf("peer %s: %w", p.ID, err)
		}
	}
	return nil
}

// Identity is what peers must have in common; who differs is refused.
type Identity struct {
	// Version is that of what the group's layers say to each other.
	Version uint32
	// ConfigHash is over all settings on which the results depend. The peers' ids
	// are added to it.
	ConfigHash [32]byte
	// Build names the program: other builds may give other bytes for the same row.
	Build string
}

// Config says who the peers are.
type Config struct {
	// Me is our id. Required.
	Me string
	// Peers are all configured peers, us included, in any order. Required.
	Peers []Peer
	// Listen is where to listen; empty: our own address among Peers.
	Listen string
	// Certificate is asked for our key at every handshake. Required.
	Certificate func() (*tls.Certificate, error)
	// Pins is asked for a peer's pins at every handshake, and from time to time for
	// connections that are there. It may be called from several goroutines. Nil: Peers
	// has them.
	Pins func(peer string) []string
	// Join is asked whether a newcomer may join and answers who the peers are; see
	// [Request]. An error's text goes to the newcomer. Nil: nobody joins.
	Join     func(Request) ([]Peer, error)
	Identity Identity
	// Beat is the time between heartbeats. Zero: a fifth of Silence.
	Beat time.Duration
	// Silence is after how long without a byte a peer is not heard. Zero: 1 s. It is
	// at least two beats.
	Silence time.Duration
	// Log is told about connections and refusals. Nil: nobody is.
	Log *slog.Logger

	// What opens sockets; a test has its own.
	listen func(address string) (net.Listener, error)
	dial   func(ctx context.Context, address string) (net.Conn, error)
}

// check makes c complete, or says what is wrong.
func (c *Config) check() (me int, err error) {
	c.Peers = slices.Clone(c.Peers)
	slices.SortFunc(c.Peers, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	if len(c.Peers) > peersMax {
		return 0, fmt.Errorf("%d peers, limit %d", len(c.Peers), peersMax)
	}
	me = -1
	pins := map[string]string{}
	for i := range c.Peers {
		p := &c.Peers[i]
		if err := p.check(); err != nil {
			return 0, err
		}
		if i > 0 && c.Peers[i-1].ID == p.ID {
			return 0, fmt.Errorf("peer %s is configured twice", p.ID)
		}
		for _, pin := range p.Pins {
			if other, ok := pins[pin]; ok && other != p.ID {
				return 0, fmt.Errorf("peers %s and %s have the same pin: every box needs a key of its own", other, p.ID)
			}
			pins[pin] = p.ID
		}
		if p.ID == c.Me {
			me = i
		}
	}
	if me < 0 {
		return 0, fmt.Errorf("%q is not among the peers", c.Me)
	}
	if c.Certificate == nil {
		return 0, errors.New("there is no key: Certificate is missing")
	}
	if len(c.Identity.Build) > textMax {
		return 0, fmt.Errorf("the name of the build has %d bytes, limit %d", len(c.Identity.Build), textMax)
	}
	c.defaults(me)
	if c.Beat <= 0 || c.Silence < 2*c.Beat {
		return 0, fmt.Errorf("silence %v is shorter than two beats of %v", c.Silence, c.Beat)
	}
	return me, c.checkKey()
}

func (c *Config) defaults(me int) {
	c.Listen = cmp.Or(c.Listen, c.Peers[me].Address)
	c.Silence = cmp.Or(c.Silence, time.Second)
	c.Beat = cmp.Or(c.Beat, c.Silence/5)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Pins == nil {
		peers := c.Peers
		c.Pins = func(id string) []string {
			for _, p := range peers {
				if p.ID == id {
					return p.Pins
				}
			}
			return nil
		}
	}
	if c.listen == nil {
		c.listen = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	if c.dial == nil {
		own, _ := netip.ParseAddrPort(c.Listen)
		c.dial = func(ctx context.Context, address string) (net.Conn, error) {
			d := net.Dialer{Timeout: dialPatience, LocalAddr: source(own.Addr(), address)}
			return d.DialContext(ctx, "tcp", address)
		}
	}
}

// source is where a connection to address leaves from: where we listen, so that control
// goes the way that frames go and what cuts the one cuts the other. Nil leaves it to the
// kernel, where either is a name or they are of different kinds.
func source(own netip.Addr, address string) net.Addr {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !own.IsValid() || own.IsUnspecified() || own.Is4() != to.Addr().Is4() || own.Zone() != to.Addr().Zone() {
		return nil
	}
	return &net.TCPAddr{IP: own.AsSlice(), Zone: own.Zone()}
}

// checkKey finds out at the start that nobody will know our key.
func (c *Config) checkKey() error {
	own, err := c.Certificate()
	if err != nil {
		return err
	}
	pin, err := PinOf(own)
	if err != nil {
		return err
	}
	if known := c.Pins(c.Me); len(known) > 0 && !slices.Contains(known, pin) {
		return fmt.Errorf("our key has the pin %s, which is not among those of %s: correct the peers, or take the key that belongs to them", pin, c.Me)
	}
	return nil
}

// hash is what ends compare: the config's hash and who the peers are, in order, for
// messages name peers by number.
func (c *Config) hash() (sum [32]byte) {
	h := sha256.New()
	h.Write(c.Identity.ConfigHash[:])
	for _, p := range c.Peers {
		h.Write(appendText(nil, p.ID))
	}
	h.Sum(sum[:0])
	return sum
}
