package tcp_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/meshtest"
	"github.com/headrace/headrace/rdma/tcp"
)

var home = netip.MustParseAddr("127.0.0.1")

func transports(t testing.TB, n int, busy bool) []rdma.Transport {
	t.Helper()
	ts := make([]rdma.Transport, n)
	for p := range ts {
		tr, err := tcp.New(tcp.Config{Listen: home, Busy: busy})
		if err != nil {
			t.Fatal(err)
		}
		ts[p] = tr
	}
	return ts
}

func TestConformance(t *testing.T) {
	for _, busy := range []bool{false, true} {
		for _, sealed := range []bool{false, true} {
			t.Run(fmt.Sprintf("busy=%v/sealed=%v", busy, sealed), func(t *testing.T) {
				meshtest.Run(t, meshtest.Config{
					Sealed: sealed,
					Make:   func(t testing.TB, n int) []rdma.Transport { return transports(t, n, busy) },
				})
			})
		}
	}
}
