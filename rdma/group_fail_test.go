package rdma_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/rdma"
	"github.com/headrace/headrace/rdma/collective"
)

// again runs rounds of f until one counts, through changes of epoch.
func again(tb testing.TB, g *rdma.Group, f func() error) bool {
	tb.Helper()
	until := time.Now().Add(20 * time.Second)
	for time.Now().Before(until) {
		err := f()
		switch {
		case err == nil:
			return true
		case errors.Is(err, rdma.ErrAgain), errors.Is(err, rdma.ErrNoEpoch):
			g.Wait(20 * time.Millisecond)
		default:
			tb.Errorf("%v", err)
			return false
		}
	}
	tb.Errorf("no round counted for 20 s: %+v", g.State())
	return false
}

func TestSurvivorsGoOnWithoutAMemberThatVanishes(t *testing.T) {
	for _, transport := range transportNames {
		for _, sparse := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/sparse=%v", transport, sparse), func(t *testing.T) {
				c := newCrowd(t, 4, transport, func(g *rdma.GroupConfig) { g.Crossover = 1 << 10 })
				c.joinAll()
				var mu sync.Mutex
				seen := map[string]string{} // the outcome of a round of an epoch: the same at all
				c.each(func(p int, g *rdma.Group) {
					for round := 1; round <= 60; round++ {
						if p == 3 && round == 25 {
							c.hub.isolate(3, true)
							_ = g.Close()
							return
						}
						if !again(t, g, func() error {
							if sparse {
								o, err := exchange(g, p, 4, round)
								if err == nil {
									rightGathered(t, o, p, round)
								}
								return err
							}
							v := vector(p, round, 4096)
							r, err := g.AllReduce(rdma.SumInt64, v)
							if err != nil {
								return err
							}
							if !bytes.Equal(v, fold(rdma.SumInt64, r.Contributors, round, 4096)) {
								t.Errorf("peer %d, round %d: not the fold over %b", p, round, r.Contributors)
							}
							key, what := fmt.Sprint(r.Epoch.Number, " ", r.Round), fmt.Sprint(r.Contributors, " ", string(v))
							mu.Lock()
							defer mu.Unlock()
							if old, ok := seen[key]; ok && old != what {
								t.Errorf("peer %d: %s: two outcomes", p, key)
							}
							seen[key] = what
							return nil
						}) {
							return
						}
					}
					if e := g.Epoch(); e.Members != 7 || e.Carried != 7 {
						t.Errorf("peer %d: %+v, want members and carried 0 1 2", p, e)
					}
				})
				// The one that vanished comes back, knowing nothing.
				c.stop(3)
				c.start(3)
				c.hub.isolate(3, false)
				c.joinAll()
				c.each(func(p int, g *rdma.Group) {
					if e := g.Epoch(); e.Carried != 7 {
						t.Errorf("peer %d: carried %b, want 0 1 2", p, e.Carried)
					}
					oneRound(t, g, p, rdma.SumInt64, 1, 80, 15)
				})
			})
		}
	}
}

func TestADamagedFrameEndsTheEpochAndIsCounted(t *testing.T) {
	c := newCrowd(t, 3, "loop", nil)
	c.joinAll()
	c.each(func(p int, g *rdma.Group) { oneRound(t, g, p, rdma.SumInt64, 1, 80, 7) })
	c.net.Corrupt(0, 1)
	c.each(func(p int, g *rdma.Group) {
		again(t, g, func() error {
			v := vector(p, 2, 800)
			r, err := g.AllReduce(rdma.SumInt64, v)
			if err == nil && !bytes.Equal(v, fold(rdma.SumInt64, r.Contributors, 2, 800)) {
				t.Errorf("peer %d: a wrong sum", p)
			}
			return err
		})
	})
	s := c.groups[1].Stats()
	bad := uint64(0)
	for _, n := range s.BadFrames {
		bad += n
	}
	if bad != 1 || s.Peers[0].MeshFailures != 1 || s.EpochChanges["mesh"] != 1 {
		t.Errorf("%d bad frames, %d failures of peer 0, changes %v; want 1, 1, mesh 1", bad, s.Peers[0].MeshFailures, s.EpochChanges)
	}
}

func TestAPeerWhoseFramesFailTwiceIsLeftOutForAWhile(t *testing.T) {
	c := newCrowd(t, 3, "loop", nil)
	c.joinAll()
	c.net.Fail(0, 2)
	again := func() (members collective.Set) { // the next epoch of peer 0
		before := c.groups[0].Epoch().Number
		var over atomic.Bool
		c.each(func(p int, g *rdma.Group) {
			for until := time.Now().Add(20 * time.Second); !over.Load(); g.Wait(2 * time.Millisecond) {
				if e := g.Epoch(); p == 0 && e.Number != 0 && e.Number != before {
					members = e.Members
					over.Store(true)
				}
				if time.Now().After(until) {
					t.Errorf("peer %d: no other epoch", p)
					return
				}
			}
		})
		return members
	}
	if got := again(); got != 7 {
		t.Errorf("after one failure: members %b, want all", got)
	}
	// Who finds out first tells the others, who then need not: it may take some more.
	var tries int
	for tries = 1; tries < 20; tries++ {
		c.net.Fail(0, 2)
		if again() == 3 {
			break
		}
	}
	if tries == 20 {
		t.Error("after 20 more failures: all three are together")
	}
	if n := c.groups[0].Stats().Peers[2].MeshFailures + c.groups[2].Stats().Peers[0].MeshFailures; n < 2 {
		t.Errorf("%d failures, want 2 at least", n)
	}
	c.joinAll() // after a while
}

func TestRoundsGoOnSealed(t *testing.T) {
	for _, transport := range transportNames {
		c := newCrowd(t, 3, transport, func(g *rdma.GroupConfig) {
			me := g.Me
			g.Seal = func(peer int, epoch uint64) (send, receive [32]byte, err error) {
				send[0], send[1], send[2] = byte(me), byte(peer), byte(epoch)
				receive[0], receive[1], receive[2] = byte(peer), byte(me), byte(epoch)
				return send, receive, nil
			}
		})
		c.joinAll()
		c.each(func(p int, g *rdma.Group) {
			for round := 1; round <= 20; round++ {
				oneRound(t, g, p, rdma.AffineOp, round, 16*100*round, 7)
			}
		})
	}
}

// A walled transport does not reach some members while they are on the other side.
type walled struct {
	rdma.Transport
	up      *atomic.Bool
	missing collective.Set
}

func (w *walled) Open(c rdma.MeshConfig) (rdma.Mesh, error) {
	if lacks := w.missing & c.Members; w.up.Load() && lacks != 0 {
		return nil, &rdma.MissingError{Peers: lacks, Err: errors.New("walled")}
	}
	return w.Transport.Open(c)
}

// One box whose port for data is closed must not keep the others from having an epoch.
func TestAPeerThatIsHeardAndNotReachedIsGoneOnWithout(t *testing.T) {
	var up atomic.Bool
	up.Store(true)
	c := newCrowd(t, 3, "tcp", func(g *rdma.GroupConfig) {
		missing := collective.Set(4)
		if g.Me == 2 {
			missing = 3
		}
		g.Transports[0] = &walled{g.Transports[0], &up, missing}
	})
	c.join(3)
	const rounds = 100
	var began [3]uint64
	c.each(func(p int, g *rdma.Group) {
		if p == 2 {
			return
		}
		for round, until := 0, time.Now().Add(10*time.Second); round < rounds && time.Now().Before(until); {
			if e := g.Epoch(); e.Members == 3 {
				if _, err := g.Exchange([]byte{1}, nil); err == nil {
					round++
					began[p]++
				}
			}
			g.Wait(2 * time.Millisecond)
		}
	})
	if began[0] != rounds || began[1] != rounds {
		t.Errorf("%v rounds within 10 s, want %d", began[:2], rounds)
	}
	up.Store(false)
	c.joinAll()
}

// A frail transport opens or carries frames only while it is well.
type frail struct {
	rdma.Transport
	name string
	ill  *atomic.Bool
	mute bool // it opens, and frames are lost
}

func (f *frail) Name() string { return f.name }

func (f *frail) Open(c rdma.MeshConfig) (rdma.Mesh, error) {
	m, err := f.Transport.Open(c)
	if err != nil || !f.ill.Load() {
		return m, err
	}
	if f.mute {
		return &muteMesh{m}, nil
	}
	_ = m.Close()
	return nil, errors.New("ill")
}

type muteMesh struct{ rdma.Mesh }

func (m *muteMesh) Poll([]rdma.Event) int { return 0 }

func TestTheGroupFallsBackToTheNextTransportAndComesBack(t *testing.T) {
	for _, mute := range []bool{false, true} {
		t.Run(fmt.Sprintf("mute=%v", mute), func(t *testing.T) {
			var ill atomic.Bool
			ill.Store(true)
			c := newCrowd(t, 3, "loop", nil)
			for p := range c.groups {
				c.stop(p)
			}
			c.tweak = func(g *rdma.GroupConfig) {
				first := &frail{g.Transports[0], "first", &ill, mute}
				if g.Me != 1 {
					first.ill = new(atomic.Bool)
				}
				tcps := newCrowd(t, 1, "tcp", nil)
				g.Transports = []rdma.Transport{first, tcps.tcps[0]}
			}
			for p := range c.groups {
				c.start(p)
			}
			c.joinAll()
			c.each(func(p int, g *rdma.Group) { oneRound(t, g, p, rdma.SumInt64, 1, 80, 7) })
			failures := uint64(0)
			for p, g := range c.groups {
				failures += g.Stats().TransportFailures
				if s := g.Stats(); s.Epoch.Transport != "tcp" || !s.Fallback || s.Fallbacks == 0 {
					t.Errorf("peer %d: %s, fallback %v, %d", p, s.Epoch.Transport, s.Fallback, s.Fallbacks)
				}
			}
			if failures == 0 { // which of them finds it out first is chance
				t.Error("no failure of a transport was counted")
			}
			ill.Store(false)
			// On a busy machine the first try may be spoilt: then comes another ten periods later.
			for range 5 {
				time.Sleep(11 * testPeriod)
				c.hub.link(0, 1, false) // another epoch
				c.each(func(p int, g *rdma.Group) {
					for until := time.Now().Add(5 * time.Second); g.Epoch().Members == 7 && time.Now().Before(until); {
						g.Wait(time.Millisecond)
					}
				})
				c.hub.link(0, 1, true)
				c.joinAll()
				if !c.groups[0].Stats().Fallback {
					break
				}
			}
			c.each(func(p int, g *rdma.Group) { oneRound(t, g, p, rdma.SumInt64, 1, 80, 7) })
			for p, g := range c.groups {
				if s := g.Stats(); s.Epoch.Transport != "first" || s.Fallback {
					t.Errorf("peer %d is with %s still", p, s.Epoch.Transport)
				}
			}
		})
	}
}

func TestALonelyPeerIsToldSoAndLearnsLaterWhatBecameOfItsRound(t *testing.T) {
	c := newCrowd(t, 3, "loop", nil)
	c.joinAll()
	c.each(func(p int, g *rdma.Group) { oneRound(t, g, p, rdma.SumInt64, 1, 80, 7) })
	// Peer 2 gets all of round 2, but nobody hears that it has, and then nobody hears
	// anybody.
	c.net.Cut(2, 0, true)
	c.net.Cut(2, 1, true)
	time.AfterFunc(100*time.Millisecond, func() {
		for p := range 3 {
			c.hub.isolate(p, true)
		}
	})
	var lost atomic.Int32
	c.each(func(p int, g *rdma.Group) {
		if _, err := exchange(g, p, 3, 2); !errors.Is(err, rdma.ErrNoEpoch) {
			t.Errorf("peer %d, alone: %v, want ErrNoEpoch", p, err)
		}
		if g.Late() != nil {
			t.Errorf("peer %d knows what it cannot", p)
		}
		lost.Add(1)
	})
	c.net.Cut(2, 0, false)
	c.net.Cut(2, 1, false)
	for p := range 3 {
		c.hub.isolate(p, false)
	}
	c.joinAll()
	outcomes := make([]string, 3)
	c.each(func(p int, g *rdma.Group) {
		l := g.Late()
		if l == nil {
			outcomes[p] = "rerun"
			return
		}
		rightGathered(t, l.Gathered, p, 2)
		outcomes[p] = "stands"
	})
	if strings.Join(outcomes, " ") != "rerun rerun rerun" { // 0 and 1 lack what 2 gave
		t.Errorf("%v", outcomes)
	}
	c.each(func(p int, g *rdma.Group) { oneRound(t, g, p, rdma.SumInt64, 1, 80, 7) })
}

func TestLeaveIsNoticedAtOnce(t *testing.T) {
	c := newCrowd(t, 3, "loop", nil)
	c.joinAll()
	c.each(func(p int, g *rdma.Group) {
		if p == 0 {
			g.Leave()
		}
	})
	c.join(6)
}

// Whatever happens, members agree on what each round of each epoch came to, and who
// contributed to it.
func TestChaos(t *testing.T) {
	length := 3 * time.Second
	if *long {
		length = 20 * time.Second
	}
	for _, transport := range transportNames {
		t.Run(transport, func(t *testing.T) { chaos(t, transport, length, *seed) })
	}
}

func chaos(t *testing.T, transport string, length time.Duration, seed uint64) {
	t.Helper()
	const peers = 4
	t.Logf("seed %d", seed)
	c := newCrowd(t, peers, transport, func(g *rdma.GroupConfig) {
		g.Crossover = 2000
		g.Quorum.TieBreaker = -1
	})
	c.joinAll()
	end := time.Now().Add(length)
	var mu sync.Mutex
	seen, counted := map[string]string{}, 0
	var saw [peers]map[uint64]uint64 // by epoch: the last round whose outcome a peer has
	for p := range saw {
		saw[p] = map[uint64]uint64{}
	}
	epochs := map[uint64]rdma.Epoch{}
	agree := func(p int, e rdma.Epoch, round uint64, what string) {
		mu.Lock()
		defer mu.Unlock()
		if saw[p][e.Number]+1 != round {
			t.Errorf("peer %d has round %d of epoch %d after round %d", p, round, e.Number, saw[p][e.Number])
		}
		saw[p][e.Number] = round
		key := fmt.Sprint(e.Number, " ", round)
		if old, ok := seen[key]; ok && old != what {
			t.Errorf("round %s: %.100s and %.100s", key, old, what)
		}
		seen[key] = what
		counted++
	}
	stop := make(chan struct{})
	var trouble sync.WaitGroup
	trouble.Go(func() { // what goes wrong
		r := rand.New(rand.NewPCG(seed, 1))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(r.IntN(200)) * time.Millisecond):
			}
			a, b := r.IntN(peers), r.IntN(peers)
			switch what := r.IntN(4); {
			case what == 0:
				c.hub.isolate(a, true)
				time.Sleep(time.Duration(r.IntN(150)) * time.Millisecond)
				c.hub.isolate(a, false)
			case what == 1 && a != b:
				c.hub.link(a, b, false)
				time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
				c.hub.link(a, b, true)
			case what == 2 && c.net != nil && a != b:
				c.net.Fail(a, b)
			case what == 3 && c.net != nil && a != b:
				c.net.Corrupt(a, b)
			}
		}
	})
	c.each(func(p int, g *rdma.Group) {
		for time.Now().Before(end) {
			e := g.Epoch()
			if l := g.Late(); l != nil && l.Gathered != nil {
				agree(p, l.Gathered.Epoch, l.Gathered.Round, fmt.Sprint("sparse ", l.Gathered.Epoch.Members))
			} else if l != nil {
				agree(p, l.Result.Epoch, l.Result.Round, fmt.Sprint("dense ", l.Result.Contributors, string(l.Vector)))
			}
			if e.Number == 0 {
				g.Wait(10 * time.Millisecond)
				continue
			}
			mu.Lock()
			if old, ok := epochs[e.Number]; ok && (old.Members != e.Members || old.Carried != e.Carried || old.Previous != e.Previous) {
				t.Errorf("peer %d has epoch %+v, another %+v", p, e, old)
			}
			epochs[e.Number] = e
			mu.Unlock()
			round := int(g.State().Round) + 1 // what all members do next
			n := 8 * (1 + round*37%1000)
			if round%3 == 0 {
				o, err := exchange(g, p, peers, round)
				if err == nil {
					rightGathered(t, o, p, round)
					agree(p, o.Epoch, o.Round, fmt.Sprint("sparse ", o.Epoch.Members))
				} else if !errors.Is(err, rdma.ErrAgain) && !errors.Is(err, rdma.ErrNoEpoch) {
					t.Errorf("peer %d: %v", p, err)
				}
				continue
			}
			v := vector(p, round, n)
			r, err := g.AllReduce(rdma.SumInt64, v)
			switch {
			case err == nil:
				if int(r.Round) != round || !bytes.Equal(v, fold(rdma.SumInt64, r.Contributors, round, n)) {
					t.Errorf("peer %d, round %d as %d: not the fold", p, r.Round, round)
				}
				agree(p, r.Epoch, r.Round, fmt.Sprint("dense ", r.Contributors, string(v)))
			case !errors.Is(err, rdma.ErrAgain) && !errors.Is(err, rdma.ErrNoEpoch):
				t.Errorf("peer %d: %v", p, err)
			case !bytes.Equal(v, vector(p, round, n)):
				t.Errorf("peer %d: %v, and its vector is another", p, err)
			}
		}
	})
	close(stop)
	trouble.Wait()
	for _, e := range epochs { // who is carried has seen what the others have
		for p := range e.Carried.All {
			if got, want := saw[p][e.Previous], saw[e.Carried.Lowest()][e.Previous]; got != want {
				t.Errorf("peer %d is carried into %d with round %d of %d, and peer %d with %d", p, e.Number, got, e.Previous, e.Carried.Lowest(), want)
			}
		}
	}
	s := c.groups[0].Stats()
	t.Logf("%d outcomes of %d rounds; at peer 0: %d complete, %d again, %d taken, %d handed, changes %v",
		counted, len(seen), s.RoundsComplete, s.RoundsRerun, s.RoundsTaken, s.RoundsHanded, s.EpochChanges)
	if len(seen) < 50 {
		t.Errorf("%d rounds came to a result", len(seen))
	}
	c.joinAll()
}

func TestMemoryIsTakenAsBytesComeNotAsAHeaderSays(t *testing.T) {
	if _, room := rdma.StoreForTest(1<<30, make([]byte, 100)); room > 1<<20 {
		t.Errorf("room for %d bytes after 100 of a GiB", room)
	}
	var all []byte
	var pieces [][]byte
	for i := range 100 {
		pieces = append(pieces, bytes.Repeat([]byte{byte(i)}, rdma.FrameMax-i))
		all = append(all, pieces[i]...)
	}
	kept, room := rdma.StoreForTest(uint64(len(all)), pieces...)
	if !bytes.Equal(kept, all) || room != len(all) {
		t.Errorf("%d bytes in room for %d are not the %d that came", len(kept), room, len(all))
	}
}

// A member may send what is no message as fast as it can.
func TestMessagesThatAreNoneAreCountedAndDoNotFillTheLog(t *testing.T) {
	var log bytes.Buffer
	c := newCrowd(t, 2, "loop", func(g *rdma.GroupConfig) {
		if g.Me == 1 {
			g.Log = slog.New(slog.NewTextHandler(&log, nil))
		}
	})
	const messages = 200
	for range messages {
		control{c.hub, 0}.Send(1, []byte{9})
	}
	c.joinAll()
	c.stop(0)
	n := c.groups[1].Stats().BadMessages
	c.stop(1)
	if lines := strings.Count(log.String(), "messages are refused"); n != messages || lines != 1 {
		t.Errorf("%d counted of %d, %d lines, want 1: %s", n, messages, lines, &log)
	}
}
