package replay_test

import (
	"testing"

	"github.com/headrace/headrace/controlplane/replay"
	"github.com/headrace/headrace/dataplane/plan"
)

// What a run keeps for the process after it is part of the sum, for each worker; a
// replay, and a run that starts anew after a crash, have none of it.
func TestMemoryHasWhatARollbackTakes(t *testing.T) {
	sums := func(workers int, replayed bool, crash plan.Crash) map[string]int {
		t.Helper()
		p := deepPlan(workers)
		p.Replay, p.Crash = replayed, crash
		lines, err := replay.Memory(p)
		if err != nil {
			t.Fatal(err)
		}
		sums := map[string]int{}
		for _, l := range lines {
			sums[l.Label] = l.Bytes
		}
		return sums
	}
	one, two := sums(1, false, plan.Rollback), sums(2, false, plan.Rollback)
	for _, part := range []string{"undo log", "unfinished batch"} {
		if a, b := one["1 × "+part], two["2 × "+part]; a == 0 || b != 2*a {
			t.Errorf("%s: %d bytes with one worker, %d with two", part, a, b)
		}
		if cold := sums(1, false, plan.Cold)["1 × "+part]; cold != 0 {
			t.Errorf("%s: %d bytes with crash: cold", part, cold)
		}
		if old := sums(1, true, "")["1 × "+part]; old != 0 {
			t.Errorf("%s: %d bytes in a replay", part, old)
		}
	}
	if one["owners"] == 0 || two["allowance of keys"] == 0 {
		t.Errorf("what workers share: %v, %v", one, two)
	}
}
