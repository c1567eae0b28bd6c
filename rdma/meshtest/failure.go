//nolint:thelper // these are tests, not steps of one: a failure is where it is
package meshtest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
)

// woken returns how long a peer that parks until done took after f was called, a little
// after it began to: the best of some tries, so that a busy machine does not matter.
func (s *suite) woken(t *testing.T, p *peer, f func(), done func() bool) {
	t.Helper()
	best := s.limit()
	for range 5 {
		asked := make(chan time.Time, 1)
		go func() {
			time.Sleep(3 * time.Millisecond) // likely Park waits by now; it is right either way
			asked <- time.Now()
			f()
		}()
		for end := time.Now().Add(s.limit()); !done(); {
			if time.Now().After(end) {
				t.Fatalf("not woken within %v", s.limit())
			}
			p.mesh.Park(s.limit())
		}
		best = min(best, time.Since(<-asked))
		p.bell.Clear()
	}
	if most := time.Duration(s.Scale) * 200 * time.Millisecond; best > most {
		t.Errorf("Park returned %v after it was woken, want %v at most", best, most)
	}
}

func (s *suite) bell(t *testing.T) {
	g := s.group(t, 2)
	p := g.peers[0]
	s.woken(t, p, p.bell.Ring, p.bell.Rung)
	p.bell.Ring()
	start := time.Now()
	if p.mesh.Park(s.limit()); time.Since(start) > s.limit()/2 {
		t.Errorf("Park took %v with the bell still ringing", time.Since(start))
	}
	if !p.bell.Rung() {
		t.Error("Park has cleared the bell: that is for its owner")
	}
	p.bell.Clear()
	start = time.Now()
	if p.mesh.Park(20 * time.Millisecond); time.Since(start) > s.limit()/2 {
		t.Errorf("Park took %v, was given 20ms", time.Since(start))
	}
}

func (s *suite) frameWakes(t *testing.T) {
	g := s.group(t, 2)
	p := g.peers[0]
	var events [4]rdma.Event
	s.woken(t, p, func() {
		g.peers[1].mesh.Send(collective.Of(0), &frame.Header{Kind: frame.Have}, nil)
	}, func() bool {
		n := p.mesh.Poll(events[:])
		if n > 1 || n == 1 && events[0].Err != nil {
			t.Fatalf("%d events, %v", n, events[0].Err)
		}
		return n == 1
	})
}

// oldEpoch has peer 0 send with the codec of the epoch before.
func (s *suite) oldEpoch(t *testing.T) {
	n := min(3, s.PeersMax)
	ts := s.transports(t, n)
	g := s.prepare(t, ts, 7, collective.First(n))
	g.peers[0].codec = s.codec(t, 0, 6, g.members)
	g.mustOpen(t, ts)
	for i := range 3 {
		g.send(t, 0, collective.Of(1), frame.Header{Kind: frame.Dense}, []byte("late"), unexpected(t))
		g.until(t, "a late frame", func() bool {
			return g.peers[1].codec.Count(frame.ErrEpoch) == uint64(i+1)
		}, unexpected(t))
	}
	if n > 2 {
		g.works(t, 2, 1)
	}
}

// badFrame has peer 0 lie about who it is, or have no key. Peer 1 must fail it, once,
// and nobody else.
func (s *suite) badFrame(t *testing.T) {
	n := min(3, s.PeersMax)
	ts := s.transports(t, n)
	g := s.prepare(t, ts, 7, collective.First(n))
	want := frame.ErrSource
	if s.Sealed {
		want = frame.ErrSeal
		k, err := frame.NewCodec(frame.Config{Epoch: 7, Keys: keys(0, 99)}, uint32(g.members))
		if err != nil {
			t.Fatal(err)
		}
		g.peers[0].codec = k
	} else {
		g.peers[0].codec = s.codec(t, 3, 7, g.members) // it says that it is peer 3
	}
	g.mustOpen(t, ts)
	failures := 0
	see := func(me int, ev *rdma.Event) {
		switch {
		case me == 1 && ev.Peer == 0 && errors.Is(ev.Err, want):
			failures++
		case me == 0 && ev.Peer == 1 && ev.Err != nil: // it may be told that it was cut off
		default:
			t.Fatalf("peer %d: from peer %d: %+v, %v", me, ev.Peer, ev.Header, ev.Err)
		}
	}
	h := frame.Header{Kind: frame.Dense}
	g.send(t, 0, collective.Of(1), h, []byte("trust me"), see)
	g.until(t, "the failure", func() bool { return failures > 0 }, see)
	g.linger(see)
	if c := g.peers[1].codec.Count(want); c != 1 || failures != 1 {
		t.Errorf("%v was counted %d times and told %d times", want, c, failures)
	}
	if taken := g.peers[1].mesh.Send(collective.Of(0), &h, nil); taken != 0 {
		t.Error("a frame for a peer that has failed was taken")
	}
	if n > 2 {
		g.worksBeside(t, 1, 2, see)
		g.worksBeside(t, 2, 1, see)
	}
}

func (s *suite) closes(t *testing.T) {
	n := min(4, s.PeersMax)
	g := s.group(t, n)
	gone := n - 1
	g.works(t, 0, gone)
	start := time.Now()
	if err := g.peers[gone].mesh.Close(); err != nil || time.Since(start) > s.limit() {
		t.Errorf("Close took %v: %v", time.Since(start), err)
	}
	g.peers[gone].mesh = nil
	told := make([]int, n)
	see := func(me int, ev *rdma.Event) {
		if ev.Peer != gone || ev.Err == nil {
			t.Fatalf("peer %d: from peer %d: %+v, %v", me, ev.Peer, ev.Header, ev.Err)
		}
		told[me]++
	}
	big := make([]byte, 5000)
	g.until(t, "the failure at all others", func() bool {
		all := true
		for p := range gone {
			// Whoever sends must neither stop nor be killed by it.
			g.peers[p].mesh.Send(collective.Of(gone), &frame.Header{Kind: frame.Dense}, big)
			all = all && told[p] > 0
		}
		return all
	}, see)
	g.linger(see)
	for p := range gone {
		if told[p] != 1 {
			t.Errorf("peer %d was told %d times", p, told[p])
		}
	}
	if n > 2 {
		g.works(t, 0, 1)
	}
}

// beforeClose reads only when the other end is closed: frames come first. The last of
// them may be lost.
func (s *suite) beforeClose(t *testing.T) {
	g := s.group(t, 2)
	const frames = 5
	reader := g.peers[1]
	g.until(t, "five frames", func() bool {
		b := make([]byte, 100)
		for i := range frames {
			fill(b, 0, 1, i)
			if g.peers[0].mesh.Send(collective.Of(1), &frame.Header{Kind: frame.Dense, Round: uint64(i)}, b) == 0 {
				// A pair with less room: what was taken is what counts.
				break
			}
		}
		return true
	}, unexpected(t))
	_ = g.peers[0].mesh.Close()
	g.peers[0].mesh = nil
	got, failed := 0, false
	see := func(me int, ev *rdma.Event) {
		switch {
		case failed:
			t.Fatalf("after the failure: from peer %d: %+v, %v", ev.Peer, ev.Header, ev.Err)
		case ev.Err != nil:
			failed = true
		default:
			if err := check(ev, me, got, 100, g.epoch); err != nil {
				t.Fatal(err)
			}
			got++
		}
	}
	g.until(t, "the failure", func() bool { return failed }, see)
	g.linger(see)
	t.Logf("%d of %d frames came before the failure", got, frames)
	reader.mesh.Park(time.Millisecond)
}

// prepareTwice takes the first offers back.
func (s *suite) prepareTwice(t *testing.T) {
	n := min(3, s.PeersMax)
	ts := s.transports(t, n)
	old := s.prepare(t, ts, 7, collective.First(n))
	g := s.prepare(t, ts, 8, collective.First(n))
	if err := old.open(ts, collective.Of(0), s.limit())[0]; err == nil {
		t.Error("Open of an epoch that was taken back: no error")
	}
	g.mustOpen(t, ts)
	for p := 1; p < n; p++ {
		g.works(t, 0, p)
		g.works(t, p, 0)
	}
}

// epochs goes through several, with other members. The old mesh is closed before the
// new one is prepared, or after that is open.
func (s *suite) epochs(t *testing.T) {
	n := min(4, s.PeersMax)
	ts := s.transports(t, n)
	var old *group
	for i, members := range []collective.Set{
		collective.First(n), collective.First(n - 1), collective.First(n).Without(0), collective.First(n), 1,
	} {
		if i%2 == 0 && old != nil {
			old.shut()
		}
		g := s.prepare(t, ts, uint64(10+i), members)
		g.mustOpen(t, ts)
		if i%2 == 1 {
			old.shut()
		}
		for from := range members.All {
			for to := range members.Without(from).All {
				g.works(t, from, to)
			}
		}
		old = g
	}
}

// missing opens without the last peer, and without the first.
func (s *suite) missing(t *testing.T) {
	n := min(3, s.PeersMax)
	for _, absent := range []int{n - 1, 0} {
		t.Run(fmt.Sprintf("peer=%d", absent), func(t *testing.T) {
			ts := s.transports(t, n)
			g := s.prepare(t, ts, 7, collective.First(n))
			patience := time.Duration(s.Scale) * 40 * time.Millisecond
			start := time.Now()
			errs := g.open(ts, g.members.Without(absent), patience)
			if took := time.Since(start); took > patience+s.limit() {
				t.Errorf("Open took %v, was given %v", took, patience)
			}
			for p := range g.members.Without(absent).All {
				if errs[p] == nil || !strings.Contains(errs[p].Error(), fmt.Sprintf("peer %d", absent)) {
					t.Errorf("peer %d: Open = %v, want peer %d named", p, errs[p], absent)
				}
			}
			again := s.prepare(t, ts, 8, collective.First(n))
			again.mustOpen(t, ts)
			again.works(t, 0, n-1)
			again.works(t, n-1, 0)
		})
	}
}

// wrongOffers gives peer 1 what is no offer, and one that was made to another.
func (s *suite) wrongOffers(t *testing.T) {
	n := min(3, s.PeersMax)
	wrong := map[string]func(o [][]byte) []byte{
		"nothing":  func([][]byte) []byte { return nil },
		"garbage":  func([][]byte) []byte { return bytes.Repeat([]byte("no offer"), 16) },
		"a stub":   func(o [][]byte) []byte { return o[1][:1] },
		"too much": func(o [][]byte) []byte { return append(bytes.Clone(o[1]), 0) },
	}
	if n > 2 {
		wrong["another peer's"] = func(o [][]byte) []byte { return o[2] }
	}
	for name, offer := range wrong {
		t.Run(name, func(t *testing.T) {
			ts := s.transports(t, n)
			g := s.prepare(t, ts, 7, collective.First(n))
			g.offers[0][1] = offer(g.offers[0])
			errs := g.open(ts, collective.First(2), time.Duration(s.Scale)*40*time.Millisecond)
			if errs[1] == nil {
				t.Error("Open with it: no error")
			}
		})
	}
}
