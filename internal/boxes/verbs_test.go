package boxes

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/controlplane/status"
	"github.com/headrace/headrace/internal/guest"
)

// The tests of this file run in a guest, where every box has a soft RoCE device. All is
// slow there: rates are small and times generous.

// slowReadings is readings for senders that may rest for seconds.
var slowReadings = strings.NewReplacer("idle: 2s", "idle: 60s", "keys: 5000", "keys: 500").Replace(readings)

// verbsLab makes three boxes, each with a device and an address of its own.
func verbsLab(t *testing.T) *Lab {
	t.Helper()
	if !guest.Inside() {
		t.Skip("needs devices of soft RoCE: runs in a guest only (make test-guest)")
	}
	patience = 3 * time.Minute
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Binary: path, Pipeline: slowReadings, Ring: "rx_ring: 2048, fill_ring: 2048",
		Group: []string{"period: 5s", "max_wait: 20s", "transport: verbs", "device: rxeNUMBER"},
	}
	for i := range 3 {
		c.Names = append(c.Names, string(rune('a'+i)))
		c.Addresses = append(c.Addresses, netip.AddrFrom4([4]byte{10, 9, 0, byte(1 + i)}))
	}
	l := labOf(t, c)
	l.Pause = 200 * time.Millisecond
	return l
}

// overVerbs waits until `headrace status` says of each of some boxes that they are one
// group and exchange over its device.
func overVerbs(t *testing.T, l *Lab, boxes ...*Box) {
	t.Helper()
	for _, b := range boxes {
		members(t, b, len(boxes))
	}
	for _, b := range boxes {
		for end := time.Now().Add(patience); ; time.Sleep(l.Pause) {
			g, err := peersOf(l, b)
			if err == nil && len(g.Members) == len(boxes) && g.Transport == "verbs" && !g.Fallback && g.Device == fmt.Sprint("rxe", b.number) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("box %s does not exchange over its device with %d: %v: %+v", b.ID, len(boxes)-1, err, g)
			}
		}
	}
}

// peersOf asks the command that people ask.
func peersOf(l *Lab, b *Box) (*status.Group, error) {
	said, err := exec.Command(l.Binary, "status", "--peers", "--json", "--name", b.Name()).Output()
	if err != nil {
		return nil, err
	}
	var r status.Report
	if err := json.Unmarshal(said, &r); err != nil {
		return nil, err
	}
	if r.Snapshot.Group == nil {
		return nil, fmt.Errorf("no group in %s", said)
	}
	return r.Snapshot.Group, nil
}

// beginInTurn starts boxes one after the other, since starting is the most work of all.
func beginInTurn(t *testing.T, l *Lab) {
	t.Helper()
	for _, b := range l.Boxes {
		start(t, b)
		_, err := b.Await(patience, func(r *status.Report) bool {
			return len(r.Snapshot.Workers) > 0 && r.Snapshot.Workers[0].State == "running"
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	overVerbs(t, l, l.Boxes...)
}

// deal makes a capture of some seconds. It holds few readings: what is emulated is slow.
func deal(t *testing.T, l *Lab, seconds int) *feed {
	t.Helper()
	const rate = 300
	return dealt(t, l, generate(t, l, "whole.pcap", "json", "--count", fmt.Sprint(rate*seconds), "--rate", fmt.Sprint(rate), "--keys", "20"))
}

// Packets that three boxes see each a random part of give the rows of one box that saw
// all of them.
func TestVerbsARandomSplitGivesTheRowsOfOneBox(t *testing.T) {
	l := verbsLab(t)
	f := deal(t, l, 8)
	want := replayed(t, l, f.whole)
	beginInTurn(t, l)
	f.send(t, l)
	f.wait(t)
	overVerbs(t, l, l.Boxes...)
	stopAll(t, l)
	same(t, latest(global(t, l)), want)
	t.Logf("%d rows", len(want))
}

// So do they where packets are lost between the boxes and overtake each other.
func TestVerbsLossAndReorderingChangeNoRow(t *testing.T) {
	l := verbsLab(t)
	f := deal(t, l, 15)
	want := replayed(t, l, f.whole)
	beginInTurn(t, l)
	for i := range l.Boxes {
		disturb(t, i+1, "delay", "200us", "loss", "2%", "reorder", "75%", "50%")
	}
	f.send(t, l)
	f.wait(t)
	overVerbs(t, l, l.Boxes...)
	stopAll(t, l)
	same(t, latest(global(t, l)), want)
}

// disturb makes netem act on what box number n sends to the others, until the test ends.
func disturb(t *testing.T, n int, how ...string) {
	t.Helper()
	card := fmt.Sprint("v", n)
	tc(t, append([]string{"qdisc", "replace", "dev", card, "root", "netem"}, how...)...)
	t.Cleanup(func() { _ = exec.Command("tc", "qdisc", "del", "dev", card, "root").Run() })
}

func tc(t *testing.T, args ...string) {
	t.Helper()
	if said, err := exec.Command("tc", args...).CombinedOutput(); err != nil {
		t.Fatalf("tc %s: %v: %s", strings.Join(args, " "), err, said)
	}
}

// A box that is killed is named in the rows, and when it runs again all are one group
// over verbs again, with new queue pairs.
func TestVerbsABoxIsKilledAndComesBack(t *testing.T) {
	l := verbsLab(t)
	f := deal(t, l, 40)
	want, two := replayed(t, l, f.whole), map[string]map[string]*row{"ab": replayed(t, l, f.parts[:2]...)}
	beginInTurn(t, l)
	f.send(t, l)
	time.Sleep(time.Until(f.began.Add(12 * time.Second)))
	struck := time.Now()
	if err := l.Box("c").Kill(); err != nil {
		t.Fatal(err)
	}
	overVerbs(t, l, l.Boxes[:2]...)
	t.Logf("epoch of two after %v", time.Since(struck))
	flagged(t, l)
	t.Logf("a row without c after %v", time.Since(struck))
	healed := time.Now()
	start(t, l.Box("c"))
	overVerbs(t, l, l.Boxes...)
	joined := time.Now()
	t.Logf("one group again %v after the start", joined.Sub(healed))
	f.wait(t)
	stopAll(t, l)
	// Senders take a while to begin.
	lost := [2]time.Time{dawn.Add(struck.Sub(f.began) - 8*time.Second), dawn.Add(joined.Sub(f.began) + 4*time.Second)}
	judge(t, global(t, l), want, two, lost)
}

// A wire that is cut in silence takes one box out. The others go on, and what it has
// received corrects their rows later.
func TestVerbsASilentCutLeavesTheOthers(t *testing.T) {
	l := verbsLab(t)
	f := deal(t, l, 40)
	want, two := replayed(t, l, f.whole), map[string]map[string]*row{"ab": replayed(t, l, f.parts[:2]...)}
	beginInTurn(t, l)
	f.send(t, l)
	time.Sleep(time.Until(f.began.Add(10 * time.Second)))
	cut := time.Now()
	for _, card := range []string{"v3", "p3"} {
		tc(t, "qdisc", "add", "dev", card, "root", "netem", "loss", "100%")
	}
	overVerbs(t, l, l.Boxes[:2]...)
	t.Logf("epoch of two after %v", time.Since(cut))
	flagged(t, l)
	t.Logf("a row without c after %v", time.Since(cut))
	healed := time.Now()
	for _, card := range []string{"v3", "p3"} {
		tc(t, "qdisc", "del", "dev", card, "root")
	}
	overVerbs(t, l, l.Boxes...)
	t.Logf("one group again %v after the cut ended", time.Since(healed))
	f.wait(t)
	stopAll(t, l)
	all := global(t, l)
	same(t, latest(all), want)
	judge(t, all, want, two, [2]time.Time{})
}
