package compile

import (
	"testing"

	"github.com/headrace/headrace/controlplane/rows"
	"github.com/headrace/headrace/dataplane/plan"
)

// A build that makes other bytes of the same state is no peer: either would write rows
// that contradict the other's.
func TestABuildThatMakesOtherRowsIsNoPeer(t *testing.T) {
	p := &plan.Plan{Group: &plan.Group{Me: "a", Peers: []string{"a", "b"}}}
	next := groupPlanOf(p)
	if next.Row != rows.Version || hashOf(next) != GroupHash(p) {
		t.Errorf("the hash is of rows of version %d, this build makes %d", next.Row, rows.Version)
	}
	next.Row++
	if hashOf(next) == GroupHash(p) {
		t.Error("a build that makes other rows has the same hash")
	}
}
