package rdma_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/boot"
	"github.com/headrace/headrace/rdma/collective"
)

// The whole of it: control connections with pinned keys, frames over TCP sealed with
// keys from these, and a box that dies.
func TestGroupsOverControlConnectionsWithSealedFrames(t *testing.T) {
	const peers = 3
	var certs [peers]*tls.Certificate
	list := make([]boot.Peer, peers)
	for p := range peers {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		certs[p] = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		pin, err := boot.PinOf(certs[p])
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		list[p] = boot.Peer{ID: fmt.Sprintf("peer%02d", p), Address: l.Addr().String(), Pins: []string{pin}}
		_ = l.Close() // boot listens there in a moment
	}
	var controls [peers]*boot.Mesh
	c := newCrowd(t, peers, "tcp", func(g *rdma.GroupConfig) {
		me := g.Me
		control, err := boot.New(boot.Config{
			Me: g.Names[me], Peers: list, Silence: 500 * time.Millisecond,
			Certificate: func() (*tls.Certificate, error) { return certs[me], nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		controls[me] = control
		t.Cleanup(func() { _ = control.Close() })
		g.Control, g.Period = control, 200*time.Millisecond
		g.Seal = func(peer int, epoch uint64) (send, receive [32]byte, err error) {
			context := binary.LittleEndian.AppendUint64(nil, epoch)
			send, err = control.Key(peer, fmt.Sprintf("EXPERIMENTAL-test-%d-%d", me, peer), context)
			if err == nil {
				receive, err = control.Key(peer, fmt.Sprintf("EXPERIMENTAL-test-%d-%d", peer, me), context)
			}
			return send, receive, err
		}
	})
	c.joinAll()
	c.each(func(p int, g *rdma.Group) {
		for round := 1; round <= 20; round++ {
			if p == 0 && round == 11 { // the lowest, which proposes and measures
				_ = g.Close()
				_ = controls[0].Close()
				return
			}
			again(t, g, func() error {
				o, err := exchange(g, p, peers, round)
				if err == nil {
					rightGathered(t, o, p, round)
				}
				return err
			})
		}
		if e := g.Epoch(); e.Members != 6 || e.Carried != collective.Of(1, 2) {
			t.Errorf("peer %d: %+v, want members and carried 1 2", p, e)
		}
	})
}
