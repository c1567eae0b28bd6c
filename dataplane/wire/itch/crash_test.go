package itch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/fault/killtest"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/dataplane/wire"
	"github.com/headrace/headrace/dataplane/wire/wiretest"
)

// place is how far a life is.
type place struct {
	Packet, Out int
	Inside      bool
	Progress    wire.Progress
}

// A life decodes packets in batches, and may be killed.
type life struct {
	t       interface{ Fatalf(string, ...any) }
	feed    *plan.Feed
	packets []packet
	out     []string
	b       *event.Batch

	region    *arena.Region
	undo      *arena.Undo
	d         *decoder
	place     *place
	commit    *uint64
	before    memory // at the last commit
	rollbacks int
}

// A packet may begin a new epoch of its channel.
type packet struct {
	wire.Packet
	forget bool
}

// memory is all of a decoder's.
type memory struct {
	slots    []order
	channels []channelOrders
	live     []uint64
	symbols  []uint64
	highest  []uint32
	days     []midnight
}

func remember(d *decoder) memory {
	m := memory{highest: slices.Clone(d.highest), days: slices.Clone(d.days)}
	for c := range d.highest { // message draws no locate beyond these
		m.symbols = append(m.symbols, d.symbols[c*locates:][:8]...)
	}
	if d.book != nil {
		m.slots, m.channels, m.live = slices.Clone(d.book.slots), slices.Clone(d.book.channels), slices.Clone(d.book.live)
	}
	return m
}

func (m *memory) equal(n *memory) bool {
	return slices.Equal(m.slots, n.slots) && slices.Equal(m.channels, n.channels) && slices.Equal(m.live, n.live) &&
		slices.Equal(m.symbols, n.symbols) && slices.Equal(m.highest, n.highest) && slices.Equal(m.days, n.days)
}

func (l *life) open(region *arena.Region, err error) {
	if err != nil {
		l.t.Fatalf("%v", err)
	}
	l.region = region
	var errs [4]error
	var commit []uint64
	var places []place
	l.undo, errs[0] = arena.NewUndo(region, 1<<17)
	commit, errs[1] = arena.Slice[uint64](region, "commit", 1)
	places, errs[2] = arena.Slice[place](region, "place", 1)
	l.d, errs[3] = build(l.feed, region, l.undo)
	for _, err := range append(errs[:], region.Complete(1)) {
		if err != nil {
			l.t.Fatalf("%v", err)
		}
	}
	l.commit, l.place = &commit[0], &places[0]
}

func (l *life) reopen() {
	fd, err := unix.Dup(l.region.FD())
	if err != nil {
		l.t.Fatalf("%v", err)
	}
	_ = l.region.Close()
	l.open(arena.Open(fd))
	did, err := l.undo.Rollback(*l.commit)
	if err != nil {
		l.t.Fatalf("%v", err)
	}
	if did {
		l.rollbacks++
	}
	if got := remember(l.d); !got.equal(&l.before) {
		l.t.Fatalf("memory is not that of the last commit")
	}
	l.out = l.out[:l.place.Out]
}

// batch decodes n batches of events and commits them, unless it is to die before.
func (l *life) batch(n, limit int, die bool) (more bool) {
	l.undo.Begin(*l.commit + 1)
	at := *l.place
	for ; n > 0 && at.Packet < len(l.packets); n-- {
		p := l.packets[at.Packet]
		used := l.undo.Used()
		if at.Inside {
			p.Progress = at.Progress
		} else if p.forget {
			l.d.Forget(p.Channel)
			if saved := l.undo.Used() - used; saved > l.d.ForgetMax() {
				l.t.Fatalf("Forget saved %d words, want at most %d", saved, l.d.ForgetMax())
			}
			used = l.undo.Used()
		}
		l.b.Reset()
		l.b.Limit = limit
		at.Inside = l.d.Decode(&p.Packet, l.b)
		at.Progress = p.Progress
		if saved := l.undo.Used() - used; saved > l.d.SaveMax(len(p.Payload)) {
			l.t.Fatalf("Decode saved %d words, want at most %d", saved, l.d.SaveMax(len(p.Payload)))
		}
		for _, row := range wiretest.Rows(l.b, l.feed) {
			l.out = append(l.out, fmt.Sprint(row))
		}
		if !at.Inside {
			l.out = append(l.out, fmt.Sprintf("%+v", p.Progress))
			at.Packet++
		}
	}
	if die {
		killtest.Die()
	}
	at.Out = len(l.out)
	arena.Save(l.undo, l.place)
	*l.place = at
	if l.undo != nil {
		l.before = remember(l.d)
	}
	*l.commit++
	return at.Packet < len(l.packets)
}

func TestBatchesThatAreTakenBackAreDecodedAgain(t *testing.T) {
	format := Format()
	rollbacks := 0
	round := func(r *rapid.T) {
		feed := &plan.Feed{Name: "f", Channels: 2, Orders: rapid.IntRange(1, 12).Draw(r, "orders"), Kinds: ^uint64(0)}
		feed.Columns = wiretest.Columns(t, &format, "message", "symbol", "price", "size")
		if rapid.Bool().Draw(r, "few kinds") {
			feed.Kinds = 1<<kindExecution | 1<<rapid.IntRange(0, 20).Draw(r, "kind")
		}
		if rapid.Bool().Draw(r, "day") {
			feed.Day = "2010-12-24"
		}
		var packets []packet
		for range rapid.IntRange(1, 25).Draw(r, "packets") {
			p := packet{forget: rapid.IntRange(0, 5).Draw(r, "forget") == 0}
			p.Max, p.Channel, p.Receive = event.MinNanos, rapid.IntRange(0, 1).Draw(r, "channel"), rapid.SampledFrom([]event.Nanos{0, 1e17, 1e18}).Draw(r, "receive")
			for range rapid.IntRange(0, 20).Draw(r, "messages") {
				p.Count++
				m, _ := message(r, rapid.SampledFrom([]byte("RSAAAAAAFEECXDDUUP")).Draw(r, "type"))
				p.Payload = block(p.Payload, m)
			}
			packets = append(packets, p)
		}
		limit := rapid.IntRange(1, 5).Draw(r, "limit")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 1))
		var lives [2]*life // the first is not disturbed
		for i := range lives {
			l := &life{t: r, feed: feed, packets: packets, b: wiretest.Batch(feed)}
			lives[i] = l
			l.open(arena.New("life", 1<<23))
			defer func() { _ = l.region.Close() }()
			if l.before = remember(l.d); i == 0 {
				l.undo, l.d.undo = nil, nil
				if l.d.book != nil {
					l.d.book.undo = nil
				}
			}
			for more := true; more; {
				dead := killtest.Attempt(func() {
					if i == 1 {
						killtest.Arm(int64(rng.IntN(40 * (1 + rng.IntN(10)))))
					}
					more = l.batch(1+rng.IntN(6), limit, i == 1 && rng.IntN(5) == 0)
				})
				for again := dead || i == 1 && rng.IntN(4) == 0; again; more = true {
					again = killtest.Attempt(func() {
						killtest.Arm(int64(rng.IntN(40)))
						l.reopen()
					})
				}
			}
		}
		rollbacks += lives[1].rollbacks
		if !slices.Equal(lives[1].out, lives[0].out) {
			r.Fatalf("got\n%q\nwant\n%q", lives[1].out, lives[0].out)
		}
		got, want := remember(lives[1].d), remember(lives[0].d)
		if !got.equal(&want) {
			r.Fatalf("memory differs at the end")
		}
	}
	killtest.Until(t, func() bool { return rollbacks >= 30 }, func() { rapid.Check(t, round) })
	t.Logf("%d batches taken back", rollbacks)
}
