//go:build !amd64 && !arm64

package arena

// Prefetch asks the caches for the words mem[at[i]] and mem[at[i]+last], for every i:
// not on this architecture.
func Prefetch(mem []uint64, at []uint32, last int) {}
