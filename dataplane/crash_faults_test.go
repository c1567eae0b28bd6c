//go:build faults

package dataplane

import (
	"math/rand/v2"
	"testing"

	"github.com/headrace/headrace/dataplane/fault"
	"github.com/headrace/headrace/dataplane/fault/killtest"
)

// The process is killed at any statement that changes memory, also while it starts: what
// comes out is what comes out of one that lived.
func TestAKillAtAnyStatementChangesNothing(t *testing.T) {
	forCrashes(t, crashRuns(), func(x *plant, r *rand.Rand) {
		most := int64(50 + r.IntN(3000))
		killtest.Arm(1 + r.Int64N(most))
		defer killtest.Arm(0)
		x.run(r, func() {
			if fault.Left() == 0 && x.starts < crashStarts() {
				killtest.Arm(1 + r.Int64N(most))
			}
		})
	})
}

// The same of moves: they are finished or taken back.
func TestAKillInAMoveChangesNothing(t *testing.T) {
	forMoves(t, crashRuns(), func(x *plant, r *rand.Rand) {
		most := int64(500 + r.IntN(5000))
		defer killtest.Arm(0)
		x.run(r, func() {
			if fault.Left() == 0 && x.starts < crashStarts() {
				killtest.Arm(1 + r.Int64N(most))
			}
		})
	})
}
