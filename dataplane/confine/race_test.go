//go:build race

package confine

// underRace: the race detector reads /proc/self/maps and the affinity when threads begin,
// which the filter denies, as it should.
const underRace = true
