package itch

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/fault"
)

// errOrders reports a feed that keeps orders but has no room for any.
var errOrders = errors.New("orders must be 1 or more")

// A book is the orders that a worker knows of one feed, by channel and reference.
//
// It is an open-addressed table in the arena. An order lies within reachMax slots
// behind its home slot, and the home slot keeps how many orders call it home and how
// far they reach. So a lookup ends where they end, a removal frees one slot and moves
// nothing, and neither costs more than reachMax steps whatever references are sent.
//
// forget voids a channel's orders by raising its generation; their slots are freed
// when a new order comes across them.
type book struct {
	slots    []order // homes, then reachMax more so that nothing wraps around
	homes    uint64
	channels []channelOrders
	live     []uint64 // one: orders of all channels
	limit    uint64

	undo   *arena.Undo // nil: nothing is saved
	counts uint64      // round of undo in which live was saved
	kept   []uint64    // by channel: in which its entry was
}

// An order is one slot. Count and reach belong to the slot as a home, the rest to
// the order in it. A change of size is a change of the memory that a feed needs.
type order struct {
	ref     uint64
	tag     uint32 // generation << 2 | side; 0: the slot is free
	channel uint16
	count   uint8 // orders whose home this slot is
	reach   uint8 // they lie in [slot, slot+reach)
	price   uint32
	shares  uint32
}

// channelOrders is a channel's generation, less one, and number of orders.
type channelOrders struct {
	generation uint32
	live       uint32
}

// reachMax bounds a probe. With the table half full, a home whose next 128 slots are
// all in use is a matter of one in 10^10.
const reachMax = 128

// The sides of an order.
const (
	noSide = iota
	buySide
	sellSide
)

// together is how many slots are saved as one run, with those in between.
const together = 3

// slotsPerOrder keeps the table at most half full.
const slotsPerOrder = 2

func newBook(r *arena.Region, undo *arena.Undo, label string, channels, limit int) (*book, error) {
	if limit < 1 {
		return nil, errOrders
	}
	k := &book{homes: uint64(slotsPerOrder * limit), limit: uint64(limit), undo: undo}
	if undo != nil {
		k.kept = make([]uint64, channels)
	}
	var err error
	if k.slots, err = arena.Slice[order](r, label+": orders", slotsPerOrder*limit+reachMax); err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	if k.channels, err = arena.Slice[channelOrders](r, label+": order generations", channels); err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	if k.live, err = arena.Slice[uint64](r, label+": order count", 1); err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	return k, nil
}

func (k *book) home(channel int, ref uint64) int {
	h := (ref ^ uint64(channel)<<48) * 0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	hi, _ := bits.Mul64(h, k.homes)
	return int(hi)
}

// generation returns what tag>>2 is in the channel's orders. It is never 0.
func (k *book) generation(channel int) uint32 {
	return k.channels[channel].generation + 1
}

// find returns the order's slot, or nil.
func (k *book) find(channel int, ref uint64) *order {
	return k.findAt(k.home(channel, ref), k.generation(channel), channel, ref)
}

func (k *book) findAt(h int, generation uint32, channel int, ref uint64) *order {
	near := k.slots[h : h+int(k.slots[h].reach)]
	for i := range near {
		if o := &near[i]; o.ref == ref && o.tag>>2 == generation && o.channel == uint16(channel) {
			return o
		}
	}
	return nil
}

// put adds an order, or replaces the one with the same reference. It returns false if
// there is no room.
func (k *book) put(channel int, ref uint64, side, price, shares uint32) bool {
	generation := k.generation(channel)
	tag := generation<<2 | side
	h := k.home(channel, ref)
	if o := k.findAt(h, generation, channel, ref); o != nil {
		arena.Save(k.undo, o)
		o.tag, o.price, o.shares = tag, price, shares
		return true
	}
	if k.live[0] >= k.limit {
		return false
	}
	near := k.slots[h : h+reachMax]
	for i := range near {
		o := &near[i]
		if o.tag != 0 {
			if o.tag>>2 == k.generation(int(o.channel)) {
				continue
			}
			k.free(o) // of a generation that was forgotten
		}
		if i < together {
			arena.PutSlice(k.undo, near[:i+1])
		} else {
			arena.Put(k.undo, &near[0])
			arena.Put(k.undo, o)
		}
		k.putCounts(channel)
		k.undo.Publish()
		o.ref, o.tag, o.channel, o.price, o.shares = ref, tag, uint16(channel), price, shares
		fault.Point()
		near[0].count++
		near[0].reach = max(near[0].reach, uint8(i+1))
		fault.Point()
		k.live[0]++
		fault.Point()
		k.channels[channel].live++
		return true
	}
	return false
}

// remove takes out an order that find returned.
func (k *book) remove(o *order) {
	k.putCounts(int(o.channel))
	k.free(o) // publishes
	fault.Point()
	k.live[0]--
	fault.Point()
	k.channels[o.channel].live--
}

// putCounts puts the counts into the undo log, mostly once a batch.
func (k *book) putCounts(channel int) {
	if k.undo == nil {
		return
	}
	round := k.undo.Round()
	if k.counts != round {
		k.counts = round
		arena.PutSlice(k.undo, k.live)
	}
	if k.kept[channel] != round {
		k.kept[channel] = round
		arena.Put(k.undo, &k.channels[channel])
	}
}

// free empties a slot and tells the home of the order that was in it.
func (k *book) free(o *order) {
	h := &k.slots[k.home(int(o.channel), o.ref)]
	arena.Put(k.undo, o)
	if h != o {
		arena.Put(k.undo, h)
	}
	k.undo.Publish()
	o.tag = 0
	fault.Point()
	h.count--
	if h.count == 0 {
		h.reach = 0
	}
}

// reduce takes shares off an order and removes it when none are left.
func (k *book) reduce(o *order, shares uint32) {
	if shares >= o.shares {
		k.remove(o)
		return
	}
	arena.Save(k.undo, o)
	o.shares -= shares
}

// forget voids the channel's orders.
func (k *book) forget(channel int) {
	k.putCounts(channel)
	k.undo.Publish()
	c := &k.channels[channel]
	k.live[0] -= uint64(c.live)
	fault.Point()
	c.live = 0
	c.generation++
	if c.generation == 1<<30-1 { // one more would not fit into tag
		c.generation = 0
	}
}
