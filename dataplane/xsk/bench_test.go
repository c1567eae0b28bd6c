package xsk

import (
	"slices"
	"testing"
	"time"
)

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

// BenchmarkOwners drains full RX rings of both kinds of owners, in turns, and reports the
// median nanoseconds a frame and how fast each is in terms of the first.
func BenchmarkOwners(b *testing.B) {
	const ringSize, rounds = 4096, 200
	names := []string{"asavie", "raw"}
	var rigs []*rig
	for _, name := range names {
		rigs = append(rigs, newRigOf(b, kinds[name], 1, 1, 1, ringSize, true))
	}
	nanos := make([][]float64, len(rigs))
	for round := range max(rounds, b.N) {
		for k := range rigs {
			i := (round + k) % len(rigs)
			p := rigs[i].mesh.Ports[0]
			for p.InRing() < ringSize {
				rigs[i].send(b, load(ringSize-p.InRing(), 0))
			}
			nanos[i] = append(nanos[i], drain(p))
		}
	}
	for _, n := range nanos {
		slices.Sort(n)
	}
	for i, name := range names {
		b.Run("owner="+name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // an op would be a whole measurement
			b.ReportMetric(nanos[i][len(nanos[i])/2], "ns/frame")
			b.ReportMetric(nanos[i][len(nanos[i])/10], "p10-ns/frame")
			b.ReportMetric(nanos[0][len(nanos[0])/2]/nanos[i][len(nanos[i])/2], "speed/asavie")
		})
	}
}

// drain empties a port's rings as a worker does and returns the nanoseconds a frame.
func drain(p *Port) float64 {
	var frames [64]Frame
	var positions [1]uint32
	var sum uint64
	total := 0
	start := time.Now()
	for {
		n := p.Receive(frames[:])
		if n == 0 {
			break
		}
		for i := range frames[:n] {
			sum += frames[i].Meta.Hash
		}
		p.Positions(positions[:], nil)
		p.Release()
		total += n
	}
	if sum == 0 {
		panic("frames without a hash")
	}
	return float64(time.Since(start).Nanoseconds()) / float64(total)
}
