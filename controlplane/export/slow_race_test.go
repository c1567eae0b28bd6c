//go:build race

package export

// slow is how much longer a child of these tests takes under the race detector.
const slow = 8
