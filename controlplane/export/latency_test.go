package export

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/outbox"
	"github.com/headrace/headrace/dataplane/segment"
)

func TestQuantilesAreAtMostAThirtySecondAboveTheSortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l latencies
		list := rapid.SliceOfN(rapid.Uint64Max(1<<rapid.IntRange(1, 40).Draw(t, "bits")), 1, 3000).Draw(t, "nanos")
		for i := range list {
			l.add(list[i])
			list[i] = min(list[i], latencyMost)
		}
		slices.Sort(list)
		r := l.read()
		if r.Rows != uint64(len(list)) || r.Max != list[len(list)-1] {
			t.Fatalf("rows %d, max %d; want %d, %d", r.Rows, r.Max, len(list), list[len(list)-1])
		}
		for _, q := range []struct {
			got      uint64
			perMille int
		}{{r.P50, 500}, {r.P99, 990}, {r.P999, 999}} {
			want := list[(len(list)*q.perMille+999)/1000-1]
			if q.got < want || q.got > want+want/32 {
				t.Errorf("quantile %d of %d = %d, want %d or up to a 32nd more", q.perMille, len(list), q.got, want)
			}
		}
		for i, n := range r.Below {
			want, _ := slices.BinarySearch(list, 1<<(LatencyLeast+i))
			if n != uint64(want) {
				t.Errorf("%d rows below 2^%d ns, want %d", n, LatencyLeast+i, want)
			}
		}
	})
}

func TestPartsOfAnOctaveFollowEachOther(t *testing.T) {
	for i := range octaves * parts {
		end := partEnd(i)
		if part(end) != i || i+1 < octaves*parts && part(end+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, which is in bucket %d, and the next value in %d", i, end, part(end), part(end+1))
		}
	}
	if end := partEnd(octaves*parts - 1); end != latencyMost {
		t.Errorf("the last bucket ends at %d, want %d", end, uint64(latencyMost))
	}
}

// Each sink measures the rows that it wants, and only those that a packet caused.
func TestRowsAreMeasuredFromTheirCause(t *testing.T) {
	p := testPlan(1)
	s := create(t, p)
	dir := t.TempDir()
	pump, err := NewPump(Config{
		Plan: p, Segment: s, Values: testValues, Clock: func() uint64 { return 1_000_000 },
		Sinks: []Sink{open(t, s, "one", filepath.Join(dir, "one")), open(t, s, "two", filepath.Join(dir, "two"))},
	})
	if err != nil {
		t.Fatal(err)
	}
	w := outbox.NewWriter(s.Worker(0).Ring())
	for i, cause := range []uint64{999_000, 0, 990_000, 2_000_000} {
		w.Put(&outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, Query: uint16(i % 2), Cause: cause, Key: []byte{'a' + byte(i)}, State: []uint64{1}})
	}
	w.Put(&outbox.Partial{Kind: outbox.KindPartial, Firing: outbox.OnTime, Query: 1, Cause: 900_000, Key: []byte("z"), State: []uint64{1}})
	w.Publish()
	s.Worker(0).SetState(segment.Done)
	if err := pump.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	stats := pump.Sinks()
	if l := stats[0].Latency; stats[0].Rows != 2 || l.Rows != 2 || l.Max != 10_000 || l.Sum != 11_000 {
		t.Errorf("sink one: %d rows, latency %+v; want two measured, of 1,000 and 10,000 ns", stats[0].Rows, l)
	}
	if l := stats[1].Latency; stats[1].Rows != 5 || l.Rows != 3 || l.Max != 100_000 {
		t.Errorf("sink two: %d rows, latency %+v; want three of five measured, at most 100,000 ns", stats[1].Rows, l)
	}
}
