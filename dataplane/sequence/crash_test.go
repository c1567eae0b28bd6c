package sequence

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault/killtest"
	"github.com/headrace/headrace/dataplane/plan"
)

// A step is one thing that happens to a sequencer.
type step struct {
	kind    string // "push", "expire", "finish"
	payload []byte
	line    uint8
	at      event.Nanos
	cut     bool
	slot    int
}

// steps draws what happens, w being what decides where the senders are.
func steps(t *rapid.T, protocol plan.Sequence, w *twin) []step {
	var all []step
	now := int64(100)
	style := rapid.SampledFrom([]string{"mixed", "mixed", "gaps", "joined late"}).Draw(t, "style")
	for id := range rapid.IntRange(1, 100).Draw(t, "packets") {
		now += int64(rapid.IntRange(0, 3).Draw(t, "passes"))
		switch rapid.IntRange(0, 19).Draw(t, "also") {
		case 0:
			for more := true; more; {
				_, more = w.expire(now)
			}
			all = append(all, step{kind: "expire", at: event.Nanos(now)})
		case 1:
			slot := rapid.IntRange(0, w.channels-1).Draw(t, "slot")
			if slot < len(w.slots) {
				r := twinRelease{Retired: -1}
				if w.slots[slot].flush(&r); r.Lines != "" {
					w.settle(slot, &r)
				}
			}
			all = append(all, step{kind: "finish", slot: slot})
		}
		p := drawPacket(t, w, id, style)
		at := now - int64(rapid.IntRange(0, 3).Draw(t, "skew"))
		w.push(p, at)
		all = append(all, step{kind: "push", payload: p.wire(protocol), line: uint8(id & 1), at: event.Nanos(at), cut: p.cut > 0})
	}
	for slot := range w.channels {
		all = append(all, step{kind: "finish", slot: slot})
	}
	return all
}

// place is how far a life is: plain data, in its region.
type place struct {
	Step, Item, Out int
	InHand          bool
}

// A life is a worker's, as far as this package goes: it makes steps, item by item, in
// batches that end anywhere, and may be killed.
type life struct {
	t        interface{ Fatalf(string, ...any) }
	feed     *plan.Feed
	steps    []step
	out      []string // what came out, that of the batch under way too
	region   *arena.Region
	undo     *arena.Undo
	s        *Sequencer
	place    *place
	commit   *uint64
	r        *Release // in hand
	rollback int
	image    string // of memory at the last commit
}

// slack makes the memory for bodies small, so that they must be moved.
const slack = 40

// open builds everything over the region.
func (l *life) open(region *arena.Region) {
	l.region, l.r = region, nil
	var err error
	if l.undo, err = arena.NewUndo(region, 1<<15); err != nil {
		l.t.Fatalf("%v", err)
	}
	commit, err := arena.Slice[uint64](region, "commit", 1)
	if err != nil {
		l.t.Fatalf("%v", err)
	}
	places, err := arena.Slice[place](region, "place", 1)
	if err != nil {
		l.t.Fatalf("%v", err)
	}
	l.commit, l.place = &commit[0], &places[0]
	if l.s, err = New(l.feed, region, l.undo); err != nil {
		l.t.Fatalf("%v", err)
	}
	l.s.bodyBytes = uint32(l.feed.HoldBytes) + slack
	if err := region.Complete(1); err != nil {
		l.t.Fatalf("%v", err)
	}
}

// begin opens a fresh region.
func (l *life) begin() {
	region, err := arena.New("life", 1<<23)
	if err != nil {
		l.t.Fatalf("%v", err)
	}
	l.open(region)
	l.image = image(l.s)
}

// reopen is what the next process does. Points may end that, too.
func (l *life) reopen() {
	fd, err := unix.Dup(l.region.FD())
	if err != nil {
		l.t.Fatalf("%v", err)
	}
	_ = l.region.Close()
	region, err := arena.Open(fd)
	if err != nil {
		l.t.Fatalf("%v", err)
	}
	l.open(region)
	did, err := l.undo.Rollback(*l.commit)
	if err != nil {
		l.t.Fatalf("%v", err)
	}
	if did {
		l.rollback++
	}
	if got := image(l.s); got != l.image {
		l.t.Fatalf("memory after a rollback (%v)\n%s\nwant\n%s", did, got, l.image)
	}
	l.out = l.out[:l.place.Out]
	if l.place.InHand {
		st := &l.steps[l.place.Step]
		if l.r = l.s.Resume(st.payload); l.r == nil {
			l.t.Fatalf("no release in hand at %+v", *l.place)
		}
	}
}

// call makes a step, or a further one of a step with several releases.
func (l *life) call(st *step) *Release {
	used := l.undo.Used()
	defer func() {
		if n := l.undo.Used() - used; n > l.s.SaveMax() {
			l.t.Fatalf("%s saved %d words, want at most %d", st.kind, n, l.s.SaveMax())
		}
	}()
	switch st.kind {
	case "push":
		return l.s.Push(st.payload, st.line, st.at, st.cut)
	case "expire":
		return l.s.Expire(st.at)
	}
	return l.s.FinishChannel(st.slot)
}

// advance does the next thing, and reports whether there was one.
func (l *life) advance(p *place) bool {
	if p.Step == len(l.steps) {
		return false
	}
	st := &l.steps[p.Step]
	took := func(r *Release) bool {
		if l.r = r; r == nil {
			return false
		}
		p.InHand, p.Item = true, 0
		l.out = append(l.out, fmt.Sprintf("%s %+v", st.kind, outcome(r)))
		return true
	}
	switch {
	case l.r == nil:
		if !took(l.call(st)) {
			p.Step++
		}
	case p.Item < len(l.r.Items):
		l.out = append(l.out, lines(l.s, l.feed.Sequence, &l.r.Items[p.Item]))
		p.Item++
	case l.r.More:
		took(l.s.Rest())
	case st.kind == "expire":
		if !took(l.call(st)) {
			p.InHand = false
			p.Step++
		}
	default:
		l.r, p.InHand = nil, false
		p.Step++
	}
	return true
}

// batch makes n things and commits them, unless it is to die before, and reports
// whether there was one.
func (l *life) batch(n int, die bool) (more bool) {
	l.undo.Begin(*l.commit + 1)
	p := *l.place
	for range n {
		more = l.advance(&p)
	}
	if die {
		killtest.Die()
	}
	if p.InHand {
		l.s.Carry()
	}
	p.Out = len(l.out)
	arena.Save(l.undo, l.place)
	*l.place = p
	l.image = image(l.s) // no point from here on
	*l.commit++
	return more
}

// whole lives without being disturbed.
func (l *life) whole() {
	l.begin()
	l.undo, l.s.undo = nil, nil
	p := place{}
	for l.advance(&p) {
	}
}

// image writes all memory of s that means something.
func image(s *Sequencer) string {
	var b strings.Builder
	st := *s.st
	st.carried = false
	fmt.Fprintf(&b, "%+v\n%v\n", st, s.table)
	for i := range s.channels[:s.st.used] {
		c, i := &s.channels[i], int32(i)
		fmt.Fprintf(&b, "%+v\n", *c)
		fmt.Fprintf(&b, "pieces %v\n", s.piecesOf(i)[c.head:c.head+c.count])
		fmt.Fprintf(&b, "lower %v\n", s.lower[int(i)*(lowerMax+1):][:c.lowers])
		fmt.Fprintf(&b, "lapsed %v\n", s.lapsed[int(i)*lapsedMax:][:min(c.lapses, lapsedMax)])
		for q := c.oldest; q != 0; {
			p := s.packetOf(i, q-1)
			fmt.Fprintf(&b, "packet %d %+v %q\n", q, *p, s.bodiesOf(i)[p.at:][:p.size])
			q = p.after
		}
		for q := c.free; q != 0; q = s.packetOf(i, q-1).after {
			fmt.Fprintf(&b, "free %d\n", q)
		}
	}
	return b.String()
}

// ofBoth draws rounds of both protocols until seen.
func ofBoth(t *testing.T, round func(plan.Sequence) func(*rapid.T), seen func() bool) {
	t.Helper()
	killtest.Until(t, seen, func() {
		for _, protocol := range []plan.Sequence{plan.IEXTP, plan.MoldUDP64} {
			t.Run(string(protocol), func(t *testing.T) { rapid.Check(t, round(protocol)) })
		}
	})
}

// What comes out of a life with many ends, and what is in memory then, is what comes
// out of one that nothing disturbs.
func TestBatchesThatAreTakenBackAreRunAgain(t *testing.T) {
	rollbacks, carried := 0, 0
	round := func(protocol plan.Sequence) func(*rapid.T) {
		return func(rt *rapid.T) {
			f := feed(protocol)
			f.Channels = rapid.IntRange(1, 3).Draw(rt, "channels")
			f.HoldPackets = rapid.IntRange(0, 6).Draw(rt, "hold packets")
			f.HoldBytes = rapid.IntRange(0, 120).Draw(rt, "hold bytes")
			f.HoldFor = rapid.SampledFrom([]time.Duration{0, 3, 12, 60}).Draw(rt, "hold for")
			all := steps(rt, protocol, &twin{
				restarts: protocol == plan.IEXTP, channels: f.Channels,
				holdPackets: f.HoldPackets, holdBytes: f.HoldBytes, holdFor: int64(f.HoldFor),
			})
			want := &life{t: rt, feed: f, steps: all}
			want.whole()
			defer func() { _ = want.region.Close() }()
			got := &life{t: rt, feed: f, steps: all}
			got.begin()
			defer func() { _ = got.region.Close() }()
			rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
			for more := true; more; {
				dead := killtest.Attempt(func() {
					killtest.Arm(int64(rng.IntN(60) * (1 + rng.IntN(2)*rng.IntN(16))))
					more = got.batch(1+rng.IntN(10)*(1+rng.IntN(2)*rng.IntN(12)), rng.IntN(5) == 0)
				})
				for again := dead || rng.IntN(4) == 0; again; more = true {
					again = killtest.Attempt(func() {
						killtest.Arm(int64(rng.IntN(30)))
						got.reopen()
					})
				}
				if got.place.InHand {
					carried++
				}
			}
			rollbacks += got.rollback
			if !slices.Equal(got.out, want.out) {
				for i := range want.out {
					if i >= len(got.out) || got.out[i] != want.out[i] {
						rt.Fatalf("line %d of %d\n got %q\nwant %q", i, len(want.out), got.out[i:min(i+2, len(got.out))], want.out[i])
					}
				}
				rt.Fatalf("%d lines more than %d", len(got.out)-len(want.out), len(want.out))
			}
			if a, b := image(got.s), image(want.s); a != b {
				rt.Fatalf("memory\n%s\nwant\n%s", a, b)
			}
		}
	}
	ofBoth(t, round, func() bool { return rollbacks >= 100 && carried >= 100 })
	t.Logf("%d batches taken back, %d commits in a release", rollbacks, carried)
}

// Pieces are moved to the front over some that were in use when the batch began, and
// nothing was inserted before them since.
func TestPiecesThatMovedToTheFrontComeBack(t *testing.T) {
	f := feed(plan.MoldUDP64)
	f.HoldPackets = 2
	var all []step
	for seq := range uint64(12) {
		all = append(all, step{kind: "push", payload: mold("s", 1+2*seq, "a"), at: 1})
	}
	for actions := range 60 {
		l := &life{t: t, feed: f, steps: all}
		l.begin()
		for l.place.Step < 3 {
			l.batch(1, false)
		}
		killtest.Attempt(func() { l.batch(actions, true) })
		l.reopen() // looks at memory
		if err := l.region.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSavingDoesNotAllocate(t *testing.T) {
	for _, protocol := range []plan.Sequence{plan.IEXTP, plan.MoldUDP64} {
		const batches = 100
		var packets [][]byte
		for seq := uint64(1); len(packets) < 6*(batches+1); seq += 6 {
			for _, at := range []uint64{0, 2, 1, 5, 3, 4} { // in order, held, released, held, in order, released
				packet := mold("s", seq+at, "a")
				if protocol == plan.IEXTP {
					packet = iex(1, 1, seq+at, event.Nanos(seq+at), "a")
				}
				packets = append(packets, packet)
			}
		}
		l := &life{t: t, feed: feed(protocol)}
		l.begin()
		if n := testing.AllocsPerRun(batches, func() {
			l.undo.Begin(*l.commit + 1)
			for _, packet := range packets[:6] {
				if l.s.Push(packet, 0, 0, false).Messages != 1 {
					t.Fatal("a packet was not taken")
				}
				l.s.Carry()
			}
			packets = packets[6:]
			*l.commit++
		}); n != 0 || l.undo.Used() == 0 {
			t.Errorf("%s: %v allocations, %d words saved", protocol, n, l.undo.Used())
		}
		_ = l.region.Close()
	}
}
