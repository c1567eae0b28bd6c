package boot

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// A Request is a newcomer's wish to join. Its key is proven to be its own by the TLS
// handshake; that it may join is for the token to prove.
type Request struct {
	ID, Address string
	Pin         string
	Token       string
}

// answerJoin answers a newcomer.
func (m *Mesh) answerJoin(conn *tls.Conn) error {
	if m.c.Join == nil {
		return refuse(Token, "nobody can join here")
	}
	k, body, err := readFrame(conn, helloMax)
	if err != nil {
		return err
	}
	if k != kindJoin {
		return refuse(Garbage, "kind %d instead of a join", k)
	}
	j, err := decodeJoin(body)
	if err != nil {
		return err
	}
	state := conn.ConnectionState()
	want, err := proof(&state, j.id)
	if err != nil {
		return err
	}
	if j.wire != wireVersion {
		return refuse(Version, "the newcomer speaks version %d, we %d", j.wire, wireVersion)
	}
	if j.proof != want {
		return refuse(Replay, "the join belongs to another connection")
	}
	r := Request{ID: j.id, Address: j.address, Token: j.token, Pin: Pin(state.PeerCertificates[0])}
	if err := (&Peer{ID: r.ID, Address: r.Address}).check(); err != nil {
		return refuse(UnknownPeer, "%v", err)
	}
	peers, err := m.c.Join(r)
	if err != nil {
		return refuse(Token, "%v", err)
	}
	_, err = conn.Write(appendFrame(nil, kindWelcome, encodePeers(peers)))
	if err == nil {
		m.c.Log.Info("a peer has joined", "peer", r.ID, "address", r.Address, "pin", r.Pin)
	}
	return err
}

// Join asks the peer at address, whose key must have the given pin, to take us in, and
// returns all peers that it knows. A refusal is a [*RefusedError].
func Join(ctx context.Context, address, pin string, certificate *tls.Certificate, r Request) ([]Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*handshakePatience)
	defer cancel()
	d := net.Dialer{Timeout: handshakePatience}
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("boot: %w", err)
	}
	defer raw.Close() //nolint:errcheck // nothing is lost with it
	deadline, _ := ctx.Deadline()
	_ = raw.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Now()) })()
	own := func() (*tls.Certificate, error) { return certificate, nil }
	conn := tls.Client(raw, PinnedTLS(own, func(got, _ string) error {
		if got != pin {
			return refuse(BadCertificate, "who answers at %s has key %s, not %s of the token", address, got, pin)
		}
		return nil
	}, protocolJoin))
	peers, err := askJoin(ctx, conn, r)
	if err != nil {
		return nil, fmt.Errorf("boot: %w", err)
	}
	return peers, nil
}

func askJoin(ctx context.Context, conn *tls.Conn, r Request) ([]Peer, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != protocolJoin {
		return nil, refuse(Garbage, "who answers does not know joins")
	}
	if len(r.Token) > tokenMax || len(r.Address) > textMax || len(r.ID) > idMax {
		return nil, refuse(Token, "the token, the address or the id is too long")
	}
	j := join{wire: wireVersion, token: r.Token, id: r.ID, address: r.Address}
	var err error
	if j.proof, err = proof(&state, j.id); err != nil {
		return nil, err
	}
	if _, err := conn.Write(appendFrame(nil, kindJoin, j.encode())); err != nil {
		return nil, err
	}
	k, body, err := readFrame(conn, 64<<10)
	switch {
	case err != nil:
		return nil, err
	case k == kindRefuse:
		return nil, refusedBy(body)
	case k != kindWelcome:
		return nil, refuse(Garbage, "kind %d is no answer to a join", k)
	}
	return decodePeers(body)
}
