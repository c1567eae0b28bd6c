package verbs_test

import (
	"testing"
	"time"

	"github.com/headrace/headrace/internal/guest"
)

// TestGuest runs the tests that need devices, on four soft ones and two memory nodes.
func TestGuest(t *testing.T) {
	guest.Test(t, guest.Suite{
		Config:   guest.Config{Sets: []string{"rdma"}, CPUs: 4, MemoryMB: 2048, NUMA: true, Timeout: 15 * time.Minute},
		Packages: []string{"."},
		Tags:     "rdma",
		Setup:    "wire 4\nexport HEADRACE_RDMA_DEVICES=rxe1,rxe2,rxe3,rxe4",
		Run:      "^TestDevice",
	})
}
