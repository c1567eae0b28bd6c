package loop_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
	"github.com/headrace/headrace/rdma/frame"
	"github.com/headrace/headrace/rdma/loop"
)

// open opens an epoch of all peers of the net from one goroutine.
func open(t *testing.T, c loop.Config) (*loop.Net, []rdma.Mesh) {
	t.Helper()
	c.Alone = true
	n, err := loop.NewNet(c)
	if err != nil {
		t.Fatal(err)
	}
	all := collective.First(c.Peers)
	offers := make([][][]byte, c.Peers)
	for p := range offers {
		if offers[p], err = n.Transport(p).Prepare(7, all); err != nil {
			t.Fatal(err)
		}
	}
	meshes := make([]rdma.Mesh, c.Peers)
	for p := range meshes {
		bell, err := rdma.NewBell()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = bell.Close() })
		codec, err := frame.NewCodec(frame.Config{Me: p, Epoch: 7}, uint32(all))
		if err != nil {
			t.Fatal(err)
		}
		mc := rdma.MeshConfig{Epoch: 7, Me: p, Members: all, Patience: time.Second, Bell: bell, Codec: codec}
		for from := range offers {
			mc.Offers = append(mc.Offers, offers[from][p])
		}
		if meshes[p], err = n.Transport(p).Open(mc); err != nil {
			t.Fatal(err)
		}
	}
	return n, meshes
}

// polls polls a mesh some times and says in words what came.
func polls(m rdma.Mesh, times int) string {
	var said []string
	var events [8]rdma.Event
	for range times {
		for _, ev := range events[:m.Poll(events[:])] {
			if ev.Err != nil {
				said = append(said, ev.Err.Error())
			} else {
				said = append(said, fmt.Sprintf("%d:%s", ev.Peer, ev.Payload))
			}
		}
	}
	return strings.Join(said, ", ")
}

func say(t *testing.T, m rdma.Mesh, to int, text string) {
	t.Helper()
	if m.Send(collective.Of(to), &frame.Header{Kind: frame.Dense}, []byte(text)) == 0 {
		t.Fatalf("%q was not taken for peer %d", text, to)
	}
}

func TestACutHoldsOneDirection(t *testing.T) {
	n, m := open(t, loop.Config{Peers: 2})
	n.Cut(0, 1, true)
	say(t, m[0], 1, "there")
	say(t, m[1], 0, "back")
	if got := polls(m[1], 5); got != "" {
		t.Errorf("through the cut came %q", got)
	}
	if got := polls(m[0], 5); got != "1:back" {
		t.Errorf("the other way came %q", got)
	}
	n.Cut(0, 1, false)
	if got := polls(m[1], 1); got != "0:there" {
		t.Errorf("after the cut came %q", got)
	}
}

func TestFaultsAreToldAtTheRightEnds(t *testing.T) {
	for name, c := range map[string]struct {
		config loop.Config
		before func(n *loop.Net) // the frame is sent
		after  func(n *loop.Net)
		at0    string
		at1    error
	}{
		"fail":    {after: func(n *loop.Net) { n.Fail(0, 1) }, at0: "told to fail", at1: loop.ErrFailed},
		"crash":   {after: func(n *loop.Net) { n.Crash(0) }, at1: loop.ErrClosed},
		"loss":    {config: loop.Config{LossPerMille: 1000}, at0: "lost", at1: loop.ErrLost},
		"corrupt": {before: func(n *loop.Net) { n.Corrupt(0, 1) }, at1: errBadFrame},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.Peers = 3
			n, m := open(t, c.config)
			if c.before != nil {
				c.before(n)
			}
			say(t, m[0], 1, "x")
			if c.after != nil {
				c.after(n)
			}
			var events [8]rdma.Event
			var err error
			for range 3 {
				for _, ev := range events[:m[1].Poll(events[:])] {
					if ev.Err != nil {
						if err != nil {
							t.Errorf("told twice: %v, %v", err, ev.Err)
						}
						err = ev.Err
					}
				}
			}
			if !is(err, c.at1) || !strings.Contains(err.Error(), "peer 0") {
				t.Errorf("peer 1 was told %v, want %v", err, c.at1)
			}
			if got := polls(m[0], 3); !strings.Contains(got, c.at0) {
				t.Errorf("peer 0 was told %q, want %q", got, c.at0)
			}
			if got := polls(m[2], 3); name != "crash" && got != "" {
				t.Errorf("peer 2 was told %q", got)
			}
		})
	}
}

var errBadFrame = errors.New("any reason of package frame")

func is(err, want error) bool {
	if errors.Is(want, errBadFrame) {
		return frame.ReasonName(err) != ""
	}
	return errors.Is(err, want)
}

// story sends frames at random, polls at random, and tells what came in which order.
func story(t *testing.T, seed uint64) string {
	t.Helper()
	n, m := open(t, loop.Config{Peers: 3, Seed: seed, DelayMax: 6})
	rng := rand.New(rand.NewPCG(1, 1)) // the same whatever the seed: only delays differ
	var said []string
	for i := range 400 {
		from := rng.IntN(3)
		to := (from + 1 + rng.IntN(2)) % 3
		m[from].Send(collective.Of(to), &frame.Header{Kind: frame.Dense}, fmt.Appendf(nil, "%d", i))
		who := rng.IntN(3)
		said = append(said, fmt.Sprintf("%d<%s", who, polls(m[who], 1)))
	}
	n.Crash(2)
	for p := range 2 {
		said = append(said, polls(m[p], 20))
	}
	return strings.Join(said, "; ")
}

func TestTheSameSeedIsTheSameRun(t *testing.T) {
	one, again, other := story(t, 1), story(t, 1), story(t, 2)
	if one != again {
		t.Errorf("two runs of one seed:\n%s\n%s", one, again)
	}
	if one == other {
		t.Error("two seeds make the same run")
	}
}

// A frame overtakes one of another peer that was sent before it, never one of its own.
func TestPairsOvertakeEachOther(t *testing.T) {
	overtook := false
	for seed := range uint64(20) {
		_, m := open(t, loop.Config{Peers: 3, Seed: seed, DelayMax: 6})
		for i := range 3 {
			say(t, m[0], 2, fmt.Sprint("a", i))
		}
		for i := range 3 {
			say(t, m[1], 2, fmt.Sprint("b", i))
		}
		got := polls(m[2], 30)
		last := -1
		for _, w := range []string{"0:a0", "0:a1", "0:a2"} {
			at := strings.Index(got, w)
			if at <= last {
				t.Fatalf("seed %d: %q: out of order", seed, got)
			}
			last = at
		}
		overtook = overtook || strings.Index(got, "1:b0") < strings.Index(got, "0:a2")
	}
	if !overtook {
		t.Error("no frame overtook one of another peer in 20 runs")
	}
}

func TestAloneAnOpenDoesNotWait(t *testing.T) {
	n, err := loop.NewNet(loop.Config{Peers: 2, Alone: true})
	if err != nil {
		t.Fatal(err)
	}
	offers, err := n.Transport(0).Prepare(7, 0b11)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = n.Transport(0).Open(rdma.MeshConfig{
		Epoch: 7, Members: 0b11, Patience: time.Hour, Offers: [][]byte{nil, offers[1]},
	})
	if !errors.Is(err, loop.ErrMissing) || time.Since(start) > time.Minute {
		t.Errorf("Open = %v after %v, want %v at once", err, time.Since(start), loop.ErrMissing)
	}
}
