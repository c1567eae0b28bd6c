package recorder

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/steer"
	"github.com/headrace/headrace/dataplane/xsk"
)

// pair is a ring and a reader of it.
func pair(tb testing.TB, frames, snap int) (*Ring, *Reader) {
	tb.Helper()
	region, err := arena.New("test", 64<<20)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = region.Close() })
	if _, err := arena.Slice[byte](region, "before", 100); err != nil {
		tb.Fatal(err)
	}
	ring, err := New(region, frames, snap, 3, true)
	if err != nil {
		tb.Fatal(err)
	}
	r, err := NewReader(region.FD(), ring.Place())
	if err != nil {
		tb.Fatal(err)
	}
	return ring, r
}

func frame(i, size int) xsk.Frame {
	return xsk.Frame{
		Data: bytes.Repeat([]byte{byte(i)}, size), Meta: steer.Meta{Feed: uint16(i % 3), ReceiveNanos: uint64(1000 + i)}, Packet: 2<<32 | uint64(i),
	}
}

func TestTheLatestFramesAreReadAndNoOthers(t *testing.T) {
	ring, r := pair(t, 1000, 100)
	const total = 5000
	for i := 0; i < total; i += 50 {
		var batch []xsk.Frame
		for k := range 50 {
			batch = append(batch, frame(i+k, 60+(i+k)%80))
		}
		ring.Put(batch)
	}
	head, err := r.Head()
	if err != nil || head != total {
		t.Fatalf("head %d, %v", head, err)
	}
	oldest := r.Oldest(head)
	if n := total - oldest; n < 800 || n > 1024 {
		t.Errorf("%d frames may be read", n)
	}
	var f Frame
	for i := range uint64(total + 10) {
		err := r.Read(i, &f)
		if i < oldest || i >= total {
			if !errors.Is(err, ErrOverwritten) {
				t.Fatalf("frame %d: %v", i, err)
			}
			continue
		}
		want := frame(int(i), 60+int(i)%80)
		if err != nil || f.At != event.Nanos(1000+i) || f.Feed != int(i%3) || f.Ring != 2 || f.Length != len(want.Data) || !bytes.Equal(f.Bytes, want.Data[:min(len(want.Data), 104)]) {
			t.Fatalf("frame %d: %+v, %v", i, f, err)
		}
	}
}

func TestAGapIsBeforeTheFrameThatShowedIt(t *testing.T) {
	ring, r := pair(t, 256, 64)
	ring.Put([]xsk.Frame{frame(0, 60), frame(1, 60), frame(2, 60)})
	ring.Gap(1, 2, 77)
	if at, when, err := r.Gap(1); at != 1 || when != 77 || err != nil {
		t.Errorf("gap at %d, %d, %v; want frame 1 at 77", at, when, err)
	}
	for _, feed := range []int{0, 2, 3, -1} {
		if at, when, err := r.Gap(feed); at != 0 || when != 0 || err != nil {
			t.Errorf("feed %d: gap at %d, %d, %v", feed, at, when, err)
		}
	}
}

// What the other process says is not believed.
func TestAPlaceThatCannotBeIsRefused(t *testing.T) {
	ring, r := pair(t, 256, 64)
	good := ring.Place()
	for i, bad := range []Place{
		{},
		{Words: -1, Slots: good.Slots, Frames: 256, Snap: 64},
		{Words: good.Words, Slots: good.Slots, Frames: 255, Snap: 64},
		{Words: good.Words, Slots: good.Slots, Frames: 1 << 30, Snap: 64},
		{Words: good.Words, Slots: good.Slots, Frames: 256, Snap: 1 << 30},
	} {
		if _, err := NewReader(r.fd, bad); !errors.Is(err, ErrPlace) {
			t.Errorf("%d: %v", i, err)
		}
	}
	far := good
	far.Words = 1 << 45
	x, err := NewReader(r.fd, far)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Head(); !errors.Is(err, ErrPlace) {
		t.Errorf("beyond the file: %v", err)
	}
}

func TestPuttingFramesInAllocatesNothing(t *testing.T) {
	ring, _ := pair(t, 1024, 256)
	batch := []xsk.Frame{frame(0, 200), frame(1, 1500)}
	if n := testing.AllocsPerRun(100, func() { ring.Put(batch); ring.Gap(0, 1, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{64, 256, 1500} {
		b.Run(fmt.Sprintf("frame=%d", size), func(b *testing.B) {
			ring, _ := pair(b, 8192, 2048)
			var batch []xsk.Frame
			for i := range BatchMax {
				batch = append(batch, frame(i, size))
			}
			b.ReportAllocs()
			for b.Loop() {
				ring.Put(batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/BatchMax, "ns/frame")
		})
	}
}
