package window

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/dataplane/event"
	"github.com/headrace/headrace/dataplane/plan"
)

// However many gaps a feed has, at most 64 are kept, none of the missing messages is
// forgotten, and every window that a gap touched is still told of at least as many.
func TestJoinedGapsForgetNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &feed{plan: &plan.Feed{Sequence: plan.IEXTP, Channels: 4}, gaps: make([]gap, gapsMax+1), counts: make([]feedCounts, 1)}
		q := &query{plan: &plan.Query{Width: time.Second, Delay: time.Duration(rapid.IntRange(0, 5e9).Draw(t, "delay"))}}
		sources := rapid.SampledFrom([]int{1, 3, 100}).Draw(t, "sources")
		type original struct {
			gap
			closed bool
		}
		var all []original
		at := make([]event.Nanos, sources) // a source's greatest time grows
		number := make([]uint32, sources)
		total := uint64(0)
		for range rapid.IntRange(1, 300).Draw(t, "gaps") {
			n := rapid.IntRange(0, sources-1).Draw(t, "source")
			at[n] += event.Nanos(rapid.IntRange(0, 3e9).Draw(t, "step"))
			number[n]++
			g := gap{Source: uint32(n), Number: number[n], From: at[n], To: event.MaxNanos, Count: uint64(rapid.IntRange(1, 9).Draw(t, "count")), Open: 1}
			total += g.Count
			f.openGap(g)
			all = append(all, original{gap: g})
			if rapid.Bool().Draw(t, "close") {
				at[n] += event.Nanos(rapid.IntRange(0, 3e9).Draw(t, "length"))
				f.closeGaps(uint32(n), number[n], at[n])
				for i := range all {
					if g := &all[i]; g.Source == uint32(n) && !g.closed {
						g.closed, g.To = true, at[n]
					}
				}
			}
			if f.counts[0].Gaps > gapsMax {
				t.Fatalf("%d gaps are kept", f.counts[0].Gaps)
			}
		}
		if got, _ := f.missing(math.MinInt64, math.MaxInt64, q); got != total {
			t.Fatalf("%d messages are missing in all, want %d", got, total)
		}
		for i := range event.Nanos(20) {
			start, end := i*event.Nanos(50e9), (i+1)*event.Nanos(50e9)
			want := uint64(0)
			for _, g := range all {
				// With open gaps of several sources in one, the first to close ends it.
				if (g.closed || sources == 1) && start <= g.To && end > g.From.Add(-q.plan.Delay) {
					want += g.Count
				}
			}
			if got, _ := f.missing(start, end, q); got < want {
				t.Fatalf("[%d,%d): %d missing, want at least %d", start, end, got, want)
			}
		}
	})
}
