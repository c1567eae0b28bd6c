package xsk

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// Bounds of a mesh.
const (
	WorkersMax = 64
	QueuesMax  = 64
)

// An Interface is a NIC that the workers receive from.
type Interface struct {
	Name   string
	Index  int // as in if_nametoindex(3)
	Queues int // receive queues 0 to Queues-1 are used
	// Memory is what the UMEM of each queue is to be of, if Layout.Raw.
	Memory Memory
}

// A Layout says which sockets exist. It is plain data; two processes with the same
// layout agree on every socket's place and size.
type Layout struct {
	Interfaces []Interface
	Workers    int
	// Sizes of each queue's rings and UMEM.
	Sizes Sizes
	// Bind is how the owners are bound.
	Bind Bind
	// Raw says that owners are raw sockets over memory files, which outlive the process
	// that receives ([OpenRaw], [AdoptOwner]). Then worker 0, whom every number of
	// workers has, has all owners: sockets keep their places when the number changes.
	Raw bool
}

// A Socket is one socket of a layout.
type Socket struct {
	// Interface, Queue and Worker are its place; Interface is an index of
	// Layout.Interfaces.
	Interface, Queue, Worker int
	// Name and Index are the interface's.
	Name  string
	Index int
	// Owner says that this is the queue's owner and not a member.
	Owner bool
	// OwnerIndex is the queue's position in Layout.Owners.
	OwnerIndex int
	// Slot is its index in the interface's XSKMAP.
	Slot uint32
	// FD is its descriptor, -1 until assigned.
	FD int
}

// String names the socket's place.
func (s Socket) String() string {
	return fmt.Sprintf("%s queue %d worker %d", s.Name, s.Queue, s.Worker)
}

// Slot returns the index of (queue, worker) in an interface's XSKMAP. The stride is
// constant, so that the number of workers may change under a loaded program.
func Slot(queue, worker int) uint32 { return uint32(queue*WorkersMax + worker) }

// Check returns an error if l cannot be built.
func (l Layout) Check() error {
	if l.Workers < 1 || l.Workers > WorkersMax {
		return fmt.Errorf("xsk: %d workers: 1 to %d are possible", l.Workers, WorkersMax)
	}
	if len(l.Interfaces) == 0 {
		return errors.New("xsk: no interface: name at least one")
	}
	for _, i := range l.Interfaces {
		if i.Queues < 1 || i.Queues > QueuesMax {
			return fmt.Errorf("xsk: %s: %d queues: 1 to %d are possible", i.Name, i.Queues, QueuesMax)
		}
	}
	if err := l.Sizes.check(); err != nil {
		return fmt.Errorf("xsk: %w", err)
	}
	if need := l.Workers*l.Sizes.RxRing + l.Sizes.TxRing; l.Sizes.Frames < need {
		return fmt.Errorf("xsk: %d frames a queue: %d workers with RX rings of %d and a TX ring of %d need at least %d, else one stalled worker starves the others",
			l.Sizes.Frames, l.Workers, l.Sizes.RxRing, l.Sizes.TxRing, need)
	}
	return nil
}

// owner returns the worker who has queue's owner.
func (l Layout) owner(queue int) int {
	if l.Raw {
		return 0
	}
	return queue % l.Workers
}

// Sockets returns every socket of l: by interface, then queue, then worker. Queue q's
// owner is the socket of worker q modulo the number of workers, or of worker 0 if l is
// Raw.
func (l Layout) Sockets() []Socket {
	var out []Socket
	queues := 0
	for i, nic := range l.Interfaces {
		for q := range nic.Queues {
			for w := range l.Workers {
				out = append(out, Socket{
					Interface: i, Queue: q, Worker: w, Name: nic.Name, Index: nic.Index,
					Owner: w == l.owner(q), OwnerIndex: queues, Slot: Slot(q, w), FD: -1,
				})
			}
			queues++
		}
	}
	return out
}

// Owners returns the owners among [Layout.Sockets], one a queue, in their order.
func (l Layout) Owners() []Socket { return l.only(true) }

// Members returns the members among [Layout.Sockets], in their order.
func (l Layout) Members() []Socket { return l.only(false) }

func (l Layout) only(owner bool) []Socket {
	var out []Socket
	for _, s := range l.Sockets() {
		if s.Owner == owner {
			out = append(out, s)
		}
	}
	return out
}

// MembersOf returns those of [Layout.Members] that are worker's.
func (l Layout) MembersOf(worker int) []Socket {
	var out []Socket
	for _, s := range l.Members() {
		if s.Worker == worker {
			out = append(out, s)
		}
	}
	return out
}

// Weave makes descriptors in the order of [Layout.Members] of descriptors by worker,
// each worker's in the order of [Layout.MembersOf], which is the order in which they
// are opened when workers are added. A nil worker's descriptors are -1: a port of
// another worker does not need them.
func (l Layout) Weave(byWorker [][]int) ([]int, error) {
	byWorker = slices.Clone(byWorker)
	var out []int
	for _, s := range l.Members() {
		fd := -1
		if s.Worker >= len(byWorker) {
			return nil, fmt.Errorf("xsk: members of %d workers, the layout has %d", len(byWorker), l.Workers)
		}
		if of := &byWorker[s.Worker]; *of != nil {
			if len(*of) == 0 {
				return nil, fmt.Errorf("xsk: %v: its worker has fewer members than queues", s)
			}
			fd, *of = (*of)[0], (*of)[1:]
		}
		out = append(out, fd)
	}
	for w, left := range byWorker {
		if len(left) > 0 {
			return nil, fmt.Errorf("xsk: worker %d: %d members more than it has places", w, len(left))
		}
	}
	return out, nil
}

// Assign returns l's sockets with their descriptors, those of the owners in the order
// of Owners and those of the members in the order of Members.
func (l Layout) Assign(owners, members []int) ([]Socket, error) {
	sockets := l.Sockets()
	if want := len(l.Owners()); len(owners) != want || len(members) != len(sockets)-want {
		return nil, fmt.Errorf("%d owners and %d members, want %d and %d: both processes must have the same layout",
			len(owners), len(members), want, len(sockets)-want)
	}
	for i := range sockets {
		from := &members
		if sockets[i].Owner {
			from = &owners
		}
		sockets[i].FD = (*from)[0]
		*from = (*from)[1:]
	}
	return sockets, nil
}

// powerOfTwo reports whether n is one.
func powerOfTwo(n int) bool { return n > 0 && n&(n-1) == 0 }

// ceilPowerOfTwo returns the least power of two that is at least n.
func ceilPowerOfTwo(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }
