//go:build faults

package dataplane

import (
	"errors"
	"fmt"
	"testing"

	"github.com/headrace/headrace/dataplane/arena"
	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/fault/killtest"
)

// The process is killed at any statement of a transfer. Its regions say so, and are thrown
// away; that of a transfer that was through goes on by itself; the old ones are as they
// were.
func TestAKillInATransferChangesNothing(t *testing.T) {
	calm, frames := calmJourney(t, 2)
	feeds, queries := names(calm.plan)
	kills, refused := 0, 0
	for seed := range uint64(crashRuns()) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			j := newJourney(t, journeyPlan(2), frames, seed)
			for _, workers := range []int{1, 3, 2, 2} {
				left := max(0, len(j.pending)-len(frames)/8-j.r.IntN(len(frames)/16))
				j.until(func() bool { return len(j.pending) <= left })
				l := j.same(workers, others(j.r, *j.journal.Owner(), j.plan.Workers, workers))
				j.prepare(l)
				whole := statements(j, l)
				for range 3 {
					kills++
					x, dead := j.killed(l, 1+j.r.Int64N(whole))
					if !dead {
						t.Fatalf("the kill did not come in %d statements", whole)
					}
					x.reopen()
					switch err := x.tryStart(); {
					case errors.Is(err, arena.ErrLayout):
						refused++
					case err != nil:
						t.Fatal(err)
					default: // it had not begun, or was through
						for _, w := range x.workers {
							if w.memory.head.Taking != x.workers[0].memory.head.Taking {
								t.Fatal("workers start of which only some have state")
							}
						}
					}
					if j.r.IntN(2) == 0 { // the old ones go on, and are held again
						j.reopen()
						j.start()
						j.settled(0)
					}
				}
				x, err := j.next(l)
				if err != nil {
					t.Fatal(err)
				}
				j.plant, j.i, j.idle = x, 0, 0
			}
			j.end()
			j.like(calm, feeds, queries)
		})
	}
	t.Logf("%d kills, %d refused", kills, refused)
	if refused == 0 {
		t.Error("no start was ever refused")
	}
}

// statements is how many statements a transfer has.
func statements(j *journey, l *leg) int64 {
	const many = 1 << 40
	_, transfer := j.draft(l)
	fault.Arm(many, func() {})
	defer fault.Arm(0, func() {})
	if err := transfer(); err != nil {
		j.t.Fatal(err)
	}
	return many - fault.Left()
}

// killed makes a transfer, and a kill at its statement number at.
func (j *journey) killed(l *leg, at int64) (x *plant, dead bool) {
	x, transfer := j.draft(l)
	killtest.Arm(at)
	return x, killtest.Attempt(func() {
		if err := transfer(); err != nil {
			j.t.Fatal(err)
		}
	})
}
