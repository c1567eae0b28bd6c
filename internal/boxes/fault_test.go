package boxes

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	generator "github.com/headrace/headrace/controlplane/generate"
)

// A fault is what happens to box c while packets come, and how it ends.
type fault struct {
	name   string
	strike func(l *Lab) error
	heal   func(t *testing.T, l *Lab) error
	// lossless: c goes on receiving and has everything in the end.
	lossless bool
}

var faults = []fault{
	{
		"killed", func(l *Lab) error { return l.Box("c").Kill() },
		func(_ *testing.T, l *Lab) error { return l.Box("c").Start() }, false,
	},
	{
		"unplugged", func(l *Lab) error { return l.Box("c").Port.SetUp(false) },
		func(_ *testing.T, l *Lab) error { return l.Box("c").Port.SetUp(true) }, true,
	},
	{
		"deaf to a", func(l *Lab) error { return l.Drop(l.Box("a"), l.Box("c"), true) },
		func(_ *testing.T, l *Lab) error { return l.Drop(l.Box("a"), l.Box("c"), false) }, true,
	},
	{
		"stopped for 2 s", func(l *Lab) error { return l.Box("c").Signal(syscall.SIGSTOP, true) },
		func(t *testing.T, l *Lab) error {
			t.Helper()
			time.Sleep(2*time.Second - healAfter)
			return l.Box("c").Signal(syscall.SIGCONT, true)
		}, true,
	},
	{
		"without its control process", func(l *Lab) error { return l.Box("c").Signal(syscall.SIGKILL, false) },
		func(_ *testing.T, l *Lab) error {
			<-l.Box("c").done
			return l.Box("c").Start()
		}, true,
	},
}

const (
	period    = 500 * time.Millisecond
	strikeAt  = 2500 * time.Millisecond
	healAfter = 1800 * time.Millisecond
)

// flagged waits until some box writes a row in which not all are merged, and returns how
// long that took.
func flagged(t *testing.T, l *Lab) time.Duration {
	t.Helper()
	begin := time.Now()
	for time.Since(begin) < patience {
		for _, b := range l.Boxes {
			for _, r := range rowsOf(t, b.Rows) {
				if len(r.Completeness.Merged) < len(r.Completeness.Known) {
					return time.Since(begin)
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("no row says that a box is missing")
	return patience
}

// alone waits until some box is in an epoch of two.
func alone(t *testing.T, l *Lab) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, b := range l.Boxes {
			if r, err := b.Status(); err == nil && len(r.Snapshot.Group.Members) == 2 {
				return
			}
		}
	}
	t.Error("no epoch of two")
}

// A box that fails is named in the rows, and comes back: what it has then corrects them.
func TestNetnsABoxFailsAndComesBack(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			l := lab(t, readings, "period: 500ms", "max_wait: 1s")
			given := dealt(t, l, generate(t, l, "whole.pcap", "json", "--count", "80000", "--rate", "10000", "--keys", "100"))
			parts := given.parts
			want := replayed(t, l, given.whole)
			// Of a pair that is cut in one direction either may be left out.
			pairs := map[string]map[string]*row{
				"ab": replayed(t, l, parts[0], parts[1]), "ac": replayed(t, l, parts[0], parts[2]), "bc": replayed(t, l, parts[1], parts[2]),
			}
			begin(t, l)
			given.send(t, l)
			time.Sleep(strikeAt)
			struck := time.Now()
			if err := f.strike(l); err != nil {
				t.Fatal(err)
			}
			if f.name != "without its control process" {
				alone(t, l)
				t.Logf("epoch of two after %v", time.Since(struck))
				t.Logf("a row without one of them %v later", flagged(t, l))
			}
			time.Sleep(time.Until(struck.Add(healAfter)))
			healed := time.Now()
			if err := f.heal(t, l); err != nil {
				t.Fatal(err)
			}
			for _, b := range l.Boxes {
				members(t, b, 3)
			}
			joined := time.Now()
			t.Logf("one group again %v after the fault ended", time.Since(healed))
			given.wait(t)
			time.Sleep(2 * period)
			stopAll(t, l)
			all := global(t, l)
			if f.lossless {
				same(t, latest(all), want)
			}
			// Before a box that was killed is there again, nobody knows what it missed.
			lost := [2]time.Time{}
			if !f.lossless {
				lost = [2]time.Time{dawn.Add(struck.Sub(given.began) - 2*time.Second), dawn.Add(joined.Sub(given.began) + time.Second)}
			}
			judge(t, all, want, pairs, lost)
		})
	}
}

// dawn is the time of the first generated event.
var dawn = time.Unix(0, int64(generator.DefaultStart))

// judge holds every row against what the boxes that it names saw. Windows that end
// within lost are not held against all three.
func judge(t *testing.T, all []*row, whole map[string]*row, pairs map[string]map[string]*row, lost [2]time.Time) {
	t.Helper()
	wrong, strange, short, full := 0, 0, 0, 0
	for _, r := range all {
		var w *row
		switch strings.Join(r.Completeness.Merged, "") {
		case "abc":
			if r.Completeness.Complete != nil && !*r.Completeness.Complete {
				continue // something was lost on the way
			}
			if r.End.After(lost[0]) && r.End.Before(lost[1]) {
				continue
			}
			w = whole[r.place()]
			full++
		case "ab", "ac", "bc":
			short++
			if slices.Contains(r.Completeness.Merged, "c") && r.End.After(lost[0]) && r.End.Before(lost[1]) {
				continue
			}
			w = pairs[strings.Join(r.Completeness.Merged, "")][r.place()]
			if c := r.Completeness.Complete; c == nil || *c {
				t.Errorf("said to be complete with two of three: %s", r.line)
			}
		default:
			if strange++; strange < 4 {
				t.Errorf("merged without the majority that holds it: %s", r.line)
			}
			continue
		}
		if w == nil || string(w.Values) != string(r.Values) {
			if wrong++; wrong < 5 {
				t.Errorf("not the values of the boxes that it names: %s", r.line)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d rows are wrong", wrong)
	}
	t.Logf("%d rows of all three, %d of two", full, short)
}
