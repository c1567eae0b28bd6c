package sequence

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault/killtest"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/steer"
)

// commitWith commits what f does, or takes it back and reports false if it is killed
// after so many points.
func (l *life) commitWith(points int64, f func()) bool {
	dead := killtest.Attempt(func() {
		l.undo.Begin(*l.commit + 1)
		killtest.Arm(points)
		f()
		killtest.Arm(0)
		l.image = image(l.s)
		*l.commit++
	})
	if dead {
		l.reopen() // looks at memory
	}
	return !dead
}

// nameless is a release as a line, without the slot's number.
func nameless(s *Sequencer, p plan.Sequence, r *Release) string {
	w := flatten(s, p, r)
	if w.Retired >= 0 {
		w.Retired = 0
	}
	w.Channel = 0
	return fmt.Sprintf("%x %+v", r.Session[:10], w)
}

// drain returns what next brings, sorted: the order of slots means nothing.
func drain(s *Sequencer, p plan.Sequence, next func() *Release) []string {
	var all []string
	for r := next(); r != nil; r = next() {
		all = append(all, nameless(s, p, r))
	}
	return all
}

// Packets of channels that move among workers let through what they do on one worker.
func TestChannelsMove(t *testing.T) {
	moved, held := 0, 0
	round := func(protocol plan.Sequence) func(*rapid.T) {
		return func(rt *rapid.T) {
			f := feed(protocol)
			f.HoldPackets = rapid.IntRange(0, 6).Draw(rt, "hold packets")
			f.HoldBytes = rapid.IntRange(0, 120).Draw(rt, "hold bytes")
			f.HoldFor = rapid.SampledFrom([]time.Duration{0, 3, 12, 60}).Draw(rt, "hold for")
			rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
			var lives [3]*life // the first has all channels
			for i := range lives {
				lives[i] = &life{t: rt, feed: f}
				lives[i].begin()
				defer func() { _ = lives[i].region.Close() }()
			}
			one, many := lives[0], lives[1:]
			owner := map[Session]*life{}
			all := steps(rt, protocol, &twin{
				restarts: protocol == plan.IEXTP, channels: f.Channels,
				holdPackets: f.HoldPackets, holdBytes: f.HoldBytes, holdFor: int64(f.HoldFor),
			})
			do := func(l *life, st *step) (out []string) {
				if st.kind == "finish" {
					return nil
				}
				for !l.commitWith(0, func() {
					first := true
					out = drain(l.s, protocol, func() *Release {
						if st.kind == "push" && !first {
							return l.s.Rest()
						}
						first = false
						return l.call(st)
					})
				}) {
				}
				return out
			}
			for i := range all {
				st := &all[i]
				want := do(one, st)
				var got []string
				switch st.kind {
				case "push":
					h, _ := ParseTruncated(protocol, st.payload)
					key := one.s.key(&h.Session)
					if owner[key] == nil {
						owner[key] = many[rng.IntN(2)]
					}
					got = do(owner[key], st)
				case "expire":
					got = append(do(many[0], st), do(many[1], st)...)
					slices.Sort(got)
					slices.Sort(want)
				}
				if !slices.Equal(got, want) {
					rt.Fatalf("%+v\n got %q\nwant %q", st, got, want)
				}
				if rng.IntN(4) > 0 || len(owner) == 0 {
					continue
				}
				keys := slices.SortedFunc(maps.Keys(owner), func(a, b Session) int { return slices.Compare(a[:], b[:]) })
				key := keys[rng.IntN(len(keys))]
				for _, k := range keys { // one that holds packets, more often than not
					if rng.IntN(2) == 0 && owner[k].holds(k) {
						key = k
					}
				}
				from := owner[key]
				to := many[0]
				if from == to {
					to = many[1]
				}
				owner[key] = to
				for _, c := range from.s.Channels() {
					if from.s.key(&c.Session) != key {
						continue
					}
					moved++
					held += int(from.s.channels[c.Slot].held)
					move(rt, rng, from, to, c.Slot)
				}
			}
			want := drain(one.s, protocol, one.s.Finish)
			got := append(drain(many[0].s, protocol, many[0].s.Finish), drain(many[1].s, protocol, many[1].s.Finish)...)
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				rt.Fatalf("at the end\n got %q\nwant %q", got, want)
			}
			for _, l := range many {
				if l.s.HeldMessages() != 0 || l.s.HeldPackets() != 0 {
					rt.Fatalf("%d packets, %d messages are held at the end", l.s.HeldPackets(), l.s.HeldMessages())
				}
			}
		}
	}
	ofBoth(t, round, func() bool { return moved >= 50 && held >= 3 })
	t.Logf("%d moves with %d held packets", moved, held)
}

// holds is whether packets of channel key are held.
func (l *life) holds(key Session) bool {
	return slices.ContainsFunc(l.s.Channels(), func(c Channel) bool {
		return l.s.key(&c.Session) == key && l.s.channels[c.Slot].held > 0
	})
}

// move moves a channel, with kills, and sometimes first forgets what came over.
func move(t *rapid.T, rng *rand.Rand, from, to *life, slot int) {
	for done := false; !done; {
		var there int
		ok := to.commitWith(int64(rng.IntN(60)), func() {
			var err error
			used := to.undo.Used()
			if there, err = to.s.MoveChannel(from.s, slot); err != nil {
				t.Fatalf("%v", err)
			}
			if n := to.undo.Used() - used; n > to.s.SaveMax() {
				t.Fatalf("a move saved %d words, want at most %d", n, to.s.SaveMax())
			}
		})
		if !ok {
			continue
		}
		if err := to.s.Fits(from.s, slot); !errors.Is(err, ErrFit) {
			t.Fatalf("a channel that is there fits: %v", err)
		}
		if done = rng.IntN(4) > 0; !done {
			for !to.commitWith(int64(rng.IntN(30)), func() { to.s.ForgetChannel(there) }) {
			}
		}
	}
	for !from.commitWith(int64(rng.IntN(30)), func() { from.s.ForgetChannel(slot) }) {
	}
}

func TestAChannelThatDoesNotFitChangesNothing(t *testing.T) {
	src := newSequencer(t, feed(plan.MoldUDP64))
	for _, seq := range []uint64{1, 3, 5} {
		src.Push(mold("s", seq, "abc"), 0, 0, false)
	}
	for name, c := range map[string]struct {
		change func(*plan.Feed)
		fill   []string
		want   string
	}{
		"too few packets":  {func(f *plan.Feed) { f.HoldPackets = 1 }, nil, "2 packets are held, of at most 1: raise hold.packets"},
		"too few bytes":    {func(f *plan.Feed) { f.HoldBytes = 9 }, nil, "10 bytes are held, of at most 9: raise hold.bytes"},
		"too few channels": {func(f *plan.Feed) { f.Channels = 1 }, []string{"t"}, "all of 1 channels are in use: raise channels"},
		"other framing":    {func(f *plan.Feed) { f.Sequence = plan.IEXTP }, nil, `its framing is "moldudp64", not "iex-tp"`},
		"there already":    {func(*plan.Feed) {}, []string{"s"}, "it is there already"},
	} {
		f := feed(plan.MoldUDP64)
		c.change(f)
		dst := newSequencer(t, f)
		for _, session := range c.fill {
			dst.Push(mold(session, 1, "abc"), 0, 0, false)
		}
		before := image(dst)
		if _, err := dst.MoveChannel(src, 0); !errors.Is(err, ErrFit) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if image(dst) != before {
			t.Errorf("%s: memory changed", name)
		}
	}
	f := feed(plan.MoldUDP64)
	f.HoldPackets, f.HoldBytes, f.Channels = 2, 10, 1
	if slot, err := newSequencer(t, f).MoveChannel(src, 0); slot != 0 || err != nil {
		t.Errorf("what just fits: %d, %v", slot, err)
	}
	if _, err := src.MoveChannel(newSequencer(t, f), 0); !errors.Is(err, ErrFit) {
		t.Errorf("a slot that is not in use: %v", err)
	}
}

// The slots of forgotten channels are used again, and those of retired ones are given
// up in the order in which they retired.
func TestForgottenSlotsAreUsedAgain(t *testing.T) {
	s := newSequencer(t, feed(plan.MoldUDP64))
	push := func(session string, payload []byte) int {
		t.Helper()
		r := s.Push(payload, 0, 0, false)
		if r.Drop != event.Kept {
			t.Fatalf("session %s: %v", session, r.Drop)
		}
		return r.Channel
	}
	for i, session := range []string{"a", "b", "c", "d"} {
		if slot := push(session, mold(session, 1, "x")); slot != i {
			t.Fatalf("session %s has slot %d", session, slot)
		}
		push(session, moldStop(session, 2))
	}
	s.ForgetChannel(1)
	s.ForgetChannel(1)
	s.ForgetChannel(3)
	for i, want := range []int{3, 1, 0, 2} {
		session := fmt.Sprint("new ", i)
		if slot := push(session, mold(session, 1, "x")); slot != want {
			t.Errorf("session %s has slot %d, want %d", session, slot, want)
		}
	}
	if r := s.Push(mold("more", 1, "x"), 0, 0, false); r.Drop != event.DropChannelLimit {
		t.Errorf("a fifth session: %v", r.Drop)
	}
	if all := s.Channels(); len(all) != 4 || all[1].Retired || string(all[1].Session[:5]) != "new 1" {
		t.Errorf("channels %v", all)
	}
}

// The bytes that a session's packets are placed by are those of its header.
func TestTheHeaderOfASessionIsPlacedAsItsPackets(t *testing.T) {
	for _, c := range []struct {
		protocol plan.Sequence
		place    plan.Placement
		payload  []byte
	}{
		{plan.IEXTP, plan.Placement{Kind: plan.PlaceChannel, Offset: 4, Length: 4}, iex(0x01020304, 0x05060708, 1, 1, "x")},
		{plan.IEXTP, plan.Placement{Kind: plan.PlaceChannel, Offset: 4, Length: 8}, iex(0x01020304, 0x05060708, 1, 1, "x")},
		{plan.MoldUDP64, plan.Placement{Kind: plan.PlaceChannel, Offset: 0, Length: 10}, mold("0123456789", 1, "x")},
		{plan.MoldUDP64, plan.Placement{Kind: plan.PlaceChannel, Offset: 0, Length: 10, Trim: true}, mold("0123", 1, "x")},
	} {
		s := newSequencer(t, feed(c.protocol))
		s.Push(c.payload, 0, 0, false)
		var buf [steer.PlaceMax]byte
		want, _ := steer.Place(&c.place, c.payload, nil, &buf)
		session := s.Channels()[0].Session
		if got, whole := steer.Place(&c.place, session.Header(c.protocol), nil, &buf); !whole || string(got) != string(want) {
			t.Errorf("%s: %x, %v, want %x", c.protocol, got, whole, want)
		}
	}
}
