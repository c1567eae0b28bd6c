package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/rdma/collective"
)

// A schedule is one random history of a group.
type schedule struct {
	*world
	r        *rand.Rand
	windows  int
	keys     int
	next     [][]int // [box][worker] the next window to put out
	forgot   bool    // everybody who knew what had happened was gone at once
	finished bool
}

func newSchedule(tb testing.TB, seed uint64) *schedule {
	tb.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	c := Config{MaxWait: 50, CorrectFor: 1_000_000, Keep: 1 << 30, Period: 40}
	if r.IntN(4) == 0 {
		c.CorrectFor = time.Duration(60 + r.IntN(300))
	}
	if r.IntN(10) == 0 {
		c.Hold = 1 + r.IntN(1<<14)
	}
	s := &schedule{r: r, windows: 2 + r.IntN(8), keys: 1 + r.IntN(12)}
	s.world = newWorld(tb, 1+r.IntN(5), c)
	if r.IntN(2) == 0 {
		s.lots = 1 + r.IntN(4)
		for _, b := range s.boxes {
			b.lot, b.burst = s.lots, 2
		}
	}
	for range s.boxes {
		s.next = append(s.next, make([]int, 2))
	}
	if r.IntN(3) == 0 { // sinks that are full now and then
		for _, b := range s.boxes {
			b.refuse = func() bool { return !s.finished && r.IntN(3) == 0 }
		}
	}
	return s
}

// produce lets a worker of a box put out its next window of every global query.
func (s *schedule) produce(b *box, worker int, f outbox.Firing) {
	n := s.next[b.me][worker]
	s.next[b.me][worker]++
	flags := uint8(outbox.FlagSequenced)
	var missing uint64
	if s.r.IntN(10) == 0 {
		missing, flags = uint64(s.r.IntN(5)), flags|outbox.FlagIncomplete
	}
	for _, q := range []uint16{0, 2} {
		id := windowID{query: q, start: event.Nanos(n * width), end: event.Nanos((n + 1) * width)}
		if q == 2 {
			if n%2 == 0 && f == outbox.OnTime {
				continue
			}
			id.start, id.end = event.Nanos(n/2*2*width), event.Nanos((n/2+1)*2*width)
		}
		some := false
		for k := range s.keys {
			// Each worker owns every other key.
			if k%2 != worker || s.r.IntN(3) == 0 {
				continue
			}
			some = true
			var in []observation
			for range 1 + s.r.IntN(4) {
				in = append(in, anyObservation(s.r, id))
			}
			b.partial(worker, id, fmt.Sprintf("key%d", k), f, flags, missing, in...)
		}
		if some {
			b.windowDone(worker, id, f, flags, missing)
		}
		if f == outbox.OnTime {
			b.watermark(worker, q, id.end)
		}
	}
}

// knows reports that some of set have been told, and have followed, all that counts.
func (s *schedule) knows(set collective.Set) bool {
	var most position
	for _, b := range s.boxes {
		if b.up && most.before(b.engine.member.at) {
			most = b.engine.member.at
		}
	}
	if most == (position{}) {
		return true
	}
	for p := range set.All {
		if s.boxes[p].engine.member.at == most {
			return true
		}
	}
	return false
}

func (s *schedule) ups() (set collective.Set) {
	for _, b := range s.boxes {
		if b.up {
			set = set.With(b.me)
		}
	}
	return set
}

// enough is the quorum: more than half, or, of two, one whose other is down.
func (s *schedule) enough(set collective.Set) bool {
	return 2*set.Len() > len(s.boxes) || len(s.boxes) == 2 && set.Len() == 1 && s.ups() == set
}

// reform makes an epoch of some of the boxes that are up.
func (s *schedule) reform() {
	members := s.ups()
	if s.r.IntN(2) == 0 {
		for p := range members.All {
			if s.r.IntN(4) == 0 {
				members = members.Without(p)
			}
		}
	}
	if members == 0 || !s.enough(members) || !s.knows(members) {
		s.enter(0)
		return
	}
	s.enter(members)
}

// broken has a round during which the epoch ends. It stands or not, for all who go on;
// who does not go on may have seen that it stands, or not.
func (s *schedule) broken() {
	all := s.contribute()
	members := s.epoch.Members
	stands := s.r.IntN(2) == 0
	// That it stands is known to one at least, or it would not.
	knows := -1
	if stands {
		knows = members.Lowest()
	}
	for p := range members.All {
		if stands && (p == knows || s.r.IntN(4) != 0) {
			s.boxes[p].take(all[p])
		}
	}
	s.down()
	s.reform()
}

// down ends control processes, as long as somebody is left who knows.
func (s *schedule) down() {
	for _, b := range s.boxes {
		if !b.up || s.r.IntN(3) != 0 || b.alone() {
			continue
		}
		if !s.knows(s.ups().Without(b.me)) && s.anyKnowledge() {
			continue
		}
		b.crash(s.r.IntN(len(b.sink) + 1))
	}
}

// forget ends all control processes at once, and starts them again.
func (s *schedule) forget() {
	if slices.ContainsFunc(s.boxes, func(b *box) bool { return b.up && b.alone() }) {
		return
	}
	if len(s.boxes) == 2 {
		return // either of two goes on alone: nothing that one has stored binds the other
	}
	for _, b := range s.boxes {
		if b.up {
			b.crash(s.r.IntN(len(b.sink) + 1))
		}
	}
	for _, b := range s.boxes {
		b.start()
	}
	s.enter(collective.First(len(s.boxes)))
	s.spoiled = true // rows that were on their way
}

// alone reports that the control process has what a data plane left that is gone: if
// it dies too, that is lost.
func (b *box) alone() bool {
	for _, k := range b.engine.contributor.windows {
		if !k.in && k.orphan {
			return true
		}
	}
	return false
}

func (s *schedule) anyKnowledge() bool {
	return slices.ContainsFunc(s.boxes, func(b *box) bool { return b.up && b.engine.member.at != position{} })
}

// dieData ends a box's data plane: what it had not put out is lost, and its next one
// goes on with the window after.
func (s *schedule) dieData(b *box) {
	b.pumpAll()
	b.tap.Done()
	b.outbox, b.from = make([][]put, 2), make([]uint64, 2)
	b.attach()
}

func (s *schedule) step() {
	b := s.boxes[s.r.IntN(len(s.boxes))]
	w := s.r.IntN(2)
	switch n := s.r.IntN(100); {
	case n < 25:
		if s.next[b.me][w] < s.windows {
			s.produce(b, w, outbox.OnTime)
		}
	case n < 50:
		if b.up {
			b.pump(w, 1+s.r.IntN(20))
		}
	case n < 75:
		if s.epoch.Members != 0 {
			s.commit()
		}
	case n < 85:
		if b.up {
			b.flush(1 + s.r.IntN(3))
		}
	case n < 90:
		s.now += time.Duration(s.r.IntN(30))
	case n < 93:
		if s.epoch.Members != 0 {
			s.broken()
		} else {
			s.down()
			s.reform()
		}
	case n < 96:
		if !b.up {
			b.start()
		}
		if s.r.IntN(3) == 0 || s.epoch.Members == 0 {
			s.reform()
		}
	case n < 97:
		if b.up && s.r.IntN(4) == 0 {
			s.dieData(b)
		}
	case n < 98:
		if s.r.IntN(4) == 0 {
			s.forget()
		}
	}
}

// end lets everybody put out all it has, and stop in good order.
func (s *schedule) end() {
	s.finished = true
	for _, b := range s.boxes {
		if !b.up {
			b.start()
		}
		for w := range 2 {
			for s.next[b.me][w] < s.windows {
				s.produce(b, w, outbox.OnTime)
			}
			s.produce(b, w, outbox.Flush)
		}
	}
	s.enter(collective.First(len(s.boxes)))
	for _, b := range s.boxes {
		b.ended = true
		b.Finish()
	}
	for range 60 {
		for _, b := range s.boxes {
			b.pump(0, 50)
			b.pump(1, 50)
			if !b.unread() {
				b.tap.Done()
			}
			for b.give(); b.more; b.give() {
			}
			b.flush(len(b.sink))
		}
		s.now += 5
		s.commit()
	}
}

// check compares what is out with what should be. It reports whether everything had to
// be, and was.
func (s *schedule) check() bool {
	s.t.Helper()
	last := s.checkRows()
	whole := true
	for _, b := range s.boxes {
		if !b.engine.drained() {
			m := b.engine.member
			s.t.Fatalf("box %s is not drained: phase %d, final %v, %d windows kept, %d leaves, durable %v of %d", s.names[b.me], m.phase, m.registry.final, len(b.engine.contributor.windows), len(m.leaves), m.registry.durable, m.registry.sequence)
		}
		whole = whole && !b.losses()
	}
	whole = whole && !s.spoiled
	if whole {
		seen := map[string]*row{}
		for _, r := range last {
			seen[fmt.Sprint(s.idOf(r), r.Key["name"])] = r
		}
		for id := range s.truth {
			r := seen[fmt.Sprint(id.id, id.key)]
			want, _ := s.expect(id.id, id.key, s.names)
			if r == nil || string(r.Values) != want {
				s.t.Fatalf("window %v, key %s: %+v\nwant what one box would have: %s", id.id, id.key, r, want)
			}
		}
	}
	s.now += 2 * s.config.CorrectFor
	for range 4 {
		s.commit()
	}
	for _, b := range s.boxes {
		n := b.engine
		if len(n.contributor.windows)+len(n.member.registry.windows)+len(n.member.holder.shares)+len(n.member.registry.open)+len(n.member.registry.unsaved) > 0 ||
			n.contributor.bytes != 0 || n.member.holder.bytes != 0 || len(n.member.leaves) > 0 {
			s.t.Fatalf("box %s still keeps %d windows, %d bytes; knows %d windows; holds %d shares, %d bytes; %d leaves", s.names[b.me], len(n.contributor.windows),
				n.contributor.bytes, len(n.member.registry.windows), len(n.member.holder.shares), n.member.holder.bytes, len(n.member.leaves))
		}
		for _, counts := range n.faults.counts {
			if counts != ([FaultCount]uint64{}) {
				s.t.Fatalf("box %s found faults: %v", s.names[b.me], counts)
			}
		}
	}
	return whole
}

// TestRandomHistories is the promise: rows of equal id and revision are equal, every
// row is what the peers named in it make together, a later revision has no fewer of
// them, in the end all windows are those of one box that saw everything, and nothing
// is kept for ever. HEADRACE_SEED replays one history; HEADRACE_LONG has many.
func TestRandomHistories(t *testing.T) {
	from, n := uint64(0), uint64(500)
	if os.Getenv("HEADRACE_LONG") != "" {
		n = 20_000
	}
	if v := os.Getenv("HEADRACE_SEED"); v != "" {
		seed, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		from, n = seed, 1
	}
	whole, rows, corrected := 0, 0, 0
	for seed := from; seed < from+n; seed++ {
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := newSchedule(t, seed)
			s.reform()
			for range 150 + s.r.IntN(200) {
				s.step()
			}
			s.end()
			if s.check() {
				whole++
			}
			rows += len(s.parsed)
			for _, r := range s.parsed {
				if r.Revision > 0 {
					corrected++
				}
			}
		})
		if !ok {
			return
		}
	}
	t.Logf("%d histories, %d of them whole in the end; %d rows, %d of them corrections", n, whole, rows, corrected)
	if n > 1 && (uint64(whole) < n/3 || corrected == 0) {
		t.Errorf("the histories are too wild to show anything")
	}
}
