//go:build !faults

package sequence

// arm would end the process at the n-th point from here on.
func arm(int64) {}
