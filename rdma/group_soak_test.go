package rdma_test

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma"
)

var (
	seed = flag.Uint64("seed", 1, "of chaos")
	long = flag.Bool("long", os.Getenv("HEADRACE_LONG") != "", "run the long forms")
	soak = flag.Duration("soak", 2*time.Second, "how long the soak test runs rounds")
)

func TestSteadyRoundsDoNotAllocate(t *testing.T) {
	for _, transport := range []string{"tcp"} {
		for _, spin := range []time.Duration{0, time.Millisecond} {
			for _, crossover := range []int{-1, 64} {
				c := newCrowd(t, 3, transport, func(g *rdma.GroupConfig) { g.Spin, g.Crossover = spin, crossover })
				c.joinAll()
				var stop atomic.Bool
				c.each(func(p int, g *rdma.Group) {
					v := make([]byte, 64<<10)
					parts := [][]byte{v[:100], v[:5000], v[:64<<10]}
					round := func() {
						v[0] = 0
						if p == 0 && stop.Load() {
							v[0] = 1
						}
						for _, n := range []int{8, 1024, 64 << 10} {
							if _, err := g.AllReduce(rdma.MaxUint8, v[:n]); err != nil {
								t.Errorf("peer %d: %v", p, err)
								v[0] = 1
								return
							}
						}
						if _, err := g.Exchange(v[:50], parts); err != nil {
							t.Errorf("peer %d: %v", p, err)
						}
					}
					for range 20 { // buffers grow
						round()
					}
					if p != 0 {
						for v[0] == 0 {
							round()
						}
						return
					}
					if n := testing.AllocsPerRun(30, round); n != 0 {
						t.Errorf("spin %v, crossover %d: %v allocations a round", spin, crossover, n)
					}
					stop.Store(true)
					round()
				})
			}
		}
	}
}

// What is open, asleep and resident after many rounds and epochs is what it was after
// a few.
func TestSoak(t *testing.T) {
	c := newCrowd(t, 3, "tcp", nil)
	span := func(d time.Duration) (rounds int) {
		c.joinAll()
		end := time.Now().Add(d)
		c.each(func(p int, g *rdma.Group) {
			v := make([]byte, 32<<10)
			n := 0
			for v[0] == 0 {
				if p == 0 && time.Now().After(end) {
					v[0] = 1
				}
				if _, err := g.AllReduce(rdma.MaxUint8, v); err != nil {
					t.Errorf("peer %d: %v", p, err)
					return
				}
				if _, err := g.Exchange(nil, [][]byte{v, v[:100], v}); err != nil {
					t.Errorf("peer %d: %v", p, err)
					return
				}
				n++
			}
			if p == 0 {
				rounds = n
			}
		})
		return rounds
	}
	churn := func() { // another epoch
		c.hub.isolate(2, true)
		c.join(3)
		c.hub.isolate(2, false)
	}
	span(*soak / 10)
	churn()
	span(*soak / 10)
	goroutines, descriptors, resident := footprint(t)
	rounds := 0
	for range 5 {
		rounds += span(*soak / 6)
		churn()
	}
	rounds += span(*soak / 10)
	var g, d, r int
	for range 50 { // what is closing may take a moment
		if g, d, r = footprint(t); g <= goroutines && d <= descriptors {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("%d rounds: goroutines %d -> %d, descriptors %d -> %d, resident %d -> %d KiB", 2*rounds, goroutines, g, descriptors, d, resident, r)
	if g > goroutines || d > descriptors || r > resident+16<<10 {
		t.Error("something is left behind")
	}
}

func footprint(t *testing.T) (goroutines, descriptors, residentKiB int) {
	t.Helper()
	runtime.GC()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			residentKiB, err = strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return runtime.NumGoroutine(), len(fds), residentKiB
}
