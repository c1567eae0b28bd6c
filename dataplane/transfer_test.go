package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/segment"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/window"
	"github.com/headrace/headrace/dataplane/xsk"
	"github.com/headrace/headrace/internal/packet"
)

const (
	journeySessions = 5  // of each sequenced feed
	journeyOrders   = 30 // packets after which an order of a packet is executed
	journeyEnd      = 2  // the session that ends early
)

// journeyPlan is a crash plan whose order book has room.
func journeyPlan(workers int) *plan.Plan {
	p := crashPlan(workers)
	p.WorkersMax, p.Batch, p.LaneBytes = 4, 64, 1<<16
	for i := range p.Feeds {
		p.Feeds[i].Channels, p.Feeds[i].Orders = 8, 2000
	}
	return p
}

// numberOf is [gappy] for one session after the other.
func numberOf(i, j int) int {
	if i/20%journeySessions == j {
		return gappy(i)
	}
	return i
}

// session makes packet number i of session j of a format, some nanoseconds apart from
// those of others, so that no two events are of the same time.
func session(format string, i, j int) []byte {
	late := uint64(j) * 1000
	switch format {
	case "iex-deep":
		p := payloads[format](numberOf(i, j)) // a copy is one in every byte
		binary.LittleEndian.PutUint64(p[24:], uint64(1+numberOf(i, j)*3))
		p[4] = byte(1 + j) // channel
		for k := range 3 {
			at := p[40+40*k+4:]
			binary.LittleEndian.PutUint64(at, binary.LittleEndian.Uint64(at)+late+uint64(k))
		}
		return p
	case "itch50":
		p := append(fmt.Appendf(nil, "SESSION%03d", j), make([]byte, 10)...)
		number := numberOf(i, j)
		binary.BigEndian.PutUint64(p[10:], uint64(1+number*2))
		binary.BigEndian.PutUint16(p[18:], 2)
		at := uint64(10*time.Hour) + uint64(number)*uint64(beltStep) + late
		message := func(kind byte, length, of int, at uint64) []byte {
			m := make([]byte, length)
			m[0] = kind
			binary.BigEndian.PutUint16(m[1:], uint16(1+of%100))
			binary.BigEndian.PutUint64(m[3:], at) // tracking, which is 0, is the two bytes before the six of the time
			binary.BigEndian.PutUint64(m[11:], uint64(1+of))
			p = append(binary.BigEndian.AppendUint16(p, uint16(length)), m...)
			return p[len(p)-length:]
		}
		m := message('A', 36, number, at)
		m[19] = 'B'
		binary.BigEndian.PutUint32(m[20:], uint32(10+number%7))
		copy(m[24:], fmt.Sprintf("SYM%-5d", number%100))
		binary.BigEndian.PutUint32(m[32:], uint32(number%1000))
		m = message('E', 31, max(0, number-journeyOrders), at+1)
		binary.BigEndian.PutUint32(m[19:], uint32(10+max(0, number-journeyOrders)%7)) // all of it
		return p
	}
	return payloads[format](i)
}

// journeyFrames makes packets of each feed of p, in order of time.
func journeyFrames(t *testing.T, p *plan.Plan) []xsk.Frame {
	t.Helper()
	const n = journeyPackets
	var all []xsk.Frame
	for feed := range p.Feeds {
		one := *p
		one.Feeds = p.Feeds[feed : feed+1]
		s, err := steer.New(one.Feeds)
		if err != nil {
			t.Fatal(err)
		}
		sessions := 1
		if p.Feeds[feed].Sequence != plan.Unsequenced {
			sessions = journeySessions
		}
		for i := range n {
			for j := range sessions {
				payload := session(p.Feeds[feed].Format, i, j)
				if j == journeyEnd && p.Feeds[feed].Sequence == plan.MoldUDP64 && i >= n/2 {
					if payload = payload[:20]; i > n/2 {
						continue
					}
					binary.BigEndian.PutUint64(payload[10:], uint64(1+2*n/2))
					binary.BigEndian.PutUint16(payload[18:], 0xffff)
				}
				u := packet.UDP{
					Source:      netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(j), byte(i)}), uint16(1000+i%7)),
					Destination: netip.MustParseAddrPort("239.1.1.1:9000"),
				}
				f := xsk.Frame{Data: u.Append(nil, payload)}
				if v := s.Steer(f.Data, len(f.Data), false, uint64(beltFirst+int64(i)*beltStep), &f.Meta); v != steer.Steered {
					t.Fatalf("frame %d of feed %d is %v", i, feed, v)
				}
				f.Meta.Feed = uint16(feed)
				all = append(all, f)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b xsk.Frame) int { return int(a.Meta.ReceiveNanos) - int(b.Meta.ReceiveNanos) })
	return all
}

// A journey is a life of workers that is carried on by others.
type journey struct {
	*plant
	r       *rand.Rand
	pending []xsk.Frame              // not yet sent, in order of time
	route   [event.GroupCount]uint16 // where frames go
	rows    []string                 // partials of all workers, with their query's name
	idle, i int
}

func newJourney(t *testing.T, p *plan.Plan, frames []xsk.Frame, seed uint64) *journey {
	t.Helper()
	j := &journey{plant: newPlant(t, p, nil), r: rand.New(rand.NewPCG(seed, 7)), pending: frames}
	j.start()
	j.route = *j.journal.Owner()
	return j
}

// tick lets time pass, and the frames come that were sent meanwhile.
func (j *journey) tick() {
	j.now = j.now.Add(4 * time.Millisecond)
	for len(j.pending) > 0 && j.pending[0].Meta.ReceiveNanos <= uint64(beltFirst)+uint64(j.now) {
		f := j.pending[0]
		j.pending = j.pending[1:]
		if int(f.Meta.Feed) >= len(j.plan.Feeds) || j.plan.Feeds[f.Meta.Feed].Removed {
			continue // no rule leads to it
		}
		s := j.sources[j.route[f.Meta.Group]]
		f.Packet = uint64(len(s.frames))
		s.frames = append(s.frames, f)
	}
}

// turn lets some worker do a cycle. Time passes when none has had anything to do for
// long, and no hold is on.
func (j *journey) turn(over bool) {
	if j.r.IntN(6) == 0 {
		j.i = j.r.IntN(len(j.workers))
	}
	switch {
	case j.cycle(j.i, over):
		j.idle = 0
	case j.idle < 60*len(j.workers):
		j.idle++
	case !j.segment.Command().Holds():
		j.idle = 0
		j.tick()
	}
	if j.r.IntN(10) == 0 {
		j.collect()
	}
}

// until goes on until f.
func (j *journey) until(f func() bool) {
	j.t.Helper()
	for turn := 0; !f(); turn++ {
		if turn > 5_000_000 {
			j.t.Fatal("no end")
		}
		j.turn(false)
	}
}

func (j *journey) collect() {
	j.t.Helper()
	var p outbox.Partial
	for i, r := range j.readers {
		for {
			ok, err := r.Next(&p)
			if err != nil {
				j.t.Fatalf("worker %d: %v", i, err)
			}
			if !ok {
				break
			}
			if p.Kind == outbox.KindPartial {
				j.rows = append(j.rows, fmt.Sprintf("%s %d-%d %q flags %d missing %d firing %d %x", j.plan.Queries[p.Query].Name, p.Start, p.End, p.Key, p.Flags, p.Missing, p.Firing, p.State))
			}
		}
		r.Free(r.Position())
	}
}

// settled holds all workers, and lets those of past take their rings first.
func (j *journey) settled(past uint64) {
	j.t.Helper()
	j.segment.SetHold(segment.HoldPast, past)
	j.until(func() bool {
		for i := range j.workers {
			if !j.isHeld(i) {
				return false
			}
		}
		return true
	})
	for i := range j.workers {
		s := j.sources[i]
		if past>>uint(i)&1 != 0 && s.released != len(s.frames) {
			j.t.Fatalf("worker %d is held at frame %d, those before %d lay in its ring", i, s.released, len(s.frames))
		}
	}
	j.collect()
}

// A leg is what the next workers of a journey are.
type leg struct {
	plan           *plan.Plan
	owners         [event.GroupCount]uint16
	feeds, queries []int
}

// same is a leg that changes nothing but the number of workers and the owners.
func (j *journey) same(workers int, owners [event.GroupCount]uint16) *leg {
	p := *j.plan
	p.Workers = workers
	l := &leg{plan: &p, owners: owners}
	for i := range p.Feeds {
		if l.feeds = append(l.feeds, i); p.Feeds[i].Removed {
			l.feeds[i] = -1
		}
	}
	for i := range p.Queries {
		l.queries = append(l.queries, i)
	}
	return l
}

// prepare holds all workers, sends frames by the leg's owners from there on, and lets
// workers take what was sent to them for others. A worker that gives groups away takes
// what it has before it is sent anything of others, which is still to come to it: that
// can be, since groups go all up or all down.
func (j *journey) prepare(l *leg) {
	j.t.Helper()
	j.settled(0)
	for len(j.sources) < l.plan.Workers {
		j.sources = append(j.sources, &source{})
	}
	var order []int
	for w := range j.workers {
		order = append(order, w)
	}
	if up := slices.ContainsFunc(moves(*j.journal.Owner(), l.owners), func(m [2]uint16) bool { return m[0] < m[1] }); up {
		slices.Reverse(order)
	}
	for _, w := range order {
		gives := w >= l.plan.Workers
		for g := range l.owners {
			if was := j.journal.Owner()[g]; int(was) == w && l.owners[g] != was {
				j.route[g], gives = l.owners[g], true
			}
		}
		if gives {
			if j.r.IntN(3) == 0 {
				j.tick() // to the new places too
			}
			j.settled(1 << w)
		}
	}
}

// moves are the pairs of workers between which groups go.
func moves(from, to [event.GroupCount]uint16) (pairs [][2]uint16) {
	for g := range from {
		if from[g] != to[g] {
			pairs = append(pairs, [2]uint16{from[g], to[g]})
		}
	}
	return pairs
}

// others gives some groups to other workers of so many, all up or all down.
func others(r *rand.Rand, owners [event.GroupCount]uint16, now, workers int) [event.GroupCount]uint16 {
	up := workers > now || workers == now && r.IntN(2) == 0
	often := 1 + r.IntN(4)
	for g := range owners {
		at := int(owners[g])
		switch {
		case at < workers && r.IntN(often) != 0:
		case up && at < workers-1:
			owners[g] = uint16(at + 1 + r.IntN(workers-1-at))
		case !up && at > 0:
			owners[g] = uint16(r.IntN(min(at, workers)))
		}
	}
	return owners
}

// views are the workers that the old ones were, to be read.
func (j *journey) views() ([]*Worker, error) {
	j.t.Helper()
	n := j.plan.Workers
	views := make([]*arena.Region, len(j.regions))
	for i, r := range j.regions {
		fd, err := unix.Dup(r.FD())
		if err != nil {
			j.t.Fatal(err)
		}
		if views[i], err = arena.View(fd); err != nil {
			j.t.Fatal(err)
		}
		j.t.Cleanup(func() { _ = views[i].Close() })
	}
	var shared *window.Shared
	if n > 1 {
		var err error
		if shared, err = window.NewShared(views[n+1], len(j.plan.Queries)); err != nil {
			j.t.Fatal(err)
		}
	}
	var workers []*Worker
	for w := range n {
		worker, err := OpenHeld(Config{Plan: j.plan, Worker: w, Region: views[w], Shared: shared, Rollback: true})
		if err != nil {
			return nil, err
		}
		workers = append(workers, worker)
	}
	return workers, nil
}

// next builds the workers of a leg over empty regions and gives them j's state.
func (j *journey) next(l *leg) (*plant, error) {
	j.t.Helper()
	x, transfer := j.draft(l)
	return x, transfer()
}

// draft returns what the workers of a leg will be, and what makes them.
func (j *journey) draft(l *leg) (x *plant, transfer func() error) {
	j.t.Helper()
	old, err := j.views()
	if err != nil {
		j.t.Fatal(err)
	}
	x = newPlant(j.t, l.plan, nil)
	x.owners, x.now, x.sources = &l.owners, j.now, j.sources[:l.plan.Workers:l.plan.Workers]
	for _, w := range old {
		x.rings = append(x.rings, w.Rings())
	}
	owners := *j.journal.Owner()
	return x, func() error {
		x.start()
		return Transfer(TransferConfig{From: old, To: x.workers, OwnersFrom: &owners, OwnersTo: &l.owners, Feeds: l.feeds, Queries: l.queries})
	}
}

// take makes a leg.
func (j *journey) take(l *leg) {
	j.t.Helper()
	j.prepare(l)
	x, err := j.next(l)
	if err != nil {
		j.t.Fatal(err)
	}
	j.plant, j.i, j.idle = x, 0, 0
}

// end goes on to the end.
func (j *journey) end() {
	j.t.Helper()
	j.until(func() bool { return len(j.pending) == 0 })
	for turn := 0; !j.ended(); turn++ {
		if turn > 5_000_000 {
			j.t.Fatal("no end")
		}
		j.turn(true)
	}
	j.collect()
	slices.Sort(j.rows)
}

// of returns the rows of a query.
func (j *journey) of(query string) []string {
	var rows []string
	for _, r := range j.rows {
		if len(r) > len(query) && r[:len(query)+1] == query+" " {
			rows = append(rows, r)
		}
	}
	return rows
}

// sums are the counters of all workers together.
func (j *journey) sums() *segment.Counters {
	j.t.Helper()
	sum := segment.NewCounters(j.plan)
	for i := range j.workers {
		c := segment.NewCounters(j.plan)
		if err := j.segment.Worker(i).Read(c); err != nil {
			j.t.Fatal(err)
		}
		frames := c.Worker.UnknownFeed
		for f := range c.Feeds {
			frames += c.Feeds[f].Frames
		}
		if frames != c.Worker.Frames {
			j.t.Errorf("worker %d has received %d frames, its feeds %d", i, c.Worker.Frames, frames)
		}
		segment.Add(sum, c)
	}
	for i := range sum.Feeds {
		f := &sum.Feeds[i]
		frames, messages := f.FramesApplied+f.FramesDuplicate+f.FramesHeartbeat+f.FramesHeld, f.Applied+f.Duplicate+f.MessagesHeld
		for d := range f.FrameDrops {
			frames, messages = frames+f.FrameDrops[d], messages+f.MessageDrops[d]
		}
		if frames != f.Frames || messages != f.Messages {
			j.t.Errorf("feed %s: %d frames are %d, %d messages are %d", j.plan.Feeds[i].Name, f.Frames, frames, f.Messages, messages)
		}
	}
	for i := range sum.Queries {
		q := &sum.Queries[i]
		events := q.Applied + q.Sent - q.Arrived
		for _, d := range q.Drops {
			events += d
		}
		if j.ended() && (events != q.Received || q.Sent != q.Arrived) {
			j.t.Errorf("query %s: %d events are %d; %d sent, %d arrived", j.plan.Queries[i].Name, q.Received, events, q.Sent, q.Arrived)
		}
	}
	return sum
}

// like compares what a journey has brought with one that was never disturbed: the feeds
// and queries of these names.
func (j *journey) like(calm *journey, feeds, queries []string) {
	j.t.Helper()
	got, want := j.sums(), calm.sums()
	for _, name := range queries {
		a, b := j.of(name), calm.of(name)
		if !slices.Equal(a, b) {
			j.t.Errorf("query %s: %d rows, want %d; the first that differs: %s", name, len(a), len(b), firstOther(a, b))
		}
		is := func(q plan.Query) bool { return q.Name == name }
		x, y := got.Queries[slices.IndexFunc(j.plan.Queries, is)], want.Queries[slices.IndexFunc(calm.plan.Queries, is)]
		x.Sent, x.Arrived, x.WindowsClosed = y.Sent, y.Arrived, y.WindowsClosed
		if x != y {
			j.t.Errorf("query %s:\n %+v, want\n %+v", name, x, y)
		}
	}
	for _, name := range feeds {
		is := func(f plan.Feed) bool { return f.Name == name }
		x, y := got.Feeds[slices.IndexFunc(j.plan.Feeds, is)], want.Feeds[slices.IndexFunc(calm.plan.Feeds, is)]
		if x != y {
			j.t.Errorf("feed %s:\n %+v, want\n %+v", name, x, y)
		}
	}
}

func names(p *plan.Plan) (feeds, queries []string) {
	for i := range p.Feeds {
		feeds = append(feeds, p.Feeds[i].Name)
	}
	for i := range p.Queries {
		queries = append(queries, p.Queries[i].Name)
	}
	return feeds, queries
}

const journeyPackets = 2400

func calmJourney(t *testing.T, workers int) (*journey, []xsk.Frame) {
	t.Helper()
	p := journeyPlan(workers)
	frames := journeyFrames(t, p)
	calm := newJourney(t, p, frames, 1)
	calm.end()
	sum := calm.sums()
	for i := range sum.Feeds {
		f := &sum.Feeds[i]
		if f.Events == 0 || p.Feeds[i].Sequence != plan.Unsequenced && (f.Missing == 0 || f.FramesDuplicate == 0) {
			t.Fatalf("feed %s: %+v: the journey does not reach what it is for", p.Feeds[i].Name, f)
		}
	}
	if len(calm.rows) < 1000 {
		t.Fatalf("%d rows", len(calm.rows))
	}
	return calm, frames
}

// Workers come and go, and key groups change hands, at any moment: the rows are those of
// a life in which nothing happened.
func TestOtherWorkersGoOnAsIfNothingHadBeen(t *testing.T) {
	calm, frames := calmJourney(t, 1)
	feeds, queries := names(calm.plan)
	for seed := range uint64(crashRuns()) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			j := newJourney(t, journeyPlan(1), frames, seed)
			held := uint64(0)
			for _, workers := range []int{3, 3, 2, 1, 2, 4} {
				left := max(0, len(j.pending)-len(frames)/10-j.r.IntN(len(frames)/16))
				j.until(func() bool { return len(j.pending) <= left })
				for range j.r.IntN(400) {
					j.turn(false)
				}
				j.take(j.same(workers, others(j.r, *j.journal.Owner(), j.plan.Workers, workers)))
				for f := range j.sums().Feeds {
					held += j.sums().Feeds[f].MessagesHeld
				}
			}
			j.end()
			j.like(calm, feeds, queries)
			if held == 0 {
				t.Error("nothing was ever held for order at a transfer")
			}
		})
	}
}

// otherLeg is a leg to a plan that lacks a feed and a query of j's, has new ones, and has
// its queries in another order.
func (j *journey) otherLeg(workers int) *leg {
	p := journeyPlan(workers)
	gone := &p.Feeds[3]
	gone.Name, gone.Removed = gone.Name+" (removed, 3)", true
	gone.Rules, gone.Columns, gone.Channels = nil, nil, 1
	added := beltPlan("csv", workers)
	added.Feeds[0].Name = "csv"
	p.Feeds = append(p.Feeds, added.Feeds[0])
	old := p.Queries
	p.Queries = nil
	l := &leg{plan: p, owners: steer.OwnerTable(workers), feeds: []int{0, 1, 2, -1, -1}}
	add := func(name string, from int, q plan.Query, of plan.Stream) {
		q.Name, q.Stream = name, len(p.Streams)
		of.Queries = []int{len(p.Queries)}
		q.Feed = of.Feed
		p.Streams, p.Queries, l.queries = append(p.Streams, of), append(p.Queries, q), append(l.queries, from)
	}
	streams := p.Streams
	p.Streams = nil
	add("itch50", 2, old[2], streams[old[2].Stream])
	wide := old[1]
	wide.Width *= 2
	add("wide", -1, wide, streams[old[1].Stream])
	add("json", 1, old[1], streams[old[1].Stream])
	csv := added.Streams[0]
	csv.Feed = 4
	add("csv", -1, added.Queries[0], csv)
	add("iex-deep", 0, old[0], streams[old[0].Stream])
	return l
}

// Feeds and queries come and go: the others do not notice, and nothing of those that are
// gone is missing in a ledger.
func TestAnotherPlanGoesOn(t *testing.T) {
	calm, frames := calmJourney(t, 2)
	whole := newJourney(t, newJourney(t, journeyPlan(2), nil, 1).otherLeg(2).plan, frames, 1)
	whole.end()
	for seed := range uint64(crashRuns()) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			workers := 1 + int(seed%3)
			j := newJourney(t, journeyPlan(2), frames, seed)
			left := len(frames)*3/4 - j.r.IntN(len(frames)/10)
			j.until(func() bool { return len(j.pending) <= left })
			for range j.r.IntN(400) {
				j.turn(false)
			}
			before := event.Nanos(frames[len(frames)-len(j.pending)].Meta.ReceiveNanos)
			raw := j.sums().Feeds[3].Frames
			l := j.otherLeg(workers)
			j.take(l)
			csv := journeyFrames(t, &plan.Plan{Feeds: l.plan.Feeds[4:]})
			for i := range csv {
				csv[i].Meta.Feed = 4
			}
			csv = slices.DeleteFunc(csv, func(f xsk.Frame) bool { return event.Nanos(f.Meta.ReceiveNanos) <= before.Add(4*time.Millisecond) })
			j.pending = append(slices.Clone(j.pending), csv...)
			slices.SortStableFunc(j.pending, func(a, b xsk.Frame) int { return int(a.Meta.ReceiveNanos) - int(b.Meta.ReceiveNanos) })
			j.end()
			j.like(calm, []string{"iex-deep", "json", "itch50"}, []string{"iex-deep", "json", "itch50"})
			sum := j.sums()
			if n := sum.Feeds[3].Frames; n < raw || n == 0 {
				t.Errorf("%d frames of the feed that is gone, %d had been received", n, raw)
			}
			if sum.Feeds[4].Frames != uint64(len(csv)) || len(j.of("csv")) == 0 {
				t.Errorf("%d frames of the feed that came, %d were sent; %d rows", sum.Feeds[4].Frames, len(csv), len(j.of("csv")))
			}
			late(t, j.of("wide"), whole.of("wide"))
		})
	}
}

// late compares the rows of a query that began late: what is not marked is whole.
func late(t *testing.T, got, whole []string) {
	t.Helper()
	marked, right := 0, 0
	for _, r := range got {
		var start, end, flags int64
		var key, name string
		if _, err := fmt.Sscanf(r, "%s %d-%d %q flags %d", &name, &start, &end, &key, &flags); err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		if flags&outbox.FlagIncomplete != 0 {
			marked++
			continue
		}
		if _, ok := slices.BinarySearch(whole, r); !ok {
			t.Errorf("a row is neither whole nor marked: %s", r)
			return
		}
		right++
	}
	if marked == 0 || right == 0 {
		t.Errorf("%d rows are marked and %d whole, of %d", marked, right, len(whole))
	}
}

// What does not fit is said with its limit, and the old workers go on.
func TestWhatDoesNotFitLeavesEverythingAsItWas(t *testing.T) {
	calm, frames := calmJourney(t, 2)
	feeds, queries := names(calm.plan)
	j := newJourney(t, journeyPlan(2), frames, 3)
	for range 20 { // at any time but in a hold
		j.until(func() bool { return len(j.pending) <= len(frames)*2/3 || j.r.IntN(1000) == 0 })
		if _, err := j.views(); !errors.Is(err, ErrNotHeld) {
			t.Fatalf("OpenHeld of a worker at work = %v", err)
		}
	}
	j.until(func() bool { return len(j.pending) <= len(frames)*2/3 })
	for _, c := range []struct {
		change func(p *plan.Plan)
		text   string
	}{
		{func(p *plan.Plan) { p.Feeds[0].Channels = 2 }, "raise channels"},
		{func(p *plan.Plan) { p.Feeds[2].Orders = 10 }, "raise orders"},
		{func(p *plan.Plan) { p.Queries[2].Keys = 7 }, "keys or aggregates differ"},
		{func(p *plan.Plan) { p.Feeds[0].Place = plan.Placement{Kind: plan.PlaceTuple, Fields: 1} }, "place it by its session"},
	} {
		l := j.same(1, steer.OwnerTable(1))
		l.plan.Feeds, l.plan.Queries = slices.Clone(l.plan.Feeds), slices.Clone(l.plan.Queries)
		c.change(l.plan)
		j.settled(0)
		x, err := j.next(l)
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v, want it to say %q", err, c.text)
			continue
		}
		x.reopen()
		if err := x.tryStart(); !errors.Is(err, arena.ErrLayout) {
			t.Errorf("workers start over what was broken off: %v", err)
		}
		j.reopen()
		j.start()
	}
	j.segment.SetCommand(segment.Go)
	j.end()
	j.like(calm, feeds, queries)
}

// Losses that a worker has marked once, and would mark again behind the frames that lay in
// its rings, are marked though the worker is no more; what was told is not told twice.
func TestLossesOfAWorkerThatGoesAreMarked(t *testing.T) {
	frames := journeyFrames(t, journeyPlan(2))
	j := newJourney(t, journeyPlan(2), frames, 5)
	j.until(func() bool { return len(j.pending) <= len(frames)/2 })
	j.tick()
	const json = 1
	for i, w := range j.workers {
		for !w.hit() { // a batch is on its way
			j.cycle(i, false)
		}
		w.markLost(3, w.receiver.(*tap))
		if w.again == 0 {
			t.Fatal("nothing is to be marked again")
		}
	}
	kept := j.workers[0]
	var all [event.GroupCount]uint16
	l := j.same(1, all)
	j.settled(0)
	number := j.workers[0].feeds[json].channels[0].Gaps
	j.settled(2) // worker 1 takes what it has, worker 0 does not
	frame := kept.counters.Worker.Frames
	j.route = all
	x, err := j.next(l)
	if err != nil {
		t.Fatal(err)
	}
	j.plant, j.i, j.idle = x, 0, 0
	w := j.workers[0]
	if w.lost != 3 || w.again-w.counters.Worker.Frames != kept.again-frame {
		t.Errorf("%d lost, to be marked again after %d frames, want 3 and %d", w.lost, w.again-w.counters.Worker.Frames, kept.again-frame)
	}
	if c := &w.feeds[json].channels[0]; c.Gaps != number+1 || c.Closed >= c.Gaps {
		t.Errorf("%+v, want one more gap than %d, and it open", c, number)
	}
	w.markLost(3, w.receiver.(*tap))
	if c := &w.feeds[json].channels[0]; c.Gaps != number+1 {
		t.Error("what was told is told again")
	}
	j.end()
	marked := 0
	for _, r := range j.of("json") {
		if strings.Contains(r, fmt.Sprintf("flags %d ", outbox.FlagIncomplete)) {
			marked++
		}
	}
	if n := len(j.of("json")); marked == 0 || marked == n {
		t.Errorf("%d of %d rows are marked", marked, n)
	}
}

// Packets of a channel that have come to another worker, while groups changed hands and it
// was taken back, hold nothing up and are in the ledgers.
func TestAStrayChannelEndsInATransfer(t *testing.T) {
	frames := journeyFrames(t, journeyPlan(2))
	j := newJourney(t, journeyPlan(2), frames, 6)
	j.until(func() bool { return len(j.pending) <= len(frames)*2/3 })
	strays := 0
	for i := range j.pending {
		if m := &j.pending[i].Meta; m.Feed == 0 && strays < 5 && i > 300 && i%2 == 0 {
			s := j.sources[1-j.route[m.Group]]
			s.frames = append(s.frames, j.pending[i])
			strays++
		}
	}
	j.until(func() bool { return len(j.pending) <= len(frames)/2 })
	before := len(j.workers[0].feeds[0].sequencer.Channels()) + len(j.workers[1].feeds[0].sequencer.Channels())
	if before <= journeySessions {
		t.Fatalf("%d channels of %d sessions", before, journeySessions)
	}
	j.take(j.same(1, [event.GroupCount]uint16{}))
	if n := len(j.workers[0].feeds[0].sequencer.Channels()); n != journeySessions {
		t.Errorf("%d channels of %d sessions", n, journeySessions)
	}
	n := len(j.of("iex-deep"))
	j.until(func() bool { return len(j.pending) == 0 })
	for range 1000 {
		j.turn(false)
	}
	j.collect()
	if late := len(j.of("iex-deep")); late < n+100 {
		t.Errorf("%d rows, %d before: something holds the watermark", late, n)
	}
	j.end()
	j.sums()
}
