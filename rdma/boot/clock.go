package boot

import "time"

// A clock estimates round trip and clock offset to a peer from the stamps of beats, as
// NTP does (RFC 5905 §8 and §10): of the last samples the one with the shortest round
// trip has the smallest error, at most half of that.
type clock struct {
	samples [8]sample
	taken   int
	best    time.Duration // shortest round trip of this connection
}

type sample struct{ rtt, offset time.Duration }

// take adds an exchange: sent at t1 and received at t4 by our clock; received at t2
// and answered at t3 by the peer's. What a stepped clock made impossible is left out.
func (c *clock) take(t1, t2, t3, t4 int64) {
	rtt := time.Duration((t4 - t1) - (t3 - t2))
	if rtt < 0 || t4 < t1 || t3 < t2 || rtt > time.Minute {
		return
	}
	c.samples[c.taken%len(c.samples)] = sample{rtt, time.Duration(((t2 - t1) + (t3 - t4)) / 2)}
	if c.taken == 0 || rtt < c.best {
		c.best = rtt
	}
	c.taken++
}

// now returns the last round trip, the shortest one, and by how much the peer's clock
// is ahead of ours. ok is false if nothing is known yet.
func (c *clock) now() (last, best, offset time.Duration, ok bool) {
	if c.taken == 0 {
		return 0, 0, 0, false
	}
	n := min(c.taken, len(c.samples))
	of := c.samples[0]
	for _, s := range c.samples[1:n] {
		if s.rtt < of.rtt {
			of = s
		}
	}
	return c.samples[(c.taken-1)%len(c.samples)].rtt, c.best, of.offset, true
}
