package xsk

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/steer"
)

// fakeOffsets lay out a ring in ordinary memory.
var fakeOffsets = unix.XDPRingOffset{Producer: 0, Consumer: 64, Flags: 128, Desc: 192}

func fakeRing(entries int, entryBytes uint32) ring {
	words := make([]uint64, (192+entries*int(entryBytes))/8) // aligned
	mem := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)
	return ringOver(mem, fakeOffsets, uint32(entries))
}

// A fakeQueue is a queue whose kernel side is played by the test: it takes frames from
// the fill ring and puts them into the workers' RX rings.
type fakeQueue struct {
	sizes  Sizes
	umem   []byte
	refill *refill
	ports  []*Port

	// The kernel's side. Like the real one it publishes its fill ring position late
	// and keeps frames whose RX ring was full.
	fill  uint32
	spare []uint64
	rx    []uint32 // producer positions
}

func newFakeQueue(workers, frames, rxRing, fillRing int) *fakeQueue {
	f := &fakeQueue{sizes: Sizes{FrameSize: 2048, Frames: frames, RxRing: rxRing, FillRing: fillRing}, umem: make([]byte, frames*2048), rx: make([]uint32, workers)}
	f.refill = newRefill(fakeState(workers, rxRing), newProducerRing(fakeRing(fillRing, addressBytes)), 2048, -1)
	for w := range workers {
		p := &Port{worker: w}
		r := fakeRing(rxRing, descBytes)
		if err := f.refill.join(w, &r, uint64(w)+1); err != nil {
			panic(err)
		}
		p.rings = append(p.rings, newRXRing(r, 0, f.umem, f.refill))
		f.ports = append(f.ports, p)
	}
	for i := range frames {
		*f.refill.fill.address(uint32(i)) = uint64(i * 2048)
	}
	f.refill.fill.next = uint32(frames)
	f.refill.fill.publish()
	return f
}

// fakeState is a queue's memory for so many workers, however few frames there are.
func fakeState(workers, rxRing int) queueState {
	q := queueState{head: &queueHead{}}
	for range workers {
		q.lots = append(q.lots, parking{&lotHead{}, make([]uint64, rxRing)})
	}
	return q
}

// alloc takes a free frame as the kernel does.
func (f *fakeQueue) alloc() (uint64, bool) {
	if n := len(f.spare); n > 0 {
		a := f.spare[n-1]
		f.spare = f.spare[:n-1]
		return a, true
	}
	if atomic.LoadUint32(f.refill.fill.producer) == f.fill {
		return 0, false
	}
	a := *f.refill.fill.address(f.fill)
	f.fill++
	return a, true
}

// flush shows how far the kernel has read the fill ring.
func (f *fakeQueue) flush() { atomic.StoreUint32(f.refill.fill.consumer, f.fill) }

// headroom is where the kernel puts a frame in its chunk.
const headroom = unix.XDP_PACKET_HEADROOM

// deliver puts a frame with metadata into ring r of a port, and reports whether there
// was a frame and room for it.
func (f *fakeQueue) deliver(worker int, meta steer.Meta, length, options uint32) bool {
	a, ok := f.alloc()
	if !ok {
		return false
	}
	r := &f.ports[worker].rings[0].ring
	if f.rx[worker]-atomic.LoadUint32(r.consumer) > r.mask {
		f.spare = append(f.spare, a)
		return false
	}
	*(*steer.Meta)(unsafe.Pointer(&f.umem[a+headroom-steer.MetaSize])) = meta
	*r.desc(f.rx[worker]) = unix.XDPDesc{Addr: a + headroom, Len: length, Options: options}
	f.rx[worker]++
	atomic.StoreUint32(r.producer, f.rx[worker])
	return true
}

// whereabouts counts, for every frame, the places that list it: the fill ring, the
// kernel, the RX rings and the parking lots.
func (f *fakeQueue) whereabouts() []int {
	places := make([]int, f.sizes.Frames)
	add := func(a uint64) { places[a/2048]++ }
	for i := f.fill; i != f.refill.fill.next; i++ {
		add(*f.refill.fill.address(i))
	}
	for _, a := range f.spare {
		add(a)
	}
	for w, p := range f.ports {
		r := &p.rings[0]
		for i := r.published; i != f.rx[w]; i++ {
			add(r.desc(i).Addr)
		}
		lot := &f.refill.lots[w]
		for i := lot.Head.Load(); i != lot.Tail.Load(); i++ {
			add(lot.slots[i&uint32(len(lot.slots)-1)])
		}
	}
	return places
}

// good is metadata for a frame of at least 42 bytes and payload bytes.
func good(hash uint64, payload int) steer.Meta {
	return steer.Meta{
		Hash: hash, ReceiveNanos: 1, PayloadOffset: 42, PayloadLength: uint16(payload),
		Group: uint16(hash >> 54), Version: steer.MetaVersion,
	}
}
