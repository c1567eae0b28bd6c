package proc

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/headrace/headrace/dataplane"
)

// heapObjects is what the heap holds, dead objects included, without stopping the world.
const heapObjects = "/memory/classes/heap/objects:bytes"

// pins are those of workers that spin. While they are pinned nothing may stop the world:
// so the collector is off altogether, and the main goroutine sees to it that it is not
// needed, or lets it run when it is.
type pins struct {
	list   []dataplane.Pin // by worker; empty: they do not spin
	sample []metrics.Sample
	fuse   uint64
	looked time.Duration
}

// arm turns the collector off, as far as that can be; the heap may grow by fuse.
func (p *pins) arm(workers int, spin bool, fuse uint64) {
	runtime.GC()
	debug.SetGCPercent(-1)
	p.sample = []metrics.Sample{{Name: heapObjects}}
	metrics.Read(p.sample)
	p.fuse = p.sample[0].Value.Uint64() + fuse
	if spin {
		p.list = make([]dataplane.Pin, workers)
		return
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	debug.SetMemoryLimit(int64(m.Sys + fuse))
}

// of returns worker w's pin, nil if it has none.
func (p *pins) of(w int) *dataplane.Pin {
	if len(p.list) == 0 {
		return nil
	}
	return &p.list[w]
}

// collectEvery is how often the heap of a data plane that spins is looked at.
const collectEvery = time.Second

// look collects if the heap has grown beyond its fuse, at now of a monotonic clock.
func (p *pins) look(now time.Duration) {
	if len(p.list) == 0 || now < p.looked+collectEvery {
		return
	}
	p.looked = now
	metrics.Read(p.sample)
	if p.sample[0].Value.Uint64() > p.fuse {
		p.released(runtime.GC)
	}
}

// releasePatience bounds the wait for workers to let go. One that has ended never does,
// and holds nobody up.
const releasePatience = time.Second

// released calls f when every worker has let go of its thread, or will not.
func (p *pins) released(f func()) {
	defer func() {
		for i := range p.list {
			p.list[i].Resume()
		}
	}()
	for end := time.Now().Add(releasePatience); ; time.Sleep(time.Millisecond) { //nolint:forbidigo // the process's main brings the clock
		all := true
		for i := range p.list {
			all = p.list[i].Release() && all
		}
		if all || time.Now().After(end) { //nolint:forbidigo // as above
			break
		}
	}
	f()
}
