package sequence

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// texts returns n messages of 30 bytes.
func texts(n int) []string {
	m := make([]string, n)
	for i := range m {
		m[i] = "a message that has thirty byte"
	}
	return m
}

// A batcher begins a batch every 64 packets, where changes are saved.
type batcher struct {
	undo *arena.Undo
	n    uint64
}

func (b *batcher) push() {
	if b.n++; b.undo != nil && b.n%64 == 0 {
		b.undo.Begin(b.n)
	}
}

// each runs bench where nothing is saved and where changes are.
func each(b *testing.B, name string, f *plan.Feed, bench func(*testing.B, *Sequencer, *batcher)) {
	b.Helper()
	for _, undo := range []string{"off", "on"} {
		b.Run(name+"undo="+undo, func(b *testing.B) {
			r, err := arena.New("bench", 1<<30)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = r.Close() })
			batches := &batcher{}
			if undo == "on" {
				if batches.undo, err = arena.NewUndo(r, 1<<20); err != nil {
					b.Fatal(err)
				}
			}
			s, err := New(f, r, batches.undo)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			bench(b, s, batches)
		})
	}
}

func BenchmarkPush(b *testing.B) {
	for _, p := range []plan.Sequence{plan.IEXTP, plan.MoldUDP64} {
		for _, n := range []int{1, 4, 40} {
			each(b, fmt.Sprintf("in order/protocol=%s/messages=%d/", p, n), feed(p), func(b *testing.B, s *Sequencer, batches *batcher) {
				b.Helper()
				packet, seq := iex(1, 7, 1, 1, texts(n)...), uint64(1)
				if p == plan.MoldUDP64 {
					packet = mold("session", 1, texts(n)...)
				}
				for b.Loop() {
					batches.push()
					if p == plan.MoldUDP64 {
						binary.BigEndian.PutUint64(packet[10:], seq)
					} else {
						binary.LittleEndian.PutUint64(packet[24:], seq)
						binary.LittleEndian.PutUint64(packet[32:], seq)
					}
					s.Push(packet, 0, event.Nanos(seq), false)
					seq += uint64(n)
				}
				if s.rel.Fresh != uint64(n) {
					b.Fatalf("fresh = %d", s.rel.Fresh)
				}
			})
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{1, 4, 40} {
		b.Run(fmt.Sprintf("messages=%d", n), func(b *testing.B) {
			packet := iex(1, 7, 1, 1, texts(n)...)
			for b.Loop() {
				if h, _ := Parse(plan.IEXTP, packet); h.Whole != n {
					b.Fatal(h.Whole)
				}
			}
		})
	}
}

// Two lines: the second copy of each packet is a duplicate.
func BenchmarkPushTwoLines(b *testing.B) {
	each(b, "", feed(plan.IEXTP), func(b *testing.B, s *Sequencer, batches *batcher) {
		b.Helper()
		packet, seq := iex(1, 7, 1, 1, texts(4)...), uint64(1)
		for b.Loop() {
			binary.LittleEndian.PutUint64(packet[24:], seq)
			binary.LittleEndian.PutUint64(packet[32:], seq)
			batches.push()
			s.Push(packet, 0, event.Nanos(seq), false)
			batches.push()
			s.Push(packet, 1, event.Nanos(seq), false)
			seq += 4
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/packet")
	})
}

// Channels take turns, so that each packet is looked up in the table.
func BenchmarkPushChannels(b *testing.B) {
	f := feed(plan.MoldUDP64)
	f.Channels = 256
	each(b, "", f, func(b *testing.B, s *Sequencer, batches *batcher) {
		b.Helper()
		packet, seq := mold("session", 1, texts(4)...), uint64(1)
		for i := 0; b.Loop(); i++ {
			batches.push()
			binary.BigEndian.PutUint16(packet, uint16(i%256))
			binary.BigEndian.PutUint64(packet[10:], seq)
			s.Push(packet, 0, event.Nanos(seq), false)
			if i%256 == 255 {
				seq += 4
			}
		}
	})
}

// Pairs of packets in the wrong order: each second one is held and released.
func BenchmarkPushSwapped(b *testing.B) {
	each(b, "", feed(plan.IEXTP), func(b *testing.B, s *Sequencer, batches *batcher) {
		b.Helper()
		packet, seq := iex(1, 7, 1, 1, texts(4)...), uint64(1)
		push := func(q uint64) {
			batches.push()
			binary.LittleEndian.PutUint64(packet[24:], q)
			binary.LittleEndian.PutUint64(packet[32:], q)
			s.Push(packet, 0, event.Nanos(q), false)
		}
		push(seq)
		for b.Loop() {
			push(seq + 8)
			push(seq + 4)
			seq += 8
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/packet")
	})
}

func BenchmarkPushDeep(b *testing.B) {
	records := deep(b)
	s := newSequencer(b, deepFeed())
	i, sent := 0, event.Nanos(0)
	b.ReportAllocs()
	for b.Loop() {
		if i == len(records) {
			b.StopTimer()
			s, i = newSequencer(b, deepFeed()), 0
			b.StartTimer()
		}
		r := &records[i]
		s.Push(r.payload, 0, r.at, r.truncated)
		sent = max(sent, s.h.Sent)
		i++
	}
}
