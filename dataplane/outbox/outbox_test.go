package outbox

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
)

func newRing(n int) Ring {
	return Ring{Bytes: make([]byte, n), Produced: new(atomic.Uint64), Freed: new(atomic.Uint64)}
}

var testLimits = Limits{Words: []int{3, 0, 17}, KeyWidth: []int{64, 8, 24}}

func anyPartial(t *rapid.T) Partial {
	p := Partial{
		Kind: Kind(rapid.IntRange(int(KindPartial), int(KindWatermark)).Draw(t, "kind")), Query: uint16(rapid.IntRange(0, 2).Draw(t, "query")),
		Firing: Firing(rapid.IntRange(int(OnTime), int(Flush)).Draw(t, "firing")), Flags: uint8(rapid.IntRange(0, 3).Draw(t, "flags")),
		Revision: rapid.Uint32().Draw(t, "revision"), Missing: rapid.Uint64().Draw(t, "missing"),
		Cause: rapid.Uint64().Draw(t, "cause"),
	}
	a, b := event.Nanos(rapid.Int64().Draw(t, "a")), event.Nanos(rapid.Int64().Draw(t, "b"))
	p.Start, p.End = min(a, b), max(a, b)
	if p.Kind == KindPartial {
		p.Key = rapid.SliceOfN(rapid.Byte(), 0, testLimits.KeyWidth[p.Query]).Draw(t, "key")
		n := testLimits.Words[p.Query]
		p.State = rapid.SliceOfN(rapid.Uint64(), n, n).Draw(t, "state")
	}
	return p
}

func clone(p *Partial) Partial {
	c := *p
	c.Key, c.State = bytes.Clone(p.Key), slices.Clone(p.State)
	return c
}

func same(a, b *Partial) bool {
	x, y := clone(a), clone(b)
	if len(x.Key)+len(y.Key) == 0 {
		x.Key, y.Key = nil, nil
	}
	if len(x.State)+len(y.State) == 0 {
		x.State, y.State = nil, nil
	}
	return reflect.DeepEqual(x, y)
}

func TestWhatIsPutComesOutInOrderAndOnlyAfterPublish(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ring := newRing(1024)
		w, r := NewWriter(ring), NewReader(ring, testLimits)
		var hidden, visible []Partial
		var got Partial
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				p := anyPartial(t)
				room := w.Room(RecordBytes(len(p.Key), len(p.State)))
				if ok := w.Put(&p); ok != room {
					t.Fatalf("Room said %v, Put said %v", room, ok)
				} else if ok {
					hidden = append(hidden, p)
				}
			case 2:
				w.Publish()
				visible, hidden = append(visible, hidden...), nil
			case 3:
				ok, err := r.Next(&got)
				if err != nil || ok != (len(visible) > 0) {
					t.Fatalf("Next() = %v, %v with %d visible", ok, err, len(visible))
				}
				if ok {
					if !same(&got, &visible[0]) {
						t.Fatalf("got %+v, want %+v", got, visible[0])
					}
					visible = visible[1:]
					r.Free(r.Position())
				}
			}
		}
	})
}

func TestWhatIsTakenBackIsNeverSeen(t *testing.T) {
	ring := newRing(4096)
	w, r := NewWriter(ring), NewReader(ring, testLimits)
	p := Partial{Kind: KindPartial, Firing: OnTime, State: make([]uint64, 3), Revision: 1}
	w.Put(&p)
	w.Publish()
	at := w.Position()
	p.Revision = 2
	w.Put(&p)
	w.SetPosition(at)
	p.Revision = 3
	w.Put(&p)
	w.Publish()
	var seen []uint32
	var got Partial
	for {
		ok, err := r.Next(&got)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		seen = append(seen, got.Revision)
	}
	if !slices.Equal(seen, []uint32{1, 3}) {
		t.Errorf("revisions = %v, want [1 3]", seen)
	}
}

func TestAFullRingRefusesAndThenGoesOn(t *testing.T) {
	ring := newRing(MinRing(RecordBytes(64, 17)))
	w, r := NewWriter(ring), NewReader(ring, testLimits)
	var got Partial
	put, taken := 0, 0
	for put < 1000 {
		p := Partial{Kind: KindPartial, Firing: Flush, Query: 2, Revision: uint32(put), State: make([]uint64, 17), Key: make([]byte, put%25)}
		if w.Put(&p) {
			put++
			continue
		}
		w.Publish()
		if used := len(ring.Bytes) - w.Free(); used == 0 {
			t.Fatalf("an empty ring of %d bytes refuses %d", len(ring.Bytes), RecordBytes(len(p.Key), 17))
		}
		for {
			ok, err := r.Next(&got)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if got.Revision != uint32(taken) {
				t.Fatalf("record %d has revision %d", taken, got.Revision)
			}
			taken++
		}
		r.Free(r.Position())
	}
}

// The race detector sees this one: the ring is Go memory, and only the positions
// order the two goroutines.
func TestOneProducerAndOneConsumerAtOnce(t *testing.T) {
	const records = 20_000
	ring := newRing(4096)
	done := make(chan error, 1)
	go func() {
		r := NewReader(ring, testLimits)
		var got Partial
		for next := uint32(0); next < records; {
			ok, err := r.Next(&got)
			if err != nil {
				done <- err
				return
			}
			if !ok {
				continue
			}
			if got.Revision != next || got.State[0] != uint64(next)*3 || int(got.Key[0]) != int(next%251) {
				done <- errors.New("a record came out changed")
				return
			}
			next++
			r.Free(r.Position())
		}
		done <- nil
	}()
	w := NewWriter(ring)
	p := Partial{Kind: KindPartial, Firing: OnTime, Key: make([]byte, 9), State: make([]uint64, 3)}
	for i := uint32(0); i < records; {
		p.Revision, p.State[0], p.Key[0] = i, uint64(i)*3, byte(i%251)
		if w.Put(&p) {
			i++
		}
		w.Publish()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestPuttingAndTakingDoNotAllocate(t *testing.T) {
	ring := newRing(1 << 12)
	w, r := NewWriter(ring), NewReader(ring, testLimits)
	p := Partial{Kind: KindPartial, Firing: OnTime, Key: []byte("MSFT"), State: make([]uint64, 3)}
	got := Partial{State: make([]uint64, 17)}
	if n := testing.AllocsPerRun(1000, func() {
		if !w.Put(&p) {
			t.Fatal("no room")
		}
		w.Publish()
		if ok, err := r.Next(&got); !ok || err != nil {
			t.Fatal(ok, err)
		}
		r.Free(r.Position())
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// The bytes are the peers' wire form: they change only with Version.
func TestTheRecordHasTheseBytes(t *testing.T) {
	p := Partial{
		Kind: KindPartial, Firing: Flush, Flags: FlagSequenced, Query: 0x0102, Revision: 7, Start: -1, End: 0x1122334455667788,
		Missing: 9, Cause: 0x0a0b, Key: []byte("ab"), State: []uint64{1, 1 << 63},
	}
	const want = "50000000" + "02010202" + "0201" + "0200" + "02000000" + "07000000" + "00000000" +
		"ffffffffffffffff" + "8877665544332211" + "0900000000000000" + "0b0a000000000000" + "6162000000000000" + "0100000000000000" + "0000000000000080"
	if got := hex.EncodeToString(AppendRecord(nil, &p)); got != want {
		t.Errorf("AppendRecord = %s\nwant %s", got, want)
	}
}

func TestEveryFaultIsFoundAndNamed(t *testing.T) {
	good := Partial{Kind: KindPartial, Firing: OnTime, Query: 1, Start: 5, End: 6, Key: []byte("abcd")}
	for _, c := range []struct {
		name  string
		spoil func(b []byte)
		want  Fault
	}{
		{"a length of nothing", func(b []byte) { b[0] = 0 }, FaultLength},
		{"a length beyond what was put", func(b []byte) { b[1] = 0xff }, FaultLength},
		{"a length that is no multiple of 8", func(b []byte) { b[0]++ }, FaultLength},
		{"a length that ends before the key", func(b []byte) { b[0] -= 8 }, FaultLength},
		{"a layout of the future", func(b []byte) { b[4]++ }, FaultVersion},
		{"a kind that is none", func(b []byte) { b[5] = 9 }, FaultKind},
		{"a pad in the middle of the ring", func(b []byte) { b[5] = 0xff }, FaultLength},
		{"a firing that is none", func(b []byte) { b[6] = 3 }, FaultFiring},
		{"no firing at all", func(b []byte) { b[6] = 0 }, FaultFiring},
		{"an unknown flag", func(b []byte) { b[7] = 4 }, FaultFlags},
		{"a query that the plan lacks", func(b []byte) { b[8] = 3 }, FaultQuery},
		{"a key longer than the query's", func(b []byte) { b[10] = 9 }, FaultKey},
		{"one state word too many", func(b []byte) { b[12] = 1 }, FaultWords},
		{"a number where zero belongs", func(b []byte) { b[20] = 1 }, FaultPadding},
		{"padding after the key that is not zero", func(b []byte) { b[62] = 1 }, FaultPadding},
		{"a window that ends before it starts", func(b []byte) { b[24] = 7 }, FaultWindow},
	} {
		ring := newRing(1024)
		w, r := NewWriter(ring), NewReader(ring, testLimits)
		w.Put(&good)
		w.Put(&good)
		w.Publish()
		c.spoil(ring.Bytes)
		var got Partial
		ok, err := r.Next(&got)
		var bad *RecordError
		if ok || !errors.As(err, &bad) || bad.Fault != c.want || !errors.Is(err, ErrBadRecord) {
			t.Errorf("%s: Next() = %v, %v, want fault %s", c.name, ok, err, c.want)
		}
		if ok, err := r.Next(&got); ok || err != nil {
			t.Errorf("%s: afterwards Next() = %v, %v, want nothing, once told", c.name, ok, err)
		}
		if r.Err() == nil || r.Pending() != 0 {
			t.Errorf("%s: the outbox is not quarantined", c.name)
		}
	}
}

func TestAProducerPositionThatCannotBeIsAFault(t *testing.T) {
	for _, produced := range []uint64{1, 7, 2048, 1 << 63} {
		ring := newRing(1024)
		r := NewReader(ring, testLimits)
		ring.Produced.Store(produced)
		var bad *RecordError
		if _, err := r.Next(new(Partial)); !errors.As(err, &bad) || bad.Fault != FaultPosition {
			t.Errorf("produced %d: %v, want fault position", produced, err)
		}
	}
}

func TestAPeersRecordsDecodeOneAfterAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Partial
		var wire []byte
		for range rapid.IntRange(1, 5).Draw(t, "n") {
			all = append(all, anyPartial(t))
			wire = AppendRecord(wire, &all[len(all)-1])
		}
		var got Partial
		for i := range all {
			rest, err := DecodeRecord(&got, wire, &testLimits)
			if err != nil || !same(&got, &all[i]) {
				t.Fatalf("record %d: %+v, %v, want %+v", i, got, err, all[i])
			}
			wire = rest
		}
		if len(wire) != 0 {
			t.Fatalf("%d bytes left", len(wire))
		}
	})
}

// FuzzReader checks that a ring of any bytes, with any producer's position, is
// read to an end without a panic, and that what comes out keeps the limits.
func FuzzReader(f *testing.F) {
	ring := newRing(512)
	w := NewWriter(ring)
	for i := range 4 {
		w.Put(&Partial{Kind: KindPartial, Firing: OnTime, Revision: uint32(i), Key: []byte("key"), State: make([]uint64, 3)})
	}
	f.Add(bytes.Clone(ring.Bytes), w.Position(), uint64(0), uint64(1))
	f.Add(make([]byte, 512), uint64(512), uint64(0), uint64(2))
	f.Fuzz(func(t *testing.T, content []byte, produced, freed, seed uint64) {
		ring := newRing(512)
		copy(ring.Bytes, content)
		ring.Freed.Store(freed &^ 7)
		ring.Produced.Store(produced)
		r := NewReader(ring, testLimits)
		random := rand.New(rand.NewPCG(seed, 1))
		var p Partial
		for range 200 {
			ok, err := r.Next(&p)
			if err != nil && r.Err() == nil {
				t.Fatal("an error without quarantine")
			}
			if !ok {
				if r.Err() != nil {
					return
				}
				ring.Produced.Store(r.Position() + uint64(random.IntN(600)))
				continue
			}
			if p.Kind < KindPartial || p.Kind > KindWatermark || int(p.Query) >= len(testLimits.Words) || len(p.Key) > testLimits.KeyWidth[p.Query] {
				t.Fatalf("accepted %+v", p)
			}
			if p.Kind == KindPartial && len(p.State) != testLimits.Words[p.Query] {
				t.Fatalf("accepted %d state words of query %d", len(p.State), p.Query)
			}
			// The other side goes on writing while we read.
			binary.LittleEndian.PutUint64(ring.Bytes[random.IntN(64)*8:], random.Uint64())
		}
	})
}

// FuzzDecodeRecord checks that what decodes is exactly what encodes to the same bytes.
func FuzzDecodeRecord(f *testing.F) {
	f.Add(AppendRecord(nil, &Partial{Kind: KindPartial, Firing: OnTime, Key: []byte("k"), State: []uint64{1, 2, 3}}))
	f.Add(AppendRecord(nil, &Partial{Kind: KindWatermark, Query: 2, End: event.MaxNanos}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Partial
		rest, err := DecodeRecord(&p, b, &testLimits)
		if err != nil {
			return
		}
		if again := AppendRecord(nil, &p); !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Errorf("decoded % x, encoded % x", b[:len(b)-len(rest)], again)
		}
	})
}

func BenchmarkPut(b *testing.B) {
	ring := newRing(1 << 20)
	w := NewWriter(ring)
	p := Partial{Kind: KindPartial, Firing: OnTime, Key: []byte("MSFT"), State: make([]uint64, 12)}
	b.ReportAllocs()
	for b.Loop() {
		if !w.Put(&p) {
			w.Publish()
			ring.Freed.Store(w.Position())
		}
	}
}
