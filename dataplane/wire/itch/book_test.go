package itch

import (
	"errors"
	"math/rand/v2"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/wire/wiretest"
)

// A change of size is a change of the memory that a feed needs.
var _ [24]byte = [unsafe.Sizeof(order{})]byte{}

type bookKey struct {
	channel int
	ref     uint64
}

type bookOrder struct{ side, price, shares uint32 }

// The book against a map, with so few references that all of them meet again.
func TestBookEqualsAMap(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		limit := rapid.IntRange(1, 40).Draw(r, "limit")
		region, err := arena.New("book", 1<<20)
		if err != nil {
			r.Fatal(err)
		}
		defer region.Close()
		k, err := newBook(region, nil, "f", 3, limit)
		if err != nil {
			r.Fatal(err)
		}
		twin := map[bookKey]bookOrder{}
		for range rapid.IntRange(0, 300).Draw(r, "steps") {
			key := bookKey{rapid.IntRange(0, 2).Draw(r, "channel"), rapid.Uint64Range(0, 30).Draw(r, "ref")}
			o := k.find(key.channel, key.ref)
			want, known := twin[key]
			if known != (o != nil) || known && (o.tag&3 != want.side || o.price != want.price || o.shares != want.shares) {
				r.Fatalf("find(%v) = %+v, want %+v, %v", key, o, want, known)
			}
			switch rapid.IntRange(0, 20).Draw(r, "step") {
			case 0:
				k.forget(key.channel)
				for other := range twin {
					if other.channel == key.channel {
						delete(twin, other)
					}
				}
			case 1, 2, 3, 4, 5:
				if known {
					k.remove(o)
					delete(twin, key)
				}
			case 6, 7:
				if known {
					shares := rapid.Uint32Range(0, 10).Draw(r, "shares")
					k.reduce(o, shares)
					if want.shares -= min(shares, want.shares); want.shares == 0 {
						delete(twin, key)
					} else {
						twin[key] = want
					}
				}
			default:
				v := bookOrder{rapid.Uint32Range(0, 2).Draw(r, "side"), rapid.Uint32().Draw(r, "price"), rapid.Uint32Range(1, 20).Draw(r, "shares")}
				room := known || len(twin) < limit
				if got := k.put(key.channel, key.ref, v.side, v.price, v.shares); got != room {
					r.Fatalf("put(%v) with %d of %d orders = %v, want %v", key, len(twin), limit, got, room)
				}
				if room {
					twin[key] = v
				}
			}
			if int(k.live[0]) != len(twin) {
				r.Fatalf("%d orders counted, want %d", k.live[0], len(twin))
			}
		}
	})
}

// A full book that turns over many times: nothing is refused for want of a free slot
// near home, and homes' counts stay true.
func TestBookTurnsOver(t *testing.T) {
	const limit = 20_000
	k, err := newBook(wiretest.Region(t, 8<<20), nil, "f", 2, limit)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	var keys []bookKey
	for i := range uint64(10 * limit) {
		if len(keys) == limit {
			at := random.IntN(len(keys))
			o := k.find(keys[at].channel, keys[at].ref)
			if o == nil {
				t.Fatalf("order %v is gone", keys[at])
			}
			k.remove(o)
			keys[at] = keys[len(keys)-1]
			keys = keys[:len(keys)-1]
		}
		key := bookKey{int(i % 2), i * 8}
		if !k.put(key.channel, key.ref, buySide, uint32(i), 1) {
			t.Fatalf("order %d: no room with %d of %d orders", i, len(keys), limit)
		}
		keys = append(keys, key)
	}
	counts := make([]int, len(k.slots))
	for i := range k.slots {
		if o := &k.slots[i]; o.tag != 0 {
			counts[k.home(int(o.channel), o.ref)]++
		}
	}
	for i := range k.slots {
		if int(k.slots[i].count) != counts[i] {
			t.Fatalf("home %d counts %d orders, has %d", i, k.slots[i].count, counts[i])
		}
	}
	k.forget(0)
	k.forget(1)
	for i := range uint64(limit) {
		if !k.put(0, i, sellSide, 1, 1) {
			t.Fatalf("order %d of a new session: no room among forgotten ones", i)
		}
	}
}

func TestNewBookNeedsRoom(t *testing.T) {
	if _, err := newBook(wiretest.Region(t, 1<<20), nil, "f", 1, 0); !errors.Is(err, errOrders) {
		t.Errorf("no orders: %v, want %v", err, errOrders)
	}
	if _, err := newBook(wiretest.Region(t, 4096), nil, "f", 1, 1000); !errors.Is(err, arena.ErrFull) {
		t.Errorf("a small region: %v, want %v", err, arena.ErrFull)
	}
}
