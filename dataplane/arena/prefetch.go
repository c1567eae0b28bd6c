//go:build amd64 || arm64

package arena

// Prefetch asks the caches for the words mem[at[i]] and mem[at[i]+last], for every i,
// and does not wait for them. Offsets are not checked: one beyond mem is a request
// that the processor ignores.
//
//go:noescape
func Prefetch(mem []uint64, at []uint32, last int)
