package boot

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// A Reason is why a connection was refused.
type Reason string

// The reasons.
const (
	BadCertificate Reason = "bad_certificate" // a key that is not pinned for the peer
	UnknownPeer    Reason = "unknown_peer"    // an id that is not configured
	Version        Reason = "version"         // another version or build
	ConfigDiffers  Reason = "config"          // another configuration
	Token          Reason = "token"           // a join without a good token
	Garbage        Reason = "garbage"         // bytes that are no handshake, or none in time
	Duplicate      Reason = "duplicate"       // replaced by a newer connection
	Replay         Reason = "replay"          // a hello of another connection
)

// Reasons lists all reasons.
func Reasons() []Reason {
	return []Reason{BadCertificate, UnknownPeer, Version, ConfigDiffers, Token, Garbage, Duplicate, Replay}
}

func (r Reason) known() bool { return slices.Contains(Reasons(), r) }

// A RefusedError is the error of a connection that was refused.
type RefusedError struct {
	Reason Reason
	Text   string
	Theirs bool // the other end has refused us
}

// Error says who refused and why.
func (r *RefusedError) Error() string {
	if r.Theirs {
		return fmt.Sprintf("the other end refuses us: %s: %s", r.Reason, r.Text)
	}
	return fmt.Sprintf("refused: %s: %s", r.Reason, r.Text)
}

func refuse(reason Reason, format string, args ...any) *RefusedError {
	return &RefusedError{Reason: reason, Text: fmt.Sprintf(format, args...)}
}

// refusal makes err, of a handshake, a refusal. It is nil at a dialer if the network
// or a listener that went away is to blame; a listener owes nobody that belief.
func refusal(err error, dialer bool) *RefusedError {
	var r *RefusedError
	if errors.As(err, &r) {
		return r
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" { // a TLS alert
		if op.Err.Error() == tls.AlertError(alertBadCertificate).Error() {
			return &RefusedError{Reason: BadCertificate, Text: "our key is not pinned there", Theirs: true}
		}
		return &RefusedError{Reason: Garbage, Text: op.Err.Error(), Theirs: true}
	}
	late := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	switch blameless := op != nil || late || ended; {
	case dialer && blameless:
		return nil
	case late:
		return refuse(Garbage, "no handshake within %v", handshakePatience)
	case ended:
		return refuse(Garbage, "the connection ended within the handshake")
	}
	return refuse(Garbage, "%v", err)
}

// alertBadCertificate is bad_certificate of RFC 8446 §6.
const alertBadCertificate = 42

// logEvery is how often one kind of trouble with one peer is logged.
const logEvery = 10 * time.Second

// A ledger counts refusals and logs each kind of trouble once in a while.
type ledger struct {
	log *slog.Logger

	mu     sync.Mutex
	counts map[Reason]uint64
	peers  map[string]map[Reason]uint64
	muted  map[string]*mute
}

type mute struct {
	until time.Time
	count int
}

func newLedger(log *slog.Logger) *ledger {
	return &ledger{log: log, counts: map[Reason]uint64{}, peers: map[string]map[Reason]uint64{}, muted: map[string]*mute{}}
}

// refused counts and logs r. peer is the peer's id, as far as it is proven or the one
// that we dialed; empty: a stranger.
func (l *ledger) refused(r *RefusedError, peer string, remote net.Addr) {
	l.mu.Lock()
	l.counts[r.Reason]++
	if peer != "" {
		if l.peers[peer] == nil {
			l.peers[peer] = map[Reason]uint64{}
		}
		l.peers[peer][r.Reason]++
	}
	l.mu.Unlock()
	by := "us"
	if r.Theirs {
		by = "the other end"
	}
	l.warn("a connection is refused", string(r.Reason)+by, peer, "peer", peer, "remote", remote, "by", by, "reason", string(r.Reason), "text", r.Text)
}

func (l *ledger) warn(message, kind, peer string, args ...any) {
	l.say(slog.LevelWarn, message, kind, peer, args...)
}

// say logs message unless the same kind of it was logged for peer a short while ago.
func (l *ledger) say(level slog.Level, message, kind, peer string, args ...any) {
	l.mu.Lock()
	key := message + "\x00" + kind + "\x00" + peer // a closed set: messages, reasons, peers
	m := l.muted[key]
	if m == nil {
		m = &mute{}
		l.muted[key] = m
	}
	now := time.Now()
	if now.Before(m.until) {
		m.count++
		l.mu.Unlock()
		return
	}
	suppressed := m.count
	m.until, m.count = now.Add(logEvery), 0
	l.mu.Unlock()
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	l.log.Log(context.Background(), level, message, args...)
}

func (l *ledger) total() map[Reason]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return counts(l.counts)
}

func (l *ledger) of(peer string) map[Reason]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return counts(l.peers[peer])
}

// counts copies m, with a zero for what has not happened.
func counts(m map[Reason]uint64) map[Reason]uint64 {
	all := make(map[Reason]uint64, len(Reasons()))
	for _, r := range Reasons() {
		all[r] = m[r]
	}
	return all
}
