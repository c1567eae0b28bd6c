package killtest

import "testing"

// roundsMost bounds the rounds of [Until].
const roundsMost = 20

// Until calls round until seen says that what a
// test is about came up often enough; a short run may see it rarely, since the seed is
// another one each time. The test fails if that takes too many rounds.
func Until(t *testing.T, seen func() bool, round func()) {
	t.Helper()
	for range roundsMost {
		if round(); t.Failed() || seen() {
			return
		}
	}
	t.Errorf("what this test is about is too rare: not enough of it in %d rounds", roundsMost)
}
