package deliver

import (
	"testing"
	"time"

	"github.com/headrace/headrace/internal/guest"
)

// The tests of the transport verbs, on two soft devices.
func TestGuestDeliver(t *testing.T) {
	guest.Test(t, guest.Suite{
		Config:   guest.Config{Sets: []string{"rdma"}, CPUs: 2, Timeout: 6 * time.Minute},
		Packages: []string{"."}, Tags: "rdma", Setup: "wire 2\nexport HEADRACE_RDMA_DEVICES=rxe1,rxe2", Run: "^TestDevice",
	})
}
