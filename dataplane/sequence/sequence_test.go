package sequence

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

func TestParse(t *testing.T) {
	with := func(b []byte, at int, v ...byte) []byte { b = slices.Clone(b); copy(b[at:], v); return b }
	whole := iex(1, 7, 5, 99, "ab", "", "cde")
	moldWhole := mold("s", 5, "ab", "", "cde")
	for _, c := range []struct {
		name      string
		p         plan.Sequence
		payload   []byte
		truncated bool
		drop      event.Drop
		kind      HeaderKind
		count     int
		whole     int
	}{
		{"an IEX-TP packet of three messages", plan.IEXTP, whole, false, event.Kept, Data, 3, 3},
		{"an IEX-TP heartbeat", plan.IEXTP, iex(1, 7, 5, 99), false, event.Kept, Heartbeat, 0, 0},
		{"bytes behind the last IEX-TP message are tolerated", plan.IEXTP, append(slices.Clone(whole), 1, 2, 3), false, event.Kept, Data, 3, 3},
		{"bytes behind the last IEX-TP message, counted in the length", plan.IEXTP, append(with(whole, 12, 12), 0), false, event.Kept, Data, 3, 3},
		{"an IEX-TP packet that ends inside its header", plan.IEXTP, whole[:39], false, event.DropShort, 0, 0, 0},
		{"an IEX-TP packet cut inside its header", plan.IEXTP, whole[:39], true, event.DropTruncated, 0, 0, 0},
		{"an IEX-TP packet cut behind its header", plan.IEXTP, whole[:40], true, event.Kept, Data, 3, 0},
		{"an IEX-TP packet cut inside the third message", plan.IEXTP, whole[:50], true, event.Kept, Data, 3, 2},
		{"an IEX-TP packet shorter than its length", plan.IEXTP, whole[:50], false, event.DropLength, 0, 0, 0},
		{"an IEX-TP count beyond the messages that are there", plan.IEXTP, with(whole, 14, 4), false, event.DropLength, 0, 0, 0},
		{"the same in a capture that cut nothing of it", plan.IEXTP, with(whole, 14, 4), true, event.DropLength, 0, 0, 0},
		{"an IEX-TP message longer than the packet", plan.IEXTP, with(whole, 40, 200), false, event.DropLength, 0, 0, 0},
		{"an IEX-TP version of later years", plan.IEXTP, with(whole, 0, 2), false, event.DropVersion, 0, 0, 0},
		{"a message protocol that is neither DEEP nor TOPS", plan.IEXTP, with(whole, 2, 5), false, event.DropVersion, 0, 0, 0},
		{"a negative IEX-TP sequence number", plan.IEXTP, with(whole, 31, 0x80), false, event.DropLength, 0, 0, 0},
		{"IEX-TP number zero", plan.IEXTP, iex(1, 7, 0, 1, "a"), false, event.DropLength, 0, 0, 0},
		{"a MoldUDP64 packet of three messages", plan.MoldUDP64, moldWhole, false, event.Kept, Data, 3, 3},
		{"a MoldUDP64 heartbeat", plan.MoldUDP64, mold("s", 5), false, event.Kept, Heartbeat, 0, 0},
		{"a MoldUDP64 end of session is not 65,535 messages", plan.MoldUDP64, moldStop("s", 5), false, event.Kept, EndOfSession, 0, 0},
		{"a MoldUDP64 packet that ends inside its header", plan.MoldUDP64, moldWhole[:19], false, event.DropShort, 0, 0, 0},
		{"a MoldUDP64 packet cut inside its third message", plan.MoldUDP64, moldWhole[:30], true, event.Kept, Data, 3, 2},
		{"a MoldUDP64 count beyond the messages that are there", plan.MoldUDP64, with(moldWhole, 19, 4), false, event.DropLength, 0, 0, 0},
		{"bytes behind the last MoldUDP64 message are tolerated", plan.MoldUDP64, with(moldWhole, 19, 2), false, event.Kept, Data, 2, 2},
		{"the last MoldUDP64 numbers", plan.MoldUDP64, mold("s", math.MaxUint64-3, "a", "b", "c"), false, event.Kept, Data, 3, 3},
		{"MoldUDP64 numbers that would wrap", plan.MoldUDP64, mold("s", math.MaxUint64-1, "a", "b"), false, event.DropLength, 0, 0, 0},
		{"more than a UDP payload", plan.MoldUDP64, make([]byte, payloadMax+1), false, event.DropLength, 0, 0, 0},
		{"a feed without framing", plan.Unsequenced, moldWhole, false, event.DropVersion, 0, 0, 0},
	} {
		parse := Parse
		if c.truncated {
			parse = ParseTruncated
		}
		h, drop := parse(c.p, c.payload)
		if drop != c.drop {
			t.Errorf("%s: Parse = %v, want %v", c.name, drop, c.drop)
		} else if drop == event.Kept && (h.Kind != c.kind || h.Count != c.count || h.Whole != c.whole) {
			t.Errorf("%s: kind %d, %d of %d messages, want kind %d, %d of %d", c.name, h.Kind, h.Whole, h.Count, c.kind, c.whole, c.count)
		}
	}
	h, _ := Parse(plan.IEXTP, iex(0x01020304, 0x05060708, 5, 99, "ab"))
	if h.Session != (Session{1, 2, 3, 4, 5, 6, 7, 8}) || h.Seq != 5 || h.Sent != 99 || h.Protocol != protocolDEEP10 {
		t.Errorf("IEX-TP header = %+v", h)
	}
	h, _ = Parse(plan.MoldUDP64, mold("0123456789", 5, "ab"))
	if string(h.Session[:]) != "0123456789\x00\x00\x00\x00\x00\x00" || h.Seq != 5 || h.Sent != 0 {
		t.Errorf("MoldUDP64 header = %+v", h)
	}
}

func TestNewRefusesWhatItCannotKeep(t *testing.T) {
	for name, change := range map[string]func(*plan.Feed){
		"no framing":             func(f *plan.Feed) { f.Sequence = plan.Unsequenced },
		"no channels":            func(f *plan.Feed) { f.Channels = 0 },
		"too many channels":      func(f *plan.Feed) { f.Channels = plan.SourceStride + 1 },
		"a negative hold":        func(f *plan.Feed) { f.HoldPackets = -1 },
		"negative hold bytes":    func(f *plan.Feed) { f.HoldBytes = -1 },
		"a hold beyond reason":   func(f *plan.Feed) { f.HoldBytes = math.MaxInt32 },
		"a deadline in the past": func(f *plan.Feed) { f.HoldFor = -1 },
	} {
		r, err := arena.New("test", 1<<24)
		if err != nil {
			t.Fatal(err)
		}
		f := feed(plan.IEXTP)
		change(f)
		if _, err := New(f, r, nil); !errors.Is(err, ErrConfig) || !strings.HasPrefix(err.Error(), "sequence: feed test: ") {
			t.Errorf("%s: New = %v, want ErrConfig", name, err)
		}
		_ = r.Close()
	}
	r, err := arena.New("test", 1<<12)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := New(feed(plan.IEXTP), r, nil); !errors.Is(err, arena.ErrFull) {
		t.Errorf("a region too small: New = %v, want ErrFull", err)
	}
}

func TestAFormatTakesOnlyItsOwnMessageProtocol(t *testing.T) {
	for format, want := range map[string][3]event.Drop{
		"iex-deep": {event.DropVersion, event.DropVersion, event.Kept},
		"iex-tops": {event.Kept, event.Kept, event.DropVersion},
		"other":    {},
	} {
		f := feed(plan.IEXTP)
		f.Format = format
		s := newSequencer(t, f)
		for k, want := range want {
			b := iex(1, 7, 1, 1, "a")
			b[2] = byte(protocolTOPS15&0xFF + k)
			if got := s.Push(b, 0, 0, false).Drop; got != want {
				t.Errorf("%s, protocol 0x%x: %v, want %v", format, protocolTOPS15+k, got, want)
			}
		}
	}
}

// Numbers that no memory could hold cost no memory and no time, and do not wrap.
func TestJumpsOfHugeNumbersCostNothing(t *testing.T) {
	s := newSequencer(t, feed(plan.MoldUDP64))
	l := &ledger{}
	var gaps []Gap
	see := func(r *Release) {
		for _, it := range r.Items {
			if it.Gap.Count > 0 {
				gaps = append(gaps, it.Gap)
			}
		}
	}
	l.push(t, s, mold("s", 1, "a"), 0, 0, false, see)
	l.push(t, s, mold("s", math.MaxUint64-2, "y", "z"), 0, 0, false, see)
	l.push(t, s, mold("s", 1<<63, "m"), 0, 0, false, see)
	l.push(t, s, mold("s", math.MaxUint64), 0, 0, false, see)
	l.push(t, s, mold("s", 0, "older than the first"), 0, 0, false, see)
	l.finish(t, s, see)
	want := []Gap{{2, 1<<63 - 2, 1}, {1<<63 + 1, 1<<63 - 4, 1}}
	if !slices.Equal(gaps, want) || l.fresh+l.unheld != 5 {
		t.Errorf("gaps %v, want %v; %+v", gaps, want, *l)
	}
	if _, open := s.Next(0); open {
		t.Error("something is outstanding at the end")
	}
}

// The proof in the package comment: isolated single messages, then one packet over
// all of them, then the hole before them filled. And the same with no hold to speak of.
func TestTheLargestReleaseFits(t *testing.T) {
	f := feed(plan.MoldUDP64)
	f.HoldPackets, f.HoldBytes = 64, 1<<20
	s := newSequencer(t, f)
	l := &ledger{}
	l.push(t, s, mold("s", 1000, "join"), 0, 0, false, nil)
	for k := range uint64(lowerMax) {
		l.push(t, s, mold("s", 998-2*k, "early"), 0, 0, false, nil)
	}
	for k := range uint64(63) {
		l.push(t, s, mold("s", 1010+2*k, "single"), 0, 0, false, nil)
	}
	l.push(t, s, mold("s", 1009, texts(130)...), 0, 0, false, nil)
	if s.HeldPackets() != 64 || s.HeldMessages() != 130 {
		t.Fatalf("held %d packets, %d messages", s.HeldPackets(), s.HeldMessages())
	}
	items := 0
	see := func(r *Release) { items = max(items, len(r.Items)) }
	l.push(t, s, mold("s", 960, texts(49)...), 0, 0, false, see)
	if want := 2*64 - 1 + lowerMax + 1; items < want || items > cap(s.items) {
		t.Errorf("%d items, want at least %d and at most %d", items, want, cap(s.items))
	}
	l.finish(t, s, nil)
	if l.fresh+l.unheld != 1139-960 || l.missing != 0 {
		t.Errorf("%+v", *l)
	}
}

func TestBelowTheLowestRunThatIsRememberedNothingIsAccepted(t *testing.T) {
	s, l := newSequencer(t, feed(plan.MoldUDP64)), &ledger{}
	l.push(t, s, mold("s", 1000, "join"), 0, 0, false, nil)
	// One run too many: the lowest is forgotten, and must not come again.
	for k := range uint64(lowerMax + 1) {
		l.push(t, s, mold("s", 960+2*k, "early"), 0, 0, false, nil)
	}
	l.push(t, s, mold("s", 999-2*lowerMax-20, "below"), 0, 0, false, nil)
	for k := range uint64(lowerMax + 1) {
		l.push(t, s, mold("s", 960+2*k, "early"), 1, 0, false, nil)
	}
	if l.fresh != lowerMax+2 || l.ancient != 2 || l.duplicate != lowerMax {
		t.Errorf("joined, %d early, 2 at or below the one forgotten, the others again: %+v", lowerMax+1, *l)
	}
}

func TestALateMessageOfAGapIsAncientWhileTheGapIsRemembered(t *testing.T) {
	f := feed(plan.MoldUDP64)
	f.HoldPackets = 0
	s, l := newSequencer(t, f), &ledger{}
	for k := range uint64(40) {
		l.push(t, s, mold("s", 1+2*k, "odd"), 0, 0, false, nil)
		for g := range k { // all gaps so far: the last ones are remembered
			want := uint64(0)
			if g+lapsedMax >= k {
				want = 1
			}
			l.push(t, s, mold("s", 2+2*g, "even"), 0, 0, false, func(r *Release) {
				if r.Ancient != want || r.Duplicate != 1-want {
					t.Fatalf("gap %d of %d: %d ancient, %d duplicate, want %d ancient", g, k, r.Ancient, r.Duplicate, want)
				}
			})
		}
	}
}

func TestMoreChannelsThanTheLimitAreDroppedUntilOneEnds(t *testing.T) {
	f := feed(plan.MoldUDP64)
	f.Channels = 2
	s := newSequencer(t, f)
	steps := []struct {
		packet  []byte
		drop    event.Drop
		channel int
		fresh   bool
		retired int
	}{
		{mold("one", 1, "a"), event.Kept, 0, true, -1},
		{mold("two", 1, "a"), event.Kept, 1, true, -1},
		{mold("three", 1, "a"), event.DropChannelLimit, -1, false, -1},
		{moldStop("unheard of", 5), event.DropNoChannel, -1, false, -1},
		{moldStop("two", 2), event.Kept, 1, false, 1},
		{moldStop("two", 2), event.Kept, 1, false, -1},
		{mold("two", 1, "a"), event.Kept, 1, false, -1},
		{mold("two", 2, "beyond the end"), event.DropNoChannel, -1, false, -1},
		{mold("three", 1, "a"), event.Kept, 1, true, -1},
		{mold("four", 1, "a"), event.DropChannelLimit, -1, false, -1},
	}
	for i, c := range steps {
		r := s.Push(c.packet, 0, 0, false)
		if r.Drop != c.drop || r.Channel != c.channel || r.New != c.fresh || r.Retired != c.retired {
			t.Errorf("step %d: drop %v, channel %d, new %v, retired %d; want %+v", i, r.Drop, r.Channel, r.New, r.Retired, c)
		}
	}
}

// Sessions come and go by the thousand; the table must agree with a map.
func TestManySessionsAreToldApart(t *testing.T) {
	f := feed(plan.MoldUDP64)
	f.Channels, f.HoldPackets, f.HoldBytes = 37, 1, 64
	s := newSequencer(t, f)
	rng := rand.New(rand.NewPCG(1, 1))
	next := map[string]uint64{} // live sessions
	for range 20_000 {
		name := fmt.Sprintf("s%d", rng.IntN(60))
		seq, known := next[name]
		if known && rng.IntN(8) == 0 {
			if r := s.Push(moldStop(name, seq), 0, 0, false); r.Retired < 0 {
				t.Fatalf("%s did not retire: %+v", name, r)
			}
			delete(next, name)
			continue
		}
		if !known {
			seq = 1 + rng.Uint64N(1<<40)
		}
		r := s.Push(mold(name, seq, "a"), 0, 0, false)
		switch {
		case known || len(next) < 37 && r.New:
			if r.Fresh != 1 || r.New == known {
				t.Fatalf("%s, known %v: %+v", name, known, r)
			}
			next[name] = seq + 1
		case r.Drop != event.DropChannelLimit && r.Drop != event.DropNoChannel && r.Duplicate != 1:
			t.Fatalf("%s with %d channels: %+v", name, len(next), r)
		case r.Drop == event.DropChannelLimit && len(next) != 37:
			t.Fatalf("limit at %d channels", len(next))
		}
	}
}

func TestASecondPartMustBeTaken(t *testing.T) {
	s := newSequencer(t, feed(plan.IEXTP))
	s.Push(iex(1, 7, 1, 1, "a"), 0, 0, false)
	if s.Rest() != nil {
		t.Error("Rest has something where nothing was said")
	}
	if r := s.Push(iex(1, 8, 1, 2, "a"), 0, 0, false); !r.More || r.Retired != 0 {
		t.Fatalf("a new session: %+v", r)
	}
	defer func() {
		if recover() == nil {
			t.Error("a Push that loses the second part did not panic")
		}
	}()
	s.Push(iex(1, 8, 2, 3, "a"), 0, 0, false)
}

func TestFate(t *testing.T) {
	for name, c := range map[string]struct {
		r    Outcome
		want event.Drop
	}{
		"a heartbeat is of use":                   {Outcome{Heartbeat: true}, event.Kept},
		"one new message is of use":               {Outcome{Messages: 3, Fresh: 1, Duplicate: 2}, event.Kept},
		"a held packet is of use":                 {Outcome{Messages: 1, Held: 1}, event.Kept},
		"all seen before":                         {Outcome{Messages: 2, Duplicate: 2}, event.DropDuplicate},
		"seen before or too old":                  {Outcome{Messages: 2, Duplicate: 1, Ancient: 1}, event.DropDuplicate},
		"too old":                                 {Outcome{Messages: 2, Ancient: 2}, event.DropAncient},
		"dropped":                                 {Outcome{Messages: 2, Drop: event.DropChannelLimit}, event.DropChannelLimit},
		"cut before the end of its first message": {Outcome{Cut: 2}, event.Kept},
	} {
		if got := c.r.Fate(); got != c.want {
			t.Errorf("%s: Fate() = %v, want %v", name, got, c.want)
		}
	}
}

func TestPushDoesNotAllocate(t *testing.T) {
	for _, p := range []plan.Sequence{plan.IEXTP, plan.MoldUDP64} {
		f := feed(p)
		f.HoldFor = 20
		s := newSequencer(t, f)
		rng := rand.New(rand.NewPCG(7, 7))
		var packets [][]byte
		seq := uint64(100)
		for k := range 3000 {
			n := seq + rng.Uint64N(8) - min(seq-1, 4)
			name, restart := uint32(rng.IntN(5)), event.Nanos(0)
			if p == plan.IEXTP {
				if rng.IntN(200) == 0 {
					n, restart = 1, 5
				}
				packets = append(packets, iex(name, 7+uint32(k/1500), n, event.Nanos(k)+restart, texts(rng.IntN(5))...))
				continue
			}
			packets = append(packets, mold(fmt.Sprint(name), n, texts(rng.IntN(5))...))
			if rng.IntN(300) == 0 {
				packets = append(packets, moldStop(fmt.Sprint(name), n))
			}
			if k%5 == 0 {
				seq += 2
			}
		}
		at, held, gaps := event.Nanos(0), uint64(0), uint64(0)
		if n := testing.AllocsPerRun(5, func() {
			for _, b := range packets {
				at += 2
				for r := s.Push(b, 0, at, false); r != nil; r = s.Rest() {
					held += r.Held
					gaps += r.Missing
				}
				for r := s.Expire(at - 10); r != nil; r = s.Expire(at - 10) {
					gaps += r.Missing
				}
			}
			for r := s.Finish(); r != nil; r = s.Finish() {
				gaps += r.Missing
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", p, n)
		}
		if held == 0 || gaps == 0 {
			t.Errorf("%s: held %d, missing %d: the packets do not exercise the hold", p, held, gaps)
		}
	}
}

// A sender whose truth is known: epochs, heartbeats, two lines with loss and delay.
// Whatever arrives on either line in time comes out once, in order, in its epoch;
// the rest of each epoch is missing.
func TestWhatTheSenderSentComesOutOnce(t *testing.T) {
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 3))
		skewed := seed%2 == 1 // copies of an epoch arrive when the next has begun
		type copyOf struct {
			at   event.Nanos
			line uint8
			b    []byte
		}
		var arrivals []copyOf
		arrived := map[string]bool{}
		now, epochs := event.Nanos(1000), 2+rng.IntN(4)
		for e := 1; e <= epochs; e++ {
			seq := uint64(1)
			for k := range 40 {
				now += 10
				n := 1 + rng.IntN(3)
				if rng.IntN(5) == 0 || k == 0 || k == 39 {
					n = 0
				}
				var ms []string
				for j := range n {
					ms = append(ms, fmt.Sprintf("%d.%d", e, seq+uint64(j)))
				}
				b := iex(1, 7, seq, now, ms...)
				lost := rng.IntN(6) // 0: on A, 1: on B, 2: on both
				if n == 0 {
					lost = 5
				}
				for line := range uint8(2) {
					if lost == int(line) || lost == 2 {
						continue
					}
					delay := event.Nanos(rng.IntN(60))
					if skewed && line == 1 {
						delay += 150
					}
					arrivals = append(arrivals, copyOf{now + delay, line, b})
					for _, m := range ms {
						arrived[m] = true
					}
				}
				seq += uint64(n)
			}
			now += 100
		}
		slices.SortStableFunc(arrivals, func(a, b copyOf) int { return int(a.at - b.at) })
		f := feed(plan.IEXTP)
		f.HoldFor = 300 * time.Nanosecond
		s, l := newSequencer(t, f), &ledger{}
		seen, last := map[string]bool{}, [2]uint64{}
		see := func(r *Release) {
			for _, it := range r.Items {
				sp := it.Span
				if it.Gap.Count > 0 {
					continue
				}
				for k := range sp.Count {
					m, at := message(plan.IEXTP, s.Body(&sp), sp.Skip+k), [2]uint64{uint64(sp.Epoch), sp.Seq + uint64(k)}
					if want := fmt.Sprintf("%d.%d", at[0], at[1]); m != want || seen[m] || !arrived[m] {
						t.Fatalf("seed %d: message %s came out as %s, before: %v", seed, m, want, seen[m])
					}
					if sp.Epoch > 1 && slices.Compare(at[:], last[:]) <= 0 {
						t.Fatalf("seed %d: %v after %v", seed, at, last)
					}
					seen[m], last = true, at
				}
			}
		}
		for _, a := range arrivals {
			l.push(t, s, a.b, a.line, a.at, false, see)
		}
		l.finish(t, s, see)
		if l.epochs != epochs {
			t.Fatalf("seed %d: %d epochs, want %d", seed, l.epochs, epochs)
		}
		if !skewed && len(seen) != len(arrived) {
			t.Fatalf("seed %d: %d of %d messages came out", seed, len(seen), len(arrived))
		}
		if skewed && len(seen) < len(arrived)*8/10 {
			t.Fatalf("seed %d: only %d of %d messages came out", seed, len(seen), len(arrived))
		}
	}
}
