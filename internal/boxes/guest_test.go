package boxes

import (
	"testing"
	"time"

	"github.com/headrace/headrace/internal/guest"
)

// TestGuestRowsOverVerbs runs the tests of TestVerbs… on soft RoCE. The kernel is a
// newer one than that of other guests: receiving needs Linux 6.4. The short form is for
// every change: one of them, and the conformance suite of verbs beside it.
func TestGuestRowsOverVerbs(t *testing.T) {
	packages, run, most := []string{"."}, "^TestVerbs", 25*time.Minute
	if testing.Short() {
		packages, run, most = append(packages, "../../rdma/verbs"), "^(TestVerbsARandomSplit|TestDevice)", 9*time.Minute
	}
	guest.Test(t, guest.Suite{
		Config: guest.Config{
			Kernel: "linux-image-6.12-amd64", Sets: []string{"rdma"}, CPUs: 4, MemoryMB: 2048, NUMA: true, Timeout: most,
		},
		Packages: packages,
		Headrace: true,
		Tags:     "rdma",
		Setup:    "wire 4\nexport HEADRACE_RDMA_DEVICES=rxe1,rxe2,rxe3,rxe4",
		Run:      run,
	})
}
