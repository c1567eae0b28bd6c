package tcp

import (
	"errors"
	"time"
)

// ErrSilent reports a peer whose kernel has not answered for as long as the patience.
var ErrSilent = errors.New("no answer: the peer or the way to it is gone")

// probesMax is how many probes of a closed window may go unanswered: a kernel answers
// one in half a second (net.ipv4.tcp_invalid_ratelimit), and the first come faster.
const probesMax = 2

// lookEvery is after how many Polls the clock is looked at.
const lookEvery = 256

// TCP_USER_TIMEOUT would find a silent cut, but it also ends the connection to a peer
// that is there, answers every probe and does not read for a while; that is no failure.
// So we look ourselves, now and then, for what was sent and nothing at all came back.
// While the peer's window is closed that may take minutes: probes become rare.

// look fails the peers whose kernel is silent.
func (m *Mesh) look() {
	now := time.Now()
	if now.Before(m.nextLook) {
		return
	}
	m.nextLook = now.Add(m.patience / 8)
	for part := m.peers; part != 0; part &= part - 1 {
		c := m.conns[part.Lowest()]
		if c.err != nil || m.info.of(c.fd) != 0 {
			continue
		}
		if m.info.Unacked == 0 && m.info.Probes <= probesMax {
			c.since = time.Time{}
			continue
		}
		heard := now.Add(-time.Duration(m.info.Last_ack_recv) * time.Millisecond)
		switch {
		case c.since.IsZero():
			c.since = now
		case heard.After(c.since):
			c.since = heard
		case now.Sub(c.since) > m.patience:
			c.sendErr, c.err = ErrSilent, ErrSilent
		}
	}
}
