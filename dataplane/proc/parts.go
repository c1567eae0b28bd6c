package proc

import (
	"fmt"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/handover"
)

// parts are the descriptors of what outlives this process: it was there before us, and
// who comes after us finds it as we leave it. The order is that of [handover.KeptBody].
type parts struct {
	all      []int
	owners   []int
	memories []int
	members  []int
	regions  []int
	shared   int
}

func (p *parts) take(k *handover.KeptBody, fds []int) {
	p.all = fds
	next := func(n int) []int {
		part := fds[:n:n]
		fds = fds[n:]
		return part
	}
	p.owners, p.memories, p.members, p.regions = next(k.Owners), next(k.Owners), next(k.Members), next(k.Regions)
	p.shared = fds[0]
}

// region returns worker w's region, or a new one if nothing outlives us.
func (p *process) region(w int) (*arena.Region, error) {
	if p.start.Kept == nil {
		return arena.New(fmt.Sprintf("headrace worker %d", w), RegionBytes)
	}
	return arena.Open(p.parts.regions[w])
}

// sharedRegion returns the region of what the workers share.
func (p *process) sharedRegion() (*arena.Region, error) {
	if p.start.Kept == nil {
		return arena.New("headrace shared", RegionBytes)
	}
	return arena.Open(p.parts.shared)
}
