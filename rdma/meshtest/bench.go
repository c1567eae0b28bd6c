package meshtest

import (
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// Bench measures the time of a frame there and one back between two peers (pingpong),
// of both sending at once, which is a round of a group of two (exchange), and of a frame
// among many that go one way (stream). Each peer is a thread with a core of its own
// where there are two. The low quantile is what a quiet machine does.
func Bench(b *testing.B, c Config) {
	b.Helper()
	c.Scale = max(c.Scale, 1)
	s := &suite{Config: c}
	for _, kind := range []string{"pingpong", "exchange", "stream"} {
		for _, size := range []int{8, 1024, 16 << 10, 32 << 10, rdma.FrameMax} {
			b.Run(fmt.Sprintf("%s/bytes=%d", kind, size), func(b *testing.B) { s.bench(b, kind, size) })
		}
	}
}

func (s *suite) bench(b *testing.B, kind string, size int) {
	b.Helper()
	g := s.group(b, 2)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer pin(1)()
		e := end{peer: g.peers[1], payload: make([]byte, size)}
		for !stop.Load() {
			if kind == "exchange" {
				e.send()
			}
			if !e.receive(&stop) {
				return
			}
			if kind == "pingpong" {
				e.send()
			}
		}
	}()
	defer pin(0)()
	e := end{peer: g.peers[0], payload: make([]byte, size)}
	turn := func() {
		e.send()
		if kind != "stream" {
			e.receive(nil)
		}
	}
	for range 200 {
		turn()
	}
	times := make([]time.Duration, 0, 1<<16)
	b.ReportAllocs()
	b.SetBytes(int64(size))
	for b.Loop() {
		start := time.Now()
		turn()
		if len(times) < cap(times) {
			times = append(times, time.Since(start))
		}
	}
	b.StopTimer()
	slices.Sort(times)
	for _, q := range []int{10, 50, 99} {
		b.ReportMetric(float64(times[len(times)*q/100]), fmt.Sprintf("p%d-ns", q))
	}
	stop.Store(true)
	g.peers[1].bell.Ring()
	<-done
}

// pin keeps the goroutine on one core, and returns what undoes it.
func pin(core int) func() {
	runtime.LockOSThread()
	var old, set unix.CPUSet
	if unix.SchedGetaffinity(0, &old) != nil || runtime.NumCPU() < 2 {
		return runtime.UnlockOSThread
	}
	for i, n := 0, -1; i < len(set)*64; i++ {
		if old.IsSet(i) {
			if n++; n == core {
				set.Set(i)
			}
		}
	}
	_ = unix.SchedSetaffinity(0, &set)
	return func() {
		_ = unix.SchedSetaffinity(0, &old)
		runtime.UnlockOSThread()
	}
}

// end is one side of the benchmark.
type end struct {
	*peer
	payload []byte
	h       frame.Header
	events  [4]rdma.Event
	early   int // frames that came while we had no room
}

func (e *end) send() {
	e.h.Kind = frame.Dense
	for e.mesh.Send(collective.Of(1-e.me), &e.h, e.payload) == 0 {
		e.early += e.mesh.Poll(e.events[:])
	}
}

// receive takes one frame, and reports false if the other end is gone.
func (e *end) receive(stop *atomic.Bool) bool {
	if e.early > 0 {
		e.early--
		return true
	}
	for {
		n := e.mesh.Poll(e.events[:])
		switch {
		case n > 0 && e.events[0].Err != nil:
			return false
		case n > 0:
			e.early += n - 1
			return true
		case stop != nil && stop.Load():
			return false
		}
		e.mesh.Park(time.Second)
	}
}
