package notify

import (
	"sync"
	"time"
)

// A Pulse tells the watchdog that the service lives, but only while every one of its
// parts gets on: a worker that hangs is found out although the others work.
type Pulse struct {
	socket *Socket
	every  time.Duration // zero: nobody wants to know
	next   time.Duration
	told   []uint64 // each part's count when it was last told
}

// NewPulse returns the pulse of so many parts for a manager that wants a sign of life
// within every: [WatchdogEvery]. The parts count for themselves how far they have got.
func NewPulse(s *Socket, every time.Duration, parts int) *Pulse {
	if s == nil {
		every = 0
	}
	return &Pulse{socket: s, every: every, told: make([]uint64, parts)}
}

// Look is to be called several times within the watchdog's time, with the time on any
// clock that only goes on, and the parts' counts. It tells the watchdog four times
// within its time, provided that every part has got on since it was last told; the first
// time it takes everybody's word. It does not allocate.
func (p *Pulse) Look(now time.Duration, counts []uint64) error {
	if p.every == 0 || now < p.next {
		return nil
	}
	for i, n := range counts {
		if n == p.told[i] && p.next != 0 {
			return nil
		}
	}
	copy(p.told, counts)
	p.next = now + p.every/4
	return p.socket.Watchdog()
}

// busyEvery is how often the watchdog is told during work that is bounded.
const busyEvery = time.Second

// Busy tells the watchdog that the service lives while it does something in one piece,
// until done is called, but no longer than limit.
func (s *Socket) Busy(limit time.Duration) (done func()) {
	if s == nil {
		return func() {}
	}
	end, over := make(chan struct{}), time.After(limit)
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(busyEvery)
		defer tick.Stop()
		for _ = s.Watchdog(); ; {
			select {
			case <-tick.C:
				_ = s.Watchdog() // a manager that does not hear is one that ends us
			case <-over:
				return
			case <-end:
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		close(end)
		wait.Wait()
	})
}
