package dataplane

import (
	"sync/atomic"
	"time"
	_ "unsafe" // for go:linkname
)

// A Pin keeps the Go runtime's hands off the thread of a worker that spins. Without it
// the runtime takes the worker off its processor every ten milliseconds, to see whether
// somebody else wants that, at the price of some system calls and a switch of threads.
//
// It needs asyncpreemptoff=1 in GODEBUG too: otherwise the runtime sends a signal.
//
// While a worker is pinned the world cannot be stopped: who is about to do that asks for
// [Pin.Release] first. What throws on a pinned thread, as a panic does, ends the process
// at once and runs no deferred function.
type Pin struct {
	asked    atomic.Bool
	released atomic.Bool
}

//go:linkname procPin runtime.procPin
func procPin() int

//go:linkname procUnpin runtime.procUnpin
func procUnpin()

// pin is called on the worker's thread, which has been locked.
func (p *Pin) pin() {
	if p != nil {
		procPin()
	}
}

// unpin undoes pin.
func (p *Pin) unpin() {
	if p != nil {
		procUnpin()
	}
}

// look lets go for as long as somebody asks for that. The worker calls it once a cycle;
// it costs a load.
func (p *Pin) look() {
	if p == nil || !p.asked.Load() {
		return
	}
	procUnpin()
	p.released.Store(true)
	for p.asked.Load() {
		time.Sleep(releasePause) //nolint:forbidigo // the world is being stopped; nothing is measured here
	}
	p.released.Store(false)
	procPin()
}

// releasePause is how long a worker that was asked to let go sleeps between two looks.
const releasePause = 100 * time.Microsecond

// Release asks the worker to let go and reports whether it has. It is called again until
// that is so, or until who asks gives up. Any thread may call it.
func (p *Pin) Release() bool {
	if p == nil {
		return true
	}
	p.asked.Store(true)
	return p.released.Load()
}

// Resume takes the request back.
func (p *Pin) Resume() {
	if p != nil {
		p.asked.Store(false)
	}
}
