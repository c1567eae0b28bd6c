package xsk

import "testing"

// BenchmarkPort is the cost of Receive and Release by themselves: rings and UMEM are
// ordinary memory, small enough to stay in the cache, and the kernel's part is not
// counted.
func BenchmarkPort(b *testing.B) {
	const batch = 64
	f := newFakeQueue(1, batch, batch, batch)
	p := f.ports[0]
	var frames [batch]Frame
	for range batch {
		f.deliver(0, good(1, 8), 60, 0)
	}
	f.flush()
	p.Receive(frames[:])
	p.Release()
	b.ReportAllocs()
	r := &p.rings[0]
	for b.Loop() {
		// The kernel delivers the same descriptors again.
		f.fill = f.refill.fill.next
		f.flush()
		f.rx[0] += batch
		*r.producer = f.rx[0]
		if p.Receive(frames[:]) != batch {
			b.Fatal("frames are missing")
		}
		p.Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/frame")
}
