package acceptance

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/testdata"
)

const barsConfig = "../../examples/iex-bars.yaml"

// barsDelay is the watermark delay of that config.
const barsDelay = 121 * second

// twoLines is examples/iex-bars.yaml with a second line.
func twoLines(tb testing.TB) string {
	tb.Helper()
	b, err := os.ReadFile(barsConfig)
	if err != nil {
		tb.Fatal(err)
	}
	one := "{protocol: udp, destination: 224.2.3.10, port: 16648}"
	out := strings.Replace(string(b), one,
		"[{protocol: udp, destination: 224.2.3.10, port: 16648, line: A}, {protocol: udp, destination: 224.2.4.10, port: 16648, line: B}]", 1)
	if out == string(b) {
		tb.Fatalf("%s has no rule %s", barsConfig, one)
	}
	return out
}

// deepBars computes DEEP10's rows; gaps are what is known missing.
func deepBars(segments []segment, gaps []gap) []byte {
	var trades []trade
	newest := int64(-1 << 63)
	for i := range segments {
		trades = append(trades, segments[i].trades...)
		newest = max(newest, segments[i].newest)
	}
	lines := bars(trades, minute, func(start int64) (n uint64) {
		for _, g := range gaps {
			if g.touches(start, start+minute, barsDelay) {
				n += g.count
			}
		}
		return n
	})
	return text(flushed(lines, newest-barsDelay))
}

// A gap is messages that are missing; before is the greatest event time before them,
// after that of the release that declares them, or before if that is less.
type gap struct {
	count         uint64
	before, after int64
}

// touches reports whether the window [start, end) overlaps [before - delay, after].
func (g gap) touches(start, end, delay int64) bool { return end > g.before-delay && start <= g.after }

func TestDEEP10IsTheSameForEveryNumberOfWorkers(t *testing.T) {
	_, segments := deep(t)
	want := deepBars(segments, nil)
	volume, trades, messages := int64(0), 0, 0
	for _, s := range segments {
		messages += s.messages
		for _, x := range s.trades {
			volume += x.size
			trades++
		}
	}
	if volume != 19_782_510 || trades != 83_343 || messages != 392_010 || strings.Count(string(want), "\n") != 278 {
		t.Fatalf("the test reads the capture wrongly: volume %d, %d trades, %d messages", volume, trades, messages)
	}
	path := testdata.Path(t, "iex", "DEEP10.pcap.gz")
	for _, n := range workers(t) {
		for _, batch := range []int{256, 7, 1} {
			if batch != 256 && (n == 2 || testing.Short()) {
				continue
			}
			for _, more := range [][]string{nil, {"--preload"}} {
				if more != nil && batch != 256 {
					continue
				}
				args := append(append(flag("workers", n), flag("batch", batch)...), more...)
				r := replay(t, barsConfig, append(args, path)...)
				same(t, fmt.Sprint(args), r.rows, want)
				r.counts(t, map[string]uint64{
					"packets": 121_315, "truncated": 1, "messages": 392_010, "rows": 278, "epochs": 12, "applied": 83_343,
					"events": 392_010, "filtered": 392_010 - 83_343, "duplicates": 0, "missing": 0,
				})
				if len(r.summary.Drops) > 0 {
					t.Errorf("%v: drops %v", args, r.summary.Drops)
				}
			}
		}
	}
}

// jitter stands for a skew of its own for each packet, at most so long.
const jitter = int64(20e6)

// Both lines of the capture lose a tenth of their packets, never the same one.
func TestTwoLinesThatLostOtherPacketsGiveTheSameRows(t *testing.T) {
	records, segments := deep(t)
	want := deepBars(segments, nil)
	config := twoLines(t)
	lineB := netip.MustParseAddr("224.2.4.10")
	for seed, skew := range []int64{0, 3e6, -3e6, jitter} { // of line B's stamps, in nanoseconds
		dice := rand.New(rand.NewPCG(uint64(seed), 10))
		var a, b []record
		kept := 0
		for i, r := range records {
			var dropA, dropB bool
			switch dice.IntN(10) {
			case 0:
				dropA = true
			case 1:
				dropB = true
			}
			// The epochs' ends and beginnings are lost too, but for the first packet of
			// all: nobody can know what came before it. The last is cut, and a cut record
			// ends a file.
			if i == 0 || i == len(records)-1 {
				dropA, dropB = false, false
			}
			if !dropA {
				a = append(a, r)
				kept += segments[i].messages
			}
			if !dropB {
				r.data = redirect(r.data, lineB)
				if skew == jitter {
					r.stamp += dice.Int64N(jitter)
				} else {
					r.stamp += skew
				}
				b = append(b, r)
				kept += segments[i].messages
			}
		}
		if skew == jitter { // line B is out of order too
			slices.SortStableFunc(b[:len(b)-1], func(x, y record) int { return cmp.Compare(x.stamp, y.stamp) })
		}
		pathA, pathB := writePcap(t, "a.pcap", a), writePcap(t, "b.pcap", b)
		for _, n := range []int{1, 3} {
			r := replay(t, config, append(flag("workers", n), pathA, pathB)...)
			same(t, fmt.Sprintf("skew %d ns, %d workers", skew, n), r.rows, want)
			r.counts(t, map[string]uint64{
				"packets": uint64(len(a) + len(b)), "truncated": 2, "messages": uint64(kept), "rows": 278, "epochs": 12,
				"applied": 83_343, "missing": 0, "duplicates": uint64(kept) - 392_010,
			})
			if len(r.summary.Drops) > 0 {
				t.Errorf("skew %d ns, %d workers: drops %v", skew, n, r.summary.Drops)
			}
		}
	}
}

// Defaults of a feed's hold.
const (
	holdPackets = 64
	holdBytes   = 128 << 10
	holdFor     = int64(50e6)
)

// declare follows a single line that lost the packets in gone, which lie far apart, and
// returns the gaps. A hole is given up when the first packet arrives whose stamp is 50 ms
// after the first packet beyond it (or after the heartbeat that announced it), or when
// the hold is full: that packet's release ends it.
func declare(tb testing.TB, segments []segment, gone map[int]bool) []gap {
	tb.Helper()
	var out []gap
	epoch, next, newest := 1, segments[0].seq, int64(-1<<63)
	var held []segment
	var hole uint64    // messages missing before what is held
	var since int64    // when that was first known
	var announced bool // by a heartbeat alone
	var open *gap      // declared, and nothing has come after it yet
	release := func(s ...segment) {
		top := int64(-1 << 63)
		for _, x := range s {
			top = max(top, x.newest)
		}
		if top > -1<<63 && open != nil {
			open.after = max(open.before, top)
			out = append(out, *open)
			open = nil
		}
		newest = max(newest, top)
	}
	giveUp := func() {
		open = &gap{count: hole, before: newest, after: 1<<63 - 1}
		hole = 0
	}
	for i, s := range segments {
		if gone[i] {
			continue
		}
		waiting := held
		over := hole > 0 && s.stamp >= since+holdFor
		if over || s.epoch != epoch && hole > 0 {
			giveUp()
			held = nil
		} else {
			waiting = nil
		}
		if s.epoch != epoch {
			epoch, next = s.epoch, 1
		}
		if s.seq > next {
			if hole > 0 && !announced {
				tb.Fatalf("record %d: two holes at a time", i)
			}
			if hole == 0 {
				since = s.stamp
			}
			hole, announced = s.seq-next, s.messages == 0
			next = s.seq
		}
		if s.messages > 0 {
			announced = false
		}
		next = max(next, s.seq+uint64(s.messages))
		if s.messages == 0 {
			release(waiting...)
			continue
		}
		if hole == 0 {
			release(append(slices.Clone(waiting), s)...)
			continue
		}
		if len(waiting) > 0 {
			release(waiting...) // and s is held behind a new hole
		}
		held = append(held, s)
		size := 0
		for _, h := range held {
			size += h.bytes
		}
		if len(held) > holdPackets || size > holdBytes {
			giveUp()
			release(held...)
			held = nil
		}
	}
	if hole > 0 {
		giveUp()
		release(held...)
	}
	if open != nil {
		out = append(out, *open)
	}
	return out
}

// replayWithout replays DEEP10 without some packets and compares it with the test's
// own account of what is missing where.
func replayWithout(t *testing.T, records []record, segments []segment, gone map[int]bool, numbers ...int) {
	t.Helper()
	var rest []record
	var left []segment
	missing, messages := uint64(0), uint64(0)
	for i := range records {
		if gone[i] {
			missing += uint64(segments[i].messages)
			continue
		}
		rest, left = append(rest, records[i]), append(left, segments[i])
		messages += uint64(segments[i].messages)
	}
	gaps := declare(t, segments, gone)
	declared := uint64(0)
	for _, g := range gaps {
		declared += g.count
	}
	if declared != missing {
		t.Fatalf("the test's gaps hold %d messages, %d are gone", declared, missing)
	}
	want := deepBars(left, gaps)
	path := writePcap(t, "rest.pcap", rest)
	if !strings.Contains(string(want), `"complete":false`) {
		t.Fatal("no row of the test's own has anything missing")
	}
	for _, n := range numbers {
		r := replay(t, barsConfig, append(flag("workers", n), path)...)
		same(t, fmt.Sprintf("%d packets removed, %d workers", len(gone), n), r.rows, want)
		r.counts(t, map[string]uint64{"missing": missing, "messages": messages, "epochs": 12, "duplicates": 0, "truncated": 1})
	}
}

func TestALaterEpochWithoutItsFirstDataPacketMissesOnlyThat(t *testing.T) {
	records, segments := deep(t)
	firsts := map[int]bool{}
	for epoch := 2; epoch <= 12; epoch++ {
		for i, s := range segments {
			if s.epoch == epoch && s.messages > 0 {
				firsts[i] = true
				if epoch%4 == 0 || !testing.Short() && epoch%2 == 0 {
					replayWithout(t, records, segments, map[int]bool{i: true}, 1)
				}
				break
			}
		}
	}
	if len(firsts) != 11 {
		t.Fatalf("%d later epochs, want 11", len(firsts))
	}
	replayWithout(t, records, segments, firsts, 1, 3)
}

func TestMissingPacketsAreToldInExactlyTheWindowsTheyTouch(t *testing.T) {
	records, segments := deep(t)
	for seed := range uint64(3) {
		dice := rand.New(rand.NewPCG(seed, 11))
		gone := map[int]bool{}
		// Far apart, so that each is a gap of its own.
		for i := 100 + dice.IntN(4000); i < len(segments)-300; i += 500 + dice.IntN(8000) {
			for segments[i].messages == 0 {
				i++
			}
			gone[i] = true
		}
		replayWithout(t, records, segments, gone, 1+2*int(seed%2))
	}
}

// Only 64 gaps are kept apart. Beyond that a row may say that more is missing than is,
// never less, and always the same.
func TestManyGapsAreNeverUnderstated(t *testing.T) {
	records, segments := deep(t)
	dice := rand.New(rand.NewPCG(1, 12))
	gone := map[int]bool{}
	for i := 100; i < len(segments)-300; i += 70 + dice.IntN(100) {
		if segments[i].messages > 0 {
			gone[i] = true
		}
	}
	var rest []record
	var trades []trade
	missing := uint64(0)
	newest := int64(-1 << 63)
	for i, s := range segments {
		if gone[i] {
			missing += uint64(s.messages)
			continue
		}
		newest = max(newest, s.newest)
		rest, trades = append(rest, records[i]), append(trades, s.trades...)
	}
	gaps := declare(t, segments, gone)
	exact := flushed(bars(trades, minute, func(start int64) (n uint64) {
		for _, g := range gaps {
			if g.touches(start, start+minute, barsDelay) {
				n += g.count
			}
		}
		return n
	}), newest-barsDelay)
	sortLines(exact)
	path := writePcap(t, "rest.pcap", rest)
	var first []byte
	for _, n := range []int{1, 3} {
		r := replay(t, barsConfig, append(flag("workers", n), path)...)
		r.counts(t, map[string]uint64{"missing": missing})
		if first == nil {
			first = r.rows
		}
		same(t, fmt.Sprintf("%d workers", n), r.rows, first)
	}
	got := strings.SplitAfter(string(first), "\n")
	if len(got)-1 != len(exact) {
		t.Fatalf("%d rows, want %d", len(got)-1, len(exact))
	}
	for i := range exact {
		var row struct {
			Completeness struct{ Missing uint64 }
		}
		if err := json.Unmarshal([]byte(got[i]), &row); err != nil {
			t.Fatal(err)
		}
		if row.Completeness.Missing < exact[i].missing {
			t.Errorf("row %d understates: %s, missing are %d", i, got[i], exact[i].missing)
		}
		if exact[i].missing = row.Completeness.Missing; row.Completeness.Missing > 0 {
			exact[i].complete = "false"
		}
	}
	same(t, "values", first, text(exact))
}
