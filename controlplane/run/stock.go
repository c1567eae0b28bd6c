package run

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/handover"
	"github.com/headrace/headrace/dataplane/proc"
	"github.com/headrace/headrace/dataplane/xsk"
)

// A stock is what a data plane is made of and what outlives it: sockets, the memory of
// their frames, and all state of the workers. Control opens it, gives it to one data
// plane after the other and keeps it meanwhile; each data plane in turn keeps it for
// the next control.
//
// While no data plane lives the kernel goes on putting frames into the rings, until
// they are full.
type stock struct {
	body     handover.KeptBody
	owners   []int
	memories []int // of the owners' frames
	members  []int
	regions  []int // by worker
	shared   int   // of all workers
	queues   int   // belongs to the sockets, as the memories do
}

// openStock opens the sockets of l, which receive nothing yet, and makes the memory for
// the workers, empty.
func openStock(l xsk.Layout) (*stock, error) {
	s := &stock{shared: -1, queues: -1}
	if err := s.open(l); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stock) open(l xsk.Layout) error {
	owners, err := xsk.OpenRawOwners(l)
	if err != nil {
		return err
	}
	for _, o := range owners {
		why := ""
		if o.Fallback != nil {
			why = o.Fallback.Error()
		}
		s.owners, s.memories = append(s.owners, o.FD), append(s.memories, o.File)
		s.body.Memory, s.body.Granted = append(s.body.Memory, o.Asked), append(s.body.Granted, o.Granted)
		s.body.ZeroCopy, s.body.Fallback = append(s.body.ZeroCopy, o.ZeroCopy), append(s.body.Fallback, why)
	}
	if s.members, err = xsk.OpenMembers(l, s.owners); err != nil {
		return err
	}
	if s.queues, err = arena.Create("headrace queues", proc.RegionBytes); err != nil {
		return err
	}
	if err := s.makeMemory(l.Workers); err != nil {
		return err
	}
	s.count()
	return nil
}

// makeMemory makes empty regions.
func (s *stock) makeMemory(workers int) (err error) {
	for w := range workers {
		fd, err := arena.Create(fmt.Sprintf("headrace worker %d", w), proc.RegionBytes)
		if err != nil {
			return err
		}
		s.regions = append(s.regions, fd)
	}
	s.shared, err = arena.Create("headrace shared", proc.RegionBytes)
	return err
}

// count describes what there is.
func (s *stock) count() {
	s.body.Owners, s.body.Members, s.body.Regions = len(s.owners), len(s.members), len(s.regions)
}

// stockOf makes a stock of what a message brought, in the order of [handover.KeptBody],
// and returns the descriptors that are not its own.
func stockOf(b *handover.KeptBody, fds []int) (*stock, []int, error) {
	if b.Owners < 1 || b.Members < 0 || b.Regions < 1 || b.Descriptors() > len(fds) ||
		len(b.ZeroCopy) != b.Owners || len(b.Fallback) != b.Owners {
		return nil, fds, handover.ErrPeer
	}
	take := func(n int) []int {
		part := fds[:n:n]
		fds = fds[n:]
		return part
	}
	s := &stock{body: *b}
	s.owners, s.memories, s.members, s.regions = take(b.Owners), take(b.Owners), take(b.Members), take(b.Regions)
	s.shared, s.queues = take(1)[0], take(1)[0]
	return s, fds, nil
}

// descriptors are all of s, in the order of [handover.KeptBody]. They stay s's.
func (s *stock) descriptors() []int {
	var fds []int
	for _, part := range [][]int{s.owners, s.memories, s.members, s.regions, {s.shared, s.queues}} {
		fds = append(fds, part...)
	}
	return fds
}

// close lets go. The queues are free some time after the last process has done so.
func (s *stock) close() {
	if s == nil {
		return
	}
	s.closeMemory()
	closeAll(s.owners)
	closeAll(s.memories)
	closeAll(s.members)
	if s.queues >= 0 {
		_ = unix.Close(s.queues)
	}
	*s = stock{shared: -1, queues: -1}
}

// closeMemory lets go of the workers' memory alone.
func (s *stock) closeMemory() {
	if s == nil {
		return
	}
	closeAll(s.regions)
	if s.shared >= 0 {
		_ = unix.Close(s.shared)
	}
	s.regions, s.shared = nil, -1
}

// yield lets go of what next, which goes on with the sockets, has not taken over.
func (s *stock) yield(next *stock) {
	s.closeMemory()
	for _, fd := range s.members {
		if !slices.Contains(next.members, fd) {
			_ = unix.Close(fd)
		}
	}
	*s = stock{shared: -1, queues: -1}
}
