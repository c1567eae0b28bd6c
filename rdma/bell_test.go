package rdma_test

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma"
)

func readable(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1
}

func TestABellRingsUntilItIsCleared(t *testing.T) {
	b, err := rdma.NewBell()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 3 {
		if b.Rung() || b.Clear() || readable(b.FD()) || len(b.C()) != 0 {
			t.Fatal("a silent bell rings")
		}
		b.Ring()
		b.Ring()
		if !b.Rung() || !readable(b.FD()) || len(b.C()) != 1 {
			t.Fatal("a bell that was rung is silent")
		}
		if !b.Clear() {
			t.Fatal("Clear found it silent")
		}
	}
}

// A waiter that clears, and then looks, sees whatever a ringer did before it rang.
func TestNoRingIsLost(t *testing.T) {
	b, err := rdma.NewBell()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const ringers, times = 3, 2000
	var mu sync.Mutex
	said, seen := 0, 0
	var wg sync.WaitGroup
	for range ringers {
		wg.Go(func() {
			for range times {
				mu.Lock()
				said++
				mu.Unlock()
				b.Ring()
			}
		})
	}
	for seen < ringers*times {
		p := []unix.PollFd{{Fd: int32(b.FD()), Events: unix.POLLIN}}
		if n, err := unix.Poll(p, 10_000); err == nil && n == 0 {
			t.Fatalf("a ring was lost: %d of %d seen", seen, ringers*times)
		}
		b.Clear()
		mu.Lock()
		seen = said
		mu.Unlock()
	}
	wg.Wait()
	if b.Clear(); readable(b.FD()) {
		t.Error("readable, with nothing to clear")
	}
}
