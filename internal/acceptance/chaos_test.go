package acceptance

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/headrace/headrace/controlplane/generate"
)

// hurt does to packets what networks, captures and senders do: bytes change, packets
// are cut, doubled, lost, moved, and strange ones come between. The sequence
// number, at spare, changes only a little, in its byte shifted: a packet that claims to
// be from far ahead makes all that follow ancient, and little would be left to test.
func hurt(dice *rand.Rand, records []record, spare, shifted int) []record {
	var out []record
	for _, whole := range records {
		r := whole
		r.data = slices.Clone(r.data)
		switch dice.IntN(60) {
		case 0, 1: // lost
			continue
		case 2: // doubled
			out = append(out, r)
		case 3: // a byte changed, anywhere
			r.data[dice.IntN(len(r.data))] ^= byte(1 << dice.IntN(8))
		case 4: // bytes of the payload's header changed
			for range 1 + dice.IntN(3) {
				r.data[min(len(r.data)-1, 42+dice.IntN(45))] = byte(dice.Uint32())
			}
		case 5: // cut by a snap length
			r.length = len(r.data)
			r.data = r.data[:dice.IntN(len(r.data))]
		case 6: // cut by the sender: the headers disagree
			r.data = r.data[:dice.IntN(len(r.data))]
		case 7: // noise on the same group
			noise := make([]byte, dice.IntN(200))
			for i := range noise {
				noise[i] = byte(dice.Uint32())
			}
			out = append(out, record{stamp: r.stamp, data: udp("10.9.9.9:1", "239.10.1.1:26400", noise)})
		case 8: // another's, and one that is no IP
			out = append(out, record{stamp: r.stamp, data: udp("10.9.9.9:1", "239.99.1.1:26400", []byte("hello"))},
				record{stamp: r.stamp, data: bytes.Repeat([]byte{7}, dice.IntN(64))})
		case 9: // later than it was sent
			r.stamp += dice.Int64N(80e6)
		}
		if len(r.data) >= spare+8 {
			copy(r.data[spare:spare+8], whole.data[spare:])
			if dice.IntN(60) == 0 {
				r.data[shifted] += byte(dice.IntN(60)) - 20
			}
		}
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b record) int {
		switch {
		case a.stamp < b.stamp:
			return -1
		case a.stamp > b.stamp:
			return 1
		}
		return 0
	})
	return out
}

// invariant replays with many numbers of workers and sizes of batch and wants the same
// bytes, the same counts, and accounts that balance.
func invariant(t *testing.T, what, config, path string) *result {
	t.Helper()
	var first *result
	for _, n := range []int{1, 2, 3, 8} {
		for _, batch := range []int{256, 7, 1} {
			if batch != 256 && n%2 == 0 {
				continue
			}
			r := replay(t, config, append(append(flag("workers", n), flag("batch", batch)...), path)...)
			if first == nil {
				first = r
				continue
			}
			if !same(t, fmt.Sprintf("%s, %d workers, batch %d", what, n, batch), r.rows, first.rows) {
				return first
			}
			a, b := &first.summary, &r.summary
			if *a.Messages != *b.Messages || *a.Events != *b.Events || *a.Duplicates != *b.Duplicates || *a.Epochs != *b.Epochs ||
				*a.Missing != *b.Missing || a.Applied != b.Applied || a.Filtered != b.Filtered || fmt.Sprint(a.Drops) != fmt.Sprint(b.Drops) {
				t.Errorf("%s, %d workers, batch %d: counts differ:\n%s\n%s", what, n, batch, r.stderr, first.stderr)
			}
		}
	}
	return first
}

func TestHurtTrafficGivesTheSameRowsForAnyWorkersAndBatches(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() {
		seeds = 2
	}
	feed, err := os.ReadFile(feedConfig)
	if err != nil {
		t.Fatal(err)
	}
	// A second query over the same feed by another key and one by two, few keys, and a
	// hold so small that it overflows.
	config := strings.NewReplacer("hold: {packets: 256, bytes: 512KiB, for: 50ms}", "hold: {packets: 8, bytes: 8KiB, for: 20ms}").Replace(string(feed))
	config = strings.Replace(config, "\nsinks:\n", `
  kinds:
    from: itch
    key: [message]
    window: {tumbling: 300ms, offset: 70ms}
    watermark: {delay: 10ms}
    panes: 4
    select: {n: count(), size: sum(size), biggest: max(price * size), first: first(price), last: last(size)}
    sinks: [rows]
  few:
    from: itch
    where: size > 10
    key: [side, symbol]
    window: {tumbling: 700ms}
    watermark: {delay: 30ms}
    keys: 20
    select: {n: count(), last: last(price), var: variance(price)}
    sinks: [rows]
sinks:
`, 1)
	for seed := range seeds {
		s, err := generate.New(generate.Config{
			Kind: generate.ITCH, Seed: seed, Count: 12_000, Keys: 60, Lines: 2, Channels: 1 + int(seed)%4, Reorder: int(seed) % 3 * 2,
			Duplicate: 0.02, Loss: 0.05, Rate: 4000,
		})
		if err != nil {
			t.Fatal(err)
		}
		var records []record
		for {
			frame, at, ok := s.Next()
			if !ok {
				break
			}
			records = append(records, record{stamp: int64(at), data: slices.Clone(frame)})
		}
		dice := rand.New(rand.NewPCG(seed, 40))
		path := writePcap(t, "hurt.pcap", hurt(dice, records, 52, 59))
		r := invariant(t, fmt.Sprintf("seed %d", seed), config, path)
		if d := r.summary.Drops; d["key_limit"] == 0 || d["ancient"] > *r.summary.Messages/4 {
			t.Errorf("seed %d: not much of a test: %d messages, drops %v", seed, *r.summary.Messages, d)
		}
	}
}

func TestHurtIEXGivesTheSameRowsForAnyWorkersAndBatches(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		records, _ := skewed(50+seed, second/2, 4000, seed%2 == 1)
		path := writePcap(t, "hurt.pcap", hurt(rand.New(rand.NewPCG(seed, 41)), records, 68, 68))
		config := fmt.Sprintf(skewConfig, "300ms", 6)
		invariant(t, fmt.Sprintf("seed %d", seed), config, path)
	}
}
