package proc

import (
	"fmt"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/xsk"
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
	queues   int
	former   []int // of another data plane, in the order of handover.FromBody
}

func (p *parts) take(k *handover.KeptBody, fds []int) {
	p.all = fds
	next := func(n int) []int {
		part := fds[:n:n]
		fds = fds[n:]
		return part
	}
	p.owners, p.memories, p.members, p.regions = next(k.Owners), next(k.Owners), next(k.Members), next(k.Regions)
	p.shared, p.queues = fds[0], fds[1]
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

// adoptOwners takes up the owners' sockets, with what is known of their queues.
func (p *process) adoptOwners() ([]*xsk.Owner, error) {
	r, err := arena.Open(p.parts.queues)
	if err != nil {
		return nil, err
	}
	owners, err := xsk.AdoptOwners(p.start.Layout, p.parts.owners, p.parts.memories, r)
	if err != nil {
		return nil, err
	}
	return owners, r.Complete(xsk.StateVersion)
}
