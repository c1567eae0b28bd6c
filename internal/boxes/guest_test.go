package boxes

import (
	"testing"
	"time"

	"github.com/headrace/headrace/internal/guest"
)

// TestGuestRowsOverVerbs runs the tests of TestVerbs… on soft RoCE. The kernel is a
// newer one than that of other guests: receiving needs Linux 6.4.
func TestGuestRowsOverVerbs(t *testing.T) {
	guest.Need(t)
	path, err := binaryOf("rdma")
	if err != nil {
		t.Fatal(err)
	}
	run, most := "^TestVerbs", 25*time.Minute
	if testing.Short() {
		run, most = "^TestVerbsARandomSplit", 5*time.Minute
	}
	guest.Test(t, guest.Suite{
		Config: guest.Config{
			Kernel: "linux-image-6.12-amd64", Sets: []string{"rdma"}, CPUs: 4, MemoryMB: 2048, Timeout: most,
		},
		Packages: []string{"."},
		With:     []string{path},
		Tags:     "rdma",
		Setup:    "wire 4\nexport HEADRACE_BINARY=/work/headrace",
		Run:      run,
	})
}
