package tcp_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/meshtest"
	"github.com/headrace/headrace/rdma/tcp"
)

var home = netip.MustParseAddr("127.0.0.1")

func transports(busy bool) func(tb testing.TB, n int) []rdma.Transport {
	return func(tb testing.TB, n int) []rdma.Transport {
		tb.Helper()
		ts := make([]rdma.Transport, n)
		for p := range ts {
			tr, err := tcp.New(tcp.Config{Listen: home, Busy: busy})
			if err != nil {
				tb.Fatal(err)
			}
			ts[p] = tr
		}
		return ts
	}
}

func TestConformance(t *testing.T) {
	for _, busy := range []bool{false, true} {
		for _, sealed := range []bool{false, true} {
			t.Run(fmt.Sprintf("busy=%v/sealed=%v", busy, sealed), func(t *testing.T) {
				meshtest.Run(t, meshtest.Config{
					Sealed: sealed,
					Make:   transports(busy),
				})
			})
		}
	}
}

func BenchmarkMesh(b *testing.B) {
	for _, busy := range []bool{true, false} {
		b.Run(fmt.Sprintf("busy=%v", busy), func(b *testing.B) {
			meshtest.Bench(b, meshtest.Config{
				Make: transports(busy),
			})
		})
	}
}

// descriptors counts what this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestNoDescriptorIsLeft(t *testing.T) {
	before := 0
	for i := range 3 {
		t.Run("", func(t *testing.T) {
			meshtest.Run(t, meshtest.Config{
				PeersMax: 3,
				Bytes:    1 << 17,
				Make:     transports(false),
			})
		})
		if i == 0 {
			before = descriptors(t) // what the runtime and the tests open once is open
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d after the first run", after, before)
	}
}
