//go:build !faults

package xsk

// arm does nothing: this binary has no fault points.
func arm(int64) {}

// armFromEnvironment does nothing: this binary has no fault points.
func armFromEnvironment() {}
