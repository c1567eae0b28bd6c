//nolint:thelper // these are tests, not steps of one: a failure is where it is
package meshtest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// sizes of payloads, with those at the borders of what a transport may do.
var sizes = []int{0, 1, 8, 13, 1024, 4095, 4096, 4097, 20_000, rdma.FrameMax - 1, rdma.FrameMax}

// everybody sends one frame of each size to everybody, for every number of peers.
func (s *suite) everybody(t *testing.T) {
	for n := 1; n <= s.PeersMax; n++ {
		t.Run(fmt.Sprintf("peers=%d", n), func(t *testing.T) {
			g := s.group(t, n)
			var next [collective.PeersMax][collective.PeersMax]int // frames that came, to and from
			got, want := 0, 0
			see := func(me int, ev *rdma.Event) {
				i := &next[me][ev.Peer]
				if err := check(ev, me, *i, sizes[*i], g.epoch); err != nil {
					t.Fatal(err)
				}
				*i++
				got++
			}
			for i, size := range sizes {
				for from := range n {
					for to := range g.members.Without(from).All {
						b := make([]byte, size)
						fill(b, from, to, i)
						g.send(t, from, collective.Of(to), frame.Header{Kind: frame.Sparse, Round: uint64(i)}, b, see)
						want++
					}
				}
			}
			g.until(t, "all frames", func() bool { return got == want }, see)
			if n == 1 {
				if taken := g.peers[0].mesh.Send(1, &frame.Header{Kind: frame.Dense}, nil); taken != 0 {
					t.Errorf("to itself: taken for %b", taken)
				}
				g.peers[0].mesh.Park(time.Millisecond)
			}
		})
	}
}

// order sends many frames of mixed sizes both ways at once.
func (s *suite) order(t *testing.T) {
	g := s.group(t, 2)
	const frames = 400
	size := func(i int) int { return i * i * 31 % (9 << 10) }
	var sent, got [2]int
	buf := make([]byte, rdma.FrameMax)
	g.until(t, "all frames", func() bool {
		for from, p := range g.peers {
			for ; sent[from] < frames; sent[from]++ {
				i := sent[from]
				b := buf[:size(i)]
				fill(b, from, 1-from, i)
				h := frame.Header{Kind: frame.Dense, Op: 5, Round: uint64(i), Total: 1 << 50, Offset: uint64(i) << 40}
				if p.mesh.Send(collective.Of(1-from), &h, b) == 0 {
					break
				}
			}
		}
		return got == [2]int{frames, frames}
	}, func(me int, ev *rdma.Event) {
		i := got[me]
		if err := check(ev, me, i, size(i), g.epoch); err != nil {
			t.Fatal(err)
		}
		if h := ev.Header; h.Kind != frame.Dense || h.Op != 5 || h.Total != 1<<50 || h.Offset != uint64(i)<<40 || int(h.Dest) != me {
			t.Fatalf("peer %d: frame %d: %+v is not what was sent", me, i, h)
		}
		got[me]++
	})
}

// fan sends the same frame to all, as a round does.
func (s *suite) fan(t *testing.T) {
	n := s.PeersMax
	g := s.group(t, n)
	for _, size := range []int{8, 1024, rdma.FrameMax} {
		b := make([]byte, size)
		for round := range 20 {
			got := 0
			see := func(_ int, ev *rdma.Event) {
				if err := check(ev, 99, round, size, g.epoch); err != nil {
					t.Fatal(err)
				}
				got++
			}
			for p := range n {
				fill(b, p, 99, round)
				h := frame.Header{Kind: frame.Dense, Dest: frame.AnyDest, Round: uint64(round)}
				g.send(t, p, g.members.Without(p), h, b, see)
			} // b is filled anew at once: it is ours again
			clear(b)
			g.until(t, "the round", func() bool { return got == n*(n-1) }, see)
		}
	}
}

// slowReader sends until nothing is taken any more; all of it must arrive, and the
// others are served meanwhile.
func (s *suite) slowReader(t *testing.T) {
	n := min(3, s.PeersMax)
	g := s.group(t, n)
	slow := g.peers[1].mesh
	g.peers[1].mesh = nil // so that nobody polls it
	sent, got := 0, 0
	buf := make([]byte, rdma.FrameMax)
	end := time.Now().Add(s.limit())
	for refused := 0; refused < 20; {
		if time.Now().After(end) || sent > 1<<14 {
			t.Fatalf("%d frames were taken for a peer that does not read", sent)
		}
		fill(buf, 0, 1, sent)
		if g.peers[0].mesh.Send(collective.Of(1), &frame.Header{Kind: frame.Sparse, Round: uint64(sent)}, buf) != 0 {
			sent, refused = sent+1, 0
			continue
		}
		refused++
		g.poll(unexpected(t))
		time.Sleep(time.Millisecond)
	}
	if sent == 0 {
		t.Fatal("not one frame was taken")
	}
	if n > 2 {
		g.works(t, 0, 2)
		g.works(t, 2, 0)
	}
	g.peers[1].mesh = slow
	g.until(t, "what was taken", func() bool { return got == sent }, func(me int, ev *rdma.Event) {
		if me != 1 {
			unexpected(t)(me, ev)
		}
		if err := check(ev, 1, got, rdma.FrameMax, g.epoch); err != nil {
			t.Fatal(err)
		}
		got++
	})
	t.Logf("%d frames of 64 KiB were on the way", sent)
}

// writeFirst has every peer, in a goroutine of its own, read only when it has no room.
func (s *suite) writeFirst(t *testing.T) {
	n := min(3, s.PeersMax)
	g := s.group(t, n)
	frames := (s.Bytes + rdma.FrameMax - 1) / rdma.FrameMax
	errs := make([]error, n)
	var wg, all sync.WaitGroup
	all.Add(n)
	for _, p := range g.peers {
		wg.Go(func() {
			w := &writer{peer: p, g: g, frames: frames, end: time.Now().Add(3 * s.limit())}
			errs[p.me] = w.run()
			all.Done()
			// What the last frames still need is a Poll now and then.
			for w.polling(&all) {
				p.mesh.Poll(nil)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// writer is a peer that sends frames to all others and gets as many from each.
type writer struct {
	*peer
	g         *group
	frames    int
	end       time.Time
	sent, got [collective.PeersMax]int
	finished  chan struct{}
}

// polling reports that not all are done yet, at intervals.
func (w *writer) polling(all *sync.WaitGroup) bool {
	if w.finished == nil {
		w.finished = make(chan struct{})
		go func() { all.Wait(); close(w.finished) }()
	}
	select {
	case <-w.finished:
		return false
	case <-time.After(100 * time.Microsecond):
		return true
	}
}

func (w *writer) run() error {
	var events [4]rdma.Event
	buf := make([]byte, rdma.FrameMax)
	for !w.write(buf) {
		k := w.mesh.Poll(events[:])
		for i := range k {
			ev := &events[i]
			if err := check(ev, w.me, w.got[ev.Peer], rdma.FrameMax, w.g.epoch); err != nil {
				return err
			}
			w.got[ev.Peer]++
		}
		if time.Now().After(w.end) {
			return fmt.Errorf("peer %d: stuck: sent %v, got %v, of %d each", w.me, w.sent, w.got, w.frames)
		}
		if k == 0 {
			w.mesh.Park(time.Second)
		}
	}
	return nil
}

// write sends what is taken, and reports that all was sent and got.
func (w *writer) write(buf []byte) (done bool) {
	done = true
	for to := range w.g.members.Without(w.me).All {
		for ; w.sent[to] < w.frames; w.sent[to]++ {
			fill(buf, w.me, to, w.sent[to])
			h := frame.Header{Kind: frame.Sparse, Round: uint64(w.sent[to])}
			if w.mesh.Send(collective.Of(to), &h, buf) == 0 {
				break
			}
		}
		done = done && w.sent[to] == w.frames && w.got[to] == w.frames
	}
	return done
}

// allocations counts them over rounds of two peers.
func (s *suite) allocations(t *testing.T) {
	if s.Allocates {
		t.Skip("this transport may allocate")
	}
	for _, size := range []int{8, 1024, rdma.FrameMax} {
		g := s.group(t, 2)
		r := &rounds{g: g, events: make([]rdma.Event, 4), payload: make([]byte, size)}
		for range 20 {
			r.round() // what grows has grown
		}
		if a := testing.AllocsPerRun(100, r.round); a != 0 || r.err != nil {
			t.Errorf("%d bytes: %v allocations a round, %v", size, a, r.err)
		}
	}
}

// rounds sends a frame there and one back, all from one goroutine.
type rounds struct {
	g       *group
	events  []rdma.Event
	payload []byte
	h       frame.Header
	err     error
}

func (r *rounds) round() {
	for me, p := range r.g.peers {
		to := r.g.peers[1-me]
		r.h.Kind = frame.Dense
		for p.mesh.Send(collective.Of(to.me), &r.h, r.payload) == 0 {
			p.mesh.Poll(nil)
		}
		got := 0
		for got == 0 {
			p.mesh.Poll(nil) // goes on with what has been taken
			if got = to.mesh.Poll(r.events); got == 0 {
				to.mesh.Park(20 * time.Microsecond)
			}
		}
		if r.events[0].Err != nil || got > 1 {
			r.err = fmt.Errorf("%d events: %w", got, r.events[0].Err)
		}
	}
}
