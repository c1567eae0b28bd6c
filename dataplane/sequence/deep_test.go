package sequence

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
	"github.com/headrace/headrace/internal/testdata"
)

var deepRecords []record

// deep returns the packets of the DEEP capture, which is read once.
func deep(tb testing.TB) []record {
	tb.Helper()
	if deepRecords == nil {
		deepRecords = capture(tb, testdata.Path(tb, "iex", "DEEP10.pcap.gz"))
	}
	return deepRecords
}

func deepFeed() *plan.Feed {
	f := feed(plan.IEXTP)
	f.Format, f.HoldPackets, f.HoldBytes, f.HoldFor = "iex-deep", 256, 1<<18, 5e9
	return f
}

// A passage is a span without its bytes' place in memory.
type passage struct {
	epoch uint32
	seq   uint64
	text  string
}

// through pushes records and returns the ledger and, message by message, what came out.
func through(tb testing.TB, records []record) (*ledger, []passage, []Gap) {
	tb.Helper()
	s := newSequencer(tb, deepFeed())
	l := &ledger{}
	var out []passage
	var gaps []Gap
	see := func(r *Release) {
		for _, it := range r.Items {
			if it.Gap.Count > 0 {
				gaps = append(gaps, it.Gap)
				continue
			}
			body := s.Body(&it.Span)
			for k := range it.Span.Skip + it.Span.Count {
				n := 2 + int(binary.LittleEndian.Uint16(body))
				if k >= it.Span.Skip {
					out = append(out, passage{it.Span.Epoch, it.Span.Seq + uint64(k-it.Span.Skip), string(body[2:n])})
				}
				body = body[n:]
			}
		}
	}
	for i, r := range records {
		l.push(tb, s, r.payload, uint8(i&1), r.at, r.truncated, see)
	}
	l.finish(tb, s, see)
	return l, out, gaps
}

func isData(r record) bool  { return binary.LittleEndian.Uint16(r.payload[14:]) > 0 }
func first(r record) uint64 { return binary.LittleEndian.Uint64(r.payload[24:]) }

func TestDeepCaptureHasTwelveEpochsAndLosesNothing(t *testing.T) {
	l, out, gaps := through(t, deep(t))
	want := ledger{
		frames: 121_315, messages: 392_010, cut: 33, fresh: 392_010, heartbeats: 7_937, epochs: 12, newEpochs: 12, channels: 1,
	}
	want.drops[event.Kept], want.fates[event.Kept] = 121_315, 121_315
	if *l != want {
		t.Errorf("ledger\n got %+v\nwant %+v", *l, want)
	}
	if len(gaps) != 0 {
		t.Errorf("gaps = %v, want none", gaps)
	}
	for i, p := range out[1:] {
		if q := out[i]; p.epoch == q.epoch && p.seq != q.seq+1 || p.epoch != q.epoch && (p.epoch != q.epoch+1 || p.seq != 1) {
			t.Fatalf("message %d.%d follows %d.%d", p.epoch, p.seq, q.epoch, q.seq)
		}
	}
}

func TestDeepWithoutHeartbeatsHasTwelveEpochsToo(t *testing.T) {
	l, _, gaps := through(t, slices.DeleteFunc(slices.Clone(deep(t)), func(r record) bool { return !isData(r) }))
	if l.epochs != 12 || l.messages != 392_010 || l.fresh != 392_010 || len(gaps) != 0 {
		t.Errorf("ledger %+v, gaps %v", *l, gaps)
	}
}

func TestDeepOnTwoLinesThatLoseOtherPacketsIsTheSame(t *testing.T) {
	_, want, _ := through(t, deep(t))
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 1))
		// B is up to two milliseconds behind A; a data packet is lost on at most one of them.
		var merged []record
		for _, r := range deep(t) {
			lost := rng.IntN(4)
			if lost != 0 || r.truncated {
				merged = append(merged, r)
			}
			if lost != 1 && !r.truncated {
				r.at += event.Nanos(rng.IntN(2_000_000))
				merged = append(merged, r)
			}
		}
		slices.SortStableFunc(merged, func(a, b record) int { return cmp.Compare(a.at, b.at) })
		l, got, gaps := through(t, merged)
		if len(gaps) != 0 || l.epochs != 12 || l.missing != 0 {
			t.Fatalf("seed %d: %d epochs, gaps %v", seed, l.epochs, gaps)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: the messages differ: %d, want %d", seed, len(got), len(want))
		}
		if l.duplicate == 0 || l.unheld == 0 {
			t.Fatalf("seed %d: nothing was duplicate or held: %+v", seed, *l)
		}
	}
}

func TestDeepWithTwoThirdsOfAllPacketsRemovedKeepsItsEpochs(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 2))
		heartbeats := seed%2 == 0
		var rest []record
		for _, r := range deep(t) {
			if rng.IntN(3) == 0 && (heartbeats || isData(r)) {
				rest = append(rest, r)
			}
		}
		var there uint64
		for _, r := range rest {
			h, _ := ParseTruncated(plan.IEXTP, r.payload)
			there += uint64(h.Whole)
		}
		l, out, _ := through(t, rest)
		if l.epochs != 12 || l.duplicate != 0 || l.ancient != 0 || uint64(len(out)) != there {
			t.Errorf("seed %d: %d epochs, %d duplicate, %d ancient, %d of %d messages", seed, l.epochs, l.duplicate, l.ancient, len(out), there)
		}
	}
}

func TestDeepWithoutTheFirstDataPacketOfALaterEpochMissesExactlyItsMessages(t *testing.T) {
	var starts []int
	for i, r := range deep(t) {
		if isData(r) && first(r) == 1 {
			starts = append(starts, i)
		}
	}
	if len(starts) != 12 {
		t.Fatalf("%d data packets begin at 1, want 12", len(starts))
	}
	for _, heartbeats := range []bool{true, false} {
		for epoch, at := range starts {
			if epoch == 0 {
				continue
			}
			var rest []record
			for i, r := range deep(t) {
				if i != at && (heartbeats || isData(r)) {
					rest = append(rest, r)
				}
			}
			lost, _ := Parse(plan.IEXTP, deep(t)[at].payload)
			l, _, gaps := through(t, rest)
			want := []Gap{{Seq: 1, Count: uint64(lost.Count), Epoch: uint32(epoch + 1)}}
			if !slices.Equal(gaps, want) || l.epochs != 12 || l.ancient+l.duplicate != 0 {
				t.Errorf("epoch %d, heartbeats %v: gaps %v, want %v; %d epochs", epoch+1, heartbeats, gaps, want, l.epochs)
			}
		}
	}
}

func TestVenueCapturesParse(t *testing.T) {
	for _, c := range []struct {
		glob     string
		protocol plan.Sequence
		packets  int
	}{
		{"Iex/*/*.pcap", plan.IEXTP, 12},
		{"Nasdaq/*/*.pcap", plan.MoldUDP64, 0},
	} {
		files, err := filepath.Glob(filepath.Join(testdata.Path(t, "venues"), c.glob))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", c.glob, len(files), err)
		}
		packets := 0
		for _, file := range files {
			for i, r := range capture(t, file) {
				h, drop := Parse(c.protocol, r.payload)
				packets++
				if drop != event.Kept || h.Whole != h.Count {
					t.Errorf("%s packet %d: Parse = %+v, %v", file, i, h, drop)
				}
				if strings.Contains(file, "Heartbeat") != (h.Kind == Heartbeat) {
					t.Errorf("%s packet %d: kind = %v", file, i, h.Kind)
				}
			}
		}
		if packets < c.packets || packets < len(files) {
			t.Errorf("%s: %d packets in %d files", c.glob, packets, len(files))
		}
		fmt.Fprintf(t.Output(), "%s: %d packets\n", c.glob, packets)
	}
}
