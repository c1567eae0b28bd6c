package itch

import (
	"errors"
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

// A box is a decoder of one worker, with its slots.
type box struct {
	t      interface{ Fatalf(string, ...any) }
	feed   *plan.Feed
	region *arena.Region
	undo   *arena.Undo
	d      *decoder
	commit *uint64
	before memory
	used   [4]bool
}

func (b *box) open(region *arena.Region, err error) {
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	b.region = region
	var errs [3]error
	var commit []uint64
	b.undo, errs[0] = arena.NewUndo(region, 2*locates+200)
	commit, errs[1] = arena.Slice[uint64](region, "commit", 1)
	b.d, errs[2] = build(b.feed, region, b.undo)
	for _, err := range append(errs[:], region.Complete(1)) {
		if err != nil {
			b.t.Fatalf("%v", err)
		}
	}
	b.commit = &commit[0]
}

// batch commits what f does, or takes it back and reports false if f is killed.
func (b *box) batch(points int64, f func()) bool {
	b.before = remember(b.d)
	b.undo.Begin(*b.commit + 1)
	if !killtest.Attempt(func() { killtest.Arm(points); f() }) {
		*b.commit++
		return true
	}
	fd, err := unix.Dup(b.region.FD())
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	_ = b.region.Close()
	b.open(arena.Open(fd))
	if _, err := b.undo.Rollback(*b.commit); err != nil {
		b.t.Fatalf("%v", err)
	}
	if got := remember(b.d); !got.equal(&b.before) {
		b.t.Fatalf("memory is not that of the last commit")
	}
	return false
}

// slot returns one that is not in use.
func (b *box) slot(rng *rand.Rand) int {
	for {
		if i := rng.IntN(len(b.used)); !b.used[i] {
			b.used[i] = true
			return i
		}
	}
}

// Channels that move among workers decode as one decoder does.
func TestChannelsMove(t *testing.T) {
	format := Format()
	moves, parts := 0, 0
	round := func(r *rapid.T) {
		feed := &plan.Feed{Name: "f", Channels: 4, Orders: 200, Kinds: ^uint64(0)}
		feed.Columns = wiretest.Columns(t, &format, "message", "symbol", "price", "size", "side")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 1))
		one := &box{t: r, feed: feed}
		one.open(arena.New("one", 1<<23))
		boxes := []*box{one}
		for range 2 {
			b := &box{t: r, feed: feed}
			b.open(arena.New("many", 1<<23))
			boxes = append(boxes, b)
		}
		defer func() {
			for _, b := range boxes {
				_ = b.region.Close()
			}
		}()
		type where struct {
			box  *box
			slot int
		}
		var at [3]where
		for i := range at {
			at[i].box = boxes[1+rng.IntN(2)]
			at[i].slot = at[i].box.slot(rng)
		}
		decode := func(b *box, p wire.Packet, slot int) string {
			p.Channel = slot
			batch := wiretest.Batch(feed)
			for !b.batch(0, func() { b.d.Decode(&p, batch) }) {
			}
			return fmt.Sprint(wiretest.Rows(batch, feed), p.Progress)
		}
		for range rapid.IntRange(1, 20).Draw(r, "packets") {
			i := rapid.IntRange(0, 2).Draw(r, "channel")
			p := wire.Packet{Progress: wire.Progress{Max: event.MinNanos}, Receive: rapid.SampledFrom([]event.Nanos{0, 1e17, 1e18}).Draw(r, "receive")}
			for range rapid.IntRange(0, 20).Draw(r, "messages") {
				m, _ := message(r, rapid.SampledFrom([]byte("RSAAAAAAAFEECXDUP")).Draw(r, "type"))
				p.Payload = block(p.Payload, m)
				p.Count++
			}
			if got, want := decode(at[i].box, p, at[i].slot), decode(one, p, i); got != want {
				r.Fatalf("got\n%s\nwant\n%s", got, want)
			}
			if rapid.IntRange(0, 2).Draw(r, "move") > 0 {
				continue
			}
			src, dst := at[i], where{box: boxes[1]}
			if src.box == dst.box {
				dst.box = boxes[2]
			}
			dst.slot = dst.box.slot(rng)
			next := 0
			for more := true; more; {
				var to int
				var err error
				done := dst.box.batch(int64(rng.IntN(20*(1+rng.IntN(8)))), func() {
					if next > 0 { // so that a few orders are a call
						arena.SaveSlice(dst.box.undo, dst.box.d.symbols[:dst.box.undo.Cap()-2*orderWords])
					}
					to, err = src.box.d.Move(dst.box.d, src.slot, dst.slot, next)
				})
				if err != nil {
					r.Fatalf("%v", err)
				}
				if done {
					next, more = to, to > 0
					parts++
				}
			}
			moves++
			for !src.box.batch(int64(rng.IntN(20)), func() { src.box.d.Forget(src.slot) }) {
			}
			src.box.used[src.slot] = false
			at[i] = dst
		}
		if boxes[1].d.book.live[0]+boxes[2].d.book.live[0] != one.d.book.live[0] {
			r.Fatalf("%d and %d orders, want %d", boxes[1].d.book.live[0], boxes[2].d.book.live[0], one.d.book.live[0])
		}
	}
	killtest.Until(t, func() bool { return moves >= 100 && parts > moves }, func() { rapid.Check(t, round) })
	t.Logf("%d moves in %d parts", moves, parts)
}

func TestAChannelThatDoesNotFitChangesNothing(t *testing.T) {
	format := Format()
	feed := func(orders int, kinds uint64) *plan.Feed {
		return &plan.Feed{Name: "f", Channels: 2, Orders: orders, Kinds: kinds, Columns: wiretest.Columns(t, &format, "symbol")}
	}
	var boxes [3]*box
	for i, f := range []*plan.Feed{feed(10, ^uint64(0)), feed(3, ^uint64(0)), feed(10, 1<<kindCross)} {
		boxes[i] = &box{t: t, feed: f}
		boxes[i].open(arena.New("box", 1<<23))
		defer func() { _ = boxes[i].region.Close() }()
	}
	big, small, bookless := boxes[0], boxes[1], boxes[2]
	for ref := range uint64(4) {
		big.d.book.put(0, ref, buySide, 1, 1)
	}
	small.d.book.put(0, 9, buySide, 1, 1)
	before := remember(small.d)
	for slot, want := range map[int]bool{0: false, 1: false} {
		_, err := big.d.Move(small.d, 0, slot, 0)
		if got := remember(small.d); errors.Is(err, wire.ErrFit) == want || !got.equal(&before) {
			t.Errorf("slot %d: %v", slot, err)
		}
	}
	big.d.book.remove(big.d.book.find(0, 0))
	if err := big.d.Fits(small.d, 0, 0); err != nil { // the order there is void then
		t.Errorf("three orders into a book of three: %v", err)
	}
	if err := big.d.Fits(small.d, 0, 1); !errors.Is(err, wire.ErrFit) {
		t.Errorf("three orders beside one in a book of three: %v", err)
	}
	if next, err := big.d.Move(bookless.d, 0, 1, 0); next != 0 || err != nil {
		t.Errorf("to a plan without orders: %d, %v", next, err)
	}
	if next, err := bookless.d.Move(small.d, 0, 1, 0); next != 0 || err != nil {
		t.Errorf("from a plan without orders: %d, %v", next, err)
	}
	if !slices.Equal(small.d.book.live, []uint64{1}) {
		t.Errorf("%d orders", small.d.book.live)
	}
}
