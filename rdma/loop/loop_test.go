package loop_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/loop"
	"github.com/headrace/headrace/rdma/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	for _, delay := range []int{0, 9} {
		for _, sealed := range []bool{false, true} {
			t.Run(fmt.Sprintf("delay=%d/sealed=%v", delay, sealed), func(t *testing.T) {
				meshtest.Run(t, meshtest.Config{
					Sealed: sealed,
					Bytes:  1 << 20,
					Make: func(tb testing.TB, n int) []rdma.Transport {
						tb.Helper()
						net, err := loop.NewNet(loop.Config{Peers: n, Seed: 1, DelayMax: delay})
						if err != nil {
							tb.Fatal(err)
						}
						ts := make([]rdma.Transport, n)
						for p := range ts {
							ts[p] = net.Transport(p)
						}
						return ts
					},
				})
			})
		}
	}
}
