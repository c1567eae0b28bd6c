package run

import (
	"runtime"
	"strings"
	"testing"
)

// A build that has no version is told from another one by what was made of it.
func TestTheBuildThatPeersCompareTellsBuildsApart(t *testing.T) {
	one, err := build()
	if err != nil {
		t.Fatal(err)
	}
	again, err := build()
	if err != nil || one != again {
		t.Errorf("%q, then %q, %v", one, again, err)
	}
	if fields := strings.Fields(one); !strings.Contains(one, runtime.Version()) || len(fields[len(fields)-1]) != 16 || len(one) > 200 {
		t.Errorf("%q names no build", one)
	}
}
