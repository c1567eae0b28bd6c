package exchange

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// newTestLane is a lane on the Go heap: the race detector does not see mapped memory.
func newTestLane(words int) *Lane {
	return &Lane{control: make([]uint64, controlWords), ring: make([]uint64, words), mask: uint64(words - 1)}
}

// A lane is a queue of words: what one thread puts, in bursts of any size, another
// takes in order, round and round a ring that is often full and often empty.
func TestLaneIsAQueueBetweenTwoThreads(t *testing.T) {
	const total = 200_000
	for _, words := range []int{8, 64, 1024} {
		l := newTestLane(words)
		var wg sync.WaitGroup
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(words)))
			for n := uint64(0); n < total; {
				burst := min(uint64(1+r.IntN(words/2)), total-n)
				for !l.Room(int(burst)) {
					runtime.Gosched()
				}
				for range burst {
					l.Put(n * 3)
					n++
				}
				l.Publish(n)
			}
			l.Publish(End)
		})
		r := rand.New(rand.NewPCG(2, uint64(words)))
		n := uint64(0)
		for {
			ok, frontier := l.available()
			if !ok {
				if frontier == End {
					break
				}
				if frontier > n {
					t.Fatalf("%d words: the frontier says %d, only %d words were seen", words, frontier, n)
				}
				l.release()
				runtime.Gosched()
				continue
			}
			if got := l.word(0); got != n*3 {
				t.Fatalf("%d words: word %d is %d, want %d", words, n, got, n*3)
			}
			l.head++
			if n++; r.IntN(8) == 0 {
				l.release()
			}
		}
		wg.Wait()
		if n != total {
			t.Errorf("%d words: %d came through, want %d", words, n, total)
		}
	}
}

func TestLaneHasRoomForExactlyWhatItHolds(t *testing.T) {
	l := newTestLane(8)
	for i := range 8 {
		if !l.Room(8-i) || l.Room(9-i) {
			t.Fatalf("with %d words in it, Room(%d), Room(%d) = %v, %v, want true, false", i, 8-i, 9-i, l.Room(8-i), l.Room(9-i))
		}
		l.Put(uint64(i))
	}
	if ok, _ := l.available(); ok {
		t.Error("words are there before they are published")
	}
	l.Publish(0)
	if ok, _ := l.available(); !ok {
		t.Fatal("published words are not there")
	}
	l.head += 3
	if l.Room(1) {
		t.Error("there is room before it is released")
	}
	l.release()
	if !l.Room(3) || l.Room(4) {
		t.Error("releasing 3 words does not make room for 3")
	}
}

// testPlan has two feeds, one of them with identities, and streams of all shapes.
func testPlan(workers int, replay bool) *plan.Plan {
	queries := make([]int, 70)
	for i := range queries {
		queries[i] = i
	}
	columns := []plan.Column{{Type: event.Int64}, {Type: event.Text}, {Type: event.Float64}, {Type: event.Decimal, Scale: 2}}
	return &plan.Plan{
		Workers: workers, Replay: replay, Batch: event.BatchMax,
		Feeds: []plan.Feed{{Columns: columns, Identity: true, Sequence: plan.IEXTP}, {Columns: columns}},
		Streams: []plan.Stream{
			{Feed: 0, Key: []int{0}, KeyWidth: 8, Columns: []int{0, 2, 3}, Queries: queries[:1]},
			{Feed: 0, Key: []int{1}, KeyWidth: 21, Columns: []int{1, 2}, Queries: queries},
			{Feed: 1, Key: []int{0, 1}, KeyWidth: 64, Queries: queries[:3]},
		},
	}
}

func newTestBatch(f *plan.Feed) *event.Batch {
	return plan.NewBatch(f.Columns)
}

func newTestKeyed(p *plan.Plan, s int) *event.Keyed {
	st := &p.Streams[s]
	k := event.NewKeyed(newTestBatch(&p.Feeds[st.Feed]), st.KeyWidth, len(st.Queries))
	if p.Replay {
		k.Position = make([]uint64, event.BatchMax)
	}
	return k
}

// fill writes n random events.
func fill(r *rand.Rand, p *plan.Plan, s int, k *event.Keyed, n int) {
	b := k.Batch
	st := &p.Streams[s]
	for range n {
		i := b.N
		b.Time[i] = event.Nanos(r.Int64() - r.Int64())
		b.Chan[i], b.Order[i], b.Seq[i], b.Index[i] = r.Uint64(), r.Uint64(), r.Uint64(), r.Uint32N(1<<16)
		b.Source[i], b.Rank[i] = r.Uint32N(100), r.Uint32N(1<<24)
		for c, col := range p.Feeds[st.Feed].Columns {
			switch {
			case r.IntN(4) == 0:
				b.SetNull(c)
			case col.Type == event.Text:
				b.SetText(c, make([]byte, r.IntN(20)))
			default:
				b.SetNum(c, r.Int64()-r.Int64())
			}
		}
		key := make([]byte, r.IntN(st.KeyWidth+1))
		for j := range key {
			key[j] = byte(r.Uint32())
		}
		k.PutKey(i, key)
		k.Hash[i] = r.Uint64()
		for q := range k.Select {
			if r.IntN(3) == 0 {
				k.Select[q] = append(k.Select[q], uint16(i))
			}
		}
		b.N++
	}
}

// show is what an owner must know of event i.
func show(p *plan.Plan, s int, k *event.Keyed, i int) string {
	st := &p.Streams[s]
	b := k.Batch
	out := fmt.Sprintf("%d %x %x %d rank %d index %d:", b.Time[i], k.Hash[i], event.AppendKey(nil, k.Key[i*k.Words:(i+1)*k.Words], int(k.KeyLen[i])), k.KeyLen[i], b.Rank[i], b.Index[i])
	for q, sel := range k.Select {
		if slices.Contains(sel, uint16(i)) {
			out += fmt.Sprint(" q", q)
		}
	}
	for _, c := range st.Columns {
		switch col := &b.Cols[c]; {
		case !col.Valid.Has(i):
			out += " null"
		case col.Type == event.Text:
			out += " text"
		default:
			out += fmt.Sprint(" ", col.Num[i])
		}
	}
	if p.Feeds[st.Feed].Identity {
		out += fmt.Sprint(" id ", b.Chan[i], b.Order[i], b.Seq[i])
	}
	return out
}

// An event arrives at its owner as it was sent, whatever its stream's shape and
// wherever the ring's end cuts it.
func TestEventsArriveAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		p := testPlan(2, false)
		lane := newTestLane(1 << 16)
		skip := uint64(r.IntN(1 << 16))
		lane.tail, lane.head, lane.control[headWord], lane.control[tailWord], lane.headSeen, lane.tailSeen = skip, skip, skip, skip, skip, skip
		var owner [event.GroupCount]uint16
		for g := range owner {
			owner[g] = uint16(r.IntN(2))
		}
		out := NewOut(p, []*Lane{nil, lane}, &owner)
		in := NewInbox(p, []*Lane{lane, nil}, false)
		var want []string
		kept := map[int]int{}
		for s := range p.Streams {
			k := newTestKeyed(p, s)
			fill(r, p, s, k, 1+r.IntN(100))
			for i := range k.Batch.N {
				wanted := slices.ContainsFunc(k.Select, func(sel []uint16) bool { return slices.Contains(sel, uint16(i)) })
				if wanted && owner[event.Group(k.Hash[i])] == 1 {
					want = append(want, fmt.Sprint(s, " ", show(p, s, k, i)))
				}
			}
			selected := 0
			for _, sel := range k.Select {
				selected += len(sel)
			}
			out.Prepare(s, k)
			out.Begin(7, uint32(s))
			half := r.IntN(k.Batch.N + 1)
			out.Send(s, k, 0, half)
			out.Send(s, k, half, k.Batch.N)
			sent := make([]uint64, len(k.Select))
			out.Unselect(k, sent)
			for q, sel := range k.Select {
				kept[s] += len(sel) + int(sent[q])
				for _, i := range sel {
					if owner[event.Group(k.Hash[i])] != 0 {
						t.Fatalf("stream %d: event %d is still selected, its owner is another", s, i)
					}
				}
			}
			if kept[s] != selected {
				t.Fatalf("stream %d: %d kept or sent, %d were selected", s, kept[s], selected)
			}
		}
		out.Publish(0)
		var got []string
		for in.Next() == Event {
			k := newTestKeyed(p, in.Stream)
			fill(r, p, in.Stream, k, r.IntN(3))
			k.Batch.Reset()
			k.Reset()
			in.Take(k)
			if k.Batch.Source[0] != uint32(in.Stream) {
				t.Fatalf("source %d, want %d", k.Batch.Source[0], in.Stream)
			}
			got = append(got, fmt.Sprint(in.Stream, " ", show(p, in.Stream, k, 0)))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	})
}

// A release is a packet's events and marks.
type release struct {
	position uint64
	source   uint32
	events   int
	marks    int
}

// In replay the owner takes what all lanes bring in order of position, each release
// whole, and never takes anything that another lane could still precede, however
// the writers' publications interleave.
func TestLanesAreMergedInOrderOfPosition(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 0))
		workers := 1 + r.IntN(6)
		p := testPlan(workers, true)
		var lanes []*Lane
		scripts := make([][]release, workers)
		count := 0
		for position := uint64(1); position < 300; position += 1 + r.Uint64N(3) {
			w := r.IntN(workers)
			scripts[w] = append(scripts[w], release{position, r.Uint32N(3), r.IntN(4), r.IntN(3)})
			count += scripts[w][len(scripts[w])-1].events
		}
		for range workers {
			lanes = append(lanes, newTestLane(1<<13))
		}
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() { write(p, lanes[w], scripts[w], seed*100+uint64(w)) })
		}
		in := NewInbox(p, lanes, true)
		in.Gate = 1 << 10
		k := newTestKeyed(p, 0)
		last, events := uint64(0), 0
		for {
			s := in.Next()
			if s == Empty {
				in.Release()
				runtime.Gosched()
				continue
			}
			if s == Gate {
				if in.Reached != End {
					t.Fatalf("seed %d: the gate is reached with %d to come", seed, in.Reached)
				}
				break
			}
			if in.Position < last {
				t.Fatalf("seed %d: position %d after %d", seed, in.Position, last)
			}
			last = in.Position
			if s == Mark && (in.Mark.Position != last || in.Mark.Time != event.Nanos(last) || in.Mark.Source != in.Source) {
				t.Fatalf("seed %d: mark %+v at position %d", seed, in.Mark, last)
			}
			if s == Event {
				in.Take(k)
				events++
				if k.Position[0] != last<<event.RankBits|uint64(k.Batch.Rank[0]) {
					t.Fatalf("seed %d: event position %x at %d", seed, k.Position[0], last)
				}
				k.Batch.Reset()
				k.Reset()
			}
		}
		wg.Wait()
		if events != count {
			t.Errorf("seed %d: %d events, want %d", seed, events, count)
		}
	}
}

// write sends a script, publishing at random points with the best frontier it knows.
func write(p *plan.Plan, l *Lane, script []release, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	out := NewOut(p, []*Lane{l}, new([event.GroupCount]uint16))
	k := newTestKeyed(p, 0)
	for i, x := range script {
		for !l.Room(2000) {
			runtime.Gosched()
		}
		out.Begin(x.position, x.source)
		for range x.events {
			k.Batch.Reset()
			k.Reset()
			fill(r, p, 0, k, 1)
			k.Select[0] = append(k.Select[0][:0], 0)
			out.Prepare(0, k)
			out.Send(0, k, 0, 1)
			if r.IntN(5) == 0 {
				out.Publish(x.position)
			}
		}
		for m := range x.marks {
			kind := event.MarkRelease
			if m == 0 {
				kind = event.MarkHit
			}
			out.Mark(0, &event.Mark{Kind: kind, Source: x.source, Position: x.position, Time: event.Nanos(x.position)})
		}
		switch {
		case r.IntN(3) > 0:
		case i+1 < len(script):
			out.Publish(script[i+1].position)
		default:
			out.Publish(x.position + 1)
		}
	}
	out.Publish(End)
}

// Taking stops at the gate, and nothing before it is left out.
func TestTheGateStopsTheMerge(t *testing.T) {
	p := testPlan(2, true)
	lanes := []*Lane{newTestLane(1 << 12), newTestLane(1 << 12)}
	in := NewInbox(p, lanes, true)
	in.Gate = 10
	mark := func(l *Lane, position uint64) {
		NewOut(p, []*Lane{l}, new([event.GroupCount]uint16)).Mark(0, &event.Mark{Kind: event.MarkRelease, Position: position})
	}
	mark(lanes[0], 9)
	mark(lanes[0], 10)
	lanes[0].Publish(11)
	if s := in.Next(); s != Empty {
		t.Fatalf("with nothing known of lane 1: %v, want Empty", s)
	}
	lanes[1].Publish(9)
	if s := in.Next(); s != Empty {
		t.Fatalf("lane 1 may still bring position 9: %v, want Empty", s)
	}
	lanes[1].Publish(12)
	if s := in.Next(); s != Mark || in.Position != 9 {
		t.Fatalf("%v at %d, want the mark at 9", s, in.Position)
	}
	if s := in.Next(); s != Gate || in.Reached != 10 {
		t.Fatalf("%v, %d to come, want the gate with 10 to come", s, in.Reached)
	}
	in.Gate = 20
	if s := in.Next(); s != Mark || in.Position != 10 {
		t.Fatalf("%v at %d, want the mark at 10", s, in.Position)
	}
	if s := in.Next(); s != Empty {
		t.Fatalf("%v, want Empty", s)
	}
}

// In run each lane is taken as it comes: nothing is lost, and a lane's order is kept.
func TestLanesAreTakenAsTheyCome(t *testing.T) {
	p := testPlan(4, false)
	var lanes []*Lane
	var wg sync.WaitGroup
	for w := range 4 {
		l := newTestLane(1 << 13)
		lanes = append(lanes, l)
		wg.Go(func() {
			var script []release
			for i := range 200 {
				script = append(script, release{uint64(i), uint32(w), i % 3, 2})
			}
			write(p, l, script, uint64(w))
		})
	}
	in := NewInbox(p, lanes, false)
	k := newTestKeyed(p, 0)
	last, events := map[uint32]uint64{}, 0
	for !in.Drained() {
		s := in.Next()
		if s == Empty {
			in.Release()
			runtime.Gosched()
			continue
		}
		if in.Position < last[in.Source] {
			t.Fatalf("source %d: position %d after %d", in.Source, in.Position, last[in.Source])
		}
		last[in.Source] = in.Position
		if s == Event {
			in.Take(k)
			events++
			k.Batch.Reset()
			k.Reset()
		}
	}
	wg.Wait()
	if want := 4 * 199; events != want {
		t.Errorf("%d events, want %d", events, want)
	}
}

// Sending a batch and taking it back out allocates nothing.
func TestExchangeAllocatesNothing(t *testing.T) {
	p := testPlan(2, true)
	lane := newTestLane(1 << 16)
	out, in := NewOut(p, []*Lane{nil, lane}, &[event.GroupCount]uint16{}), NewInbox(p, []*Lane{lane}, true)
	in.Gate = End
	for g := range out.owner {
		out.owner[g] = 1
	}
	from, to := newTestKeyed(p, 1), newTestKeyed(p, 1)
	fill(rand.New(rand.NewPCG(1, 1)), p, 1, from, 200)
	position := uint64(0)
	if n := testing.AllocsPerRun(100, func() {
		position++
		out.Prepare(1, from)
		out.Begin(position, 3)
		out.Send(1, from, 0, 200)
		out.Mark(0, &event.Mark{Kind: event.MarkRelease, Position: position})
		out.Publish(position + 1)
		for {
			switch in.Next() {
			case Event:
				in.Take(to)
				continue
			case Mark:
				continue
			}
			break
		}
		in.Release()
		to.Batch.Reset()
		to.Reset()
	}); n != 0 {
		t.Errorf("%v allocations a batch, want 0", n)
	}
	if in.Position != position {
		t.Errorf("taken up to position %d, want %d", in.Position, position)
	}
}

// Both ends of a lane are taken up where their last commits left off, at any record,
// whatever had been put or taken since: the reader gets every record once, and of the
// source that it is of.
func TestALaneIsTakenUpAtBothEnds(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		p := testPlan(2, false)
		lane := newTestLane(1 << 10)
		var owner [event.GroupCount]uint16
		for g := range owner {
			owner[g] = 1
		}
		out, in := NewOut(p, []*Lane{nil, lane}, &owner), NewInbox(p, []*Lane{lane, nil}, false)
		k := newTestKeyed(p, 0)
		var put, got, sent, taken int // records, and those of them that are committed
		written, places := make([]uint64, 2), make([]Place, 1)
		source := func(i int) uint32 { return uint32(i/5) % 7 }
		for got < 400 {
			switch r.IntN(8) {
			case 0, 1, 2:
				if !lane.Room(100) {
					continue
				}
				out.Begin(0, source(put))
				if put%3 == 0 {
					out.Mark(0, &event.Mark{Kind: event.MarkGapOpen, Gap: uint32(put), Source: source(put)})
				} else {
					k.Batch.Reset()
					k.Reset()
					fill(r, p, 0, k, 1)
					k.Select[0] = append(k.Select[0][:0], 0)
					k.Batch.Time[0] = event.Nanos(put)
					out.Prepare(0, k)
					out.Send(0, k, 0, 1)
				}
				put++
			case 3, 4:
				s := in.Next()
				if s == Empty {
					continue
				}
				number, src := int(in.Mark.Gap), in.Mark.Source
				if s == Event {
					k.Batch.Reset()
					k.Reset()
					in.Take(k)
					number, src = int(k.Batch.Time[0]), k.Batch.Source[0]
				}
				if number != got || src != source(got) {
					t.Fatalf("seed %d: record %d of source %d, want %d of source %d", seed, number, src, got, source(got))
				}
				got++
			case 5:
				sent = put
				out.Written(written)
				out.Publish(0)
			case 6:
				taken = got
				in.Taken(places)
				in.Release()
			default:
				put, got = sent, taken
				lane.tail, lane.headSeen, lane.head, lane.tailSeen = 0, 0, 0, 0 // nobody knows any more
				out, in = NewOut(p, []*Lane{nil, lane}, &owner), NewInbox(p, []*Lane{lane, nil}, false)
				out.Resume(written)
				in.Resume(places)
			}
		}
	}
}

// A reader knows that a hold has come through when the writer says so and the lane is
// empty.
func TestAHoldComesThroughALane(t *testing.T) {
	p := testPlan(2, false)
	lane := newTestLane(1 << 10)
	out, in := NewOut(p, []*Lane{nil, lane}, new([event.GroupCount]uint16)), NewInbox(p, []*Lane{lane, nil}, false)
	out.Mark(0, &event.Mark{Kind: event.MarkRelease})
	out.Publish(0)
	if in.Held(1) {
		t.Error("held before the writer has stopped")
	}
	out.Hold(1)
	if in.Held(1) || in.Held(2) {
		t.Error("held with a record in the lane, or for another hold")
	}
	if in.Next() != Mark {
		t.Fatal("no mark")
	}
	if !in.Held(1) || in.Held(2) {
		t.Error("not held, or for another hold")
	}
}
